//! What a tile does with its sums, one row at a time.

use super::vector::Vector;
use super::{depthwise, tile};
use crate::kernels::epilogue::{Addition, Epilogue, Output};

/// Writes the sums of one row of a tile.
///
/// # Safety
///
/// `at + valid` elements must lie in the output (and the residual), and the constants of whole registers from `column` on
/// must be readable; the CPU must have the instruction set of `V`.
pub(super) trait Finish<V: Vector> {
    unsafe fn row<const N: usize>(&self, sums: [V; N], column: usize, at: usize, valid: usize);
}

/// Requantized sums.
#[derive(Clone, Copy)]
pub(super) struct ToBytes<const RESIDUAL: bool> {
    pub(super) multipliers: *const f32,
    pub(super) zero_point: i32,
    pub(super) low: i32,
    pub(super) high: i32,
    /// Only with a residual.
    pub(super) addition: Addition,
    pub(super) residual: *const u8,
    pub(super) output: *mut u8,
}

/// Scaled sums, or sums as they are.
#[derive(Clone, Copy)]
pub(super) enum ToWords {
    Floats { scales: *const f32, bias: *const f32, clamp: [f32; 2], output: *mut f32 },
    Integers { output: *mut i32 },
}

/// The finish of an epilogue with its output.
pub(super) enum AnyFinish {
    Bytes(ToBytes<false>),
    WithResidual(ToBytes<true>),
    Words(ToWords),
}

impl AnyFinish {
    pub(super) fn new(epilogue: &Epilogue, residual: Option<&[u8]>, output: Output) -> AnyFinish {
        match (epilogue, output) {
            (Epilogue::Requantize(requantize), Output::U8(output)) => {
                let bytes = ToBytes::<false> {
                    multipliers: requantize.multipliers.as_ptr(),
                    zero_point: requantize.zero_point.into(),
                    low: requantize.clamp[0].into(),
                    high: requantize.clamp[1].into(),
                    addition: Addition { ratios: [0.0; 2], offset: 0.0, clamp: [0, 255] },
                    residual: std::ptr::null(),
                    output: output.as_mut_ptr(),
                };
                match (requantize.residual, residual) {
                    (Some(addition), Some(residual)) => AnyFinish::WithResidual(bytes.with(addition, residual)),
                    _ => AnyFinish::Bytes(bytes),
                }
            }
            (Epilogue::Scale(scale), Output::F32(output)) => AnyFinish::Words(ToWords::Floats {
                scales: scale.scales.as_ptr(),
                bias: scale.bias.as_ptr(),
                clamp: scale.clamp,
                output: output.as_mut_ptr(),
            }),
            (Epilogue::Integer, Output::I32(output)) => {
                AnyFinish::Words(ToWords::Integers { output: output.as_mut_ptr() })
            }
            _ => panic!("the output is not of the type that the epilogue makes"),
        }
    }

    /// # Safety
    ///
    /// As for [`tile::multiply`].
    pub(super) unsafe fn multiply<K: tile::Kernel>(self, job: &tile::Job<K::Vector>) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                AnyFinish::Bytes(finish) => tile::multiply_to_bytes::<K>(job, &finish),
                AnyFinish::WithResidual(finish) => tile::multiply::<K, _>(job, &finish),
                AnyFinish::Words(finish) => tile::multiply::<K, _>(job, &finish),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`depthwise::convolve`]; `square` tells that the weights are packed for [`depthwise::Kernel::square`].
    pub(super) unsafe fn convolve<K: depthwise::Kernel>(self, line: &depthwise::Line<K::Vector>, square: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                AnyFinish::Bytes(finish) if square => K::square(line, &finish),
                AnyFinish::Bytes(finish) => depthwise::convolve::<K, _>(line, &finish),
                AnyFinish::WithResidual(finish) => depthwise::convolve::<K, _>(line, &finish),
                AnyFinish::Words(finish) => depthwise::convolve::<K, _>(line, &finish),
            }
        }
    }
}

impl ToBytes<false> {
    fn with(self, addition: Addition, residual: &[u8]) -> ToBytes<true> {
        let ToBytes { multipliers, zero_point, low, high, output, .. } = self;
        ToBytes { multipliers, zero_point, low, high, addition, residual: residual.as_ptr(), output }
    }
}

impl<V: Vector, const RESIDUAL: bool> Finish<V> for ToBytes<RESIDUAL> {
    #[inline(always)]
    unsafe fn row<const N: usize>(&self, sums: [V; N], column: usize, at: usize, valid: usize) {
        // SAFETY: the promise of the caller is that of `finish_bytes`.
        unsafe { V::finish_bytes(sums, self, column, at, valid) }
    }
}

/// Writes the registers of a row through `$write`; the last may be cut short.
macro_rules! write_registers {
    ($sums:ident, $valid:ident, $element:ty, $output:expr, |$index:ident, $to:ident| $write:expr) => {
        for $index in 0..N {
            let first = $index * V::LANES;
            let $to = $output.add(first);
            if $valid >= first + V::LANES {
                $write
            } else if $valid > first {
                let mut last = [<$element>::default(); 16];
                {
                    let $to = last.as_mut_ptr();
                    $write
                }
                std::ptr::copy_nonoverlapping(last.as_ptr(), $to, $valid - first);
            }
        }
    };
}

impl<V: Vector> Finish<V> for ToWords {
    #[inline(always)]
    unsafe fn row<const N: usize>(&self, sums: [V; N], column: usize, at: usize, valid: usize) {
        // SAFETY: registers that are not wholly valid go to a buffer of 16 elements, at least as long as a register.
        unsafe {
            match *self {
                ToWords::Floats { scales, bias, clamp, output } => {
                    write_registers!(sums, valid, f32, output.add(at), |i, to| {
                        let at = column + i * V::LANES;
                        sums[i].finish_floats(scales.add(at), bias.add(at), clamp, to)
                    });
                }
                ToWords::Integers { output } => {
                    write_registers!(sums, valid, i32, output.add(at), |i, to| sums[i].store(to));
                }
            }
        }
    }
}
