//! Quantization-aware training: the graph that the static mode writes learns with its rounding in it.
//!
//! While it is trained, a weight is a float again, w ≈ s·round(clip(w/s, -limit, limit)), and every scale is e to the power of
//! what is trained: it stays above zero, and a step of the learning rate moves it by such a share of itself. Rounding is
//! passed straight through, so that scales learn as in learned step size quantization (Esser and others, 2020). Then the
//! constants go back into the graph; nothing else of it changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use globset::GlobSet;

use super::channel::PerChannel;
use super::codes::{Bits, Codes, int32_bias};
use super::grid::{Grid, Levels};
use super::layer::Layer;
use super::place::{Placement, Role};
use super::scale::{least_squares_scales, level};
use crate::ir::op::{Clip, DequantizeLinear, Div, Exp, Mul, QuantizeLinear, Reshape};
use crate::ir::{Model, NodeId, Operation, Tensor, Use, ValueId};
use crate::pass::{Context, PassError};
use crate::passes::teach::{Recipe, teach};
use crate::train::Weight;
use crate::train::weights::weights;

/// A graph with Q/DQ pairs, and how it came about.
pub struct Quantized<'p> {
    pub placement: &'p Placement,
    pub codes: &'p HashMap<NodeId, Codes>,
    /// What became of each node of the placement.
    pub written: HashMap<NodeId, NodeId>,
    /// The largest magnitude of a weight's level.
    pub limit: f32,
}

/// A weight of integers, and the floats that are trained instead.
struct Rounded {
    levels: ValueId,
    scale: ValueId,
    axis: usize,
    bits: Bits,
    /// In the draft.
    float: ValueId,
    log_scale: ValueId,
}

/// A bias in steps of input scale times weight scale.
struct IntegerBias {
    /// What is dequantized; in the draft, a constant.
    value: ValueId,
    levels: ValueId,
    steps: ValueId,
    /// The scale of the weight, and that of the input.
    scales: [ValueId; 2],
}

/// Trains `model`, which was written from `float`.
pub fn train(
    model: &mut Model,
    float: Model,
    quantized: &Quantized,
    recipe: &Recipe,
    cx: &mut Context,
) -> Result<(), PassError> {
    let mut draft = model.clone();
    let scales = activation_scales(model);
    let (rounded, biases) = unround(&mut draft, &float, quantized);
    let log_scales: Vec<ValueId> = scales.iter().map(|&scale| exponential(&mut draft, scale)).collect();
    let others: Vec<ValueId> = weights(&draft, &GlobSet::empty()).into_iter().map(|weight| weight.value).collect();

    let ours = rounded.iter().flat_map(|weight| [weight.float, weight.log_scale]);
    let trained: Vec<ValueId> = ours.chain(log_scales.iter().copied()).collect();
    let known: HashSet<ValueId> = trained.iter().copied().collect();
    let others: Vec<ValueId> = others.into_iter().filter(|value| !known.contains(value)).collect();
    let trained = trained.iter().chain(&others).map(|&value| Weight { value, decays: false }).collect();
    let original = cx.original.clone();
    cx.original.get_or_insert_with(|| Arc::new(float));
    let taught = teach(&mut draft, trained, recipe, cx);
    cx.original = original;
    taught?;

    let exp = |value: ValueId| -> Tensor {
        let logs = draft.constant(value).expect("it was trained").clone();
        let floats = logs.floats().expect("it was trained").iter().map(|x| x.exp()).collect();
        Tensor::from_vec::<f32>(logs.shape().to_vec(), floats)
    };
    for value in others.into_iter().filter(|value| model.constant(*value).is_some()).collect::<Vec<_>>() {
        model.set_constant(value, draft.constant(value).expect("it was trained").clone());
    }
    for (&scale, &log) in scales.iter().zip(&log_scales) {
        model.set_constant(scale, exp(log));
    }
    for weight in &rounded {
        let float = draft.constant(weight.float).expect("it was trained");
        let scale = exp(weight.log_scale);
        let levels = levels(float, &scale, weight.axis, quantized.limit);
        model.set_constant(weight.levels, weight.bits.stored(&levels));
        model.set_constant(weight.scale, scale);
    }
    for bias in &biases {
        let number = |value: ValueId| model.constant(value).and_then(Tensor::floats).expect("scales are floats");
        let [weight_scales, input] = bias.scales.map(number);
        let floats = draft.constant(bias.value).and_then(Tensor::floats).expect("it is a constant of the draft");
        let weight_scales: Vec<f32> = (0..floats.len()).map(|c| weight_scales[c % weight_scales.len()]).collect();
        let grid = Grid { scale: input[0], zero_point: 0, levels: Levels::U8 };
        let (levels, steps) = int32_bias(&floats, &weight_scales, grid);
        let steps = match model.constant(bias.steps).expect("steps are constant").rank() {
            0 => Tensor::scalar(steps[0]),
            _ => Tensor::from_vec(vec![steps.len()], steps),
        };
        model.set_constant(bias.levels, Tensor::from_vec(vec![levels.len()], levels));
        model.set_constant(bias.steps, steps);
    }
    let (weights, scales) = (rounded.len(), scales.len());
    cx.note(format!("trained with quantization in the loop: {weights} weights of layers, {scales} scales of values"));
    Ok(())
}

