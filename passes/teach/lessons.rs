//! What there is to learn: samples in the student's order, what the teacher says of them, and labels.

use super::copies::Samples;
use super::hints::Scaffold;
use super::{Judged, Recipe, failed, split};
use crate::ir::{Model, Tensor, ValueId, op};
use crate::measure::Pairing;
use crate::pass::{Context, PassError};
use crate::passes::cleanup::inline_functions::inline;
use crate::passes::cleanup::upgrade_opset;
use crate::runtime::samples_of_an_answer;
use crate::train::joint::logits;
use crate::train::lessons::{Answer, ask, entropy, soften};
use crate::train::{Goal, Lessons, Loss, Target};

/// Samples that a teacher is asked of together at most: the values of all of them are in memory at a time.
pub(super) const ASKED_TOGETHER: usize = 32;

pub(super) struct Lesson {
    pub lessons: Lessons,
    /// The values of the student that are judged: outputs, or what lies before their Softmax, and then what gets hints.
    pub goals: Vec<Goal>,
    /// What was added to the student to be taken off again.
    pub scaffold: Scaffold,
    /// The samples that are held back, and those that are learned from.
    pub judged: Vec<usize>,
    pub learned: Vec<usize>,
}

pub(super) fn lesson(recipe: &Recipe, student: &mut Model, cx: &mut Context) -> Result<Lesson, PassError> {
    let objective = &recipe.objective;
    objective.check()?;
    let data = cx.data.clone().ok_or_else(|| PassError("it needs samples; give a file with `--data`".into()))?;
    // A model that nothing is told of learns from what it was.
    let original = in_newer_form(cx.original.as_deref().unwrap_or(student), "original")?;
    let mut teacher = match &cx.teacher {
        Some(teacher) => in_newer_form(teacher, "teacher")?,
        None => original.clone(),
    };
    let pairs = |to: &Model, what: &str| {
        Pairing::of(&original, to).map_err(|error| PassError(format!("the {what} does not fit the original: {error}")))
    };
    let (to_student, to_teacher) = (pairs(student, "student")?, pairs(&teacher, "teacher")?);
    let [judged, mut learned] = split(data.len(), recipe.validation, cx.seed);
    let all = Samples::new(&data, &original, &recipe.changes, recipe.copies, &learned, cx.seed)?;
    learned.extend(data.len()..all.inputs.len());
    let inputs: Vec<Vec<Tensor>> = all.inputs.iter().map(|sample| to_student.inputs(sample)).collect();

    // Outputs in the order of the original.
    let of = |model: &Model, pairing: &Pairing| -> Vec<ValueId> {
        let outputs = &model.graph(model.main).outputs;
        pairing.output_places().iter().map(|&place| outputs[place]).collect()
    };
    let (ours, theirs) = (of(student, &to_student), of(&teacher, &to_teacher));
    if objective.output_weights.len() > ours.len() {
        let (given, count) = (objective.output_weights.len(), ours.len());
        return Err(PassError(format!("`output-weights` has {given} numbers, but the model has {count} outputs")));
    }
    let has_labels = data.labels().classes.is_some();
    let ends_in_softmax = theirs.iter().any(|&output| logits(&teacher, output) != output);
    let loss = match objective.judged {
        Judged::Auto if has_labels || ends_in_softmax => objective.classes(has_labels),
        Judged::Classes => objective.classes(has_labels),
        Judged::Auto | Judged::MeanSquare => Loss::MeanSquare,
        Judged::Cosine => Loss::Cosine,
    };
    let is_classes = matches!(loss, Loss::Classes { .. });
    if objective.alpha == 0.0 && !has_labels {
        return Err(PassError("with `alpha=0` it learns from labels, and the samples have none (`y`)".into()));
    }
    if objective.alpha == 0.0 && !is_classes {
        return Err(PassError("with `alpha=0` it learns from labels, which are classes".into()));
    }
    let before = |model: &Model, outputs: &[ValueId]| -> Vec<ValueId> {
        outputs.iter().map(|&output| if is_classes { logits(model, output) } else { output }).collect()
    };
    let (ours, theirs) = (before(student, &ours), before(&teacher, &theirs));

    let weight = |index: usize| objective.output_weights.get(index).map_or(1.0, |&weight| weight as f32);
    let mut goals: Vec<Goal> =
        ours.iter().enumerate().map(|(index, &value)| Goal { value, loss, weight: weight(index) }).collect();
    let samples = [to_student.inputs(&all.inputs[0]), to_teacher.inputs(&all.inputs[0])];
    let (scaffold, hinted) = Scaffold::build(&recipe.hints, student, &mut teacher, &samples)?;
    let asked_outputs: &[ValueId] = if objective.alpha == 0.0 { &[] } else { &theirs };
    let asked: Vec<ValueId> = asked_outputs.iter().copied().chain(hinted.iter().map(|(_, theirs)| *theirs)).collect();
    let mut answers: Vec<Answer> = match asked.is_empty() {
        true => Vec::new(),
        false => {
            let together = samples_of_an_answer(&teacher, &samples[1]).min(ASKED_TOGETHER);
            let inputs = |index: usize| to_teacher.inputs(&all.inputs[index]);
            ask(&teacher, &asked, together, all.inputs.len(), inputs).map_err(failed)?
        }
    };
    let of_hints = answers.split_off(asked_outputs.len());
    scaffold.fit(student, &inputs, &learned, &of_hints)?;
    let mut answers: Vec<Option<Answer>> = answers.into_iter().map(Some).collect();
    answers.resize_with(theirs.len(), || None);
    goals.extend(hinted.iter().map(|(goal, _)| *goal));
    let targets = answers.into_iter().chain(of_hints.into_iter().map(Some)).enumerate().map(|(index, answer)| Target {
        teacher: answer.map(|answer| answer.elements),
        // Labels are those of the first output.
        labels: if index == 0 && is_classes { all.labels.as_ref().map(|labels| labels.concat()) } else { None },
        smoothing: objective.label_smoothing as f32,
    });
    let targets = targets.collect();
    let lessons = Lessons { inputs, targets, floor: Vec::new(), rows: data.batch() };
    Ok(Lesson { lessons, goals, scaffold, judged, learned })
}

