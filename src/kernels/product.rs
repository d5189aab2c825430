//! A matrix product with constant weights: the core of convolutions and MatMuls.
//!
//! The rows of the left operand are read where they are, through a table of taps (see [`Rows`]), in blocks that stay in
//! the cache while all panels of weights pass by. Bias, requantization, clamp and residual belong to the tile, so no
//! buffer of sums is ever written.

use std::cell::Cell;

use rayon::prelude::*;

use super::epilogue::Output;
use super::geometry::Rows;
use super::isa::{Arithmetic, Dispatch, Isa};
use super::packing::{Matrix, PANEL, Panels};
use super::terms::{Constants, InputQuantization, Terms};
use super::{portable, threads};

/// Rows of a block.
const BLOCK: usize = 96;

pub(super) struct Product {
    kernel: Kernel,
    depth: usize,
    columns: usize,
    panels: Panels,
    terms: Terms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Portable { saturating: bool },
}

/// The left operand.
pub(super) struct Input<'a> {
    pub(super) values: &'a [u8],
    /// Where the first channel of the group is.
    pub(super) offset: usize,
    pub(super) rows: &'a Rows,
    pub(super) count: usize,
}

/// Where results go, and what is added to them: rows `stride` elements apart, starting at `column`.
pub(super) struct Destination<'a> {
    pub(super) output: Output<'a>,
    pub(super) residual: Option<&'a [u8]>,
    pub(super) column: usize,
    pub(super) stride: usize,
}

/// Buffers that outlive a call.
#[derive(Default)]
struct Scratch {
    offsets: Vec<usize>,
    gathered: Vec<u8>,
}

thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());

impl Product {
    /// `matrix` is the weights in K order. `may_saturate`: whether ONNX Runtime multiplies them by `vpmaddubsw`.
    pub(super) fn new(
        dispatch: Dispatch,
        matrix: &Matrix,
        may_saturate: bool,
        constants: Constants,
        input: InputQuantization,
    ) -> Product {
        let kernel = Kernel::choose(dispatch, may_saturate);
        let panels = match kernel {
            Kernel::Portable { .. } => Panels::words(matrix),
        };
        let (depth, columns) = (matrix.depth, matrix.columns);
        Product { kernel, depth, columns, panels, terms: Terms::new(constants, input) }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Computes all rows. The terms are its own, or made from them for another input.
    pub(super) fn run(&self, terms: &Terms, input: &Input, destination: Destination) {
        let Destination { output, residual, column, stride } = destination;
        assert_eq!(residual.is_some(), terms.epilogue.residual().is_some(), "a residual, but nothing to add it by");
        let share = threads::rows_per_task(input.count, self.depth * self.columns, BLOCK);
        let task = |index: usize, output: Output| {
            let first = index * share;
            let residual = residual.map(|residual| &residual[first * stride..]);
            let rows = share.min(input.count - first);
            self.run_rows(terms, input, first, rows, Destination { output, residual, column, stride });
        };
        match input.count {
            0 => {}
            count if count <= share => task(0, output),
            _ => output.chunks(share * stride).into_par_iter().enumerate().for_each(|(index, part)| task(index, part)),
        }
    }

    fn run_rows(&self, terms: &Terms, input: &Input, first: usize, count: usize, mut destination: Destination) {
        let mut scratch = SCRATCH.take();
        for start in (0..count).step_by(BLOCK) {
            let rows = BLOCK.min(count - start);
            let block = Destination {
                output: destination.output.reborrow().skip(start * destination.stride),
                residual: destination.residual.map(|residual| &residual[start * destination.stride..]),
                ..destination
            };
            match (self.kernel, &self.panels) {
                (Kernel::Portable { saturating }, Panels::Words(panels)) => {
                    input.rows.fill(first + start..first + start + rows, |at| at, usize::MAX, &mut scratch.offsets);
                    self.gather(terms, input, &mut scratch);
                    self.portable(terms, &scratch.gathered, panels, saturating, block);
                }
                _ => unreachable!("weights are packed for their kernel"),
            }
        }
        SCRATCH.set(scratch);
    }

    /// Copies the taps of every row next to each other.
    fn gather(&self, terms: &Terms, input: &Input, scratch: &mut Scratch) {
        let taps = input.rows.taps();
        let length = self.depth / taps;
        let padded = self.depth.next_multiple_of(2);
        scratch.gathered.clear();
        scratch.gathered.resize(scratch.offsets.len() / taps * padded, 0);
        for (row, offsets) in scratch.gathered.chunks_exact_mut(padded).zip(scratch.offsets.chunks_exact(taps)) {
            for (to, &offset) in row.chunks_exact_mut(length).zip(offsets) {
                match offset {
                    usize::MAX => to.fill(terms.input.zero_point),
                    offset => to.copy_from_slice(&input.values[input.offset + offset..][..length]),
                }
            }
        }
    }

    fn portable(&self, terms: &Terms, rows: &[u8], panels: &[i16], saturating: bool, mut to: Destination) {
        portable::multiply(rows, self.depth.next_multiple_of(2), panels, saturating, |row, panel, sums| {
            let first = panel * PANEL;
            let count = PANEL.min(self.columns - first);
            let start = row * to.stride + to.column + first;
            let sums = sums[..count].iter().zip(&terms.bias[first..]).map(|(sum, bias)| sum.wrapping_add(*bias));
            terms.epilogue.store(sums, first, to.residual, &mut to.output, start);
        });
    }
}

impl Kernel {
    fn choose(dispatch: Dispatch, may_saturate: bool) -> Kernel {
        let saturating = dispatch.arithmetic == Arithmetic::Saturating && may_saturate;
        match dispatch.isa {
            Isa::Portable | Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => Kernel::Portable { saturating },
        }
    }
}
