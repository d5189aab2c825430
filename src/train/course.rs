//! The loop: epochs of steps, judged on held-back samples, the best weights kept.

use serde::Serialize;

use super::TrainError;
use super::checkpoint::Checkpoint;
use super::fit::{Fit, Judgement, State};
use super::optimizer::{Optimizer, Updates};
use super::schedule::Schedule;
use crate::data::Random;

/// How often the loss may leave the numbers before training is given up.
const DIVERGENCES: usize = 3;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub epochs: usize,
    /// The epochs of other parts of the same training, before these and behind them. Steps and their rate are counted over all.
    pub before: usize,
    pub behind: usize,
    /// Samples of one step.
    pub batch: usize,
    pub optimizer: Optimizer,
    pub rate: f64,
    pub decay: f64,
    pub schedule: Schedule,
    /// The share of all steps that lead up to the learning rate.
    pub warmup: f64,
    /// The greatest norm of all gradients together.
    pub clip: Option<f64>,
    /// How much of an average of the weights stays in a step; the average is judged and kept. None keeps no average.
    pub average: Option<f64>,
    /// Training ends after so many epochs without a better one; never for 0.
    pub patience: usize,
    pub seed: u64,
}

/// What came of one epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Epoch {
    pub epoch: usize,
    /// The mean over the samples that were learned from, while the weights changed.
    pub loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
    /// The share of held-back positions with the right class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// The learning rate of the last step.
    pub rate: f64,
    /// Whether no epoch before was better.
    pub best: bool,
}

/// Told how training goes.
pub trait Watch {
    /// One of `total` steps was taken, with this loss.
    fn step(&mut self, _done: usize, _total: usize, _loss: f64) {}

    fn epoch(&mut self, _epoch: &Epoch) {}

    /// Whether to end with the best weights so far.
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl Watch for () {}

/// How far training has come: all that decides what follows, at the end of an epoch.
#[derive(Clone)]
pub struct Course {
    pub epochs: Vec<Epoch>,
    /// Why it ended before its last epoch, or started again from better weights.
    pub notes: Vec<String>,
    pub(super) updates: Updates,
    /// The weights at the end of the last epoch.
    pub(super) last: State,
    /// The average of the weights then.
    pub(super) average: Option<State>,
    pub(super) best: Option<(Judgement, State)>,
    pub(super) divergences: usize,
    /// What the learning rate is multiplied with since the loss left the numbers.
    pub(super) factor: f64,
}

impl Course {
    fn start(fit: &Fit, settings: &Settings) -> Course {
        let last = fit.state();
        Course {
            epochs: Vec::new(),
            notes: Vec::new(),
            updates: Updates::new(settings.optimizer, settings.decay as f32, last.weights.len()),
            average: settings.average.map(|_| last.clone()),
            last,
            best: None,
            divergences: 0,
            factor: 1.0,
        }
    }

