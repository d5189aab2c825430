//! How far outputs move where a model is changed in one place: what sensitivities are measured in.

use crate::ir::Tensor;

/// How far outputs are from those of another model.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    /// For each output: Σy² and Σ(y - ŷ)².
    outputs: Vec<[f64; 2]>,
    moved: usize,
    decisions: usize,
}

impl Errors {
    /// Between the outputs of two models, of one run each.
    pub fn of(exact: &[Tensor], changed: &[Tensor]) -> Errors {
        let mut errors = Errors::default();
        for (a, b) in exact.iter().zip(changed) {
            let (Some(x), Some(y)) = (a.floats(), b.floats()) else { continue };
            // What all scores of a row share decides nothing.
            let width = a.shape().last().copied().unwrap_or(1).max(1);
            let mut sums = [0f64; 2];
            for (x, y) in x.chunks(width).zip(y.chunks(width)) {
                let common = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
                let [x_mean, y_mean] = if width > 1 { [common(x), common(y)] } else { [0.0, 0.0] };
                for (&x, &y) in x.iter().zip(y) {
                    let (x, y) = (f64::from(x) - x_mean, f64::from(y) - y_mean);
                    sums = [sums[0] + x * x, sums[1] + (x - y) * (x - y)];
                }
            }
            errors.outputs.push(sums);
            if width > 1 {
                let rows = x.chunks(width).zip(y.chunks(width));
                errors.moved += rows.filter(|(x, y)| largest(x) != largest(y)).count();
                errors.decisions += x.len() / width;
            }
        }
        errors
    }

    /// The share of decisions that change: positions whose largest score along the last axis is in another place.
    pub fn changed(&self) -> f64 {
        self.moved as f64 / self.decisions.max(1) as f64
    }

    pub fn add(&mut self, other: &Errors) {
        self.outputs.resize(other.outputs.len().max(self.outputs.len()), [0.0; 2]);
        for (all, one) in self.outputs.iter_mut().zip(&other.outputs) {
            *all = [all[0] + one[0], all[1] + one[1]];
        }
        self.moved += other.moved;
        self.decisions += other.decisions;
    }

    /// Power of the outputs over power of the error, in decibels; of several outputs the worst. Of each row along the last axis its
    /// mean is taken away first.
    pub fn sqnr_db(&self) -> f64 {
        let sqnr = |[signal, noise]: &[f64; 2]| match noise.is_finite() {
            true => 10.0 * (signal / noise.max(1e-30)).log10(),
            false => f64::NEG_INFINITY,
        };
        self.outputs.iter().map(sqnr).fold(f64::INFINITY, f64::min)
    }
}

fn largest(x: &[f32]) -> usize {
    (1..x.len()).fold(0, |best, i| if x[i] > x[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_all_scores_share_do_not_count() {
        let scores = |x: [f32; 4]| vec![Tensor::from_vec(vec![2, 2], x.to_vec())];
        let float = scores([1.0, 3.0, 2.0, 1.0]);
        let shifted = Errors::of(&float, &scores([6.0, 8.0, 2.0, 1.0]));
        assert_eq!((shifted.outputs[0][1], shifted.moved, shifted.decisions), (0.0, 0, 2));
        let swapped = Errors::of(&float, &scores([3.0, 1.0, 2.0, 1.0]));
        assert_eq!((swapped.outputs[0], swapped.moved), ([2.5, 8.0], 1));
        assert!(swapped.sqnr_db() < shifted.sqnr_db());
    }

    #[test]
    fn a_number_that_is_no_number_is_the_worst() {
        let numbers = |x: f32| vec![Tensor::from_vec(vec![1], vec![x])];
        assert_eq!(Errors::of(&numbers(1.0), &numbers(f32::NAN)).sqnr_db(), f64::NEG_INFINITY);
    }
}
