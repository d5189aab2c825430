//! Why a file cannot be read. Every message says what is wrong, where, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::ir::{DType, TensorError};

/// A problem with the file, and the places that lead to it.
#[derive(Debug)]
pub struct ReadError {
    /// None while bytes are read that came from no file.
    pub file: Option<PathBuf>,
    /// Graph, node, attribute: outermost last.
    places: Vec<String>,
    pub problem: Box<Problem>,
}

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("there is no such file; check the path")]
    Missing,
    #[error("it may not be read by this user; change its permissions")]
    Permission,
    #[error("it cannot be read: {0}")]
    Io(io::Error),
    #[error("it is a directory; name the ONNX file in it")]
    Directory,
    #[error("the file is empty; export or download it again")]
    Empty,
    #[error("this is {what}, not an ONNX model; {advice}")]
    OtherFormat { what: &'static str, advice: &'static str },
    #[error("this is not an ONNX model, or the file is damaged or cut off ({0}); export or download it again")]
    Malformed(prost::DecodeError),
    #[error(
        "its messages are nested more than 100 deep, which no ONNX reader accepts; export it with fewer nested bodies"
    )]
    TooDeep,
    #[error("it holds no graph, so it is no ONNX model; export or download it again")]
    NoGraph,
    #[error("it does not say which operator sets it uses (opset_import); export it again with an opset version")]
    NoOpset,
    #[error("version {version} of the operator set `{domain}` does not exist; export it again")]
    OpsetVersion { domain: String, version: i64 },
    #[error("the opset {version} is newer than {newest}, the last one known here; export it with an older opset")]
    OpsetTooNew { version: i64, newest: i64 },
    #[error("the name is missing, which every {0} needs; export it again")]
    Unnamed(&'static str),
    #[error("`{value}` is defined more than once in this graph; a name may stand for one value only, so rename one")]
    DefinedTwice { value: String },
    #[error(
        "it reads `{value}`, which no input, initializer or node defines before it; the file is incomplete, export it again"
    )]
    Undefined { value: String },
    #[error("the output `{value}` is defined nowhere; the file is incomplete, export it again")]
    UndefinedOutput { value: String },
    #[error("nodes depend on each other in a circle, so none can run first: {nodes}; the export went wrong")]
    Cycle { nodes: String },
    #[error("it has no operator type; the file is damaged")]
    NoOperator,
    #[error("{0}; the file is damaged or cut off, export or download it again")]
    Tensor(TensorError),
    #[error("the element type {code} is no type of ONNX; the file is damaged or newer than this program")]
    UnknownType { code: i32 },
    #[error("a tensor cannot have the shape {dims:?}; sizes are not negative")]
    NegativeSize { dims: Vec<i64> },
    #[error("the tensor is cut into segments, which no ONNX runtime reads; save it in one piece")]
    Segmented,
    #[error("a {dtype} tensor has its elements in {expected}, but they stand in {found}; export it again")]
    WrongDataField { dtype: DType, found: &'static str, expected: &'static str },
    #[error("a sparse tensor needs values and indices, and one of them is missing; the file is damaged")]
    IncompleteSparseTensor,
    #[error("it has neither a type nor a value; export it again")]
    EmptyAttribute,
    #[error("the type {code} is no attribute type of ONNX; the file is damaged or newer than this program")]
    UnknownAttributeType { code: i32 },
    #[error("its value is missing; export it again")]
    MissingAttributeValue,
    #[error("it is given more than once; remove one")]
    RepeatedAttribute,
    #[error("its data are external, but no location is given; save the model again")]
    NoLocation,
    #[error(
        "its data are in another file (`{location}`), which bytes alone do not lead to; read the model from a file"
    )]
    NoFolder { location: String },
    #[error(
        "its data are in `{location}`, outside the model's folder; move that file beside the model and correct the location"
    )]
    Escape { location: String },
    #[error("its data are in `{}`, which cannot be read ({reason}); put that file there, next to the model", file.display())]
    External { file: PathBuf, reason: String },
    #[error("the {key} of its external data is `{value}`, which is no number of bytes; save the model again")]
    ExternalNumber { key: &'static str, value: String },
    #[error("its data are bytes {offset} to {end} of `{}`, which has only {size}; that file is cut off or another model's", file.display())]
    ExternalRange { file: PathBuf, offset: u64, end: u64, size: u64 },
    #[error("it is defined more than once; remove one")]
    FunctionTwice,
    #[error("it calls itself, directly or through others, which ONNX does not allow; the export went wrong")]
    RecursiveFunction,
}

impl From<Problem> for ReadError {
    fn from(problem: Problem) -> ReadError {
        ReadError { file: None, places: Vec::new(), problem: Box::new(problem) }
    }
}

impl From<prost::DecodeError> for ReadError {
    fn from(error: prost::DecodeError) -> ReadError {
        match error.to_string().contains("recursion limit reached") {
            true => Problem::TooDeep.into(),
            false => Problem::Malformed(error).into(),
        }
    }
}

impl ReadError {
    pub(super) fn of_file(mut self, path: &Path) -> ReadError {
        self.file = Some(path.to_path_buf());
        self
    }

    pub(super) fn inside(mut self, place: impl FnOnce() -> String) -> ReadError {
        self.places.push(place());
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "`{}`: ", file.display())?,
            None => write!(f, "the model: ")?,
        }
        for place in self.places.iter().rev() {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for ReadError {}
