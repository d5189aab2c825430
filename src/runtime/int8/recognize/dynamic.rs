//! Products of activations that are quantized when they arrive: DynamicQuantizeLinear, a product of integers, and its
//! scale.

use super::conv::computing;
use crate::ir::op::{Add, Cast, Mul, Reshape};
use crate::ir::{DType, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators as int8;

/// The sums that a Mul scales, and the scales of the activations and of the weights.
struct Scaled {
    sums: ValueId,
    x_scale: ValueId,
    w_scale: ValueId,
}

impl Scaled {
    /// Cast(sums) · (x_scale · w_scale), in any order.
    fn of(at: &Site, mul: &Mul) -> Match<Scaled> {
        require!(at.model.graph(at.node().graph).parent.is_none(), "in the body of another node");
        let sides = [(mul.a, mul.b), (mul.b, mul.a)];
        let cast = sides.iter().find_map(|&(cast, scale)| Some((at.feeder::<Cast>(cast).ok()?, scale)));
        let (cast, scale) = cast.ok_or(Miss("no Cast is scaled"))?;
        require!(cast.to == i64::from(DType::F32.code()), "a Cast to another type");
        let scales: Mul = at.producer(scale)?;
        let (x_scale, w_scale) = match at.model.constant(scales.b).is_some() {
            true => (scales.a, scales.b),
            false => (scales.b, scales.a),
        };
        Ok(Scaled { sums: cast.x, x_scale, w_scale })
    }

    /// That x, its scale and its zero point come of one DynamicQuantizeLinear; the scale of the weights fits.
    fn check(&self, at: &Site, x: ValueId, zero_point: Option<ValueId>, channels: usize) -> Match<ValueId> {
        let zero_point = zero_point.ok_or(Miss("no zero point"))?;
        let node = computing(at, x)?;
        require!(node.op == "DynamicQuantizeLinear" && node.domain.is_empty(), "quantized by another operator");
        require!(node.outputs == [Some(x), Some(self.x_scale), Some(zero_point)], "the scale is another tensor's");
        let scales = at.tensor(self.w_scale)?;
        require!(scales.dtype() == DType::F32, "the scale is not float32");
        require!(scales.len() == 1 || scales.len() == channels && scales.rank() == 1, "scales along another axis");
        Ok(zero_point)
    }
}

/// The zero points of weights, none where all are zero.
fn weight_zero_point(at: &Site, zero_point: Option<ValueId>, channels: usize) -> Match<Option<ValueId>> {
    let Some(zero_point) = zero_point else { return Ok(None) };
    let zeros = at.ints(zero_point)?;
    require!(zeros.len() == 1 || zeros.len() == channels, "zero points along another axis");
    Ok(zeros.iter().any(|&zero| zero != 0).then_some(zero_point))
}

/// Cast(MatMulInteger(a, b)) · (a_scale · b_scale).
pub(super) fn scaled_matmul(at: &Site, mul: Mul) -> Match<Rewrite> {
    let scaled = Scaled::of(at, &mul)?;
    let product: int8::MatMulInteger = at.feeder(scaled.sums)?;
    let b = at.tensor(product.b)?;
    require!(b.rank() == 2 && matches!(b.dtype(), DType::I8 | DType::U8), "no constant matrix of 8 bits");
    let columns = b.shape()[1];
    let a_zero_point = scaled.check(at, product.a, product.a_zero_point, columns)?;
    let operation = int8::DynamicMatMul {
        a: product.a,
        a_scale: scaled.x_scale,
        a_zero_point,
        b: product.b,
        b_scale: scaled.w_scale,
        b_zero_point: weight_zero_point(at, product.b_zero_point, columns)?,
        bias: None,
        isa: String::new(),
        arithmetic: "exact".into(),
    };
    let name = &computing(at, scaled.sums)?.name;
    Ok(at.rewrite().replace_root(operation)?.named(name))
}

/// Cast(ConvInteger(x, w)) · (x_scale · w_scale).
pub(super) fn scaled_conv(at: &Site, mul: Mul) -> Match<Rewrite> {
    let scaled = Scaled::of(at, &mul)?;
    let conv: int8::ConvInteger = at.feeder(scaled.sums)?;
    let w = at.tensor(conv.w)?;
    require!(matches!(w.rank(), 3 | 4) && matches!(w.dtype(), DType::I8 | DType::U8), "no constant kernel of 8 bits");
    let channels = w.shape()[0];
    let x_zero_point = scaled.check(at, conv.x, conv.x_zero_point, channels)?;
    // A vector would be the scales of the last axis.
    require!(at.tensor(scaled.w_scale)?.len() == 1, "scales along another axis");
    let operation = int8::DynamicConv {
        x: conv.x,
        x_scale: scaled.x_scale,
        x_zero_point,
        w: conv.w,
        w_scale: scaled.w_scale,
        w_zero_point: weight_zero_point(at, conv.w_zero_point, channels)?,
        bias: None,
        auto_pad: conv.auto_pad,
        dilations: conv.dilations,
        group: conv.group,
        pads: conv.pads,
        strides: conv.strides,
        isa: String::new(),
        arithmetic: "exact".into(),
    };
    let name = &computing(at, scaled.sums)?.name;
    Ok(at.rewrite().replace_root(operation)?.named(name))
}

/// DynamicMatMul + bias as one operator.
pub(super) fn biased_matmul(at: &Site, Add { a, b }: Add) -> Match<Rewrite> {
    let (product, bias) = if at.model.constant(b).is_some() { (a, b) } else { (b, a) };
    let matmul: int8::DynamicMatMul = at.feeder(product)?;
    require!(matmul.bias.is_none(), "the product has a bias");
    let columns = at.tensor(matmul.b)?.shape()[1];
    let tensor = at.tensor(bias)?;
    require!(tensor.dtype() == DType::F32 && tensor.shape() == [columns], "no bias of one number a column");
    let name = &computing(at, product)?.name;
    Ok(at.rewrite().replace_root(int8::DynamicMatMul { bias: Some(bias), ..matmul })?.named(name))
}

/// DynamicConv + bias as one operator; the bias is a vector that is given an axis for each of the result.
pub(super) fn biased_conv(at: &Site, Add { a, b }: Add) -> Match<Rewrite> {
    let sides = [(a, b), (b, a)];
    let found = sides.iter().find_map(|&(conv, bias)| Some((conv, at.feeder::<int8::DynamicConv>(conv).ok()?, bias)));
    let (product, conv, bias) = found.ok_or(Miss("no convolution is added to"))?;
    require!(conv.bias.is_none(), "the convolution has a bias");
    let w = at.tensor(conv.w)?;
    let (channels, rank) = (w.shape()[0], w.rank());
    let reshape: Reshape = at.producer(bias)?;
    let vector = at.tensor(reshape.x)?;
    require!(vector.dtype() == DType::F32 && vector.shape() == [channels], "no bias of one number a channel");
    let target = at.ints(reshape.shape)?;
    let fits = |(axis, &length): (usize, &i64)| length == 1 || axis == 1 && (length == -1 || length == channels as i64);
    require!(target.len() == rank && target.iter().enumerate().all(fits), "a bias along another axis");
    let name = &computing(at, product)?.name;
    Ok(at.rewrite().replace_root(int8::DynamicConv { bias: Some(reshape.x), ..conv })?.named(name))
}
