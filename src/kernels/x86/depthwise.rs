//! Depthwise convolutions: channels side by side in registers, the taps of a column interleaved so that one instruction
//! sums two or four of them.
//!
//! An output line is computed in parts. For each part the columns of the input are interleaved once into a buffer, and
//! every output pixel that a column belongs to reads it there; some pixels at a time share the weights.

use super::finish::Finish;
use super::vector::Vector;

/// A register that can interleave rows of bytes.
///
/// # Safety
///
/// As for [`Vector`].
pub(super) trait Interleave: Vector {
    /// Registers for the channels of one block.
    const PARTS: usize;

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
    pub(super) channels: usize,
    /// A zero point for each channel.
    pub(super) padding: *const u8,
    /// Of the output.
    pub(super) pixels: usize,
    /// [block][column][group of rows][part][lane][granule]
    pub(super) weights: *const V::Weight,
    pub(super) bias: *const i32,
    /// For [`PART`] pixels: see [`buffer_length`].
    pub(super) buffer: *mut V,
}

/// Pixels whose columns are in the buffer at once.
const PART: usize = 32;

/// Pixels that share the weights.
const SHARING: usize = 4;

/// Registers of the buffer.
pub(super) fn buffer_length<V: Interleave>(kernel: [usize; 2], stride: usize, dilation: usize) -> usize {
    ((PART - 1) * stride + (kernel[1] - 1) * dilation + 1) * kernel[0].div_ceil(V::GRANULE) * V::PARTS
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

/// Computes a line, with `PARTS` as in the trait.
///
/// # Safety
///
/// The CPU has the instruction set. Rows hold `width` pixels of `channels` bytes; weights, bias and the constants of
/// `finish` are there for whole blocks; the output of `finish` holds `pixels` rows of `channels` elements.
#[inline(always)]
pub(super) unsafe fn line<V: Interleave, F: Finish<V>, const PARTS: usize>(line: &Line<V>, finish: &F) {
    // The usual windows as constants, so that their loops are unrolled.
    // SAFETY: the caller's promise.
    unsafe {
        match (line.kernel, line.dilation, line.stride) {
            ([3, 3], 1, 1) => blocks::<V, F, PARTS, 3, 1>(line, finish),
            ([3, 3], 1, 2) => blocks::<V, F, PARTS, 3, 2>(line, finish),
            ([5, 5], 1, 1) => blocks::<V, F, PARTS, 5, 1>(line, finish),
            ([5, 5], 1, 2) => blocks::<V, F, PARTS, 5, 2>(line, finish),
            _ => blocks::<V, F, PARTS, 0, 0>(line, finish),
        }
    }
}

/// `KERNEL` and `STRIDE`: those of a square window without dilation, or zero for any.
#[inline(always)]
unsafe fn blocks<V: Interleave, F: Finish<V>, const PARTS: usize, const KERNEL: usize, const STRIDE: usize>(
    line: &Line<V>,
    finish: &F,
) {
    let block = PARTS * V::LANES;
    let mut first = 0;
    while first < line.pixels {
        let count = (line.pixels - first).min(PART);
        let mut channel = 0;
        while channel < line.channels {
            // SAFETY: the caller's promise.
            unsafe {
                if line.channels - channel >= block {
                    fill::<V, PARTS, KERNEL, STRIDE>(line, first, count, channel, block);
                } else {
                    fill::<V, PARTS, KERNEL, STRIDE>(line, first, count, channel, line.channels - channel);
                }
                let mut pixel = first;
                while pixel + SHARING <= first + count {
                    pixels::<V, F, PARTS, KERNEL, STRIDE, SHARING>(line, finish, channel, first, pixel);
                    pixel += SHARING;
                }
                while pixel < first + count {
                    pixels::<V, F, PARTS, KERNEL, STRIDE, 1>(line, finish, channel, first, pixel);
                    pixel += 1;
                }
            }
            channel += block;
        }
        first += count;
    }
}

/// Interleaves the columns of `count` pixels from `first` on.
#[inline(always)]
unsafe fn fill<V: Interleave, const PARTS: usize, const KERNEL: usize, const STRIDE: usize>(
    line: &Line<V>,
    first: usize,
    count: usize,
    channel: usize,
    valid: usize,
) {
    let ([height, width], stride, dilation) = geometry::<V, KERNEL, STRIDE>(line);
    let start = first * stride;
    let end = (first + count - 1) * stride + (width - 1) * dilation + 1;
    let inside = line.left.clamp(start, end)..(line.left + line.width).clamp(start, end);
    let groups = height.div_ceil(V::GRANULE);
    for group in 0..groups {
        // SAFETY: rows that are not null hold all columns inside; a padding is as long as a pixel.
        unsafe {
            let padding = line.padding.add(channel);
            let to = line.buffer.add(group * PARTS);
            let mut taps = [padding; 4];
            let outside = V::interleave(taps, valid);
            for column in (start..inside.start).chain(inside.end..end) {
                write::<V, PARTS>(to.add((column - start) * groups * PARTS), outside);
            }
            let mut steps = [0; 4];
            for i in 0..V::GRANULE.min(height - group * V::GRANULE) {
                let row = *line.rows.add(group * V::GRANULE + i);
                if !row.is_null() {
                    taps[i] = row.wrapping_add(inside.start.wrapping_sub(line.left) * line.channels + channel);
                    steps[i] = line.channels;
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

/// Sums and finishes `P` neighbours of the part that begins at pixel `first`.
#[inline(always)]
unsafe fn pixels<
    V: Interleave,
    F: Finish<V>,
    const PARTS: usize,
    const KERNEL: usize,
    const STRIDE: usize,
    const P: usize,
>(
    line: &Line<V>,
    finish: &F,
    channel: usize,
    first: usize,
    pixel: usize,
) {
    let ([height, width], stride, dilation) = geometry::<V, KERNEL, STRIDE>(line);
    let groups = height.div_ceil(V::GRANULE);
    let step = V::LANES * V::GRANULE;
    // SAFETY: the caller's promise; the columns are in the buffer.
    unsafe {
        let mut weights = line.weights.add(channel * width * groups * V::GRANULE);
        let mut sums = [[V::splat(0); 4]; P];
        for part in 0..PARTS {
            let bias = V::load(line.bias.add(channel + part * V::LANES));
            for sums in &mut sums {
                sums[part] = bias;
            }
        }
        let columns = line.buffer.add((pixel - first) * stride * groups * PARTS);
        for column in 0..width {
            for group in 0..groups {
                for part in 0..PARTS {
                    let w = V::weights(weights);
                    weights = weights.add(step);
                    for p in 0..P {
                        let at = (p * stride + column * dilation) * groups * PARTS + group * PARTS + part;
                        sums[p][part] = sums[p][part].dot(*columns.add(at), w);
                    }
                }
            }
        }
        let valid = (line.channels - channel).min(PARTS * V::LANES);
        macro_rules! finish {
            ($($p:literal)*) => { $(if $p < P {
                let at = (pixel + $p) * line.channels + channel;
                let sums = V::in_order(sums[$p % P]);
                let mut row = [sums[0]; PARTS];
                row.copy_from_slice(&sums[..PARTS]);
                finish.row(row, channel, at, valid);
            })* };
        }
        finish!(0 1 2 3);
    }
}
