//! Cuts that a pass leaves to the training behind it, which goes on after each of them with what is left.

use super::{Context, PassError};
use crate::ir::Model;

/// So many cuts are made at the most: behind each, what trains the model is made anew.
const CUTS: usize = 6;

/// Cuts a model so that it has lost such a share of all that it is to lose.
pub type Cutting = dyn Fn(&mut Model, f64, &mut Context) -> Result<(), PassError>;

/// Cuts that are made before some of the epochs of a training.
pub struct Cuts {
    /// The share of the epochs before the last cut, of which one is left in any case.
    pub until: f64,
    pub cut: Box<Cutting>,
}

/// Epochs between two cuts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// The epochs before it.
    pub before: usize,
    pub epochs: usize,
    /// How much of all that the model is to lose it has lost in them: 1 - (1 - k/n)³ in the k-th of n parts.
    pub share: f64,
}

impl Cuts {
    /// The parts of a training of so many epochs, each behind a cut.
    pub fn parts(&self, epochs: usize) -> Vec<Part> {
        let last = ((epochs as f64 * self.until).round() as usize).min(epochs.saturating_sub(1));
        let count = CUTS.min(last + 1);
        let start = |part: usize| match part {
            _ if part == count => epochs,
            0 => 0,
            _ => (part * last + (count - 1) / 2) / (count - 1),
        };
        let part = |part: usize| Part {
            before: start(part),
            epochs: start(part + 1) - start(part),
            share: 1.0 - (1.0 - (part + 1) as f64 / count as f64).powi(3),
        };
        (0..count).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(until: f64, epochs: usize) -> Vec<Part> {
        Cuts { until, cut: Box::new(|_, _, _| Ok(())) }.parts(epochs)
    }

    #[test]
    fn cuts_are_far_apart_and_smaller_and_smaller() {
        let parts = parts(0.75, 20);
        assert_eq!(parts.iter().map(|part| part.before).collect::<Vec<_>>(), [0, 3, 6, 9, 12, 15]);
        let shares = [91.0, 152.0, 189.0, 208.0, 215.0, 216.0].map(|share| share / 216.0);
        assert!(parts.iter().zip(shares).all(|(part, share)| (part.share - share).abs() < 1e-12), "{parts:?}");
    }

    #[test]
    fn parts_follow_each_other_and_the_last_has_lost_all() {
        for (until, epochs) in [(0.75, 1), (0.2, 2), (1.0, 2), (0.75, 3), (0.5, 9), (1.0, 6), (1.0, 50), (0.01, 7)] {
            let parts = parts(until, epochs);
            let mut next = 0;
            for part in &parts {
                assert!(part.before == next && part.epochs > 0, "{parts:?}");
                next += part.epochs;
            }
            assert_eq!((next, parts.last().unwrap().share), (epochs, 1.0), "{parts:?}");
            assert!(parts.last().unwrap().before as f64 <= until * epochs as f64 + 0.5, "{parts:?}");
        }
    }
}
