//! Factors of symmetric positive definite matrices, block by block, so that nearly all the work is in matrix products.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayViewMut2, s};

const BLOCK: usize = 48;

/// The lower triangular L with L·Lᵀ = `a`; none if `a` is not positive definite. Only the lower triangle of `a` is read.
pub fn cholesky(mut a: Array2<f64>) -> Option<Array2<f64>> {
    let n = a.nrows();
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        factor_block(a.slice_mut(s![start..end, start..end]))?;
        let (mut above, mut below) = a.view_mut().split_at(ndarray::Axis(0), end);
        // L₂₁ = A₂₁·L₁₁⁻ᵀ, a row at a time.
        let (block, mut panel) = (above.slice_mut(s![start.., start..end]), below.slice_mut(s![.., start..end]));
        for mut row in panel.rows_mut() {
            for j in 0..end - start {
                let known: f64 = (0..j).map(|k| row[k] * block[[j, k]]).sum();
                row[j] = (row[j] - known) / block[[j, j]];
            }
        }
        let panel = panel.to_owned();
        general_mat_mul(-1.0, &panel, &panel.t(), 1.0, &mut below.slice_mut(s![.., end..]));
    }
    for i in 0..n {
        a.slice_mut(s![i, i + 1..]).fill(0.0);
    }
    Some(a)
}

fn factor_block(mut a: ArrayViewMut2<f64>) -> Option<()> {
    for i in 0..a.nrows() {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| a[[i, k]] * a[[j, k]]).sum();
            let rest = a[[i, j]] - known;
            a[[i, j]] = match i == j {
                true => Some(rest).filter(|rest| *rest > 0.0 && rest.is_finite())?.sqrt(),
                false => rest / a[[j, j]],
            };
        }
    }
    Some(())
}

/// The inverse of a lower triangular matrix without zeros on its diagonal.
pub fn invert_lower(l: &Array2<f64>) -> Array2<f64> {
    let n = l.nrows();
    let mut inverse = Array2::zeros((n, n));
    for start in (0..n).step_by(BLOCK) {
        let end = n.min(start + BLOCK);
        // Rows start..end of L·X = 1: L₂₂·X₂ = 1₂ - L₂₁·X₁
        let (known, mut rows) = inverse.view_mut().split_at(ndarray::Axis(0), start);
        let mut rows = rows.slice_mut(s![..end - start, ..end]);
        let (l21, l22) = (l.slice(s![start..end, ..start]), l.slice(s![start..end, start..end]));
        general_mat_mul(-1.0, &l21, &known.slice(s![.., ..start]), 0.0, &mut rows.slice_mut(s![.., ..start]));
        for i in 0..end - start {
            rows[[i, start + i]] += 1.0;
            for k in 0..i {
                let factor = l22[[i, k]];
                let (done, mut rest) = rows.view_mut().split_at(ndarray::Axis(0), i);
                rest.row_mut(0).zip_mut_with(&done.row(k), |x, &y| *x -= factor * y);
            }
            rows.row_mut(i).mapv_inplace(|x| x / l22[[i, i]]);
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Random;

    /// A·Aᵀ/m for a random A.
    fn covariance(n: usize, m: usize, seed: u64) -> Array2<f64> {
        let mut random = Random::new(seed, 0);
        let a = Array2::from_shape_fn((n, m), |_| f64::from(random.normal()));
        a.dot(&a.t()) / m as f64
    }

    fn off(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
        (a - b).iter().fold(0.0, |max, x| x.abs().max(max))
    }

    #[test]
    fn factors_multiply_to_the_matrix_and_inverses_to_one() {
        for n in [1, 2, 47, 48, 49, 100, 144, 191] {
            let a = covariance(n, 2 * n, n as u64);
            let l = cholesky(a.clone()).unwrap();
            assert!(off(&l.dot(&l.t()), &a) < 1e-10, "{n}");
            let inverse = invert_lower(&l);
            assert!(off(&inverse.dot(&l), &Array2::eye(n)) < 1e-8, "{n}");
            assert!((0..n).all(|i| (i + 1..n).all(|j| l[[i, j]] == 0.0 && inverse[[i, j]] == 0.0)), "{n}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_refused() {
        assert!(cholesky(-covariance(60, 100, 0)).is_none());
        assert!(cholesky(covariance(60, 20, 0) - Array2::<f64>::eye(60) * 1e-3).is_none());
        assert!(cholesky(Array2::from_elem((3, 3), f64::NAN)).is_none());
        assert_eq!(cholesky(Array2::zeros((0, 0))).unwrap().len(), 0);
    }
}
