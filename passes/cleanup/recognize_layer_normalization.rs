//! Finds LayerNormalization in the operators that older exporters wrote for it.

use ndarray::{ArrayD, IxDyn};

use crate::ir::op::{Add, Div, LayerNormalization, Mul, Pow, Reciprocal, ReduceMean, Sqrt, Sub};
use crate::ir::{DType, Model, NodeId, Use, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

pub const INFO: PassInfo = PassInfo::of::<RecognizeLayerNormalization>(
    "recognize-layer-normalization",
    "Replace mean, variance and division by LayerNormalization",
);

/// Replaces (x - mean)/√(variance + ε), over the last axis, by LayerNormalization; `fuse-scale` gives it the scale and
/// bias that follow.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RecognizeLayerNormalization {}

impl Pass for RecognizeLayerNormalization {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let rules = Rules::new().on(divided).on(multiplied);
        cx.apply(model, rules);
        Ok(())
    }
}

/// d / √(mean(d²) + ε), where d = x - mean(x).
fn divided(at: &Site, quotient: Div) -> Match<Rewrite> {
    let root: Sqrt = at.feeder(quotient.b)?;
    normalization(at, quotient.a, root.x)
}

/// d · (1 / √(mean(d²) + ε))
fn multiplied(at: &Site, product: Mul) -> Match<Rewrite> {
    let (deviation, root) = match inverted(at, product.b) {
        Ok(root) => (product.a, root),
        Err(_) => (product.b, inverted(at, product.a)?),
    };
    let root: Sqrt = at.feeder(root)?;
    normalization(at, deviation, root.x)
}

fn inverted(at: &Site, value: ValueId) -> Match<ValueId> {
    at.only_here(value)?;
    if let Ok(Div { a, b }) = at.producer(value) {
        require!(at.float(a)? == 1.0, "not an inverse");
        return Ok(b);
    }
    Ok(at.producer::<Reciprocal>(value)?.x)
}

fn normalization(at: &Site, deviation: ValueId, padded_variance: ValueId) -> Match<Rewrite> {
    let sum: Add = at.feeder(padded_variance)?;
    let (variance, epsilon) = match at.float(sum.b) {
        Ok(epsilon) => (sum.a, epsilon),
        Err(_) => (sum.b, at.float(sum.a)?),
    };
    let variance: ReduceMean = at.feeder(variance)?;
    let (squared, reads) = squared(at, variance.x)?;
    let Sub { a: x, b: mean } = at.producer(squared)?;
    if deviation == squared {
        at.read_here(deviation, reads + 1)?;
    } else {
        at.only_here(deviation)?;
        at.read_here(squared, reads)?;
        let other: Sub = at.producer(deviation)?;
        require!((other.a, other.b) == (x, mean), "it divides another deviation than it squares");
    }
    let mean: ReduceMean = at.producer(mean)?;
    require!(mean.x == x, "the mean of another value is subtracted");
    let rank = at.rank(x)?;
    for reduction in [&mean, &variance] {
        require!(over_last_axis(at, reduction, rank)?, "it does not normalize the last axis alone");
    }
    require!(
        [sum.a, sum.b].iter().all(|&v| at.rank(v).map_or(true, |axes| axes <= rank)),
        "the ε adds axes to the value"
    );
    let dtype = at.dtype(x)?;
    require!(matches!(dtype, DType::F32 | DType::F16 | DType::Bf16), "LayerNormalization computes in single precision");

    let features = features(at, x).ok_or(Miss("the length of the last axis is not known"))?;
    let mut new = at.rewrite();
    let scale = new.reals("scale", ArrayD::ones(IxDyn(&[features])), dtype)?;
    new.replace_root(LayerNormalization { x, scale, bias: None, axis: -1, epsilon, stash_type: 1 })
}

/// What is squared, and how often the square reads it.
fn squared(at: &Site, value: ValueId) -> Match<(ValueId, usize)> {
    at.only_here(value)?;
    if let Ok(Mul { a, b }) = at.producer(value) {
        require!(a == b, "a product that is not a square");
        return Ok((a, 2));
    }
    let Pow { a, b } = at.producer(value)?;
    require!(at.rank(b)? <= 1 && two(at, b), "another power than the square");
    Ok((a, 1))
}

fn two(at: &Site, value: ValueId) -> bool {
    at.float(value) == Ok(2.0) || at.ints(value).is_ok_and(|ints| ints == [2])
}

fn over_last_axis(at: &Site, mean: &ReduceMean, rank: usize) -> Match<bool> {
    let axes = at.ints(mean.axes.ok_or(Miss("the mean is over all axes"))?)?;
    Ok(mean.keepdims == 1 && (axes == [-1] || axes == [rank as i64 - 1]))
}

/// The length of the last axis of `x`: of its shape, or of a vector that multiplies the result or is added to it.
fn features(at: &Site, x: ValueId) -> Option<usize> {
    if let Some(rten_shape_inference::SymExpr::Value(length)) =
        at.shapes().lengths(x).and_then(|all| all.last().cloned())
    {
        return usize::try_from(length).ok();
    }
    let uses = &at.model.value(at.result()).uses;
    uses.iter().find_map(|place| match place {
        Use::Node(reader, _) => vector_beside(at, *reader),
        Use::Output(..) => None,
    })
}

fn vector_beside(at: &Site, reader: NodeId) -> Option<usize> {
    let node = at.model.node(reader);
    let elementwise = matches!(node.op.as_str(), "Mul" | "Add") && node.domain.is_empty();
    let mut constants = node.inputs.iter().flatten().filter_map(|&operand| at.model.constant(operand));
    // A vector of one would broadcast over an axis of any length.
    constants.find(|tensor| elementwise && tensor.rank() == 1 && tensor.len() > 1).map(|tensor| tensor.len())
}
