//! Depthwise convolutions with the usual windows, 3 x 3 and 5 x 5, by VNNI: the columns of a window stay in registers from
//! pixel to pixel, and bytes are written at once, without a buffer of sums and without putting lanes into order.
//!
//! Of five rows, four are interleaved; the fifth row's taps are interleaved for each pixel instead.

use super::depthwise::{Interleave, Line, PIXELS};
use super::finish::ToBytes;
use crate::kernels::epilogue::Epilogue;
use crate::kernels::geometry::Window;

/// A register whose interleaved sums can be requantized as they are.
///
/// # Safety
///
/// As for [`Vector`](super::vector::Vector).
pub(super) trait Requantize: Interleave {
    /// Puts what is in the order of channels into lanes: the inverse of [`Interleave::in_order`].
    unsafe fn in_lanes(ordered: [Self; 4]) -> [Self; 4];

    /// Requantizes interleaved sums by `multipliers` in the same lanes, and writes the first `valid` channels at `at`.
    unsafe fn finish_lanes(sums: [Self; 4], multipliers: *const f32, to: &ToBytes<false>, at: usize, valid: usize);
}

/// Constants of a block of channels, for each lane.
#[repr(align(64))]
struct Lanes([i32; 64]);

/// The columns of a line, in the coordinates of the padded image.
struct Columns<const ROWS: usize> {
    /// The first pixel inside of each row.
    rows: [*const u8; ROWS],
    /// From pixel to pixel; zero for a row outside of the image.
    steps: [usize; ROWS],
    outside: *const u8,
    left: usize,
    width: usize,
    valid: usize,
}

/// Interleaved registers of the weights of a block: columns of rows 0 to 3, then the fifth row's taps in fours.
pub(super) fn groups(kernel: usize) -> usize {
    if kernel == 5 { 7 } else { 3 }
}

/// Which register, and which place in each of its lanes, holds the weight of a tap.
pub(super) fn place_of_tap(kernel: usize, row: usize, column: usize) -> (usize, usize) {
    match row {
        4 => (kernel + column / 4, column % 4),
        _ => (column, row),
    }
}

/// Whether a convolution is one of these.
pub(super) fn suits(window: &Window, epilogue: &Epilogue) -> bool {
    matches!(epilogue, Epilogue::Requantize(requantize) if requantize.residual.is_none())
        && matches!(window.kernel, [3, 3] | [5, 5])
        && window.dilations == [1, 1]
        && window.strides[1] <= 2
}

/// Computes a line whose window [`suits`].
///
/// # Safety
///
/// As for [`convolve`](super::depthwise::convolve), with the weights packed by [`place_of_tap`].
#[inline(always)]
pub(super) unsafe fn convolve<V: Requantize>(line: &Line<V>, to: &ToBytes<false>) {
    let block = 4 * V::LANES;
    for channel in line.channels.clone().step_by(block) {
        let valid = (line.channels.end - channel).min(block);
        // Widths and strides as constants, so that loads need no mask and addresses no product.
        // SAFETY: the caller's promise.
        unsafe {
            match (line.kernel[0], line.stride, valid == block) {
                (3, 1, true) => three::<V, 1>(line, to, channel, block),
                (3, 1, false) => three::<V, 1>(line, to, channel, valid),
                (3, _, true) => three::<V, 2>(line, to, channel, block),
                (3, _, false) => three::<V, 2>(line, to, channel, valid),
                (_, 1, true) => five::<V, 1>(line, to, channel, block),
                (_, 1, false) => five::<V, 1>(line, to, channel, valid),
                (_, _, true) => five::<V, 2>(line, to, channel, block),
                (_, _, false) => five::<V, 2>(line, to, channel, valid),
            }
        }
    }
}

impl<const ROWS: usize> Columns<ROWS> {
    #[inline(always)]
    unsafe fn new<V: Interleave>(line: &Line<V>, channel: usize, valid: usize) -> Self {
        let outside = line.padding.wrapping_add(channel);
        let (mut rows, mut steps) = ([outside; ROWS], [0; ROWS]);
        for i in 0..ROWS {
            // SAFETY: a line has as many rows as its window.
            let row = unsafe { *line.rows.add(i) };
            if !row.is_null() {
                (rows[i], steps[i]) = (row.wrapping_add(channel), line.pitch);
            }
        }
        Columns { rows, steps, outside, left: line.left, width: line.width, valid }
    }

    /// The pixel of a row in a column.
    #[inline(always)]
    fn pixel(&self, row: usize, column: usize) -> *const u8 {
        let x = column.wrapping_sub(self.left);
        match x < self.width {
            true => self.rows[row].wrapping_add(x.wrapping_mul(self.steps[row])),
            false => self.outside,
        }
    }

    /// The upper rows of a column; with three, the fourth place meets weights of zero.
    #[inline(always)]
    unsafe fn interleaved<V: Interleave>(&self, column: usize) -> [V; 4] {
        let mut rows = [self.outside; 4];
        for i in 0..4 {
            rows[i] = self.pixel(i.min(ROWS - 1), column);
        }
        // SAFETY: rows hold all columns inside; a padding is as long as a pixel.
        unsafe { V::interleave(rows, self.valid) }
    }
}

