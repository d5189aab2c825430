//! Runs several samples in one, which takes less time than one after the other.
//!
//! Law: that is done only with models that say of the first samples in one run what they say of each alone.

use super::stack::{are_near, can_stack_samples, parts, stacked};
use super::{Runner, RuntimeError};
use crate::analysis::{Cost, FixedSizes, Shapes};
use crate::ir::{Model, Tensor};

/// One run is to be worth so many multiply-accumulates: below, starting it takes longer than computing it.
const RUN: u64 = 4_000_000;

/// The multiply-accumulates that one weight of a run is worth: it is packed twice, and its gradient is moved.
const MOVE: u64 = 800;

/// How many samples are worth a run of `model`, if they can be stacked: from sizes alone, so that results do not depend on
/// the machine.
pub fn samples_of_a_run(model: &Model, sample: &[Tensor]) -> usize {
    if !can_stack_samples(model, sample) {
        return 1;
    }
    let inputs = model.graph(model.main).inputs.iter().zip(sample);
    let sizes =
        FixedSizes { inputs: inputs.map(|(&input, x)| (input, x.shape().to_vec())).collect(), ..Default::default() };
    let cost = Cost::of(model, &Shapes::infer_with(model, &sizes));
    let worth = RUN.max(MOVE * cost.parameters);
    (worth / cost.macs.max(1)).max(1) as usize
}

/// A model with the number of samples that one run of it takes.
pub struct Together {
    runner: Runner,
    count: usize,
}

impl Together {
    /// One run takes as many samples as `first` has, if the first and the last of these give in it what they give alone; else
    /// it takes one.
    ///
    /// # Errors
    /// If the model does not run on one of them alone.
    pub fn new(runner: Runner, first: &[Vec<Tensor>]) -> Result<Together, RuntimeError> {
        let mut together = Together { runner, count: first.len().max(1) };
        if !together.gives_the_same(first)? {
            together.count = 1;
        }
        Ok(together)
    }

    /// How many samples one run takes.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What each of `samples` gives, in one run if it takes so many, and their shapes allow it.
    pub fn run(&self, samples: &[Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, RuntimeError> {
        let whole = if samples.len() == self.count && self.count > 1 { self.run_stacked(samples) } else { None };
        match whole {
            Some(results) => Ok(results),
            None => samples.iter().map(|sample| self.runner.run(sample)).collect(),
        }
    }

    /// What runs the model on one sample alone, if that is all it did, else what `make` gives.
    pub fn alone_or<E>(self, make: impl FnOnce() -> Result<Runner, E>) -> Result<Runner, E> {
        if self.count == 1 { Ok(self.runner) } else { make() }
    }

    fn run_stacked(&self, samples: &[Vec<Tensor>]) -> Option<Vec<Vec<Tensor>>> {
        let columns = (0..samples[0].len()).map(|column| {
            let parts: Vec<&Tensor> = samples.iter().map(|sample| &sample[column]).collect();
            stacked(&parts).ok()
        });
        let results = self.runner.run(&columns.collect::<Option<Vec<Tensor>>>()?).ok()?;
        let results = results.iter().map(|result| parts(result, samples.len())).collect::<Option<Vec<_>>>()?;
        Some((0..samples.len()).map(|i| results.iter().map(|parts| parts[i].clone()).collect()).collect())
    }

    fn gives_the_same(&self, samples: &[Vec<Tensor>]) -> Result<bool, RuntimeError> {
        let [first, .., last] = samples else { return Ok(false) };
        let (alone, together) = ([self.runner.run(first)?, self.runner.run(last)?], self.run(samples)?);
        Ok(are_near(&together[0], &alone[0]) && are_near(&together[samples.len() - 1], &alone[1]))
    }
}
