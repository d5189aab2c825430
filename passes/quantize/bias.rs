//! What rounding does to the mean of a layer's outputs, and how its weights and bias make up for it.
//!
//! Rounded weights Ŵ and inputs x̂, rounded by the layers before, move the mean of every output channel: an error that is the
//! same everywhere, and that the layers behind carry on. The bias takes it back: b̂ = b + E W·x - E Ŵ·x̂.

use ndarray::{Array1, Array2, Array3, ArrayView2, Axis, concatenate, s};

use super::cholesky::{cholesky, invert_lower};
use crate::measure::{Moments, PairedMoments};

/// What may be added to the diagonal of the covariance of x̂, over its mean: weights that the samples do not ask to change
/// stay. It grows where there are not so many rows for each input.
const RIDGES: [f64; 2] = [0.05, 0.5];
const ROWS_FOR_EACH_INPUT: f64 = 20.0;

/// One of so many samples tells whether fitted weights are better, and weights are fitted to the others, if there are enough.
const HELD_OUT: usize = 4;
const FEWEST_TO_FIT: usize = 8;

/// E W·x - E Ŵ·x for each channel, where every group of channels reads its own x.
pub fn shift(weights: ArrayView2<f32>, rounded: ArrayView2<f32>, groups: &[Moments]) -> Vec<f32> {
    each_group(weights, rounded, groups, |w, rounded, moments| {
        product(w, &moments.mean) - product(rounded, &moments.mean)
    })
}

/// E W·x - E Ŵ·x̂ for each channel, where x̂ is what the layer reads behind rounded layers.
pub fn paired_shift(weights: ArrayView2<f32>, rounded: ArrayView2<f32>, groups: &[PairedMoments]) -> Vec<f32> {
    each_group(weights, rounded, groups, |w, rounded, moments| {
        product(w, &(&moments.rows.mean + &moments.difference)) - product(rounded, &moments.rows.mean)
    })
}

fn each_group<M>(
    weights: ArrayView2<f32>,
    rounded: ArrayView2<f32>,
    groups: &[M],
    shift: impl Fn(ArrayView2<f32>, ArrayView2<f32>, &M) -> Array1<f64>,
) -> Vec<f32> {
    let channels = weights.nrows() / groups.len().max(1);
    let shifts = groups.iter().enumerate().flat_map(|(group, moments)| {
        let part = s![group * channels..(group + 1) * channels, ..];
        shift(weights.slice(part), rounded.slice(part), moments).to_vec()
    });
    shifts.map(|x| x as f32).collect()
}

fn product(matrix: ArrayView2<f32>, x: &Array1<f64>) -> Array1<f64> {
    let row = |row: ndarray::ArrayView1<f32>| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
    matrix.rows().into_iter().map(row).collect()
}

/// The weights that come nearest to W·x when they read x̂: W' = W + W·C·(H + λ)⁻¹, where C = E (x - x̂)·x̂ᵀ and H = E x̂·x̂ᵀ, or
/// the covariances where `centered`, since a bias is to take back what is left of the mean.
pub fn refitted(weights: ArrayView2<f32>, groups: &[PairedMoments], centered: bool, ridge: f64) -> Array2<f32> {
    let channels = weights.nrows() / groups.len().max(1);
    let fitted: Vec<Array2<f32>> = groups
        .iter()
        .enumerate()
        .map(|(group, moments)| {
            let weights = weights.slice(s![group * channels..(group + 1) * channels, ..]);
            change(weights, moments, centered, ridge).map_or_else(|| weights.to_owned(), |change| &weights + &change)
        })
        .collect();
    let views: Vec<_> = fitted.iter().map(|weights| weights.view()).collect();
    concatenate(Axis(0), &views).unwrap_or_else(|_| weights.to_owned())
}

