//! The level that each weight of a layer becomes.
//!
//! Weights are matrices `[channels, inputs]`, w ≈ scale·q with a scale and a largest |q| for each channel. Rounding every
//! weight to the nearest level makes each weight's error least; what counts is the error of the outputs, E |(w - ŵ)ᵀx|² =
//! (w - ŵ)ᵀ·H·(w - ŵ), where H = E x·xᵀ is known from calibration data.

use ndarray::{Array1, Array2, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

use super::sweep::{Change, Sweep};
use crate::measure::Moments;

/// Columns that are rounded before the columns behind them are corrected.
const BLOCK: usize = 64;

/// Channels whose errors one thread computes together.
const CHANNELS: usize = 32;

/// A layer's weight to be rounded.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// `[channels, inputs]`; where there are groups, channels of the first come first, and inputs are those of one group.
    pub matrix: ArrayView2<'a, f32>,
    /// For each channel.
    pub scales: &'a [f32],
    /// The largest |q| of each channel: 127, or 63 where products of eight bits overflow.
    pub limits: &'a [f32],
}

impl<'a> Weights<'a> {
    fn channels(self, range: std::ops::Range<usize>) -> Weights<'a> {
        Weights {
            matrix: self.matrix.slice_move(s![range.clone(), ..]),
            scales: &self.scales[range.clone()],
            limits: &self.limits[range],
        }
    }
}

fn level(x: f32, scale: f32, limit: f32) -> f32 {
    (x / scale).round_ties_even().clamp(-limit, limit)
}

/// Every weight at its nearest level.
pub fn nearest(weights: Weights) -> Array2<i8> {
    let mut levels = Array2::zeros(weights.matrix.dim());
    for (channel, mut levels) in levels.rows_mut().into_iter().enumerate() {
        let (scale, limit) = (weights.scales[channel], weights.limits[channel]);
        levels.zip_mut_with(&weights.matrix.row(channel), |q, &w| *q = level(w, scale, limit) as i8);
    }
    levels
}

/// scale·q
pub fn dequantized(levels: &Array2<i8>, scales: &[f32]) -> Array2<f32> {
    let mut weights = levels.mapv(f32::from);
    weights.rows_mut().into_iter().zip(scales).for_each(|(mut row, &scale)| row.mapv_inplace(|q| q * scale));
    weights
}

/// Levels by GPTQ (Frantar et al., 2022): columns are rounded one after the other, those of large inputs first, and the error of
/// each is made up for by the columns that are still to be rounded. A channel that nearest rounding renders better is
/// rounded that way. `groups` has the moments of the inputs of each group, which together have all channels.
pub fn gptq(weights: Weights, groups: &[Moments]) -> Array2<i8> {
    let channels = weights.matrix.nrows() / groups.len().max(1);
    let rounded: Vec<Array2<i8>> = groups
        .par_iter()
        .enumerate()
        .map(|(group, moments)| gptq_group(weights.channels(group * channels..(group + 1) * channels), &moments.gram))
        .collect();
    let views: Vec<_> = rounded.iter().map(|levels| levels.view()).collect();
    concatenate(Axis(0), &views).unwrap_or_else(|_| nearest(weights))
}

fn gptq_group(weights: Weights, gram: &Array2<f64>) -> Array2<i8> {
    let nearest = nearest(weights);
    let Some(sweep) = Sweep::large_first(gram, BLOCK) else { return nearest };
    let rounded = sweep.run(weights.matrix, &mut Round { weights, columns: sweep.columns() });
    let mut levels = Array2::from_shape_fn(rounded.dim(), |(channel, k)| {
        level(rounded[[channel, k]], weights.scales[channel], weights.limits[channel]) as i8
    });
    let gram = gram.mapv(|x| x as f32);
    let starts: Vec<usize> = (0..levels.nrows()).step_by(CHANNELS).collect();
    let [ours, plain] = [&levels, &nearest].map(|levels| -> Vec<f32> {
        let errors = |&start: &usize| {
            let part = start..levels.nrows().min(start + CHANNELS);
            output_errors(weights.channels(part.clone()), levels.slice(s![part, ..]), &gram).to_vec()
        };
        starts.par_iter().flat_map_iter(errors).collect()
    });
    for channel in (0..levels.nrows()).filter(|&channel| plain[channel] < ours[channel]) {
        levels.row_mut(channel).assign(&nearest.row(channel));
    }
    levels
}

/// Every weight at its nearest level, when its turn comes. Those that are zero stay so: sparse weights stay sparse.
struct Round<'w, 'c> {
    weights: Weights<'w>,
    /// In the order in which they are rounded.
    columns: &'c [usize],
}

impl Change for Round<'_, '_> {
    type Row = ();

    fn change(&self, row: usize, column: usize, ahead: &[f32], _: &[f32], _: &mut ()) -> f32 {
        if self.weights.matrix[[row, self.columns[column]]] == 0.0 {
            return 0.0;
        }
        let scale = self.weights.scales[row];
        level(ahead[0], scale, self.weights.limits[row]) * scale
    }
}

