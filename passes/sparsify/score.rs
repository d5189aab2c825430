//! How important each weight is: one arm for each criterion that looks at weights one by one.

use ndarray::{Array2, Array3};
use rayon::prelude::*;

use super::weight::Weight;
use super::{Criterion, ReadRows, failed};
use crate::data::{Dataset, Random};
use crate::ir::{Model, Tensor, ValueId};
use crate::measure::{Watch, survey};
use crate::pass::PassError;
use crate::passes::prune::{Direction, Sum, gradients};

/// The stream of random numbers that chooses weights.
const CHOICE: u64 = 4 << 32;

/// A model whose weights are compared, and what tells of them.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub model: &'a Model,
    pub weights: &'a [Weight],
    /// What each weight is multiplied with, where the criterion asks.
    pub reads: &'a [ReadRows],
    pub data: Option<&'a Dataset>,
    pub seed: u64,
    pub watch: Watch<'a>,
}

impl Subject<'_> {
    /// The weights themselves.
    pub fn matrices(&self) -> Vec<Array2<f32>> {
        let matrix = |weight: &Weight| weight.matrix(self.model.constant(weight.value).expect("weights are constants"));
        self.weights.par_iter().map(matrix).collect()
    }

    pub fn data(&self) -> Result<&Dataset, PassError> {
        self.data.filter(|data| !data.is_empty()).ok_or_else(|| PassError("its criterion needs samples".into()))
    }
}

/// The importance of every weight. Those that are zero already go first.
pub fn scores(criterion: Criterion, subject: Subject) -> Result<Vec<Array2<f32>>, PassError> {
    let matrices = subject.matrices();
    let factors = match criterion {
        Criterion::Random => random(subject),
        Criterion::Magnitude => matrices.iter().map(|matrix| Array2::ones(matrix.dim())).collect(),
        Criterion::Gradient => changes(subject, Direction::Signs, Sum::Magnitudes)?,
        Criterion::Snip => {
            let labels = subject.data()?.classes();
            let labels = labels.ok_or_else(|| PassError("its criterion needs labels (`y`)".into()))?;
            changes(subject, Direction::Labels(&labels), Sum::Signed)?
        }
        Criterion::Wanda => norms(subject)?,
        Criterion::Hessian => unreachable!("it looks at all weights of an output together"),
    };
    let is_random = criterion == Criterion::Random;
    let score = |(matrix, mut factors): (Array2<f32>, Array2<f32>)| {
        factors.zip_mut_with(&matrix, |factor, &w| {
            *factor = match (w == 0.0, is_random) {
                (true, _) => -1.0,
                (false, true) => *factor,
                (false, false) => w.abs() * *factor,
            }
        });
        factors
    };
    Ok(matrices.into_par_iter().zip(factors).map(score).collect())
}

fn random(subject: Subject) -> Vec<Array2<f32>> {
    let draw = |(index, weight): (usize, &Weight)| {
        let mut random = Random::new(subject.seed, CHOICE + index as u64);
        Array2::from_shape_simple_fn(weight.dim(), || random.below(1 << 24) as f32)
    };
    subject.weights.par_iter().enumerate().map(draw).collect()
}

/// E |∂(r·y)/∂w|, where y are the outputs and r random signs; |E ∂L/∂w| by labels.
fn changes(subject: Subject, direction: Direction, sum: Sum) -> Result<Vec<Array2<f32>>, PassError> {
    let Subject { model, weights, seed, watch, .. } = subject;
    let data = subject.data()?;
    let values: Vec<ValueId> = weights.iter().map(|weight| weight.value).collect();
    let inputs: Vec<Vec<Tensor>> = (0..data.len()).map(|index| data.sample(index)).collect();
    let means = gradients(model, &values, &inputs, direction, seed, sum, watch)?;
    let matrix = |(weight, means): (&Weight, Vec<f32>)| {
        let shape = model.constant(weight.value).expect("weights are constants").shape().to_vec();
        weight.matrix(&Tensor::from_vec(shape, means)).mapv_into(f32::abs)
    };
    Ok(weights.iter().zip(means).map(matrix).collect())
}

/// √E x², of what each weight is multiplied with.
fn norms(subject: Subject) -> Result<Vec<Array2<f32>>, PassError> {
    let Subject { model, weights, reads, seed, watch, .. } = subject;
    let data = subject.data()?;
    let values: Vec<ValueId> = weights.iter().map(|weight| weight.x).collect();
    // For each group the sums of its columns, and the number of rows.
    let mut seen: Vec<(Array2<f64>, usize)> = vec![(Array2::zeros((0, 0)), 0); weights.len()];
    survey(
        model,
        &values,
        data,
        watch,
        &mut seen,
        |place, sample, x| {
            let rows = reads[place].rows(x, data.len(), &mut Random::new(seed, sample as u64))?;
            Some((squares(&rows), rows.dim().1))
        },
        |_, (sums, count), squares| {
            let Some((squares, rows)) = squares else { return };
            *sums = if sums.is_empty() { squares } else { &*sums + &squares };
            *count += rows;
        },
    )
    .map_err(failed)?;
    let spread = |(weight, (sums, count)): (&Weight, (Array2<f64>, usize))| {
        let (rows, columns) = weight.dim();
        if sums.is_empty() || sums.ncols() != columns {
            return Err(PassError(format!("`{}` is read in another shape than it has", model.label(weight.node))));
        }
        let each = rows / sums.nrows();
        let norm = |(row, column)| (sums[[row / each, column]] / count.max(1) as f64).sqrt() as f32;
        Ok(Array2::from_shape_fn((rows, columns), norm))
    };
    weights.iter().zip(seen).map(spread).collect()
}

/// Σ x² over rows `[groups, rows, row]`, for each group.
fn squares(rows: &Array3<f32>) -> Array2<f64> {
    let (groups, _, width) = rows.dim();
    let mut sums = Array2::<f64>::zeros((groups, width));
    for (rows, mut sums) in rows.outer_iter().zip(sums.rows_mut()) {
        for row in rows.rows() {
            sums.zip_mut_with(&row, |sum, &x| *sum += f64::from(x) * f64::from(x));
        }
    }
    sums
}
