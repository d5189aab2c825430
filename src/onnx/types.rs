//! `TypeProto` and [`Type`], both ways.

use super::proto::{self, TypeProto, tensor_shape_proto, type_proto};
use super::read::{Problem, ReadError};
use crate::ir::{DType, Dim, Size, TensorType, Type, TypeKind};

type Result<T> = std::result::Result<T, ReadError>;

pub(super) fn read(ty: TypeProto) -> Result<Type> {
    use type_proto::Value;
    let kind = match ty.value {
        None => TypeKind::Unknown,
        Some(Value::TensorType(t)) => TypeKind::Tensor(read_tensor(t.elem_type, t.shape)?),
        Some(Value::SparseTensorType(t)) => TypeKind::SparseTensor(read_tensor(t.elem_type, t.shape)?),
        Some(Value::SequenceType(t)) => TypeKind::Sequence(read_element(t.elem_type)?),
        Some(Value::OptionalType(t)) => TypeKind::Optional(read_element(t.elem_type)?),
        Some(Value::MapType(t)) => TypeKind::Map(read_dtype(t.key_type)?, read_element(t.value_type)?),
        Some(Value::OpaqueType(t)) => {
            TypeKind::Opaque { domain: t.domain.unwrap_or_default(), name: t.name.unwrap_or_default() }
        }
    };
    Ok(Type { kind, denotation: ty.denotation.unwrap_or_default() })
}

fn read_element(element: Option<Box<TypeProto>>) -> Result<Option<Box<Type>>> {
    Ok(element.map(|element| read(*element)).transpose()?.map(Box::new))
}

fn read_dtype(code: Option<i32>) -> Result<Option<DType>> {
    match code.unwrap_or_default() {
        0 => Ok(None),
        code => DType::from_code(code).map(Some).ok_or_else(|| Problem::UnknownType { code }.into()),
    }
}

fn read_tensor(code: Option<i32>, shape: Option<proto::TensorShapeProto>) -> Result<TensorType> {
    let shape = shape.map(|shape| shape.dim.into_iter().map(read_dim).collect());
    Ok(TensorType { dtype: read_dtype(code)?, shape })
}

/// Some exporters write `-1` or `?` for a size that they do not know; as a symbol, `?` would equal every other `?`.
fn read_dim(dim: tensor_shape_proto::Dimension) -> Dim {
    use tensor_shape_proto::dimension::Value;
    let size = match dim.value {
        Some(Value::DimValue(size)) if size >= 0 => Size::Fixed(size),
        Some(Value::DimParam(symbol)) if !matches!(symbol.as_str(), "" | "?") => Size::Symbol(symbol),
        _ => Size::Unknown,
    };
    Dim { size, denotation: dim.denotation.unwrap_or_default() }
}

pub(super) fn write(ty: &Type) -> TypeProto {
    use type_proto::Value;
    let value = match &ty.kind {
        TypeKind::Tensor(tensor) => {
            let (elem_type, shape) = write_tensor(tensor);
            Some(Value::TensorType(type_proto::Tensor { elem_type, shape }))
        }
        TypeKind::SparseTensor(tensor) => {
            let (elem_type, shape) = write_tensor(tensor);
            Some(Value::SparseTensorType(type_proto::SparseTensor { elem_type, shape }))
        }
        TypeKind::Sequence(element) => {
            Some(Value::SequenceType(Box::new(type_proto::Sequence { elem_type: write_element(element) })))
        }
        TypeKind::Optional(element) => {
            Some(Value::OptionalType(Box::new(type_proto::Optional { elem_type: write_element(element) })))
        }
        TypeKind::Map(key, element) => Some(Value::MapType(Box::new(type_proto::Map {
            key_type: key.map(DType::code),
            value_type: write_element(element),
        }))),
        TypeKind::Opaque { domain, name } => {
            Some(Value::OpaqueType(type_proto::Opaque { domain: given(domain), name: given(name) }))
        }
        TypeKind::Unknown => None,
    };
    TypeProto { denotation: given(&ty.denotation), value }
}

fn write_element(element: &Option<Box<Type>>) -> Option<Box<TypeProto>> {
    element.as_ref().map(|element| Box::new(write(element)))
}

fn write_tensor(tensor: &TensorType) -> (Option<i32>, Option<proto::TensorShapeProto>) {
    let shape = tensor.shape.as_ref().map(|dims| proto::TensorShapeProto { dim: dims.iter().map(write_dim).collect() });
    (tensor.dtype.map(DType::code), shape)
}

fn write_dim(dim: &Dim) -> tensor_shape_proto::Dimension {
    use tensor_shape_proto::dimension::Value;
    let value = match &dim.size {
        Size::Fixed(size) => Some(Value::DimValue(*size)),
        Size::Symbol(symbol) => Some(Value::DimParam(symbol.clone())),
        Size::Unknown => None,
    };
    tensor_shape_proto::Dimension { denotation: given(&dim.denotation), value }
}

/// Text as an optional field, which is left out where it is empty.
pub(super) fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}
