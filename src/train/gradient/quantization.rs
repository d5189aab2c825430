//! Quantization. Rounding is passed straight through: inside the range of levels, a level changes as the number that it
//! stands for. Both arms together give a scale the gradient of learned step sizes (Esser and others, 2020): round(x/s) - x/s
//! inside the range, and the last level outside.

use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::op::{DequantizeLinear, Max, QuantizeLinear};
use crate::ir::{DType, Tensor, ValueId};

/// Scale and zero point, one each or one for each index of an axis.
struct Grid {
    /// The axis, if scale or zero point have several elements.
    axis: Option<usize>,
    /// As it is broadcast over the elements.
    scale: ValueId,
    /// One number, or one for each index of the axis.
    zero_points: Vec<f64>,
}

impl Grid {
    fn of(
        tape: &mut Tape,
        shape: &[usize],
        scale: ValueId,
        zero_point: Option<ValueId>,
        axis: i64,
        block_size: i64,
    ) -> Result<Grid, Refusal> {
        if block_size != 0 {
            return Err(Refusal("its scales belong to blocks"));
        }
        let zero_points = match zero_point {
            None => vec![0.0],
            Some(zero_point) => {
                let elements = tape.elements(zero_point).ok_or(Refusal("its zero point is not constant"))?;
                elements.into_iter().map(|z| z as f64).collect()
            }
        };
        let count = tape.shape(scale).iter().product::<usize>().max(zero_points.len());
        let rank = shape.len() as i64;
        let axis = if count > 1 { Some(if axis < 0 { axis + rank } else { axis } as usize) } else { None };
        let broadcast = match axis {
            Some(axis) if shape.get(axis) != Some(&count) => return Err(Refusal("its scales fit no axis")),
            Some(axis) if tape.shape(scale) == [count] => tape.reshape(scale, &channels_along(shape, axis)),
            _ => tape.reshape(scale, &[]),
        };
        Ok(Grid { axis, scale: broadcast, zero_points })
    }

    /// `numbers` for each zero point, as they are broadcast over elements of this shape.
    fn numbers(&self, tape: &mut Tape, shape: &[usize], like: ValueId, number: impl Fn(f64) -> f64) -> ValueId {
        match (&self.zero_points[..], self.axis) {
            (all @ [_, _, ..], Some(axis)) => {
                let numbers = all.iter().map(|&zero_point| number(zero_point) as f32).collect();
                tape.constant(Tensor::from_vec::<f32>(channels_along(shape, axis), numbers))
            }
            (all, _) => tape.scalar(number(all.first().copied().unwrap_or(0.0)), like),
        }
    }

    /// A derivative by the scale of each element, summed over those that share one.
    fn of_scales(&self, tape: &mut Tape, derivative: ValueId, scale: ValueId) -> ValueId {
        let shape = tape.shape(derivative);
        match self.axis.filter(|_| tape.shape(scale).iter().product::<usize>() > 1) {
            None => derivative,
            Some(axis) => {
                let others: Vec<usize> = (0..shape.len()).filter(|&other| other != axis).collect();
                tape.sum(derivative, &others, false)
            }
        }
    }
}

/// One element for each index of `axis`, as it is broadcast over `shape`.
fn channels_along(shape: &[usize], axis: usize) -> Vec<usize> {
    shape.iter().enumerate().skip(axis).map(|(i, &n)| if i == axis { n } else { 1 }).collect()
}

/// The least and the greatest level.
fn range(dtype: DType) -> Option<[f64; 2]> {
    match dtype {
        DType::U8 => Some([0.0, 255.0]),
        DType::I8 => Some([-128.0, 127.0]),
        DType::U16 => Some([0.0, 65535.0]),
        DType::I16 => Some([-32768.0, 32767.0]),
        _ => None,
    }
}

/// Of q = clip(round(x / s) + z): dx = dq / s and ds = -dq·x / s², both inside the range.
pub(super) fn quantize(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dq, view) = (site.dy()?, site.view(tape)?);
    let QuantizeLinear { x, scale, zero_point, axis, block_size, .. } = view;
    let shape = tape.shape(x);
    let [least, greatest] =
        range(tape.dtype(site.y())).ok_or(Refusal("its levels have another type than 8 or 16 bits"))?;
    let grid = Grid::of(tape, &shape, scale, zero_point, axis, block_size)?;
    let steps = tape.div(x, grid.scale);
    // sign((x/s - low)·(high - x/s)), where levels change half a step beyond the last ones.
    let low = grid.numbers(tape, &shape, x, |zero_point| least - zero_point - 0.5);
    let high = grid.numbers(tape, &shape, x, |zero_point| greatest - zero_point + 0.5);
    let (above, below) = (tape.sub(steps, low), tape.sub(high, steps));
    let product = tape.mul(above, below);
    let sign = tape.sign(product);
    let zero = tape.scalar(0.0, sign);
    let inside = tape.map(Max { xs: vec![sign, zero] });
    let passed = tape.mul(dq, inside);
    let dx = tape.div(passed, grid.scale);
    let dscale = site.wants(1).then(|| {
        let product = tape.mul(dx, steps);
        let negative = tape.neg(product);
        grid.of_scales(tape, negative, scale)
    });
    Ok(vec![Some(dx), dscale])
}

/// Of y = (q - z)·s: dq = dy·s, and ds = dy·(q - z) = dy·y / s
pub(super) fn dequantize(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y) = (site.dy()?, site.y());
    let DequantizeLinear { x, scale, zero_point, axis, block_size, .. } = site.view(tape)?;
    let shape = tape.shape(x);
    let grid = Grid::of(tape, &shape, scale, zero_point, axis, block_size)?;
    let dq = site.wants(0).then(|| tape.mul(dy, grid.scale));
    let dscale = site.wants(1).then(|| {
        let levels = tape.div(y, grid.scale);
        let product = tape.mul(dy, levels);
        grid.of_scales(tape, product, scale)
    });
    Ok(vec![dq, dscale])
}
