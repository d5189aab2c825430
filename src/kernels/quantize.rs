//! Between floats and bytes, and between channels-first floats and channels-last bytes.

use super::epilogue::{Quantization, round};
use super::widest::widest;

/// Pixels and channels that change their order in registers and the first cache.
const PART: usize = 64;
const TOGETHER: usize = 16;

impl Quantization {
    /// saturate(round(x / scale) + zero point), halves to even.
    #[inline(always)]
    pub fn quantize(&self, x: f32) -> u8 {
        let zero_point = i32::from(self.zero_point);
        (round(x / self.scale, -zero_point as f32, (255 - zero_point) as f32) + zero_point) as u8
    }

    #[inline(always)]
    pub fn dequantize(&self, q: u8) -> f32 {
        (i32::from(q) - i32::from(self.zero_point)) as f32 * self.scale
    }

    pub fn quantize_all(&self, x: &[f32], output: &mut [u8]) {
        assert_eq!(x.len(), output.len(), "elements of the output");
        widest(
            #[inline(always)]
            || {
                for (q, &x) in output.iter_mut().zip(x) {
                    *q = self.quantize(x);
                }
            },
        );
    }

    /// Of x · factor, with a factor for each element of a row.
    pub fn quantize_scaled(&self, x: &[f32], factors: &[f32], output: &mut [u8]) {
        assert_eq!(x.len(), output.len(), "elements of the output");
        assert!(x.len().is_multiple_of(factors.len()), "rows of {} elements", factors.len());
        widest(
            #[inline(always)]
            || {
                for (x, output) in x.chunks_exact(factors.len()).zip(output.chunks_exact_mut(factors.len())) {
                    for ((q, &x), factor) in output.iter_mut().zip(x).zip(factors) {
                        *q = self.quantize(x * factor);
                    }
                }
            },
        );
    }

    pub fn dequantize_all(&self, x: &[u8], output: &mut [f32]) {
        assert_eq!(x.len(), output.len(), "elements of the output");
        widest(
            #[inline(always)]
            || {
                for (y, &q) in output.iter_mut().zip(x) {
                    *y = self.dequantize(q);
                }
            },
        );
    }

    /// [batch, channels, pixels] floats to [batch, pixels, padded channels] bytes; channels that are filled up hold the
    /// zero point.
    pub fn quantize_channels_last(&self, x: &[f32], channels: usize, pixels: usize, padded: usize, output: &mut [u8]) {
        assert!(padded >= channels && channels * pixels > 0, "an empty image, or {padded} of {channels} channels");
        assert_eq!(x.len() / channels * padded, output.len(), "elements of the output");
        widest(
            #[inline(always)]
            || {
                let images = x.chunks_exact(channels * pixels).zip(output.chunks_exact_mut(padded * pixels));
                for (x, output) in images {
                    for (part, output) in output.chunks_mut(PART * padded).enumerate() {
                        match padded {
                            3 => interleave::<3>(&self.quantize_part::<3>(x, pixels, part * PART, 0), output),
                            4 => interleave::<4>(&self.quantize_part::<4>(x, pixels, part * PART, 0), output),
                            _ => self.quantize_many(x, pixels, part * PART, padded, output),
                        }
                    }
                }
            },
        );
    }

    /// Some pixels of any number of channels.
    #[inline(always)]
    fn quantize_many(&self, x: &[f32], pixels: usize, start: usize, padded: usize, output: &mut [u8]) {
        for first in (0..padded).step_by(TOGETHER) {
            let planes = self.quantize_part::<TOGETHER>(x, pixels, start, first);
            let count = TOGETHER.min(padded - first);
            for (index, pixel) in output.chunks_exact_mut(padded).enumerate() {
                for (byte, plane) in pixel[first..][..count].iter_mut().zip(&planes) {
                    *byte = plane[index];
                }
            }
        }
    }

    /// Quantizes some channels of some pixels. Channels behind the last plane are filled with the zero point.
    #[inline(always)]
    fn quantize_part<const CHANNELS: usize>(
        &self,
        planes: &[f32],
        pixels: usize,
        start: usize,
        first: usize,
    ) -> [[u8; PART]; CHANNELS] {
        let length = PART.min(pixels - start);
        let mut quantized = [[self.zero_point; PART]; CHANNELS];
        for (channel, quantized) in quantized.iter_mut().enumerate() {
            let at = (first + channel) * pixels + start;
            if let Some(plane) = planes.get(at..at + length) {
                for (q, &x) in quantized.iter_mut().zip(plane) {
                    *q = self.quantize(x);
                }
            }
        }
        quantized
    }

    /// [batch, pixels, channels] bytes to [batch, channels, pixels] floats.
    pub fn dequantize_channels_first(&self, x: &[u8], channels: usize, pixels: usize, output: &mut [f32]) {
        assert!(channels * pixels > 0, "an empty image");
        assert_eq!(x.len(), output.len(), "elements of the output");
        widest(
            #[inline(always)]
            || {
                for (x, output) in x.chunks_exact(channels * pixels).zip(output.chunks_exact_mut(channels * pixels)) {
                    // A few channels at a time, so that the lines of the cache that they share are read once.
                    for first in (0..channels).step_by(TOGETHER) {
                        for start in (0..pixels).step_by(PART) {
                            for channel in first..channels.min(first + TOGETHER) {
                                let plane = &mut output[channel * pixels + start..][..PART.min(pixels - start)];
                                for (y, pixel) in plane.iter_mut().zip(x[start * channels..].chunks_exact(channels)) {
                                    *y = self.dequantize(pixel[channel]);
                                }
                            }
                        }
                    }
                }
            },
        );
    }
}

/// Pixels of few channels.
#[inline(always)]
fn interleave<const CHANNELS: usize>(planes: &[[u8; PART]; CHANNELS], output: &mut [u8]) {
    for (index, pixel) in output.as_chunks_mut::<CHANNELS>().0.iter_mut().enumerate().take(PART) {
        for channel in 0..CHANNELS {
            pixel[channel] = planes[channel][index];
        }
    }
}

/// The quantization that DynamicQuantizeLinear gives a tensor: its range, with zero in it, in 255 steps.
pub fn dynamic_quantization(x: &[f32]) -> Quantization {
    let (low, high) = x.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let scale = (high - low) / 255.0;
    let scale = if scale == 0.0 { 1.0 } else { scale };
    Quantization { scale, zero_point: (-low / scale).clamp(0.0, 255.0).round_ties_even() as u8 }
}

/// i8 to u8 and back: q xor 128, with the zero point moved by 128, stands for the same number.
pub fn flip_signs(bytes: &mut [u8]) {
    for byte in bytes {
        *byte ^= 0x80;
    }
}

/// Exchanges the last two axes of [batch, rows, columns]: channels-first to channels-last and back.
pub fn transpose<T: Copy>(x: &[T], rows: usize, columns: usize, output: &mut [T]) {
    assert_eq!(x.len(), output.len(), "elements of the output");
    if x.is_empty() {
        return;
    }
    for (x, output) in x.chunks_exact(rows * columns).zip(output.chunks_exact_mut(rows * columns)) {
        // In blocks, so that the lines of the cache that a column touches are still there for the next one.
        for first_row in (0..rows).step_by(PART) {
            for first_column in (0..columns).step_by(TOGETHER) {
                for column in first_column..columns.min(first_column + TOGETHER) {
                    let output = &mut output[column * rows + first_row..][..PART.min(rows - first_row)];
                    for (y, row) in output.iter_mut().zip(x[first_row * columns..].chunks_exact(columns)) {
                        *y = row[column];
                    }
                }
            }
        }
    }
}
