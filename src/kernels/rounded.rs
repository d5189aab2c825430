//! exp and erf of the floats between integers, rounded as MLAS, the kernels of ONNX Runtime, rounds them with AVX-512: what
//! is one unit of the last place off now and then becomes another integer, and from there on all is a little different.
//!
//! Polynomials and orders of sums are those of MLAS (compute.cpp, erf.cpp), which has the polynomials from N. Juffa.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

/// Floats that are summed side by side.
const LANES: usize = 16;

/// 1.5 · 2²³: adding it rounds to an integer, which is then in the lowest bits.
const ROUNDING: f32 = 12_582_912.0;

/// a · b + c, rounded once if `FUSED`.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for at in 1..N {
        sum = multiply_add::<FUSED>(sum, x, coefficients[at]);
    }
    sum
}

/// n and r of x = n · ln 2 + r, the first as an integer.
#[inline(always)]
fn reduce<const FUSED: bool>(x: f32) -> (i32, f32) {
    // ln 2 in two parts, the first of which has few enough bits that its products are exact.
    const LN_2: [f32; 2] = [6.931_457_5e-1, 1.428_606_8e-6];
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUNDING);
    let n = shifted - ROUNDING;
    let rest = multiply_add::<FUSED>(n, -LN_2[1], multiply_add::<FUSED>(n, -LN_2[0], x));
    (shifted.to_bits().wrapping_sub(ROUNDING.to_bits()) as i32, rest)
}

/// 2ⁿ, a normal number.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// eˣ of x ≤ 0; what would be smaller than the smallest normal number is 0, as it may be beside a sum of at least 1.
#[inline(always)]
pub(super) fn exp_of_negative<const FUSED: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    // A comparison, unlike `max`, lets NaN pass.
    let (n, rest) = reduce::<FUSED>(if x < LOWEST { LOWEST } else { x });
    let coefficients = [1.378_059_4e-3, 8.373_124_5e-3, 4.166_953_6e-2, 1.666_647_2e-1, 4.999_998_5e-1, 1.0, 1.0];
    let y = polynomial::<FUSED, 7>(rest, coefficients) * power_of_two(n);
    if x < LOWEST { 0.0 } else { y }
}

#[inline(always)]
pub(super) fn erf<const FUSED: bool>(x: f32) -> f32 {
    // Beyond it erf is 1.
    const HIGHEST: f32 = 3.925;
    const SPLIT: f32 = 0.921_875;
    let size = if x.abs() > HIGHEST { HIGHEST } else { x.abs() };
    let near = [-5.991_049_7e-4, 4.993_396e-3, -2.676_673_4e-2, 1.128_180_25e-1, -3.761_248_6e-1, 1.283_791_5e-1];
    let near = multiply_add::<FUSED>(polynomial::<FUSED, 6>(size * size, near), size, size);
    // 1 - e to a polynomial
    let far =
        [1.729_489_3e-5, -3.832_086_8e-4, 3.883_934_4e-3, -2.425_456e-2, 1.067_778_5e-1, 6.348_467e-1, 1.287_175_1e-1];
    let exponent = -multiply_add::<FUSED>(polynomial::<FUSED, 7>(size, far), size, size);
    let (n, rest) = reduce::<FUSED>(exponent);
    let coefficients = [1.383_198_1e-3, 8.375_5e-3, 4.166_895e-2, 1.666_644_7e-1, 4.999_998_5e-1, 1.0, 1.0];
    let far = 1.0 - polynomial::<FUSED, 7>(rest, coefficients) * power_of_two(n);
    (if size >= SPLIT { far } else { near }).copysign(x)
}

/// x · (1 + erf(x / √2)) / 2
#[inline(always)]
pub(super) fn gelu<const FUSED: bool>(x: f32) -> f32 {
    x * 0.5 * (erf::<FUSED>(x * std::f32::consts::FRAC_1_SQRT_2) + 1.0)
}

/// exp(x - max) / Σ exp(x - max) over a row.
#[inline(always)]
pub(super) fn softmax<const FUSED: bool>(row: &mut [f32]) {
    let (whole, rest) = row.as_chunks_mut::<LANES>();
    let mut highest = [f32::NEG_INFINITY; LANES];
    for chunk in &*whole {
        for lane in 0..LANES {
            highest[lane] = if chunk[lane] > highest[lane] { chunk[lane] } else { highest[lane] };
        }
    }
    let mut max = f32::NEG_INFINITY;
    for &x in highest.iter().chain(&*rest) {
        max = max.max(x);
    }
    let mut sums = [0f32; LANES];
    for chunk in &mut *whole {
        for lane in 0..LANES {
            chunk[lane] = exp_of_negative::<FUSED>(chunk[lane] - max);
            sums[lane] += chunk[lane];
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = exp_of_negative::<FUSED>(*x - max);
        *sum += *x;
    }
    // The upper half is added to the lower one, the rest in pairs.
    let mut eight = [0f32; LANES / 2];
    for lane in 0..LANES / 2 {
        eight[lane] = sums[lane] + sums[lane + LANES / 2];
    }
    let [a, b, c, d, e, f, g, h] = eight;
    let factor = 1.0 / (((a + b) + (c + d)) + ((e + f) + (g + h)));
    for x in row {
        *x *= factor;
    }
}
