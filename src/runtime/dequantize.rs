//! DequantizeLinear of constants, computed here as ONNX defines it: tract has no type for some, and knows no blocks.

use crate::ir::op::{Cast, DequantizeLinear};
use crate::ir::{DType, Model, NodeId, Tensor, ValueId};

/// The result of `node` where it decodes constants of fewer than 8 bits, or in blocks. None for all other nodes.
pub(super) fn of_constants(model: &Model, node: NodeId) -> Option<Tensor> {
    let DequantizeLinear { x, block_size, .. } = model.view(node)?;
    let is_known = block_size == 0 && model.constant(x)?.dtype().bits() >= 8;
    if is_known { None } else { dequantized(model, node) }
}

/// The result of `node` where it decodes constants. None for all other nodes.
pub fn dequantized(model: &Model, node: NodeId) -> Option<Tensor> {
    let DequantizeLinear { x, scale, zero_point, axis, block_size, output_dtype } = model.view(node)?;
    let levels = model.constant(x)?;
    let scales = float_constant(model, scale)?;
    let zeros = match zero_point {
        Some(zero_point) => Some(integers(model.constant(zero_point)?)?),
        None => None,
    };
    let dtype = if output_dtype == 0 { scales.dtype() } else { DType::from_code(i32::try_from(output_dtype).ok()?)? };
    let blocks = Blocks::of(levels.shape(), scales.shape(), axis, block_size)?;
    let factors = scales.floats()?;
    if zeros.as_ref().is_some_and(|zeros| zeros.len() != factors.len()) {
        return None;
    }
    let decode = |(index, level): (usize, i64)| {
        let block = blocks.block(index);
        let zero = zeros.as_ref().map_or(0, |zeros| zeros[block]);
        Some((level - zero) as f32 * *factors.get(block)?)
    };
    let floats: Option<Vec<f32>> = integers(levels)?.into_iter().enumerate().map(decode).collect();
    let floats = ndarray::ArrayD::from_shape_vec(levels.shape(), floats?).ok()?;
    Tensor::from_floats(floats, dtype)
}

/// A constant, also behind a Cast to another float type.
fn float_constant(model: &Model, value: ValueId) -> Option<Tensor> {
    if let Some(tensor) = model.constant(value) {
        return Some(tensor.clone());
    }
    let Cast { x, to, .. } = model.view(model.producer(value)?)?;
    let to = DType::from_code(i32::try_from(to).ok()?).filter(|to| to.is_float())?;
    Tensor::from_floats(model.constant(x)?.to_array()?, to)
}

/// The elements of an integer tensor, packed ones too.
fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    let signed = match tensor.dtype() {
        DType::I4 | DType::I2 => true,
        DType::U4 | DType::U2 => false,
        _ => return tensor.ints(),
    };
    let (bits, bytes) = (tensor.dtype().bits(), tensor.bytes()?);
    let each = 8 / bits;
    let element = |index: usize| {
        let level = i64::from(bytes[index / each] >> (index % each * bits)) & ((1 << bits) - 1);
        if signed && level >> (bits - 1) == 1 { level - (1 << bits) } else { level }
    };
    Some((0..tensor.len()).map(element).collect())
}

/// Which scale belongs to an element.
struct Blocks {
    /// Elements behind one index of the axis, the length of the axis, and its indices with one scale.
    inner: usize,
    length: usize,
    block_size: usize,
    /// Scales along the axis, and whether other axes have scales of their own.
    scales: usize,
    blocked: bool,
}

