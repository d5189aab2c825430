//! Tiles: some pixels by one or two blocks of output channels, kept in registers from the bias to the clamp.

use super::vector::Vector;
use super::{BLOCK, channels_of_block};

/// A convolution of one image, or one phase of a gradient.
pub(super) struct Job<'a> {
    /// Offsets of the taps from the first input of a window.
    pub(super) taps: &'a [usize],
    /// Pixels of each tile in a row, and where it begins.
    pub(super) tiles: &'a [(usize, usize)],
    pub(super) in_channels: usize,
    /// Elements of the input between blocks, and between the inputs of neighbouring output rows and pixels.
    pub(super) in_block: usize,
    pub(super) in_row: usize,
    pub(super) in_pixel: usize,
    pub(super) rows: usize,
    pub(super) out_blocks: usize,
    /// Elements of the output between blocks, rows and pixels.
    pub(super) out_block: usize,
    pub(super) out_row: usize,
    pub(super) out_pixel: usize,
    /// Null, or one for each output channel.
    pub(super) bias: *const f32,
    /// Null, or laid out as the output.
    pub(super) residual: *const f32,
    pub(super) clamp: Option<[f32; 2]>,
}

/// Splits a row into tiles, with as few narrow ones as there can be.
pub(in crate::kernels) fn tiles<V: Vector>(columns: usize, blocks_together: usize, tiles: &mut Vec<(usize, usize)>) {
    tiles.clear();
    let widest = V::PIXELS[0] / blocks_together;
    let sizes = || V::PIXELS.iter().copied().filter(|&size| size <= widest);
    // Sixes only as far as they leave fours.
    let mut sixes = if widest == 6 { columns / 6 } else { 0 };
    let fits = |sixes: usize| (columns - 6 * sixes).is_multiple_of(4);
    while sixes > 0 && !fits(sixes) {
        sixes -= 1;
    }
    if !fits(sixes) {
        sixes = columns / 6;
    }
    let mut at = 0;
    while at < columns {
        let size = sizes().find(|&size| size <= columns - at && (size != 6 || sixes > 0)).unwrap_or(1);
        sixes -= usize::from(size == 6);
        tiles.push((at, size));
        at += size;
    }
}

/// All blocks of output channels.
///
/// # Safety
///
/// The CPU has the instruction set; every tap of every pixel lies in the input, every pixel in the output; weights are packed
/// for the channels and taps.
#[inline(always)]
pub(super) unsafe fn dense<V: Vector>(job: &Job, x: *const f32, weights: *const f32, y: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match job.in_pixel / BLOCK {
            1 => dense_by::<V, 1>(job, x, weights, y),
            2 => dense_by::<V, 2>(job, x, weights, y),
            _ => dense_by::<V, 0>(job, x, weights, y),
        }
    }
}

/// `STEP` is the pixels from one input to the next, or 0 if that is not known beforehand.
#[inline(always)]
unsafe fn dense_by<V: Vector, const STEP: usize>(job: &Job, x: *const f32, weights: *const f32, y: *mut f32) {
    let mut first = 0;
    let mut weights = weights;
    while first < job.out_blocks {
        let group = V::BLOCKS.min(job.out_blocks - first);
        // SAFETY: the caller's promise.
        unsafe {
            match group {
                2 if V::BLOCKS == 2 => rows::<V, 2, STEP>(job, x, weights, first, y),
                _ => rows::<V, 1, STEP>(job, x, weights, first, y),
            }
            weights = weights.add(job.in_channels * job.taps.len() * group * BLOCK);
        }
        first += group;
    }
}

/// Calls a tile of as many pixels as `$pixels` says.
macro_rules! of_pixels {
    ($vector:ty, $pixels:expr, $tile:ident::<$($parameter:tt),*>($($argument:expr),*)) => {
        match $pixels {
            16 if <$vector>::PIXELS[0] == 16 => $tile::<$vector, 16, $($parameter),*>($($argument),*),
            8 if <$vector>::PIXELS[0] == 16 => $tile::<$vector, 8, $($parameter),*>($($argument),*),
            6 if <$vector>::PIXELS[0] == 6 => $tile::<$vector, 6, $($parameter),*>($($argument),*),
            4 => $tile::<$vector, 4, $($parameter),*>($($argument),*),
            2 => $tile::<$vector, 2, $($parameter),*>($($argument),*),
            _ => $tile::<$vector, 1, $($parameter),*>($($argument),*),
        }
    };
}

pub(in crate::kernels) use of_pixels;

