//! What the passes that train have in common. [`teach`] gets [`lessons`] from the samples, labels and teacher of the context,
//! adds [`hints`] of what lies inside of the teacher, [matched](matching) by name or shape, holds a part of the samples
//! back, [changes](augment) the others at random, goes on from checkpoints, and tells of every epoch.

pub(super) mod augment;
mod copies;
pub(super) mod hints;
mod lessons;
mod matching;
mod projection;

use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::Ordering;

use globset::GlobSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::Random;
use crate::ir::{Model, Tensor};
use crate::measure::Profile;
use crate::pass::{Context, Part, PassError, refuse_unless};
use crate::passes::names::globs;
use crate::runtime::samples_of_a_run;
use crate::runtime::stack::{can_stack, can_stack_samples};
use crate::train::{
    Checkpoint, Epoch, Fit, Joint, Lessons, Loss, Plan, Ramp, Settings, Watch, Weight, open_batch, train,
};
use augment::Changes;
use hints::Hint;
use lessons::{Lesson, complete, lesson};

/// A step is at least so many runs, for as many threads.
const RUNS: usize = 4;

/// The stream of random numbers that chooses held-back samples.
const HELD_BACK: u64 = 1 << 32;

/// How a model is taught.
pub(super) struct Recipe {
    pub settings: Settings,
    pub objective: Objective,
    pub hints: Vec<Hint>,
    pub changes: Changes,
    /// The changed copies of each sample; with 0, samples are changed anew in each epoch.
    pub copies: usize,
    /// The share of samples that is held back to judge epochs.
    pub validation: f64,
    /// Whether normalizations over the batch take mean and variance of the batch.
    pub batch_statistics: bool,
    /// Whether elements of matrices and kernels that are zero stay so.
    pub keeps_zeros: bool,
    /// The options of the pass: they tell one training from others.
    pub options: String,
    /// Weights that become zero on the way.
    pub ramp: Option<Ramp>,
}

impl Recipe {
    /// The same for a part of a training of so many epochs.
    pub fn part(self, part: Part, all: usize) -> Recipe {
        let Part { before, epochs, .. } = part;
        let settings = Settings { before, epochs, behind: all - before - epochs, ..self.settings };
        Recipe { settings, options: format!("{} from epoch {before}", self.options), ..self }
    }
}

/// What is learned.
pub(super) struct Objective {
    pub judged: Judged,
    /// How much the teacher and the labels count.
    pub alpha: f64,
    pub beta: f64,
    pub temperature: f64,
    pub label_smoothing: f64,
    /// How much each output counts, in the order of the original; 1 where nothing is said.
    pub output_weights: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Judged {
    /// Classes where there are labels, or where the teacher's output is a Softmax; else the mean square error.
    #[default]
    Auto,
    /// The output is a score for each class along its last axis.
    Classes,
    /// The output is a value, or several, to be met.
    MeanSquare,
    /// The output is a direction along its last axis, an embedding: its length says nothing.
    Cosine,
}

impl Objective {
    /// Refuses numbers that mean nothing.
    pub fn check(&self) -> Result<(), PassError> {
        refuse_unless(self.temperature > 0.0, "`temperature` is not above 0")?;
        refuse_unless(self.alpha >= 0.0 && self.beta >= 0.0, "`alpha` and `beta` are not below 0")?;
        refuse_unless(self.alpha + self.beta > 0.0, "`alpha` and `beta` are both 0: there is nothing to learn")?;
        refuse_unless((0.0..1.0).contains(&self.label_smoothing), "`label-smoothing` is a share below 1")?;
        refuse_unless(self.output_weights.iter().all(|&weight| weight >= 0.0), "`output-weights` are not below 0")
    }

