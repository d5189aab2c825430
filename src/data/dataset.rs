//! Samples of the inputs of one model, with labels.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::Archive;
use super::cast::cast;
use super::random::Random;
use super::{DataError, bind};
use crate::ir::{DType, Model, Tensor};

/// Samples of the inputs of one model. Clones and parts share the arrays.
#[derive(Clone)]
pub struct Dataset {
    all: Arc<Samples>,
    /// The samples of this part, by their place among all.
    part: Arc<[usize]>,
}

/// Everything that one file holds, or that was made up.
pub(super) struct Samples {
    pub source: Source,
    /// One for each input of the model without a default, in their order.
    pub columns: Vec<Column>,
    /// Rows of an array that make one sample: the batch the model takes, mostly 1.
    pub batch: usize,
    /// The number of samples.
    pub count: usize,
    pub labels: Labels,
    pub warnings: Vec<String>,
}

/// The values of one input.
pub(super) struct Column {
    /// The first axis counts samples.
    pub array: Tensor,
    /// Rows of one sample; none where the input has no axis for samples.
    pub rows: Option<usize>,
    /// What the input takes.
    pub dtype: DType,
}

/// Where samples come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    File(PathBuf),
    /// Random, which is weak evidence.
    Random {
        seed: u64,
    },
}

/// What is known of the right answers. A row belongs to a row of the inputs.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// `y`: the class of each row, or of each position in it.
    pub classes: Option<Rows<i64>>,
    /// `y_any`: the classes accepted for each row; negative numbers fill up.
    pub accepted: Option<Rows<i64>>,
    /// `text`: what a text recognizer should read.
    pub text: Option<Rows<String>>,
}

impl Labels {
    pub fn is_empty(&self) -> bool {
        self.classes.is_none() && self.accepted.is_none() && self.text.is_none()
    }
}

/// A table with the same number of cells in every row.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<T> {
    pub width: usize,
    pub cells: Vec<T>,
}

impl<T> Rows<T> {
    pub fn row(&self, index: usize) -> &[T] {
        &self.cells[index * self.width..][..self.width]
    }
}

impl Dataset {
    /// Binds the arrays of an .npz or .npy file to the inputs of `model`: by their names, or, for a model with one
    /// input, the array `x` or the only one. Arrays named `y`, `y_any` and `text` that are no inputs are labels.
    pub fn open(path: &Path, model: &Model) -> Result<Dataset, DataError> {
        let mut archive = Archive::open(path)?;
        Ok(Dataset::new(bind::bind(&mut archive, model)?))
    }

    pub(super) fn new(samples: Samples) -> Dataset {
        let part = (0..samples.count).collect();
        Dataset { all: Arc::new(samples), part }
    }

    /// The number of samples: one run of the model each.
    pub fn len(&self) -> usize {
        self.part.len()
    }

    pub fn is_empty(&self) -> bool {
        self.part.is_empty()
    }

    /// The number of rows in one sample: the batch that the model takes, mostly 1.
    pub fn batch(&self) -> usize {
        self.all.batch
    }

    pub fn source(&self) -> &Source {
        &self.all.source
    }

    /// What a user should know of the data though it can be used.
    pub fn warnings(&self) -> &[String] {
        &self.all.warnings
    }

    pub fn labels(&self) -> &Labels {
        &self.all.labels
    }

    /// Sample `index` in the order of the model's inputs (those without a default), ready to run. Bytes are shared with
    /// the file where the types are the same.
    pub fn sample(&self, index: usize) -> Vec<Tensor> {
        self.all.columns.iter().map(|column| column.sample(self.part[index])).collect()
    }

    /// The rows of [`labels`](Dataset::labels) that belong to sample `index`.
    pub fn label_rows(&self, index: usize) -> Range<usize> {
        let first = self.part[index] * self.all.batch;
        first..first + self.all.batch
    }

    /// The labels `y` of each sample; none where there are none.
    pub fn classes(&self) -> Option<Vec<Vec<i64>>> {
        let classes = self.all.labels.classes.as_ref()?;
        let of = |index: usize| self.label_rows(index).flat_map(|row| classes.row(row)).copied().collect();
        Some((0..self.len()).map(of).collect())
    }

    /// The first `count` samples.
    pub fn first(&self, count: usize) -> Dataset {
        self.select(self.part.iter().copied().take(count).collect())
    }

    /// At most `count` samples, in their order; of more, the seed chooses.
    pub fn some(&self, seed: u64, count: usize) -> Dataset {
        if count >= self.len() {
            return self.clone();
        }
        let order = Random::new(seed, 0).permutation(self.len());
        let mut part: Vec<usize> = order[..count].iter().map(|&i| self.part[i]).collect();
        part.sort_unstable();
        self.select(part)
    }

    /// Two parts without a common sample, the second with about `fraction` of all: it is held back for judging. The
    /// choice depends on the seed alone. A single sample makes up both parts.
    pub fn split(&self, seed: u64, fraction: f64) -> (Dataset, Dataset) {
        let n = self.len();
        if n < 2 {
            return (self.clone(), self.clone());
        }
        let held_back = ((n as f64 * fraction).round() as usize).clamp(1, n - 1);
        let order = Random::new(seed, 0).permutation(n);
        let [kept, held_back] = [&order[held_back..], &order[..held_back]].map(|chosen| {
            let mut part: Vec<usize> = chosen.iter().map(|&i| self.part[i]).collect();
            part.sort_unstable();
            self.select(part)
        });
        (kept, held_back)
    }

    fn select(&self, part: Vec<usize>) -> Dataset {
        Dataset { all: self.all.clone(), part: part.into() }
    }
}

impl Column {
    fn sample(&self, index: usize) -> Tensor {
        let rows = self.rows.unwrap_or(1);
        let row: usize = self.array.shape()[1..].iter().product();
        let mut shape = self.array.shape().to_vec();
        match self.rows {
            Some(rows) => shape[0] = rows,
            None => drop(shape.remove(0)),
        }
        let range = index * rows * row..(index + 1) * rows * row;
        let slice = match (self.array.bytes(), self.array.strings()) {
            (Some(bytes), _) => {
                let size = self.array.dtype().bits() / 8;
                Tensor::new(self.array.dtype(), shape, bytes.slice(range.start * size..range.end * size))
            }
            (None, strings) => Tensor::from_strings(shape, strings.unwrap_or_default()[range].to_vec()),
        };
        let slice = slice.expect("a sample is a part of its array");
        cast(&slice, self.dtype).unwrap_or_else(|_| unreachable!("binding checked that every element fits"))
    }
}