/// `bias` and `multipliers` of a block, in lanes.
#[inline(always)]
unsafe fn constants<V: Requantize>(line: &Line<V>, to: &ToBytes<false>, channel: usize) -> ([V; 4], Lanes) {
    let multipliers = to.multipliers.cast::<i32>();
    let mut lanes = Lanes([0; 64]);
    // SAFETY: constants are there for whole blocks.
    unsafe {
        let (mut bias, mut scale) = ([V::splat(0); 4], [V::splat(0); 4]);
        for i in 0..4 {
            bias[i] = V::load(line.bias.add(channel + i * V::LANES));
            scale[i] = V::load(multipliers.add(channel + i * V::LANES));
        }
        let scale = V::in_lanes(scale);
        for i in 0..4 {
            scale[i].store(lanes.0.as_mut_ptr().add(i * V::LANES));
        }
        (V::in_lanes(bias), lanes)
    }
}

#[inline(always)]
unsafe fn three<V: Requantize, const STRIDE: usize>(line: &Line<V>, to: &ToBytes<false>, channel: usize, valid: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let columns = Columns::<3>::new(line, channel, valid);
        let (bias, multipliers) = constants(line, to, channel);
        let multipliers = multipliers.0.as_ptr().cast();
        let from = line.weights.add((channel - line.channels.start) * groups(3) * 4);
        let mut weights = [[bias[0]; 4]; 3];
        for group in 0..3 {
            for i in 0..4 {
                weights[group][i] = V::weights(from.add((group * 4 + i) * V::LANES * 4));
            }
        }
        let (mut first, mut second) = (columns.interleaved::<V>(0), columns.interleaved::<V>(1));
        for pixel in 0..line.pixels {
            let third = columns.interleaved::<V>(pixel * STRIDE + 2);
            let mut sums = bias;
            for i in 0..4 {
                sums[i] =
                    sums[i].dot(first[i], weights[0][i]).dot(second[i], weights[1][i]).dot(third[i], weights[2][i]);
            }
            V::finish_lanes(sums, multipliers, to, pixel * line.pitch + channel, valid);
            (first, second) = match STRIDE {
                1 => (second, third),
                _ => (third, columns.interleaved::<V>(pixel * STRIDE + 3)),
            };
        }
    }
}

/// A block of channels of a line with a window of 5 x 5.
struct Five<'a, V: Requantize> {
    line: &'a Line<V>,
    to: &'a ToBytes<false>,
    columns: Columns<5>,
    bias: [V; 4],
    multipliers: Lanes,
    weights: *const V::Weight,
    channel: usize,
}

#[inline(always)]
unsafe fn five<V: Requantize, const STRIDE: usize>(line: &Line<V>, to: &ToBytes<false>, channel: usize, valid: usize) {
    // SAFETY: the caller's promise; the buffer is that of two groups of rows, which is larger.
    unsafe {
        let columns = Columns::<5>::new(line, channel, valid);
        let (bias, multipliers) = constants(line, to, channel);
        let weights = line.weights.add((channel - line.channels.start) * groups(5) * 4);
        let block = Five { line, to, columns, bias, multipliers, weights, channel };
        for start in (0..line.pixels).step_by(PIXELS) {
            let count = PIXELS.min(line.pixels - start);
            for column in 0..(count - 1) * STRIDE + 5 {
                let interleaved = block.columns.interleaved::<V>(start * STRIDE + column);
                for i in 0..4 {
                    line.columns.add(column * 4 + i).write(interleaved[i]);
                }
            }
            let mut pixel = 0;
            while pixel + 2 <= count {
                block.pixels::<STRIDE, 2>(start, pixel, valid);
                pixel += 2;
            }
            if pixel < count {
                block.pixels::<STRIDE, 1>(start, pixel, valid);
            }
        }
    }
}

impl<V: Requantize> Five<'_, V> {
    #[inline(always)]
    unsafe fn weight(&self, group: usize, i: usize) -> V {
        // SAFETY: weights are there for whole blocks.
        unsafe { V::weights(self.weights.add((group * 4 + i) * V::LANES * 4)) }
    }

    /// Computes `P` neighbours, which share the weights.
    #[inline(always)]
    unsafe fn pixels<const STRIDE: usize, const P: usize>(&self, start: usize, pixel: usize, valid: usize) {
        // SAFETY: the columns of the pixels are in the buffer.
        unsafe {
            let from = self.line.columns.add(pixel * STRIDE * 4);
            let mut sums = [self.bias; P];
            for group in 0..5 {
                for i in 0..4 {
                    let weight = self.weight(group, i);
                    for p in 0..P {
                        sums[p][i] = sums[p][i].dot(*from.add((group + p * STRIDE) * 4 + i), weight);
                    }
                }
            }
            for p in 0..P {
                self.finish::<STRIDE>(sums[p], start + pixel + p, valid);
            }
        }
    }

    /// Adds the fifth row.
    #[inline(always)]
    unsafe fn finish<const STRIDE: usize>(&self, mut sums: [V; 4], pixel: usize, valid: usize) {
        let first = pixel * STRIDE;
        let mut taps = [self.columns.outside; 5];
        for column in 0..5 {
            taps[column] = self.columns.pixel(4, first + column);
        }
        // SAFETY: the caller's promise; all but the first place of the last group meet weights of zero.
        unsafe {
            let row = V::interleave([taps[0], taps[1], taps[2], taps[3]], valid);
            let last = V::interleave([taps[4]; 4], valid);
            for i in 0..4 {
                sums[i] = sums[i].dot(row[i], self.weight(5, i)).dot(last[i], self.weight(6, i));
            }
            let multipliers = self.multipliers.0.as_ptr().cast();
            V::finish_lanes(sums, multipliers, self.to, pixel * self.line.pitch + self.channel, valid);
        }
    }
}
