//! A model that the check asks of many samples.
//!
//! Law: its answers are those that it gives for each sample alone. A model of floats is asked of several in one run, by
//! the kernels that training has, where that gives what tract gives.

use std::slice::from_ref;

use crate::data::Dataset;
use crate::ir::{Model, Tensor};
use crate::runtime::stack::are_near;
use crate::runtime::{Execution, Runner, RuntimeError, Together, is_quantized, samples_of_a_run};

/// So many samples are in memory in one run at most.
const MOST: usize = 32;

/// Fewer runs are not worth the plans that more samples in one need.
const FEWEST_RUNS: usize = 8;

/// How many samples to ask `model` of in one run.
pub fn samples_together(model: &Model, data: &Dataset) -> usize {
    let most = MOST.min(data.len() / FEWEST_RUNS);
    if most < 2 || is_quantized(model) { 1 } else { samples_of_a_run(model, &data.sample(0)).min(most) }
}

/// What asks `model` of as many samples as `first` has in one run; `alone`, which runs it as `execution` says, of one sample
/// in a run, where that is not the same.
///
/// # Errors
/// If `alone` cannot run.
pub fn contestant(
    model: &Model,
    alone: Runner,
    execution: &Execution,
    first: &[Vec<Tensor>],
) -> Result<Together, RuntimeError> {
    if first.len() > 1 && !is_quantized(model) {
        let expected = alone.run(&first[0])?;
        let execution = Execution { blocks: true, ..execution.clone() };
        let runner = Runner::with(model, &model.graph(model.main).outputs, &execution);
        let together = runner.and_then(|runner| Together::new(runner, first));
        // What cannot be run so is run alone.
        let together = together.ok().filter(|together| together.count() > 1);
        let found = together.as_ref().and_then(|together| together.run(from_ref(&first[0])).ok());
        if let (Some(together), Some([found])) = (together, found.as_deref())
            && are_near(found, &expected)
        {
            return Ok(together);
        }
    }
    Together::new(alone, &[])
}
