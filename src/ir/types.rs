//! The declared types of values.

use super::dtype::DType;

/// The type of a value as a file declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    pub kind: TypeKind,
    /// What the value means, in the words of ONNX's type denotations (`IMAGE`, `TEXT`); mostly empty.
    pub denotation: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TypeKind {
    Tensor(TensorType),
    SparseTensor(TensorType),
    Sequence(Option<Box<Type>>),
    Optional(Option<Box<Type>>),
    /// Keys are of one type; ONNX allows integers and strings.
    Map(Option<DType>, Option<Box<Type>>),
    Opaque {
        domain: String,
        name: String,
    },
    /// Declared without saying what it is.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct TensorType {
    /// None where the file leaves the element type open.
    pub dtype: Option<DType>,
    /// None where not even the rank is known.
    pub shape: Option<Vec<Dim>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dim {
    pub size: Size,
    /// What the axis means (`DATA_BATCH`, `DATA_CHANNEL`); mostly empty.
    pub denotation: String,
}

/// How long an axis is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Size {
    Fixed(i64),
    /// Equal symbols of one model are equal lengths.
    Symbol(String),
    #[default]
    Unknown,
}

impl Type {
    pub fn tensor(dtype: DType, shape: impl IntoIterator<Item = Size>) -> Type {
        let shape = shape.into_iter().map(|size| Dim { size, denotation: String::new() }).collect();
        TypeKind::Tensor(TensorType { dtype: Some(dtype), shape: Some(shape) }).into()
    }

    pub fn as_tensor(&self) -> Option<&TensorType> {
        match &self.kind {
            TypeKind::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }
}

impl From<TypeKind> for Type {
    fn from(kind: TypeKind) -> Type {
        Type { kind, denotation: String::new() }
    }
}
