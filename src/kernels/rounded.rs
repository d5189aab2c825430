//! exp and erf of the floats between integers, rounded as MLAS, the kernels of ONNX Runtime, rounds them with AVX-512: what
//! is one unit of the last place off now and then becomes another integer, and from there on all is a little different.
//!
//! Polynomials and orders of sums are those of MLAS (compute.cpp, erf.cpp), which has the polynomials from N. Juffa.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

/// Floats that are summed side by side.
const LANES: usize = 16;

/// Floats that go through a function together, one part of it after the other: each part is short enough for the CPU to
/// work on several floats at once, although every step waits for the one before.
pub(super) const PART: usize = 256;

/// 1.5 · 2²³: adding it rounds to an integer, which is then in the lowest bits.
const ROUNDING: f32 = 12_582_912.0;

/// a · b + c, rounded once if `FUSED`.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn polynomial<const FUSED: bool, const TERMS: usize>(x: f32, coefficients: [f32; TERMS]) -> f32 {
    let mut sum = coefficients[0];
    for at in 1..TERMS {
        sum = multiply_add::<FUSED>(sum, x, coefficients[at]);
    }
    sum
}

/// eˣ of x whose result is a normal number, by a polynomial for the rest of its division by ln 2.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32, coefficients: [f32; 5]) -> f32 {
    // ln 2 in two parts, the first of which has few enough bits that its products are exact.
    const LN_2: [f32; 2] = [6.931_457_5e-1, 1.428_606_8e-6];
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUNDING);
    let n = shifted - ROUNDING;
    let rest = multiply_add::<FUSED>(n, -LN_2[1], multiply_add::<FUSED>(n, -LN_2[0], x));
    let [a, b, c, d, e] = coefficients;
    let exponent = shifted.to_bits().wrapping_sub(ROUNDING.to_bits()).wrapping_add(127);
    polynomial::<FUSED, 7>(rest, [a, b, c, d, e, 1.0, 1.0]) * f32::from_bits(exponent << 23)
}

/// eˣ of x ≤ 0; what would be smaller than the smallest normal number is 0, as it may be beside a sum of at least 1.
#[inline(always)]
pub(super) fn exp_of_negative<const FUSED: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    // A comparison, unlike `max`, lets NaN pass.
    let within = if x < LOWEST { LOWEST } else { x };
    let y = exp::<FUSED>(within, [1.378_059_4e-3, 8.373_124_5e-3, 4.166_953_6e-2, 1.666_647_2e-1, 4.999_998_5e-1]);
    if x < LOWEST { 0.0 } else { y }
}

/// |x|, or where erf is 1.
#[inline(always)]
fn size(x: f32) -> f32 {
    const HIGHEST: f32 = 3.925;
    if x.abs() > HIGHEST { HIGHEST } else { x.abs() }
}

/// ln(1 - erf) of a size, which is far from 0.
#[inline(always)]
fn exponent<const FUSED: bool>(size: f32) -> f32 {
    let coefficients =
        [1.729_489_3e-5, -3.832_086_8e-4, 3.883_934_4e-3, -2.425_456e-2, 1.067_778_5e-1, 6.348_467e-1, 1.287_175_1e-1];
    -multiply_add::<FUSED>(polynomial::<FUSED, 7>(size, coefficients), size, size)
}

/// 1 - erf, by its logarithm.
#[inline(always)]
fn complement<const FUSED: bool>(exponent: f32) -> f32 {
    exp::<FUSED>(exponent, [1.383_198_1e-3, 8.375_5e-3, 4.166_895e-2, 1.666_644_7e-1, 4.999_998_5e-1])
}

