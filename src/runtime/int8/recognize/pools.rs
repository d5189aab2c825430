//! Pools of dequantized images.

use super::conv::computing;
use super::scale::{Target, dequantized, integers, unsigned};
use crate::ir::DType;
use crate::ir::op::{AveragePool, DequantizeLinear, GlobalAveragePool, MaxPool, QuantizeLinear};
use crate::require;
use crate::rewrite::{Match, Rewrite, Site};
use crate::runtime::int8::operators as int8;

/// Q(limits(GlobalAveragePool(DQ(x)))) in integers.
pub(super) fn quantized_global_average(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let pool: GlobalAveragePool = at.feeder(target.value)?;
    let mut new = at.rewrite();
    let x = integers(at, &mut new, pool.x)?;
    let operation = int8::GlobalAveragePool {
        x: x.value,
        x_scale: x.scale,
        x_zero_point: x.zero_point,
        y_scale: target.to.scale,
        y_zero_point: target.to.zero_point,
        low: target.low,
        high: target.high,
        channels_last: false,
    };
    target.end(new, operation, &computing(at, target.value)?.name)
}

/// Q(limits(AveragePool(DQ(x)))) in integers.
pub(super) fn quantized_average(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let pool: AveragePool = at.feeder(target.value)?;
    require!(matches!(pool.kernel_shape.len(), 1 | 2), "space of more than two axes");
    let mut new = at.rewrite();
    let x = integers(at, &mut new, pool.x)?;
    let operation = int8::AveragePool {
        x: x.value,
        x_scale: x.scale,
        x_zero_point: x.zero_point,
        y_scale: target.to.scale,
        y_zero_point: target.to.zero_point,
        low: target.low,
        high: target.high,
        auto_pad: pool.auto_pad,
        ceil_mode: pool.ceil_mode,
        count_include_pad: pool.count_include_pad,
        dilations: pool.dilations,
        kernel_shape: pool.kernel_shape,
        pads: pool.pads,
        strides: pool.strides,
        channels_last: false,
    };
    target.end(new, operation, &computing(at, target.value)?.name)
}

/// MaxPool(DQ(x)) = DQ(MaxPool(x)), since scales are positive.
pub(super) fn max_of_integers(at: &Site, pool: MaxPool) -> Match<Rewrite> {
    require!(at.node().outputs.len() == 1, "indices are asked for");
    require!(matches!(pool.kernel_shape.len(), 1 | 2), "space of more than two axes");
    let dequantize: DequantizeLinear = at.producer(pool.x)?;
    let (value, scale) = dequantized(at, pool.x)?;
    let mut new = at.rewrite();
    let operation = int8::MaxPool {
        x: unsigned(&mut new, value, &scale),
        auto_pad: pool.auto_pad,
        ceil_mode: pool.ceil_mode,
        dilations: pool.dilations,
        kernel_shape: pool.kernel_shape,
        pads: pool.pads,
        strides: pool.strides,
        channels_last: false,
    };
    let pooled = new.add(operation);
    let x = match scale.is_signed {
        true => new.add(int8::Flip { x: pooled, to: DType::I8.code().into() }),
        false => pooled,
    };
    new.replace_root(DequantizeLinear { x, ..dequantize })
}
