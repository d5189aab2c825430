//! Layer normalization of floats.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

use super::exponential::{LANES, sum};
use super::widest::widest;

/// Normalizes rows of `scale.len()` elements: (x - mean) / √(variance + ε) · scale + bias.
pub fn layer_normalization(x: &mut [f32], epsilon: f32, scale: &[f32], bias: Option<&[f32]>) {
    let length = scale.len();
    assert!(length > 0 && x.len().is_multiple_of(length), "rows of {length} elements");
    assert!(bias.is_none_or(|bias| bias.len() == length), "a bias for each element of a row");
    widest(
        #[inline(always)]
        || {
            for row in x.chunks_exact_mut(length) {
                normalize(row, epsilon, scale, bias);
            }
        },
    );
}

#[inline(always)]
fn normalize(row: &mut [f32], epsilon: f32, scale: &[f32], bias: Option<&[f32]>) {
    let length = row.len() as f32;
    let mean = shifted_sum::<false>(row, 0.0) / length;
    let variance = shifted_sum::<true>(row, mean) / length;
    let factor = 1.0 / (variance + epsilon).sqrt();
    match bias {
        Some(bias) => {
            for ((x, scale), bias) in row.iter_mut().zip(scale).zip(bias) {
                *x = (*x - mean) * factor * scale + bias;
            }
        }
        None => {
            for (x, scale) in row.iter_mut().zip(scale) {
                *x = (*x - mean) * factor * scale;
            }
        }
    }
}

/// a + b, element by element.
pub fn add_floats(a: &[f32], b: &[f32], output: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == output.len(), "operands as long as the output");
    widest(
        #[inline(always)]
        || {
            for ((y, a), b) in output.iter_mut().zip(a).zip(b) {
                *y = a + b;
            }
        },
    );
}

/// Σ (x - shift), or of its squares.
#[inline(always)]
fn shifted_sum<const SQUARED: bool>(row: &[f32], shift: f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            sums[lane] += power::<SQUARED>(chunk[lane] - shift);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += power::<SQUARED>(x - shift);
    }
    sum(sums)
}

#[inline(always)]
fn power<const SQUARED: bool>(x: f32) -> f32 {
    if SQUARED { x * x } else { x }
}
