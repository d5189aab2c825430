//! Depthwise convolutions: every channel has a window of its own. They are exact in both arithmetics, as in ONNX Runtime.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::Output;
use super::geometry::{Images, Window};
use super::isa::{Dispatch, Isa};
use super::packing::Matrix;
use super::terms::{Constants, InputQuantization, Parameters, Terms};
#[cfg(target_arch = "x86_64")]
use super::{aligned::Aligned, kernel::suits_vnni, x86};
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
    #[cfg(target_arch = "x86_64")]
    Avx2(Aligned<i16>),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Aligned<i8>),
    /// For 64 channels at a time, as long as more than 32 are left, and for 32 at a time.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni { wide: Aligned<i8>, narrow: Aligned<i8>, border: usize },
}

/// One output line with all that is needed for it.
struct Line<'a> {
    /// For every row of the window the line of the image that it meets, if any.
    rows: &'a [Option<&'a [u8]>],
    terms: &'a Terms,
    residual: Option<&'a [u8]>,
    output: Output<'a>,
}

/// Buffers that outlive a call.
#[derive(Default)]
struct Scratch {
    sums: Vec<i32>,
    padding: Vec<u8>,
    #[cfg(target_arch = "x86_64")]
    x86: x86::DepthwiseScratch,
}

thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());

impl Depthwise {
    /// Weights are [channels, 1, kernel height, kernel width].
    pub(super) fn new(dispatch: Dispatch, window: Window, channels: usize, parameters: &Parameters) -> Depthwise {
        dispatch.isa.require();
        let taps = window.taps();
        let weight = |tap: usize, channel: usize| parameters.weights.centered(channel * taps + tap, channel);
        let matrix = Matrix::new(taps, channels, weight);
        let constants = Constants {
            bias: parameters.bias.map_or_else(|| vec![0; channels], <[i32]>::to_vec),
            weight_sums: matrix.column_sums(),
            epilogue: parameters.epilogue.clone(),
        };
        let terms = Terms::new(constants, InputQuantization::of_zero_point(parameters.x_zero_point));
        let weights = match dispatch.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if suits_vnni(&matrix, &terms) => {
                Weights::AvxVnni(x86::pack_depthwise_narrow(&matrix, 0..channels, &window, &terms.epilogue))
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni if suits_vnni(&matrix, &terms) => {
                let border = ((channels + 31) / 64 * 64).min(channels);
                Weights::Avx512Vnni {
                    wide: x86::pack_depthwise_wide(&matrix, 0..border, &window, &terms.epilogue),
                    narrow: x86::pack_depthwise_narrow(&matrix, border..channels, &window, &terms.epilogue),
                    border,
                }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => Weights::Avx2(x86::pack_depthwise_avx2(&matrix, &window)),
            _ => Weights::Portable((0..taps * channels).map(|i| weight(i / channels, i % channels)).collect()),
        };
        Depthwise { window, channels, weights, terms }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(super) fn run(&self, terms: &Terms, images: &Images, x: &[u8], residual: Option<&[u8]>, output: Output) {
        assert_eq!(residual.is_some(), terms.epilogue.residual().is_some(), "a residual, but nothing to add it by");
        let [height, width] = self.window.output_size(images.size);
        let (lines, length) = (images.batch * height, width * self.channels);
        if lines * length == 0 {
            return;
        }
        let share = threads::rows_per_task(lines, length * self.window.taps(), 1);
        let task = |index: usize, output: Output| {
            let mut scratch = SCRATCH.take();
            scratch.sums.resize(self.channels, 0);
            scratch.padding.clear();
            scratch.padding.resize(self.channels, terms.input.zero_point);
            let mut rows = vec![None; self.window.kernel[0]];
            for (line, output) in output.chunks(length).into_iter().enumerate() {
                let line = index * share + line;
                let residual = residual.map(|residual| &residual[line * length..][..length]);
                self.find_rows(images, x, line / height, line % height, &mut rows);
                self.run_line(Line { rows: &rows, terms, residual, output }, &mut scratch);
            }
            SCRATCH.set(scratch);
        };
        match lines <= share {
            true => task(0, output),
            false => {
                output.chunks(share * length).into_par_iter().enumerate().for_each(|(index, part)| task(index, part))
            }
        }
    }

    fn find_rows<'a>(&self, images: &Images, x: &'a [u8], image: usize, line: usize, rows: &mut [Option<&'a [u8]>]) {
        let [height, width] = images.size;
        for (tap, row) in rows.iter_mut().enumerate() {
            let padded = line * self.window.strides[0] + tap * self.window.dilations[0];
            let y = padded.checked_sub(self.window.pads[0]).filter(|&y| y < height);
            *row = y.map(|y| &x[(image * height + y) * width * self.channels..][..width * self.channels]);
        }
    }

    fn run_line(&self, mut line: Line, scratch: &mut Scratch) {
        // SAFETY: the CPU has the instruction set that the weights are packed for.
        unsafe {
            match &self.weights {
                Weights::Portable(weights) => self.portable(weights, line, scratch),
                #[cfg(target_arch = "x86_64")]
                Weights::Avx2(weights) => x86::depthwise_avx2(self.line(line, 0..self.channels, weights, scratch)),
                #[cfg(target_arch = "x86_64")]
                Weights::AvxVnni(weights) => {
                    x86::depthwise_avx_vnni(self.line(line, 0..self.channels, weights, scratch))
                }
                #[cfg(target_arch = "x86_64")]
                Weights::Avx512Vnni { wide, narrow, border } => {
                    if !wide.is_empty() {
                        let line = Line { output: line.output.reborrow(), ..line };
                        x86::depthwise_avx512_vnni_wide(self.line(line, 0..*border, wide, scratch));
                    }
                    if !narrow.is_empty() {
                        x86::depthwise_avx512_vnni_narrow(self.line(line, *border..self.channels, narrow, scratch));
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn line<'a, W>(
        &'a self,
        Line { rows, terms, residual, output }: Line<'a>,
        channels: Range<usize>,
        weights: &'a [W],
        scratch: &'a mut Scratch,
    ) -> x86::DepthwiseLine<'a, W> {
        x86::DepthwiseLine {
            rows,
            window: &self.window,
            pitch: self.channels,
            channels,
            padding: &scratch.padding,
            weights,
            terms,
            residual,
            output,
            scratch: &mut scratch.x86,
        }
    }

    fn portable(&self, weights: &[i16], mut line: Line, scratch: &mut Scratch) {
        let (channels, [_, width]) = (self.channels, self.window.kernel);
        for pixel in 0..line.output.len() / channels {
            scratch.sums.copy_from_slice(&line.terms.bias[..channels]);
            for (tap, weights) in weights.chunks_exact(channels).enumerate() {
                let padded = pixel * self.window.strides[1] + tap % width * self.window.dilations[1];
                let row = line.rows[tap / width].zip(padded.checked_sub(self.window.pads[1]));
                let pixel = row.and_then(|(row, x)| row.get(x * channels..(x + 1) * channels));
                portable::accumulate(&mut scratch.sums, pixel.unwrap_or(&scratch.padding), weights);
            }
            let sums = scratch.sums.iter().copied();
            line.terms.epilogue.store(sums, 0, line.residual, &mut line.output, pixel * channels);
        }
    }
}
