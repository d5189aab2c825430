//! Merges scales and shifts by constants into layers, and with each other.
//!
//! (W·x + b)·g + s = (g·W)·x + (g·b + s), and W·(x·g + s) + b = (W·g)·x + (W·s + b), for numbers or one number a channel.
//! A number g also passes every linear operator, f(x)·g = f(x·g), and where it is positive also Relu and its like.

use ndarray::{ArrayD, Zip};

use crate::ir::op::{Add, Div, Mul, Sub};
use crate::ir::{Model, NodeId, Operation, Use, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Draft, Match, Miss, Rewrite, Rules, Site, gelu};

use super::affine::Affine;
use super::layer::{LAYERS, Layer};

pub const INFO: PassInfo = PassInfo::of::<FuseScale>("fuse-scale", "Merge scales and shifts by constants into layers");

/// Merges Mul, Add, Sub, Div and Neg with constants into Conv, ConvTranspose, Gemm, MatMul and LayerNormalization, before
/// and after them, and with each other.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FuseScale {
    /// Also look for the layer behind operators that a number passes: Reshape, Transpose, the product of queries and
    /// keys in attention, and others.
    #[serde(default = "FuseScale::default_through")]
    through: bool,
}

impl FuseScale {
    fn default_through() -> bool {
        true
    }
}

impl Pass for FuseScale {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        const MAPS: &[&str] = &["Mul", "Add", "Sub", "Div", "Neg"];
        let mut rules = Rules::new()
            .on_any(MAPS, into_layer_before)
            .on_any(LAYERS, into_layer_after)
            .on_any(&["Mul", "Div"], products_of_constants)
            .on_any(&["Add", "Sub"], sums_of_constants);
        if self.through {
            rules = rules.on_any(&["Mul", "Div"], into_distant_layer);
        }
        cx.apply(model, rules);
        Ok(())
    }
}

fn into_layer_before(at: &Site) -> Match<Rewrite> {
    let mut layer = None;
    let (_, map) = Affine::read(at, at.root, |x| layer.insert(Layer::feeding(at, x)?).outputs(at))?;
    let mut new = at.rewrite();
    let operation = layer.expect("channels were asked for").then(at, &mut new, &map)?;
    new.replace_root(operation)
}

fn into_layer_after(at: &Site) -> Match<Rewrite> {
    let layer = Layer::read(at, at.root)?;
    let mapped = layer.operand();
    let node = at.model.producer(mapped).ok_or(Miss("no scale or shift before it"))?;
    require!(is_map(at, node), "no scale or shift before it");
    at.only_here(mapped)?;
    require!(gelu::exact(at, mapped).is_err(), "the scale belongs to a GELU, which runtimes know by it");
    let (x, map) = Affine::read(at, node, |_| layer.inputs(at))?;
    if matches!(layer, Layer::MatMul(..)) {
        require!(!map.shifts() || is_biased(at), "the shift would only go to the other side of the product");
    }
    let mut new = at.rewrite();
    let operation = layer.after(at, &mut new, x, &map)?;
    new.replace_root(operation)
}

fn is_map(at: &Site, node: NodeId) -> bool {
    matches!(at.model.node(node).op.as_str(), "Mul" | "Add" | "Sub" | "Div" | "Neg")
}

/// Whether a constant is added to the result of the root.
fn is_biased(at: &Site) -> bool {
    let uses = &at.model.value(at.result()).uses;
    let [Use::Node(reader, _)] = *uses.iter().copied().collect::<Vec<_>>() else { return false };
    at.model.view(reader).is_some_and(|Add { a, b }| [a, b].into_iter().any(|x| at.model.constant(x).is_some()))
}

/// (x·a)·b = x·(a·b)
fn products_of_constants(at: &Site) -> Match<Rewrite> {
    let (inner, outer_factor) = factor(at, at.root)?;
    let node = at.model.producer(inner).ok_or(Miss("not computed by a node"))?;
    let (x, inner_factor) = factor(at, node)?;
    at.only_here(inner)?;
    require!(gelu::exact(at, inner).is_err(), "the scale belongs to a GELU, which runtimes know by it");
    let product = combined(&inner_factor, &outer_factor, |a, b| a * b)?;
    require!(product.iter().all(|&x| x == 0.0 || x.abs() > 1e-30), "the product of the constants is too small");
    let mut new = at.rewrite();
    let b = new.reals("scale", product, at.dtype(constant_of(at, node)?)?)?;
    new.replace_root(Mul { a: x, b })
}

/// (x + a) + b = x + (a + b)
fn sums_of_constants(at: &Site) -> Match<Rewrite> {
    let (inner, outer_term) = term(at, at.root)?;
    let node = at.model.producer(inner).ok_or(Miss("not computed by a node"))?;
    let (x, inner_term) = term(at, node)?;
    at.only_here(inner)?;
    let sum = combined(&inner_term, &outer_term, |a, b| a + b)?;
    let mut new = at.rewrite();
    let b = new.reals("shift", sum, at.dtype(constant_of(at, node)?)?)?;
    new.replace_root(Add { a: x, b })
}

/// What `node` multiplies by a constant, and the constant.
fn factor(at: &Site, node: NodeId) -> Match<(ValueId, ArrayD<f64>)> {
    if let Some(Mul { a, b }) = at.model.view(node) {
        let (x, c) = value_and_constant(at, a, b)?;
        return Ok((x, at.reals(c)?));
    }
    let Div { a, b } = at.model.view(node).ok_or(Miss("not a product with a constant"))?;
    let (x, c) = value_and_constant(at, a, b)?;
    require!(x == a, "a constant is divided by the value");
    Ok((x, at.reals(c)?.mapv(f64::recip)))
}

