//! Depthwise convolutions: channels side by side in a register, taps summed in pairs or fours.

use std::arch::x86_64::*;

use super::avx2::{Words, read_16};
use super::finish::Finish;
use super::tile::Job;
use super::vector::Vector;
use crate::kernels::packing::PANEL;

/// Two taps of 16 channels are interleaved, widened, and multiplied by `vpmaddwd`: exact.
///
/// # Safety
///
/// The CPU has AVX2. The table has `rows · taps` pointers to a byte for each of `columns` channels; weights are words,
/// packed with the taps as depth; bias and constants are filled up to whole panels, and the output of `finish` holds
/// `columns` elements in each of `rows` rows that are `stride` apart.
#[inline(always)]
pub(super) unsafe fn multiply_words<F: Finish<Words>>(job: &Job<u8, i16>, finish: &F) {
    let pairs = job.taps.div_ceil(2);
    for row in 0..job.rows {
        let mut column = 0;
        while column < job.columns {
            let valid = (job.columns - column).min(PANEL);
            // SAFETY: the caller's promise.
            unsafe {
                let taps = job.table.add(row * job.taps);
                let weights = job.weights.add(column * pairs * 2);
                let mut sums = [Words::load(job.bias.add(column)), Words::load(job.bias.add(column + 8))];
                for pair in 0..pairs {
                    // The last of an odd number of taps is read twice; its second weight is zero.
                    let (first, second) = (*taps.add(2 * pair), *taps.add((2 * pair + 1).min(job.taps - 1)));
                    let (first, second) = (read_16(first.add(column), valid), read_16(second.add(column), valid));
                    let low = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(first, second));
                    let high = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(first, second));
                    let weights = weights.add(pair * 2 * PANEL);
                    sums[0] = sums[0].dot(Words::of(low), Words::weights(weights));
                    sums[1] = sums[1].dot(Words::of(high), Words::weights(weights.add(PANEL)));
                }
                finish.row(sums, column, row * job.stride + column, valid);
            }
            column += PANEL;
        }
    }
}
