//! The gradient of the weights: for each tap, Σ over pixels of x · dy, an outer product of input and output channels.
//!
//! Sixteen outputs and some input channels of one tap are summed in registers, over chunks of pixels that stay in the first
//! cache while all taps and blocks pass by.

use super::vector::Vector;
use super::{BLOCK, channels_of_block};

/// One image and the gradient of its output.
pub(super) struct Pair<'a> {
    pub(super) taps: &'a [usize],
    pub(super) in_channels: usize,
    pub(super) out_blocks: usize,
    /// Elements of the input between blocks, and between the inputs of neighbouring output rows and pixels.
    pub(super) in_block: usize,
    pub(super) in_row: usize,
    pub(super) in_pixel: usize,
    /// Elements of the output's gradient between blocks and rows.
    pub(super) out_block: usize,
    pub(super) out_row: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Pixels of a chunk: 16 KiB of inputs and gradients.
const CHUNK: usize = 128;

/// Some rows, or a part of one.
#[derive(Clone, Copy)]
struct Chunk {
    row: usize,
    column: usize,
    rows: usize,
    columns: usize,
}

impl Pair<'_> {
    fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let (rows, columns) = (self.rows, self.columns);
        let tall = (CHUNK / columns.max(1)).max(1);
        let wide = if rows == 1 { CHUNK } else { columns.max(1) };
        (0..rows).step_by(tall).flat_map(move |row| {
            (0..columns).step_by(wide).map(move |column| Chunk {
                row,
                column,
                rows: tall.min(rows - row),
                columns: wide.min(columns - column),
            })
        })
    }
}

