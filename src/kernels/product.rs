//! A matrix product with constant weights: the core of convolutions and MatMuls.
//!
//! The rows of the left operand are read where they are, through a table of taps, in blocks that stay in the cache while
//! all panels of weights pass by. Bias, requantization, clamp and residual belong to the tile, so no buffer of sums is
//! ever written.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::Output;
use super::isa::Dispatch;
use super::kernel::Kernel;
use super::packing::{Matrix, PANEL, Panels};
use super::taps::{Copied, Input};
use super::terms::{Constants, InputQuantization, Terms};
#[cfg(target_arch = "x86_64")]
use super::{pairs::PairedPanels, taps::Taps, x86};
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
    copied: Copied<u8>,
    sums: Vec<i32>,
    #[cfg(target_arch = "x86_64")]
    bytes: Taps<u8>,
    #[cfg(target_arch = "x86_64")]
    words: Taps<i16>,
}

thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());

impl Product {
    /// `matrix` is the weights in K order, of so many `taps`. `may_saturate`: whether ONNX Runtime multiplies them by
    /// `vpmaddubsw`.
    pub(super) fn new(
        dispatch: Dispatch,
        matrix: &Matrix,
        taps: usize,
        may_saturate: bool,
        constants: Constants,
        input: InputQuantization,
    ) -> Product {
        let terms = Terms::new(constants, input);
        let kernel = Kernel::choose(dispatch, matrix, taps, may_saturate, &terms);
        let (kernel, panels) = kernel.pack(matrix);
        Product { kernel, depth: matrix.depth, columns: matrix.columns, panels, terms }
    }

    /// Of weights that are packed for the kernel.
    pub(super) fn packed(kernel: Kernel, depth: usize, columns: usize, panels: Panels, terms: Terms) -> Product {
        Product { kernel, depth, columns, panels, terms }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether its kernel reads taps of words in place, so that it pays to widen the whole input at once.
    pub(super) fn reads_words(&self, taps: usize) -> bool {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Words => taps > 1 && (self.depth / taps).is_multiple_of(2),
            _ => false,
        }
    }

    /// Computes all rows. The terms are its own, or made from them for another input.
    pub(super) fn run(&self, terms: &Terms, input: &Input, destination: Destination) {
        let Destination { output, residual, column, stride } = destination;
        assert_eq!(residual.is_some(), terms.epilogue.residual().is_some(), "a residual, but nothing to add it by");
        let share = threads::rows_per_task(input.count, self.depth * self.columns, BLOCK);
        let task = |index: usize, output: Output| {
            let first = index * share;
            let residual = residual.map(|residual| &residual[first * stride..]);
            let rows = first..input.count.min(first + share);
            self.run_rows(terms, input, rows, Destination { output, residual, column, stride });
        };
        match input.count {
            0 => {}
            count if count <= share => task(0, output),
            _ => output.chunks(share * stride).into_par_iter().enumerate().for_each(|(index, part)| task(index, part)),
        }
    }

    fn run_rows(&self, terms: &Terms, input: &Input, rows: Range<usize>, mut to: Destination) {
        let mut scratch = SCRATCH.take();
        for start in rows.clone().step_by(BLOCK) {
            let skipped = (start - rows.start) * to.stride + to.column;
            let block = Destination {
                output: to.output.reborrow().skip(skipped),
                residual: to.residual.map(|residual| &residual[skipped..]),
                ..to
            };
            self.run_block(terms, input, start..rows.end.min(start + BLOCK), &mut scratch, block);
        }
        SCRATCH.set(scratch);
    }

    /// `to` begins at the first row and column.
    fn run_block(&self, terms: &Terms, input: &Input, rows: Range<usize>, scratch: &mut Scratch, to: Destination) {
        let (depth, zero_point) = (self.depth, terms.input.zero_point);
        let starts = input.starts.map(|starts| &starts[rows.clone()]);
        match (self.kernel, &self.panels) {
            (Kernel::Portable { saturating }, Panels::Words(panels)) => {
                scratch.copied.copy(input, rows, depth, 2, zero_point);
                self.portable(terms, &scratch.copied.rows, panels, saturating, to);
            }
            (Kernel::Rten, Panels::Rten(weights)) => {
                scratch.copied.copy(input, rows, depth, 1, zero_point);
                weights.multiply(&scratch.copied.rows, &mut scratch.sums);
                let mut to = to;
                for (row, sums) in scratch.sums.chunks_exact(self.columns).enumerate() {
                    finish(terms, sums, starts.map_or(0, |starts| starts[row]), row, 0, &mut to);
                }
            }
            #[cfg(target_arch = "x86_64")]
            (kernel @ (Kernel::Avx2Bytes | Kernel::AvxVnni | Kernel::Avx512Vnni), Panels::Bytes(weights)) => {
                scratch.bytes.find(input, Some(input.values), rows, depth, 4, zero_point);
                let block = self.block(terms, &scratch.bytes, weights, None, starts, to);
                // SAFETY: the CPU has the kernel's instruction set, and the taps point to the input or the scratch.
                unsafe {
                    match kernel {
                        Kernel::AvxVnni => x86::multiply_avx_vnni(block),
                        Kernel::Avx512Vnni => x86::multiply_avx512_vnni(block),
                        _ => x86::multiply_avx2_bytes(block),
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx2Pairs { .. }, Panels::Pairs(pairs)) => {
                scratch.bytes.find(input, Some(input.values), rows, depth, 4, zero_point);
                let block = self.block(terms, &scratch.bytes, &pairs.weights, Some(pairs), starts, to);
                // SAFETY: as above.
                unsafe { x86::multiply_avx2_pairs(block) }
            }
            #[cfg(target_arch = "x86_64")]
            (Kernel::Avx2Words, Panels::Words(weights)) => {
                scratch.words.find(input, input.words, rows, depth, 2, zero_point);
                let block = self.block(terms, &scratch.words, weights, None, starts, to);
                // SAFETY: as above.
                unsafe { x86::multiply_avx2_words(block) }
            }
            _ => unreachable!("weights are packed for their kernel"),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn block<'a, X, W>(
        &self,
        terms: &'a Terms,
        taps: &'a Taps<X>,
        weights: &'a [W],
        pairs: Option<&'a PairedPanels>,
        starts: Option<&'a [i32]>,
        destination: Destination<'a>,
    ) -> x86::Block<'a, X, W> {
        x86::Block { taps, weights, pairs, columns: self.columns, terms, starts, destination }
    }

    fn portable(&self, terms: &Terms, rows: &[u8], panels: &[i16], saturating: bool, mut to: Destination) {
        portable::multiply(rows, self.depth.next_multiple_of(2), panels, saturating, |row, panel, sums| {
            let first = panel * PANEL;
            finish(terms, &sums[..PANEL.min(self.columns - first)], 0, row, first, &mut to);
        });
    }
}

/// Finishes the sums of columns from `first` on of a row, which start with `start` besides the bias.
fn finish(terms: &Terms, sums: &[i32], start: i32, row: usize, first: usize, to: &mut Destination) {
    let sums = sums.iter().zip(&terms.bias[first..]).map(|(sum, bias)| sum.wrapping_add(*bias).wrapping_add(start));
    terms.epilogue.store(sums, first, to.residual, &mut to.output, row * to.stride + first);
}
