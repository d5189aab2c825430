//! exp of floats and what is made of it, in a form that the compiler vectorizes, the same on all CPUs.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

/// Floats that are summed side by side, so that the order of a sum does not depend on the CPU.
pub(super) const LANES: usize = 16;

/// 1.5 · 2²³: adding it rounds to an integer, which is then in the lowest bits.
const ROUNDING: f32 = 12_582_912.0;

/// e^(x - n · ln 2), where that is at most ln 2 / 2 from 0, by the polynomial of Cephes' `expf`.
#[inline(always)]
fn exp_of_rest(x: f32, n: f32) -> f32 {
    // ln 2 in two parts, the first of which has few enough bits that its products are exact.
    const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    let r = n * -LN_2[1] + (n * -LN_2[0] + x);
    let mut p = 1.987_569_2e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = p * r + coefficient;
    }
    p * r * r + r + 1.0
}

/// eˣ of x ≤ 0 within two units of the last place; what would be smaller than the smallest normal number is 0.
#[inline(always)]
pub(super) fn exp_of_negative(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    // A comparison, unlike `max`, lets NaN pass.
    let within = if x < LOWEST { LOWEST } else { x };
    let shifted = within * std::f32::consts::LOG2_E + ROUNDING;
    let mantissa = exp_of_rest(within, shifted - ROUNDING);
    let exponent = shifted.to_bits().wrapping_sub(ROUNDING.to_bits()).wrapping_add(127);
    if x < LOWEST { 0.0 } else { mantissa * f32::from_bits(exponent << 23) }
}

/// eˣ within two units of the last place.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Beyond these the result is infinite, or 0.
    const HIGHEST: f32 = 88.722_84;
    const LOWEST: f32 = -103.972_08;
    let within = x.clamp(-104.0, 89.0);
    let shifted = within * std::f32::consts::LOG2_E + ROUNDING;
    let mantissa = exp_of_rest(within, shifted - ROUNDING);
    let n = shifted.to_bits().wrapping_sub(ROUNDING.to_bits()) as i32;
    // 2ⁿ in two factors, each of which is a normal number.
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = mantissa * power(n >> 1) * power(n.wrapping_sub(n >> 1));
    let y = if x > HIGHEST { f32::INFINITY } else { y };
    if x < LOWEST { 0.0 } else { y }
}

/// 1 / (1 + e⁻ˣ)
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let e = exp_of_negative(-x.abs());
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

/// Near 0 the polynomial of Cephes' `tanhf`, elsewhere (1 - e⁻²ˣ) / (1 + e⁻²ˣ).
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let mut p = -5.704_988_7e-3;
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p * square + coefficient;
    }
    let e = exp_of_negative(-2.0 * x.abs());
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    if x.abs() < 0.625 { p * square * x + x } else { far }
}

/// Up to 1 the polynomial of Cephes' `erff`; above that, Abramowitz and Stegun, 7.1.28, whose error is 3e-7.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let (size, square) = (x.abs(), x * x);
    let mut near = 7.853_861e-5;
    for coefficient in [-8.010_194e-4, 5.188_327_5e-3, -2.685_381_2e-2, 1.128_358_5e-1, -3.761_262_7e-1] {
        near = near * square + coefficient;
    }
    near = near * square + std::f32::consts::FRAC_2_SQRT_PI;
    let mut far = 4.306_38e-5;
    for coefficient in [2.765_672e-4, 1.520_143e-4, 9.270_527e-3, 4.228_201e-2, 7.052_308e-2, 1.0] {
        far = far * size + coefficient;
    }
    for _ in 0..4 {
        far *= far;
    }
    if size < 1.0 { near * x } else { (1.0 - 1.0 / far).copysign(x) }
}

/// x · (1 + erf(x / √2)) / 2
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Makes exp(x - max) of a row, and returns their sum: softmax but for the division.
#[inline(always)]
pub(super) fn exponentials(row: &mut [f32]) -> f32 {
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
            chunk[lane] = exp_of_negative(chunk[lane] - max);
            sums[lane] += chunk[lane];
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = exp_of_negative(*x - max);
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
