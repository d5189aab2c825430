//! Layers that learn one after the other, each from what it reads behind those that are rounded already.
//!
//! The float model and a draft of the int8 one run side by side, a stretch of nodes at a time, over the same samples. The inputs
//! x of a layer in the one and x̂ in the other give its weights and bias, which the draft then goes on with.

use std::collections::{HashMap, HashSet};

use ndarray::{Array2, Array3};
use rayon::prelude::*;

use crate::data::{Dataset, Random};
use crate::ir::{Model, NodeId, Tensor, ValueId};
use crate::measure::{Moments, PairedMoments, Stepwise, SurveyError, Watch};

use super::aids::{Aids, Outcome, Rounding};
use super::bias::{paired_shift, refitted_where_better};
use super::codes::Codes;
use super::grid::Grid;
use super::layer::LayerKind;
use super::learn::Task;
use super::place::Placement;
use super::rewrites::shift_bias;
use super::rounding::dequantized;
use super::target::Traits;
use super::write::write;

/// Bytes of values that are kept of all samples together, in one of the models; of more samples, some are taken.
const BYTES_KEPT: usize = 384 << 20;

/// So many samples are taken in any case.
const FEWEST: usize = 16;

#[allow(clippy::too_many_arguments, reason = "both models, and what makes the one the other")]
pub fn learn(
    model: &Model,
    placement: &Placement,
    traits: &Traits,
    grids: &HashMap<ValueId, Grid>,
    tasks: &[Task],
    codes: &mut HashMap<NodeId, Codes>,
    data: &Dataset,
    aids: &Aids,
    watch: Watch,
) -> Result<Outcome, SurveyError> {
    let mut draft = model.clone();
    let written = write(&mut draft, placement, traits, grids, codes);
    let positions: HashMap<NodeId, usize> =
        draft.nodes_of(draft.main).enumerate().map(|(position, node)| (node, position)).collect();
    let mut tasks: Vec<(NodeId, &Task)> = tasks.iter().map(|task| (written[&task.layer.node], task)).collect();
    tasks.sort_by_key(|(node, _)| positions[node]);

    if data.is_empty() {
        return Err(SurveyError::NoSamples);
    }
    let count = (BYTES_KEPT / Stepwise::bytes_kept(model, &data.sample(0)).max(1)).max(FEWEST);
    let data = &data.some(aids.seed, count);
    let [mut exact, mut rounded] = [(); 2].map(|()| Stepwise::new(data));
    let mut outcome = Outcome::default();
    for (index, &(node, task)) in tasks.iter().enumerate() {
        let ahead = &tasks[index..];
        let read = |model: &Model, node: NodeId| model.node(node).inputs[0];
        let [x, x_rounded] = [task.layer.x, read(&draft, node).expect("a layer reads a value")];
        exact.advance(model, task.layer.node, &ahead.iter().map(|(_, task)| task.layer.x).collect(), watch)?;
        let kept: HashSet<ValueId> = ahead.iter().filter_map(|&(node, _)| read(&draft, node)).collect();
        rounded.advance(&draft, node, &kept, watch)?;

        let seen = (0..data.len()).into_par_iter().map(|sample| {
            let rows = |tensor: Option<Tensor>| {
                let mut random = Random::new(aids.seed, sample as u64);
                task.reading.rows(&tensor?, task.rows_each(data.len()), &mut random)
            };
            let pair = [rows(exact.tensor(model, sample, x))?, rows(rounded.tensor(&draft, sample, x_rounded))?];
            let searched = task.searched(&pair[1], data.len(), aids);
            (pair[0].dim() == pair[1].dim()).then_some((pair, searched))
        });
        let Some(seen) = seen.collect::<Option<Vec<_>>>() else { continue };
        let (pairs, searched): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        let (moments, target) = fitted(task, pairs, aids);
        let rows: Vec<Moments> = moments.iter().map(|paired| paired.rows.clone()).collect();
        let searched = searched.into_iter().flatten().collect();
        let old = &codes[&task.layer.node];
        let (levels, scales, seven_bits) = task.round(&target, &old.scales, &rows, &searched, aids);
        let weights = dequantized(&levels, &scales);
        let shift = task.corrects(aids).then(|| paired_shift(task.weights.view(), weights.view(), &moments));
        outcome.count(scales.len(), seven_bits);
        let learned = task.codes(levels, scales, old, shift);

        let weights = draft.add_constant(draft.main, "weights", task.laid_out(weights, learned.levels.shape()));
        draft.set_input(node, 1, Some(weights));
        if let (LayerKind::MatMul, Some(shift)) = (task.layer.kind, &learned.bias) {
            let product = draft.node(node).outputs[0].expect("a layer has a result");
            shift_bias(&mut draft, product, shift);
        } else if let Some(bias) = &learned.bias {
            let bias = draft.add_constant(draft.main, "bias", Tensor::from_vec(vec![bias.len()], bias.clone()));
            draft.set_input(node, 2, Some(bias));
        }
        codes.insert(task.layer.node, learned);
    }
    Ok(outcome)
}

/// The moments of all pairs of rows, and the weights to be rounded: as they are, or fitted to what the layer reads behind
/// rounded layers.
fn fitted(task: &Task, pairs: Vec<[Array3<f32>; 2]>, aids: &Aids) -> (Vec<PairedMoments>, Array2<f32>) {
    match aids.rounding {
        Rounding::Nearest => (PairedMoments::of(&pairs), task.weights.clone()),
        Rounding::Gptq => refitted_where_better(&task.weights, pairs, task.corrects(aids)),
    }
}

