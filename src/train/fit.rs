//! A model while it is trained: one step at a time, and how good it is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::augment::Augmentation;
use super::joint::{Gradient, Joint, Plan, Step};
use super::lessons::Lessons;
use super::loss::Loss;
use super::optimizer::{PART, Updates, clip};
use super::ramp::Ramp;
use crate::ir::{Model, Tensor, ValueId};
use crate::kernels::widest;
use crate::runtime::{NodeTime, RuntimeError, Shared, memory};

/// Into so many groups the runs of a step are put, whatever the number of threads: each group is summed on its own.
const GROUPS: usize = 16;

/// A model while it is trained.
pub struct Fit<'a> {
    joint: Joint,
    lessons: &'a Lessons,
    losses: Vec<Loss>,
    /// How samples are changed where they are learned from, and in which epoch.
    augmentation: Option<Augmentation>,
    epoch: usize,
    /// Of which weights elements that are zero stay so.
    holds_zeros: Vec<bool>,
    ramp: Option<&'a Ramp>,
    /// Samples of one run.
    samples: usize,
    values: Vec<ValueId>,
    decays: Vec<bool>,
    /// Weights, and running statistics behind them.
    weights: Vec<Shared>,
    statistics: Vec<Shared>,
}

/// What changes while a model is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub weights: Vec<Vec<f32>>,
    pub statistics: Vec<Vec<f32>>,
}

/// What held-back samples say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    pub loss: f64,
    /// The share of positions with the right class, where labels are known.
    pub accuracy: Option<f64>,
}

impl<'a> Fit<'a> {
    /// Starts from the weights of the plan's model, of which `joint` was made.
    pub fn new(joint: Joint, plan: &Plan, lessons: &'a Lessons) -> Result<Fit<'a>, RuntimeError> {
        memory::keep_freed();
        let shared = |value: &ValueId| Shared::of(plan.model.constant(*value).expect("weights are constants"));
        let values: Vec<ValueId> = plan.weights.iter().map(|weight| weight.value).collect();
        Ok(Fit {
            lessons,
            losses: plan.goals.iter().map(|goal| goal.loss).collect(),
            augmentation: None,
            epoch: 0,
            holds_zeros: vec![false; values.len()],
            ramp: None,
            samples: plan.samples,
            decays: plan.weights.iter().map(|weight| weight.decays).collect(),
            weights: values.iter().map(shared).collect::<Result<_, _>>()?,
            statistics: joint.statistics().iter().map(shared).collect::<Result<_, _>>()?,
            values,
            joint,
        })
    }

    /// Lets samples that are learned from be changed.
    pub fn augment(&mut self, augmentation: Augmentation) {
        self.augmentation = Some(augmentation);
    }

    /// Lets elements of matrices and kernels that are zero stay so.
    pub fn keep_zeros(&mut self) {
        self.holds_zeros.iter_mut().zip(&self.decays).for_each(|(holds, decays)| *holds |= decays);
    }

    /// Lets elements of weights become zero while they are trained, as all weights of the ramp are.
    pub fn climb(&mut self, ramp: &'a Ramp) {
        self.holds_zeros.iter_mut().zip(&self.values).for_each(|(holds, value)| *holds |= ramp.values.contains(value));
        self.ramp = Some(ramp);
    }

    pub(super) fn ramp(&self) -> Option<&'a Ramp> {
        self.ramp
    }

    /// Lets such a share of the elements of the ramp's weights be zero, also in an average of the weights. Returns how many were not.
    pub(super) fn thin_out(&mut self, share: f64, updates: &mut Updates, average: Option<&mut State>) -> usize {
        let Some(ramp) = self.ramp else { return 0 };
        let place = |value: &ValueId| self.values.iter().position(|other| other == value).expect("they are trained");
        let places: Vec<usize> = ramp.values.iter().map(place).collect();
        let weights: Vec<&[f32]> =
            places.iter().map(|&place| self.weights[place].floats().expect("weights are f32")).collect();
        let removed = (ramp.removed)(&weights, share);
        let mut average = average;
        let mut count = 0;
        for (place, removed) in places.into_iter().zip(removed) {
            let weight = self.weights[place].floats_mut().expect("weights are f32");
            for (w, _) in weight.iter_mut().zip(&removed).filter(|(_, removed)| **removed) {
                count += usize::from(*w != 0.0);
                *w = 0.0;
            }
            if let Some(average) = &mut average {
                let weight = average.weights[place].iter_mut().zip(&removed);
                weight.filter(|(_, removed)| **removed).for_each(|(w, _)| *w = 0.0);
            }
            updates.forget(place, &removed);
        }
        count
    }

