//! The kernels for x86-64.

// Registers are counted: an iterator over them may stay a call, or keep them in memory.
#![allow(clippy::needless_range_loop)]

mod avx2;
mod depthwise;
#[cfg(test)]
mod emulated;
mod elementwise;
mod finish;
mod pairs;
mod square;
mod tile;
mod vector;
mod vnni;

use std::ops::Range;

use super::aligned::{Aligned, Plain};
use super::epilogue::{Epilogue, Output};
use super::geometry::Window;
use super::packing::{Matrix, PANEL};
use super::pairs::PairedPanels;
use super::product::Destination;
use super::taps::{Element, Taps};
use super::terms::Terms;
pub(super) use elementwise::{add, look_up, multiply};

use depthwise::{Interleave, Line, Part};
use finish::{AnyFinish, Finish, ToBytes};
use tile::{Job, Place};
use vector::Vector;

/// A block of rows times all panels of weights.
pub(super) struct Block<'a, X, W> {
    pub(super) taps: &'a Taps<X>,
    pub(super) weights: &'a [W],
    /// What the weights are in pairs of, for the kernel that wants that.
    pub(super) pairs: Option<&'a PairedPanels>,
    pub(super) columns: usize,
    pub(super) terms: &'a Terms,
    /// What the sums of each row start with besides the bias.
    pub(super) starts: Option<&'a [i32]>,
    /// Begins at the first row and column.
    pub(super) destination: Destination<'a>,
}

/// One output line of a depthwise convolution.
pub(super) struct DepthwiseLine<'a, W> {
    /// For every row of the window the line of the image that it meets, if any.
    pub(super) rows: &'a [Option<&'a [u8]>],
    pub(super) window: &'a Window,
    /// Of each pixel.
    pub(super) pitch: usize,
    /// Those that are computed: they start at a multiple of a block, and the weights are theirs.
    pub(super) channels: Range<usize>,
    /// A zero point for each channel of a pixel.
    pub(super) padding: &'a [u8],
    pub(super) weights: &'a [W],
    pub(super) terms: &'a Terms,
    pub(super) residual: Option<&'a [u8]>,
    pub(super) output: Output<'a>,
    pub(super) scratch: &'a mut DepthwiseScratch,
}

#[derive(Default)]
pub(super) struct DepthwiseScratch {
    rows: Vec<*const u8>,
    buffer: Aligned<i8>,
}

impl<'a, X: Element, W> Block<'a, X, W> {
    /// Checks all lengths and runs the kernel.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set of the kernel, and what the taps point to is still there.
    unsafe fn run<K, V>(self)
    where
        V: Vector<Activation = X, Weight = W>,
        K: tile::Kernel<Vector = V>,
    {
        let Block { taps, weights, pairs, columns, terms, starts, destination } = self;
        let Destination { output, residual, stride, .. } = destination;
        let rows = taps.table.len() / taps.count;
        let end = (rows.max(1) - 1) * stride + columns;
        let holds = |length: usize| length >= end;
        assert!(holds(output.len()) && residual.is_none_or(|r| holds(r.len())), "the output is too short");
        assert!(taps.length % V::GRANULE == 0, "taps are whole granules");
        match pairs {
            None => {
                let length = taps.count * taps.length * columns.next_multiple_of(PANEL);
                assert_eq!(weights.len(), length, "weights of another depth");
            }
            Some(pairs) => {
                assert!(taps.count == 1 && taps.length == pairs.depth, "one tap of the depth of the weights");
                assert_eq!(pairs.panels.len(), columns.div_ceil(PANEL), "a panel for each 16 columns");
            }
        }
        assert!(starts.is_none_or(|starts| starts.len() >= rows), "a start for each row");
        let job = Job {
            table: taps.table.as_ptr(),
            rows,
            taps: taps.count,
            length: taps.length,
            weights: weights.as_ptr(),
            columns,
            bias: terms.bias.as_ptr(),
            starts: starts.map_or(std::ptr::null(), <[i32]>::as_ptr),
            stride,
            panels: pairs.map_or(std::ptr::null(), |pairs| pairs.panels.as_ptr()),
            places: pairs.map_or(std::ptr::null(), |pairs| pairs.places.as_ptr()),
        };
        // SAFETY: the caller's promise, and lengths as checked; terms are filled up to the widest tile.
        unsafe { AnyFinish::new(&terms.epilogue, residual, output).multiply::<K>(&job) }
    }
}

