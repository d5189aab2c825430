//! Moments of what layers read: how large the inputs of a layer are, and which of them go together.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Array3, ArrayView2, Axis};

use super::survey::{SurveyError, Watch, survey};
use super::window::Reading;
use crate::data::{Dataset, Random};
use crate::ir::{Model, ValueId};

/// First and second moments of the rows x that a layer, or a group of one, reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// The number of rows.
    pub count: u64,
    /// E x
    pub mean: Array1<f64>,
    /// E x·xᵀ
    pub gram: Array2<f64>,
}

/// Which places of a value are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Rows of each sample at most.
    pub rows: usize,
    pub seed: u64,
}

/// A value, and how a layer reads it.
pub type Read = (ValueId, Reading);

impl Moments {
    /// E x·xᵀ - E x·E xᵀ
    pub fn covariance(&self) -> Array2<f64> {
        centered(&self.gram, &self.mean, &self.mean)
    }
}

fn centered(products: &Array2<f64>, a: &Array1<f64>, b: &Array1<f64>) -> Array2<f64> {
    Array2::from_shape_fn(products.dim(), |(i, j)| products[[i, j]] - a[i] * b[j])
}

/// Moments of rows x that a layer reads in one model, and x̂ that it reads at the same places in another.
#[derive(Clone, Debug, PartialEq)]
pub struct PairedMoments {
    /// Of x̂.
    pub rows: Moments,
    /// E (x - x̂)
    pub difference: Array1<f64>,
    /// E (x - x̂)·x̂ᵀ
    pub cross: Array2<f64>,
}

impl PairedMoments {
    /// E (x - x̂)·x̂ᵀ - E (x - x̂)·E x̂ᵀ
    pub fn cross_covariance(&self) -> Array2<f64> {
        centered(&self.cross, &self.difference, &self.rows.mean)
    }
}

/// [`PairedMoments`] in the making, group by group.
#[derive(Clone, Default)]
pub struct PairedSums(Vec<(Sums, Array1<f64>, Array2<f64>)>);

impl PairedSums {
    /// Rows of one sample, `[groups, rows, row]`, of both models. All samples have to be added in the same order to get the same
    /// result.
    pub fn add(&mut self, x: &Array3<f32>, other: &Array3<f32>) {
        let (groups, _, width) = other.dim();
        if self.0.is_empty() {
            self.0 = vec![(Sums::zero(width), Array1::zeros(width), Array2::zeros((width, width))); groups];
        }
        let rows = x.axis_iter(Axis(0)).zip(other.axis_iter(Axis(0)));
        for ((sums, difference, cross), (x, other)) in self.0.iter_mut().zip(rows) {
            sums.add(other);
            let off = &x - &other;
            add_sums(difference, off.view());
            add_products(cross, off.view(), other);
        }
    }

    pub fn moments(self) -> Vec<PairedMoments> {
        let group = |(sums, difference, cross): (Sums, Array1<f64>, Array2<f64>)| {
            let rows = sums.moments();
            let n = rows.count.max(1) as f64;
            PairedMoments { rows, difference: difference / n, cross: cross / n }
        };
        self.0.into_iter().map(group).collect()
    }
}

/// For each of `reads`, the moments of the groups of its layer, over sampled rows of every sample of `data`.
pub fn moments(
    model: &Model,
    reads: &[Read],
    data: &Dataset,
    sampling: Sampling,
    watch: Watch,
) -> Result<Vec<Vec<Moments>>, SurveyError> {
    let values: Vec<_> = reads.iter().map(|(value, _)| *value).collect();
    let mut sums: Vec<Vec<Sums>> = vec![Vec::new(); reads.len()];
    survey(
        model,
        &values,
        data,
        watch,
        &mut sums,
        |place, sample, tensor| {
            let mut random = Random::new(sampling.seed, sample as u64);
            reads[place].1.rows(tensor, sampling.rows, &mut random)
        },
        |_, sums, rows| add(sums, rows.unwrap_or_default()),
    )?;
    Ok(sums.into_iter().map(|groups| groups.into_iter().map(Sums::moments).collect()).collect())
}

