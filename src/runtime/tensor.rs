//! Tensors of ours as tract's, and back.

use bytes::Bytes;
use tract_onnx::prelude::tract_itertools::Itertools;
use tract_onnx::prelude::{DatumType, TDim, TValue, Tensor as TractTensor, TractResult, tensor1};
use tract_onnx::tract_core::internal::bail;

use crate::ir::{DType, Tensor};

/// The element types that tract has under the same meaning.
const TYPES: &[(DType, DatumType)] = &[
    (DType::Bool, DatumType::Bool),
    (DType::U8, DatumType::U8),
    (DType::U16, DatumType::U16),
    (DType::U32, DatumType::U32),
    (DType::U64, DatumType::U64),
    (DType::I8, DatumType::I8),
    (DType::I16, DatumType::I16),
    (DType::I32, DatumType::I32),
    (DType::I64, DatumType::I64),
    (DType::F16, DatumType::F16),
    (DType::F32, DatumType::F32),
    (DType::F64, DatumType::F64),
    (DType::String, DatumType::String),
];

/// tract's name of an element type; none if tract does not know it.
pub(super) fn datum_type(dtype: DType) -> Option<DatumType> {
    TYPES.iter().find(|(ours, _)| *ours == dtype).map(|(_, theirs)| *theirs)
}

/// A copy of `tensor` in tract's memory; none if tract does not know the type, or a string is not UTF-8.
pub(super) fn to_tract(tensor: &Tensor) -> Option<TractTensor> {
    if let Some(strings) = tensor.strings() {
        let strings: Vec<String> = strings.iter().map(|s| String::from_utf8(s.to_vec())).try_collect().ok()?;
        return tensor1(&strings).into_shape(tensor.shape()).ok();
    }
    let mut copy = TractTensor::zero_dt(datum_type(tensor.dtype())?, tensor.shape()).ok()?;
    let bytes = tensor.bytes()?;
    match tensor.dtype() {
        DType::Bool => copy.as_bytes_mut().iter_mut().zip(bytes).for_each(|(to, &from)| *to = u8::from(from != 0)),
        _ => copy.as_bytes_mut().copy_from_slice(bytes),
    }
    Some(copy)
}

/// A result of tract, whose memory it keeps. Lengths that tract computes symbolically come back as integers.
pub(super) fn from_tract(value: TValue) -> TractResult<Tensor> {
    struct Owner(TValue);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    let shape = value.shape().to_vec();
    let datum_type = value.datum_type();
    if datum_type == DatumType::String {
        let strings = value.try_as_plain_ram()?.as_slice::<String>()?.iter().cloned().map(Bytes::from).collect();
        return Ok(Tensor::from_strings(shape, strings)?);
    }
    if datum_type == DatumType::TDim {
        let lengths = value.try_as_plain_ram()?.as_slice::<TDim>()?.iter().map(|dim| dim.to_i64()).try_collect()?;
        return Ok(Tensor::from_vec::<i64>(shape, lengths));
    }
    let dtype = TYPES.iter().find(|(_, theirs)| *theirs == datum_type.unquantized()).map(|(ours, _)| *ours);
    let Some(dtype) = dtype else { bail!("a result of type {datum_type:?}") };
    value.try_as_plain_ram()?;
    Ok(Tensor::new(dtype, shape, Bytes::from_owner(Owner(value)))?)
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::IntoTValue;

    use super::*;

    #[test]
    fn tensors_of_every_common_type_come_back_as_they_were() {
        let strings = Tensor::from_strings(vec![2], vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")]).unwrap();
        let mut tensors = vec![strings, Tensor::from_bool(vec![2], vec![true, false])];
        for (dtype, _) in TYPES.iter().filter(|(dtype, _)| !matches!(dtype, DType::String | DType::Bool)) {
            let bytes: Vec<u8> = (0..6 * dtype.bits() / 8).map(|i| i as u8).collect();
            tensors.push(Tensor::new(*dtype, vec![2, 3], bytes.into()).unwrap());
            tensors.push(Tensor::new(*dtype, vec![0, 3], Bytes::new()).unwrap());
        }
        for tensor in tensors {
            let back = from_tract(to_tract(&tensor).unwrap().into_tvalue()).unwrap();
            assert!(back.same_data(&tensor), "{tensor:?} became {back:?}");
        }
    }
}