    pub(super) fn begin(&mut self, epoch: usize) {
        self.epoch = epoch;
    }

    /// The mean loss and its gradients on `samples`, and the running statistics behind them.
    pub fn gradients(&self, samples: &[usize]) -> Result<Derivative, RuntimeError> {
        let runs: Vec<&[usize]> = samples.chunks(self.samples).collect();
        let groups: Vec<&[&[usize]]> = runs.chunks(runs.len().div_ceil(GROUPS).max(1)).collect();
        let total = Mutex::new(Total::default());
        // One after the other, so that few sums wait for those before them.
        groups.into_iter().enumerate().par_bridge().try_for_each(|(place, runs)| {
            let sums = self.sums(runs)?;
            add_in_order(&total, place, sums);
            Ok::<(), RuntimeError>(())
        })?;
        let sums = total.into_inner().unwrap_or_else(PoisonError::into_inner).sums.expect("a step has samples");
        let count = (samples.len() * self.lessons.rows) as f64;
        let mut total = sums.derivative(&self.weights, 1.0 / count as f32);
        let share = 1.0 / runs.len() as f32;
        total.statistics.iter_mut().flatten().for_each(|x| *x *= share);
        total.loss = (total.loss - self.lessons.floor_of(samples)) / count;
        Ok(total)
    }

    fn sums(&self, runs: &[&[usize]]) -> Result<Sums, RuntimeError> {
        let mut sums: Option<Sums> = None;
        for run in runs {
            let changed = self.augmentation.as_ref().map(|augmentation| (augmentation, self.epoch));
            let more = Sums::of(self.joint.step(&self.inputs(run, changed)?)?);
            match &mut sums {
                None => sums = Some(more),
                Some(sums) => sums.add(more),
            }
        }
        Ok(sums.expect("a group has runs"))
    }

    /// The time of each node of the first run of a step.
    pub fn profile(&self, samples: &[usize]) -> Result<Vec<NodeTime>, RuntimeError> {
        self.joint.profile(&self.inputs(&samples[..self.samples.min(samples.len())], None)?)
    }

    fn inputs(
        &self,
        samples: &[usize],
        augmentation: Option<(&Augmentation, usize)>,
    ) -> Result<Vec<Shared>, RuntimeError> {
        let shapes = self.joint.outputs();
        let (mut inputs, targets) = self.lessons.batch(samples, self.samples, &self.losses, shapes, augmentation)?;
        inputs.extend(self.weights.iter().chain(&self.statistics).cloned());
        inputs.extend(targets);
        Ok(inputs)
    }

    /// Takes one step and returns the loss before it, and the norm of the gradients.
    pub fn step(
        &mut self,
        samples: &[usize],
        updates: &mut Updates,
        rate: f64,
        limit: Option<f64>,
    ) -> Result<(f64, f64), RuntimeError> {
        let Derivative { loss, mut gradients, statistics } = self.gradients(samples)?;
        self.hold_zeros(&mut gradients);
        let norm = clip(&mut gradients, limit);
        if loss.is_finite() && norm.is_finite() {
            updates.step(&mut self.weights, &self.decays, &gradients, rate as f32);
            for (old, new) in self.statistics.iter_mut().zip(statistics) {
                old.floats_mut().expect("statistics are f32").copy_from_slice(&new);
            }
        }
        Ok((loss, norm))
    }

    /// Without a gradient, what is zero does not decay either.
    fn hold_zeros(&self, gradients: &mut [Vec<f32>]) {
        let all = gradients.par_iter_mut().zip(&self.weights).zip(&self.holds_zeros).filter(|(_, holds)| **holds);
        all.for_each(|((gradient, weight), _)| {
            let weight = weight.floats().expect("weights are f32");
            gradient.iter_mut().zip(weight).filter(|(_, w)| **w == 0.0).for_each(|(g, _)| *g = 0.0);
        });
    }

