//! Convolutions of dequantized activations and weights.

use super::scale::{Target, Weights, integers};
use crate::ir::op::{Conv, ConvTranspose, QuantizeLinear};
use crate::ir::{Node, NodeId, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators as int8;

/// Q(limits(Conv(DQ(x), DQ(w), b))) in integers.
pub(super) fn quantized_conv(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let conv: Conv = at.feeder(target.value)?;
    convolve(at, conv, &computing(at, target.value)?.name, Some(&target))
}

/// Conv(DQ(x), DQ(w), b) with integer sums.
pub(super) fn float_conv(at: &Site, conv: Conv) -> Match<Rewrite> {
    convolve(at, conv, &at.node().name, None)
}

pub(super) fn quantized_conv_transpose(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let conv: ConvTranspose = at.feeder(target.value)?;
    convolve_transposed(at, conv, &computing(at, target.value)?.name, Some(&target))
}

pub(super) fn float_conv_transpose(at: &Site, conv: ConvTranspose) -> Match<Rewrite> {
    convolve_transposed(at, conv, &at.node().name, None)
}

/// The node that computes `value`, whose name the operator of ours takes.
pub(super) fn computing<'m>(at: &Site<'m>, value: ValueId) -> Match<&'m Node> {
    let id: NodeId = at.model.producer(value).ok_or(Miss("not computed by a node"))?;
    Ok(at.model.node(id))
}

fn convolve(at: &Site, conv: Conv, name: &str, target: Option<&Target>) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let x = integers(at, &mut new, conv.x)?;
    let w = Weights::of(at, conv.w, 0)?;
    let lengths = at.tensor(w.value)?.shape();
    require!(matches!(lengths.len(), 3 | 4), "space of more than two axes");
    let kernel = &lengths[2..];
    require!(conv.kernel_shape.is_empty() || is_equal(&conv.kernel_shape, kernel), "a kernel of another shape");
    require!(conv.group > 0 && w.channels % conv.group as usize == 0, "channels that do not fall into the groups");
    let bias = w.bias(at, &mut new, conv.b, x.scale, target.is_none())?;
    let operation = int8::Conv {
        x: x.value,
        w: w.value,
        w_scale: w.scale,
        w_zero_point: w.zero_point,
        bias,
        other: None,
        x_scale: x.scale,
        x_zero_point: x.zero_point,
        y_scale: target.map(|target| target.to.scale),
        y_zero_point: target.map_or(0, |target| target.to.zero_point),
        low: target.map_or(0, |target| target.low),
        high: target.map_or(255, |target| target.high),
        auto_pad: conv.auto_pad,
        dilations: conv.dilations,
        group: conv.group,
        pads: conv.pads,
        strides: conv.strides,
        other_scale: 1.0,
        other_zero_point: 0,
        sum_scale: 1.0,
        sum_zero_point: 0,
        sum_low: 0,
        sum_high: 255,
        channels_last: false,
        isa: String::new(),
        arithmetic: "exact".into(),
    };
    match target {
        Some(target) => target.end(new, operation, name),
        None => new.replace_root(operation),
    }
}

fn convolve_transposed(at: &Site, conv: ConvTranspose, name: &str, target: Option<&Target>) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let x = integers(at, &mut new, conv.x)?;
    require!(conv.group == 1, "a transposed convolution in groups");
    let w = Weights::of(at, conv.w, 1)?;
    let lengths = at.tensor(w.value)?.shape();
    require!(matches!(lengths.len(), 3 | 4), "space of more than two axes");
    let kernel = &lengths[2..];
    require!(conv.kernel_shape.is_empty() || is_equal(&conv.kernel_shape, kernel), "a kernel of another shape");
    require!(conv.auto_pad == "NOTSET" && conv.output_shape.is_empty(), "padding that depends on the shape");
    let bias = w.bias(at, &mut new, conv.b, x.scale, target.is_none())?;
    let operation = int8::ConvTranspose {
        x: x.value,
        w: w.value,
        w_scale: w.scale,
        w_zero_point: w.zero_point,
        bias,
        x_scale: x.scale,
        x_zero_point: x.zero_point,
        y_scale: target.map(|target| target.to.scale),
        y_zero_point: target.map_or(0, |target| target.to.zero_point),
        low: target.map_or(0, |target| target.low),
        high: target.map_or(255, |target| target.high),
        dilations: conv.dilations,
        group: conv.group,
        output_padding: conv.output_padding,
        pads: conv.pads,
        strides: conv.strides,
        channels_last: false,
        isa: String::new(),
        arithmetic: "exact".into(),
    };
    match target {
        Some(target) => target.end(new, operation, name),
        None => new.replace_root(operation),
    }
}

fn is_equal(attr: &[i64], lengths: &[usize]) -> bool {
    attr.len() == lengths.len() && attr.iter().zip(lengths).all(|(&a, &b)| a == b as i64)
}

/// QLinearAdd(conv, other) as the end of the convolution. The kernels add as ONNX Runtime does, where it shows which
/// operand is the first.
pub(super) fn residual(at: &Site, sum: int8::Sum) -> Match<Rewrite> {
    let conv: int8::Conv = at.feeder(sum.a)?;
    require!(conv.other.is_none() && conv.y_scale.is_some(), "the convolution has another end");
    require!(at.shapes().same_shape(sum.a, sum.b), "operands that are not known to have one shape");
    let fused = int8::Conv {
        other: Some(sum.b),
        other_scale: sum.b_scale,
        other_zero_point: sum.b_zero_point,
        sum_scale: sum.y_scale,
        sum_zero_point: sum.y_zero_point,
        sum_low: sum.low,
        sum_high: sum.high,
        ..conv
    };
    let name = &computing(at, sum.a)?.name;
    Ok(at.rewrite().replace_root(fused)?.named(name))
}