/// (w - ŵ)ᵀ·H·(w - ŵ) of each channel.
fn output_errors(weights: Weights, levels: ArrayView2<i8>, gram: &Array2<f32>) -> Array1<f32> {
    let off = &weights.matrix - &dequantized(&levels.to_owned(), weights.scales);
    (off.dot(gram) * &off).sum_axis(Axis(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::Random;

    /// Rows of inputs that go together: a few sources, each input a mixture of them and some noise.
    fn inputs(rows: usize, width: usize, seed: u64) -> Array2<f32> {
        let mut random = Random::new(seed, 1);
        let sources = Array2::from_shape_fn((rows, width.div_ceil(3)), |_| random.normal());
        let mixture = Array2::from_shape_fn((sources.ncols(), width), |_| random.normal());
        sources.dot(&mixture) + Array2::from_shape_fn((rows, width), |_| 0.1 * random.normal())
    }

    fn moments(x: &Array2<f32>) -> Moments {
        let x = x.mapv(f64::from);
        let n = x.nrows() as f64;
        Moments { count: x.nrows() as u64, mean: x.sum_axis(Axis(0)) / n, gram: x.t().dot(&x) / n }
    }

    fn random_weights(channels: usize, width: usize, seed: u64) -> (Array2<f32>, Vec<f32>) {
        let mut random = Random::new(seed, 2);
        let matrix = Array2::from_shape_fn((channels, width), |_| random.normal());
        let largest = |row: ndarray::ArrayView1<f32>| row.iter().fold(0f32, |max, w| max.max(w.abs()));
        let scales = matrix.rows().into_iter().map(|row| largest(row) / 7.0).collect();
        (matrix, scales)
    }

    /// Mean squared error of each channel's outputs.
    fn errors(x: &Array2<f32>, matrix: &Array2<f32>, levels: &Array2<i8>, scales: &[f32]) -> Vec<f64> {
        let off = x.dot(&(matrix - &dequantized(levels, scales)).t());
        off.columns().into_iter().map(|y| y.iter().map(|&y| f64::from(y * y)).sum::<f64>()).collect()
    }

    #[test]
    fn gptq_halves_the_error_where_inputs_go_together() {
        for (seed, width) in [(0, 30), (1, 100), (2, 200)] {
            let (x, (matrix, scales)) = (inputs(500, width, seed), random_weights(40, width, seed));
            let weights = Weights { matrix: matrix.view(), scales: &scales, limits: &[7.0; 40] };
            let [ours, plain] = [gptq(weights, &[moments(&x)]), nearest(weights)]
                .map(|levels| errors(&x, &matrix, &levels, &scales).iter().sum::<f64>());
            assert!(ours < 0.5 * plain, "{width}: {ours} for {plain}");
        }
    }

    #[test]
    fn every_group_is_rounded_for_its_own_inputs() {
        let ([a, b], (matrix, scales)) = ([3, 4].map(|seed| inputs(100, 9, seed)), random_weights(6, 9, 5));
        let weights = Weights { matrix: matrix.view(), scales: &scales, limits: &[7.0; 6] };
        let both = gptq(weights, &[moments(&a), moments(&b)]);
        let first = gptq(weights.channels(0..3), &[moments(&a)]);
        let second = gptq(weights.channels(3..6), &[moments(&b)]);
        assert_eq!(both, concatenate![Axis(0), first, second]);
    }

    #[test]
    fn inputs_that_are_never_seen_leave_rounding_to_the_nearest() {
        let (matrix, scales) = random_weights(5, 12, 0);
        let weights = Weights { matrix: matrix.view(), scales: &scales, limits: &[7.0; 5] };
        assert_eq!(gptq(weights, &[moments(&Array2::zeros((10, 12)))]), nearest(weights));
        assert_eq!(gptq(weights, &[]), nearest(weights));
        let mut x = inputs(50, 12, 1);
        x.column_mut(4).fill(0.0);
        let levels = gptq(weights, &[moments(&x)]);
        assert!(levels.iter().all(|q| (-7..=7).contains(q)));
    }

    #[test]
    fn weights_that_are_zero_stay_so() {
        let (x, (mut matrix, scales)) = (inputs(200, 60, 0), random_weights(20, 60, 0));
        matrix.indexed_iter_mut().filter(|((row, k), _)| (row + k) % 2 == 0).for_each(|(_, w)| *w = 0.0);
        let weights = Weights { matrix: matrix.view(), scales: &scales, limits: &[7.0; 20] };
        let levels = gptq(weights, &[moments(&x)]);
        assert!(levels.iter().zip(&matrix).all(|(&level, &w)| w != 0.0 || level == 0));
    }

    #[test]
    fn the_number_of_threads_makes_no_difference() {
        let (x, (matrix, scales)) = (inputs(200, 150, 0), random_weights(100, 150, 0));
        let weights = Weights { matrix: matrix.view(), scales: &scales, limits: &[7.0; 100] };
        let rounded: Vec<_> = [1, 2, 4]
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| gptq(weights, &[moments(&x)]))
            })
            .into();
        assert!(rounded.iter().all(|levels| *levels == rounded[0]));
    }

    proptest! {
        #[test]
        fn no_channel_is_worse_than_rounded_to_the_nearest(
            width in 1usize..90, channels in 1usize..40, limit in prop::sample::select(vec![3f32, 7.0, 63.0]), seed in any::<u64>(),
        ) {
            let (x, (matrix, scales)) = (inputs(2 * width, width, seed), random_weights(channels, width, seed));
            let limits = vec![limit; channels];
            let weights = Weights { matrix: matrix.view(), scales: &scales, limits: &limits };
            let [ours, plain] = [gptq(weights, &[moments(&x)]), nearest(weights)];
            prop_assert!(ours.iter().all(|&q| f32::from(q).abs() <= limit));
            let [ours, plain] = [ours, plain].map(|levels| errors(&x, &matrix, &levels, &scales));
            for (ours, plain) in ours.into_iter().zip(plain) {
                prop_assert!(ours <= plain * 1.001 + 1e-6, "{ours} for {plain}");
            }
        }
    }
}
