//! Softmax of rows of floats.

use super::exponential::exponentials;
use super::rounded;
use super::widest::{self, Loop, widest};

/// y = exp(x - max) / Σ exp(x - max) over each row of `length`, in an order of sums that does not depend on the CPU.
pub fn softmax(x: &[f32], length: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "elements of the operand");
    widest(
        #[inline(always)]
        || {
            for (x, y) in x.chunks(length.max(1)).zip(y.chunks_mut(length.max(1))) {
                y.copy_from_slice(x);
                let factor = exponentials(y).recip();
                for y in y {
                    *y *= factor;
                }
            }
        },
    );
}

/// The same between integers, rounded as [`rounded`] says.
pub fn rounded_softmax(x: &[f32], length: usize, y: &mut [f32]) {
    y.copy_from_slice(x);
    widest::run(Rows { y, length: length.max(1) });
}

struct Rows<'a> {
    y: &'a mut [f32],
    length: usize,
}

impl Loop for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for rows in self.y.chunks_mut(self.length * rounded::ROWS) {
            rounded::softmax::<FUSED>(rows, self.length, self.length);
        }
    }
}
