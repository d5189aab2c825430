//! The graph every pass reads and edits.
//!
//! One [`Model`] owns all values, nodes and graphs in three arenas; everything else holds ids. A
//! value captured by an `If` body is therefore the same [`ValueId`] inside and out, and replacing
//! its uses reaches every scope. Names are labels, made unique when the model is written.

mod arena;
mod attr;
mod dtype;
mod edit;
mod inline;
mod model;
mod names;
pub mod op;
mod tensor;
pub mod text;
mod types;
mod verify;

pub use arena::{Arena, Id};
pub use attr::{Attr, AttrKind, AttrType, Attrs, REQUIRED};
pub use dtype::DType;
pub use edit::{GraphNotes, NodeNotes, Operation};
pub use inline::{Call, MissingResult};
pub use model::{
    Function, Graph, GraphId, Header, Initializer, Model, Node, NodeId, Notes, OpsetImports, QuantizationAnnotation,
    Use, Value, ValueDef, ValueId,
};
pub use names::Names;
pub use op::Op;
pub use tensor::{Element, Label, SparseTensor, Tensor, TensorError};
pub use types::{Dim, Size, TensorType, Type, TypeKind};
pub use verify::VerifierError;
