//! Floats between integers: attention and layer normalization, as operators that read what they need where it is.

use crate::ir::op::{Add, Div, LayerNormalization, MatMul, Mul, Softmax, Sum, Transpose};
use crate::ir::{DType, ValueId};
use crate::require;
use crate::rewrite::{Match, Rewrite, Site};
use crate::runtime::int8::operators as int8;

/// MatMul(Softmax(MatMul(q, k) · scale + mask), v).
pub(super) fn attention(at: &Site, MatMul { a, b: v }: MatMul) -> Match<Rewrite> {
    let softmax: Softmax = at.feeder(a)?;
    let rank = at.rank(a)? as i64;
    require!(rank >= 2 && matches!(softmax.axis, axis if axis == -1 || axis == rank - 1), "not over the last axis");
    let (scores, mask) = masked(at, softmax.x)?;
    let (scores, scale) = scaled(at, scores);
    let MatMul { a: q, b: k } = at.feeder(scores)?;
    require!(at.rank(q)? >= 2 && at.rank(k)? >= 2 && at.rank(v)? >= 2, "a product with a vector");
    for value in [q, k, v] {
        require!(at.dtype(value)? == DType::F32, "not of float32");
        require!(at.model.constant(value).is_none(), "a product with a constant");
    }
    let ((q, q_perm), (k, k_perm), (v, v_perm)) = (transposed(at, q), transposed(at, k), transposed(at, v));
    let attention = int8::Attention { q, k, v, mask, scale, q_perm, k_perm, v_perm, y_perm: vec![] };
    at.rewrite().replace_root(attention)
}

/// Which operand of an Add is the product, and which the mask.
fn masked(at: &Site, x: ValueId) -> Match<(ValueId, Option<ValueId>)> {
    let Ok(Add { a, b }) = at.feeder::<Add>(x) else { return Ok((x, None)) };
    let is_product = |value| at.feeder::<MatMul>(scaled(at, value).0).is_ok();
    let (scores, mask) = if is_product(a) { (a, b) } else { (b, a) };
    require!(at.dtype(mask)? == DType::F32, "a mask that is not of float32");
    Ok((scores, Some(mask)))
}

/// What a product is multiplied with: one number.
fn scaled(at: &Site, x: ValueId) -> (ValueId, f32) {
    let number = |value: ValueId| at.tensor(value).ok().filter(|tensor| tensor.rank() == 0)?.as_float();
    if let Ok(Mul { a, b }) = at.feeder::<Mul>(x) {
        for (x, scale) in [(a, b), (b, a)] {
            if let Some(scale) = number(scale) {
                return (x, scale);
            }
        }
    }
    if let Ok(Div { a, b }) = at.feeder::<Div>(x)
        && let Some(divisor) = number(b).filter(|&divisor| divisor != 0.0)
    {
        return (a, 1.0 / divisor);
    }
    (x, 1.0)
}

/// What a Transpose reads and how; a value that no Transpose makes is read as it is.
fn transposed(at: &Site, value: ValueId) -> (ValueId, Vec<i64>) {
    match at.producer::<Transpose>(value) {
        Ok(Transpose { x, perm }) if !perm.is_empty() => (x, perm),
        _ => (value, vec![]),
    }
}

/// Transpose(Attention), where rows of the result stay whole.
pub(super) fn transposed_attention(at: &Site, Transpose { x, perm }: Transpose) -> Match<Rewrite> {
    let attention: int8::Attention = at.feeder(x)?;
    require!(attention.y_perm.is_empty(), "transposed twice");
    require!(perm.last().is_some_and(|&last| last == perm.len() as i64 - 1), "the last axis moves");
    at.rewrite().replace_root(int8::Attention { y_perm: perm, ..attention })
}

/// LayerNormalization over the last axis, of a sum if it is one.
pub(super) fn layer_norm(at: &Site, node: LayerNormalization) -> Match<Rewrite> {
    require!(node.stash_type == 1, "computed in another precision");
    require!(at.node().outputs.iter().skip(1).all(Option::is_none), "its mean is asked for");
    require!(at.dtype(node.x)? == DType::F32, "not of float32");
    let rank = at.rank(node.x)? as i64;
    require!(rank > 0 && (node.axis == -1 || node.axis == rank - 1), "not over the last axis");
    for value in [Some(node.scale), node.bias].into_iter().flatten() {
        let tensor = at.tensor(value)?;
        require!(tensor.dtype() == DType::F32 && tensor.rank() == 1, "no scale and bias for each element");
    }
    let terms = match (at.feeder::<Add>(node.x), at.feeder::<Sum>(node.x)) {
        (Ok(Add { a, b }), _) => vec![a, b],
        (_, Ok(Sum { xs })) => xs,
        _ => vec![],
    };
    let (x, other) = match terms[..] {
        [a, b] if at.model.constant(a).is_none() && at.model.constant(b).is_none() => (a, Some(b)),
        _ => (node.x, None),
    };
    let LayerNormalization { scale, bias, epsilon, .. } = node;
    at.rewrite().replace_root(int8::LayerNorm { x, scale, bias, other, epsilon })
}