impl<W> DepthwiseLine<'_, W> {
    /// Checks all lengths and runs the kernel.
    ///
    /// # Safety
    ///
    /// The CPU has the instruction set of the kernel.
    unsafe fn run<K, V>(self)
    where
        V: Interleave<Weight = W>,
        K: depthwise::Kernel<Vector = V>,
    {
        let DepthwiseLine { rows, window, pitch, channels, padding, weights, terms, residual, output, scratch } = self;
        let square = K::SQUARE && square::suits(window, &terms.epilogue);
        let (kernel, stride, dilation) = (window.kernel, window.strides[1], window.dilations[1]);
        let mut present = rows.iter().flatten();
        let line = present.clone().next().map_or(0, |row| row.len());
        assert!(rows.len() == kernel[0] && present.all(|row| row.len() == line), "lines of one length");
        assert!(residual.is_none_or(|residual| residual.len() >= output.len()), "the residual is too short");
        assert!(padding.len() >= pitch && line % pitch == 0, "whole pixels");
        let block = V::PARTS * V::LANES;
        assert!(channels.start % block == 0 && channels.end <= pitch, "channels of a pixel");
        let length = depthwise_length::<V>(kernel, square) * channels.len().div_ceil(block);
        assert_eq!(weights.len(), length, "weights of another window");
        scratch.rows.clear();
        scratch.rows.extend(rows.iter().map(|row| row.map_or(std::ptr::null(), <[u8]>::as_ptr)));
        let columns = depthwise::columns_length::<V>(kernel, stride, dilation) * size_of::<V>();
        scratch.buffer.reserve(columns + depthwise::sums_length::<V>() * size_of::<V>());
        let buffer = scratch.buffer.as_mut_ptr();
        let job = Line {
            rows: scratch.rows.as_ptr(),
            kernel,
            stride,
            dilation,
            left: window.pads[1],
            width: line / pitch,
            pitch,
            channels,
            padding: padding.as_ptr(),
            pixels: output.len() / pitch,
            weights: weights.as_ptr(),
            bias: terms.bias.as_ptr(),
            columns: buffer.cast(),
            sums: buffer.wrapping_add(columns).cast(),
        };
        // SAFETY: the caller's promise, and lengths as checked; terms are filled up to the widest tile.
        unsafe { AnyFinish::new(&terms.epilogue, residual, output).convolve::<K>(&job, square) }
    }
}

/// The weights of one block of channels.
fn depthwise_length<V: Interleave>(kernel: [usize; 2], square: bool) -> usize {
    let granules = match square {
        true => square::groups(kernel[0]),
        false => kernel[1] * kernel[0].div_ceil(V::GRANULE),
    };
    granules * V::GRANULE * V::PARTS * V::LANES
}

/// Packs the weights of some channels of a depthwise convolution; `matrix` is taps x channels.
fn pack_depthwise<V: Interleave, W: Plain>(
    matrix: &Matrix,
    channels: Range<usize>,
    kernel: [usize; 2],
    square: bool,
    narrow: fn(i16) -> W,
) -> Aligned<W> {
    let block = V::PARTS * V::LANES;
    let (groups, length) = (kernel[0].div_ceil(V::GRANULE), depthwise_length::<V>(kernel, square));
    let mut packed = Aligned::zeros(channels.len().div_ceil(block) * length);
    for (index, weights) in packed.chunks_exact_mut(length).enumerate() {
        for lane in 0..block {
            let channel = channels.start + index * block + depthwise::channel_of_lane::<V>(lane);
            if channel >= channels.end {
                continue;
            }
            for (tap, &weight) in matrix.column(channel).iter().enumerate() {
                let (row, column) = (tap / kernel[1], tap % kernel[1]);
                let (group, place) = match square {
                    true => square::place_of_tap(kernel[0], row, column),
                    false => (column * groups + row / V::GRANULE, row % V::GRANULE),
                };
                weights[(group * block + lane) * V::GRANULE + place] = narrow(weight);
            }
        }
    }
    packed
}

