//! ONNX files to [`Model`](crate::ir::Model)s and back.
//!
//! Law: a model that is read and written equals the file it came from, message by message, after these normalisations:
//!
//! - Elements of tensors stand in `raw_data`, whatever field or file held them.
//! - Optional texts that are empty are left out, and so is a model version of 0. `ai.onnx` is the empty domain.
//! - Imports of operator sets state their domain, also the empty one; one that is imported twice has its highest version.
//! - Nodes that are out of order are sorted, otherwise keeping the file's order.
//! - `value_info` is in the order of definitions and names only values of its graph that are no inputs or outputs; of
//!   several declarations of one value the first stays, inputs before outputs before `value_info`.
//! - A size of `-1`, `?` or nothing is an unknown one.
//! - Attributes have a type, and only the field that it names.
//! - Before IR 4 every initializer had to be an input too, without being one that callers set: these are constants.
//! - `ir_version` is raised where the model uses what came later.
//! - Values of one name, in graphs that see each other, get numbers, and so do nodes of one name in a graph.

mod opset;
pub mod proto;
mod read;
mod schema;
mod tensor;
mod types;
mod write;

pub use read::{Loaded, Problem, ReadError, decode, decode_tensor, read};
pub use write::{ExternalData, Names, WriteError, WriteOptions, Written, encode, encode_tensor, to_proto, write};
