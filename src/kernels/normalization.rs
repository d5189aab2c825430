//! Layer normalization of floats that stand between integers, in the order of sums that MLAS has for AVX2.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

use super::rounded::multiply_add;
use super::widest::{self, Loop};

/// Floats that are summed side by side.
const LANES: usize = 8;

/// Rows of as many elements as there are scales become (x - mean) / √(variance + ε) · scale + bias.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormalization {
    pub epsilon: f32,
    pub scale: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

impl LayerNormalization {
    /// Of x + other.
    pub fn run(&self, x: &[f32], other: Option<&[f32]>, y: &mut [f32]) {
        let length = self.scale.len();
        assert!(length > 0 && x.len().is_multiple_of(length), "rows of {length} elements");
        assert!(self.bias.as_ref().is_none_or(|bias| bias.len() == length), "a bias for each element of a row");
        assert!(
            x.len() == y.len() && other.is_none_or(|other| other.len() == x.len()),
            "operands as long as the output"
        );
        widest::run(Rows { of: self, x, other, y });
    }
}

struct Rows<'a> {
    of: &'a LayerNormalization,
    x: &'a [f32],
    other: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Loop for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let LayerNormalization { epsilon, scale, bias } = self.of;
        let length = scale.len();
        for (index, (x, y)) in self.x.chunks_exact(length).zip(self.y.chunks_exact_mut(length)).enumerate() {
            match self.other {
                Some(other) => {
                    for ((y, x), other) in y.iter_mut().zip(x).zip(&other[index * length..]) {
                        *y = x + other;
                    }
                }
                None => y.copy_from_slice(x),
            }
            normalize::<FUSED>(y, *epsilon, scale, bias.as_deref());
        }
    }
}

#[inline(always)]
fn normalize<const FUSED: bool>(row: &mut [f32], epsilon: f32, scale: &[f32], bias: Option<&[f32]>) {
    let mean = (sum(row) / row.len() as f64) as f32;
    let variance = sum_of_squares::<FUSED>(row, mean) / row.len() as f32;
    let factor = 1.0 / (variance + epsilon).sqrt();
    match bias {
        Some(bias) => {
            for ((x, scale), bias) in row.iter_mut().zip(scale).zip(bias) {
                *x = multiply_add::<FUSED>((*x - mean) * factor, *scale, *bias);
            }
        }
        None => {
            for (x, scale) in row.iter_mut().zip(scale) {
                *x = (*x - mean) * factor * scale;
            }
        }
    }
}

#[inline(always)]
fn sum(row: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            sums[lane] += f64::from(chunk[lane]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x);
    }
    sums.iter().sum()
}

/// Σ (x - mean)².
#[inline(always)]
fn sum_of_squares<const FUSED: bool>(row: &[f32], mean: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            let x = chunk[lane] - mean;
            sums[lane] = multiply_add::<FUSED>(x, x, sums[lane]);
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let mut sum = ((a + e) + (c + g)) + ((b + f) + (d + h));
    // Four at once are squared before they are added, those behind them while they are.
    let (four, rest) = rest.as_chunks::<4>();
    for x in four.iter().flatten() {
        sum += (x - mean) * (x - mean);
    }
    for x in rest {
        sum = multiply_add::<FUSED>(x - mean, x - mean, sum);
    }
    sum
}