/// An instruction set's functions, and the one that runs them on a block.
macro_rules! multiply {
    ($(#[$doc:meta])* $run:ident($x:ty, $w:ty), $vector:ty, $sum:path, $features:literal $(, $requantize:ident)?) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The CPU has the instruction set, and what the taps point to is still there.
        pub(super) unsafe fn $run(block: Block<$x, $w>) {
            struct Features;

            impl tile::Kernel for Features {
                type Vector = $vector;

                unsafe fn sum(job: &Job<$vector>, place: Place, to: *mut i32) {
                    #[target_feature(enable = $features)]
                    unsafe fn sum(job: &Job<$vector>, place: Place, to: *mut i32) {
                        // SAFETY: the caller's promise.
                        unsafe { $sum(job, place, to) }
                    }
                    // SAFETY: the caller's promise.
                    unsafe { sum(job, place, to) }
                }

                unsafe fn finish<F: Finish<$vector>>(finish: &F, job: &Job<$vector>, place: Place, from: *const i32) {
                    #[target_feature(enable = $features)]
                    unsafe fn rows<F: Finish<$vector>>(finish: &F, job: &Job<$vector>, place: Place, from: *const i32) {
                        // SAFETY: the caller's promise.
                        unsafe { tile::finish_rows(finish, job, place, from) }
                    }
                    // SAFETY: the caller's promise.
                    unsafe { rows(finish, job, place, from) }
                }

                $(
                    const REQUANTIZES: bool = true;

                    unsafe fn requantize(to: &ToBytes<false>, job: &Job<$vector>, place: Place) {
                        #[target_feature(enable = $features)]
                        unsafe fn requantize(to: &ToBytes<false>, job: &Job<$vector>, place: Place) {
                            // SAFETY: the caller's promise.
                            unsafe { tile::$requantize(to, job, place) }
                        }
                        // SAFETY: the caller's promise.
                        unsafe { requantize(to, job, place) }
                    }
                )?
            }
            // SAFETY: the caller's promise.
            unsafe { block.run::<Features, $vector>() }
        }
    };
}

/// The same for a line of a depthwise convolution; `$parts` is the vector's.
macro_rules! depthwise {
    ($(#[$doc:meta])* $run:ident($w:ty), $vector:ty, $parts:literal, $features:literal $(, $square:ident)?) => {
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The CPU has the instruction set.
        pub(super) unsafe fn $run(line: DepthwiseLine<$w>) {
            struct Features;

            impl depthwise::Kernel for Features {
                type Vector = $vector;

                unsafe fn sum(line: &Line<$vector>, part: Part) {
                    #[target_feature(enable = $features)]
                    unsafe fn sum(line: &Line<$vector>, part: Part) {
                        // SAFETY: the caller's promise.
                        unsafe { depthwise::sum::<$vector, $parts>(line, part) }
                    }
                    // SAFETY: the caller's promise.
                    unsafe { sum(line, part) }
                }

                unsafe fn finish<F: Finish<$vector>>(finish: &F, line: &Line<$vector>, part: Part) {
                    #[target_feature(enable = $features)]
                    unsafe fn pixels<F: Finish<$vector>>(finish: &F, line: &Line<$vector>, part: Part) {
                        // SAFETY: the caller's promise.
                        unsafe { depthwise::finish_pixels::<$vector, F, $parts>(finish, line, part) }
                    }
                    // SAFETY: the caller's promise.
                    unsafe { pixels(finish, line, part) }
                }

                $(
                    const SQUARE: bool = true;

                    unsafe fn square(line: &Line<$vector>, to: &ToBytes<false>) {
                        #[target_feature(enable = $features)]
                        unsafe fn square(line: &Line<$vector>, to: &ToBytes<false>) {
                            // SAFETY: the caller's promise.
                            unsafe { $square::convolve(line, to) }
                        }
                        // SAFETY: the caller's promise.
                        unsafe { square(line, to) }
                    }
                )?
            }
            // SAFETY: the caller's promise.
            unsafe { line.run::<Features, $vector>() }
        }
    };
}

multiply! {
    /// Bytes with pairs that saturate, by AVX2.
    multiply_avx2_bytes(u8, i8), avx2::Bytes<6>, tile::sum, "avx2,fma"
}
multiply! {
    /// The same, in pairs.
    multiply_avx2_pairs(u8, i8), pairs::Pairs, pairs::sum, "avx2,fma"
}
multiply! {
    /// Words, by AVX2.
    multiply_avx2_words(i16, i16), avx2::Words, tile::sum, "avx2,fma"
}
multiply! {
    /// Bytes, by AVX-VNNI.
    multiply_avx_vnni(u8, i8), vnni::Vex, tile::sum, "avx2,fma,avxvnni"
}
multiply! {
    /// Bytes, by AVX-512 VNNI.
    multiply_avx512_vnni(u8, i8), vnni::Wide, tile::sum, "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", requantize
}
depthwise! {
    /// Pairs of taps as words, by AVX2.
    depthwise_avx2(i16), avx2::Words, 2, "avx2,fma"
}
depthwise! {
    /// Fours of taps, by AVX-VNNI.
    depthwise_avx_vnni(i8), vnni::Vex, 4, "avx2,fma,avxvnni", square
}
depthwise! {
    /// Fours of taps of 64 channels at a time, by AVX-512 VNNI.
    depthwise_avx512_vnni_wide(i8), vnni::Wide, 4, "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", square
}
depthwise! {
    /// Fours of taps of 32 channels at a time, by AVX-512 VNNI.
    depthwise_avx512_vnni_narrow(i8), vnni::Evex, 4, "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", square
}

#[cfg(test)]
multiply! {
    /// As AVX-VNNI, but for the dot product.
    multiply_without_vnni(u8, i8), vnni::WithoutVnni, tile::sum, "avx2,fma"
}
#[cfg(test)]
depthwise! {
    /// As AVX-VNNI, but for the dot product.
    depthwise_without_vnni(i8), vnni::WithoutVnni, 4, "avx2,fma", square
}

/// The weights of a depthwise convolution for [`depthwise_avx2`].
pub(super) fn pack_depthwise_avx2(matrix: &Matrix, window: &Window) -> Aligned<i16> {
    pack_depthwise::<avx2::Words, i16>(matrix, 0..matrix.columns, window.kernel, false, |w| w)
}

/// The weights of some channels for [`depthwise_avx_vnni`] and [`depthwise_avx512_vnni_narrow`].
pub(super) fn pack_depthwise_narrow(
    matrix: &Matrix,
    channels: Range<usize>,
    window: &Window,
    epilogue: &Epilogue,
) -> Aligned<i8> {
    pack_fours::<vnni::Vex>(matrix, channels, window, epilogue)
}

/// The weights of some channels for [`depthwise_avx512_vnni_wide`].
pub(super) fn pack_depthwise_wide(
    matrix: &Matrix,
    channels: Range<usize>,
    window: &Window,
    epilogue: &Epilogue,
) -> Aligned<i8> {
    pack_fours::<vnni::Wide>(matrix, channels, window, epilogue)
}

/// Bytes, for a register that sums four taps at once.
fn pack_fours<V: Interleave>(
    matrix: &Matrix,
    channels: Range<usize>,
    window: &Window,
    epilogue: &Epilogue,
) -> Aligned<i8> {
    let square = square::suits(window, epilogue);
    pack_depthwise::<V, i8>(matrix, channels, window.kernel, square, |w| w as i8)
}
