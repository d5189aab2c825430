//! Weights that become zero while a model is trained, more and more of them: gradual pruning (Zhu and Gupta, 2017).
//!
//! What is zero stays zero, since it gets no gradient and its optimizer has no memory of it. So the zeros themselves are all that
//! there is to know, and a checkpoint says nothing more of them.

use std::ops::Range;

use crate::ir::ValueId;

/// The share of zeros rises in so many steps at the most: each looks at all weights.
const RISES: usize = 100;

/// For some weights, and the share that is to be zero of them all, which elements of each are. Those that are zero already are
/// among them.
pub type Removed = dyn Fn(&[&[f32]], f64) -> Vec<Vec<bool>> + Send + Sync;

/// How the share of zeros rises.
pub struct Ramp {
    /// The constants whose elements become zero.
    pub values: Vec<ValueId>,
    /// The share of zeros before, and in the end.
    pub from: f64,
    pub to: f64,
    /// The share of all steps over which it rises; at the end of them the share is as it is to be.
    pub until: f64,
    pub removed: Box<Removed>,
    /// Tells this ramp from others.
    pub identity: String,
}

impl Ramp {
    /// The share of zeros at a step: s + (s₀ - s)·(1 - t/T)³, where T is the last step that it rises at.
    pub fn share(&self, step: usize, steps: usize) -> f64 {
        let left = 1.0 - step as f64 / self.last(steps).max(1) as f64;
        match step < self.last(steps) {
            true => self.to + (self.from - self.to) * left.powi(3),
            false => self.to,
        }
    }

    /// Whether the share rises before a step is taken.
    pub fn rises(&self, step: usize, steps: usize) -> bool {
        let last = self.last(steps);
        step == last || step < last && step.is_multiple_of(last.div_ceil(RISES))
    }

    /// Whether it rises before any of these steps.
    pub fn rises_in(&self, steps: Range<usize>, all: usize) -> bool {
        steps.start <= self.last(all)
    }

    /// At least one step is taken with all zeros.
    fn last(&self, steps: usize) -> usize {
        ((steps as f64 * self.until).round() as usize).min(steps.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(from: f64, to: f64, until: f64) -> Ramp {
        Ramp { values: vec![], from, to, until, removed: Box::new(|_, _| vec![]), identity: String::new() }
    }

    #[test]
    fn the_share_rises_along_its_cube_and_then_stays() {
        let ramp = ramp(0.1, 0.9, 0.8);
        for (step, share) in [(0, 0.1), (400, 0.9 - 0.8 * 0.125), (600, 0.9 - 0.8 / 64.0), (800, 0.9), (999, 0.9)] {
            assert!((ramp.share(step, 1000) - share).abs() < 1e-12, "at {step}: {}", ramp.share(step, 1000));
        }
        assert!((0..999).all(|step| ramp.share(step, 1000) <= ramp.share(step + 1, 1000)));
    }

    #[test]
    fn it_rises_a_hundred_times_at_most_and_ends_where_it_should() {
        for (steps, until) in [(1, 0.5), (2, 0.75), (7, 1.0), (150, 0.7), (5000, 0.66)] {
            let ramp = ramp(0.0, 0.5, until);
            let rises: Vec<usize> = (0..steps).filter(|&step| ramp.rises(step, steps)).collect();
            let last = *rises.last().expect("it rises");
            assert!(rises.len() <= RISES + 1, "{rises:?}");
            assert_eq!(ramp.share(last, steps), 0.5);
            assert!(last < steps && last as f64 <= until * steps as f64 + 0.5);
            assert!(ramp.rises_in(0..1, steps) && ramp.rises_in(last..steps, steps));
            assert!(!ramp.rises_in(last + 1..steps + 1, steps));
        }
    }
}
