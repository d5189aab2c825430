//! The kernels for x86-64.

mod avx2;
mod depthwise;
mod finish;
mod tile;
mod vector;

use super::packing::PANEL;
use super::product::Destination;
use super::taps::{Element, Taps};
use super::terms::Terms;
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

impl<'a, X: Element, W> Block<'a, X, W> {
    /// The job, and the finish that the epilogue asks for. All lengths are checked here; `depth` is the packed one.
    fn job(self, depth: usize) -> (Job<X, W>, AnyFinish) {
        let Block { taps, weights, columns, terms, starts, destination } = self;
        let Destination { output, residual, stride, .. } = destination;
        let rows = taps.table.len() / taps.count;
        let end = (rows.max(1) - 1) * stride + columns;
        assert!(
            output.len() >= end && residual.is_none_or(|residual| residual.len() >= end),
            "the output is too short"
        );
        assert_eq!(weights.len(), depth * columns.next_multiple_of(PANEL), "weights of another depth");
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
        (job, AnyFinish::new(&terms.epilogue, residual, output))
    }

    /// # Safety
    ///
    /// The CPU has the instruction set of `kernel`, whose packed weights have that depth, and what the taps point to is
    /// still there.
    unsafe fn run<K: Kernel<Activation = X, Weight = W>>(self, kernel: K, depth: usize) {
        let (job, finish) = self.job(depth);
        // SAFETY: the caller's promise, and lengths as checked; terms are filled up to the widest tile.
        unsafe { finish.run(&kernel, &job) }
    }
}

/// A function over a job with the features of an instruction set.
trait Kernel {
    type Vector: Vector;
    type Activation;
    type Weight;

    /// # Safety
    ///
    /// As for the function, [`tile::multiply`] or one of [`depthwise`].
    unsafe fn multiply<F: Finish<Self::Vector>>(&self, job: &Job<Self::Activation, Self::Weight>, finish: &F);
}

/// Kernels, each with the function that runs it on a block.
macro_rules! kernels {
    ($($(#[$doc:meta])* $run:ident($x:ty, $w:ty) = $kernel:ident<$vector:ty>, $function:path, $features:literal, $depth:expr;)*) => {$(
        struct $kernel;

        impl Kernel for $kernel {
            type Vector = $vector;
            type Activation = $x;
            type Weight = $w;

            unsafe fn multiply<F: Finish<$vector>>(&self, job: &Job<$x, $w>, finish: &F) {
                #[target_feature(enable = $features)]
                unsafe fn multiply<F: Finish<$vector>>(job: &Job<$x, $w>, finish: &F) {
                    // SAFETY: the caller's promise.
                    unsafe { $function(job, finish) }
                }
                // SAFETY: the caller's promise.
                unsafe { multiply(job, finish) }
            }
        }

        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// The CPU has the instruction set, and what the taps point to is still there.
        pub(super) unsafe fn $run(block: Block<$x, $w>) {
            let depth = $depth(block.taps, block.columns);
            // SAFETY: the caller's promise.
            unsafe { block.run($kernel, depth) }
        }
    )*};
}

/// The packed depth of a product.
fn product_depth<const GRANULE: usize, X>(taps: &Taps<X>, _: usize) -> usize {
    assert!(taps.length % GRANULE == 0, "taps are whole granules");
    taps.count * taps.length
}

/// The packed depth of a depthwise convolution.
fn depthwise_depth<const GRANULE: usize, X>(taps: &Taps<X>, columns: usize) -> usize {
    assert_eq!(taps.length, columns, "a byte for each channel");
    taps.count.next_multiple_of(GRANULE)
}

kernels! {
    /// Bytes with pairs that saturate, by AVX2.
    multiply_avx2_bytes(u8, i8) = Avx2Bytes<avx2::Bytes>, tile::multiply, "avx2,fma", product_depth::<4, u8>;
    /// Words, by AVX2.
    multiply_avx2_words(i16, i16) = Avx2Words<avx2::Words>, tile::multiply, "avx2,fma", product_depth::<2, i16>;
    /// A depthwise convolution by AVX2: taps hold a byte for each channel.
    depthwise_avx2(u8, i16) = Avx2Depthwise<avx2::Words>, depthwise::multiply_words, "avx2,fma", depthwise_depth::<2, u8>;
}
