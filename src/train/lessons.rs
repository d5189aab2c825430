//! Samples with what is wanted of them.

use rayon::prelude::*;

use super::TrainError;
use super::loss::Loss;
use crate::ir::{Model, Tensor, ValueId};
use crate::runtime::{Runner, RuntimeError, Shared};

/// What a model learns from.
pub struct Lessons {
    /// For each sample, a tensor for each input of the model.
    pub inputs: Vec<Vec<Tensor>>,
    /// For each output that is judged.
    pub targets: Vec<Target>,
    /// What the loss of each sample cannot fall below, the entropy of its teacher: it is taken off. Empty where that is not
    /// known.
    pub floor: Vec<f64>,
    /// Rows of the outputs that belong to one sample.
    pub rows: usize,
}

/// What is wanted of one output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// Probabilities, or wanted values, sample after sample; none without a teacher.
    pub teacher: Option<Vec<f32>>,
    /// The class of each position, sample after sample; negative where it is not known. None without labels.
    pub labels: Option<Vec<i64>>,
    /// The share of probability that labels leave to all classes alike.
    pub smoothing: f32,
}

/// What `teacher` gives for each sample, run in parallel: the elements of each of `outputs`, sample after sample. A sample
/// of the teacher is what `inputs` gives for a number below `count`.
pub fn ask(
    teacher: &Model,
    outputs: &[ValueId],
    count: usize,
    inputs: impl Fn(usize) -> Vec<Tensor> + Sync,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let runner = Runner::with_outputs(teacher, outputs)?;
    let answers: Vec<Vec<Vec<f32>>> = (0..count)
        .into_par_iter()
        .map(|sample| {
            let answers = runner.run(&inputs(sample))?.into_iter();
            Ok(answers.map(|answer| answer.floats().map(|floats| floats.into_owned()).unwrap_or_default()).collect())
        })
        .collect::<Result<_, RuntimeError>>()?;
    let mut all = vec![Vec::new(); outputs.len()];
    for answer in answers {
        all.iter_mut().zip(answer).for_each(|(all, answer)| all.extend(answer));
    }
    Ok(all)
}

/// softmax(x / T) of each row of so many classes, in place.
pub fn soften(logits: &mut [f32], classes: usize, temperature: f32) {
    logits.par_chunks_mut(classes.max(1)).for_each(|row| {
        let max = row.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
        let exp = |x: f32| (f64::from(x - max) / f64::from(temperature)).exp();
        let sum: f64 = row.iter().map(|&x| exp(x)).sum();
        row.iter_mut().for_each(|x| *x = (exp(*x) / sum) as f32);
    });
}

/// The entropy of each row of probabilities.
pub fn entropy(rows: &[f32], classes: usize) -> Vec<f64> {
    let of = |&p: &f32| if p > 0.0 { -f64::from(p) * f64::from(p).ln() } else { 0.0 };
    rows.chunks(classes.max(1)).map(|row| row.iter().map(of).sum()).collect()
}

impl Lessons {
    /// The sum over `samples` of what the loss cannot fall below.
    pub(super) fn floor_of(&self, samples: &[usize]) -> f64 {
        samples.iter().filter_map(|&sample| self.floor.get(sample)).sum()
    }

    /// The inputs of a run on `samples`, filled up to `count` with copies that do not count, and then the targets.
    pub fn batch(
        &self,
        samples: &[usize],
        count: usize,
        loss: Loss,
        shapes: &[Vec<usize>],
    ) -> Result<(Vec<Shared>, Vec<Shared>), RuntimeError> {
        let filled: Vec<usize> = (0..count).map(|index| samples[index.min(samples.len() - 1)]).collect();
        let columns = self.inputs[samples[0]].len();
        let inputs = (0..columns).map(|column| {
            let parts: Vec<&Tensor> = filled.iter().map(|&sample| &self.inputs[sample][column]).collect();
            Shared::of(&stacked(&parts)?)
        });
        let inputs = inputs.collect::<Result<_, _>>()?;
        let mut targets = Vec::new();
        for (target, shape) in self.targets.iter().zip(shapes) {
            for tensor in target.tensors(samples, count, loss, shape) {
                targets.push(Shared::of(&tensor)?);
            }
        }
        Ok((inputs, targets))
    }
}

impl Target {
    /// Both tensors of targets, of shape `shape` for `count` samples.
    fn tensors(&self, samples: &[usize], count: usize, loss: Loss, shape: &[usize]) -> [Tensor; 2] {
        let all: usize = shape.iter().product();
        let (size, classes) = (all / count, shape[shape.len() - 1]);
        let (mut first, mut second) = (vec![0f32; all], vec![0f32; all]);
        for (index, &sample) in samples.iter().enumerate() {
            let place = index * size..(index + 1) * size;
            if let Some(teacher) = &self.teacher {
                first[place.clone()].copy_from_slice(&teacher[sample * size..(sample + 1) * size]);
            }
            match loss {
                Loss::MeanSquare => second[place].fill(1.0),
                Loss::Classes { .. } => {
                    let Some(labels) = &self.labels else { continue };
                    let positions = size / classes;
                    let labels = &labels[sample * positions..(sample + 1) * positions];
                    for (row, &label) in second[place].chunks_mut(classes).zip(labels) {
                        if let Some(label) = usize::try_from(label).ok().filter(|&label| label < classes) {
                            row.fill(self.smoothing / classes as f32);
                            row[label] += 1.0 - self.smoothing;
                        }
                    }
                }
            }
        }
        [first, second].map(|elements| Tensor::from_vec(shape.to_vec(), elements))
    }
}

/// Tensors of one shape, one after the other along the first axis.
pub(super) fn stacked(parts: &[&Tensor]) -> Result<Tensor, RuntimeError> {
    let first = parts[0];
    if parts.len() == 1 {
        return Ok(first.clone());
    }
    let mut bytes = Vec::with_capacity(first.byte_len() * parts.len());
    for part in parts {
        if (part.shape(), part.dtype()) != (first.shape(), first.dtype()) {
            return Err(RuntimeError::Input("differs in shape between samples".into()));
        }
        bytes.extend_from_slice(part.bytes().ok_or_else(|| RuntimeError::Input("is made of strings".into()))?);
    }
    let mut shape = first.shape().to_vec();
    shape[0] *= parts.len();
    Ok(Tensor::new(first.dtype(), shape, bytes.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_softened() {
        let mut logits = vec![0.0, 2.0 * 3f32.ln(), 5.0, 5.0];
        soften(&mut logits, 2, 2.0);
        let expected = [0.25, 0.75, 0.5, 0.5];
        assert!(logits.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{logits:?}");
    }

    #[test]
    fn samples_that_fill_up_a_run_do_not_count() {
        let target = Target { teacher: Some(vec![0.1, 0.9, 0.6, 0.4]), labels: Some(vec![1, -1]), smoothing: 0.2 };
        let loss = Loss::Classes { alpha: 0.5, beta: 0.5, temperature: 1.0 };
        let [teacher, labels] = target.tensors(&[0, 1], 3, loss, &[3, 2]);
        assert_eq!(*teacher.floats().unwrap(), [0.1, 0.9, 0.6, 0.4, 0.0, 0.0]);
        assert_eq!(*labels.floats().unwrap(), [0.1, 0.90000004, 0.0, 0.0, 0.0, 0.0]);
    }
}