/// `model` as views know it: what ends in a Softmax or looks up rows says so in these operators alone.
fn in_newer_form(model: &Model, what: &str) -> Result<Model, PassError> {
    let mut model = model.clone();
    model.header.training_info.clear();
    let raised = upgrade_opset::raise(&mut model, op::BASE).and_then(|_| inline(&mut model));
    raised.map_err(|error| PassError(format!("the {what} cannot be read in opset {}: {error}", op::BASE)))?;
    Ok(model)
}

/// Turns what the teacher says of classes into probabilities, and looks whether all fits values of these shapes, for so many
/// samples.
pub(super) fn complete(
    lessons: &mut Lessons,
    goals: &[Goal],
    shapes: &[Vec<usize>],
    samples: usize,
) -> Result<(), PassError> {
    let count = lessons.inputs.len();
    for (index, ((target, shape), goal)) in lessons.targets.iter_mut().zip(shapes).zip(goals).enumerate() {
        let (size, classes) = (shape.iter().product::<usize>() / samples, shape[shape.len() - 1]);
        if let Some(teacher) = &mut target.teacher {
            if teacher.len() != size * count {
                let (found, count) = (size, teacher.len() / count.max(1));
                return Err(PassError(format!(
                    "output {index} of the model has {found} elements for a sample, but the teacher's has {count}"
                )));
            }
            if let Loss::Classes { alpha, temperature, .. } = goal.loss {
                soften(teacher, classes, temperature);
                let entropies = entropy(teacher, classes);
                let positions = size / classes;
                let factor = alpha * temperature * temperature * goal.weight;
                let factor = f64::from(factor) / positions as f64 * lessons.rows as f64;
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
