//! Attention in floats: softmax(q · kᵀ · scale + mask) · v.
//!
//! A block of rows goes from queries to results at once, so that its scores never leave the cache. Both products read
//! their right operand in panels of 16 columns, `[columns / 16][depth][16]`, filled up with zeros.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

use std::cell::Cell;

use super::aligned::Aligned;
use super::rounded::{ROWS, multiply_add, softmax};
use super::widest::{self, Loop};

/// A matrix in memory: its element (row, column) is `values[row · strides[0] + column · strides[1]]`.
#[derive(Clone, Copy, Debug)]
pub struct FloatMatrix<'a> {
    pub values: &'a [f32],
    pub size: [usize; 2],
    pub strides: [usize; 2],
}

/// One head.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Queries x depth.
    pub q: FloatMatrix<'a>,
    /// Depth x keys.
    pub k: FloatMatrix<'a>,
    /// Keys x width.
    pub v: FloatMatrix<'a>,
    /// Queries x keys.
    pub mask: Option<FloatMatrix<'a>>,
    pub scale: f32,
}

/// Columns of a panel.
const PANEL: usize = 16;

/// Rows of a block.
const BLOCK: usize = ROWS;

/// Rows of a tile: 6 x 16 sums in 12 of 16 registers of 256 bits.
const TILE: usize = 6;

#[derive(Default)]
struct Scratch {
    keys: Panels,
    values: Panels,
    queries: Vec<f32>,
    scores: Vec<f32>,
    results: Vec<f32>,
}

thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());

impl<'a> FloatMatrix<'a> {
    fn check(&self) {
        let [rows, columns] = self.size;
        let last = rows.saturating_sub(1) * self.strides[0] + columns.saturating_sub(1) * self.strides[1];
        assert!(rows * columns == 0 || last < self.values.len(), "a matrix of {rows} x {columns}");
    }

    #[inline(always)]
    fn copy_row(&self, row: usize, to: &mut [f32]) {
        let from = &self.values[row * self.strides[0]..];
        match self.strides[1] {
            1 => to.copy_from_slice(&from[..to.len()]),
            step => {
                for (column, to) in to.iter_mut().enumerate() {
                    *to = from[column * step];
                }
            }
        }
    }
}

/// Blocks of rows, one after the other.
struct Blocks<'a> {
    attention: &'a Attention<'a>,
    scratch: &'a mut Scratch,
    output: &'a mut [f32],
    stride: usize,
}

impl Loop for Blocks<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        self.attention.run_blocks::<FUSED>(self.scratch, self.output, self.stride);
    }
}

impl Attention<'_> {
    /// Writes queries x width results, in rows that are `stride` apart.
    pub fn run(&self, output: &mut [f32], stride: usize) {
        let Attention { q, k, v, mask, .. } = self;
        let ([rows, depth], [_, keys], [_, width]) = (q.size, k.size, v.size);
        assert!(k.size[0] == depth && v.size[0] == keys, "matrices that fit");
        assert!(mask.is_none_or(|mask| mask.size == [rows, keys]), "a mask for each score");
        assert!(rows == 0 || output.len() >= (rows - 1) * stride + width, "the output is too short");
        [Some(*q), Some(*k), Some(*v), *mask].iter().flatten().for_each(FloatMatrix::check);
        let mut scratch = SCRATCH.take();
        widest::run(Blocks { attention: self, scratch: &mut scratch, output, stride });
        SCRATCH.set(scratch);
    }

    #[inline(always)]
    fn run_blocks<const FUSED: bool>(&self, scratch: &mut Scratch, output: &mut [f32], stride: usize) {
        let Scratch { keys, values, queries, scores, results } = scratch;
        keys.pack(&self.k);
        values.pack(&self.v);
        let [rows, depth] = self.q.size;
        let width = self.v.size[1];
        queries.resize(BLOCK * depth, 0.0);
        scores.resize(BLOCK * keys.stride(), 0.0);
        results.resize(BLOCK * values.stride(), 0.0);
        for start in (0..rows).step_by(BLOCK) {
            let count = BLOCK.min(rows - start);
            for row in 0..count {
                self.q.copy_row(start + row, &mut queries[row * depth..][..depth]);
            }
            keys.multiply::<FUSED>(queries, depth, count, scores);
            for (row, scores) in scores.chunks_exact_mut(keys.stride()).take(count).enumerate() {
                let scores = &mut scores[..keys.columns];
                if self.scale != 1.0 {
                    for score in &mut *scores {
                        *score *= self.scale;
                    }
                }
                if let Some(mask) = &self.mask {
                    add_mask(scores, mask, start + row);
                }
            }
            softmax::<FUSED>(&mut scores[..count * keys.stride()], keys.columns, keys.stride());
            values.multiply::<FUSED>(scores, keys.stride(), count, results);
            for (row, results) in results.chunks_exact(values.stride()).take(count).enumerate() {
                output[(start + row) * stride..][..width].copy_from_slice(&results[..width]);
            }
        }
    }
}

