//! The derivatives of what a model gives, weighed, by its weights.

use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::weighed::{Direction, Weighed};
use crate::ir::{Model, Tensor, ValueId};
use crate::measure::Watch;
use crate::pass::PassError;
use crate::runtime::{Execution, Runner};
use crate::train::gradient::gradient_in_ours;

/// Samples whose gradients are in memory together.
const SAMPLES_AT_A_TIME: usize = 4;

/// The derivatives of the weighed outputs by constants, sample by sample.
pub struct Derivatives<'a> {
    /// Which of the constants outputs depend on, in their order.
    pub known: Vec<usize>,
    weighed: Weighed<'a>,
    given: Vec<Tensor>,
    runner: Runner,
}

impl<'a> Derivatives<'a> {
    /// By `values`, constants of the model whose outputs are weighed. They become inputs, so that nothing is folded into them.
    /// None where no output depends on any.
    ///
    /// # Errors
    /// If a derivative is not known.
    pub fn of(
        mut model: Model,
        weighed: Weighed<'a>,
        values: &[ValueId],
    ) -> Result<Option<Derivatives<'a>>, PassError> {
        let constant = |&value: &ValueId| model.constant(value).expect("derivatives are by constants").clone();
        let given: Vec<Tensor> = values.iter().map(constant).collect();
        model.make_inputs(values);
        let total = weighed.total(&mut model);
        let backward = gradient_in_ours(&mut model, total, values).map_err(failed)?;
        let (known, backward): (Vec<usize>, Vec<ValueId>) =
            backward.into_iter().enumerate().filter_map(|(index, gradient)| Some((index, gradient?))).unzip();
        if known.is_empty() {
            return Ok(None);
        }
        let runner = Runner::with(&model, &backward, &Execution::training()).map_err(failed)?;
        Ok(Some(Derivatives { known, weighed, given, runner }))
    }

    /// Those that are known, on a sample, the `index`-th.
    ///
    /// # Errors
    /// If the model does not run on it.
    pub fn on(&self, index: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, PassError> {
        self.at(inputs, &self.given, &self.weighed.weights(index, inputs)?)
    }

    /// Those that are known, where the constants are others, and so are the weights of the outputs.
    ///
    /// # Errors
    /// If the model does not run on it.
    pub fn at(&self, inputs: &[Tensor], given: &[Tensor], weights: &[Tensor]) -> Result<Vec<Tensor>, PassError> {
        self.runner.run(&[inputs, given, weights].concat()).map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(error.to_string())
}

/// What is summed over samples.
#[derive(Clone, Copy, PartialEq)]
pub enum Sum {
    /// The derivatives.
    Signed,
    /// Their magnitudes.
    Magnitudes,
}

/// For each of `values`, constants of the model, the mean derivative of the outputs by each of its elements over the samples
/// `inputs`, or of their magnitude; zeros where no output depends on it.
///
/// # Errors
/// If a derivative is not known, or the model does not run.
pub fn gradients(
    model: &Model,
    values: &[ValueId],
    inputs: &[Vec<Tensor>],
    direction: Direction,
    seed: u64,
    sum: Sum,
    watch: Watch,
) -> Result<Vec<Vec<f32>>, PassError> {
    let first = inputs.first().ok_or_else(|| PassError("its criterion needs samples".into()))?;
    let mut probed = model.clone();
    let weighed = Weighed::of(&mut probed, first, direction, seed)?;
    let length = |&value: &ValueId| model.constant(value).expect("derivatives are by constants").len();
    let mut means: Vec<Vec<f32>> = values.iter().map(|value| vec![0.0; length(value)]).collect();
    let Some(derivatives) = Derivatives::of(probed, weighed, values)? else { return Ok(means) };
    let run = |index: usize| -> Result<Vec<Tensor>, PassError> {
        if watch.cancelled.load(Ordering::Relaxed) {
            return Err(PassError("cancelled".into()));
        }
        derivatives.on(index, &inputs[index])
    };
    let share = 1.0 / inputs.len() as f32;
    for first in (0..inputs.len()).step_by(SAMPLES_AT_A_TIME) {
        let samples = first..inputs.len().min(first + SAMPLES_AT_A_TIME);
        let seen: Vec<Vec<Tensor>> = samples.into_par_iter().map(run).collect::<Result<_, _>>()?;
        means.par_iter_mut().enumerate().for_each(|(index, means)| {
            let Ok(place) = derivatives.known.binary_search(&index) else { return };
            for gradients in &seen {
                let floats = gradients[place].floats().expect("a derivative is a float");
                match sum {
                    Sum::Signed => means.iter_mut().zip(floats.iter()).for_each(|(mean, g)| *mean += share * g),
                    Sum::Magnitudes => {
                        means.iter_mut().zip(floats.iter()).for_each(|(mean, g)| *mean += share * g.abs())
                    }
                }
            }
        });
    }
    Ok(means)
}
