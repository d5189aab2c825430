//! GELU of floats that stand between integers.

use super::epilogue::Quantization;
use super::rounded::gelu;
use super::widest::{self, Loop};

/// x · (1 + erf(x / √2)) / 2 · factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Gelu {
    /// None, or one for each element of a row.
    pub factors: Vec<f32>,
}

/// Where results of [`Gelu`] go.
pub enum Activated<'a> {
    Floats(&'a mut [f32]),
    Bytes(&'a mut [u8], Quantization),
}

impl Gelu {
    pub fn run(&self, x: &[f32], output: Activated) {
        let length = match &output {
            Activated::Floats(y) => y.len(),
            Activated::Bytes(y, _) => y.len(),
        };
        assert_eq!(x.len(), length, "elements of the output");
        let row = self.factors.len().max(1);
        assert!(x.len().is_multiple_of(row), "rows of {row} elements");
        match output {
            Activated::Floats(y) => self.over(
                x,
                y,
                #[inline(always)]
                |y| y,
            ),
            Activated::Bytes(y, to) => self.over(
                x,
                y,
                #[inline(always)]
                |y| to.quantize(y),
            ),
        }
    }

    fn over<T>(&self, x: &[f32], output: &mut [T], finish: impl Fn(f32) -> T) {
        widest::run(Over { gelu: self, x, output, finish });
    }
}

struct Over<'a, T, F> {
    gelu: &'a Gelu,
    x: &'a [f32],
    output: &'a mut [T],
    finish: F,
}

impl<T, F: Fn(f32) -> T> Loop for Over<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let Over { gelu: Gelu { factors }, x, output, finish } = self;
        if factors.is_empty() {
            for (y, &x) in output.iter_mut().zip(x) {
                *y = finish(gelu::<FUSED>(x));
            }
            return;
        }
        for (y, x) in output.chunks_exact_mut(factors.len()).zip(x.chunks_exact(factors.len())) {
            for ((y, &x), factor) in y.iter_mut().zip(x).zip(factors) {
                *y = finish(gelu::<FUSED>(x) * factor);
            }
        }
    }
}
