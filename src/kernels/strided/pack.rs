//! Parts of operands in the order in which tiles read them: `[term of the sum][row]`.

use crate::kernels::blocked::vector::{SQUARE, Vector};

/// What packing may write beyond the end.
pub(super) const SLACK: usize = SQUARE;

/// Rows of an operand, some terms of the sum of each.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) first: *const f32,
    pub(super) count: usize,
    pub(super) terms: usize,
    /// Elements between neighbouring rows, and between neighbouring terms.
    pub(super) row: usize,
    pub(super) term: usize,
}

impl Rows {
    /// Writes `[panel][term][width]`, zeros where there is no row.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set; all rows are readable; `to` has room for whole panels, and for [`SLACK`] more.
    #[inline(always)]
    pub(super) unsafe fn pack<V: Vector>(self, width: usize, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.row, self.term) {
                (1, _) => self.copy(width, to),
                (_, 1) => self.transpose::<V>(width, to),
                _ => self.gather(0, width, to),
            }
        }
    }

    /// Rows that lie side by side.
    #[inline(always)]
    unsafe fn copy(self, width: usize, to: *mut f32) {
        macro_rules! of_width {
            ($($width:literal)*) => {
                match width {
                    $($width if self.count.is_multiple_of($width) => {
                        for term in 0..self.terms {
                            let from = self.first.add(term * self.term).cast::<[f32; $width]>();
                            let to = to.add(term * $width);
                            for panel in 0..self.count / $width {
                                let to = to.add(panel * self.terms * $width).cast::<[f32; $width]>();
                                to.write_unaligned(from.add(panel).read_unaligned());
                            }
                        }
                    })*
                    _ => self.gather(0, width, to),
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe { of_width!(4 6 8 16 32) }
    }

    /// Squares of terms and rows, and what is left of the terms one by one.
    #[inline(always)]
    unsafe fn transpose<V: Vector>(self, width: usize, to: *mut f32) {
        let whole = self.terms - self.terms % SQUARE;
        for panel in 0..self.count.div_ceil(width) {
            let rows = width.min(self.count - panel * width);
            // SAFETY: a square writes behind its rows only what the next one, or the next term, writes again.
            unsafe {
                let (first, to) = (self.first.add(panel * width * self.row), to.add(panel * self.terms * width));
                for row in (0..width).step_by(SQUARE) {
                    let (first, to) = (first.add(row * self.row), to.add(row));
                    macro_rules! squares {
                        ($rows:expr) => {
                            for term in (0..whole).step_by(SQUARE) {
                                V::transpose(first.add(term), self.row, $rows, to.add(term * width), width);
                            }
                        };
                    }
                    match rows.saturating_sub(row) {
                        SQUARE.. => squares!(SQUARE),
                        6 => squares!(6),
                        4 => squares!(4),
                        rows => squares!(rows),
                    }
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.gather(whole, width, to) }
    }

    /// The terms from `start` on, element by element.
    #[inline(always)]
    unsafe fn gather(self, start: usize, width: usize, to: *mut f32) {
        for row in 0..self.count.next_multiple_of(width) {
            let (panel, place) = (row / width, row % width);
            for term in start..self.terms {
                // SAFETY: the caller's promise.
                unsafe {
                    let is_there = row < self.count;
                    let value = if is_there { *self.first.add(row * self.row + term * self.term) } else { 0.0 };
                    *to.add((panel * self.terms + term) * width + place) = value;
                }
            }
        }
    }
}
