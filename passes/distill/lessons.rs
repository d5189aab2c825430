//! What there is to learn: samples in the student's order, what the teacher says of them, and labels.

use std::sync::Arc;

use super::{Distill, Judged};
use crate::data::Dataset;
use crate::ir::{Model, Tensor, ValueId};
use crate::measure::Pairing;
use crate::pass::{Context, PassError};
use crate::train::joint::logits;
use crate::train::lessons::{ask, entropy, soften};
use crate::train::{Lessons, Loss, Target};

pub(super) struct Lesson {
    pub lessons: Lessons,
    /// The values of the student that are judged: outputs, or what lies before their Softmax.
    pub outputs: Vec<ValueId>,
    pub loss: Loss,
}

pub(super) fn lesson(options: &Distill, student: &Model, cx: &mut Context) -> Result<Lesson, PassError> {
    let data = cx.data.clone().ok_or_else(|| PassError("it needs samples; give a file with `--data`".into()))?;
    // A model that nothing is told of learns from what it was.
    let original = cx.original.clone().unwrap_or_else(|| Arc::new(student.clone()));
    let teacher = cx.teacher.clone().unwrap_or_else(|| original.clone());
    let pairs = |to: &Model, what: &str| {
        Pairing::of(&original, to).map_err(|error| PassError(format!("the {what} does not fit the original: {error}")))
    };
    let (to_student, to_teacher) = (pairs(student, "student")?, pairs(&teacher, "teacher")?);
    let inputs: Vec<Vec<Tensor>> = (0..data.len()).map(|index| to_student.inputs(&data.sample(index))).collect();

    // Outputs in the order of the original.
    let of = |model: &Model, pairing: &Pairing| -> Vec<ValueId> {
        let outputs = &model.graph(model.main).outputs;
        pairing.output_places().iter().map(|&place| outputs[place]).collect()
    };
    let (ours, theirs) = (of(student, &to_student), of(&teacher, &to_teacher));
    let has_labels = data.labels().classes.is_some();
    let ends_in_softmax = theirs.iter().any(|&output| logits(&teacher, output) != output);
    let is_classes = match options.loss {
        Judged::Auto => has_labels || ends_in_softmax,
        Judged::Classes => true,
        Judged::MeanSquare => false,
    };
    let loss = if is_classes { options.classes(has_labels) } else { Loss::MeanSquare };
    if let Loss::Classes { alpha: 0.0, .. } = loss
        && !has_labels
    {
        return Err(PassError("with `alpha=0` it learns from labels, and the samples have none (`y`)".into()));
    }
    if loss == Loss::MeanSquare && options.alpha == 0.0 {
        return Err(PassError("with `alpha=0` it learns from labels, which are classes".into()));
    }
    let before = |model: &Model, outputs: &[ValueId]| -> Vec<ValueId> {
        outputs.iter().map(|&output| if is_classes { logits(model, output) } else { output }).collect()
    };
    let (ours, theirs) = (before(student, &ours), before(&teacher, &theirs));

    let asks = !matches!(loss, Loss::Classes { alpha: 0.0, .. });
    let answers = match asks {
        true => ask(&teacher, &theirs, data.len(), |index| to_teacher.inputs(&data.sample(index))).map_err(failed)?,
        false => vec![Vec::new(); theirs.len()],
    };
    let targets = answers.into_iter().enumerate().map(|(index, answers)| Target {
        teacher: asks.then_some(answers),
        // Labels are those of the first output.
        labels: if index == 0 && is_classes { labels(&data) } else { None },
        smoothing: options.label_smoothing as f32,
    });
    let targets = targets.collect();
    Ok(Lesson { lessons: Lessons { inputs, targets, floor: Vec::new(), rows: data.batch() }, outputs: ours, loss })
}

/// Turns what the teacher says into probabilities and looks whether all fits outputs of these shapes, for so many samples.
pub(super) fn complete(
    lessons: &mut Lessons,
    loss: Loss,
    shapes: &[Vec<usize>],
    samples: usize,
) -> Result<(), PassError> {
    let count = lessons.inputs.len();
    for (index, (target, shape)) in lessons.targets.iter_mut().zip(shapes).enumerate() {
        let (size, classes) = (shape.iter().product::<usize>() / samples, shape[shape.len() - 1]);
        if let Some(teacher) = &mut target.teacher {
            if teacher.len() != size * count {
                let (found, count) = (size, teacher.len() / count.max(1));
                return Err(PassError(format!(
                    "output {index} of the model has {found} elements for a sample, but the teacher's has {count}"
                )));
            }
            if let Loss::Classes { alpha, temperature, .. } = loss {
                soften(teacher, classes, temperature);
                let entropies = entropy(teacher, classes);
                let positions = size / classes;
                let factor = f64::from(alpha * temperature * temperature) / positions as f64 * lessons.rows as f64;
                lessons.floor.resize(count, 0.0);
                let samples = entropies.chunks(positions).zip(&mut lessons.floor);
                samples.for_each(|(of_sample, floor)| *floor += factor * of_sample.iter().sum::<f64>());
            }
        }
        if target.labels.as_ref().is_some_and(|labels| labels.len() * classes != size * count) {
            return Err(PassError(
                "the labels `y` do not fit the first output: one is needed for each position".into(),
            ));
        }
    }
    Ok(())
}

fn labels(data: &Dataset) -> Option<Vec<i64>> {
    let classes = data.labels().classes.as_ref()?;
    let rows = (0..data.len()).flat_map(|index| data.label_rows(index));
    Some(rows.flat_map(|row| classes.row(row).iter().copied()).collect())
}

pub(super) fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(error.to_string())
}
