//! The tile: some rows by some panels of sums, kept in registers from the bias to the last product.
//!
//! A finished tile goes to a small buffer, from which its rows are finished one by one. So the loops over the depth do not
//! multiply with the kinds of results, and they are few enough to be quick to compile. Only where sums become bytes, which
//! is most of the work, and registers are many, rows are finished from registers.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::finish::{Finish, ToBytes};
use super::vector::Vector;
use crate::kernels::packing::PANEL;
use crate::kernels::pairs::PairedPanel;

/// A block of rows times all panels.
pub(super) struct Job<V: Vector> {
    /// For each row its taps.
    pub(super) table: *const *const V::Activation,
    pub(super) rows: usize,
    pub(super) taps: usize,
    /// Elements of a tap: a multiple of the granule.
    pub(super) length: usize,
    pub(super) weights: *const V::Weight,
    pub(super) columns: usize,
    /// Filled up to a multiple of the widest tile.
    pub(super) bias: *const i32,
    /// What the sums of each row start with besides the bias, or null.
    pub(super) starts: *const i32,
    /// Output elements between rows.
    pub(super) stride: usize,
    /// Only where the weights are in pairs: the panels, and the places of their granules.
    pub(super) panels: *const PairedPanel,
    pub(super) places: *const u32,
}

/// Where a tile lies in its block.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) panel: usize,
    /// At most [`WIDEST`].
    pub(super) panels: usize,
    pub(super) row: usize,
    /// At most [`TALLEST`].
    pub(super) rows: usize,
}

/// The largest tile.
const WIDEST: usize = 4;
const TALLEST: usize = 8;

#[repr(align(64))]
struct Buffer([i32; TALLEST * WIDEST * PANEL]);

/// The functions of an instruction set, compiled with its features.
pub(super) trait Kernel {
    type Vector: Vector;

    /// # Safety
    ///
    /// As for [`sum`].
    unsafe fn sum(job: &Job<Self::Vector>, place: Place, to: *mut i32);

    /// # Safety
    ///
    /// As for [`finish_rows`].
    unsafe fn finish<F: Finish<Self::Vector>>(finish: &F, job: &Job<Self::Vector>, place: Place, from: *const i32);

    /// Whether it has the next function.
    const REQUANTIZES: bool = false;

    /// # Safety
    ///
    /// As for [`requantize`].
    unsafe fn requantize(_to: &ToBytes<false>, _job: &Job<Self::Vector>, _place: Place) {
        unreachable!("an instruction set that finishes all tiles from a buffer")
    }
}

/// All tiles of a block.
///
/// # Safety
///
/// The CPU has the instruction set of `K`. The table has `rows · taps` pointers to `length` readable elements; weights are
/// packed for that depth, bias and the constants of `finish` are filled up, and its output holds `columns` elements in
/// each of `rows` rows that are `stride` apart.
pub(super) unsafe fn multiply<K: Kernel, F: Finish<K::Vector>>(job: &Job<K::Vector>, finish: &F) {
    let mut buffer = Buffer([0; TALLEST * WIDEST * PANEL]);
    each_tile(job, |place| {
        // SAFETY: the caller's promise; the tile is one of those that `sum` knows, and fits the buffer.
        unsafe {
            prefetch(job, place);
            K::sum(job, place, buffer.0.as_mut_ptr());
            K::finish(finish, job, place, buffer.0.as_ptr());
        }
    });
}

/// As [`multiply`], to bytes.
///
/// # Safety
///
/// As for [`multiply`].
pub(super) unsafe fn multiply_to_bytes<K: Kernel>(job: &Job<K::Vector>, to: &ToBytes<false>) {
    match K::REQUANTIZES {
        // SAFETY: the caller's promise; the tile is one of those that `requantize` knows.
        true => each_tile(job, |place| unsafe {
            prefetch(job, place);
            K::requantize(to, job, place)
        }),
        // SAFETY: the caller's promise.
        false => unsafe { multiply::<K, _>(job, to) },
    }
}

/// All panels, in tiles as wide as the instruction set likes.
fn each_tile<V: Vector>(job: &Job<V>, mut run: impl FnMut(Place)) {
    let all = job.columns.div_ceil(PANEL);
    let widest = V::TALLEST.len();
    let mut panel = 0;
    while panel < all {
        // Wide tiles read the rows less often: threes where they leave no rest, or else as many as there are.
        let panels = match all - panel {
            left if left <= widest => left,
            left if widest > 3 && left % 3 == 0 => 3,
            _ => widest,
        };
        let mut row = 0;
        while row < job.rows {
            let rows = height(job.rows - row, V::TALLEST[panels - 1]);
            run(Place { panel, panels, row, rows });
            row += rows;
        }
        panel += panels;
    }
}

