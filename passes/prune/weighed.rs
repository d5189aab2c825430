//! The outputs of a model as one number, whose gradient tells how they change: Σ r·y, where r are weights of the outputs y.

use crate::data::Random;
use crate::ir::op::{Add, Mul, ReduceSum};
use crate::ir::{DType, Model, Size, Tensor, Type, ValueId};
use crate::pass::PassError;
use crate::runtime::stack::fix_inputs;
use crate::runtime::{Execution, Runner};
use crate::train::joint::logits;

/// The stream of random numbers that outputs are weighed with.
const DIRECTIONS: u64 = 3 << 32;

/// How outputs are weighed, whose change is looked at.
#[derive(Clone, Copy, PartialEq)]
pub enum Direction<'a> {
    /// By random signs: over many samples that is the change of all outputs.
    Signs,
    /// By the derivative of the log-likelihood of a class that is drawn from the model's own distribution.
    Drawn,
    /// By the derivative of the log-likelihood of labels, those of each sample, of the first output.
    Labels(&'a [Vec<i64>]),
}

/// The outputs of a model that are weighed, and how.
pub struct Weighed<'a> {
    direction: Direction<'a>,
    seed: u64,
    outputs: Vec<ValueId>,
    /// What they are on the first sample.
    first: Vec<Tensor>,
    forward: Runner,
}

impl<'a> Weighed<'a> {
    /// The outputs of `model`, whose inputs get the shapes of `sample`: gradients are written for fixed ones.
    ///
    /// # Errors
    /// If no output is of float32, or the model does not run.
    pub fn of(
        model: &mut Model,
        sample: &[Tensor],
        direction: Direction<'a>,
        seed: u64,
    ) -> Result<Weighed<'a>, PassError> {
        // Gradients are written for fixed shapes.
        fix_inputs(model, sample, 1).map_err(|_| PassError("inputs with defaults are not known in training".into()))?;
        let shapes = crate::analysis::Shapes::infer(model);
        let outputs = model.graph(model.main).outputs.iter().map(|&output| logits(model, output));
        let outputs: Vec<ValueId> = outputs.filter(|&output| shapes.dtype(output) == Some(DType::F32)).collect();
        if outputs.is_empty() {
            return Err(PassError("no output is of float32, so that nothing is known of its changes".into()));
        }
        let forward = Runner::with(model, &outputs, &Execution::float()).map_err(failed)?;
        let first = forward.run(sample).map_err(failed)?;
        Ok(Weighed { direction, seed, outputs, first, forward })
    }

    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// What the outputs are on a sample.
    ///
    /// # Errors
    /// If the model does not run on it.
    pub fn answers(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, PassError> {
        self.forward.run(inputs).map_err(failed)
    }

    /// Appends the sum to `model`, with the weights as inputs behind those that there are.
    pub fn total(&self, model: &mut Model) -> ValueId {
        let mut total: Option<ValueId> = None;
        for (&output, tensor) in self.outputs.iter().zip(&self.first) {
            let weights = model.add_input(model.main, "weights");
            let shape = tensor.shape().iter().map(|&n| Size::Fixed(n as i64));
            model.set_type(weights, Some(Type::tensor(DType::F32, shape)));
            let weighed = model.append(model.main, "weighed", Mul { a: output, b: weights });
            let sum = ReduceSum { x: weighed, axes: None, keepdims: 0, noop_with_empty_axes: 0 };
            let sum = model.append(model.main, "sum", sum);
            total = Some(match total {
                Some(total) => model.append(model.main, "total", Add { a: total, b: sum }),
                None => sum,
            });
        }
        total.expect("there is an output")
    }

    /// The weights for a sample, the `index`-th.
    ///
    /// # Errors
    /// If the model does not run on it.
    pub fn weights(&self, index: usize, inputs: &[Tensor]) -> Result<Vec<Tensor>, PassError> {
        let mut random = Random::new(self.seed, DIRECTIONS + index as u64);
        if self.direction == Direction::Signs {
            let mut signs =
                |like: &Tensor| (0..like.len()).map(|_| if random.below(2) == 0 { -1f32 } else { 1.0 }).collect();
            return Ok(self.first.iter().map(|like| Tensor::from_vec(like.shape().to_vec(), signs(like))).collect());
        }
        let answers = self.answers(inputs)?;
        let weights = answers.iter().enumerate().map(|(place, answer)| {
            let weights = match self.direction {
                Direction::Signs | Direction::Drawn => drawn(answer, &mut random),
                Direction::Labels(_) if place > 0 => vec![0.0; answer.len()],
                Direction::Labels(labels) => labelled(answer, &labels[index])?,
            };
            Ok(Tensor::from_vec(answer.shape().to_vec(), weights))
        });
        weights.collect()
    }
}

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(error.to_string())
}

/// softmax(y) - e, row by row, where e is a class that is drawn from softmax(y).
fn drawn(scores: &Tensor, random: &mut Random) -> Vec<f32> {
    against(scores, |_, shares| {
        let mut rest = random.below(1 << 53) as f64 / (1u64 << 53) as f64;
        let class = shares.iter().position(|&share| {
            rest -= share;
            rest < 0.0
        });
        Some(class.unwrap_or(shares.len() - 1))
    })
}

/// softmax(y) - e, row by row, where e is its label; zeros where that is negative.
fn labelled(scores: &Tensor, labels: &[i64]) -> Result<Vec<f32>, PassError> {
    let width = scores.shape().last().copied().unwrap_or(1).max(1);
    if labels.len() * width != scores.len() || labels.iter().any(|&label| label >= width as i64) {
        return Err(PassError(
            "the labels `y` do not fit the first output: one class is needed for each position".into(),
        ));
    }
    Ok(against(scores, |row, _| usize::try_from(labels[row]).ok()))
}

/// softmax(y) - e, row by row, where e is the class that `choose` makes of a row and its softmax; zeros where there is none.
fn against(scores: &Tensor, mut choose: impl FnMut(usize, &[f64]) -> Option<usize>) -> Vec<f32> {
    let floats = scores.floats().expect("outputs of float32 were chosen");
    let width = scores.shape().last().copied().unwrap_or(1).max(1);
    let mut weights = Vec::with_capacity(floats.len());
    for (index, row) in floats.chunks(width).enumerate() {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponentials: Vec<f64> = row.iter().map(|&x| f64::from(x - highest).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        let shares: Vec<f64> = exponentials.into_iter().map(|p| p / sum).collect();
        let class = choose(index, &shares);
        let weight = |(i, &share): (usize, &f64)| match class {
            Some(class) => share as f32 - f32::from(u8::from(i == class)),
            None => 0.0,
        };
        weights.extend(shares.iter().enumerate().map(weight));
    }
    weights
}
