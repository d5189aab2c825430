//! Trains the model of the pipeline.

use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::Ordering;

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::lessons::{Lesson, complete, failed, lesson};
use super::{Distill, Normalization};
use crate::analysis::{Cost, FixedSizes, Shapes};
use crate::data::Random;
use crate::ir::{Model, Tensor};
use crate::pass::{Context, PassError};
use crate::train::joint::can_stack;
use crate::train::weights::{separate, weights};
use crate::train::{Checkpoint, Epoch, Fit, Joint, Lessons, Plan, Watch, train};

/// One run is to be worth so many multiply-accumulates: below, starting it takes longer than computing it.
const RUN: u64 = 4_000_000;

/// The multiply-accumulates that moving the gradient of one weight is worth.
const MOVE: u64 = 16;

/// A step is at least so many runs, for as many threads.
const RUNS: usize = 4;

/// The stream of random numbers that chooses held-back samples.
const HELD_BACK: u64 = 1 << 32;

pub(super) fn run(options: &Distill, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
    separate(model);
    let trained = weights(model, &frozen(options)?);
    let Lesson { mut lessons, outputs, loss } = lesson(options, model, cx)?;
    let sample = lessons.inputs[0].clone();
    let plan = Plan {
        model,
        weights: &trained,
        outputs: &outputs,
        loss,
        batch_statistics: options.normalization == Normalization::Batch,
        sample: &sample,
        samples: samples_of_a_run(model, &sample, options),
    };
    let joint = Joint::new(&plan).map_err(failed)?;
    complete(&mut lessons, loss, joint.outputs(), plan.samples)?;
    if cx.wants_training_graph {
        cx.training_graph = Some(Joint::graph(&plan).map_err(failed)?);
    }
    let mut fit = Fit::new(joint, &plan, &lessons).map_err(failed)?;

    let count = lessons.inputs.len();
    let held_back = ((count as f64 * options.validation).round() as usize).min(count - 1);
    let order = Random::new(cx.seed, HELD_BACK).permutation(count);
    let (judged, learned) = order.split_at(held_back);
    let [mut judged, mut learned] = [judged.to_vec(), learned.to_vec()];
    judged.sort_unstable();
    learned.sort_unstable();

    cx.finish.store(false, Ordering::Relaxed);
    let checkpoint =
        cx.checkpoints.as_ref().map(|folder| Checkpoint::new(folder, identity(options, &plan, &lessons, cx.seed)));
    let checkpoint = checkpoint.transpose().map_err(failed)?;
    let mut watch = Told { cx, loss: None };
    let settings = options.settings(watch.cx.seed);
    let course = train(&mut fit, &settings, &learned, &judged, checkpoint.as_ref(), &mut watch).map_err(failed)?;
    let Told { cx, .. } = watch;
    fit.write(model).map_err(failed)?;
    cx.applied("train a weight", trained.len());
    course.notes.into_iter().for_each(|note| cx.note(note));
    if let Some(best) = course.epochs.iter().rev().find(|epoch| epoch.best) {
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

/// How many samples one run takes: from sizes alone, so that results do not depend on the machine.
fn samples_of_a_run(model: &Model, sample: &[Tensor], options: &Distill) -> usize {
    if !can_stack(model) || sample.iter().any(|tensor| tensor.rank() == 0) {
        return 1;
    }
    let inputs = model.graph(model.main).inputs.iter().zip(sample);
    let sizes =
        FixedSizes { inputs: inputs.map(|(&input, x)| (input, x.shape().to_vec())).collect(), ..Default::default() };
    let cost = Cost::of(model, &Shapes::infer_with(model, &sizes));
    let worth = RUN.max(MOVE * cost.parameters);
    let wanted = (worth / cost.macs.max(1)).max(1) as usize;
    match options.normalization {
        // Mean and variance are those of one run.
        Normalization::Batch => options.batch_size.min(32),
        Normalization::Frozen => wanted.min(options.batch_size.div_ceil(RUNS)),
    }
}

/// Tells one training from another.
fn identity(options: &Distill, plan: &Plan, lessons: &Lessons, seed: u64) -> String {
    let mut hasher = DefaultHasher::new();
    for weight in plan.weights {
        plan.model.constant(weight.value).expect("weights are constants").hash_data(&mut hasher);
    }
    let samples = [0, lessons.inputs.len() / 2, lessons.inputs.len() - 1];
    samples.iter().flat_map(|&sample| &lessons.inputs[sample]).for_each(|tensor| tensor.hash_data(&mut hasher));
    let options = serde_json::to_string(options).expect("options are plain data");
    format!("{options} seed {seed} {} samples, {:016x}", lessons.inputs.len(), hasher.finish())
}

fn frozen(options: &Distill) -> Result<GlobSet, PassError> {
    let mut set = GlobSetBuilder::new();
    for pattern in &options.freeze {
        set.add(Glob::new(pattern).map_err(|error| PassError(format!("`freeze`: {error}")))?);
    }
    set.build().map_err(|error| PassError(format!("`freeze`: {error}")))
}

/// Tells the observers of the pipeline, and writes down every epoch.
struct Told<'c> {
    cx: &'c mut Context,
    /// What the last epoch came to.
    loss: Option<String>,
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
        self.cx.log.extend(serde_json::to_value(epoch));
    }

    fn is_cancelled(&self) -> bool {
        self.cx.is_cancelled() || self.cx.finish.load(Ordering::Relaxed)
    }
}
