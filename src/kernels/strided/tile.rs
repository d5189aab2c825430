//! c (+)= a · b for strided matrices, tile by tile.

use super::Axis;
use super::pack::{Rows, SLACK};
use crate::kernels::aligned::Aligned;
use crate::kernels::blocked::BLOCK;
use crate::kernels::blocked::tile::{of_pixels, tiles};
use crate::kernels::blocked::vector::Vector;

/// Terms that are summed in registers: the fewer parts a sum has, the less often the result is read again. A column of `b`
/// streams from the second cache fast enough, beside the rows of `a` that are there.
const fn terms<V: Vector>() -> usize {
    if V::BLOCKS == 2 { 768 } else { 512 }
}

/// Rows of `a` that stay in the second cache, beside what else passes through it.
const ROWS: usize = 128;

/// Columns of `b` that are packed together, once for all rows.
const COLUMNS: usize = 1024;

/// Buffers that outlive a call.
#[derive(Default)]
pub(super) struct Scratch {
    a: Aligned<f32>,
    b: Aligned<f32>,
    tiles: Vec<(usize, usize)>,
}

/// The right operand: where it lies, or packed by [`pack`].
#[derive(Clone, Copy)]
pub(super) enum Right {
    Strided(*const f32),
    Packed(*const f32),
}

/// The parts of the right operand: terms and columns of each, and blocks of columns of a tile.
struct Parts {
    terms: usize,
    columns: usize,
    blocks: usize,
}

impl Parts {
    #[inline(always)]
    fn of<V: Vector>([_, n, k]: [Axis; 3]) -> Parts {
        let blocks = if n.length > BLOCK { V::BLOCKS } else { 1 };
        let columns = even(n.length, COLUMNS).next_multiple_of(blocks * BLOCK);
        Parts { terms: even(k.length, terms::<V>()), columns, blocks }
    }
}

/// Packs all of the right operand.
///
/// # Safety
///
/// The CPU has the instruction set; the operand is as long as the axes reach.
#[inline(always)]
pub(super) unsafe fn pack<V: Vector>(axes: [Axis; 3], b: *const f32, packed: &mut Aligned<f32>) {
    let [_, n, k] = axes;
    let Parts { terms, columns, blocks } = Parts::of::<V>(axes);
    packed.reserve(k.length * n.length.next_multiple_of(blocks * BLOCK) + SLACK);
    let mut done = 0;
    for first_term in (0..k.length).step_by(terms) {
        let terms = terms.min(k.length - first_term);
        for first_column in (0..n.length).step_by(columns) {
            let count = columns.min(n.length - first_column);
            // SAFETY: all of these are places in the operand, and what is packed is as long as all parts.
            unsafe {
                let first = b.add(first_column * n.strides[1] + first_term * k.strides[1]);
                columns_of(axes, first, count, terms).pack::<V>(blocks * BLOCK, packed.as_mut_ptr().add(done));
            }
            done += count.next_multiple_of(blocks * BLOCK) * terms;
        }
    }
}