    /// Statistics of the batch are those of whole runs: what is left over is left out, unless nothing else is there.
    pub(super) fn whole_runs<'s>(&self, samples: &'s [usize]) -> &'s [usize] {
        let whole = samples.len() - samples.len() % self.samples;
        if self.statistics.is_empty() || whole == 0 { samples } else { &samples[..whole] }
    }

    /// The mean loss on `samples`, and the share of positions with the right class where labels are known.
    pub fn judge(&self, samples: &[usize]) -> Result<Judgement, RuntimeError> {
        let runs: Vec<&[usize]> = samples.chunks(self.samples).collect();
        let judged = runs.into_par_iter().map(|run| {
            let (loss, outputs) = self.joint.forward(&self.inputs(run, None)?)?;
            Ok((loss, self.right(run, &outputs)))
        });
        let judged: Vec<(f64, (usize, usize))> = judged.collect::<Result<_, RuntimeError>>()?;
        let loss: f64 = judged.iter().map(|(loss, _)| loss).sum();
        let (right, all) = judged.iter().fold((0, 0), |(right, all), (_, more)| (right + more.0, all + more.1));
        Ok(Judgement {
            loss: (loss - self.lessons.floor_of(samples)) / (samples.len() * self.lessons.rows) as f64,
            accuracy: (all > 0).then(|| right as f64 / all as f64),
        })
    }

    /// Positions with the right class, and all with a known one, of the first output.
    fn right(&self, samples: &[usize], outputs: &[Tensor]) -> (usize, usize) {
        let Some(labels) = self.lessons.targets.first().and_then(|target| target.labels.as_ref()) else {
            return (0, 0);
        };
        let classes = outputs[0].shape().last().copied().unwrap_or(1);
        let Some(scores) = outputs[0].floats().filter(|_| classes > 1) else { return (0, 0) };
        let positions = scores.len() / classes / self.samples;
        let wanted = samples.iter().flat_map(|&sample| &labels[sample * positions..(sample + 1) * positions]);
        scores.chunks(classes).zip(wanted).filter(|(_, label)| **label >= 0).fold(
            (0, 0),
            |(right, all), (row, &label)| {
                let best = row.iter().enumerate().fold(0, |best, (class, &x)| if x > row[best] { class } else { best });
                (right + usize::from(best as i64 == label), all + 1)
            },
        )
    }

    pub fn state(&self) -> State {
        let copies = |all: &[Shared]| all.iter().map(|x| x.floats().expect("weights are f32").to_vec()).collect();
        State { weights: copies(&self.weights), statistics: copies(&self.statistics) }
    }

    /// Moves an average of states towards the one now: a ← a + share·(w - a).
    pub(super) fn move_average(&self, average: &mut State, share: f32) {
        let all = average.weights.iter_mut().chain(&mut average.statistics);
        for (average, now) in all.zip(self.weights.iter().chain(&self.statistics)) {
            let now = now.floats().expect("weights are f32");
            average.par_chunks_mut(PART).zip(now.par_chunks(PART)).for_each(|(average, now)| {
                widest(
                    #[inline(always)]
                    || average.iter_mut().zip(now).for_each(|(a, w)| *a += share * (w - *a)),
                );
            });
        }
    }

    pub fn restore(&mut self, state: &State) {
        let copy = |to: &mut [Shared], from: &[Vec<f32>]| {
            for (to, from) in to.iter_mut().zip(from) {
                to.floats_mut().expect("weights are f32").copy_from_slice(from);
            }
        };
        copy(&mut self.weights, &state.weights);
        copy(&mut self.statistics, &state.statistics);
    }

    /// Puts the weights into the model that they came of.
    pub fn write(&self, model: &mut Model) -> Result<(), RuntimeError> {
        let values = self.values.iter().chain(self.joint.statistics());
        for (&value, weight) in values.zip(self.weights.iter().chain(&self.statistics)) {
            model.set_constant(value, weight.to_tensor()?);
        }
        Ok(())
    }
}

impl Judgement {
    /// By accuracy, if it is known, and then by the loss.
    pub fn beats(self, before: &Judgement) -> bool {
        let key = |judgement: &Judgement| (judgement.accuracy.unwrap_or(0.0), -judgement.loss);
        let ((accuracy, loss), (before_accuracy, before_loss)) = (key(&self), key(before));
        accuracy > before_accuracy || accuracy == before_accuracy && loss > before_loss
    }
}

/// The mean loss over samples, and what it changes with.
pub struct Derivative {
    pub loss: f64,
    /// In the order of the weights; zeros where the loss does not depend on one.
    pub gradients: Vec<Vec<f32>>,
    /// Running statistics behind the samples.
    pub statistics: Vec<Vec<f32>>,
}

/// Sums over the runs of a group.
struct Sums {
    loss: f64,
    gradients: Vec<Sum>,
    statistics: Vec<Vec<f32>>,
}