/// What `node` adds a constant to, and the constant.
fn term(at: &Site, node: NodeId) -> Match<(ValueId, ArrayD<f64>)> {
    if let Some(Add { a, b }) = at.model.view(node) {
        let (x, c) = value_and_constant(at, a, b)?;
        return Ok((x, at.reals(c)?));
    }
    let Sub { a, b } = at.model.view(node).ok_or(Miss("not a sum with a constant"))?;
    let (x, c) = value_and_constant(at, a, b)?;
    require!(x == a, "the value is subtracted from a constant");
    Ok((x, -at.reals(c)?))
}

fn value_and_constant(at: &Site, a: ValueId, b: ValueId) -> Match<(ValueId, ValueId)> {
    match (at.model.constant(a), at.model.constant(b)) {
        (None, Some(_)) => Ok((a, b)),
        (Some(_), None) => Ok((b, a)),
        _ => Err(Miss("not an operation of a value and a constant")),
    }
}

fn constant_of(at: &Site, node: NodeId) -> Match<ValueId> {
    let mut operands = at.model.node(node).inputs.iter().flatten().copied();
    operands.find(|&operand| at.model.constant(operand).is_some()).ok_or(Miss("no constant"))
}

/// `a` and `b` broadcast together, where that is no larger than the larger of them.
fn combined(a: &ArrayD<f64>, b: &ArrayD<f64>, f: impl Fn(f64, f64) -> f64) -> Match<ArrayD<f64>> {
    let rank = a.ndim().max(b.ndim());
    let length = |x: &ArrayD<f64>, axis: usize| (axis + x.ndim()).checked_sub(rank).map_or(1, |axis| x.shape()[axis]);
    let shape: Vec<_> = (0..rank).map(|axis| length(a, axis).max(length(b, axis))).collect();
    let (Some(a), Some(b)) = (a.broadcast(shape.clone()), b.broadcast(shape.clone())) else {
        return Err(Miss("the constants do not broadcast"));
    };
    let size: usize = shape.iter().product();
    let stored = |x: &ndarray::ArrayViewD<f64>| x.strides().iter().zip(x.shape()).all(|(&s, &n)| s != 0 || n <= 1);
    require!(size <= 1 || stored(&a) || stored(&b), "the merged constant would be larger than both");
    Ok(Zip::from(a).and(b).map_collect(|&a, &b| f(a, b)))
}

/// f(W·x + b)·g = f(g·W·x + g·b), where f is linear, or g positive and f homogeneous.
fn into_distant_layer(at: &Site) -> Match<Rewrite> {
    let (scaled, gain) = factor(at, at.root)?;
    let gain = match gain.as_slice() {
        Some(&[gain]) if gain.is_finite() => (gain, gain_rank(at)?),
        _ => return Err(Miss("the scale is not one number")),
    };
    require!(gain.1 == 0 || at.rank(scaled).is_ok_and(|rank| rank >= gain.1), "the constant may add axes to the value");
    let gain = gain.0;
    let path = path_to_layer(at, scaled, gain, 0)?;
    let mut new = at.rewrite();
    let (&layer, through) = path.split_last().expect("a path ends in a layer");
    let map = Affine::scaling(gain);
    let operation = Layer::feeding(at, layer)?.then(at, &mut new, &map)?;
    rebuild(at, new, layer, operation, through)
}

fn gain_rank(at: &Site) -> Match<usize> {
    at.rank(constant_of(at, at.root)?)
}

/// Draws the layer anew, then what lies between it and the root: `through`, last first.
fn rebuild(at: &Site, mut new: Draft, layer: ValueId, operation: Operation, through: &[ValueId]) -> Match<Rewrite> {
    let (&last, between) = through.split_first().ok_or(Miss("the layer is next to it"))?;
    let (mut old, mut value) = (layer, new.instead(at.model, layer, operation));
    for &step in between.iter().rev() {
        (old, value) = (step, new.again(at.model, step, &[(old, value)]));
    }
    let node = at.model.producer(last).expect("the path consists of results");
    new.replace_root(at.model.node(node).with_operands(&[(old, value)]))
}

/// The values from `value` back to the result of a layer whose weight can be scaled, all read by the next one alone.
fn path_to_layer(at: &Site, value: ValueId, gain: f64, depth: usize) -> Match<Vec<ValueId>> {
    const FAR: usize = 8;
    require!(depth < FAR, "no layer within reach takes the scale");
    at.only_here(value)?;
    let producer = at.model.producer(value).ok_or(Miss("no layer within reach takes the scale"))?;
    if depth > 0 && Layer::feeding(at, value).is_ok_and(|layer| layer.takes_scale(at)) {
        return Ok(vec![value]);
    }
    let node = at.model.node(producer);
    let linear = match node.op.as_str() {
        _ if !node.domain.is_empty() || node.bodies().next().is_some() => 0,
        "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Flatten" | "Identity" | "Slice" | "Expand" | "Tile" => 1,
        "AveragePool" | "GlobalAveragePool" | "ReduceMean" | "ReduceSum" => 1,
        "Relu" | "LeakyRelu" | "MaxPool" | "GlobalMaxPool" | "ReduceMax" if gain > 0.0 => 1,
        "MatMul" => 2,
        _ => 0,
    };
    for &operand in node.inputs.iter().take(linear).flatten() {
        if let Ok(mut path) = path_to_layer(at, operand, gain, depth + 1) {
            path.insert(0, value);
            return Ok(path);
        }
    }
    Err(Miss("no layer within reach takes the scale"))
}
