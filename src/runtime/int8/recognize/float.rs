//! Floats between integers: attention, softmax, layer normalization and GELU, as operators that read what they need where it is.

use crate::analysis::shapes::fixed_length;
use crate::ir::op::{Add, Div, Gelu, LayerNormalization, MatMul, Mul, Softmax, Sum, Transpose};
use crate::ir::{DType, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Site, gelu};
use crate::runtime::int8::operators as int8;

/// MatMul(Softmax(MatMul(q, k) · scale + mask), v).
pub(super) fn attention(at: &Site, MatMul { a, b: v }: MatMul) -> Match<Rewrite> {
    let softmax: Softmax = at.feeder(a)?;
    let rank = at.rank(a)? as i64;
    require!(rank >= 2 && matches!(softmax.axis, axis if axis == -1 || axis == rank - 1), "not over the last axis");
    let (scores, mask) = masked(at, softmax.x)?;
    let (scores, scale) = scaled(at, scores);
    let MatMul { a: q, b: k } = at.feeder(scores)?;
    // A number before the product is multiplied behind it, as ONNX Runtime does.
    let ((q, of_q), (k, of_k)) = (scaled(at, q), scaled(at, k));
    let scale = scale * of_q * of_k;
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
    let number = |value: ValueId| at.tensor(value).ok().filter(|tensor| tensor.rank() <= 1)?.as_float();
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

/// Softmax over the last axis, where it is not that of an attention.
pub(super) fn softmax(at: &Site, Softmax { x, axis }: Softmax) -> Match<Rewrite> {
    let rank = at.rank(x)? as i64;
    require!(rank > 0 && (axis == -1 || axis == rank - 1), "not over the last axis");
    require!(at.dtype(x)? == DType::F32, "not of float32");
    at.rewrite().replace_root(int8::Softmax { x })
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

/// GELU in the operators that exporters write for it.
pub(super) fn written_out_gelu(at: &Site, _: Mul) -> Match<Rewrite> {
    gelu_of(at, gelu::exact(at, at.result())?)
}

pub(super) fn gelu(at: &Site, Gelu { x, approximate }: Gelu) -> Match<Rewrite> {
    require!(approximate == "none", "by tanh");
    gelu_of(at, x)
}

fn gelu_of(at: &Site, x: ValueId) -> Match<Rewrite> {
    require!(at.dtype(x)? == DType::F32, "not of float32");
    at.rewrite().replace_root(int8::Gelu { x, factors: None, y_scale: None, y_zero_point: 0 })
}

/// Gelu · factors.
pub(super) fn scaled_gelu(at: &Site, product: Mul) -> Match<Rewrite> {
    let (scaled, factors) = scaled_rows(at, product)?;
    let gelu: int8::Gelu = at.feeder(scaled)?;
    require!(gelu.factors.is_none() && gelu.y_scale.is_none(), "scaled or quantized already");
    at.rewrite().replace_root(int8::Gelu { factors: Some(factors), ..gelu })
}

/// Quantize(x · factors).
pub(super) fn scaled_quantize(at: &Site, to: int8::Quantize) -> Match<Rewrite> {
    let (x, factors) = scaled_rows(at, at.feeder(to.x)?)?;
    require!(to.factors.is_none() && !to.channels_last && at.rank(x)? <= 3, "scaled already, or perhaps an image");
    at.rewrite().replace_root(int8::Quantize { x, factors: Some(factors), ..to })
}

/// What is multiplied by one constant for each index of the last axis, and the constant.
fn scaled_rows(at: &Site, Mul { a, b }: Mul) -> Match<(ValueId, ValueId)> {
    let (x, factors) = if at.model.constant(b).is_some() { (a, b) } else { (b, a) };
    let tensor = at.tensor(factors)?;
    require!(tensor.dtype() == DType::F32 && at.dtype(x)? == DType::F32, "not of float32");
    let lengths = at.shapes().lengths(x).ok_or(Miss("its shape is not known"))?;
    let last = lengths.last().and_then(fixed_length);
    let is_row = tensor.rank() <= lengths.len() && tensor.shape().last() == Some(&tensor.len());
    require!(is_row && last == Some(tensor.len()), "no factor for each index of the last axis");
    Ok((x, factors))
}

/// Images are left: the layout of their bytes is chosen where they are quantized.
pub(super) fn quantized_gelu(at: &Site, to: int8::Quantize) -> Match<Rewrite> {
    let gelu: int8::Gelu = at.feeder(to.x)?;
    require!(gelu.y_scale.is_none() && !to.channels_last, "quantized already, or with channels last");
    require!(at.rank(gelu.x)? <= 3, "perhaps an image");
    at.rewrite().replace_root(int8::Gelu { y_scale: Some(to.scale), y_zero_point: to.zero_point, ..gelu })
}
