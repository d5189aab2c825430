//! What is made small. Each loss is written in ordinary operators, and is a sum over samples, so that micro-batches add up.

use super::gradient::tape::Tape;
use crate::ir::op::LogSoftmax;
use crate::ir::{DType, Size, Type, ValueId};

/// A value that is judged, and how much that counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    pub value: ValueId,
    pub loss: Loss,
    pub weight: f32,
}

/// What a value of a model is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// `alpha`·T²·CE(softmax(teacher/T), softmax(output/T)) + `beta`·CE(labels, softmax(output)), where
    /// CE(p, q) = -Σ p·log q, meaned over the positions of an output, if it has classes at several (Hinton, Vinyals and
    /// Dean, 2015). The first CE differs from the Kullback-Leibler divergence by the entropy of the teacher, which is constant.
    Classes { alpha: f32, beta: f32, temperature: f32 },
    /// The mean over elements of (output - teacher)².
    MeanSquare,
    /// The mean over rows along the last axis of 1 - cos(output, teacher).
    Cosine,
}

/// What keeps the cosine of rows of zeros a number.
const NORM: f64 = 1e-12;

impl Goal {
    /// Writes the loss of the value, whose first axis counts samples, and two inputs of its shape: of classes the
    /// probabilities that teacher and labels give them, otherwise the wanted values and a factor for each. Samples with
    /// zeros there do not count.
    pub(super) fn write(self, tape: &mut Tape) -> ValueId {
        let Goal { value, loss, weight } = self;
        let (dtype, shape) = tape.known(value).expect("the caller looked at the shape");
        let inputs: Vec<ValueId> = ["teacher", "labels"].iter().map(|name| input(tape, name, dtype, &shape)).collect();
        let per_sample: usize = shape[1..].iter().product();
        let loss = match loss {
            Loss::Classes { alpha, beta, temperature } => {
                let positions = per_sample / shape[shape.len() - 1];
                let factors = [(alpha * temperature * temperature, temperature), (beta, 1.0)];
                let terms: Vec<ValueId> = std::iter::zip(&inputs, factors)
                    .filter(|(_, (factor, _))| *factor != 0.0)
                    .map(|(&target, (factor, temperature))| {
                        let scaled = tape.scale(value, 1.0 / f64::from(temperature));
                        let (dtype, shape) = (tape.dtype(scaled), tape.shape(scaled));
                        let log = tape.write(LogSoftmax { x: scaled, axis: -1 }, dtype, shape);
                        let product = tape.mul(target, log);
                        let sum = sum_all(tape, product);
                        tape.scale(sum, -f64::from(factor) / positions as f64)
                    })
                    .collect();
                let zero = tape.scalar(0.0, value);
                terms.into_iter().reduce(|sum, term| tape.add(sum, term)).unwrap_or(zero)
            }
            Loss::MeanSquare => {
                let difference = tape.sub(value, inputs[0]);
                let square = tape.mul(difference, difference);
                let counted = tape.mul(square, inputs[1]);
                let sum = sum_all(tape, counted);
                tape.scale(sum, 1.0 / per_sample as f64)
            }
            Loss::Cosine => {
                let last = [shape.len() - 1];
                let mut dot = |a: ValueId, b: ValueId| {
                    let product = tape.mul(a, b);
                    tape.sum(product, &last, true)
                };
                let (both, ours, theirs) = (dot(value, inputs[0]), dot(value, value), dot(inputs[0], inputs[0]));
                let squares = tape.mul(ours, theirs);
                let positive = tape.shift(squares, NORM);
                let inverse = tape.reciprocal_sqrt(positive);
                let cosine = tape.mul(both, inverse);
                let one = tape.scalar(1.0, cosine);
                let distance = tape.sub(one, cosine);
                // Each element of a row has the same factor.
                let counted = tape.mul(inputs[1], distance);
                let sum = sum_all(tape, counted);
                tape.scale(sum, 1.0 / per_sample as f64)
            }
        };
        tape.scale(loss, weight.into())
    }
}

fn sum_all(tape: &mut Tape, x: ValueId) -> ValueId {
    let axes: Vec<usize> = (0..tape.shape(x).len()).collect();
    tape.sum(x, &axes, false)
}

fn input(tape: &mut Tape, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
    let main = tape.model.main;
    let input = tape.model.add_input(main, name);
    let sizes = shape.iter().map(|&n| Size::Fixed(n as i64));
    tape.model.set_type(input, Some(Type::tensor(dtype, sizes)));
    tape.know(input, dtype, shape.to_vec());
    input
}
