//! Depthwise convolutions: channels side by side in registers, the taps of a column interleaved so that one instruction
//! sums two or four of them.
//!
//! An output line is computed in parts. For each part the columns of the input are interleaved once into a buffer, and
//! every output pixel that a column belongs to reads it there; some pixels at a time share the weights.

use std::ops::Range;

use super::finish::{Finish, ToBytes};
use super::vector::Vector;

/// A register that can interleave rows of bytes.
///
/// # Safety
///
/// As for [`Vector`].
pub(super) trait Interleave: Vector {
    /// Registers for the channels of one block.
    const PARTS: usize;
    /// Pixels that share the weights, four or two: their sums must leave some registers free.
    const SHARING: usize;

    /// Reads the first `valid` channels of a block from each of `GRANULE` rows (the others of the four are not read) into
    /// lanes of one channel each, in the order of [`channel_of_lane`].
    unsafe fn interleave(rows: [*const u8; 4], valid: usize) -> [Self; 4];

    /// Puts the sums of a block into the order of channels.
    unsafe fn in_order(sums: [Self; 4]) -> [Self; 4];
}

/// One output line.
pub(super) struct Line<V: Interleave> {
    /// For every row of the window its first pixel, or null where it lies outside of the image.
    pub(super) rows: *const *const u8,
    /// Height and width.
    pub(super) kernel: [usize; 2],
    /// Horizontally.
    pub(super) stride: usize,
    pub(super) dilation: usize,
    /// Padding before the first pixel of the rows, and their pixels.
    pub(super) left: usize,
    pub(super) width: usize,
    /// From pixel to pixel, of input and output.
    pub(super) pitch: usize,
    /// Those that are computed.
    pub(super) channels: Range<usize>,
    /// A zero point for each channel.
    pub(super) padding: *const u8,
    /// Of the output.
    pub(super) pixels: usize,
    /// Of these channels: [block][column][group of rows][part][lane][granule], or as [`square`](super::square) has them.
    pub(super) weights: *const V::Weight,
    pub(super) bias: *const i32,
    /// For the columns of a part: see [`columns_length`].
    pub(super) columns: *mut V,
    /// For the sums of a part: see [`sums_length`].
    pub(super) sums: *mut V,
}

/// Neighbouring pixels of a line, and the block of channels.
#[derive(Clone, Copy)]
pub(super) struct Part {
    first: usize,
    count: usize,
    channel: usize,
}

/// Pixels whose columns are in the buffer at once.
pub(super) const PIXELS: usize = 32;

/// The functions of an instruction set, compiled with its features.
pub(super) trait Kernel {
    type Vector: Interleave;

    /// # Safety
    ///
    /// As for [`sum`].
    unsafe fn sum(line: &Line<Self::Vector>, part: Part);

    /// # Safety
    ///
    /// As for [`finish_pixels`].
    unsafe fn finish<F: Finish<Self::Vector>>(finish: &F, line: &Line<Self::Vector>, part: Part);

    /// Whether it has the next function.
    const SQUARE: bool = false;

    /// [`square::convolve`](super::square::convolve).
    ///
    /// # Safety
    ///
    /// As for that.
    unsafe fn square(_line: &Line<Self::Vector>, _to: &ToBytes<false>) {
        unreachable!("square windows of an instruction set that has none")
    }
}

/// Registers of the columns of a part.
pub(super) fn columns_length<V: Interleave>(kernel: [usize; 2], stride: usize, dilation: usize) -> usize {
    ((PIXELS - 1) * stride + (kernel[1] - 1) * dilation + 1) * kernel[0].div_ceil(V::GRANULE) * V::PARTS
}

/// Registers of the sums of a part.
pub(super) fn sums_length<V: Interleave>() -> usize {
    PIXELS * V::PARTS
}

