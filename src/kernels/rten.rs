//! Products by rten-gemm, which has kernels for ARM (dot and matrix products) and WASM, where there are none of ours.

use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix};
use rten_tensor::NdTensorView;

use super::packing::Matrix;

/// Deeper products may leave 32 bits, where what is wanted wraps: 2³¹ / (255 · 128), a little less.
const DEEPEST: usize = 65_000;

/// Weights, packed for the kernel that it has for this CPU.
pub(super) struct PackedWeights {
    weights: PackedBMatrix<i8>,
    depth: usize,
    columns: usize,
}

/// The kernel for this CPU; it has no state, so that one is as good as another.
fn executor() -> GemmExecutor<u8, i8, i32> {
    GemmExecutor::new()
}

/// Whether it multiplies bytes so deep exactly. `overflows`: whether some pair of them can leave 16 bits.
pub(super) fn is_exact(depth: usize, overflows: bool) -> bool {
    (1..=DEEPEST).contains(&depth) && !(overflows && executor().may_saturate())
}

impl PackedWeights {
    /// Of weights that are bytes.
    pub(super) fn new(matrix: &Matrix) -> PackedWeights {
        let bytes = (0..matrix.columns).flat_map(|column| matrix.column(column)).map(|&w| w as i8);
        PackedWeights::of(&bytes.collect::<Vec<i8>>(), matrix.depth, matrix.columns)
    }

    /// Of bytes, column by column.
    pub(super) fn of(bytes: &[i8], depth: usize, columns: usize) -> PackedWeights {
        let weights = executor().prepack_b(NdTensorView::from_data([columns, depth], bytes).transposed());
        PackedWeights { weights, depth, columns }
    }

    /// Sums of products for rows that follow each other.
    pub(super) fn multiply(&self, rows: &[u8], sums: &mut Vec<i32>) {
        let count = rows.len() / self.depth;
        sums.resize(count * self.columns, 0);
        let rows = NdTensorView::from_data([count, self.depth], rows);
        let (rows, weights) = (GemmInputA::Unpacked(rows), GemmInputB::Packed(&self.weights));
        let done = executor().gemm(sums, rows, weights, GemmOptions::default());
        done.expect("the lengths fit");
    }
}