    fn classes(&self, has_labels: bool) -> Loss {
        let beta = if has_labels { self.beta } else { 0.0 };
        Loss::Classes { alpha: self.alpha as f32, beta: beta as f32, temperature: self.temperature as f32 }
    }
}

/// Trains the weights `trained` of `model`, and writes them into it.
pub(super) fn teach(
    model: &mut Model,
    mut trained: Vec<Weight>,
    recipe: &Recipe,
    cx: &mut Context,
) -> Result<(), PassError> {
    let count = trained.len();
    let Lesson { mut lessons, goals, scaffold, judged, learned } = lesson(recipe, model, cx)?;
    trained.extend(scaffold.weights());
    scaffold.notes.iter().for_each(|note| cx.note(note));
    let sample = lessons.inputs[0].clone();
    let ends = [sample.clone(), lessons.inputs[lessons.inputs.len() - 1].clone()];
    let open = if can_stack(model) { None } else { open_batch(model, &ends) };
    let stacking = open.as_ref().unwrap_or(model);
    let samples = samples_of_a_step(stacking, &sample, recipe);
    let plan = Plan {
        model: stacking,
        weights: &trained,
        goals: &goals,
        batch_statistics: recipe.batch_statistics,
        sample: &sample,
        samples,
    };
    let joint = Joint::new(&plan).map_err(failed)?;
    complete(&mut lessons, &goals, joint.outputs(), samples)?;
    if cx.wants_training_graph {
        cx.training_graph = Some(Joint::graph(&plan).map_err(failed)?);
    }
    let changes = if recipe.copies == 0 { &recipe.changes } else { &Changes::NONE };
    let augmentation = changes.augmentation(model, &sample, &learned, cx.seed)?;
    if augmentation.as_ref().is_some_and(|augmentation| augmentation.mixup > 0.0) {
        // The entropy of what two samples want together is another.
        lessons.floor.clear();
    }
    let identity = identity(recipe, &plan, &lessons, cx.seed);
    let mut fit = Fit::new(joint, &plan, &lessons).map_err(failed)?;
    if let Some(augmentation) = augmentation {
        fit.augment(augmentation);
    }
    if recipe.keeps_zeros {
        fit.keep_zeros();
    }
    let steps = learned.len().div_ceil(recipe.settings.batch);
    let zeros = recipe.ramp.iter().flat_map(|ramp| shares_of_zeros(ramp, steps, recipe.settings.epochs)).collect();
    if let Some(ramp) = &recipe.ramp {
        fit.climb(ramp);
    }
    if cx.wants_profile {
        let nodes = fit.profile(&learned).map_err(failed)?;
        cx.training_step = Some(Profile::of([&nodes[..]].into_iter()));
    }

    if recipe.settings.before == 0 {
        cx.finish.store(false, Ordering::Relaxed);
    }
    let checkpoint = cx.checkpoints.as_ref().map(|folder| Checkpoint::new(folder, identity));
    let checkpoint = checkpoint.transpose().map_err(failed)?;
    let mut watch = Told { cx, loss: None, zeros };
    let course =
        train(&mut fit, &recipe.settings, &learned, &judged, checkpoint.as_ref(), &mut watch).map_err(failed)?;
    let Told { cx, .. } = watch;
    fit.write(model).map_err(failed)?;
    scaffold.remove(model);
    let is_last = recipe.settings.behind == 0;
    cx.applied("train a weight", if is_last { count } else { 0 });
    if let Some(ramp) = &recipe.ramp {
        let weights: Vec<_> = ramp.values.iter().filter_map(|&value| model.constant(value)?.floats()).collect();
        let all: usize = weights.iter().map(|weight| weight.len()).sum();
        let zeros = weights.iter().flat_map(|weight| weight.iter()).filter(|w| **w == 0.0).count();
        let share = 100.0 * zeros as f64 / all.max(1) as f64;
        cx.note(format!("{zeros} of {all} weights of {} layers are zero: {share:.1} %", weights.len()));
    }
    course.notes.into_iter().for_each(|note| cx.note(note));
    if let Some(best) = course.epochs.iter().rev().find(|epoch| epoch.best).filter(|_| is_last) {
        let (epoch, samples) = (best.epoch, learned.len());
        cx.note(match (best.accuracy, best.validation_loss) {
            (Some(accuracy), Some(loss)) => format!(
                "learned from {samples} samples; kept epoch {epoch}: loss {loss:.4}, accuracy {accuracy:.4} on {} held back",
                judged.len()
            ),
            (None, Some(loss)) => {
                format!("learned from {samples} samples; kept epoch {epoch}: loss {loss:.4} on {} held back", judged.len())
            }
            _ => format!("learned from {samples} samples; loss {:.4} in the last epoch", best.loss),
        });
    }
    Ok(())
}

/// The samples that judge, and those that are learned from.
fn split(count: usize, share: f64, seed: u64) -> [Vec<usize>; 2] {
    let held_back = ((count as f64 * share).round() as usize).min(count - 1);
    let order = Random::new(seed, HELD_BACK).permutation(count);
    let (judged, learned) = order.split_at(held_back);
    [judged, learned].map(|part| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    })
}