/// The moments of all pairs of rows, one pair a sample, and weights for them: [`refitted`] where that brings the outputs nearer
/// on samples that they were not fitted to, else as they are. Weights that are zero stay so: sparse weights stay sparse.
pub fn refitted_where_better(
    weights: &Array2<f32>,
    pairs: Vec<[Array3<f32>; 2]>,
    centered: bool,
) -> (Vec<PairedMoments>, Array2<f32>) {
    if pairs.len() < FEWEST_TO_FIT {
        return (PairedMoments::of(&pairs), weights.clone());
    }
    let (held, fit): (Vec<_>, Vec<_>) = pairs.into_iter().enumerate().partition(|(sample, _)| sample % HELD_OUT == 0);
    let [held, fit] = [held, fit].map(|pairs| {
        let pairs: Vec<_> = pairs.into_iter().map(|(_, pair)| pair).collect();
        PairedMoments::of(&pairs)
    });
    let fitted = |groups: &[PairedMoments], ridge: f64| {
        refitted(weights.view(), groups, centered, ridge) * weights.mapv(|w| f32::from(u8::from(w != 0.0)))
    };
    let added = |ridge: f64| {
        let fitted = fitted(&fit, ridge);
        (ridge, added_error(weights.view(), fitted.view(), &held, centered))
    };
    let all: Vec<PairedMoments> = fit.iter().zip(&held).map(|(fit, held)| fit.joined(held)).collect();
    let best = RIDGES.map(added).into_iter().min_by(|a, b| a.1.total_cmp(&b.1));
    let fitted = match best.filter(|&(_, added)| added < 0.0) {
        Some((ridge, _)) => fitted(&all, ridge),
        None => weights.clone(),
    };
    (all, fitted)
}

/// By how much E |W·x - W'·x̂|² is more than E |W·x - W·x̂|², over all channels: with V = W' - W, Σ V·H·Vᵀ - 2·V·Cᵀ·Wᵀ.
/// Moments are those of rows that W' was not fitted to.
pub fn added_error(weights: ArrayView2<f32>, fitted: ArrayView2<f32>, groups: &[PairedMoments], centered: bool) -> f64 {
    let channels = weights.nrows() / groups.len().max(1);
    let group = |(group, moments): (usize, &PairedMoments)| {
        let part = s![group * channels..(group + 1) * channels, ..];
        let w = weights.slice(part).mapv(f64::from);
        let v = fitted.slice(part).mapv(f64::from) - &w;
        let (h, c) = second_moments(moments, centered);
        (&v * &(v.dot(&h) - 2.0 * w.dot(&c))).sum()
    };
    groups.iter().enumerate().map(group).sum()
}

/// H and C.
fn second_moments(moments: &PairedMoments, centered: bool) -> (Array2<f64>, Array2<f64>) {
    match centered {
        true => (moments.rows.covariance(), moments.cross_covariance()),
        false => (moments.rows.gram.clone(), moments.cross.clone()),
    }
}

