//! Depthwise convolutions: every channel has a window of its own. They are exact in both arithmetics, as in ONNX Runtime.

#[cfg(target_arch = "x86_64")]
use std::cell::Cell;

use rayon::prelude::*;

use super::epilogue::Output;
use super::geometry::{Images, OUTSIDE, Rows, Window, Windows};
use super::isa::{Dispatch, Isa};
use super::packing::Matrix;
use super::terms::{Constants, InputQuantization, Parameters, Terms};
#[cfg(target_arch = "x86_64")]
use super::{
    aligned::Aligned,
    packing::pack_words,
    product::Destination,
    taps::{Input, Taps},
    x86,
};
use super::{portable, threads};

pub(super) struct Depthwise {
    window: Window,
    channels: usize,
    weights: Weights,
    terms: Terms,
}

/// The weights as their kernel reads them.
enum Weights {
    /// Tap by tap.
    Portable(Vec<i16>),
    /// Panels of words, with taps as depth.
    #[cfg(target_arch = "x86_64")]
    Avx2(Aligned<i16>),
}

/// Pixels whose taps are found at once.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 64;

#[cfg(target_arch = "x86_64")]
thread_local!(static TAPS: Cell<Taps<u8>> = Cell::default());

impl Depthwise {
    /// Weights are [channels, 1, kernel height, kernel width].
    pub(super) fn new(dispatch: Dispatch, window: Window, channels: usize, parameters: &Parameters) -> Depthwise {
        let taps = window.taps();
        let weight = |tap: usize, channel: usize| parameters.weights.centered(channel * taps + tap, channel);
        let matrix = Matrix::new(taps, channels, weight);
        let constants = Constants {
            bias: parameters.bias.map_or_else(|| vec![0; channels], <[i32]>::to_vec),
            weight_sums: matrix.column_sums(),
            epilogue: parameters.epilogue.clone(),
        };
        let weights = match dispatch.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => Weights::Avx2(pack_words(&matrix)),
            _ => Weights::Portable((0..taps * channels).map(|i| weight(i / channels, i % channels)).collect()),
        };
        let input = InputQuantization::of_zero_point(parameters.x_zero_point);
        Depthwise { window, channels, weights, terms: Terms::new(constants, input) }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(super) fn run(&self, terms: &Terms, images: &Images, x: &[u8], residual: Option<&[u8]>, output: Output) {
        assert_eq!(residual.is_some(), terms.epilogue.residual().is_some(), "a residual, but nothing to add it by");
        let size = self.window.output_size(images.size);
        let (lines, line) = (images.batch * size[0], size[1] * self.channels);
        if lines * line == 0 {
            return;
        }
        let rows = Rows::Windows(Windows::forward(&self.window, images, size));
        let share = threads::rows_per_task(lines, line * self.window.taps(), 1);
        let task = |index: usize, output: Output| {
            let first = index * share * size[1];
            let residual = residual.map(|residual| &residual[first * self.channels..]);
            self.run_pixels(terms, x, &rows, first, residual, output);
        };
        match lines <= share {
            true => task(0, output),
            false => {
                output.chunks(share * line).into_par_iter().enumerate().for_each(|(index, part)| task(index, part))
            }
        }
    }

    fn run_pixels(&self, terms: &Terms, x: &[u8], rows: &Rows, first: usize, residual: Option<&[u8]>, output: Output) {
        match &self.weights {
            Weights::Portable(weights) => self.portable(weights, terms, x, rows, first, residual, output),
            #[cfg(target_arch = "x86_64")]
            Weights::Avx2(weights) => {
                let count = output.len() / self.channels;
                let input = Input { values: x, words: None, offset: 0, rows, count: first + count };
                self.each_block(terms, &input, first, residual, output, |taps, destination| {
                    let channels = self.channels;
                    let block = x86::Block { taps, weights, columns: channels, terms, starts: None, destination };
                    // SAFETY: the CPU has AVX2, and the taps point to the input or the padding.
                    unsafe { x86::depthwise_avx2(block) }
                });
            }
        }
    }

    /// Finds the taps of some pixels after the other, each of one byte a channel.
    #[cfg(target_arch = "x86_64")]
    fn each_block(
        &self,
        terms: &Terms,
        input: &Input,
        first: usize,
        residual: Option<&[u8]>,
        mut output: Output,
        run: impl Fn(&Taps<u8>, Destination),
    ) {
        let mut taps = TAPS.take();
        for start in (first..input.count).step_by(BLOCK) {
            let pixels = start..input.count.min(start + BLOCK);
            let depth = self.channels * self.window.taps();
            taps.find(input, Some(input.values), pixels, depth, 1, terms.input.zero_point);
            let skipped = (start - first) * self.channels;
            let output = output.reborrow().skip(skipped);
            let residual = residual.map(|residual| &residual[skipped..]);
            run(&taps, Destination { output, residual, column: 0, stride: self.channels });
        }
        TAPS.set(taps);
    }

    fn portable(
        &self,
        weights: &[i16],
        terms: &Terms,
        x: &[u8],
        rows: &Rows,
        first: usize,
        residual: Option<&[u8]>,
        mut output: Output,
    ) {
        let channels = self.channels;
        let padding = vec![terms.input.zero_point; channels];
        let (mut offsets, mut sums) = (Vec::new(), vec![0; channels]);
        for pixel in 0..output.len() / channels {
            rows.fill(first + pixel..first + pixel + 1, |at| at, OUTSIDE, &mut offsets);
            sums.copy_from_slice(&terms.bias[..channels]);
            for (&offset, weights) in offsets.iter().zip(weights.chunks_exact(channels)) {
                let x = if offset == OUTSIDE { &padding } else { &x[offset..][..channels] };
                portable::accumulate(&mut sums, x, weights);
            }
            terms.epilogue.store(sums.iter().copied(), 0, residual, &mut output, pixel * channels);
        }
    }
}