/// The share of zeros behind each epoch of so many steps.
fn shares_of_zeros(ramp: &Ramp, steps: usize, epochs: usize) -> Vec<f64> {
    (1..=epochs).map(|epoch| ramp.share(epoch * steps - 1, epochs * steps)).collect()
}

/// How many samples one run of a step takes: from sizes alone, so that results do not depend on the machine.
fn samples_of_a_step(model: &Model, sample: &[Tensor], recipe: &Recipe) -> usize {
    let worth = samples_of_a_run(model, sample);
    match recipe.batch_statistics {
        // Mean and variance are those of one run.
        true if can_stack_samples(model, sample) => recipe.settings.batch.min(32),
        _ => worth.min(recipe.settings.batch.div_ceil(RUNS)),
    }
}

/// Tells one training from another.
fn identity(recipe: &Recipe, plan: &Plan, lessons: &Lessons, seed: u64) -> String {
    let mut hasher = DefaultHasher::new();
    for weight in plan.weights {
        plan.model.constant(weight.value).expect("weights are constants").hash_data(&mut hasher);
    }
    let samples = [0, lessons.inputs.len() / 2, lessons.inputs.len() - 1];
    samples.iter().flat_map(|&sample| &lessons.inputs[sample]).for_each(|tensor| tensor.hash_data(&mut hasher));
    let ramp = recipe.ramp.as_ref().map_or(String::new(), |ramp| format!(", {}", ramp.identity));
    format!("{} seed {seed} {} samples, {:016x}{ramp}", recipe.options, lessons.inputs.len(), hasher.finish())
}

/// The weights that stay as they are.
pub(super) fn frozen(patterns: &[String]) -> Result<GlobSet, PassError> {
    globs(patterns, "freeze")
}

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(error.to_string())
}

/// Tells the observers of the pipeline, and writes down every epoch.
struct Told<'c> {
    cx: &'c mut Context,
    /// What the last epoch came to.
    loss: Option<String>,
    /// The share of zeros behind each epoch, where weights become zero.
    zeros: Vec<f64>,
}

impl Watch for Told<'_> {
    fn step(&mut self, done: usize, total: usize, loss: f64) {
        let text = match &self.loss {
            Some(epoch) => format!("loss {loss:.4}; {epoch}"),
            None => format!("loss {loss:.4}"),
        };
        self.cx.progress(done, total, &text);
    }

    fn epoch(&mut self, epoch: &Epoch) {
        self.loss = epoch.validation_loss.map(|loss| match epoch.accuracy {
            Some(accuracy) => format!("epoch {}: loss {loss:.4}, accuracy {accuracy:.4}", epoch.epoch),
            None => format!("epoch {}: loss {loss:.4}", epoch.epoch),
        });
        let mut entry = serde_json::to_value(epoch).expect("an epoch is plain data");
        if let Some(&share) = self.zeros.get(epoch.epoch - 1) {
            entry["sparsity"] = share.into();
        }
        self.cx.log.push(entry);
    }

    fn is_cancelled(&self) -> bool {
        self.cx.is_cancelled() || self.cx.finish.load(Ordering::Relaxed)
    }
}
