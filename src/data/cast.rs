//! Elements of one type as another.

use ndarray::{ArrayD, IxDyn};

use crate::ir::{DType, Tensor};

/// Whether arrays of `from` may be given to inputs of `to`. Floats are never rounded to integers.
pub fn can_cast(from: DType, to: DType) -> bool {
    from == to || is_number(from) && (to.is_float() || is_integer(to) && !from.is_float())
}

/// `tensor` with elements of type `to`, where [`can_cast`] allows it and each integer fits.
pub fn cast(tensor: &Tensor, to: DType) -> Result<Tensor, Misfit> {
    if tensor.dtype() == to {
        return Ok(tensor.clone());
    }
    let shape = tensor.shape().to_vec();
    if let Some(floats) = tensor.floats().filter(|_| to.is_float()) {
        return Ok(floats_as(shape, floats.into_owned(), to));
    }
    let ints = tensor.ints().ok_or(Misfit(i64::MAX))?;
    if to.is_float() {
        return Ok(floats_as(shape, ints.into_iter().map(|x| x as f32).collect(), to));
    }
    fn narrow<T: crate::ir::Element + TryFrom<i64>>(shape: Vec<usize>, ints: &[i64]) -> Result<Tensor, Misfit> {
        let elements = ints.iter().map(|&x| x.try_into().map_err(|_| Misfit(x))).collect::<Result<Vec<T>, _>>()?;
        Ok(Tensor::from_vec(shape, elements))
    }
    match to {
        DType::I64 => narrow::<i64>(shape, &ints),
        DType::I32 => narrow::<i32>(shape, &ints),
        DType::I16 => narrow::<i16>(shape, &ints),
        DType::I8 => narrow::<i8>(shape, &ints),
        DType::U64 => narrow::<u64>(shape, &ints),
        DType::U32 => narrow::<u32>(shape, &ints),
        DType::U16 => narrow::<u16>(shape, &ints),
        DType::U8 => narrow::<u8>(shape, &ints),
        DType::Bool => match ints.iter().find(|x| !(0..=1).contains(*x)) {
            Some(&x) => Err(Misfit(x)),
            None => Ok(Tensor::from_bool(shape, ints.iter().map(|&x| x == 1).collect())),
        },
        _ => unreachable!("{to} is neither a float nor an integer"),
    }
}

/// An integer that the other type cannot hold.
pub struct Misfit(pub i64);

fn floats_as(shape: Vec<usize>, floats: Vec<f32>, to: DType) -> Tensor {
    let array = ArrayD::from_shape_vec(IxDyn(&shape), floats).expect("the elements of a tensor fill its shape");
    Tensor::from_floats(array, to).expect("it is a float type")
}

fn is_number(dtype: DType) -> bool {
    dtype.is_float() || is_integer(dtype)
}

fn is_integer(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, Bool | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}