/// Asks for the weights that come behind those of a tile, as many of them as is its share, so that they are in the cache
/// when all rows are done with these: of networks with many weights, each product finds its own far away.
fn prefetch<V: Vector>(job: &Job<V>, place: Place) {
    const LINE: usize = 64;
    let panel = job.taps * job.length * PANEL * size_of::<V::Weight>();
    let length = place.panels * panel;
    let share = |row: usize| (length * row / job.rows).next_multiple_of(LINE);
    let first = (place.panel + place.panels) * panel;
    for at in (share(place.row)..share(place.row + place.rows)).step_by(LINE) {
        // SAFETY: a prefetch reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(job.weights.cast::<i8>().wrapping_add(first + at)) };
    }
}

/// The rows of the next tile: the largest of 1, 2, 4, 6, 8 that there are, within the tallest.
fn height(left: usize, tallest: usize) -> usize {
    match left.min(tallest) {
        1 => 1,
        2 | 3 => 2,
        4 | 5 => 4,
        6 | 7 => 6,
        _ => 8,
    }
}

/// Sums a tile of 1, 2, 4, 6 or 8 rows, and writes them row by row.
///
/// # Safety
///
/// As for [`multiply`]; the tile lies in the block, is not taller than [`Vector::TALLEST`] says, and fits `to`.
#[inline(always)]
pub(super) unsafe fn sum<V: Vector>(job: &Job<V>, place: Place, to: *mut i32) {
    let widest = V::TALLEST.len();
    // SAFETY: the caller's promise. A panel has one or two registers.
    unsafe {
        match place.panels * PANEL / V::LANES {
            1 => sum_rows::<V, 1>(job, place, to),
            2 => sum_rows::<V, 2>(job, place, to),
            3 if widest >= 3 => sum_rows::<V, 3>(job, place, to),
            4 if widest >= 4 => sum_rows::<V, 4>(job, place, to),
            _ => std::hint::unreachable_unchecked(),
        }
    }
}

#[inline(always)]
unsafe fn sum_rows<V: Vector, const N: usize>(job: &Job<V>, place: Place, to: *mut i32) {
    // A register more than a panel needs is of no use.
    if N * V::LANES < PANEL {
        return;
    }
    let tallest = V::TALLEST[N * V::LANES / PANEL - 1];
    // SAFETY: the caller's promise.
    unsafe {
        match place.rows {
            1 => sum_tile::<V, N, 1>(job, place, to),
            2 => sum_tile::<V, N, 2>(job, place, to),
            4 => sum_tile::<V, N, 4>(job, place, to),
            6 => sum_tile::<V, N, 6>(job, place, to),
            8 if tallest >= 8 => sum_tile::<V, N, 8>(job, place, to),
            _ => std::hint::unreachable_unchecked(),
        }
    }
}

#[inline(always)]
unsafe fn sum_tile<V: Vector, const N: usize, const R: usize>(job: &Job<V>, place: Place, to: *mut i32) {
    // SAFETY: the caller's promise.
    unsafe {
        let sums = sums::<V, N, R>(job, place);
        for r in 0..R {
            for n in 0..N {
                sums[r][n].store(to.add((r * N + n) * V::LANES));
            }
        }
    }
}

