//! Attributes of nodes: every kind that ONNX has.

use bytes::Bytes;
use indexmap::IndexMap;

use super::model::GraphId;
use super::tensor::{SparseTensor, Tensor};
use super::types::Type;

pub type Attrs = IndexMap<String, Attr>;

#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    Float(f32),
    Int(i64),
    Str(Bytes),
    Tensor(Tensor),
    Graph(GraphId),
    SparseTensor(SparseTensor),
    Type(Type),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strs(Vec<Bytes>),
    Tensors(Vec<Tensor>),
    Graphs(Vec<GraphId>),
    SparseTensors(Vec<SparseTensor>),
    Types(Vec<Type>),
    /// Inside a function: the value of the attribute `name` of the call.
    Reference {
        name: String,
        kind: AttrKind,
    },
}

/// The kinds of attributes. The names are those of [`Attr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttrKind {
    Float,
    Int,
    Str,
    Tensor,
    Graph,
    SparseTensor,
    Type,
    Floats,
    Ints,
    Strs,
    Tensors,
    Graphs,
    SparseTensors,
    Types,
    /// A reference that does not say what it refers to.
    Undefined,
}

impl Attr {
    pub fn kind(&self) -> AttrKind {
        match self {
            Attr::Float(_) => AttrKind::Float,
            Attr::Int(_) => AttrKind::Int,
            Attr::Str(_) => AttrKind::Str,
            Attr::Tensor(_) => AttrKind::Tensor,
            Attr::Graph(_) => AttrKind::Graph,
            Attr::SparseTensor(_) => AttrKind::SparseTensor,
            Attr::Type(_) => AttrKind::Type,
            Attr::Floats(_) => AttrKind::Floats,
            Attr::Ints(_) => AttrKind::Ints,
            Attr::Strs(_) => AttrKind::Strs,
            Attr::Tensors(_) => AttrKind::Tensors,
            Attr::Graphs(_) => AttrKind::Graphs,
            Attr::SparseTensors(_) => AttrKind::SparseTensors,
            Attr::Types(_) => AttrKind::Types,
            Attr::Reference { kind, .. } => *kind,
        }
    }
}

impl AttrKind {
    const NAMES: [(AttrKind, &str); 14] = [
        (AttrKind::Float, "float"),
        (AttrKind::Int, "int"),
        (AttrKind::Str, "string"),
        (AttrKind::Tensor, "tensor"),
        (AttrKind::Graph, "graph"),
        (AttrKind::SparseTensor, "sparse_tensor"),
        (AttrKind::Type, "type_proto"),
        (AttrKind::Floats, "floats"),
        (AttrKind::Ints, "ints"),
        (AttrKind::Strs, "strings"),
        (AttrKind::Tensors, "tensors"),
        (AttrKind::Graphs, "graphs"),
        (AttrKind::SparseTensors, "sparse_tensors"),
        (AttrKind::Types, "type_protos"),
    ];

    /// The name in the ONNX textual syntax; none for [`AttrKind::Undefined`].
    pub fn name(self) -> Option<&'static str> {
        AttrKind::NAMES.iter().find(|(kind, _)| *kind == self).map(|(_, name)| *name)
    }

    pub fn from_name(name: &str) -> Option<AttrKind> {
        AttrKind::NAMES.iter().find(|(_, text)| *text == name).map(|(kind, _)| *kind)
    }
}

/// A Rust type that an attribute is read as and written from.
pub trait AttrType: Sized + Clone + PartialEq {
    fn read(attr: &Attr) -> Option<Self>;
    fn write(&self) -> Attr;

    /// Whether this is the default of an attribute that has none, [`REQUIRED`].
    fn is_required(&self) -> bool {
        false
    }
}

/// Stands in a view for the default of an integer attribute that every node must have.
pub const REQUIRED: i64 = i64::MIN;

impl AttrType for i64 {
    fn read(attr: &Attr) -> Option<i64> {
        match attr {
            Attr::Int(int) => Some(*int),
            _ => None,
        }
    }
    fn write(&self) -> Attr {
        Attr::Int(*self)
    }
    fn is_required(&self) -> bool {
        *self == REQUIRED
    }
}

macro_rules! attr_types {
    ($($ty:ty => $variant:ident),* $(,)?) => {$(
        impl AttrType for $ty {
            fn read(attr: &Attr) -> Option<Self> {
                match attr { Attr::$variant(x) => Some(x.clone()), _ => None }
            }
            fn write(&self) -> Attr { Attr::$variant(self.clone()) }
        }
    )*};
}
attr_types! {
    f32 => Float, Bytes => Str, Tensor => Tensor, GraphId => Graph,
    Vec<i64> => Ints, Vec<f32> => Floats, Vec<Bytes> => Strs,
}

impl AttrType for String {
    fn read(attr: &Attr) -> Option<String> {
        match attr {
            Attr::Str(bytes) => Some(std::str::from_utf8(bytes).ok()?.to_string()),
            _ => None,
        }
    }
    fn write(&self) -> Attr {
        Attr::Str(Bytes::copy_from_slice(self.as_bytes()))
    }
}

/// Flags, which ONNX writes as 0 and 1.
impl AttrType for bool {
    fn read(attr: &Attr) -> Option<bool> {
        match attr {
            Attr::Int(0) => Some(false),
            Attr::Int(1) => Some(true),
            _ => None,
        }
    }
    fn write(&self) -> Attr {
        Attr::Int(i64::from(*self))
    }
}

/// An attribute whose absence means something of its own.
impl<T: AttrType> AttrType for Option<T> {
    fn read(attr: &Attr) -> Option<Option<T>> {
        T::read(attr).map(Some)
    }
    fn write(&self) -> Attr {
        self.as_ref().expect("an absent attribute is not written").write()
    }
}
