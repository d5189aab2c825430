//! Least squares: the change of a layer's weights that comes nearest to what is missing behind it.
//!
//! With rows x that the layer reads and what is missing behind it, e, both about their means:
//! V = E e·xᵀ·(E x·xᵀ + λ)⁻¹, and the bias takes E e - V·E x.

use ndarray::{Array1, Array2, Array3, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

use crate::measure::sums_of_products;
use crate::passes::quantize::{cholesky, invert_lower};

/// What may be added to the diagonal of E x·xᵀ, over its mean. It grows where there are not so many rows for each input.
const RIDGES: [f64; 5] = [0.0005, 0.005, 0.05, 0.5, 5.0];
const ROWS_FOR_EACH_INPUT: f64 = 20.0;

/// One of so many samples tells whether changed weights are better; weights are fitted to the others.
const HELD_OUT: usize = 4;

/// What one sample tells of a layer.
pub struct Evidence {
    /// What each group reads: `[groups, rows, inputs]`.
    pub rows: Array3<f32>,
    /// What is missing behind the layer: `[rows, outputs]`, group by group.
    pub errors: Array2<f32>,
}

/// What is to be added to weights `[outputs, inputs of a group]` and to the bias.
pub struct Change {
    pub weights: Array2<f32>,
    pub bias: Vec<f32>,
}

/// The change that fits best to samples that it was not fitted to; none of the weights where none helps.
pub fn fit(samples: &[Evidence]) -> Change {
    let (groups, _, inputs) = samples.first().map_or((0, 0, 0), |first| first.rows.dim());
    let (held, rest): (Vec<_>, Vec<_>) = samples.iter().enumerate().partition(|(sample, _)| sample % HELD_OUT == 0);
    let [held, rest] = [held, rest].map(|part| part.into_iter().map(|(_, sample)| sample).collect::<Vec<_>>());
    let group = |group: usize| {
        let [held, rest] = [&held, &rest].map(|samples| Moments::of(samples, group, groups));
        let all = held.joined(&rest);
        let added = |&ridge: &f64| Some((ridge, held.added_error(&rest.change(ridge)?)));
        let tried: Vec<_> = RIDGES.par_iter().filter_map(added).collect();
        let best = tried.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).filter(|&(_, added)| added < 0.0);
        let weights = best.and_then(|(ridge, _)| all.change(ridge));
        let weights = weights.unwrap_or_else(|| Array2::zeros((all.error.len(), inputs)));
        let bias = &all.error - &weights.dot(&all.row);
        (weights.mapv(|x| x as f32), bias.mapv(|x| x as f32).to_vec())
    };
    let (weights, bias): (Vec<_>, Vec<_>) = (0..groups).into_par_iter().map(group).unzip();
    let views: Vec<_> = weights.iter().map(|weights| weights.view()).collect();
    Change { weights: concatenate(Axis(0), &views).unwrap_or_default(), bias: bias.concat() }
}

/// First and second moments of rows x and errors e of a group.
struct Moments {
    count: f64,
    /// E x
    row: Array1<f64>,
    /// E e
    error: Array1<f64>,
    /// E x·xᵀ
    rows: Array2<f64>,
    /// E e·xᵀ
    cross: Array2<f64>,
}

/// Rows of several samples that are multiplied at once.
const ROWS_AT_ONCE: usize = 512;

impl Moments {
    /// Sums are taken in the order of the samples.
    fn of(samples: &[&Evidence], group: usize, groups: usize) -> Moments {
        let parts: Vec<[ArrayView2<f32>; 2]> = samples
            .iter()
            .map(|sample| {
                let each = sample.errors.ncols() / groups;
                let errors = sample.errors.slice(s![.., group * each..(group + 1) * each]);
                [sample.rows.index_axis(Axis(0), group), errors]
            })
            .collect();
        let [inputs, outputs] = parts.first().map_or([0, 0], |part| part.each_ref().map(ArrayView2::ncols));
        let few = parts.first().map_or(1, |[rows, _]| ROWS_AT_ONCE.div_ceil(rows.nrows().max(1)));
        let stacked = |parts: &[[ArrayView2<f32>; 2]]| -> [Array2<f32>; 2] {
            [0, 1].map(|which| {
                let views: Vec<_> = parts.iter().map(|part| part[which]).collect();
                concatenate(Axis(0), &views).expect("all samples have as many columns")
            })
        };
        let stacks: Vec<[Array2<f32>; 2]> = parts.chunks(few).map(stacked).collect();
        let count = parts.iter().map(|[rows, _]| rows.nrows()).sum::<usize>() as f64;
        let n = count.max(1.0);
        let views: Vec<_> = stacks.iter().map(|[rows, errors]| [errors.view(), rows.view()]).collect();
        let [cross, rows] = sums_of_products([outputs, inputs], &views).map(|sums| sums / n);
        let mean = |which: usize, length: usize| {
            let sum = |sum: Array1<f64>, stack: &[Array2<f32>; 2]| sum + stack[which].mapv(f64::from).sum_axis(Axis(0));
            stacks.iter().fold(Array1::zeros(length), sum) / n
        };
        Moments { count, row: mean(0, inputs), error: mean(1, outputs), rows, cross }
    }