/// erf of an x of this size.
#[inline(always)]
fn erf_of<const FUSED: bool>(x: f32, size: f32, complement: f32) -> f32 {
    const SPLIT: f32 = 0.921_875;
    let near = polynomial::<FUSED, 6>(
        size * size,
        [-5.991_049_7e-4, 4.993_396e-3, -2.676_673_4e-2, 1.128_180_25e-1, -3.761_248_6e-1, 1.283_791_5e-1],
    );
    let near = multiply_add::<FUSED>(near, size, size);
    (if size >= SPLIT { 1.0 - complement } else { near }).copysign(x)
}

/// What lies between the parts of a function.
pub(super) struct Between {
    sizes: [f32; PART],
    complements: [f32; PART],
}

impl Default for Between {
    fn default() -> Self {
        Between { sizes: [0.0; PART], complements: [0.0; PART] }
    }
}

/// y = x · (1 + erf(x / √2)) / 2 of at most [`PART`] elements.
#[inline(always)]
pub(super) fn gelu<const FUSED: bool>(x: &[f32], y: &mut [f32], Between { sizes, complements }: &mut Between) {
    let scaled = |x: f32| x * std::f32::consts::FRAC_1_SQRT_2;
    for ((size_of, exponent_of), &x) in sizes.iter_mut().zip(&mut *complements).zip(x) {
        *size_of = size(scaled(x));
        *exponent_of = exponent::<FUSED>(*size_of);
    }
    for complement_of in &mut complements[..x.len()] {
        *complement_of = complement::<FUSED>(*complement_of);
    }
    for (((y, &x), &size), &complement) in y.iter_mut().zip(x).zip(&*sizes).zip(&*complements) {
        *y = x * 0.5 * (erf_of::<FUSED>(scaled(x), size, complement) + 1.0);
    }
}

/// Rows of which each step is taken for all before the next one.
pub(super) const ROWS: usize = 24;

/// exp(x - max) / Σ exp(x - max) over at most [`ROWS`] rows of `length`, which are `stride` elements apart.
#[inline(always)]
pub(super) fn softmax<const FUSED: bool>(rows: &mut [f32], length: usize, stride: usize) {
    let (mut highest, mut sums) = ([[f32::NEG_INFINITY; LANES]; ROWS], [[0f32; LANES]; ROWS]);
    for (row, highest) in rows.chunks(stride).zip(&mut highest) {
        find_highest(&row[..length], highest);
    }
    for ((row, highest), sums) in rows.chunks_mut(stride).zip(&highest).zip(&mut sums) {
        exponentials::<FUSED>(&mut row[..length], highest[0], sums);
    }
    for (row, sums) in rows.chunks_mut(stride).zip(&sums) {
        // The upper half is added to the lower one, the rest in pairs.
        let mut eight = [0f32; LANES / 2];
        for lane in 0..LANES / 2 {
            eight[lane] = sums[lane] + sums[lane + LANES / 2];
        }
        let [a, b, c, d, e, f, g, h] = eight;
        let factor = 1.0 / (((a + b) + (c + d)) + ((e + f) + (g + h)));
        for x in &mut row[..length] {
            *x *= factor;
        }
    }
}

/// The first lane becomes the highest element.
#[inline(always)]
fn find_highest(row: &[f32], highest: &mut [f32; LANES]) {
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            highest[lane] = if chunk[lane] > highest[lane] { chunk[lane] } else { highest[lane] };
        }
    }
    for (highest, &x) in highest.iter_mut().zip(rest) {
        *highest = if x > *highest { x } else { *highest };
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            let other = highest[lane + half];
            highest[lane] = if other > highest[lane] { other } else { highest[lane] };
        }
        half /= 2;
    }
}

/// exp(x - max), and their sums.
#[inline(always)]
fn exponentials<const FUSED: bool>(row: &mut [f32], max: f32, sums: &mut [f32; LANES]) {
    for x in &mut *row {
        *x = exp_of_negative::<FUSED>(*x - max);
    }
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x;
    }
}

#[cfg(test)]
pub(super) fn erf(x: f32) -> f32 {
    erf_of::<true>(x, size(x), complement::<true>(exponent::<true>(size(x))))
}
