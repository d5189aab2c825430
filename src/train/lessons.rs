//! Samples with what is wanted of them.

use rayon::prelude::*;

use super::TrainError;
use super::answers::Answers;
use super::augment::{Augmentation, Drawn, blend};
use super::loss::Loss;
use crate::ir::{Model, Tensor, ValueId};
use crate::runtime::stack::stacked;
use crate::runtime::{Runner, RuntimeError, Shared, Together};

/// What a model learns from.
pub struct Lessons {
    /// For each sample, a tensor for each input of the model.
    pub inputs: Vec<Vec<Tensor>>,
    /// For each value that is judged.
    pub targets: Vec<Target>,
    /// What the loss of each sample cannot fall below, the entropy of its teacher: it is taken off. Empty where that is not
    /// known.
    pub floor: Vec<f64>,
    /// Rows of the outputs that belong to one sample.
    pub rows: usize,
}

/// What is wanted of one value.
#[derive(Default)]
pub struct Target {
    /// Probabilities, or wanted values, sample after sample; none without a teacher.
    pub teacher: Option<Answers>,
    /// The class of each position, sample after sample; negative where it is not known. None without labels.
    pub labels: Option<Vec<i64>>,
    /// The share of probability that labels leave to all classes alike.
    pub smoothing: f32,
}

/// What a teacher gives for one value: its shape for one sample, and the elements of all.
pub struct Answer {
    pub shape: Vec<usize>,
    pub elements: Answers,
}

/// Samples that are asked of a teacher before their answers are written down.
const AT_A_TIME: usize = 256;

