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
    let failed = |error: &dyn std::fmt::Display| PassError(error.to_string());
    let first = inputs.first().ok_or_else(|| PassError("its criterion needs samples".into()))?;
    let mut probed = model.clone();
    let weighed = Weighed::of(&mut probed, first, direction, seed)?;
    let given: Vec<Tensor> =
        values.iter().map(|&value| model.constant(value).expect("weights are constants").clone()).collect();
    probed.make_inputs(values);
    let total = weighed.total(&mut probed);
    let backward = gradient_in_ours(&mut probed, total, values).map_err(|error| failed(&error))?;
    let (known, backward): (Vec<usize>, Vec<ValueId>) =
        backward.into_iter().enumerate().filter_map(|(index, gradient)| Some((index, gradient?))).unzip();
    let mut means: Vec<Vec<f32>> = given.iter().map(|tensor| vec![0.0; tensor.len()]).collect();
    if known.is_empty() {
        return Ok(means);
    }
    let runner = Runner::with(&probed, &backward, &Execution::training()).map_err(|error| failed(&error))?;
    let run = |index: usize| -> Result<Vec<Tensor>, PassError> {
        if watch.cancelled.load(Ordering::Relaxed) {
            return Err(PassError("cancelled".into()));
        }
        let weights = weighed.weights(index, &inputs[index])?;
        runner.run(&[&inputs[index][..], &given, &weights].concat()).map_err(|error| failed(&error))
    };
    let share = 1.0 / inputs.len() as f32;
    for first in (0..inputs.len()).step_by(SAMPLES_AT_A_TIME) {
        let samples = first..inputs.len().min(first + SAMPLES_AT_A_TIME);
        let seen: Vec<Vec<Tensor>> = samples.into_par_iter().map(run).collect::<Result<_, _>>()?;
        means.par_iter_mut().enumerate().for_each(|(index, means)| {
            let Ok(place) = known.binary_search(&index) else { return };
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