/// Adds to `sums`.
///
/// # Safety
///
/// The CPU has the instruction set; all taps of all pixels lie in `x`, all pixels in `dy`; `sums` holds the gradient.
#[inline(always)]
pub(super) unsafe fn dense<V: Vector>(pair: &Pair, x: *const f32, dy: *const f32, sums: *mut f32) {
    let in_blocks = pair.in_channels.div_ceil(BLOCK);
    for chunk in pair.chunks() {
        for out_block in 0..pair.out_blocks {
            // SAFETY: the caller's promise.
            unsafe {
                let dy = dy.add(out_block * pair.out_block + chunk.row * pair.out_row + chunk.column * BLOCK);
                for in_block in 0..in_blocks {
                    let channels = channels_of_block(pair.in_channels, in_block);
                    let x = x.add(in_block * pair.in_block + chunk.row * pair.in_row + chunk.column * pair.in_pixel);
                    let sums = sums.add((out_block * in_blocks + in_block) * pair.taps.len() * BLOCK * BLOCK);
                    for (tap, &offset) in pair.taps.iter().enumerate() {
                        all_channels::<V>(pair, &chunk, x.add(offset), dy, channels, sums.add(tap * BLOCK * BLOCK));
                    }
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn all_channels<V: Vector>(
    pair: &Pair,
    chunk: &Chunk,
    x: *const f32,
    dy: *const f32,
    channels: usize,
    sums: *mut f32,
) {
    let mut channel = 0;
    while channel < channels {
        let left = channels - channel;
        let count = V::CHANNELS.iter().copied().find(|&count| count <= left).unwrap_or(1);
        // SAFETY: the caller's promise.
        unsafe {
            let (x, sums) = (x.add(channel), sums.add(channel * BLOCK));
            match count {
                16 if V::CHANNELS[0] == 16 => channels_by_step::<V, 16>(pair, chunk, x, dy, sums),
                8 if V::CHANNELS[0] == 16 => channels_by_step::<V, 8>(pair, chunk, x, dy, sums),
                6 if V::CHANNELS[0] == 6 => channels_by_step::<V, 6>(pair, chunk, x, dy, sums),
                4 => channels_by_step::<V, 4>(pair, chunk, x, dy, sums),
                2 => channels_by_step::<V, 2>(pair, chunk, x, dy, sums),
                _ => channels_by_step::<V, 1>(pair, chunk, x, dy, sums),
            }
        }
        channel += count;
    }
}

#[inline(always)]
unsafe fn channels_by_step<V: Vector, const C: usize>(
    pair: &Pair,
    chunk: &Chunk,
    x: *const f32,
    dy: *const f32,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match pair.in_pixel / BLOCK {
            1 => some_channels::<V, C, 1>(pair, chunk, x, dy, sums),
            2 => some_channels::<V, C, 2>(pair, chunk, x, dy, sums),
            _ => some_channels::<V, C, 0>(pair, chunk, x, dy, sums),
        }
    }
}

#[inline(always)]
unsafe fn some_channels<V: Vector, const C: usize, const STEP: usize>(
    pair: &Pair,
    chunk: &Chunk,
    x: *const f32,
    dy: *const f32,
    to: *mut f32,
) {
    let pixel = if STEP == 0 { pair.in_pixel } else { STEP * BLOCK };
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [V::zero(); C];
        for row in 0..chunk.rows {
            let (mut x, mut dy) = (x.add(row * pair.in_row), dy.add(row * pair.out_row));
            macro_rules! pixel {
                ($index:literal) => {
                    let d = V::load(dy.add($index * BLOCK));
                    for c in 0..C {
                        sums[c] = sums[c].add_product(V::splat(x.add($index * pixel + c)), d);
                    }
                };
            }
            let mut left = chunk.columns;
            while left >= 4 {
                pixel!(0);
                pixel!(1);
                pixel!(2);
                pixel!(3);
                (x, dy) = (x.add(4 * pixel), dy.add(4 * BLOCK));
                left -= 4;
            }
            while left > 0 {
                pixel!(0);
                (x, dy) = (x.add(pixel), dy.add(BLOCK));
                left -= 1;
            }
        }
        for c in 0..C {
            let to = to.add(c * BLOCK);
            V::load(to).add(sums[c]).store(to);
        }
    }
}

/// The same for a depthwise convolution: block by block, Σ x · dy channel by channel.
///
/// # Safety
///
/// As for [`dense`].
#[inline(always)]
pub(super) unsafe fn depthwise<V: Vector>(pair: &Pair, x: *const f32, dy: *const f32, sums: *mut f32) {
    for chunk in pair.chunks() {
        for block in 0..pair.out_blocks {
            // SAFETY: the caller's promise.
            unsafe {
                let x = x.add(block * pair.in_block + chunk.row * pair.in_row + chunk.column * pair.in_pixel);
                let dy = dy.add(block * pair.out_block + chunk.row * pair.out_row + chunk.column * BLOCK);
                let sums = sums.add(block * pair.taps.len() * BLOCK);
                let mut tap = 0;
                while tap < pair.taps.len() {
                    let (taps, sums) = (&pair.taps[tap..], sums.add(tap * BLOCK));
                    tap += match taps.len() {
                        3.. => some_taps::<V, 3>(pair, &chunk, x, taps, dy, sums),
                        2 => some_taps::<V, 2>(pair, &chunk, x, taps, dy, sums),
                        _ => some_taps::<V, 1>(pair, &chunk, x, taps, dy, sums),
                    };
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn some_taps<V: Vector, const T: usize>(
    pair: &Pair,
    chunk: &Chunk,
    x: *const f32,
    taps: &[usize],
    dy: *const f32,
    to: *mut f32,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        // Even and odd pixels apart, so that sums need not wait for each other.
        let mut sums = [[V::zero(); 2]; T];
        for row in 0..chunk.rows {
            let (mut x, mut dy) = (x.add(row * pair.in_row), dy.add(row * pair.out_row));
            let mut left = chunk.columns;
            while left >= 2 {
                let (first, second) = (V::load(dy), V::load(dy.add(BLOCK)));
                for t in 0..T {
                    let x = x.add(taps[t]);
                    sums[t][0] = sums[t][0].add_product(V::load(x), first);
                    sums[t][1] = sums[t][1].add_product(V::load(x.add(pair.in_pixel)), second);
                }
                (x, dy) = (x.add(2 * pair.in_pixel), dy.add(2 * BLOCK));
                left -= 2;
            }
            if left > 0 {
                let first = V::load(dy);
                for t in 0..T {
                    sums[t][0] = sums[t][0].add_product(V::load(x.add(taps[t])), first);
                }
            }
        }
        for t in 0..T {
            let to = to.add(t * BLOCK);
            V::load(to).add(sums[t][0].add(sums[t][1])).store(to);
        }
    }
    T
}
