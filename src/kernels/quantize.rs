//! Between floats and bytes, and between channels-first floats and channels-last bytes.

use super::epilogue::Quantization;

impl Quantization {
    /// saturate(round(x / scale) + zero point), halves to even.
    #[inline]
    pub fn quantize(&self, x: f32) -> u8 {
        ((x / self.scale).round_ties_even() + f32::from(self.zero_point)) as u8
    }

    #[inline]
    pub fn dequantize(&self, q: u8) -> f32 {
        (i32::from(q) - i32::from(self.zero_point)) as f32 * self.scale
    }

    pub fn quantize_all(&self, x: &[f32], output: &mut [u8]) {
        assert_eq!(x.len(), output.len(), "elements of the output");
        for (q, &x) in output.iter_mut().zip(x) {
            *q = self.quantize(x);
        }
    }

    pub fn dequantize_all(&self, x: &[u8], output: &mut [f32]) {
        assert_eq!(x.len(), output.len(), "elements of the output");
        for (y, &q) in output.iter_mut().zip(x) {
            *y = self.dequantize(q);
        }
    }

    /// [batch, channels, pixels] floats to [batch, pixels, padded channels] bytes; channels that are filled up hold the
    /// zero point.
    pub fn quantize_channels_last(&self, x: &[f32], channels: usize, pixels: usize, padded: usize, output: &mut [u8]) {
        assert!(padded >= channels && channels * pixels > 0, "an empty image, or {padded} of {channels} channels");
        assert_eq!(x.len() / channels * padded, output.len(), "elements of the output");
        let images = x.chunks_exact(channels * pixels).zip(output.chunks_exact_mut(padded * pixels));
        for (x, output) in images {
            for (channel, x) in x.chunks_exact(pixels).enumerate() {
                for (pixel, &x) in output.chunks_exact_mut(padded).zip(x) {
                    pixel[channel] = self.quantize(x);
                }
            }
            for pixel in output.chunks_exact_mut(padded) {
                pixel[channels..].fill(self.zero_point);
            }
        }
    }

    /// [batch, pixels, channels] bytes to [batch, channels, pixels] floats.
    pub fn dequantize_channels_first(&self, x: &[u8], channels: usize, pixels: usize, output: &mut [f32]) {
        assert!(channels * pixels > 0, "an empty image");
        assert_eq!(x.len(), output.len(), "elements of the output");
        let images = x.chunks_exact(channels * pixels).zip(output.chunks_exact_mut(channels * pixels));
        for (x, output) in images {
            for (channel, plane) in output.chunks_exact_mut(pixels).enumerate() {
                for (y, pixel) in plane.iter_mut().zip(x.chunks_exact(channels)) {
                    *y = self.dequantize(pixel[channel]);
                }
            }
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
        for (column, output) in output.chunks_exact_mut(rows).enumerate() {
            for (y, row) in output.iter_mut().zip(x.chunks_exact(columns)) {
                *y = row[column];
            }
        }
    }
}
