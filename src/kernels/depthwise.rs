//! Depthwise convolutions: every channel has a window of its own. They are exact in both arithmetics, as in ONNX Runtime.

use rayon::prelude::*;

use super::epilogue::Output;
use super::geometry::{Images, Rows, Window, Windows};
use super::isa::Dispatch;
use super::terms::{Constants, InputQuantization, Parameters, Terms};
use super::{portable, threads};

pub(super) struct Depthwise {
    window: Window,
    channels: usize,
    /// Tap by tap, without zero points.
    weights: Vec<i16>,
    terms: Terms,
}

impl Depthwise {
    /// Weights are [channels, 1, kernel height, kernel width].
    pub(super) fn new(_: Dispatch, window: Window, channels: usize, parameters: &Parameters) -> Depthwise {
        let taps = window.taps();
        let weight = |tap: usize, channel: usize| parameters.weights.centered(channel * taps + tap, channel);
        let weights: Vec<i16> = (0..taps * channels).map(|i| weight(i / channels, i % channels)).collect();
        let sum = |channel: usize| (0..taps).map(|tap| i32::from(weight(tap, channel))).sum();
        let constants = Constants {
            bias: parameters.bias.map_or_else(|| vec![0; channels], <[i32]>::to_vec),
            weight_sums: (0..channels).map(sum).collect(),
            epilogue: parameters.epilogue.clone(),
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
        self.portable(terms, x, rows, first, residual, output);
    }

    fn portable(
        &self,
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
            rows.fill(first + pixel..first + pixel + 1, |at| at, usize::MAX, &mut offsets);
            sums.copy_from_slice(&terms.bias[..channels]);
            for (&offset, weights) in offsets.iter().zip(self.weights.chunks_exact(channels)) {
                let x = if offset == usize::MAX { &padding } else { &x[offset..][..channels] };
                portable::accumulate(&mut sums, x, weights);
            }
            terms.epilogue.store(sums.iter().copied(), 0, residual, &mut output, pixel * channels);
        }
    }
}
