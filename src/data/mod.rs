//! What models are run on: samples from a file, or random ones.
//!
//! A [`Dataset`] is bound to the inputs of one model: whatever can be wrong with a file is found when it is opened, so
//! that [`Dataset::sample`] cannot fail.

mod archive;
mod bind;
mod cast;
mod dataset;
mod npy;
mod random;
mod synthesize;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

use crate::ir::DType;

pub use bind::required_inputs;
pub use cast::{Misfit, can_cast, cast};
pub use dataset::{Dataset, Labels, Rows, Source};
pub use random::Random;
pub use synthesize::{DEFAULT_COUNT, SynthesisError, synthesize};
pub use write::{read_npz, write_npz};

/// What is wrong with the data, and with which file.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {problem}", file.display())]
pub struct DataError {
    pub file: PathBuf,
    #[source]
    pub problem: Problem,
}

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("there is no such file; check the path")]
    NoFile,
    #[error("it cannot be read: {0}")]
    Io(std::io::Error),
    #[error("it is a directory; name the .npz or .npy file in it")]
    Directory,
    #[error("it is empty; write it again")]
    EmptyFile,
    #[error("it is no .npz or .npy file; write one with `numpy.savez(file, input_name=array)`")]
    Format,
    #[error("it is damaged ({0}); write it again")]
    Archive(String),
    #[error("it holds no arrays; write one for each input of the model")]
    NoArrays,
    #[error("array `{array}` has a damaged header: {reason}; write it again")]
    Header { array: String, reason: String },
    #[error(
        "array `{array}` is cut off: its shape {shape:?} needs {needed} bytes, but {found} are there; write it again"
    )]
    Truncated { array: String, shape: Vec<usize>, needed: usize, found: usize },
    #[error("array `{array}` of shape {shape:?} is larger than memory can address")]
    Size { array: String, shape: Vec<usize> },
    #[error("array `{array}` holds Python objects (a pickle), which are not read; save it with a plain `dtype`")]
    Object { array: String },
    #[error("array `{array}` is of type `{descr}`, which is not read; use floats, integers, booleans or strings")]
    Type { array: String, descr: String },
    #[error("there is no array for input `{input}`; the model needs {needed}, the file has {found}")]
    Missing { input: String, needed: String, found: String },
    #[error("array `{array}` holds {found}, but input `{input}` takes {needed}; convert it with `astype`")]
    Mismatch { array: String, input: String, found: String, needed: String },
    #[error("array `{array}` holds {value}, which does not fit input `{input}` of type {dtype}")]
    Range { array: String, input: String, value: i64, dtype: DType },
    #[error("array `{array}` has shape {found:?}, but input `{input}` takes {needed}; the first axis counts samples")]
    Shape { array: String, input: String, found: Vec<usize>, needed: String },
    #[error(
        "`{symbol}` is {first} in array `{first_array}` but {second} in array `{second_array}`; the model needs equal lengths"
    )]
    Symbol { symbol: String, first: usize, first_array: String, second: usize, second_array: String },
    #[error("array `{array}` has no samples: its shape is {shape:?}")]
    EmptyArray { array: String, shape: Vec<usize> },
    #[error("arrays are of different lengths: {lengths}; the first axis counts samples and must be the same for all")]
    Lengths { lengths: String },
    #[error("there are {rows} samples, but the model takes {batch} at a time; give at least one batch")]
    Batch { rows: usize, batch: usize },
    #[error("labels `{array}` {reason}")]
    Labels { array: String, reason: String },
    #[error("input `{input}` is {found}, and only tensors of numbers can be given as arrays")]
    InputType { input: String, found: String },
}

impl Problem {
    fn of(self, file: &Path) -> DataError {
        DataError { file: file.into(), problem: self }
    }
}
