//! The kernels for x86-64.

mod avx2;
mod depthwise;
mod finish;
mod tile;
mod vector;

use super::aligned::{Aligned, Plain};
use super::epilogue::Output;
use super::geometry::Window;
use super::packing::{Matrix, PANEL};
use super::product::Destination;
use super::taps::{Element, Taps};
use super::terms::Terms;
use depthwise::{Interleave, Line};
use finish::{AnyFinish, Finish};
use tile::Job;
use vector::Vector;

/// A block of rows times all panels of weights.
pub(super) struct Block<'a, X, W> {
    pub(super) taps: &'a Taps<X>,
    pub(super) weights: &'a [W],
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
    pub(super) channels: usize,
    /// A zero point for each channel.
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

/// A function over a job with the features of an instruction set.
trait Kernel {
    type Vector: Vector;
    type Job;

    /// # Safety
    ///
    /// As for the function: [`tile::multiply`] or [`depthwise::line`].
    unsafe fn run<F: Finish<Self::Vector>>(job: &Self::Job, finish: &F);
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
        K: Kernel<Vector = V, Job = Job<V>>,
    {
        let Block { taps, weights, columns, terms, starts, destination } = self;
        let Destination { output, residual, stride, .. } = destination;
        let rows = taps.table.len() / taps.count;
        let end = (rows.max(1) - 1) * stride + columns;
        let holds = |length: usize| length >= end;
        assert!(holds(output.len()) && residual.is_none_or(|r| holds(r.len())), "the output is too short");
        assert!(taps.length % V::GRANULE == 0, "taps are whole granules");
        assert_eq!(
            weights.len(),
            taps.count * taps.length * columns.next_multiple_of(PANEL),
            "weights of another depth"
        );
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
        };
        // SAFETY: the caller's promise, and lengths as checked; terms are filled up to the widest tile.
        unsafe { AnyFinish::new(&terms.epilogue, residual, output).run::<K>(&job) }
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
        K: Kernel<Vector = V, Job = Line<V>>,
    {
        let DepthwiseLine { rows, window, channels, padding, weights, terms, residual, output, scratch } = self;
        let (kernel, stride, dilation) = (window.kernel, window.strides[1], window.dilations[1]);
        let mut present = rows.iter().flatten();
        let line = present.clone().next().map_or(0, |row| row.len());
        assert!(rows.len() == kernel[0] && present.all(|row| row.len() == line), "lines of one length");
        assert!(residual.is_none_or(|residual| residual.len() >= output.len()), "the residual is too short");
        assert!(padding.len() >= channels && line % channels == 0, "whole pixels");
        let blocks = channels.div_ceil(V::PARTS * V::LANES);
        let length = depthwise_length::<V>(kernel) * blocks;
        assert_eq!(weights.len(), length, "weights of another window");
        scratch.rows.clear();
        scratch.rows.extend(rows.iter().map(|row| row.map_or(std::ptr::null(), <[u8]>::as_ptr)));
        scratch.buffer.reserve(depthwise::buffer_length::<V>(kernel, stride, dilation) * size_of::<V>());
        let job = Line {
            rows: scratch.rows.as_ptr(),
            kernel,
            stride,
            dilation,
            left: window.pads[1],
            width: line / channels,
            channels,
            padding: padding.as_ptr(),
            pixels: output.len() / channels,
            weights: weights.as_ptr(),
            bias: terms.bias.as_ptr(),
            buffer: scratch.buffer.as_mut_ptr().cast(),
        };
        // SAFETY: the caller's promise, and lengths as checked; terms are filled up to the widest tile.
        unsafe { AnyFinish::new(&terms.epilogue, residual, output).run::<K>(&job) }
    }
}

/// The weights of one block of channels.
fn depthwise_length<V: Interleave>(kernel: [usize; 2]) -> usize {
    kernel[1] * kernel[0].next_multiple_of(V::GRANULE) * V::PARTS * V::LANES
}

/// Packs the weights of a depthwise convolution; `matrix` is taps x channels.
fn pack_depthwise<V: Interleave, W: Plain>(matrix: &Matrix, kernel: [usize; 2], narrow: fn(i16) -> W) -> Aligned<W> {
    let block = V::PARTS * V::LANES;
    let (groups, length) = (kernel[0].div_ceil(V::GRANULE), depthwise_length::<V>(kernel));
    let mut packed = Aligned::zeros(matrix.columns.div_ceil(block) * length);
    for (index, weights) in packed.chunks_exact_mut(length).enumerate() {
        for lane in 0..block {
            let channel = index * block + depthwise::channel_of_lane::<V>(lane);
            if channel >= matrix.columns {
                continue;
            }
            for (tap, &weight) in matrix.column(channel).iter().enumerate() {
                let (row, column) = (tap / kernel[1], tap % kernel[1]);
                let group = column * groups + row / V::GRANULE;
                weights[(group * block + lane) * V::GRANULE + row % V::GRANULE] = narrow(weight);
            }
        }
    }
    packed
}

/// Kernels, each with the function that runs it.
macro_rules! kernels {
    ($($(#[$doc:meta])* $run:ident($argument:ty) = $kernel:ident, $vector:ty, $job:ty, $features:literal, $function:expr;)*) => {$(
        struct $kernel;

        impl Kernel for $kernel {
            type Vector = $vector;
            type Job = $job;

            unsafe fn run<F: Finish<$vector>>(job: &$job, finish: &F) {
                #[target_feature(enable = $features)]
                unsafe fn run<F: Finish<$vector>>(job: &$job, finish: &F) {
                    // SAFETY: the caller's promise.
                    unsafe { $function(job, finish) }
                }
                // SAFETY: the caller's promise.
                unsafe { run(job, finish) }
            }
        }

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The CPU has the instruction set, and what taps point to is still there.
        pub(super) unsafe fn $run(argument: $argument) {
            // SAFETY: the caller's promise.
            unsafe { argument.run::<$kernel, $vector>() }
        }
    )*};
}

kernels! {
    /// Bytes with pairs that saturate, by AVX2.
    multiply_avx2_bytes(Block<u8, i8>) = Avx2Bytes, avx2::Bytes, Job<avx2::Bytes>, "avx2,fma", tile::multiply;
    /// Words, by AVX2.
    multiply_avx2_words(Block<i16, i16>) = Avx2Words, avx2::Words, Job<avx2::Words>, "avx2,fma", tile::multiply;
    /// A line of a depthwise convolution, by AVX2.
    depthwise_avx2(DepthwiseLine<i16>) = Avx2Depthwise, avx2::Words, Line<avx2::Words>, "avx2,fma",
        depthwise::line::<_, _, 2>;
}

/// The weights of a depthwise convolution for [`depthwise_avx2`].
pub(super) fn pack_depthwise_avx2(matrix: &Matrix, kernel: [usize; 2]) -> Aligned<i16> {
    pack_depthwise::<avx2::Words, i16>(matrix, kernel, |w| w)
}
