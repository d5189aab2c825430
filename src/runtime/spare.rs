//! Tensors that nobody reads any more: they become results, without being set to zero, while they are still in the cache.

use std::cell::RefCell;

use tract_onnx::tract_core::internal::*;

/// Bytes that a thread keeps at most.
const MOST: usize = 64 << 20;

thread_local!(static SPARE: RefCell<Vec<Tensor>> = const { RefCell::new(Vec::new()) });

/// A tensor of floats to be written, all of it: what it holds is any.
pub(super) fn tensor(shape: &[usize]) -> TractResult<Tensor> {
    let length: usize = shape.iter().product();
    let spare = SPARE.with_borrow_mut(|spare| {
        // The one that was kept last is the likeliest to be in the cache.
        let place = spare.iter().rposition(|tensor| tensor.len() == length);
        place.map(|place| spare.remove(place))
    });
    match spare {
        Some(tensor) => tensor.into_shape(shape),
        None => Tensor::zero_dt(f32::datum_type(), shape),
    }
}

/// Keeps those of the operands that have no other reader.
pub(super) fn keep(operands: TVec<TValue>) {
    SPARE.with_borrow_mut(|spare| {
        for operand in operands {
            if operand.is_exclusive() && operand.datum_type() == f32::datum_type() && operand.len() > 0 {
                spare.push(operand.into_tensor());
            }
        }
        let bytes = |tensor: &Tensor| tensor.len() * size_of::<f32>();
        let mut held: usize = spare.iter().map(bytes).sum();
        while held > MOST {
            held -= bytes(&spare.remove(0));
        }
    });
}

/// The result of an operator of floats that writes all of it.
pub(super) fn computed(
    shape: &[usize],
    operands: TVec<TValue>,
    compute: impl FnOnce(&[&[f32]], &mut [f32]),
) -> TractResult<TVec<TValue>> {
    let mut result = tensor(shape)?;
    {
        let plain = operands.iter().map(|operand| operand.try_as_plain_ram()).collect::<TractResult<TVec<_>>>()?;
        let floats = plain.iter().map(|plain| plain.as_slice::<f32>()).collect::<TractResult<TVec<_>>>()?;
        compute(&floats, result.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
    }
    keep(operands);
    Ok(tvec!(result.into_tvalue()))
}
