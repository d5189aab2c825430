//! Which layers lose most in int8: each layer's share in the error of the outputs.
//!
//! One plan serves all layers. Beside each layer stands its int8 twin (quantized input, quantized weights), and an input of
//! the model says how far each result goes from one to the other:
//!
//! ```text
//! y = f(x, w) + toggle·(f(x̂, ŵ) - f(x, w))
//! ```
//!
//! A sample runs once with all toggles at 0, and once a layer with that toggle at 1. What int8 does between layers counts
//! for the layer that reads it.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::data::Dataset;
use crate::ir::op::{Add, DequantizeLinear, Gather, Mul, QuantizeLinear, Sub};
use crate::ir::{DType, Model, NodeId, Size, Tensor, Type, ValueId};
use crate::measure::Errors;
use crate::runtime::{Runner, RuntimeError};

use super::channel::PerChannel;
use super::codes::Bits;
use super::grid::Grid;
use super::layer::Layer;
use super::scale::least_squares_scales;

/// What quantizing one layer alone does to the outputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sensitivity {
    /// The name of the layer's node.
    pub layer: String,
    pub operator: String,
    /// Power of the outputs over power of the error, in decibels; of several outputs the worst. Of each row along the last
    /// axis its mean is taken away first.
    pub sqnr_db: f64,
    /// The share of decisions that change: positions whose largest score along the last axis is in another place.
    pub changed: f64,
}

/// A layer and the grid of what it reads.
pub struct Candidate<'a> {
    pub layer: &'a Layer,
    pub grid: Grid,
    pub bits: Bits,
}

/// The sensitivity of every layer, the most sensitive first.
pub fn rank(model: &Model, candidates: &[Candidate], data: &Dataset) -> Result<Vec<Sensitivity>, RuntimeError> {
    let mut toggled = model.clone();
    let toggles = toggled.add_input(toggled.main, "toggles");
    let count = candidates.len();
    toggled.set_type(toggles, Some(Type::tensor(DType::F32, [Size::Fixed(count as i64)])));
    let mut quantized = HashMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        add_twin(&mut toggled, toggles, index, candidate, &mut quantized);
    }
    let runner = Runner::new(&toggled)?;

    let runs: Vec<(usize, usize)> =
        (0..data.len()).flat_map(|sample| (0..count).map(move |layer| (sample, layer))).collect();
    let run = |sample: usize, layer: Option<usize>| {
        let mut inputs = data.sample(sample);
        let on = (0..count).map(|index| f32::from(u8::from(Some(index) == layer))).collect();
        inputs.push(Tensor::from_vec(vec![count], on));
        runner.run(&inputs)
    };
    let float: Vec<Vec<Tensor>> =
        (0..data.len()).into_par_iter().map(|sample| run(sample, None)).collect::<Result<_, _>>()?;
    let errors = runs.par_iter().map(|&(sample, layer)| Ok(Errors::of(&float[sample], &run(sample, Some(layer))?)));
    let errors: Vec<Errors> = errors.collect::<Result<_, RuntimeError>>()?;

    let mut all = vec![Errors::default(); count];
    runs.iter().zip(&errors).for_each(|((_, layer), errors)| all[*layer].add(errors));
    let sensitivity = |(candidate, errors): (&Candidate, &Errors)| {
        let node = model.node(candidate.layer.node);
        let name = if node.name.is_empty() { &model.value(result_of(model, candidate)).name } else { &node.name };
        let (sqnr_db, changed) = (errors.sqnr_db(), errors.changed());
        Sensitivity { layer: name.clone(), operator: node.op.clone(), sqnr_db, changed }
    };
    let mut ranking: Vec<Sensitivity> = candidates.iter().zip(&all).map(sensitivity).collect();
    ranking.sort_by(|a, b| a.sqnr_db.total_cmp(&b.sqnr_db));
    Ok(ranking)
}

