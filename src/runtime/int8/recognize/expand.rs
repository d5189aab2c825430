//! Operators that take quantized operands, as what they are short for: DequantizeLinear, operator, QuantizeLinear. The
//! other rules then see one form only.

use crate::ir::op::{
    Add, AveragePool, Concat, Conv, DequantizeLinear, Gemm, GlobalAveragePool, LeakyRelu, MatMul, Mul, QuantizeLinear,
    Sigmoid, Softmax,
};
use crate::ir::{Operation, Tensor, ValueId};
use crate::require;
use crate::rewrite::{Draft, Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators as int8;

fn dequantize(
    new: &mut Draft,
    x: ValueId,
    scale: ValueId,
    zero_point: impl Into<Option<ValueId>>,
    axis: i64,
) -> ValueId {
    new.add(DequantizeLinear { x, scale, zero_point: zero_point.into(), axis, block_size: 0, output_dtype: 0 })
}

/// Ends the draft: the root quantizes what `operation` computes under the root's name.
fn quantize(
    at: &Site,
    mut new: Draft,
    operation: impl Into<Operation>,
    scale: ValueId,
    zero_point: impl Into<Option<ValueId>>,
) -> Match<Rewrite> {
    let x = new.instead(at.model, at.result(), operation);
    let zero_point = zero_point.into();
    new.replace_root(QuantizeLinear {
        x,
        scale,
        zero_point,
        axis: 1,
        block_size: 0,
        output_dtype: 0,
        precision: 0,
        saturate: 1,
    })
}

/// A bias of integers at the scale of the accumulators.
fn bias(
    at: &Site,
    new: &mut Draft,
    bias: Option<ValueId>,
    x_scale: ValueId,
    w_scale: ValueId,
) -> Match<Option<ValueId>> {
    let Some(bias) = bias else { return Ok(None) };
    let scale = match (at.float(x_scale), at.floats(w_scale)) {
        (Ok(x), Ok(w)) => {
            let scales: Vec<f32> = w.iter().map(|w| x * w).collect();
            let shape = if scales.len() == 1 { vec![] } else { vec![scales.len()] };
            new.constant("bias_scale", Tensor::from_vec(shape, scales))
        }
        _ => new.add(Mul { a: x_scale, b: w_scale }),
    };
    Ok(Some(dequantize(new, bias, scale, None, 0)))
}

pub(super) fn qlinear_conv(at: &Site, node: int8::QLinearConv) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let x = dequantize(&mut new, node.x, node.x_scale, node.x_zero_point, 1);
    let w = dequantize(&mut new, node.w, node.w_scale, node.w_zero_point, 0);
    let b = bias(at, &mut new, node.b, node.x_scale, node.w_scale)?;
    let conv = Conv {
        x,
        w,
        b,
        auto_pad: node.auto_pad,
        dilations: node.dilations,
        group: node.group,
        kernel_shape: node.kernel_shape,
        pads: node.pads,
        strides: node.strides,
    };
    quantize(at, new, conv, node.y_scale, node.y_zero_point)
}

pub(super) fn qlinear_matmul(at: &Site, node: int8::QLinearMatMul) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let a = dequantize(&mut new, node.a, node.a_scale, node.a_zero_point, -2);
    let b = dequantize(&mut new, node.b, node.b_scale, node.b_zero_point, -1);
    quantize(at, new, MatMul { a, b }, node.y_scale, node.y_zero_point)
}

pub(super) fn qgemm(at: &Site, node: int8::QGemm) -> Match<Rewrite> {
    require!(node.alpha == 1.0 || node.c.is_none(), "a bias beside alpha");
    let mut new = at.rewrite();
    let a = dequantize(&mut new, node.a, node.a_scale, node.a_zero_point, 1);
    let b = dequantize(&mut new, node.b, node.b_scale, node.b_zero_point, i64::from(!node.transB));
    let c = bias(at, &mut new, node.c, node.a_scale, node.b_scale)?;
    let gemm = Gemm { a, b, c, alpha: node.alpha, beta: 1.0, transA: node.transA, transB: node.transB };
    match node.y_scale {
        Some(scale) => quantize(at, new, gemm, scale, node.y_zero_point),
        None => new.replace_root(gemm),
    }
}

pub(super) fn qlinear_add(at: &Site, node: int8::QLinearAdd) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let a = dequantize(&mut new, node.a, node.a_scale, node.a_zero_point, 1);
    let b = dequantize(&mut new, node.b, node.b_scale, node.b_zero_point, 1);
    quantize(at, new, Add { a, b }, node.y_scale, node.y_zero_point)
}

pub(super) fn qlinear_mul(at: &Site, node: int8::QLinearMul) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let a = dequantize(&mut new, node.a, node.a_scale, node.a_zero_point, 1);
    let b = dequantize(&mut new, node.b, node.b_scale, node.b_zero_point, 1);
    quantize(at, new, Mul { a, b }, node.y_scale, node.y_zero_point)
}

pub(super) fn qlinear_sigmoid(at: &Site, node: int8::QLinearSigmoid) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let x = dequantize(&mut new, node.x, node.x_scale, node.x_zero_point, 1);
    quantize(at, new, Sigmoid { x }, node.y_scale, node.y_zero_point)
}

pub(super) fn qlinear_leaky_relu(at: &Site, node: int8::QLinearLeakyRelu) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let x = dequantize(&mut new, node.x, node.x_scale, node.x_zero_point, 1);
    quantize(at, new, LeakyRelu { x, alpha: node.alpha }, node.y_scale, node.y_zero_point)
}

pub(super) fn qlinear_softmax(at: &Site, node: int8::QLinearSoftmax) -> Match<Rewrite> {
    let last = node.axis == -1 || at.rank(node.x).is_ok_and(|rank| node.axis == rank as i64 - 1);
    require!(node.opset >= 13 || last, "a Softmax that flattens");
    let mut new = at.rewrite();
    let x = dequantize(&mut new, node.x, node.x_scale, node.x_zero_point, 1);
    quantize(at, new, Softmax { x, axis: node.axis }, node.y_scale, node.y_zero_point)
}

pub(super) fn qlinear_global_average_pool(at: &Site, node: int8::QLinearGlobalAveragePool) -> Match<Rewrite> {
    require!(node.channels_last == 0, "channels that are last");
    let mut new = at.rewrite();
    let x = dequantize(&mut new, node.x, node.x_scale, node.x_zero_point, 1);
    quantize(at, new, GlobalAveragePool { x }, node.y_scale, node.y_zero_point)
}

pub(super) fn qlinear_average_pool(at: &Site, node: int8::QLinearAveragePool) -> Match<Rewrite> {
    require!(node.channels_last == 0, "channels that are last");
    let mut new = at.rewrite();
    let x = dequantize(&mut new, node.x, node.x_scale, node.x_zero_point, 1);
    let pool = AveragePool {
        x,
        auto_pad: node.auto_pad,
        ceil_mode: node.ceil_mode,
        count_include_pad: node.count_include_pad,
        dilations: vec![],
        kernel_shape: node.kernel_shape,
        pads: node.pads,
        strides: node.strides,
    };
    quantize(at, new, pool, node.y_scale, node.y_zero_point)
}

pub(super) fn qlinear_concat(at: &Site, node: int8::QLinearConcat) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let mut xs = Vec::new();
    for operand in node.xs.chunks(3) {
        let &[x, scale, zero_point] = operand else { return Err(Miss("an operand without scale or zero point")) };
        xs.push(dequantize(&mut new, x, scale, zero_point, 1));
    }
    quantize(at, new, Concat { xs, axis: node.axis }, node.y_scale, node.y_zero_point)
}
