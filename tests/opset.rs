//! Models written for older opsets compute the same after they are raised: the official test vectors keep their
//! expected results, and the zoo its outputs.

#[path = "onnx/corpus.rs"]
mod corpus;

use std::fs;
use std::path::{Path, PathBuf};

use onnxshrink::analysis::FixedSizes;
use onnxshrink::data::synthesize;
use onnxshrink::ir::{Dim, Model, OpsetImports, Size, Tensor, op};
use onnxshrink::onnx;
use onnxshrink::pass::{Context, Pipeline};
use onnxshrink::passes;
use onnxshrink::runtime::Runner;

fn raised(model: &Model, pipeline: &str) -> Result<Model, String> {
    let pipeline = Pipeline::parse(pipeline, passes::ALL).expect("the pipeline is well formed");
    let mut model = model.clone();
    pipeline.run(&mut model, &mut Context::default()).map_err(|error| error.to_string())?;
    model.verify().expect("what a pass makes is well formed");
    Ok(model)
}

fn opsets(model: &Model) -> impl Iterator<Item = i64> {
    let functions = model.functions.iter().map(|function| &function.opsets);
    functions.chain([&model.opsets]).filter_map(OpsetImports::onnx)
}

fn tensors(folder: &Path, kind: &str) -> Option<Vec<Tensor>> {
    let files = (0..).map(|index| folder.join(format!("{kind}_{index}.pb"))).take_while(|file| file.exists());
    files.map(|file| onnx::decode_tensor(fs::read(file).ok()?.into()).ok()).collect()
}

/// Equal but for the rounding of floats.
fn agrees(expected: &Tensor, found: &Tensor, tolerance: f32) -> bool {
    if (expected.dtype(), expected.shape()) != (found.dtype(), found.shape()) {
        return false;
    }
    let (Some(xs), Some(ys)) = (expected.floats(), found.floats()) else { return expected.same_data(found) };
    let range = xs.iter().filter(|x| x.is_finite()).fold(0f32, |range, x| range.max(x.abs()));
    let close = |x: f32, y: f32| x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= tolerance * range.max(1.0);
    xs.iter().zip(ys.iter()).all(|(&x, &y)| close(x, y))
}

fn all_agree(expected: &[Tensor], found: &[Tensor], tolerance: f32) -> bool {
    expected.len() == found.len() && expected.iter().zip(found).all(|(x, y)| agrees(x, y, tolerance))
}

#[test]
fn old_models_give_the_expected_outputs() {
    let models: Vec<PathBuf> = [corpus::node_tests(), corpus::light_models(), corpus::other_official_tests()].concat();
    let (mut ran, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for path in &models {
        let model = onnx::read(path).expect("official models are read").model;
        if opsets(&model).all(|version| version >= op::BASE) {
            continue;
        }
        let name = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let raised = match raised(&model, "upgrade-opset") {
            Ok(raised) => raised,
            Err(error) => {
                refused.push(format!("{name}: {error}"));
                continue;
            }
        };
        assert!(opsets(&raised).all(|version| version >= op::BASE), "{name} was not raised");
        let data = path.with_file_name("test_data_set_0");
        let (Some(inputs), Some(expected)) = (tensors(&data, "input"), tensors(&data, "output")) else { continue };
        let run = |model: &Model| Runner::new(model).ok()?.run(&inputs).ok();
        let Some(found) = run(&raised) else { continue };
        ran += 1;
        // What the runtime gets wrong, it gets wrong before as well.
        if !all_agree(&expected, &found, 1e-3) && run(&model).is_none_or(|before| !all_agree(&before, &found, 1e-5)) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "wrong after the upgrade: {wrong:?}");
    assert!(refused.iter().all(|why| why.contains("raise Scan") && why.contains("opset 9")), "{refused:#?}");
    eprintln!("{ran} old models ran as expected, {} were refused", refused.len());
    assert!(models.is_empty() || ran > 400, "only {ran} models ran");
}

#[test]
fn the_zoo_computes_what_it_did() {
    for path in corpus::zoo() {
        let model = onnx::read(&path).expect("the zoo is read").model;
        let inputs = model
            .graph(model.main)
            .inputs
            .iter()
            .map(|&input| {
                let value = model.value(input);
                let dims = value.ty.as_ref().and_then(|ty| ty.as_tensor()?.shape.as_ref()).expect("inputs have shapes");
                // Free lengths are batches, lines of text in pixels, and sentences.
                let free: &[usize] = if dims.len() == 4 { &[1, 3, 48, 96] } else { &[2, 16] };
                let fixed = |size: &Size| match *size {
                    Size::Fixed(length) => usize::try_from(length).ok(),
                    _ => None,
                };
                let length = |(axis, dim): (usize, &Dim)| {
                    fixed(&dim.size).unwrap_or_else(|| free.get(axis).copied().unwrap_or(2))
                };
                let lengths = dims.iter().enumerate().map(length).collect();
                (input, lengths)
            })
            .collect();
        let sizes = FixedSizes { inputs, ..FixedSizes::default() };
        let before = Runner::new(&model).expect("the zoo runs");
        let run = |sample: &[Tensor]| before.run(sample).map(|_| ()).map_err(|error| error.to_string());
        let data = synthesize(&model, &sizes, 1, 1, run).expect("inputs can be made up");
        let expected = before.run(&data.sample(0)).expect("the model has just run");
        for pipeline in ["upgrade-opset", "upgrade-opset(to=21)"] {
            let raised = raised(&model, pipeline).expect("the zoo can be raised");
            let found = Runner::new(&raised).and_then(|runner| runner.run(&data.sample(0)));
            let found = found.unwrap_or_else(|error| panic!("{} after {pipeline}: {error}", path.display()));
            assert!(all_agree(&expected, &found, 1e-5), "{} after {pipeline}", path.display());
        }
    }
}

#[test]
fn a_model_that_cannot_be_raised_is_left_as_it_was() {
    let text = r#"
        <ir_version: 4, opset_import: ["": 8]>
        old (float[2,3] x) => (float[2,3] y, float[2,3] z) {
            y = Softmax <axis = 1> (x)
            [norm] z = BatchNormalization <spatial = 0> (y, x, x, x, x)
        }"#;
    let mut model = Model::parse(text).expect("the text is a model");
    let before = model.print(&Default::default()).text;
    let pipeline = Pipeline::parse("upgrade-opset", passes::ALL).expect("the pipeline is well formed");
    let error = pipeline.run(&mut model, &mut Context::default()).expect_err("it cannot be raised");
    let error = format!("{error} {:?}", error);
    assert!(error.contains("cannot raise BatchNormalization `norm` from opset 8 to 18"), "{error}");
    assert_eq!(model.print(&Default::default()).text, before);
}

#[test]
fn a_function_that_calls_itself_is_refused() {
    let text = r#"
        <ir_version: 8, opset_import: ["": 18, "local": 1]>
        calls (float[2] x) => (float[2] y) { y = local.f (x) }
        <domain: "local", opset_import: ["": 18, "local": 1]>
        f (x) => (y) { y = local.g (x) }
        <domain: "local", opset_import: ["": 18, "local": 1]>
        g (x) => (y) { y = local.f (x) }"#;
    let model = Model::parse(text).expect("the text is a model");
    let error = raised(&model, "inline-functions").expect_err("it has no end");
    assert!(error.contains("calls itself"), "{error}");
}