/// Scales of values that a quantizer and all that reads its levels have in common. Where they differ, the quantizer does more
/// than to round, and constants have scales of their own: those stay.
fn activation_scales(model: &Model) -> Vec<ValueId> {
    let quantizer = |levels: ValueId| model.view::<QuantizeLinear>(model.producer(levels)?);
    let is_paired = |place: &Use, scale: ValueId| {
        let Use::Node(node, 1) = *place else { return false };
        if let Some(DequantizeLinear { x, .. }) = model.view(node) {
            return quantizer(x).is_some_and(|quantizer| quantizer.scale == scale);
        }
        model.view::<QuantizeLinear>(node).is_some()
            && model.node(node).outputs.iter().flatten().flat_map(|&levels| model.value(levels).uses.iter()).all(
                |reader| {
                    let Use::Node(reader, 0) = *reader else { return false };
                    model.view::<DequantizeLinear>(reader).is_some_and(|reader| reader.scale == scale)
                },
            )
    };
    let paired = |&value: &ValueId| {
        let uses = &model.value(value).uses;
        let is_number = model.constant(value).is_some_and(|tensor| tensor.as_float().is_some_and(|scale| scale > 0.0));
        is_number && !uses.is_empty() && uses.iter().all(|place| is_paired(place, value))
    };
    model.initializers_of(model.main).filter(paired).collect()
}

/// Lets `scale` be e to the power of a new constant, which is returned.
fn exponential(model: &mut Model, scale: ValueId) -> ValueId {
    let (log, exp) = log_of(model, scale);
    model.replace_uses(scale, exp);
    log
}

/// A constant of logarithms, and what Exp makes of it.
fn log_of(model: &mut Model, scale: ValueId) -> (ValueId, ValueId) {
    let tensor = model.constant(scale).expect("scales are constant");
    let logs = tensor.floats().expect("scales are floats").iter().map(|x| x.ln()).collect();
    let logs = Tensor::from_vec::<f32>(tensor.shape().to_vec(), logs);
    let name = model.value(scale).name.clone();
    let log = model.add_constant(model.main, &format!("{name}.log"), logs);
    let first = model.nodes_of(model.main).next().expect("a quantized graph has nodes");
    (log, model.insert_before(first, Exp { x: log }, &format!("{name}.trained")))
}

/// Lets weights and biases of layers be floats again.
fn unround(draft: &mut Model, float: &Model, quantized: &Quantized) -> (Vec<Rounded>, Vec<IntegerBias>) {
    let (mut rounded, mut biases) = (Vec::new(), Vec::new());
    let mut known: HashMap<ValueId, ValueId> = HashMap::new();
    let parameters = Parameters::new(draft, quantized.limit);
    for unit in &quantized.placement.units {
        let Role::Layer(layer) = &unit.role else { continue };
        let node = quantized.written[&unit.node];
        let weight = draft.node(node).inputs[1].expect("a layer has a weight");
        let scale = match known.get(&weight) {
            Some(&scale) => scale,
            None => {
                let weights = layer.weights(float, unit.tail.gain);
                let codes = &quantized.codes[&unit.node];
                let one = parameters.unround(draft, weight, layer, codes, &weights);
                known.insert(weight, one.scale);
                rounded.push(one);
                rounded.last().expect("just pushed").scale
            }
        };
        let bias = draft.node(node).inputs.get(2).copied().flatten();
        let integers = bias.and_then(|bias| Some((bias, draft.view::<DequantizeLinear>(draft.producer(bias)?)?)));
        let input = draft.node(node).inputs[0].and_then(|x| draft.view::<DequantizeLinear>(draft.producer(x)?));
        if let (Some((value, DequantizeLinear { x, scale: steps, .. })), Some(input)) = (integers, input) {
            let floats = quantized.codes[&unit.node].bias.clone().expect("the layer has a bias");
            draft.define_constant(value, Tensor::from_vec(vec![floats.len()], floats));
            biases.push(IntegerBias { value, levels: x, steps, scales: [scale, input.scale] });
        }
    }
    (rounded, biases)
}

