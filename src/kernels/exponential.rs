//! exp of floats, in a form that the compiler vectorizes.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

/// Floats that are summed side by side, so that the order of a sum does not depend on the CPU.
pub(super) const LANES: usize = 16;

/// a · b + c, rounded once if `FUSED`: where there is no instruction for that, it is a slow call.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// eˣ of x ≤ 0 within two units of the last place; what would be smaller than the smallest normal number is 0.
///
/// x = n · ln 2 + r with |r| ≤ ln 2 / 2, and eʳ by the polynomial of Cephes' `expf`.
#[inline(always)]
pub(super) fn exp_of_negative<const FUSED: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    // 1.5 · 2²³: adding it rounds to an integer, which is then in the lowest bits.
    const ROUNDING: f32 = 12_582_912.0;
    // ln 2 in two parts, the first of which has few enough bits that its products are exact.
    const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    // A comparison, unlike `max`, lets NaN pass.
    let within = if x < LOWEST { LOWEST } else { x };
    let shifted = multiply_add::<FUSED>(within, std::f32::consts::LOG2_E, ROUNDING);
    let n = shifted - ROUNDING;
    let r = multiply_add::<FUSED>(n, -LN_2[1], multiply_add::<FUSED>(n, -LN_2[0], within));
    let mut p = 1.987_569_2e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = multiply_add::<FUSED>(p, r, coefficient);
    }
    let mantissa = multiply_add::<FUSED>(p * r, r, r) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUNDING.to_bits()).wrapping_add(127);
    if x < LOWEST { 0.0 } else { mantissa * f32::from_bits(exponent << 23) }
}

/// Makes exp(x - max) of a row, and returns their sum: softmax but for the division.
#[inline(always)]
pub(super) fn exponentials<const FUSED: bool>(row: &mut [f32]) -> f32 {
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
    for chunk in whole {
        for lane in 0..LANES {
            chunk[lane] = exp_of_negative::<FUSED>(chunk[lane] - max);
            sums[lane] += chunk[lane];
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = exp_of_negative::<FUSED>(*x - max);
        *sum += *x;
    }
    sum(sums)
}

/// The lanes in halves: a fixed order.
#[inline(always)]
pub(super) fn sum(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}