    /// Epochs since the best one.
    fn stale(&self) -> usize {
        self.epochs.iter().rev().take_while(|epoch| !epoch.best).count()
    }
}

/// Trains on `learned`, judges on `judged`, and ends with the best weights; with the last if nothing judges. Goes on from
/// `checkpoint`, if there is one, and writes it after each epoch.
pub fn train(
    fit: &mut Fit,
    settings: &Settings,
    learned: &[usize],
    judged: &[usize],
    checkpoint: Option<&Checkpoint>,
    watch: &mut dyn Watch,
) -> Result<Course, TrainError> {
    let saved = checkpoint.map(|checkpoint| checkpoint.load(settings)).transpose()?.flatten();
    let mut course = saved.unwrap_or_else(|| Course::start(fit, settings));
    fit.restore(&course.last);
    let mut average = course.average.clone();
    course.epochs.iter().for_each(|epoch| watch.epoch(epoch));
    let steps = learned.len().div_ceil(settings.batch);
    let (before, total) = (settings.before, steps * (settings.before + settings.epochs + settings.behind));
    let warmup = (total as f64 * settings.warmup).round() as usize;
    'epochs: for epoch in before + course.epochs.len() + 1..=before + settings.epochs {
        let stale = course.stale();
        if settings.patience > 0 && stale >= settings.patience {
            course.notes.push(format!("ended after epoch {}: the last {stale} were no better", epoch - 1));
            break;
        }
        let order = Random::new(settings.seed, epoch as u64).permutation(learned.len());
        let (mut sum, mut rate) = (0.0, 0.0);
        fit.begin(epoch);
        for (index, batch) in order.chunks(settings.batch).enumerate() {
            if watch.is_cancelled() {
                course.notes.push(format!("ended on request in epoch {epoch}"));
                break 'epochs;
            }
            let done = (epoch - 1) * steps + index;
            let rises = fit.ramp().filter(|ramp| ramp.rises(done, total)).map(|ramp| ramp.share(done, total));
            if let Some(share) = rises {
                fit.thin_out(share, &mut course.updates, average.as_mut());
            }
            rate = settings.rate * course.factor * settings.schedule.factor(done, total, warmup);
            let samples: Vec<usize> = batch.iter().map(|&place| learned[place]).collect();
            let samples = fit.whole_runs(&samples);
            let (loss, norm) = fit.step(samples, &mut course.updates, rate, settings.clip)?;
            if loss.is_finite() && norm.is_finite() {
                sum += loss * batch.len() as f64;
                if let (Some(average), Some(kept)) = (&mut average, settings.average) {
                    fit.move_average(average, share_of_step(kept, course.updates.steps()));
                }
                watch.step(done + 1, total, loss);
            } else {
                go_back(fit, settings, &mut course, epoch)?;
                average.clone_from(&course.average);
                if let Some(share) = fit.ramp().map(|ramp| ramp.share(done, total)) {
                    fit.thin_out(share, &mut course.updates, average.as_mut());
                }
            }
        }
        course.last = fit.state();
        if let Some(average) = &average {
            fit.restore(average);
        }
        let judgement = if judged.is_empty() { None } else { Some(fit.judge(judged)?) };
        let beats = |now: Judgement| course.best.as_ref().is_none_or(|(before, _)| now.beats(before));
        // With fewer zeros, epochs before were no better.
        let rose = fit.ramp().is_some_and(|ramp| ramp.rises_in((epoch - 1) * steps..epoch * steps, total));
        let is_better = rose || judgement.is_none_or(beats);
        if let Some(judgement) = judgement.filter(|_| is_better) {
            course.best = Some((judgement, fit.state()));
        }
        fit.restore(&course.last);
        course.average.clone_from(&average);
        course.epochs.push(Epoch {
            epoch,
            loss: sum / learned.len() as f64,
            validation_loss: judgement.map(|judgement| judgement.loss),
            accuracy: judgement.and_then(|judgement| judgement.accuracy),
            rate,
            best: is_better,
        });
        watch.epoch(course.epochs.last().expect("just pushed"));
        if let Some(checkpoint) = checkpoint {
            checkpoint.save(&course)?;
        }
    }
    if let Some(state) = course.best.as_ref().map(|(_, state)| state).or(average.as_ref()) {
        fit.restore(state);
    }
    if let Some(to) = fit.ramp().map(|ramp| ramp.to) {
        let count = fit.thin_out(to, &mut course.updates, None);
        if count > 0 {
            course.notes.push(format!("training ended too early: the last {count} weights became zero at once"));
        }
    }
    Ok(course)
}

/// How much of the weights enters their average at a step, more at first: what they were at the start is soon forgotten.
fn share_of_step(kept: f64, step: i32) -> f32 {
    let step = f64::from(step);
    (1.0 - kept.min((1.0 + step) / (10.0 + step))) as f32
}

/// Starts again from the weights before the epoch, in smaller steps.
fn go_back(fit: &mut Fit, settings: &Settings, course: &mut Course, epoch: usize) -> Result<(), TrainError> {
    course.divergences += 1;
    if course.divergences == DIVERGENCES {
        let (times, rate) = (course.divergences, settings.rate * course.factor);
        return Err(TrainError::Diverged { times, epoch, rate });
    }
    course.factor /= 2.0;
    course.notes.push(format!(
        "the loss left the numbers in epoch {epoch}: went back to the weights before it, with half the learning rate"
    ));
    fit.restore(&course.last);
    course.updates = Updates::new(settings.optimizer, settings.decay as f32, course.last.weights.len());
    Ok(())
}
