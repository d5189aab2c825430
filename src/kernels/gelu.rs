//! GELU of floats that stand between integers.

use super::epilogue::Quantization;
use super::rounded::{Between, PART, gelu};
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
        assert_eq!(x.len(), output.len(), "elements of the output");
        let row = self.factors.len().max(1);
        assert!(x.len().is_multiple_of(row), "rows of {row} elements");
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
        let row = if factors.is_empty() { x.len().max(1) } else { factors.len() };
        let (mut buffer, mut between) = ([0.0; PART], Between::default());
        for (x, output) in x.chunks_exact(row).zip(output.chunks_exact_mut(row)) {
            for (index, (x, output)) in x.chunks(PART).zip(output.chunks_mut(PART)).enumerate() {
                let y = &mut buffer[..x.len()];
                gelu::<FUSED>(x, y, &mut between);
                match factors.get(index * PART..) {
                    Some(factors) if !factors.is_empty() => {
                        for ((to, y), factor) in output.iter_mut().zip(&*y).zip(factors) {
                            *to = finish(y * factor);
                        }
                    }
                    _ => {
                        for (to, &y) in output.iter_mut().zip(&*y) {
                            *to = finish(y);
                        }
                    }
                }
            }
        }
    }
}