    /// Those of the rows of both.
    fn joined(&self, other: &Moments) -> Moments {
        if self.count == 0.0 || other.count == 0.0 {
            let Moments { count, row, error, rows, cross } = if self.count > 0.0 { self } else { other };
            let (row, error) = (row.clone(), error.clone());
            return Moments { count: *count, row, error, rows: rows.clone(), cross: cross.clone() };
        }
        let count = self.count + other.count;
        let [a, b] = [self.count / count, other.count / count];
        Moments {
            count,
            row: &self.row * a + &other.row * b,
            error: &self.error * a + &other.error * b,
            rows: &self.rows * a + &other.rows * b,
            cross: &self.cross * a + &other.cross * b,
        }
    }

    /// E x·xᵀ and E e·xᵀ about the means.
    fn centered(&self) -> [Array2<f64>; 2] {
        let about = |products: &Array2<f64>, a: &Array1<f64>| {
            Array2::from_shape_fn(products.dim(), |(i, j)| products[[i, j]] - a[i] * self.row[j])
        };
        [about(&self.rows, &self.row), about(&self.cross, &self.error)]
    }

    /// V; none where the inputs are all but constant.
    fn change(&self, ridge: f64) -> Option<Array2<f64>> {
        let [mut rows, cross] = self.centered();
        let scarcity = ROWS_FOR_EACH_INPUT * rows.nrows() as f64 / self.count.max(1.0);
        let ridge = ridge * scarcity.max(1.0) * rows.diag().mean()?;
        rows.diag_mut().mapv_inplace(|x| x + ridge);
        // (E x·xᵀ + λ)⁻¹ = L⁻ᵀ·L⁻¹
        let inverse = invert_lower(&cholesky(rows)?);
        let change = cross.dot(&inverse.t()).dot(&inverse);
        change.iter().all(|x| x.is_finite()).then_some(change)
    }

    /// By how much E |e - V·x|² is more than E |e|², about the means.
    fn added_error(&self, change: &Array2<f64>) -> f64 {
        let [rows, cross] = self.centered();
        (change * &(change.dot(&rows) - 2.0 * &cross)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Random;

    fn random(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
        let mut random = Random::new(seed, 0);
        Array2::from_shape_fn((rows, columns), |_| random.normal())
    }

    /// Rows of `groups`, and errors that are `weights` times the rows, `bias`, and noise.
    fn samples(groups: usize, weights: &Array2<f32>, bias: f32, noise: f32) -> Vec<Evidence> {
        let (each, inputs) = (weights.nrows() / groups, weights.ncols());
        let sample = |seed: u64| {
            let mix = random(inputs, inputs, 100);
            let of_groups: Vec<_> =
                (0..groups).map(|group| random(60, inputs, 7 * seed + group as u64).dot(&mix) + 0.5).collect();
            let views: Vec<_> = of_groups.iter().map(|rows| rows.view().insert_axis(Axis(0))).collect();
            let errors: Vec<_> = of_groups
                .iter()
                .enumerate()
                .map(|(group, rows)| rows.dot(&weights.slice(s![group * each..(group + 1) * each, ..]).t()))
                .collect();
            let errors = concatenate(Axis(1), &errors.iter().map(|part| part.view()).collect::<Vec<_>>()).unwrap();
            let noise = random(errors.nrows(), errors.ncols(), 1000 + seed) * noise;
            Evidence { rows: concatenate(Axis(0), &views).unwrap(), errors: errors + noise + bias }
        };
        (0..12).map(sample).collect()
    }

    #[test]
    fn what_is_missing_in_proportion_to_the_inputs_is_found_group_by_group() {
        for groups in [1, 3] {
            let weights = random(2 * groups, 5, 3);
            let change = fit(&samples(groups, &weights, 0.25, 0.0));
            assert_eq!(change.weights.dim(), weights.dim());
            let off = (&change.weights - &weights).iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(off < 0.05, "{off}");
            assert!(change.bias.iter().all(|bias| (bias - 0.25).abs() < 0.1), "{:?}", change.bias);
        }
    }

    #[test]
    fn weights_stay_where_errors_have_nothing_to_do_with_the_inputs() {
        let samples = samples(1, &Array2::zeros((2, 5)), 3.0, 1.0);
        let change = fit(&samples);
        let bias = Array1::from(change.bias);
        for sample in &samples {
            let given = sample.rows.index_axis(Axis(0), 0).dot(&change.weights.t()) + &bias;
            let off = given.mapv(|x| (x - 3.0).powi(2)).mean().unwrap();
            // 720 rows of noise 1 tell five numbers of a row to 5 / 720.
            assert!(off < 0.05, "{off}");
        }
    }

    #[test]
    fn inputs_that_do_not_vary_move_the_bias_alone() {
        let sample = || Evidence { rows: Array3::ones((1, 8, 4)), errors: Array2::ones((8, 2)) };
        let change = fit(&[sample(), sample()]);
        assert_eq!((change.weights, change.bias), (Array2::zeros((2, 4)), vec![1.0; 2]));
    }
}