/// How far the outputs of `small` are from those of `model`, in decibels.
pub fn distance(model: &Model, small: &Model, data: &Dataset) -> Result<f64, RuntimeError> {
    let [exact, rounded] = [Runner::new(model)?, Runner::new(small)?];
    let errors = (0..data.len()).into_par_iter().map(|index| {
        let sample = data.sample(index);
        Ok(Errors::of(&exact.run(&sample)?, &rounded.run(&sample)?))
    });
    let errors: Vec<Errors> = errors.collect::<Result<_, RuntimeError>>()?;
    let mut all = Errors::default();
    errors.iter().for_each(|errors| all.add(errors));
    Ok(all.sqnr_db())
}

fn result_of(model: &Model, candidate: &Candidate) -> ValueId {
    model.node(candidate.layer.node).outputs[0].expect("a layer has a result")
}

/// Puts the int8 twin of a layer beside it. `quantized` are the inputs that already have been.
fn add_twin(
    model: &mut Model,
    toggles: ValueId,
    index: usize,
    Candidate { layer, grid, bits }: &Candidate,
    quantized: &mut HashMap<ValueId, ValueId>,
) {
    let node = layer.node;
    let result = model.node(node).outputs[0].expect("a layer has a result");
    let name = model.value(result).name.clone();
    let x = *quantized.entry(layer.x).or_insert_with(|| fake_quantized(model, node, layer.x, *grid));
    let weight = model.constant(layer.weight).expect("checked when it was read");
    let weight = rounded(weight, layer.axis, *bits);
    let weight = model.add_constant(model.main, &format!("{name}.rounded"), weight);
    let float = model.node(node).with_operands(&[]);
    let twin = model.node(node).with_operands(&[(layer.x, x), (layer.weight, weight)]);
    let float = model.insert_before(node, float, &format!("{name}.float32"));
    let twin = model.insert_before(node, twin, &format!("{name}.int8"));
    let error = model.insert_before(node, Sub { a: twin, b: float }, &format!("{name}.error"));
    let place = model.add_constant(model.main, &format!("{name}.place"), Tensor::scalar(index as i64));
    let gather = Gather { data: toggles, indices: place, axis: 0 };
    let toggle = model.insert_before(node, gather, &format!("{name}.toggle"));
    let part = model.insert_before(node, Mul { a: error, b: toggle }, &format!("{name}.part"));
    model.redefine(result, Add { a: float, b: part });
}

fn fake_quantized(model: &mut Model, before: NodeId, x: ValueId, grid: Grid) -> ValueId {
    let name = model.value(x).name.clone();
    let scale = model.add_constant(model.main, &format!("{name}.scale"), Tensor::scalar(grid.scale));
    let zero_point = grid.levels.tensor(grid.zero_point);
    let zero_point = Some(model.add_constant(model.main, &format!("{name}.zero_point"), zero_point));
    let quantize =
        QuantizeLinear { x, scale, zero_point, axis: 1, block_size: 0, output_dtype: 0, precision: 0, saturate: 1 };
    let levels = model.insert_before(before, quantize, &format!("{name}.levels"));
    let dequantize = DequantizeLinear { x: levels, scale, zero_point, axis: 1, block_size: 0, output_dtype: 0 };
    model.insert_before(before, dequantize, &format!("{name}.quantized"))
}

/// A weight as integers of so many bits render it, in float.
fn rounded(weight: &Tensor, axis: usize, bits: Bits) -> Tensor {
    let floats = weight.floats().expect("layers have weights of floats");
    let channels = PerChannel::new(floats, weight.shape(), axis);
    let scales = least_squares_scales(&channels, bits.limit());
    let (levels, _) = channels.quantize(&scales, bits.limit());
    let inner: usize = weight.shape()[axis + 1..].iter().product();
    let scale_of = |index: usize| scales[index / inner.max(1) % scales.len()];
    let floats = levels.iter().enumerate().map(|(index, &level)| f32::from(level) * scale_of(index));
    Tensor::from_vec(weight.shape().to_vec(), floats.collect())
}