#[inline(always)]
unsafe fn rows<V: Vector, const N: usize, const STEP: usize>(
    job: &Job,
    x: *const f32,
    weights: *const f32,
    first: usize,
    y: *mut f32,
) {
    let pixel = if STEP == 0 { job.in_pixel } else { STEP * BLOCK };
    for row in 0..job.rows {
        for &(at, pixels) in job.tiles {
            // SAFETY: the caller's promise.
            unsafe {
                let x = x.add(row * job.in_row + at * pixel);
                let place = first * job.out_block + row * job.out_row + at * job.out_pixel;
                of_pixels!(V, pixels, dense_tile::<N, STEP>(job, x, weights, first, place, y));
            }
        }
    }
}

#[inline(always)]
unsafe fn dense_tile<V: Vector, const P: usize, const N: usize, const STEP: usize>(
    job: &Job,
    x: *const f32,
    weights: *const f32,
    first: usize,
    place: usize,
    y: *mut f32,
) {
    let pixel = if STEP == 0 { job.in_pixel } else { STEP * BLOCK };
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::zero(); N]; P];
        if !job.bias.is_null() {
            for n in 0..N {
                let bias = V::load(job.bias.add((first + n) * BLOCK));
                for p in 0..P {
                    sums[p][n] = bias;
                }
            }
        }
        let mut weights = weights;
        macro_rules! channel {
            ($x:expr) => {
                let mut w = [V::zero(); N];
                for n in 0..N {
                    w[n] = V::load(weights.add(n * BLOCK));
                }
                for p in 0..P {
                    let x = V::splat($x.add(p * pixel));
                    for n in 0..N {
                        sums[p][n] = sums[p][n].add_product(x, w[n]);
                    }
                }
                weights = weights.add(N * BLOCK);
            };
        }
        for block in 0..job.in_channels.div_ceil(BLOCK) {
            let channels = channels_of_block(job.in_channels, block);
            for &tap in job.taps {
                let x = x.add(block * job.in_block + tap);
                let mut channel = 0;
                while channel + 4 <= channels {
                    channel!(x.add(channel));
                    channel!(x.add(channel + 1));
                    channel!(x.add(channel + 2));
                    channel!(x.add(channel + 3));
                    channel += 4;
                }
                while channel < channels {
                    channel!(x.add(channel));
                    channel += 1;
                }
            }
        }
        for n in 0..N {
            for p in 0..P {
                finish(job, sums[p][n], place + n * job.out_block + p * job.out_pixel, y);
            }
        }
    }
}

/// Adds the residual, clamps, and writes.
#[inline(always)]
unsafe fn finish<V: Vector>(job: &Job, sum: V, at: usize, y: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = sum;
        if !job.residual.is_null() {
            sum = sum.add(V::load(job.residual.add(at)));
        }
        if let Some([low, high]) = &job.clamp {
            sum = sum.max(V::splat(low)).min(V::splat(high));
        }
        sum.store(y.add(at));
    }
}

/// A depthwise convolution: output block by output block, each of its own input block.
///
/// # Safety
///
/// As for [`dense`].
#[inline(always)]
pub(super) unsafe fn depthwise<V: Vector>(job: &Job, x: *const f32, weights: *const f32, y: *mut f32) {
    for block in 0..job.out_blocks {
        for row in 0..job.rows {
            for &(at, pixels) in job.tiles {
                // SAFETY: the caller's promise.
                unsafe {
                    let x = x.add(block * job.in_block + row * job.in_row + at * job.in_pixel);
                    let weights = weights.add(block * job.taps.len() * BLOCK);
                    let place = block * job.out_block + row * job.out_row + at * job.out_pixel;
                    match job.in_pixel / BLOCK {
                        1 => of_pixels!(V, pixels, depthwise_tile::<1>(job, x, weights, block, place, y)),
                        2 => of_pixels!(V, pixels, depthwise_tile::<2>(job, x, weights, block, place, y)),
                        _ => of_pixels!(V, pixels, depthwise_tile::<0>(job, x, weights, block, place, y)),
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn depthwise_tile<V: Vector, const P: usize, const STEP: usize>(
    job: &Job,
    x: *const f32,
    weights: *const f32,
    block: usize,
    place: usize,
    y: *mut f32,
) {
    let pixel = if STEP == 0 { job.in_pixel } else { STEP * BLOCK };
    // SAFETY: the caller's promise.
    unsafe {
        let bias = if job.bias.is_null() { V::zero() } else { V::load(job.bias.add(block * BLOCK)) };
        let mut sums = [bias; P];
        for (index, &tap) in job.taps.iter().enumerate() {
            let w = V::load(weights.add(index * BLOCK));
            let x = x.add(tap);
            for p in 0..P {
                sums[p] = sums[p].add_product(V::load(x.add(p * pixel)), w);
            }
        }
        for p in 0..P {
            finish(job, sums[p], place + p * job.out_pixel, y);
        }
    }
}