/// W·C·(H + λ)⁻¹; none where the inputs are all but constant.
fn change(weights: ArrayView2<f32>, moments: &PairedMoments, centered: bool, ridge: f64) -> Option<Array2<f32>> {
    let (mut h, c) = second_moments(moments, centered);
    let scarcity = ROWS_FOR_EACH_INPUT * h.nrows() as f64 / moments.rows.count.max(1) as f64;
    let ridge = ridge * scarcity.max(1.0) * h.diag().mean()?;
    h.diag_mut().mapv_inplace(|x| x + ridge);
    // (H + λ)⁻¹ = L⁻ᵀ·L⁻¹
    let inverse = invert_lower(&cholesky(h)?);
    let change = weights.mapv(f64::from).dot(&c).dot(&inverse.t()).dot(&inverse);
    change.iter().all(|x| x.is_finite()).then(|| change.mapv(|x| x as f32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::Random;
    use crate::measure::MomentSums;

    fn random(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
        let mut random = Random::new(seed, 0);
        Array2::from_shape_fn((rows, columns), |_| random.normal())
    }

    /// Inputs that go together, and what rounding to coarse steps and a shift make of them.
    fn inputs(groups: usize, rows: usize, width: usize, seed: u64) -> [Array3<f32>; 2] {
        let mut x = Array3::zeros((groups, rows, width));
        for (group, mut x) in x.axis_iter_mut(Axis(0)).enumerate() {
            let seed = seed + 10 * group as u64;
            x.assign(&(random(rows, width, seed).dot(&random(width, width, seed + 1)) + 1.0));
        }
        let rounded = x.mapv(|x: f32| (x + 0.2).round().clamp(-3.0, 4.0));
        [x, rounded]
    }

    fn outputs(weights: &Array2<f32>, x: &Array3<f32>) -> Array2<f32> {
        let channels = weights.nrows() / x.dim().0;
        let groups = x.axis_iter(Axis(0)).enumerate();
        let outputs: Vec<_> =
            groups.map(|(g, x)| x.dot(&weights.slice(s![g * channels..(g + 1) * channels, ..]).t())).collect();
        concatenate(Axis(1), &outputs.iter().map(|y| y.view()).collect::<Vec<_>>()).unwrap()
    }

    fn means(y: &Array2<f32>) -> Vec<f64> {
        y.columns().into_iter().map(|y| y.iter().map(|&y| f64::from(y)).sum::<f64>() / y.len() as f64).collect()
    }

    #[test]
    fn the_mean_of_every_output_is_what_it_was() {
        for groups in [1, 2] {
            let ([x, other], weights) = (inputs(groups, 200, 12, 3), random(6, 12, 9));
            let rounded = weights.mapv(|w| (w * 4.0).round() / 4.0);
            let moments = PairedMoments::of(&[[x.clone(), other.clone()]]);
            let shift = paired_shift(weights.view(), rounded.view(), &moments);
            let (expected, found) = (means(&outputs(&weights, &x)), means(&outputs(&rounded, &other)));
            for (expected, (found, shift)) in expected.iter().zip(found.iter().zip(&shift)) {
                assert!((expected - found).abs() > 1e-3 && (expected - found - f64::from(*shift)).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn rounded_weights_alone_shift_by_the_mean_of_the_inputs() {
        let ([x, _], weights) = (inputs(2, 100, 8, 1), random(4, 8, 2));
        let rounded = weights.mapv(f32::round);
        let mut sums = MomentSums::default();
        sums.add(&x);
        let moments = sums.moments();
        let shift = shift(weights.view(), rounded.view(), &moments);
        let (expected, found) = (means(&outputs(&weights, &x)), means(&outputs(&rounded, &x)));
        assert!(expected.iter().zip(found).zip(shift).all(|((a, b), shift)| (a - b - f64::from(shift)).abs() < 1e-4));
    }

    #[test]
    fn inputs_that_do_not_vary_leave_weights_as_they_are() {
        let weights = random(3, 5, 0);
        let moments = PairedMoments::of(&[[Array3::zeros((1, 10, 5)), Array3::zeros((1, 10, 5))]]);
        assert_eq!(refitted(weights.view(), &moments, true, 0.05), weights);
    }

    proptest! {
        #[test]
        fn refitted_weights_come_nearer_to_the_outputs(seed in any::<u64>(), width in 1usize..20, groups in 1usize..3) {
            let ([x, other], weights) = (inputs(groups, 10 * width + 10, width, seed % 1000), random(4 * groups, width, seed));
            let fitted = refitted(weights.view(), &PairedMoments::of(&[[x.clone(), other.clone()]]), true, 0.05);
            let expected = outputs(&weights, &x);
            let spread = |weights: &Array2<f32>| {
                let off = &expected - &outputs(weights, &other);
                let means = means(&off);
                let centered = off.outer_iter().map(|row| row.iter().zip(&means).map(|(&x, m)| (f64::from(x) - m).powi(2)).sum::<f64>());
                centered.sum::<f64>()
            };
            prop_assert!(spread(&fitted) <= spread(&weights) * 1.0001 + 1e-6);
            let moments = PairedMoments::of(&[[x.clone(), other.clone()]]);
            let rows = moments[0].rows.count as f64;
            let added = added_error(weights.view(), fitted.view(), &moments, true);
            let expected = (spread(&fitted) - spread(&weights)) / rows;
            prop_assert!((added - expected).abs() <= 1e-3 * (spread(&weights) / rows + 1e-3), "{added} for {expected}");
        }
    }
}