#[inline(always)]
fn add_mask(scores: &mut [f32], mask: &FloatMatrix, row: usize) {
    let mask_row = &mask.values[row * mask.strides[0]..];
    match mask.strides[1] {
        1 => {
            for (score, mask) in scores.iter_mut().zip(mask_row) {
                *score += mask;
            }
        }
        step => {
            for (column, score) in scores.iter_mut().enumerate() {
                *score += mask_row[column * step];
            }
        }
    }
}

/// A right operand.
#[derive(Default)]
struct Panels {
    packed: Aligned<f32>,
    depth: usize,
    columns: usize,
}

impl Panels {
    /// Elements of a row of results: whole panels.
    fn stride(&self) -> usize {
        self.columns.next_multiple_of(PANEL).max(PANEL)
    }

    #[inline(always)]
    fn pack(&mut self, b: &FloatMatrix) {
        [self.depth, self.columns] = b.size;
        let length = self.depth * self.stride();
        self.packed.reserve(length);
        let panels = self.packed[..length].chunks_exact_mut((self.depth * PANEL).max(1));
        for (index, panel) in panels.enumerate() {
            let first = index * PANEL;
            let count = PANEL.min(self.columns - first);
            let panel = panel.as_chunks_mut::<PANEL>().0;
            if b.strides[1] == 1 {
                for (k, to) in panel.iter_mut().enumerate() {
                    let from = &b.values[k * b.strides[0] + first..];
                    match from.first_chunk::<PANEL>() {
                        Some(from) if count == PANEL => *to = *from,
                        _ => {
                            to[..count].copy_from_slice(&from[..count]);
                            to[count..].fill(0.0);
                        }
                    }
                }
                continue;
            }
            // Columns that are not there are read as the last one.
            let mut columns: [&[f32]; PANEL] = [&[]; PANEL];
            for (column, from) in columns.iter_mut().enumerate() {
                *from = &b.values[(first + column.min(count - 1)) * b.strides[1]..];
            }
            for (k, to) in panel.iter_mut().enumerate() {
                for lane in 0..PANEL {
                    to[lane] = columns[lane][k * b.strides[0]];
                }
            }
        }
    }

    /// a · b, where rows of `a` are `stride` apart and those of the output [`Panels::stride`].
    #[inline(always)]
    fn multiply<const FUSED: bool>(&self, a: &[f32], stride: usize, rows: usize, output: &mut [f32]) {
        let mut row = 0;
        while row < rows {
            let a = &a[row * stride..];
            let output = &mut output[row * self.stride()..];
            row += match rows - row {
                TILE.. => self.multiply_rows::<TILE, FUSED>(a, stride, output),
                4 | 5 => self.multiply_rows::<4, FUSED>(a, stride, output),
                2 | 3 => self.multiply_rows::<2, FUSED>(a, stride, output),
                _ => self.multiply_rows::<1, FUSED>(a, stride, output),
            };
        }
    }

    #[inline(always)]
    fn multiply_rows<const R: usize, const FUSED: bool>(&self, a: &[f32], stride: usize, output: &mut [f32]) -> usize {
        let depth = self.depth;
        let mut rows: [&[f32]; R] = [&[]; R];
        for (row, values) in rows.iter_mut().enumerate() {
            *values = &a[row * stride..][..depth];
        }
        for first in (0..self.columns).step_by(PANEL) {
            let panel = self.packed[first * depth..][..PANEL * depth].as_chunks::<PANEL>().0;
            let mut sums = [[0f32; PANEL]; R];
            for (k, b) in panel.iter().enumerate() {
                for r in 0..R {
                    // SAFETY: a panel has as many chunks as a row has elements.
                    let a = unsafe { *rows[r].get_unchecked(k) };
                    for lane in 0..PANEL {
                        let sum = sums[r][lane];
                        sums[r][lane] = multiply_add::<FUSED>(a, b[lane], sum);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                output[row * self.stride() + first..][..PANEL].copy_from_slice(sums);
            }
        }
        R
    }
}