/// # Safety
///
/// The CPU has the instruction set; the operands are as long as the axes reach; what is packed was packed for these axes.
#[inline(always)]
pub(super) unsafe fn multiply<V: Vector>(
    axes: [Axis; 3],
    a: *const f32,
    b: Right,
    c: *mut f32,
    adds: bool,
    scratch: &mut Scratch,
) {
    let [m, n, k] = axes;
    let Parts { terms, columns, blocks } = Parts::of::<V>(axes);
    let panel = blocks * BLOCK;
    let rows = even(m.length, ROWS);
    // Terms side by side are read where they are: packing them takes longer than it saves.
    let reads_rows = k.strides[0] == 1;
    if !reads_rows {
        scratch.a.reserve(rows * terms + SLACK);
    }
    if matches!(b, Right::Strided(_)) {
        scratch.b.reserve(columns * terms + SLACK);
    }
    let mut done = 0;
    for first_term in (0..k.length).step_by(terms) {
        let terms = terms.min(k.length - first_term);
        let adds = adds || first_term > 0;
        for first_column in (0..n.length).step_by(columns) {
            let some_columns = columns.min(n.length - first_column);
            // SAFETY: all of these are places in the operand.
            let b = unsafe {
                match b {
                    Right::Packed(b) => b.add(done),
                    Right::Strided(b) => {
                        let first = b.add(first_column * n.strides[1] + first_term * k.strides[1]);
                        columns_of(axes, first, some_columns, terms).pack::<V>(panel, scratch.b.as_mut_ptr());
                        scratch.b.as_ptr()
                    }
                }
            };
            done += some_columns.next_multiple_of(panel) * terms;
            for first_row in (0..m.length).step_by(rows) {
                tiles::<V>(rows.min(m.length - first_row), blocks, &mut scratch.tiles);
                // SAFETY: all of these are places in the operands.
                unsafe {
                    let a = a.add(first_row * m.strides[0] + first_term * k.strides[0]);
                    if !reads_rows {
                        for &(row, count) in &scratch.tiles {
                            let first = a.add(row * m.strides[0]);
                            let part = Rows { first, count, terms, row: m.strides[0], term: k.strides[0] };
                            part.pack::<V>(count, scratch.a.as_mut_ptr().add(row * terms));
                        }
                    }
                    let c = c.add(first_row * m.strides[2] + first_column * n.strides[2]);
                    for column in (0..some_columns).step_by(panel) {
                        let columns = panel.min(some_columns - column);
                        let b = b.add(column * terms);
                        for &(row, tile_rows) in &scratch.tiles {
                            let a = if reads_rows {
                                a.add(row * m.strides[0])
                            } else {
                                scratch.a.as_ptr().add(row * terms)
                            };
                            let c = c.add(row * m.strides[2] + column * n.strides[2]);
                            let place = Place { c, row: m.strides[2], column: n.strides[2], columns, adds };
                            let a = Left { first: a, row: m.strides[0] };
                            match (blocks, reads_rows) {
                                (2, true) if V::BLOCKS == 2 => {
                                    of_pixels!(V, tile_rows, tile::<2, true>(terms, a, b, place))
                                }
                                (2, false) if V::BLOCKS == 2 => {
                                    of_pixels!(V, tile_rows, tile::<2, false>(terms, a, b, place))
                                }
                                (_, true) => of_pixels!(V, tile_rows, tile::<1, true>(terms, a, b, place)),
                                _ => of_pixels!(V, tile_rows, tile::<1, false>(terms, a, b, place)),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Some columns of the right operand, as rows to be packed.
fn columns_of([_, n, k]: [Axis; 3], first: *const f32, count: usize, terms: usize) -> Rows {
    Rows { first, count, terms, row: n.strides[1], term: k.strides[1] }
}

/// The length of even parts, of at most `most`.
fn even(length: usize, most: usize) -> usize {
    length.div_ceil(length.div_ceil(most).max(1)).max(1)
}

/// Rows of a tile: packed, or as they lie, their terms side by side and so many elements from row to row.
#[derive(Clone, Copy)]
struct Left {
    first: *const f32,
    row: usize,
}

/// Where a tile is written.
#[derive(Clone, Copy)]
struct Place {
    c: *mut f32,
    row: usize,
    column: usize,
    columns: usize,
    adds: bool,
}

/// R rows by N blocks of columns.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const N: usize, const READS_ROWS: bool>(
    terms: usize,
    a: Left,
    b: *const f32,
    place: Place,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        macro_rules! term {
            ($term:expr) => {
                let b = b.add($term * N * BLOCK);
                let mut column = [V::zero(); N];
                for n in 0..N {
                    column[n] = V::load(b.add(n * BLOCK));
                }
                for r in 0..R {
                    let at = if READS_ROWS { r * a.row + $term } else { $term * R + r };
                    let a = V::splat(a.first.add(at));
                    for n in 0..N {
                        sums[r][n] = sums[r][n].add_product(a, column[n]);
                    }
                }
            };
        }
        let mut at = 0;
        while at + 4 <= terms {
            term!(at);
            term!(at + 1);
            term!(at + 2);
            term!(at + 3);
            at += 4;
        }
        while at < terms {
            term!(at);
            at += 1;
        }
        if place.column != 1 || place.columns != N * BLOCK {
            return scatter(sums, place);
        }
        if place.adds {
            for r in 0..R {
                for n in 0..N {
                    let c = place.c.add(r * place.row + n * BLOCK);
                    sums[r][n] = sums[r][n].add(V::load(c));
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                sums[r][n].store(place.c.add(r * place.row + n * BLOCK));
            }
        }
    }
}

/// Writes a tile element by element.
#[inline(always)]
unsafe fn scatter<V: Vector, const R: usize, const N: usize>(sums: [[V; N]; R], place: Place) {
    let mut tile = [[[0f32; BLOCK]; N]; R];
    // SAFETY: the caller's promise.
    unsafe {
        for r in 0..R {
            for n in 0..N {
                sums[r][n].store(tile[r][n].as_mut_ptr());
            }
        }
        for (r, row) in tile.iter().enumerate() {
            for (column, &sum) in row.as_flattened().iter().take(place.columns).enumerate() {
                let c = place.c.add(r * place.row + column * place.column);
                *c = if place.adds { *c + sum } else { sum };
            }
        }
    }
}