/// The sums of a tile, in registers.
#[inline(always)]
unsafe fn sums<V: Vector, const N: usize, const R: usize>(job: &Job<V>, place: Place) -> [[V; N]; R] {
    let Place { panel, row, .. } = place;
    let panel_length = job.taps * job.length * PANEL;
    // SAFETY: rows, panels and constants exist as the caller promises.
    unsafe {
        let mut sums = [[V::splat(0); N]; R];
        for n in 0..N {
            let bias = V::load(job.bias.add(panel * PANEL + n * V::LANES));
            for r in 0..R {
                sums[r][n] = bias;
            }
        }
        if !job.starts.is_null() {
            for r in 0..R {
                let start = V::splat(*job.starts.add(row + r));
                for n in 0..N {
                    sums[r][n] = sums[r][n].add(start);
                }
            }
        }
        let mut weights = job.weights.add(panel * panel_length);
        for tap in 0..job.taps {
            let mut x = [std::ptr::null(); R];
            for r in 0..R {
                x[r] = *job.table.add((row + r) * job.taps + tap);
            }
            let mut k = 0;
            while k < job.length {
                let mut w = [V::splat(0); N];
                for n in 0..N {
                    let lane = n * V::LANES;
                    w[n] = V::weights(weights.add(lane / PANEL * panel_length + lane % PANEL * V::GRANULE));
                }
                for r in 0..R {
                    let x = V::broadcast(x[r].add(k));
                    for n in 0..N {
                        sums[r][n] = sums[r][n].dot(x, w[n]);
                    }
                }
                weights = weights.add(PANEL * V::GRANULE);
                k += V::GRANULE;
            }
        }
        sums
    }
}

/// Finishes the rows of a tile.
///
/// # Safety
///
/// As for [`multiply`]; `from` holds the sums of the tile.
#[inline(always)]
pub(super) unsafe fn finish_rows<V: Vector, F: Finish<V>>(finish: &F, job: &Job<V>, place: Place, from: *const i32) {
    // SAFETY: the caller's promise.
    unsafe {
        match place.panels * PANEL / V::LANES {
            1 => finish_row::<V, F, 1>(finish, job, place, from),
            2 => finish_row::<V, F, 2>(finish, job, place, from),
            3 if V::TALLEST.len() >= 3 => finish_row::<V, F, 3>(finish, job, place, from),
            4 if V::TALLEST.len() >= 4 => finish_row::<V, F, 4>(finish, job, place, from),
            _ => std::hint::unreachable_unchecked(),
        }
    }
}

#[inline(always)]
unsafe fn finish_row<V: Vector, F: Finish<V>, const N: usize>(
    finish: &F,
    job: &Job<V>,
    place: Place,
    from: *const i32,
) {
    let column = place.panel * PANEL;
    let valid = (job.columns - column).min(N * V::LANES);
    for r in 0..place.rows {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [V::splat(0); N];
            for n in 0..N {
                sums[n] = V::load(from.add((r * N + n) * V::LANES));
            }
            finish.row(sums, column, (place.row + r) * job.stride + column, valid);
        }
    }
}

/// Sums a tile of a register a panel, and writes it as bytes.
///
/// # Safety
///
/// As for [`sum`] and [`finish_rows`].
#[inline(always)]
pub(super) unsafe fn requantize<V: Vector>(to: &ToBytes<false>, job: &Job<V>, place: Place) {
    // SAFETY: the caller's promise.
    unsafe {
        match place.panels {
            1 => requantize_rows::<V, 1>(to, job, place),
            2 => requantize_rows::<V, 2>(to, job, place),
            3 => requantize_rows::<V, 3>(to, job, place),
            _ => requantize_rows::<V, 4>(to, job, place),
        }
    }
}

#[inline(always)]
unsafe fn requantize_rows<V: Vector, const N: usize>(to: &ToBytes<false>, job: &Job<V>, place: Place) {
    // SAFETY: the caller's promise.
    unsafe {
        match place.rows {
            1 => requantize_tile::<V, N, 1>(to, job, place),
            2 => requantize_tile::<V, N, 2>(to, job, place),
            4 => requantize_tile::<V, N, 4>(to, job, place),
            6 => requantize_tile::<V, N, 6>(to, job, place),
            8 if V::TALLEST[N - 1] >= 8 => requantize_tile::<V, N, 8>(to, job, place),
            _ => std::hint::unreachable_unchecked(),
        }
    }
}

#[inline(always)]
unsafe fn requantize_tile<V: Vector, const N: usize, const R: usize>(to: &ToBytes<false>, job: &Job<V>, place: Place) {
    let column = place.panel * PANEL;
    let valid = (job.columns - column).min(N * PANEL);
    // SAFETY: the caller's promise.
    unsafe {
        let sums = sums::<V, N, R>(job, place);
        // Written out: as a loop that is not unrolled it would keep the sums in memory, from the first product on.
        macro_rules! finish {
            ($($row:literal)*) => {
                $(if $row < R {
                    let at = (place.row + $row) * job.stride + column;
                    V::finish_bytes(sums[$row % R], to, column, at, valid);
                })*
            };
        }
        finish!(0 1 2 3 4 5 6 7);
    }
}
