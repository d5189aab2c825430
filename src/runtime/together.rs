//! Runs several samples in one, which takes less time than one after the other, by the kernels that training has.
//!
//! Law: that is done only with models of floats that say of the first samples in one run what they say of each alone.

use super::int8::is_quantized;
use super::memory;
use super::stack::{are_near, can_stack_samples, fix_inputs, parts, stacked};
use super::{Execution, Runner, RuntimeError};
use crate::analysis::{Cost, FixedSizes, Shapes};
use crate::ir::{Model, Tensor, ValueId};

/// One run is to be worth so many multiply-accumulates: below, starting it takes longer than computing it.
const RUN: u64 = 4_000_000;

/// The multiply-accumulates that one weight of a run is worth: it is packed twice, and its gradient is moved. A residual network of
/// 270 thousand takes a tenth less time for a batch in runs of 8 than in runs of 4.
const MOVE: u64 = 1_300;

/// Samples of a run whose weights were packed before: what more of them compute no longer stays in the cache.
const FEW: u64 = 4;

/// How many samples are worth a step of training `model`, if they can be stacked: from sizes alone, so that results do not
/// depend on the machine.
pub fn samples_of_a_run(model: &Model, sample: &[Tensor]) -> usize {
    worth(model, sample, |cost| RUN.max(MOVE * cost.parameters))
}

/// How many samples are worth a run of `model` with constant weights.
pub fn samples_of_an_answer(model: &Model, sample: &[Tensor]) -> usize {
    worth(model, sample, |cost| RUN.max(MOVE * cost.parameters).min(RUN.max(FEW * cost.macs)))
}

/// As many samples as together take so many multiply-accumulates.
fn worth(model: &Model, sample: &[Tensor], of_a_run: impl FnOnce(&Cost) -> u64) -> usize {
    if !can_stack_samples(model, sample) {
        return 1;
    }
    let inputs = model.graph(model.main).inputs.iter().zip(sample);
    let sizes =
        FixedSizes { inputs: inputs.map(|(&input, x)| (input, x.shape().to_vec())).collect(), ..Default::default() };
    let cost = Cost::of(model, &Shapes::infer_with(model, &sizes));
    (of_a_run(&cost) / cost.macs.max(1)).max(1) as usize
}

/// A model with the number of samples that one run of it takes.
pub struct Together {
    runner: Runner,
    count: usize,
}

impl Together {
    /// One run takes as many samples as `first` has, if the first and the last of these give in it what they give `alone`, which
    /// runs `model` too; else it takes one, and is `alone`.
    ///
    /// # Errors
    /// If `alone` does not run on them.
    pub fn new(
        model: &Model,
        outputs: &[ValueId],
        alone: Runner,
        first: &[Vec<Tensor>],
    ) -> Result<Together, RuntimeError> {
        if let ([sample, .., last], false) = (first, is_quantized(model)) {
            let expected = [alone.run(sample)?, alone.run(last)?];
            let gives_them = |together: &Together| {
                let results = together.run(first).unwrap_or_default();
                matches!(&results[..], [a, .., b] if are_near(a, &expected[0]) && are_near(b, &expected[1]))
            };
            if let Some(together) = Together::stacked(model, outputs, sample, first.len()).filter(gives_them) {
                memory::keep_freed();
                return Ok(together);
            }
        }
        Ok(Together { runner: alone, count: 1 })
    }

    /// For so many samples like this one, in shapes that are known before a plan is made; none where that is not possible.
    fn stacked(model: &Model, outputs: &[ValueId], sample: &[Tensor], count: usize) -> Option<Together> {
        let mut fixed = model.clone();
        fix_inputs(&mut fixed, sample, count).ok()?;
        let runner = Runner::with(&fixed, outputs, &Execution::teaching()).ok()?;
        Some(Together { runner, count })
    }

    /// How many samples one run takes.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What each of `samples` gives, at most as many as one run takes.
    pub fn run(&self, samples: &[Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, RuntimeError> {
        if self.count == 1 {
            return samples.iter().map(|sample| self.runner.run(sample)).collect();
        }
        let Some(last) = samples.last() else { return Ok(Vec::new()) };
        // Copies of the last fill up the run.
        let column = |column: usize| {
            let parts = (0..self.count).map(|index| &samples.get(index).unwrap_or(last)[column]);
            stacked(&parts.collect::<Vec<&Tensor>>())
        };
        let results = self.runner.run(&(0..last.len()).map(column).collect::<Result<Vec<_>, _>>()?)?;
        let apart = |result: &Tensor| {
            parts(result, self.count).ok_or_else(|| RuntimeError::Failed {
                node: None,
                why: "an output does not count the samples of a run along its first axis".into(),
            })
        };
        let results = results.iter().map(apart).collect::<Result<Vec<_>, _>>()?;
        Ok((0..samples.len()).map(|i| results.iter().map(|parts| parts[i].clone()).collect()).collect())
    }

    /// What runs the model on one sample alone, if that is all it did, else what `make` gives.
    pub fn alone_or<E>(self, make: impl FnOnce() -> Result<Runner, E>) -> Result<Runner, E> {
        if self.count == 1 { Ok(self.runner) } else { make() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx;

    #[test]
    fn images_are_asked_several_at_a_time_of_networks_of_any_operator_set() {
        for name in ["mnist_resdw_bn", "ppocr_cls"] {
            let model = onnx::read(format!("testdata/models/{name}.onnx")).expect("a model").model;
            let outputs = &model.graph(model.main).outputs;
            let shape = if name == "ppocr_cls" { vec![1, 3, 48, 64] } else { vec![1, 1, 28, 28] };
            let image = |seed: usize| {
                let pixel = |place: usize| ((place * 7 + seed * 13) % 31) as f32 / 31.0;
                vec![Tensor::from_vec(shape.clone(), (0..shape.iter().product()).map(pixel).collect())]
            };
            let images: Vec<Vec<Tensor>> = (0..4).map(image).collect();
            let together = Together::stacked(&model, outputs, &images[0], 4).expect("it is planned");
            let results = together.run(&images[..3]).expect("it runs");
            let alone = Runner::new(&model).expect("it is planned");
            for (image, result) in images.iter().zip(&results) {
                assert!(are_near(result, &alone.run(image).expect("it runs")), "{name}");
            }
            assert_eq!(Together::new(&model, outputs, alone, &images).expect("it runs").count(), 4);
        }
    }
}
