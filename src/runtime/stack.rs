//! Samples put together along their first axis, and taken apart again.

use std::ops::Range;

use super::RuntimeError;
use crate::ir::{Model, Size, Tensor, Type, ValueDef, ValueId};

/// How far results may differ, over the largest of them: sums may be taken in another order.
const TOLERANCE: f32 = 1e-4;

/// Whether samples of `model` can be put together along their first axis.
pub fn can_stack(model: &Model) -> bool {
    let open = |&input: &ValueId| {
        let tensor = model.value(input).ty.as_ref().and_then(Type::as_tensor);
        tensor.and_then(|tensor| tensor.shape.as_ref()?.first()).is_some_and(|dim| !matches!(dim.size, Size::Fixed(_)))
    };
    model.graph(model.main).inputs.iter().all(open)
}

/// [`can_stack`], for samples like this one: a tensor for each input.
pub fn can_stack_samples(model: &Model, sample: &[Tensor]) -> bool {
    can_stack(model) && sample.iter().all(|tensor| tensor.rank() > 0)
}

/// Gives every input the type and shape that it has for so many samples like this one.
///
/// # Errors
/// With an input that no tensor is for, since it has a default.
pub fn fix_inputs(model: &mut Model, sample: &[Tensor], count: usize) -> Result<(), ValueId> {
    for (index, input) in model.graph(model.main).inputs.clone().into_iter().enumerate() {
        let is_required = matches!(model.value(input).def, ValueDef::Input { default: None });
        let tensor = sample.get(index).filter(|_| is_required).ok_or(input)?;
        let mut shape = tensor.shape().to_vec();
        if count > 1 {
            shape[0] *= count;
        }
        model.set_type(input, Some(Type::tensor(tensor.dtype(), shape.iter().map(|&n| Size::Fixed(n as i64)))));
    }
    Ok(())
}

/// Tensors of one shape, one after the other along the first axis.
pub fn stacked(parts: &[&Tensor]) -> Result<Tensor, RuntimeError> {
    let first = parts[0];
    if parts.len() == 1 {
        return Ok(first.clone());
    }
    let mut bytes = Vec::with_capacity(first.byte_len() * parts.len());
    for part in parts {
        if (part.shape(), part.dtype()) != (first.shape(), first.dtype()) {
            return Err(RuntimeError::Input("differs in shape between samples".into()));
        }
        bytes.extend_from_slice(part.bytes().ok_or_else(|| RuntimeError::Input("is made of strings".into()))?);
    }
    let mut shape = first.shape().to_vec();
    shape[0] *= parts.len();
    Ok(Tensor::new(first.dtype(), shape, bytes.into())?)
}

/// What [`stacked`] has put together; none if the first axis cannot be cut so.
pub fn parts(whole: &Tensor, count: usize) -> Option<Vec<Tensor>> {
    let length = *whole.shape().first()?;
    let size = length / count;
    let part = |index: usize| rows(whole, index * size..(index + 1) * size);
    length.is_multiple_of(count).then(|| (0..count).map(part).collect())?
}

/// Some indices of the first axis, which stays.
pub fn rows(tensor: &Tensor, range: Range<usize>) -> Option<Tensor> {
    let (bytes, length) = (tensor.bytes()?, *tensor.shape().first()?);
    let size = bytes.len().checked_div(length)?;
    let mut shape = tensor.shape().to_vec();
    shape[0] = range.len();
    Tensor::new(tensor.dtype(), shape, bytes.slice(range.start * size..range.end * size)).ok()
}

/// Whether results of one run are those of another but for the order of sums.
pub fn are_near(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && std::iter::zip(a, b).all(|(a, b)| a.shape() == b.shape() && is_near(a, b))
}

/// Whether tensors are equal but for the order of sums.
pub fn is_near(a: &Tensor, b: &Tensor) -> bool {
    match (a.floats(), b.floats()) {
        (Some(a), Some(b)) => {
            let range = b.iter().fold(f32::MIN_POSITIVE, |range, x| range.max(x.abs()));
            a.len() == b.len() && std::iter::zip(&*a, &*b).all(|(a, b)| (a - b).abs() <= TOLERANCE * range)
        }
        _ => a == b,
    }
}