/// Constants that all fake quantization of weights reads.
struct Parameters {
    limit: f32,
    low: ValueId,
    high: ValueId,
    one: ValueId,
    zero: ValueId,
}

impl Parameters {
    fn new(draft: &mut Model, limit: f32) -> Parameters {
        let main = draft.main;
        let mut number = |name: &str, x: f32| draft.add_constant(main, name, Tensor::scalar(x));
        let (low, high, one) = (number("lowest", -limit), number("highest", limit), number("one", 1.0));
        let zero = draft.add_constant(main, "zero", Tensor::scalar(0i8));
        Parameters { limit, low, high, one, zero }
    }

    /// s·round(clip(w/s, -limit, limit)) in place of the dequantized `weight`.
    fn unround(&self, draft: &mut Model, weight: ValueId, layer: &Layer, codes: &Codes, floats: &Tensor) -> Rounded {
        let decoder = draft.producer(weight).expect("weights are dequantized");
        let DequantizeLinear { x: levels, scale, .. } = draft.view(decoder).expect("weights are dequantized");
        let name = draft.value(weight).name.clone();
        let old = draft.constant(scale).expect("scales are constant").clone();
        let elements = floats.floats().expect("layers have weights of floats");
        let shape = if old.len() > 1 { floats.shape().to_vec() } else { vec![1, floats.len()] };
        let axis = if old.len() > 1 { layer.axis } else { 0 };
        // Scales of codes may be larger than the weights want, for the sake of biases in integers.
        let best = least_squares_scales(&PerChannel::new(elements, &shape, axis), self.limit);
        let scales: Vec<f32> = best.iter().zip(&codes.scales).map(|(best, coded)| best.max(*coded)).collect();
        let start =
            draft.add_constant(draft.main, &format!("{name}.scale"), Tensor::from_vec(old.shape().to_vec(), scales));
        let (log_scale, step) = log_of(draft, start);
        let float = draft.add_constant(draft.main, &name, floats.clone());

        let along = (0..floats.rank()).map(|i| if i == layer.axis { old.len() as i64 } else { 1 });
        let along = Tensor::from_ints(&along.collect::<Vec<_>>());
        let shape = draft.add_constant(draft.main, &format!("{name}.channels"), along);
        let mut insert =
            |operation: Operation, what: &str| draft.insert_before(decoder, operation, &format!("{name}.{what}"));
        let step = insert(Reshape { x: step, shape, allowzero: 0 }.into(), "step");
        let steps = insert(Div { a: float, b: step }.into(), "steps");
        let clipped = insert(Clip { x: steps, min: Some(self.low), max: Some(self.high) }.into(), "clipped");
        let quantize = QuantizeLinear {
            x: clipped,
            scale: self.one,
            zero_point: Some(self.zero),
            axis: 1,
            block_size: 0,
            output_dtype: 0,
            precision: 0,
            saturate: 1,
        };
        let level = insert(quantize.into(), "level");
        let dequantize = DequantizeLinear {
            x: level,
            scale: self.one,
            zero_point: Some(self.zero),
            axis: 1,
            block_size: 0,
            output_dtype: 0,
        };
        let level = insert(dequantize.into(), "rounded");
        draft.redefine(weight, Mul { a: level, b: step });
        Rounded { levels, scale, axis: layer.axis, bits: codes.bits, float, log_scale }
    }
}

/// The nearest levels, as int8.
fn levels(float: &Tensor, scale: &Tensor, axis: usize, limit: f32) -> Tensor {
    let (floats, scales) = (float.floats().expect("it was trained"), scale.floats().expect("scales are floats"));
    let inner: usize = float.shape()[axis + 1..].iter().product();
    let of = |index: usize| scales[index / inner.max(1) % scales.len()];
    let levels = floats.iter().enumerate().map(|(index, &w)| level(w, of(index).recip(), limit) as i8);
    Tensor::from_vec(float.shape().to_vec(), levels.collect())
}