#[cfg(test)]
mod tests {
    use crate::analysis::FixedSizes;
    use crate::data::{Dataset, synthesize};
    use crate::ir::{Model, Tensor};
    use crate::kernels::Arithmetic;
    use crate::pass::{Context, Pipeline};
    use crate::passes;
    use crate::runtime::{Execution, Runner};

    /// Convolutions with a depthwise one and a residual, a Gemm behind them.
    fn network() -> Model {
        let text = include_str!("../../testdata/passes/quantize/convolutions.onnxtxt");
        Model::parse(text).expect("the case is a model")
    }

    fn samples(model: &Model) -> Dataset {
        synthesize(model, &FixedSizes::default(), 0, 30, |_| Ok(())).expect("inputs can be made up")
    }

    fn quantized(options: &str) -> (Model, Vec<String>) {
        let mut model = network();
        let pipeline = format!("quantize(mode=static,arithmetic=int8,min-elements=16,{options})");
        let mut cx = Context { data: Some(samples(&model)), ..Context::default() };
        Pipeline::parse(&pipeline, passes::ALL).unwrap().run(&mut model, &mut cx).unwrap();
        model.verify().unwrap();
        let notes = cx.reports.iter().flat_map(|report| report.notes.clone()).collect();
        (model, notes)
    }

    /// The mean error of each output, and the mean squared error of all.
    fn errors(small: &Model) -> (Vec<f64>, f64) {
        let (original, data) = (network(), samples(&network()));
        let [exact, rounded] = [&original, small].map(|model| Runner::new(model).unwrap());
        let (mut means, mut squares) = (vec![0.0; 2], 0.0);
        for sample in (0..data.len()).map(|index| data.sample(index)) {
            let [expected, found] = [&exact, &rounded].map(|runner| runner.run(&sample).unwrap().remove(0));
            let [expected, found] = [&expected, &found].map(|y: &Tensor| y.floats().unwrap().into_owned());
            for (mean, (a, b)) in means.iter_mut().zip(expected.iter().zip(&found)) {
                let error = f64::from(a - b);
                *mean += error / data.len() as f64;
                squares += error * error;
            }
        }
        (means, squares)
    }

    #[test]
    fn on_the_samples_the_mean_of_every_output_is_that_of_the_float_model() {
        for rounding in ["nearest", "gptq"] {
            let error = |correction: &str| {
                let (model, _) = quantized(&format!("rounding={rounding},bias-correction={correction}"));
                errors(&model).0.iter().fold(0f64, |max, mean| max.max(mean.abs()))
            };
            let (plain, corrected) = (error("none"), error("sequential"));
            assert!(corrected < 0.1 * plain + 1e-4, "{rounding}: {corrected} for {plain}");
        }
    }

    #[test]
    fn what_layers_learn_brings_the_outputs_nearer() {
        let error = |options: &str| errors(&quantized(options).0).1;
        let plain = error("rounding=nearest,bias-correction=none");
        for correction in ["none", "analytic", "sequential"] {
            let learned = error(&format!("rounding=gptq,bias-correction={correction}"));
            assert!(learned < plain, "{correction}: {learned} for {plain}");
        }
    }

    #[test]
    fn the_number_of_threads_makes_no_difference() {
        let constants = |threads: usize, correction: &str| -> Vec<Tensor> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (model, _) = pool.install(|| quantized(&format!("bias-correction={correction}")));
            model.initializers_of(model.main).filter_map(|value| model.constant(value).cloned()).collect()
        };
        for correction in ["analytic", "sequential"] {
            let found = [1, 2, 4].map(|threads| constants(threads, correction));
            assert!(found[1] == found[0] && found[2] == found[0], "{correction}");
        }
    }

    #[test]
    fn a_convolution_of_one_channel_has_seven_bits_where_eight_would_overflow() {
        let text = "<ir_version: 8, opset_import: [\"\" : 18]>
            one (float[n,1,6,6] x) => (float[n,2,4,4] y)
            <float[2,1,3,3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}>
            { y = Conv (x, w) }";
        let original = Model::parse(text).expect("it is a model");
        let mut model = original.clone();
        let data = samples(&original);
        let mut cx = Context { data: Some(data.clone()), ..Context::default() };
        let pipeline = "quantize(mode=static,arithmetic=int8,min-elements=1)";
        Pipeline::parse(pipeline, passes::ALL).unwrap().run(&mut model, &mut cx).unwrap();
        let outputs = model.graph(model.main).outputs.clone();
        let [exact, saturating] = [Arithmetic::Exact, Arithmetic::Saturating].map(|arithmetic| {
            let execution = Execution { arithmetic, ..Execution::DEFAULT };
            Runner::with(&model, &outputs, &execution).unwrap()
        });
        assert!(!exact.int8_nodes().is_empty());
        for sample in (0..data.len()).map(|index| data.sample(index)) {
            let [exact, saturating] = [&exact, &saturating].map(|runner| runner.run(&sample).unwrap().remove(0));
            assert!(exact.same_data(&saturating));
        }
    }

    #[test]
    fn the_report_tells_which_channels_have_seven_bits() {
        let note = |options: &str| quantized(options).1.into_iter().find(|note| note.contains("7 bits"));
        assert!(note("target=onnxruntime").unwrap().contains("of 14 channels, in "));
        assert_eq!(note("target=onnxruntime-vnni"), None);
    }
}
