//! `TensorProto` and [`Tensor`], both ways. Whatever field held the elements, they become `raw_data`.

use std::sync::Arc;

use bytes::Bytes;

use super::proto::{SparseTensorProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use super::read::{ExternalFiles, Problem, ReadError};
use super::types::given;
use crate::ir::{DType, Label, Notes, SparseTensor, Tensor};

type Result<T> = std::result::Result<T, ReadError>;

/// Reads a tensor whose name and notes become its label.
pub(super) fn read(mut proto: TensorProto, external: &mut ExternalFiles) -> Result<Tensor> {
    let name = proto.name.take().unwrap_or_default();
    let notes = read_notes(proto.doc_string.take(), std::mem::take(&mut proto.metadata_props));
    let label = Label { name, notes };
    let mut tensor = read_data(proto, external)?;
    tensor.label = (label != Label::default()).then(|| Arc::new(label));
    Ok(tensor)
}

pub(super) fn read_sparse(proto: SparseTensorProto, external: &mut ExternalFiles) -> Result<SparseTensor> {
    let (Some(values), Some(indices)) = (proto.values, proto.indices) else {
        return Err(Problem::IncompleteSparseTensor.into());
    };
    let shape = read_shape(&proto.dims)?;
    Ok(SparseTensor { values: read(values, external)?, indices: read(indices, external)?, shape })
}

fn read_shape(dims: &[i64]) -> Result<Vec<usize>> {
    let sizes = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>();
    sizes.ok_or_else(|| Problem::NegativeSize { dims: dims.to_vec() }.into())
}

fn read_data(proto: TensorProto, external: &mut ExternalFiles) -> Result<Tensor> {
    let code = proto.data_type.unwrap_or_default();
    let dtype = DType::from_code(code).ok_or(Problem::UnknownType { code })?;
    let shape = read_shape(&proto.dims)?;
    if proto.segment.is_some() {
        return Err(Problem::Segmented.into());
    }
    if proto.data_location == Some(DataLocation::External as i32) {
        let length = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).and_then(|n| dtype.bytes_for(n));
        let data = external.load(&proto.external_data, length)?;
        return Ok(Tensor::new(dtype, shape, data).map_err(Problem::Tensor)?);
    }
    if dtype == DType::String {
        return Ok(Tensor::from_strings(shape, proto.string_data).map_err(Problem::Tensor)?);
    }
    let data = match proto.raw_data {
        Some(raw) if !raw.is_empty() => raw,
        _ => typed_data(proto, dtype)?,
    };
    Ok(Tensor::new(dtype, shape, data).map_err(Problem::Tensor)?)
}

/// The elements in `raw_data`'s layout, from the field that the schema assigns to the type.
fn typed_data(proto: TensorProto, dtype: DType) -> Result<Bytes> {
    use DType::*;
    let TensorProto { float_data, int32_data, int64_data, double_data, uint64_data, string_data, .. } = proto;
    let mut fields = [
        ("float_data", float_data.len()),
        ("int32_data", int32_data.len()),
        ("int64_data", int64_data.len()),
        ("double_data", double_data.len()),
        ("uint64_data", uint64_data.len()),
        ("string_data", string_data.len()),
    ];
    let (field, bytes) = match dtype {
        F32 | C64 => ("float_data", bytemuck::cast_slice(&float_data).to_vec()),
        F64 | C128 => ("double_data", bytemuck::cast_slice(&double_data).to_vec()),
        I64 => ("int64_data", bytemuck::cast_slice(&int64_data).to_vec()),
        U64 => ("uint64_data", bytemuck::cast_slice(&uint64_data).to_vec()),
        U32 => ("uint64_data", uint64_data.iter().flat_map(|&x| (x as u32).to_le_bytes()).collect()),
        I32 => ("int32_data", bytemuck::cast_slice(&int32_data).to_vec()),
        I16 | U16 | F16 | Bf16 => ("int32_data", int32_data.iter().flat_map(|&x| (x as u16).to_le_bytes()).collect()),
        F6E2M3 | F6E3M2 => ("int32_data", pack_six_bits(&int32_data)),
        // One element each, or a byte of packed ones.
        I8 | U8 | Bool | F8E4M3Fn | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz | F8E8M0 | U4 | I4 | F4E2M1 | U2 | I2 => {
            ("int32_data", int32_data.iter().map(|&x| x as u8).collect())
        }
        String => unreachable!("strings are read before"),
    };
    fields.iter_mut().filter(|(other, _)| *other == field).for_each(|(_, len)| *len = 0);
    match fields.iter().find(|(_, len)| *len > 0) {
        Some(&(found, _)) => Err(Problem::WrongDataField { dtype, found, expected: field }.into()),
        None => Ok(bytes.into()),
    }
}

/// Four elements in three bytes, lowest bits first.
fn pack_six_bits(elements: &[i32]) -> Vec<u8> {
    let mut packed = vec![0; (elements.len() * 6).div_ceil(8)];
    for (index, &element) in elements.iter().enumerate() {
        let (byte, shift) = (index * 6 / 8, index * 6 % 8);
        let bits = (element as u16 & 0x3f) << shift;
        packed[byte] |= bits as u8;
        if shift > 2 {
            packed[byte + 1] |= (bits >> 8) as u8;
        }
    }
    packed
}

pub(super) fn read_notes(doc: Option<String>, metadata: Vec<StringStringEntryProto>) -> Notes {
    Notes { doc: doc.unwrap_or_default(), metadata: read_entries(metadata) }
}

pub(super) fn read_entries(entries: Vec<StringStringEntryProto>) -> Vec<(String, String)> {
    entries.into_iter().map(|entry| (entry.key.unwrap_or_default(), entry.value.unwrap_or_default())).collect()
}

/// The tensor under its label's name.
pub(super) fn write(tensor: &Tensor) -> TensorProto {
    write_named(tensor, tensor.label.as_ref().map_or("", |label| &label.name))
}

pub(super) fn write_named(tensor: &Tensor, name: &str) -> TensorProto {
    let notes = tensor.label.as_ref().map(|label| &label.notes);
    TensorProto {
        dims: tensor.shape().iter().map(|&dim| dim as i64).collect(),
        data_type: Some(tensor.dtype().code()),
        string_data: tensor.strings().map(<[Bytes]>::to_vec).unwrap_or_default(),
        name: given(name),
        doc_string: notes.and_then(|notes| given(&notes.doc)),
        raw_data: tensor.bytes().cloned(),
        metadata_props: notes.map(|notes| write_entries(&notes.metadata)).unwrap_or_default(),
        ..TensorProto::default()
    }
}

pub(super) fn write_sparse(tensor: &SparseTensor) -> SparseTensorProto {
    SparseTensorProto {
        values: Some(write(&tensor.values)),
        indices: Some(write(&tensor.indices)),
        dims: tensor.shape.iter().map(|&dim| dim as i64).collect(),
    }
}

pub(super) fn write_entries(entries: &[(String, String)]) -> Vec<StringStringEntryProto> {
    let entry =
        |(key, value): &(String, String)| StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) };
    entries.iter().map(entry).collect()
}
