//! The tile: some rows by some panels of sums, kept in registers from the bias to the finished result.

use super::finish::Finish;
use super::vector::Vector;
use crate::kernels::packing::PANEL;

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
}

/// All panels, in tiles as wide as the instruction set likes.
///
/// # Safety
///
/// The CPU has the instruction set of `V`. The table has `rows · taps` pointers to `length` readable elements; weights
/// are packed for that depth, bias and the constants of `finish` are filled up, and its output holds `columns` elements
/// in each of `rows` rows that are `stride` apart.
#[inline(always)]
pub(super) unsafe fn multiply<V: Vector, F: Finish<V>>(job: &Job<V>, finish: &F) {
    let panels = job.columns.div_ceil(PANEL);
    let widest = V::TILES.len();
    let mut panel = 0;
    while panel < panels {
        // Wide tiles read the rows less often: threes where they leave no rest, or else as many as there are.
        let width = match panels - panel {
            left if left <= widest => left,
            left if widest > 3 && left % 3 == 0 => 3,
            _ => widest,
        };
        // SAFETY: the caller's promise; the panels exist. A register has 8 or 16 lanes.
        unsafe {
            match (width, PANEL / V::LANES) {
                (1, 1) => group::<V, F, 1>(job, finish, panel),
                (1, _) => group::<V, F, 2>(job, finish, panel),
                (2, _) if widest >= 2 => group::<V, F, 2>(job, finish, panel),
                (3, _) if widest >= 3 => group::<V, F, 3>(job, finish, panel),
                _ if widest >= 4 => group::<V, F, 4>(job, finish, panel),
                _ => std::hint::unreachable_unchecked(),
            }
        }
        panel += width;
    }
}

/// All rows of `N` registers of columns, in tiles of nearly equal height.
#[inline(always)]
unsafe fn group<V: Vector, F: Finish<V>, const N: usize>(job: &Job<V>, finish: &F, panel: usize) {
    let most = V::TILES[(N * V::LANES).div_ceil(PANEL) - 1].rows;
    let tiles = job.rows.div_ceil(most);
    let mut row = 0;
    for index in 0..tiles {
        let height = (job.rows - row).div_ceil(tiles - index);
        // SAFETY: the caller's promise; the height is at most that of the table of tiles, which ends at 8.
        unsafe {
            match height {
                1 => tile::<V, F, N, 1>(job, finish, panel, row),
                2 => tile::<V, F, N, 2>(job, finish, panel, row),
                3 => tile::<V, F, N, 3>(job, finish, panel, row),
                4 => tile::<V, F, N, 4>(job, finish, panel, row),
                5 => tile::<V, F, N, 5>(job, finish, panel, row),
                6 => tile::<V, F, N, 6>(job, finish, panel, row),
                7 if most >= 7 => tile::<V, F, N, 7>(job, finish, panel, row),
                8 if most >= 8 => tile::<V, F, N, 8>(job, finish, panel, row),
                _ => std::hint::unreachable_unchecked(),
            }
        }
        row += height;
    }
}

#[inline(always)]
unsafe fn tile<V: Vector, F: Finish<V>, const N: usize, const R: usize>(
    job: &Job<V>,
    finish: &F,
    panel: usize,
    row: usize,
) {
    let (column, step) = (panel * PANEL, PANEL * V::GRANULE);
    let panel_length = job.taps * job.length * PANEL;
    // SAFETY: rows, panels and constants exist as the caller promises.
    unsafe {
        let mut sums = [[V::splat(0); N]; R];
        for n in 0..N {
            let bias = V::load(job.bias.add(column + n * V::LANES));
            for sums in &mut sums {
                sums[n] = bias;
            }
        }
        if !job.starts.is_null() {
            for (r, sums) in sums.iter_mut().enumerate() {
                let start = V::splat(*job.starts.add(row + r));
                for sum in sums {
                    *sum = sum.add(start);
                }
            }
        }
        let mut weights = job.weights.add(panel * panel_length);
        for tap in 0..job.taps {
            let mut x = [std::ptr::null(); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = *job.table.add((row + r) * job.taps + tap);
            }
            let mut k = 0;
            while k < job.length {
                let mut w = [V::splat(0); N];
                for (n, w) in w.iter_mut().enumerate() {
                    let lane = n * V::LANES;
                    *w = V::weights(weights.add(lane / PANEL * panel_length + lane % PANEL * V::GRANULE));
                }
                for r in 0..R {
                    let x = V::broadcast(x[r].add(k));
                    for n in 0..N {
                        sums[r][n] = sums[r][n].dot(x, w[n]);
                    }
                }
                weights = weights.add(step);
                k += V::GRANULE;
            }
        }
        let valid = (job.columns - column).min(N * V::LANES);
        // Written out: if LLVM does not unroll a loop over rows, the sums live in memory, inside the loop over K too.
        macro_rules! rows {
            ($($r:literal)*) => { $(if $r < R {
                finish.row(sums[$r % R], column, (row + $r) * job.stride + column, valid);
            })* };
        }
        rows!(0 1 2 3 4 5 6 7);
    }
}
