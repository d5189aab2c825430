//! Pooling over channels-last bytes.

use super::epilogue::{Quantization, requantize};
use super::geometry::{Images, OUTSIDE, Rows, Window, Windows};
use super::widest::widest;

/// The largest byte of every window; padding never wins. `size` is that of the output: the window's own, or one more
/// where ONNX's `ceil_mode` asks for it.
pub fn max_pool(window: &Window, images: &Images, size: [usize; 2], x: &[u8], output: &mut [u8]) {
    check(images, size, x, output);
    let channels = images.channels;
    let pixel = |pixel: usize, offsets: &[usize]| {
        let output = &mut output[pixel * channels..][..channels];
        output.fill(0);
        for &offset in offsets.iter().filter(|&&offset| offset != OUTSIDE) {
            for (y, &x) in output.iter_mut().zip(&x[offset..][..channels]) {
                *y = x.max(*y);
            }
        }
    };
    widest(
        #[inline(always)]
        || each_window(window, images, size, pixel),
    );
}

/// An average pooling with its requantization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AveragePool {
    pub window: Window,
    /// Whether padding counts as zeros.
    pub count_include_pad: bool,
    pub x: Quantization,
    pub y: Quantization,
}

impl AveragePool {
    /// round(Σ (x - z) · (x scale / (y scale · count))) + y zero point.
    pub fn run(&self, images: &Images, size: [usize; 2], x: &[u8], output: &mut [u8]) {
        check(images, size, x, output);
        let channels = images.channels;
        let mut sums = vec![0i32; channels];
        let [heights, widths] = [0, 1].map(|axis| self.counts(axis, images.size[axis], size[axis]));
        let pixel = |pixel: usize, offsets: &[usize]| {
            let inside = offsets.iter().filter(|&&offset| offset != OUTSIDE);
            sums.fill(0);
            for &offset in inside.clone() {
                accumulate(&mut sums, &x[offset..][..channels]);
            }
            let read = inside.count();
            let counted = match self.count_include_pad {
                true => heights[pixel / size[1] % size[0]] * widths[pixel % size[1]],
                false => read,
            };
            self.finish(&sums, read, counted, &mut output[pixel * channels..][..channels]);
        };
        widest(
            #[inline(always)]
            || each_window(&self.window, images, size, pixel),
        );
    }

    /// The mean of each channel of each image.
    pub fn global(x_quantization: Quantization, y: Quantization, images: &Images, x: &[u8], output: &mut [u8]) {
        let pool = AveragePool { window: Window::POINT, count_include_pad: false, x: x_quantization, y };
        let (channels, pixels) = (images.channels, images.size[0] * images.size[1]);
        assert_eq!(x.len(), images.len(), "elements of the input");
        assert_eq!(output.len(), images.batch * channels, "elements of the output");
        if images.is_empty() {
            return;
        }
        let mut sums = vec![0i32; channels];
        widest(
            #[inline(always)]
            || {
                for (x, output) in x.chunks_exact(pixels * channels).zip(output.chunks_exact_mut(channels)) {
                    sums.fill(0);
                    for pixel in x.chunks_exact(channels) {
                        accumulate(&mut sums, pixel);
                    }
                    pool.finish(&sums, pixels, pixels, output);
                }
            },
        );
    }

    #[inline(always)]
    fn finish(&self, sums: &[i32], read: usize, counted: usize, output: &mut [u8]) {
        let multiplier = self.x.scale / (self.y.scale * counted as f32);
        let zeros = i32::from(self.x.zero_point) * read as i32;
        for (y, &sum) in output.iter_mut().zip(sums) {
            *y = requantize((sum - zeros) as f32, multiplier, self.y.zero_point, [0, 255]);
        }
    }

    /// For each output coordinate the taps that lie in the padded image.
    fn counts(&self, axis: usize, input: usize, output: usize) -> Vec<usize> {
        let padded = input + self.window.pads[axis] + self.window.pads[axis + 2];
        let taps = |start: usize| {
            (0..self.window.kernel[axis]).filter(|tap| start + tap * self.window.dilations[axis] < padded).count()
        };
        (0..output).map(|output| taps(output * self.window.strides[axis])).collect()
    }
}

#[inline(always)]
fn accumulate(sums: &mut [i32], x: &[u8]) {
    for (sum, &x) in sums.iter_mut().zip(x) {
        *sum += i32::from(x);
    }
}

fn check(images: &Images, size: [usize; 2], x: &[u8], output: &[u8]) {
    assert_eq!(x.len(), images.len(), "elements of the input");
    assert_eq!(output.len(), images.batch * size[0] * size[1] * images.channels, "elements of the output");
}

#[inline(always)]
fn each_window(window: &Window, images: &Images, size: [usize; 2], mut visit: impl FnMut(usize, &[usize])) {
    let rows = Rows::Windows(Windows::forward(window, images, size));
    let mut offsets = Vec::new();
    for pixel in 0..images.batch * size[0] * size[1] {
        rows.fill(pixel..pixel + 1, |at| at, OUTSIDE, &mut offsets);
        visit(pixel, &offsets);
    }
}