/// Which channel of its block is in a lane, counted over the parts.
pub(super) fn channel_of_lane<V: Interleave>(index: usize) -> usize {
    let (part, lane) = (index / V::LANES, index % V::LANES);
    match V::GRANULE {
        // Bytes are interleaved within 128 bits: 4 channels of a part, then the next part.
        4 => lane / 4 * 16 + part * 4 + lane % 4,
        _ => index,
    }
}

/// Computes a line.
///
/// # Safety
///
/// The CPU has the instruction set. Rows hold `width` pixels of `pitch` bytes, the output of `finish` `pixels` of `pitch`
/// elements; `channels` are among them, and start at a multiple of a block. Weights, bias and the constants of `finish`
/// are there for whole blocks.
pub(super) unsafe fn convolve<K: Kernel, F: Finish<K::Vector>>(line: &Line<K::Vector>, finish: &F) {
    let block = K::Vector::PARTS * K::Vector::LANES;
    for first in (0..line.pixels).step_by(PIXELS) {
        for channel in line.channels.clone().step_by(block) {
            let part = Part { first, count: PIXELS.min(line.pixels - first), channel };
            // SAFETY: the caller's promise.
            unsafe {
                K::sum(line, part);
                K::finish(finish, line, part);
            }
        }
    }
}

/// Sums the products of a part, with `PARTS` as in the trait.
///
/// # Safety
///
/// As for [`convolve`].
#[inline(always)]
pub(super) unsafe fn sum<V: Interleave, const PARTS: usize>(line: &Line<V>, part: Part) {
    // The usual windows as constants, so that their loops are unrolled.
    // SAFETY: the caller's promise.
    unsafe {
        match (line.kernel, line.dilation, line.stride) {
            ([3, 3], 1, 1) => sum_part::<V, PARTS, 3, 1>(line, part),
            ([3, 3], 1, 2) => sum_part::<V, PARTS, 3, 2>(line, part),
            ([5, 5], 1, 1) => sum_part::<V, PARTS, 5, 1>(line, part),
            _ => sum_part::<V, PARTS, 0, 0>(line, part),
        }
    }
}

/// `KERNEL` and `STRIDE`: those of a square window without dilation, or zero for any.
#[inline(always)]
unsafe fn sum_part<V: Interleave, const PARTS: usize, const KERNEL: usize, const STRIDE: usize>(
    line: &Line<V>,
    part: Part,
) {
    let block = PARTS * V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        match line.channels.end - part.channel >= block {
            true => fill::<V, PARTS, KERNEL, STRIDE>(line, part, block),
            false => fill::<V, PARTS, KERNEL, STRIDE>(line, part, line.channels.end - part.channel),
        }
        let mut pixel = 0;
        while pixel + V::SHARING <= part.count {
            match V::SHARING {
                4 => sum_pixels::<V, PARTS, KERNEL, STRIDE, 4>(line, part, pixel),
                _ => sum_pixels::<V, PARTS, KERNEL, STRIDE, 2>(line, part, pixel),
            }
            pixel += V::SHARING;
        }
        while pixel < part.count {
            sum_pixels::<V, PARTS, KERNEL, STRIDE, 1>(line, part, pixel);
            pixel += 1;
        }
    }
}

