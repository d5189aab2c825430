//! Why a model could not be run.

use crate::ir::TensorError;

/// Why a model could not be run. Nodes are called as [`Model::label`](crate::ir::Model::label) calls them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Found by looking at the model, before anything runs.
    #[error("{node} (operator set {opset}) cannot be run: {why}", opset = Opset(domain, *opset))]
    Unsupported { node: String, op: String, domain: String, opset: i64, why: String },
    #[error("the graph cannot be run: {0}")]
    UnsupportedValue(String),
    /// The given inputs do not fit the model.
    #[error("input {0}")]
    Input(String),
    /// tract refused the model, or gave up while it ran.
    #[error("the model cannot be run{}: {why}", At(node))]
    Failed { node: Option<String>, why: String },
}

impl RuntimeError {
    /// Whether the model is one that this runtime does not run, whatever it is given.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, RuntimeError::Unsupported { .. } | RuntimeError::UnsupportedValue(_))
    }
}

impl From<TensorError> for RuntimeError {
    fn from(error: TensorError) -> RuntimeError {
        RuntimeError::Failed { node: None, why: error.to_string() }
    }
}

struct Opset<'a>(&'a str, i64);

impl std::fmt::Display for Opset<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.0 {
            "" => write!(f, "{}", self.1),
            domain => write!(f, "{domain} {}", self.1),
        }
    }
}

struct At<'a>(&'a Option<String>);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |node| write!(f, " at {node}"))
    }
}
