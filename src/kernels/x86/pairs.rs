//! Tiles of AVX2 whose weights are in pairs of granules: two products of bytes for each sum of 32 bits.

use std::arch::asm;

use super::avx2::Bytes;
use super::tile::{Job, Place};
use super::vector::Vector;
use crate::kernels::packing::PANEL;

/// 4 x 16 sums in 8 of 16 registers, the weights of two granules in 4.
pub(super) type Pairs = Bytes<4>;

/// Sums a tile of one panel and 1, 2 or 4 rows, and writes them row by row.
///
/// # Safety
///
/// As for [`super::tile::sum`]; the job has paired panels, whose places lie in its one tap.
#[inline(always)]
pub(super) unsafe fn sum(job: &Job<Pairs>, place: Place, to: *mut i32) {
    // SAFETY: the caller's promise.
    unsafe {
        match place.rows {
            1 => sum_tile::<1>(job, place, to),
            2 => sum_tile::<2>(job, place, to),
            4 => sum_tile::<4>(job, place, to),
            _ => std::hint::unreachable_unchecked(),
        }
    }
}

#[inline(always)]
unsafe fn sum_tile<const R: usize>(job: &Job<Pairs>, place: Place, to: *mut i32) {
    const GRANULE: usize = PANEL * Pairs::GRANULE;
    align_stack();
    // SAFETY: rows, panels and constants exist as the caller promises.
    unsafe {
        let mut rows = [std::ptr::null(); R];
        for r in 0..R {
            rows[r] = *job.table.add(place.row + r);
        }
        let bias = job.bias.add(place.panel * PANEL);
        let mut sums = [[Pairs::load(bias), Pairs::load(bias.add(Pairs::LANES))]; R];
        if !job.starts.is_null() {
            for r in 0..R {
                let start = Pairs::splat(*job.starts.add(place.row + r));
                sums[r] = sums[r].map(|sum| sum.add(start));
            }
        }
        let panel = *job.panels.add(place.panel);
        let mut weights = job.weights.add(panel.first * GRANULE);
        let mut places = job.places.add(panel.first);
        for _ in 0..panel.pairs {
            let (first, second) = (*places as usize, *places.add(1) as usize);
            let (v, w) = (granule(weights), granule(weights.add(GRANULE)));
            for r in 0..R {
                let x = [Pairs::broadcast(rows[r].add(first)), Pairs::broadcast(rows[r].add(second))];
                for n in 0..2 {
                    sums[r][n] = sums[r][n].dot_two(x, [v[n], w[n]]);
                }
            }
            weights = weights.add(2 * GRANULE);
            places = places.add(2);
        }
        for _ in 0..panel.singles {
            let w = granule(weights);
            for r in 0..R {
                let x = Pairs::broadcast(rows[r].add(*places as usize));
                for n in 0..2 {
                    sums[r][n] = sums[r][n].dot(x, w[n]);
                }
            }
            weights = weights.add(GRANULE);
            places = places.add(1);
        }
        for r in 0..R {
            for n in 0..2 {
                sums[r][n].store(to.add(r * PANEL + n * Pairs::LANES));
            }
        }
    }
}

/// The weights of one granule.
#[inline(always)]
unsafe fn granule(weights: *const i8) -> [Pairs; 2] {
    // SAFETY: they are readable, as the caller promises.
    unsafe { [Pairs::weights(weights), Pairs::weights(weights.add(PANEL * Pairs::GRANULE / 2))] }
}

/// Lets the stack of the caller start where registers do. A tile needs all of them, so that one of its sums goes to the stack
/// and back in each step, and that takes three times as long as all the rest where it lies in two lines of the cache.
#[inline(always)]
fn align_stack() {
    #[repr(align(32))]
    struct Aligned(#[allow(dead_code)] [u8; 32]);
    let slot = Aligned([0; 32]);
    // SAFETY: there is no instruction in it.
    unsafe { asm!("/* {} */", in(reg) &raw const slot, options(readonly, nostack, preserves_flags)) };
}
