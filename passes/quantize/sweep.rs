//! Columns of a layer's weight that change one after the other, while those behind make up for it (Frantar et al., 2022).
//!
//! Weights are matrices `[channels, inputs]`. What counts is the error of the outputs, E |(w - ŵ)ᵀx|² = (w - ŵ)ᵀ·H·(w - ŵ), where
//! H = E x·xᵀ is known from samples. With H⁻¹ = Uᵀ·U, the k-th weight that becomes ŵₖ leaves the error e = (wₖ - ŵₖ) / Uₖₖ, which
//! is least where w -= e·Uₖ for the weights behind.

use std::ops::Range;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;

use super::cholesky::{cholesky, invert_lower};

/// What is added to the diagonal of H, over its mean: inputs that were never seen are not left to the others.
const DAMPING: f64 = 0.01;

/// Rows that one thread changes together.
const ROWS: usize = 32;

/// What weights become.
pub trait Change: Sync {
    /// What is known of a row from one of its weights to the next.
    type Row: Default;

    /// Told before the columns of a block change, with what they are by then and their Uₖₖ. Columns count in the order in
    /// which they change.
    fn begin(&mut self, _block: Range<usize>, _weights: ArrayView2<f32>, _roots: &[f32]) {}

    /// What the first of `ahead` becomes, the weights of `row` from `column` to the end of the block; `roots` are their Uₖₖ.
    fn change(&self, row: usize, column: usize, ahead: &[f32], roots: &[f32], known: &mut Self::Row) -> f32;
}

/// In which order columns change, and what that does to those behind.
pub struct Sweep {
    columns: Vec<usize>,
    /// The upper triangular U with H⁻¹ = Uᵀ·U, of H in this order.
    inverse_factor: Array2<f32>,
    /// Columns that change before the columns behind them are corrected.
    block: usize,
}

impl Sweep {
    /// The columns of large inputs first, as they cannot be made up for by others. None where nothing is known of the inputs.
    pub fn large_first(gram: &Array2<f64>, block: usize) -> Option<Sweep> {
        let mut columns: Vec<usize> = (0..gram.nrows()).collect();
        columns.sort_by(|&a, &b| gram[[b, b]].total_cmp(&gram[[a, a]]));
        Sweep::new(gram, columns, block)
    }

    /// `columns` in their order. None where nothing is known of the inputs.
    pub fn new(gram: &Array2<f64>, columns: Vec<usize>, block: usize) -> Option<Sweep> {
        let n = gram.nrows();
        let mean = gram.diag().sum() / n.max(1) as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        // With J for the reversal of order, J·H·J = L·Lᵀ, so that H⁻¹ = (J·L⁻¹·J)ᵀ·(J·L⁻¹·J), and J·L⁻¹·J is upper triangular.
        let reversed = Array2::from_shape_fn((n, n), |(i, j)| gram[[columns[n - 1 - i], columns[n - 1 - j]]]);
        let factor = [DAMPING, 10.0 * DAMPING, 100.0 * DAMPING].into_iter().find_map(|damping| {
            let mut damped = reversed.clone();
            damped.diag_mut().mapv_inplace(|x| x + damping * mean);
            cholesky(damped)
        })?;
        let inverse = invert_lower(&factor);
        let inverse_factor = Array2::from_shape_fn((n, n), |(i, j)| inverse[[n - 1 - i, n - 1 - j]] as f32);
        Some(Sweep { columns, inverse_factor, block })
    }

    /// In the order in which they change.
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// What `weights` become, with their columns in the places where they were.
    pub fn run<C: Change>(&self, weights: ArrayView2<f32>, change: &mut C) -> Array2<f32> {
        let (rows, n) = weights.dim();
        let mut rest = Array2::from_shape_fn((rows, n), |(row, k)| weights[[row, self.columns[k]]]);
        for start in (0..n).step_by(self.block) {
            let block = start..n.min(start + self.block);
            let roots: Vec<f32> = block.clone().map(|k| self.inverse_factor[[k, k]]).collect();
            change.begin(block.clone(), rest.slice(s![.., block.clone()]), &roots);
            let change = &*change;
            let parts = rest.as_slice_mut().expect("it was just made").par_chunks_mut(ROWS * n).enumerate();
            parts.for_each(|(part, rows)| {
                let rows = ArrayViewMut2::from_shape((rows.len() / n, n), rows).expect("rows are whole");
                self.change_block(change, part * ROWS, block.clone(), &roots, rows);
            });
        }
        let mut changed = Array2::zeros((rows, n));
        for (k, &column) in self.columns.iter().enumerate() {
            changed.column_mut(column).assign(&rest.column(k));
        }
        changed
    }

    /// Changes the columns of a block in some rows, the first of which is `first`.
    fn change_block<C: Change>(
        &self,
        change: &C,
        first: usize,
        block: Range<usize>,
        roots: &[f32],
        mut rows: ArrayViewMut2<f32>,
    ) {
        let mut errors = Array2::<f32>::zeros((rows.nrows(), block.len()));
        for (index, mut row) in rows.rows_mut().into_iter().enumerate() {
            let row = row.as_slice_mut().expect("rows are contiguous");
            let mut known = C::Row::default();
            for k in block.clone() {
                let at = k - block.start;
                let u = self.inverse_factor.row(k);
                let u = u.to_slice().expect("rows are contiguous");
                let changed = change.change(first + index, k, &row[k..block.end], &roots[at..], &mut known);
                let error = (row[k] - changed) / u[k];
                errors[[index, at]] = error;
                row[k] = changed;
                let behind = k + 1..block.end;
                row[behind.clone()].iter_mut().zip(&u[behind]).for_each(|(w, &u)| *w -= error * u);
            }
        }
        let u = self.inverse_factor.slice(s![block.clone(), block.end..]);
        general_mat_mul(-1.0, &errors, &u, 1.0, &mut rows.slice_mut(s![.., block.end..]));
    }
}
