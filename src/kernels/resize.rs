//! Resizing channels-last images of bytes; which pixels meet is the caller's to say.

use super::epilogue::Quantization;
use super::geometry::Images;

/// Two input coordinates and the weight of the second one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blend {
    pub first: usize,
    pub second: usize,
    pub weight: f32,
}

/// Copies for every output row and column the input row and column that is given.
pub fn resize_nearest(images: &Images, rows: &[usize], columns: &[usize], x: &[u8], output: &mut [u8]) {
    let ([height, width], channels) = (images.size, images.channels);
    assert_eq!(x.len(), images.len(), "elements of the input");
    assert_eq!(output.len(), images.batch * rows.len() * columns.len() * channels, "elements of the output");
    let mut pixels = output.chunks_exact_mut(channels.max(1));
    for image in 0..images.batch {
        for row in rows {
            let line = &x[(image * height + row) * width * channels..][..width * channels];
            for (column, pixel) in columns.iter().zip(&mut pixels) {
                pixel.copy_from_slice(&line[column * channels..][..channels]);
            }
        }
    }
}

/// Bilinear interpolation of the real values, requantized.
pub struct LinearResize<'a> {
    pub rows: &'a [Blend],
    pub columns: &'a [Blend],
    pub x: Quantization,
    pub y: Quantization,
}

impl LinearResize<'_> {
    pub fn run(&self, images: &Images, x: &[u8], output: &mut [u8]) {
        let ([height, width], channels) = (images.size, images.channels);
        assert_eq!(x.len(), images.len(), "elements of the input");
        assert_eq!(
            output.len(),
            images.batch * self.rows.len() * self.columns.len() * channels,
            "elements of the output"
        );
        let mut pixels = output.chunks_exact_mut(channels.max(1));
        for image in 0..images.batch {
            for row in self.rows {
                let line = |row: usize| &x[(image * height + row) * width * channels..][..width * channels];
                let (top, bottom) = (line(row.first), line(row.second));
                for (column, pixel) in self.columns.iter().zip(&mut pixels) {
                    let (left, right) = (column.first * channels, column.second * channels);
                    for (channel, y) in pixel.iter_mut().enumerate() {
                        let real = |line: &[u8], start: usize| self.x.dequantize(line[start + channel]);
                        let blend = |a: f32, b: f32, weight: f32| a * (1.0 - weight) + b * weight;
                        let top = blend(real(top, left), real(top, right), column.weight);
                        let bottom = blend(real(bottom, left), real(bottom, right), column.weight);
                        *y = self.y.quantize(blend(top, bottom, row.weight));
                    }
                }
            }
        }
    }
}
