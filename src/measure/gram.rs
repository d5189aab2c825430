//! Moments of what layers read: how large the inputs of a layer are, and which of them go together.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Array3, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

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

impl Moments {
    /// E x·xᵀ - E x·E xᵀ
    pub fn covariance(&self) -> Array2<f64> {
        centered(&self.gram, &self.mean, &self.mean)
    }

    /// The moments of x - E x.
    pub fn about_the_mean(&self) -> Moments {
        Moments { count: self.count, mean: Array1::zeros(self.mean.len()), gram: self.covariance() }
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

impl PairedMoments {
    /// Those of the rows of both.
    pub fn joined(&self, other: &PairedMoments) -> PairedMoments {
        let count = self.rows.count + other.rows.count;
        let [a, b] = [self.rows.count, other.rows.count].map(|part| part as f64 / count.max(1) as f64);
        PairedMoments {
            rows: Moments {
                count,
                mean: &self.rows.mean * a + &other.rows.mean * b,
                gram: &self.rows.gram * a + &other.rows.gram * b,
            },
            difference: &self.difference * a + &other.difference * b,
            cross: &self.cross * a + &other.cross * b,
        }
    }
}

/// Columns of a matrix of products that one thread computes.
const COLUMNS: usize = 128;

impl PairedMoments {
    /// Of rows `[groups, rows, row]` that a layer reads on each sample in both models; for each group. Sums are taken in the
    /// order of the samples.
    pub fn of(samples: &[[Array3<f32>; 2]]) -> Vec<PairedMoments> {
        let (groups, _, width) = samples.first().map_or((0, 0, 0), |[_, rows]| rows.dim());
        let group = |group: usize| {
            let pairs: Vec<[ArrayView2<f32>; 2]> =
                samples.iter().map(|pair| pair.each_ref().map(|rows| rows.index_axis(Axis(0), group))).collect();
            let count: u64 = pairs.iter().map(|[_, rows]| rows.nrows() as u64).sum();
            let (mut mean, mut difference) = (Array1::zeros(width), Array1::zeros(width));
            let differences: Vec<Array2<f32>> = pairs.iter().map(|[x, other]| x - other).collect();
            for ([_, other], off) in pairs.iter().zip(&differences) {
                add_sums(&mut mean, *other);
                add_sums(&mut difference, off.view());
            }
            let views: Vec<[ArrayView2<f32>; 2]> =
                pairs.iter().zip(&differences).map(|([_, other], off)| [off.view(), *other]).collect();
            let n = count.max(1) as f64;
            let [cross, gram] = sums_of_products([width; 2], &views).map(|sums| sums / n);
            let rows = Moments { count, mean: mean / n, gram };
            PairedMoments { rows, difference: difference / n, cross }
        };
        (0..groups).into_par_iter().map(group).collect()
    }
}

/// The moments of each group in the making: Σ x and Σ x·xᵀ.
#[derive(Clone, Default)]
pub struct MomentSums(Vec<Sums>);

impl MomentSums {
    /// Rows `[groups, rows, row]` of one sample. All samples have to be added in the same order to get the same result.
    pub fn add(&mut self, rows: &Array3<f32>) {
        let (groups, _, width) = rows.dim();
        if self.0.is_empty() {
            self.0 = vec![Sums::zero(width); groups];
        }
        self.0.iter_mut().zip(rows.axis_iter(Axis(0))).for_each(|(sums, rows)| sums.add(rows));
    }

    /// For each group.
    pub fn moments(self) -> Vec<Moments> {
        self.0.into_iter().map(Sums::moments).collect()
    }
}

#[derive(Clone)]
struct Sums {
    count: u64,
    sum: Array1<f64>,
    products: Array2<f64>,
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

/// Σ a·bᵀ and Σ b·bᵀ over pairs of rows, so wide, added in their order. The rows of a pair are few enough to be added in single
/// precision.
pub fn sums_of_products(widths: [usize; 2], pairs: &[[ArrayView2<f32>; 2]]) -> [Array2<f64>; 2] {
    let width = widths[1];
    let starts: Vec<usize> = (0..width).step_by(COLUMNS).collect();
    let blocks = starts.par_iter().map(|&start| {
        let block = start..width.min(start + COLUMNS);
        let mut sums = widths.map(|length| Array2::zeros((length, block.len())));
        for pair in pairs {
            let columns = pair[1].slice(s![.., block.clone()]);
            sums.iter_mut().zip(pair).for_each(|(sums, rows)| add_products(sums, *rows, columns));
        }
        sums
    });
    let blocks: Vec<[Array2<f64>; 2]> = blocks.collect();
    [0, 1].map(|which| {
        let blocks: Vec<_> = blocks.iter().map(|sums| sums[which].view()).collect();
        concatenate(Axis(1), &blocks).unwrap_or_default()
    })
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

    fn rows<const N: usize>(groups: usize, width: usize, x: [f32; N]) -> Array3<f32> {
        Array3::from_shape_vec((groups, N / groups / width, width), x.to_vec()).unwrap()
    }

    #[test]
    fn moments_are_means_over_all_rows() {
        let mut sums = MomentSums::default();
        sums.add(&rows(1, 2, [1.0, 2.0, 3.0, -4.0]));
        sums.add(&rows(1, 2, [-1.0, 5.0]));
        let moments = sums.moments().remove(0);
        assert_eq!((moments.count, moments.mean.to_vec()), (3, vec![1.0, 1.0]));
        let expected = [[11.0 / 3.0, -5.0], [-5.0, 15.0]];
        assert!((&moments.gram - &ndarray::arr2(&expected)).iter().all(|x: &f64| x.abs() < 1e-12));
    }

    #[test]
    fn paired_moments_are_those_of_the_rows_and_their_difference() {
        let pair = [rows(1, 2, [2.0, 2.0, 3.0, -4.0]), rows(1, 2, [1.0, 2.0, 3.0, -2.0])];
        let found = PairedMoments::of(&[pair]).remove(0);
        assert_eq!((found.rows.mean.to_vec(), found.difference.to_vec()), (vec![2.0, 0.0], vec![0.5, -1.0]));
        assert_eq!(found.cross, ndarray::arr2(&[[0.5, 1.0], [-3.0, 2.0]]));
        assert_eq!(found.cross_covariance(), ndarray::arr2(&[[-0.5, 1.0], [-1.0, 2.0]]));
        assert_eq!(found.rows.covariance(), ndarray::arr2(&[[1.0, -2.0], [-2.0, 4.0]]));
    }

    #[test]
    fn joined_moments_are_those_of_all_rows() {
        let mut random = crate::data::Random::new(1, 0);
        let pairs = [2, 5].map(|rows| [(); 2].map(|()| Array3::from_shape_fn((1, rows, 3), |_| random.normal())));
        let [a, b] = pairs.each_ref().map(|pair| PairedMoments::of(std::slice::from_ref(pair)).remove(0));
        let (found, all) = (a.joined(&b), PairedMoments::of(&pairs).remove(0));
        assert_eq!(found.rows.count, 7);
        let near = |a: &Array2<f64>, b: &Array2<f64>| (a - b).iter().all(|x| x.abs() < 1e-6);
        assert!(near(&found.cross, &all.cross) && near(&found.rows.gram, &all.rows.gram));
        assert!((&found.difference - &all.difference).iter().all(|x| x.abs() < 1e-6));
    }

    #[test]
    fn rows_of_a_pair_have_the_moments_that_they_have_alone() {
        let mut random = crate::data::Random::new(0, 0);
        let samples = [(); 3].map(|()| [(); 2].map(|()| Array3::from_shape_fn((2, 5, 300), |_| random.normal())));
        let mut sums = MomentSums::default();
        samples.iter().for_each(|[_, rows]| sums.add(rows));
        let found: Vec<Moments> = PairedMoments::of(&samples).into_iter().map(|paired| paired.rows).collect();
        let off = |a: &Array2<f64>, b: &Array2<f64>| (a - b).iter().all(|x| x.abs() < 1e-6);
        for (found, expected) in found.iter().zip(sums.moments()) {
            assert!(found.mean == expected.mean && off(&found.gram, &expected.gram));
        }
    }

    #[test]
    fn every_group_has_its_own() {
        let mut sums = MomentSums::default();
        sums.add(&rows(2, 1, [2.0, 3.0]));
        let gram: Vec<f64> = sums.moments().iter().map(|group| group.gram[[0, 0]]).collect();
        assert_eq!(gram, [4.0, 9.0]);
    }
}
