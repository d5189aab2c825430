//! Reading what stands between integers and reals: scales, zero points, limits, biases.

use crate::ir::op::{Clip, DequantizeLinear, QuantizeLinear, Relu};
use crate::ir::{DType, Operation, Tensor, ValueId};
use crate::kernels::Quantization;
use crate::require;
use crate::rewrite::{Draft, Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators::Flip;

/// One scale and zero point for a whole tensor of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    pub scale: f32,
    /// As it would be if the integers were unsigned.
    pub zero_point: i64,
    pub is_signed: bool,
}

impl Scale {
    fn of(at: &Site, scale: ValueId, zero_point: Option<ValueId>, unsaid: Option<DType>) -> Match<Scale> {
        // What a body reads from outside is no constant in tract.
        require!(at.model.graph(at.node().graph).parent.is_none(), "in the body of another node");
        let tensor = at.tensor(scale)?;
        require!(tensor.dtype() == DType::F32, "the scale is not float32");
        let scale = tensor.as_float().ok_or(Miss("one scale for each channel"))?;
        require!(scale.is_finite() && scale > 0.0, "the scale is not a positive number");
        let (zero_point, dtype) = match zero_point {
            None => (0, unsaid.ok_or(Miss("its element type is not known"))?),
            Some(zero_point) => {
                let tensor = at.tensor(zero_point)?;
                (tensor.as_int().ok_or(Miss("one zero point for each channel"))?, tensor.dtype())
            }
        };
        match dtype {
            DType::U8 => Ok(Scale { scale, zero_point, is_signed: false }),
            DType::I8 => Ok(Scale { scale, zero_point: zero_point + 128, is_signed: true }),
            _ => Err(Miss("not of 8 bits")),
        }
    }

    pub fn of_quantize(at: &Site, node: &QuantizeLinear) -> Match<Scale> {
        require!(node.block_size == 0, "quantized in blocks");
        require!(node.precision == 0, "computed in another precision");
        let unsaid = match node.output_dtype {
            0 => DType::U8,
            code => DType::from_code(code as i32).ok_or(Miss("of an unknown type"))?,
        };
        Scale::of(at, node.scale, node.zero_point, Some(unsaid))
    }

    pub fn of_dequantize(at: &Site, node: &DequantizeLinear) -> Match<Scale> {
        require!(node.block_size == 0 && matches!(node.output_dtype, 0 | 1), "in blocks, or to another type");
        Scale::of(at, node.scale, node.zero_point, at.dtype(node.x).ok())
    }

    /// The integer that stands for a real.
    pub fn integer(&self, real: f32) -> i64 {
        ((real / self.scale).round_ties_even() + self.zero_point as f32).clamp(0.0, 255.0) as i64
    }
}

/// A u8 tensor and its scale.
#[derive(Clone, Copy)]
pub(super) struct Integers {
    pub value: ValueId,
    /// The tensor of the model that `value` is, or has the signs flipped of.
    pub source: ValueId,
    pub scale: f32,
    pub zero_point: i64,
}

/// What a DequantizeLinear makes `value` of.
pub(super) fn dequantized(at: &Site, value: ValueId) -> Match<(ValueId, Scale)> {
    let node: DequantizeLinear = at.producer(value)?;
    Ok((node.x, Scale::of_dequantize(at, &node)?))
}

/// The integers that `value` is dequantized from, as u8.
pub(super) fn integers(at: &Site, new: &mut Draft, value: ValueId) -> Match<Integers> {
    let (source, scale) = dequantized(at, value)?;
    Ok(Integers { value: unsigned(new, source, &scale), source, scale: scale.scale, zero_point: scale.zero_point })
}

/// The u8 for a tensor of the scale's type.
pub(super) fn unsigned(new: &mut Draft, value: ValueId, scale: &Scale) -> ValueId {
    match scale.is_signed {
        true => new.add(Flip { x: value, to: DType::U8.code().into() }),
        false => value,
    }
}

/// What the QuantizeLinear at the root asks of the operator that computes `value`.
pub(super) struct Target {
    /// The real before all limits.
    pub value: ValueId,
    pub to: Scale,
    pub low: i64,
    pub high: i64,
}

impl Target {
    /// Reads the root, and Relu and Clip between it and `value`.
    pub fn of(at: &Site, root: &QuantizeLinear) -> Match<Target> {
        let to = Scale::of_quantize(at, root)?;
        let mut target = Target { value: root.x, to, low: 0, high: 255 };
        loop {
            if let Ok(Relu { x }) = at.feeder(target.value) {
                target.limit(0.0, f32::INFINITY);
                target.value = x;
            } else if let Ok(Clip { x, min, max }) = at.feeder(target.value) {
                let bound = |bound: Option<ValueId>, open| bound.map_or(Ok(open), |bound| at.float(bound));
                let (low, high) = (bound(min, f32::NEG_INFINITY)?, bound(max, f32::INFINITY)?);
                require!(low <= high, "limits that cross");
                target.limit(low, high);
                target.value = x;
            } else {
                return Ok(target);
            }
        }
    }

    pub fn quantization(&self) -> Quantization {
        Quantization { scale: self.to.scale, zero_point: self.to.zero_point as u8 }
    }

