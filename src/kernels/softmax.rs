//! Softmax of rows of floats, in an order of sums that does not depend on the CPU.

use super::exponential::exponentials;
use super::widest::widest;

/// y = exp(x - max) / Σ exp(x - max) over each row of `length`.
pub fn softmax(x: &[f32], length: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "elements of the operand");
    widest(
        #[inline(always)]
        || {
            for (x, y) in x.chunks(length.max(1)).zip(y.chunks_mut(length.max(1))) {
                y.copy_from_slice(x);
                let factor = exponentials::<false>(y).recip();
                for y in y {
                    *y *= factor;
                }
            }
        },
    );
}
