//! What holds for any model.

#[path = "support/compare.rs"]
mod compare;
#[path = "support/generate.rs"]
mod generate;
#[path = "support/networks.rs"]
mod networks;

use bytes::Bytes;
use onnxshrink::analysis::FixedSizes;
use onnxshrink::data::synthesize;
use onnxshrink::ir::text::PrintOptions;
use onnxshrink::ir::{DType, Model, Tensor};
use onnxshrink::onnx;
use onnxshrink::pass::{Context, Pipeline, Verify};
use onnxshrink::passes;
use onnxshrink::runtime::Runner;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_model_survives_text_and_file(model in generate::models()) {
        model.verify().unwrap();
        let (text, file) = (model.print(&PrintOptions::whole()).text, onnx::encode(&model).unwrap());

        let parsed = Model::parse(&text).unwrap();
        parsed.verify().unwrap();
        prop_assert_eq!(&parsed.print(&PrintOptions::whole()).text, &text);
        prop_assert_eq!(&onnx::encode(&parsed).unwrap(), &file);

        let decoded = onnx::decode(Bytes::from(file.clone()), None).unwrap().model;
        decoded.verify().unwrap();
        prop_assert_eq!(&onnx::encode(&decoded).unwrap(), &file);
        prop_assert_eq!(&decoded.print(&PrintOptions::whole()).text, &text);
    }

    #[test]
    fn any_text_is_parsed_or_refused_without_a_panic(text in r#"([a-z]{1,2}|[(){}<>=,:\[\]"@#?. \n-]|[0-9]|float|# @doc ){0,40}"#) {
        let _ = Model::parse(&text);
    }

    #[test]
    fn cleanup_keeps_what_a_model_computes(model in generate::models()) {
        // tract gives the parts of every If the same names, and refuses the second.
        prop_assume!(model.nodes_of(model.main).filter(|&node| model.node(node).op == "If").count() <= 1);
        let text = model.print(&PrintOptions::whole()).text;
        let before = Runner::new(&model).unwrap();
        let inputs = model.graph(model.main).inputs.iter();
        let shape = |input| if model.value(input).name == "condition" { vec![] } else { vec![3, 4] };
        let sizes = FixedSizes { inputs: inputs.map(|&input| (input, shape(input))).collect(), ..FixedSizes::default() };
        let run = |sample: &[_]| before.run(sample).map(|_| ()).map_err(|error| error.to_string());
        let data = synthesize(&model, &sizes, 1, 2, run).unwrap();
        let mut after = model.clone();
        let mut cx = Context { observers: vec![Box::new(Verify)], ..Context::default() };
        Pipeline::parse("cleanup", passes::ALL).unwrap().run(&mut after, &mut cx).unwrap();
        let cleaned = Runner::new(&after).unwrap();
        for index in 0..data.len() {
            let sample = data.sample(index);
            let (before, after) = (before.run(&sample).unwrap(), cleaned.run(&sample).unwrap());
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(compare::difference(before, after).is_ok(), "{:?}\n{text}", compare::difference(before, after));
            }
        }
    }
}

// The same networks each time: what the runtime cannot do is not known well enough to meet others each day.
proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, rng_seed: RngSeed::Fixed(5), ..ProptestConfig::default() })]

    #[test]
    fn fusions_keep_what_a_network_computes(model in networks::models(DType::F32)) {
        for (before, after) in outputs_before_and_after_cleanup(&model) {
            let same = compare::difference(&before, &after);
            prop_assert!(same.is_ok(), "{same:?}\n{}", model.print(&PrintOptions::whole()).text);
        }
    }

    /// A half has 11 bits, and what is fused is rounded at other places: every layer of the 20 may add a half of 2⁻¹⁰ of its
    /// range, and the later ones a multiple of that.
    #[test]
    fn fusions_keep_what_a_network_of_halves_computes(model in networks::models(DType::F16)) {
        const TOLERANCE: f64 = 0.02;
        for (before, after) in outputs_before_and_after_cleanup(&model) {
            let same = compare::difference_over(&before, &after, TOLERANCE);
            prop_assert!(same.is_ok(), "{same:?}\n{}", model.print(&PrintOptions::whole()).text);
        }
    }
}

/// The outputs of `model`, whose inputs have fixed sizes, on two samples.
fn outputs_before_and_after_cleanup(model: &Model) -> Vec<(Tensor, Tensor)> {
    let mut cleaned = model.clone();
    let mut cx = Context { observers: vec![Box::new(Verify)], ..Context::default() };
    Pipeline::parse("cleanup", passes::ALL).unwrap().run(&mut cleaned, &mut cx).unwrap();
    let (before, after) = (Runner::new(model).unwrap(), Runner::new(&cleaned).unwrap());
    let run = |sample: &[_]| before.run(sample).map(|_| ()).map_err(|error| error.to_string());
    let data = synthesize(model, &FixedSizes::default(), 1, 2, run).unwrap();
    let outputs = |runner: &Runner, index| runner.run(&data.sample(index)).unwrap();
    (0..data.len()).flat_map(|index| outputs(&before, index).into_iter().zip(outputs(&after, index))).collect()
}

// Passes that undo each other would go on until the rounds run out.
proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, rng_seed: RngSeed::Fixed(11), ..ProptestConfig::default() })]

    #[test]
    fn cleanup_settles_in_a_few_rounds(model in prop_oneof![networks::models(DType::F32), networks::models(DType::F16)]) {
        let mut cx = Context::default();
        Pipeline::parse("cleanup", passes::ALL).unwrap().run(&mut model.clone(), &mut cx).unwrap();
        let rounds = cx.reports.iter().map(|report| report.runs).max().unwrap_or(0);
        prop_assert!(rounds < 10, "{rounds} rounds\n{}", model.print(&PrintOptions::whole()).text);
    }
}