impl Blocks {
    fn of(shape: &[usize], scales: &[usize], axis: i64, block_size: i64) -> Option<Blocks> {
        let rank = shape.len() as i64;
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok();
        match block_size {
            0 if scales.iter().product::<usize>() == 1 => {
                let length = shape.iter().product::<usize>().max(1);
                Some(Blocks { inner: 1, length, block_size: length, scales: 1, blocked: false })
            }
            _ => {
                let axis = axis.filter(|&axis| axis < shape.len())?;
                let block_size = usize::try_from(block_size).ok()?;
                let inner = shape[axis + 1..].iter().product();
                let of_axis = if block_size > 0 { shape[axis].div_ceil(block_size) } else { shape[axis] };
                let fits = match block_size {
                    0 => scales == [shape[axis]],
                    _ => {
                        scales.len() == shape.len()
                            && scales.iter().enumerate().all(|(i, &n)| n == if i == axis { of_axis } else { shape[i] })
                    }
                };
                let (length, blocked) = (shape[axis], block_size > 0);
                fits.then_some(Blocks { inner, length, block_size: block_size.max(1), scales: of_axis, blocked })
            }
        }
    }

    /// The place among the scales that belongs to element `index`.
    fn block(&self, index: usize) -> usize {
        let along = index / self.inner % self.length / self.block_size;
        match self.blocked {
            false => along,
            true => (index / self.inner / self.length * self.scales + along) * self.inner + index % self.inner,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn decoded(
        dtype: DType,
        shape: &[usize],
        bytes: &'static [u8],
        scale: Tensor,
        zero_point: Option<Tensor>,
        (axis, block_size): (i64, i64),
    ) -> Vec<f32> {
        let mut model = Model::new("test");
        model.opsets.0.insert(String::new(), 21);
        let levels = Tensor::new(dtype, shape.to_vec(), Bytes::from_static(bytes)).unwrap();
        let x = model.add_constant(model.main, "x", levels);
        let scale = model.add_constant(model.main, "scale", scale);
        let zero_point = zero_point.map(|zero_point| model.add_constant(model.main, "zero_point", zero_point));
        let operation = DequantizeLinear { x, scale, zero_point, axis, block_size, output_dtype: 0 };
        let y = model.append(model.main, "y", operation);
        of_constants(&model, model.producer(y).unwrap()).unwrap().floats().unwrap().into_owned()
    }

    #[test]
    fn signed_levels_have_one_scale_a_block() {
        // 1 -8 7 | -1 2 3, in blocks of two along the last axis: the last block is not full.
        let scale = Tensor::from_vec(vec![2, 2], vec![1f32, 10.0, 100.0, 1000.0]);
        let found = decoded(DType::I4, &[2, 3], &[0x81, 0xf7, 0x32], scale, None, (1, 2));
        assert_eq!(found, [1.0, -8.0, 70.0, -100.0, 200.0, 3000.0]);
    }

    #[test]
    fn blocks_lie_along_any_axis_with_zero_points() {
        // 1 8 7 | 15 2 3 | 0 0 9 less 1 2 3 | 1 2 3 | 0 5 1, in blocks of two along the first axis.
        let scale = Tensor::from_vec(vec![2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let zeros = Tensor::new(DType::U4, vec![2, 3], Bytes::from_static(&[0x21, 0x03, 0x15])).unwrap();
        let found = decoded(DType::U4, &[3, 3], &[0x81, 0xf7, 0x32, 0x00, 0x09], scale, Some(zeros), (0, 2));
        assert_eq!(found, [0.0, 12.0, 12.0, 14.0, 0.0, 0.0, 0.0, -25.0, 48.0]);
    }

    #[test]
    fn small_types_may_have_one_scale_for_all_or_for_each_index_of_an_axis() {
        let found = decoded(DType::U4, &[2, 2], &[0x21, 0x43], Tensor::scalar(0.5f32), None, (1, 0));
        assert_eq!(found, [0.5, 1.0, 1.5, 2.0]);
        let scale = Tensor::from_vec(vec![2], vec![1f32, 10.0]);
        let found = decoded(DType::I2, &[2, 2], &[0b11_10_01_00], scale, None, (0, 0));
        assert_eq!(found, [0.0, 1.0, -20.0, -10.0]);
    }
}