/// Interleaves the columns of a part.
#[inline(always)]
unsafe fn fill<V: Interleave, const PARTS: usize, const KERNEL: usize, const STRIDE: usize>(
    line: &Line<V>,
    part: Part,
    valid: usize,
) {
    let ([height, width], stride, dilation) = geometry::<V, KERNEL, STRIDE>(line);
    let Part { first, count, channel } = part;
    let start = first * stride;
    let end = (first + count - 1) * stride + (width - 1) * dilation + 1;
    let inside = line.left.clamp(start, end)..(line.left + line.width).clamp(start, end);
    let groups = height.div_ceil(V::GRANULE);
    for group in 0..groups {
        // SAFETY: rows that are not null hold all columns inside; a padding is as long as a pixel.
        unsafe {
            let mut taps = [line.padding.add(channel); 4];
            let to = line.columns.add(group * PARTS);
            let outside = V::interleave(taps, valid);
            for column in (start..inside.start).chain(inside.end..end) {
                write::<V, PARTS>(to.add((column - start) * groups * PARTS), outside);
            }
            let mut steps = [0; 4];
            for i in 0..V::GRANULE.min(height - group * V::GRANULE) {
                let row = *line.rows.add(group * V::GRANULE + i);
                if !row.is_null() {
                    let offset = inside.start.wrapping_sub(line.left).wrapping_mul(line.pitch);
                    taps[i] = row.wrapping_add(offset).wrapping_add(channel);
                    steps[i] = line.pitch;
                }
            }
            let mut to = to.add((inside.start - start) * groups * PARTS);
            for _ in inside.clone() {
                write::<V, PARTS>(to, V::interleave(taps, valid));
                to = to.add(groups * PARTS);
                for i in 0..V::GRANULE {
                    taps[i] = taps[i].wrapping_add(steps[i]);
                }
            }
        }
    }
}

/// Writes the first `PARTS` registers.
#[inline(always)]
unsafe fn write<V: Interleave, const PARTS: usize>(to: *mut V, registers: [V; 4]) {
    for part in 0..PARTS {
        // SAFETY: the caller's promise.
        unsafe { to.add(part).write(registers[part]) }
    }
}

#[inline(always)]
fn geometry<V: Interleave, const KERNEL: usize, const STRIDE: usize>(line: &Line<V>) -> ([usize; 2], usize, usize) {
    match KERNEL {
        0 => (line.kernel, line.stride, line.dilation),
        _ => ([KERNEL; 2], STRIDE, 1),
    }
}

/// Sums `P` neighbours of a part from its pixel `pixel` on.
#[inline(always)]
unsafe fn sum_pixels<V: Interleave, const PARTS: usize, const KERNEL: usize, const STRIDE: usize, const P: usize>(
    line: &Line<V>,
    part: Part,
    pixel: usize,
) {
    let ([height, width], stride, dilation) = geometry::<V, KERNEL, STRIDE>(line);
    let groups = height.div_ceil(V::GRANULE);
    // SAFETY: the caller's promise; the columns are in the buffer.
    unsafe {
        let mut weights = line.weights.add((part.channel - line.channels.start) * width * groups * V::GRANULE);
        let mut sums = [[V::splat(0); PARTS]; P];
        let columns = line.columns.add(pixel * stride * groups * PARTS);
        for column in 0..width {
            for group in 0..groups {
                for i in 0..PARTS {
                    let w = V::weights(weights);
                    weights = weights.add(V::LANES * V::GRANULE);
                    for p in 0..P {
                        let at = (p * stride + column * dilation) * groups * PARTS + group * PARTS + i;
                        sums[p][i] = sums[p][i].dot(*columns.add(at), w);
                    }
                }
            }
        }
        for p in 0..P {
            for i in 0..PARTS {
                line.sums.add((pixel + p) * PARTS + i).write(sums[p][i]);
            }
        }
    }
}

/// Adds the bias and finishes the pixels of a part, with `PARTS` as in the trait.
///
/// # Safety
///
/// As for [`convolve`]; the line holds the sums of the part.
#[inline(always)]
pub(super) unsafe fn finish_pixels<V: Interleave, F: Finish<V>, const PARTS: usize>(
    finish: &F,
    line: &Line<V>,
    part: Part,
) {
    let valid = (line.channels.end - part.channel).min(PARTS * V::LANES);
    for pixel in 0..part.count {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = [V::splat(0); 4];
            for i in 0..PARTS {
                sums[i] = *line.sums.add(pixel * PARTS + i);
            }
            let ordered = V::in_order(sums);
            let mut row = [ordered[0]; PARTS];
            for i in 0..PARTS {
                row[i] = ordered[i].add(V::load(line.bias.add(part.channel + i * V::LANES)));
            }
            finish.row(row, part.channel, (part.first + pixel) * line.pitch + part.channel, valid);
        }
    }
}