    // q(clip(x, a, b)) = clip(q(x), q(a), q(b)), since q is monotone. Later limits win, as in clip(.., low, high).
    fn limit(&mut self, low: f32, high: f32) {
        let limit = |bound: f32| self.to.integer(bound).clamp(self.low, self.high);
        (self.low, self.high) = (limit(low), limit(high));
    }

    /// Ends a draft with `operation`, which computes unsigned integers, in the root's place. `name` is the node's that
    /// it computes in integers.
    pub fn end(&self, mut new: Draft, operation: impl Into<Operation>, name: &str) -> Match<Rewrite> {
        let rewrite = match self.to.is_signed {
            false => new.replace_root(operation),
            true => {
                let x = new.add(operation);
                new.replace_root(Flip { x, to: DType::I8.code().into() })
            }
        };
        Ok(rewrite?.named(name))
    }
}

/// A constant matrix or kernel with its scales.
pub(super) struct Weights {
    pub value: ValueId,
    /// One, or one for each channel.
    pub scales: Vec<f32>,
    pub scale: ValueId,
    /// None where all are zero.
    pub zero_point: Option<ValueId>,
    pub channels: usize,
}

impl Weights {
    /// The weights that `value` is dequantized from; their channels lie along `axis`.
    pub fn of(at: &Site, value: ValueId, axis: usize) -> Match<Weights> {
        let node: DequantizeLinear = at.producer(value)?;
        require!(node.block_size == 0 && matches!(node.output_dtype, 0 | 1), "in blocks, or to another type");
        let tensor = at.tensor(node.x)?;
        require!(matches!(tensor.dtype(), DType::I8 | DType::U8), "weights that are not of 8 bits");
        require!(axis < tensor.rank(), "weights of another rank");
        let channels = tensor.shape()[axis];
        let scales = at.tensor(node.scale)?;
        require!(scales.dtype() == DType::F32, "the scale is not float32");
        let along = if node.axis < 0 { node.axis + tensor.rank() as i64 } else { node.axis };
        let fits = |length: usize| length == 1 || length == channels && along == axis as i64;
        require!(fits(scales.len()), "scales along another axis");
        let zero_point = match node.zero_point {
            None => None,
            Some(value) => {
                let zeros = at.tensor(value)?;
                require!(zeros.dtype() == tensor.dtype() && fits(zeros.len()), "zero points of another form");
                at.ints(value)?.iter().any(|&zero| zero != 0).then_some(value)
            }
        };
        let scales = at.floats(node.scale)?.into_owned();
        Ok(Weights { value: node.x, scales, scale: node.scale, zero_point, channels })
    }

    /// The scale of the accumulators, one for each channel.
    fn accumulated(&self, x_scale: f32) -> Vec<f32> {
        let of = |channel: usize| self.scales[if self.scales.len() == 1 { 0 } else { channel }];
        (0..self.channels).map(|channel| x_scale * of(channel)).collect()
    }

    /// The bias as the operators of ours take it: integers at the scale of the accumulators, or, where the result is
    /// float and so is the bias, floats.
    pub fn bias(
        &self,
        at: &Site,
        new: &mut Draft,
        bias: Option<ValueId>,
        x_scale: f32,
        is_float: bool,
    ) -> Match<Option<ValueId>> {
        let Some(bias) = bias else { return Ok(None) };
        let scales = self.accumulated(x_scale);
        let floats = match at.producer::<DequantizeLinear>(bias) {
            Ok(node) => {
                let integers = at.tensor(node.x)?;
                require!(integers.dtype() == DType::I32 && node.block_size == 0, "a bias that is not of 32 bits");
                require!(integers.len() == self.channels, "a bias of another form");
                let zeros = node.zero_point.map_or(Ok(vec![]), |zero| at.ints(zero))?;
                require!(zeros.iter().all(|&zero| zero == 0), "a bias with zero points");
                let own = at.floats(node.scale)?;
                require!(own.len() == 1 || own.len() == self.channels, "a bias in blocks");
                let own = |channel: usize| own[if own.len() == 1 { 0 } else { channel }];
                // Scales that were multiplied in another order are the same; ONNX Runtime does not even look.
                let near = |(channel, &scale): (usize, &f32)| (own(channel) - scale).abs() <= 1e-3 * scale.abs();
                if scales.iter().enumerate().all(near) {
                    return Ok(Some(match integers.rank() {
                        1 => node.x,
                        _ => new.constant("bias", integers.reshaped(vec![self.channels]).expect("as many")),
                    }));
                }
                let integers = at.ints(node.x)?;
                integers.iter().enumerate().map(|(channel, &q)| q as f32 * own(channel)).collect::<Vec<_>>()
            }
            Err(_) => at.floats(bias)?.into_owned(),
        };
        require!(floats.len() == self.channels, "a bias of another form");
        let shape = vec![self.channels];
        Ok(Some(match is_float {
            true => new.constant("bias", Tensor::from_vec(shape, floats)),
            false => {
                let integer = |(bias, scale): (&f32, &f32)| (bias / scale).round_ties_even() as i32;
                new.constant(
                    "bias",
                    Tensor::from_vec(shape, floats.iter().zip(&scales).map(integer).collect::<Vec<_>>()),
                )
            }
        }))
    }
}