/// What `teacher` gives for each sample, run in parallel, of each of `values`. A sample of the teacher is what `inputs` gives
/// for a number below `count`. So many samples are run `together`, where that gives the same.
pub fn ask(
    teacher: &Model,
    values: &[ValueId],
    together: usize,
    count: usize,
    inputs: impl Fn(usize) -> Vec<Tensor> + Sync,
) -> Result<Vec<Answer>, TrainError> {
    let alone = Runner::with_outputs(teacher, values)?;
    let first: Vec<Vec<Tensor>> = (0..together.min(count)).map(&inputs).collect();
    let asked = Together::new(teacher, values, alone, &first)?;
    let mut all: Vec<Answer> = Vec::new();
    for start in (0..count).step_by(AT_A_TIME) {
        let samples = start..(start + AT_A_TIME).min(count);
        let runs: Vec<usize> = samples.clone().step_by(asked.count()).collect();
        let run = |&first: &usize| {
            let samples: Vec<_> = (first..samples.end.min(first + asked.count())).map(&inputs).collect();
            asked.run(&samples)
        };
        let answers: Vec<Vec<Vec<Tensor>>> = runs.par_iter().map(run).collect::<Result<_, _>>()?;
        let answers: Vec<Vec<Tensor>> = answers.into_iter().flatten().collect();
        if all.is_empty() {
            let zeros = |answer: &Tensor| -> Result<Answer, TrainError> {
                let elements = Answers::zeros(answer.len() * count).map_err(TrainError::Answers)?;
                Ok(Answer { shape: answer.shape().to_vec(), elements })
            };
            all = answers[0].iter().map(zeros).collect::<Result<_, _>>()?;
        }
        for (sample, answers) in samples.zip(&answers) {
            for ((answer, all), &value) in answers.iter().zip(&mut all).zip(values) {
                let output = || teacher.value(value).name.clone();
                let floats =
                    answer.floats().ok_or_else(|| TrainError::Output { output: output(), why: "it is no float" })?;
                if answer.shape() != all.shape {
                    return Err(TrainError::Output { output: output(), why: "its shape differs between samples" });
                }
                all.elements[sample * answer.len()..][..answer.len()].copy_from_slice(&floats);
            }
        }
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

    /// The inputs of a run on `samples`, filled up to `count` with copies that do not count, and then the targets of each
    /// loss, in values of these shapes. Samples are changed as in the epoch that is told.
    pub fn batch(
        &self,
        samples: &[usize],
        count: usize,
        losses: &[Loss],
        shapes: &[Vec<usize>],
        augmentation: Option<(&Augmentation, usize)>,
    ) -> Result<(Vec<Shared>, Vec<Shared>), RuntimeError> {
        let drawn: Option<Vec<Drawn>> = augmentation.map(|(augmentation, epoch)| {
            samples.iter().map(|&sample| augmentation.draw(epoch, sample, |index| &self.inputs[index][..])).collect()
        });
        let given = |index: usize| -> &[Tensor] {
            let index = index.min(samples.len() - 1);
            drawn.as_ref().map_or(&self.inputs[samples[index]], |drawn| &drawn[index].inputs)
        };
        let columns = self.inputs[samples[0]].len();
        let inputs = (0..columns).map(|column| {
            let parts: Vec<&Tensor> = (0..count).map(|index| &given(index)[column]).collect();
            Shared::of(&stacked(&parts)?)
        });
        let inputs = inputs.collect::<Result<_, _>>()?;
        let mixed: Vec<Option<(usize, f32)>> = match &drawn {
            Some(drawn) => drawn.iter().map(|drawn| drawn.mixed).collect(),
            None => vec![None; samples.len()],
        };
        let mut targets = Vec::new();
        for ((target, shape), &loss) in self.targets.iter().zip(shapes).zip(losses) {
            for tensor in target.tensors(samples, &mixed, count, loss, shape) {
                targets.push(Shared::of(&tensor)?);
            }
        }
        Ok((inputs, targets))
    }
}

impl Target {
    /// Both tensors of targets, of shape `shape` for `count` samples, each of which may be mixed with another.
    fn tensors(
        &self,
        samples: &[usize],
        mixed: &[Option<(usize, f32)>],
        count: usize,
        loss: Loss,
        shape: &[usize],
    ) -> [Tensor; 2] {
        let all: usize = shape.iter().product();
        let (size, classes) = (all / count, shape[shape.len() - 1]);
        let mut tensors = [vec![0f32; all], vec![0f32; all]];
        for (index, (&sample, mixed)) in samples.iter().zip(mixed).enumerate() {
            let mut wanted = self.wanted(sample, size, loss, classes);
            if let Some((partner, share)) = *mixed {
                let other = self.wanted(partner, size, loss, classes);
                wanted = [blend(&wanted[0], &other[0], share), blend(&wanted[1], &other[1], share)];
            }
            for (tensor, wanted) in tensors.iter_mut().zip(wanted) {
                tensor[index * size..(index + 1) * size].copy_from_slice(&wanted);
            }
        }
        tensors.map(|elements| Tensor::from_vec(shape.to_vec(), elements))
    }

    /// What is wanted of one sample.
    fn wanted(&self, sample: usize, size: usize, loss: Loss, classes: usize) -> [Vec<f32>; 2] {
        let teacher = match &self.teacher {
            Some(teacher) => teacher[sample * size..(sample + 1) * size].to_vec(),
            None => vec![0.0; size],
        };
        let second = match loss {
            Loss::MeanSquare | Loss::Cosine => vec![1.0; size],
            Loss::Classes { .. } => {
                let mut rows = vec![0.0; size];
                if let Some(labels) = &self.labels {
                    let positions = size / classes;
                    let labels = &labels[sample * positions..(sample + 1) * positions];
                    for (row, &label) in rows.chunks_mut(classes).zip(labels) {
                        if let Some(label) = usize::try_from(label).ok().filter(|&label| label < classes) {
                            row.fill(self.smoothing / classes as f32);
                            row[label] += 1.0 - self.smoothing;
                        }
                    }
                }
                rows
            }
        };
        [teacher, second]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teacher_that_mixes_samples_is_asked_one_by_one() {
        let answers = |last: &str| {
            let text = format!(
                "<ir_version: 8, opset_import: [\"\" : 18]>
                teacher (float[n,2] x) => (float[m,2] y)
                <int64[1] zero = {{0}}> {{ e = Exp (x) {last} }}"
            );
            let teacher = Model::parse(&text).unwrap();
            let output = teacher.graph(teacher.main).outputs.clone();
            let inputs = |index: usize| vec![Tensor::from_vec(vec![1, 2], vec![index as f32 * 0.1, -0.5])];
            ask(&teacher, &output, 4, 11, inputs).unwrap().remove(0).elements.to_vec()
        };
        let alone = answers("y = Identity (e)");
        assert_eq!(alone.len(), 22);
        for (index, answer) in alone.chunks(2).enumerate() {
            let expected = [(index as f32 * 0.1).exp(), (-0.5f32).exp()];
            assert!(answer.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{index}: {answer:?}");
        }
        let mixed = answers("m = ReduceMax <keepdims = 1> (e, zero) s = Sub (e, m) y = Add (s, m)");
        assert!(mixed.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-6));
        let single = answers("y = ReduceMax <keepdims = 1> (e, zero)");
        assert!(single.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn probabilities_are_softened() {
        let mut logits = vec![0.0, 2.0 * 3f32.ln(), 5.0, 5.0];
        soften(&mut logits, 2, 2.0);
        let expected = [0.25, 0.75, 0.5, 0.5];
        assert!(logits.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{logits:?}");
    }

    #[test]
    fn samples_that_fill_up_a_run_do_not_count() {
        let target =
            Target { teacher: Some(vec![0.1, 0.9, 0.6, 0.4].into()), labels: Some(vec![1, -1]), smoothing: 0.2 };
        let loss = Loss::Classes { alpha: 0.5, beta: 0.5, temperature: 1.0 };
        let [teacher, labels] = target.tensors(&[0, 1], &[None, None], 3, loss, &[3, 2]);
        assert_eq!(*teacher.floats().unwrap(), [0.1, 0.9, 0.6, 0.4, 0.0, 0.0]);
        assert_eq!(*labels.floats().unwrap(), [0.1, 0.90000004, 0.0, 0.0, 0.0, 0.0]);
    }
    #[test]
    fn what_is_wanted_is_mixed_as_samples_are() {
        let target =
            Target { teacher: Some(vec![0.2, 0.8, 0.6, 0.4].into()), labels: Some(vec![0, 1]), smoothing: 0.0 };
        let loss = Loss::Classes { alpha: 0.5, beta: 0.5, temperature: 1.0 };
        let [teacher, labels] = target.tensors(&[0], &[Some((1, 0.25))], 1, loss, &[1, 2]);
        let near = |tensor: Tensor, expected: [f32; 2]| {
            let floats = tensor.floats().unwrap().into_owned();
            assert!(floats.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{floats:?}");
        };
        near(teacher, [0.3, 0.7]);
        near(labels, [0.75, 0.25]);
    }
}