/// Σ x and Σ x·xᵀ
#[derive(Clone)]
struct Sums {
    count: u64,
    sum: Array1<f64>,
    products: Array2<f64>,
}

fn add(sums: &mut Vec<Sums>, rows: Array3<f32>) {
    let (groups, _, width) = rows.dim();
    if sums.is_empty() {
        *sums = vec![Sums::zero(width); groups];
    }
    sums.iter_mut().zip(rows.axis_iter(Axis(0))).for_each(|(sums, rows)| sums.add(rows));
}

impl Sums {
    fn zero(width: usize) -> Sums {
        Sums { count: 0, sum: Array1::zeros(width), products: Array2::zeros((width, width)) }
    }

    fn add(&mut self, rows: ArrayView2<f32>) {
        self.count += rows.nrows() as u64;
        add_sums(&mut self.sum, rows);
        add_products(&mut self.products, rows, rows);
    }

    fn moments(self) -> Moments {
        let n = self.count.max(1) as f64;
        Moments { count: self.count, mean: self.sum / n, gram: self.products / n }
    }
}

fn add_sums(sums: &mut Array1<f64>, rows: ArrayView2<f32>) {
    for row in rows.rows() {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
}

/// Σ a·bᵀ over the rows of one sample, which are few enough to be added in single precision.
fn add_products(sums: &mut Array2<f64>, a: ArrayView2<f32>, b: ArrayView2<f32>) {
    let mut products = Array2::<f32>::zeros(sums.dim());
    general_mat_mul(1.0, &a.t(), &b, 0.0, &mut products);
    sums.zip_mut_with(&products, |sum, &x| *sum += f64::from(x));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_means_over_all_rows() {
        let mut sums = Vec::new();
        add(&mut sums, Array3::from_shape_vec((1, 2, 2), vec![1.0, 2.0, 3.0, -4.0]).unwrap());
        add(&mut sums, Array3::from_shape_vec((1, 1, 2), vec![-1.0, 5.0]).unwrap());
        let moments = sums.remove(0).moments();
        assert_eq!((moments.count, moments.mean.to_vec()), (3, vec![1.0, 1.0]));
        let expected = [[11.0 / 3.0, -5.0], [-5.0, 15.0]];
        assert!((&moments.gram - &ndarray::arr2(&expected)).iter().all(|x: &f64| x.abs() < 1e-12));
    }

    #[test]
    fn paired_moments_are_those_of_the_rows_and_their_difference() {
        let rows = |x: [f32; 4]| Array3::from_shape_vec((1, 2, 2), x.to_vec()).unwrap();
        let mut sums = PairedSums::default();
        sums.add(&rows([2.0, 2.0, 3.0, -4.0]), &rows([1.0, 2.0, 3.0, -2.0]));
        let found = sums.moments().remove(0);
        assert_eq!((found.rows.mean.to_vec(), found.difference.to_vec()), (vec![2.0, 0.0], vec![0.5, -1.0]));
        assert_eq!(found.cross, ndarray::arr2(&[[0.5, 1.0], [-3.0, 2.0]]));
        assert_eq!(found.cross_covariance(), ndarray::arr2(&[[-0.5, 1.0], [-1.0, 2.0]]));
        assert_eq!(found.rows.covariance(), ndarray::arr2(&[[1.0, -2.0], [-2.0, 4.0]]));
    }

    #[test]
    fn every_group_has_its_own() {
        let mut sums = Vec::new();
        add(&mut sums, Array3::from_shape_vec((2, 1, 1), vec![2.0, 3.0]).unwrap());
        let gram: Vec<f64> = sums.into_iter().map(|group| group.moments().gram[[0, 0]]).collect();
        assert_eq!(gram, [4.0, 9.0]);
    }
}