/// Of the gradients by one weight.
enum Sum {
    Zero,
    /// Of one run, as the runtime gave it.
    Run(Tensor),
    Runs(Vec<f32>),
    /// Indices of rows, and what is added there, in the order it came.
    Rows(Vec<(Tensor, Tensor)>),
}

impl Sum {
    /// Those of a whole weight.
    fn elements(&self) -> Cow<'_, [f32]> {
        match self {
            Sum::Run(run) => floats(run),
            Sum::Runs(runs) => Cow::Borrowed(runs),
            Sum::Zero | Sum::Rows(_) => Cow::default(),
        }
    }
}

fn floats(tensor: &Tensor) -> Cow<'_, [f32]> {
    tensor.floats().unwrap_or_default()
}

fn add(sum: &mut [f32], more: &[f32]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

impl Sums {
    fn of(step: Step) -> Sums {
        let gradients = step.gradients.into_iter().map(|gradient| match gradient {
            Some(Gradient::Whole(whole)) => Sum::Run(whole),
            Some(Gradient::Rows { indices, updates }) => Sum::Rows(vec![(indices, updates)]),
            None => Sum::Zero,
        });
        Sums {
            loss: step.loss,
            gradients: gradients.collect(),
            statistics: step.statistics.iter().map(|statistic| floats(statistic).into_owned()).collect(),
        }
    }

    fn add(&mut self, more: Sums) {
        self.loss += more.loss;
        self.gradients.par_iter_mut().zip(more.gradients).for_each(|(sum, more)| match (&mut *sum, more) {
            (Sum::Rows(sum), Sum::Rows(more)) => sum.extend(more),
            (Sum::Runs(sum), more) => add(sum, &more.elements()),
            (Sum::Run(first), more @ (Sum::Run(_) | Sum::Runs(_))) => {
                *sum = Sum::Runs(floats(first).iter().zip(&*more.elements()).map(|(a, b)| a + b).collect());
            }
            _ => {}
        });
        for (sum, more) in self.statistics.iter_mut().zip(&more.statistics) {
            add(sum, more);
        }
    }

    /// The gradients times `scale`, with all rows of every one.
    fn derivative(self, weights: &[Shared], scale: f32) -> Derivative {
        let gradients = self.gradients.into_par_iter().zip(weights).map(|(sum, weight)| {
            let length = weight.floats().map_or(0, <[f32]>::len);
            match sum {
                Sum::Zero => vec![0.0; length],
                Sum::Run(run) => floats(&run).iter().map(|g| g * scale).collect(),
                Sum::Runs(mut sum) => {
                    sum.iter_mut().for_each(|g| *g *= scale);
                    sum
                }
                Sum::Rows(rows) => scatter(&rows, length, scale),
            }
        });
        Derivative { loss: self.loss, gradients: gradients.collect(), statistics: self.statistics }
    }
}

/// The sums of all groups so far, added in the order of the groups.
#[derive(Default)]
struct Total {
    sums: Option<Sums>,
    /// How many groups are in it.
    count: usize,
    /// Groups that came before those in front of them.
    waiting: BTreeMap<usize, Sums>,
    /// Whether a thread is adding.
    is_taken: bool,
}

/// Adds a group, and all that have waited for it, unless another thread is adding: then that one does.
fn add_in_order(total: &Mutex<Total>, place: usize, sums: Sums) {
    let lock = || total.lock().unwrap_or_else(PoisonError::into_inner);
    let mut now = lock();
    now.waiting.insert(place, sums);
    if std::mem::replace(&mut now.is_taken, true) {
        return;
    }
    loop {
        let next = now.count;
        let Some(more) = now.waiting.remove(&next) else { break };
        let sums = now.sums.take();
        // Nobody waits for the lock meanwhile: what adds in parallel may take up another group.
        drop(now);
        let sums = match sums {
            None => more,
            Some(mut sums) => {
                sums.add(more);
                sums
            }
        };
        now = lock();
        (now.sums, now.count) = (Some(sums), next + 1);
    }
    now.is_taken = false;
}

fn scatter(rows: &[(Tensor, Tensor)], length: usize, scale: f32) -> Vec<f32> {
    let mut whole = vec![0.0; length];
    for (indices, updates) in rows {
        let (indices, updates) = (indices.ints().unwrap_or_default(), floats(updates));
        let width = updates.len() / indices.len().max(1);
        for (&index, update) in indices.iter().zip(updates.chunks_exact(width.max(1))) {
            whole[index as usize * width..][..width].iter_mut().zip(update).for_each(|(sum, g)| *sum += g * scale);
        }
    }
    whole
}
