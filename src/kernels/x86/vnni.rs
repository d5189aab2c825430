//! VNNI: `vpdpbusd` adds four products of bytes to a lane, without saturation, in 256 bits (VEX or EVEX) and 512 bits.
//!
//! Sums start with the bias. They are requantized as integers: conversion rounds, packs saturate, and the clamp is one of
//! bytes. So no |sum · multiplier| may reach 2³¹, which the choice of the kernel sees to.

use std::arch::x86_64::*;

use super::avx2::{read_16, shared_methods, write_16};
use super::depthwise::Interleave;
use super::finish::ToBytes;
use super::square::Requantize;
use super::vector::{TALLEST_256, TALLEST_512, Vector};

/// Sums in 256 bits, by AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Vex(__m256i);

/// Sums in 256 bits, by AVX-512 VNNI: for rests that do not fill 512 bits.
#[derive(Clone, Copy)]
pub(super) struct Evex(__m256i);

/// Sums in 512 bits, by AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(super) struct Wide(__m512i);

macro_rules! vnni_256 {
    ($vector:ident, $dot:path) => {
        impl Vector for $vector {
            const GRANULE: usize = 4;
            shared_methods!(u8, i8, TALLEST_256);

            #[inline(always)]
            unsafe fn dot(self, x: Self, w: Self) -> Self {
                // SAFETY: the caller's promise.
                unsafe { $vector($dot(self.0, x.0, w.0)) }
            }

            #[inline(always)]
            unsafe fn finish_bytes<const N: usize, const RESIDUAL: bool>(
                sums: [Self; N],
                to: &ToBytes<RESIDUAL>,
                column: usize,
                at: usize,
                valid: usize,
            ) {
                for pair in 0..N / 2 {
                    let sums = [sums[2 * pair].0, sums[2 * pair + 1].0];
                    let skipped = pair * 16;
                    if skipped < valid {
                        // SAFETY: the caller's promise.
                        unsafe { finish_16(sums, to, column + skipped, at + skipped, valid - skipped) }
                    }
                }
            }
        }

        impl Interleave for $vector {
            const PARTS: usize = 4;
            const SHARING: usize = 2;

            #[inline(always)]
            unsafe fn interleave(rows: [*const u8; 4], valid: usize) -> [Self; 4] {
                // SAFETY: the caller's promise.
                unsafe {
                    let [a, b, c, d] = [
                        read_32(rows[0], valid),
                        read_32(rows[1], valid),
                        read_32(rows[2], valid),
                        read_32(rows[3], valid),
                    ];
                    let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
                    let (next_low, next_high) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
                    [
                        $vector(_mm256_unpacklo_epi16(low, next_low)),
                        $vector(_mm256_unpackhi_epi16(low, next_low)),
                        $vector(_mm256_unpacklo_epi16(high, next_high)),
                        $vector(_mm256_unpackhi_epi16(high, next_high)),
                    ]
                }
            }

            #[inline(always)]
            unsafe fn in_order(sums: [Self; 4]) -> [Self; 4] {
                // Part p holds channels 4·p.. and 16 + 4·p.. in its halves.
                // SAFETY: the caller's promise.
                unsafe {
                    let [a, b, c, d] = [sums[0].0, sums[1].0, sums[2].0, sums[3].0];
                    [
                        $vector(_mm256_permute2x128_si256(a, b, 0x20)),
                        $vector(_mm256_permute2x128_si256(c, d, 0x20)),
                        $vector(_mm256_permute2x128_si256(a, b, 0x31)),
                        $vector(_mm256_permute2x128_si256(c, d, 0x31)),
                    ]
                }
            }
        }

        impl Requantize for $vector {
            #[inline(always)]
            unsafe fn in_lanes(ordered: [Self; 4]) -> [Self; 4] {
                // SAFETY: the caller's promise.
                unsafe {
                    let [a, b, c, d] = [ordered[0].0, ordered[1].0, ordered[2].0, ordered[3].0];
                    [
                        $vector(_mm256_permute2x128_si256(a, c, 0x20)),
                        $vector(_mm256_permute2x128_si256(a, c, 0x31)),
                        $vector(_mm256_permute2x128_si256(b, d, 0x20)),
                        $vector(_mm256_permute2x128_si256(b, d, 0x31)),
                    ]
                }
            }

            // Packs put the four parts of a half next to each other, as its channels are.
            #[inline(always)]
            unsafe fn finish_lanes(
                sums: [Self; 4],
                multipliers: *const f32,
                to: &ToBytes<false>,
                at: usize,
                valid: usize,
            ) {
                // SAFETY: the caller's promise.
                unsafe {
                    let zero_point = _mm256_set1_epi16(to.zero_point as i16);
                    let first =
                        _mm256_packs_epi32(round_8(sums[0].0, multipliers), round_8(sums[1].0, multipliers.add(8)));
                    let second = _mm256_packs_epi32(
                        round_8(sums[2].0, multipliers.add(16)),
                        round_8(sums[3].0, multipliers.add(24)),
                    );
                    let (first, second) = (_mm256_adds_epi16(first, zero_point), _mm256_adds_epi16(second, zero_point));
                    let bytes = _mm256_packus_epi16(first, second);
                    let bytes = _mm256_min_epu8(bytes, _mm256_set1_epi8(to.high as i8));
                    let bytes = _mm256_max_epu8(bytes, _mm256_set1_epi8(to.low as i8));
                    let output = to.output.add(at);
                    if valid >= 32 {
                        return _mm256_storeu_si256(output.cast(), bytes);
                    }
                    write_16(_mm256_castsi256_si128(bytes), output, valid);
                    if valid > 16 {
                        write_16(_mm256_extracti128_si256(bytes, 1), output.add(16), valid - 16);
                    }
                }
            }
        }
    };
}

vnni_256!(Vex, _mm256_dpbusd_avx_epi32);
vnni_256!(Evex, _mm256_dpbusd_epi32);

/// What surrounds `vpdpbusd` in 256 bits is AVX2: for tests, with another dot product.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(super) struct WithoutVnni(__m256i);

#[cfg(test)]
vnni_256!(WithoutVnni, dot_by_words);

/// Odd and even bytes as words.
#[cfg(test)]
#[inline(always)]
unsafe fn dot_by_words(sums: __m256i, x: __m256i, w: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let even = _mm256_madd_epi16(
            _mm256_and_si256(x, _mm256_set1_epi16(0xff)),
            _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8),
        );
        let odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
        _mm256_add_epi32(sums, _mm256_add_epi32(even, odd))
    }
}

/// Requantizes 16 sums.
#[inline(always)]
unsafe fn finish_16<const RESIDUAL: bool>(
    sums: [__m256i; 2],
    to: &ToBytes<RESIDUAL>,
    column: usize,
    at: usize,
    valid: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let multipliers = to.multipliers.add(column);
        let first = round_8(sums[0], multipliers);
        let second = round_8(sums[1], multipliers.add(8));
        let (words, [low, high]) = if RESIDUAL {
            let residual = read_16(to.residual.add(at), valid);
            let first = add_8(first, residual, to);
            let second = add_8(second, _mm_srli_si128(residual, 8), to);
            (_mm256_packs_epi32(first, second), to.addition.clamp.map(|bound| bound as i8))
        } else {
            let words = _mm256_packs_epi32(first, second);
            (_mm256_adds_epi16(words, _mm256_set1_epi16(to.zero_point as i16)), [to.low as i8, to.high as i8])
        };
        // Each half holds 4 columns of the first register, then 4 of the second.
        let bytes = _mm256_packus_epi16(words, words);
        let order = _mm256_set_epi32(5, 1, 4, 0, 5, 1, 4, 0);
        let bytes = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order));
        let bytes = _mm_max_epu8(_mm_min_epu8(bytes, _mm_set1_epi8(high)), _mm_set1_epi8(low));
        write_16(bytes, to.output.add(at), valid);
    }
}

/// round(sum · multiplier).
#[inline(always)]
unsafe fn round_8(sums: __m256i, multipliers: *const f32) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(multipliers))) }
}

/// Offsets and clamps `rounded`, then round(a · rₐ + (b · r_b + c)), not yet clamped; `b` is in the lower half.
#[inline(always)]
unsafe fn add_8<const RESIDUAL: bool>(rounded: __m256i, b: __m128i, to: &ToBytes<RESIDUAL>) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let offset = _mm256_add_epi32(rounded, _mm256_set1_epi32(to.zero_point));
        let clamped = _mm256_min_epi32(offset, _mm256_set1_epi32(to.high));
        let a = _mm256_cvtepi32_ps(_mm256_max_epi32(clamped, _mm256_set1_epi32(to.low)));
        let b = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b));
        let [ratio_a, ratio_b] = to.addition.ratios;
        let b = _mm256_fmadd_ps(b, _mm256_set1_ps(ratio_b), _mm256_set1_ps(to.addition.offset));
        _mm256_cvtps_epi32(_mm256_fmadd_ps(a, _mm256_set1_ps(ratio_a), b))
    }
}

/// Reads `valid` bytes, at most 32; the others are zero.
#[inline(always)]
unsafe fn read_32(from: *const u8, valid: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if valid >= 32 {
            _mm256_loadu_si256(from.cast())
        } else if valid >= 16 {
            _mm256_set_m128i(read_16(from.add(16), valid - 16), _mm_loadu_si128(from.cast()))
        } else {
            _mm256_zextsi128_si256(read_16(from, valid))
        }
    }
}

impl Vector for Wide {
    const LANES: usize = 16;
    const GRANULE: usize = 4;
    const TALLEST: &'static [usize] = TALLEST_512;
    type Activation = u8;
    type Weight = i8;

    #[inline(always)]
    unsafe fn load(sums: *const i32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Wide(_mm512_loadu_si512(sums.cast())) }
    }

    #[inline(always)]
    unsafe fn splat(sum: i32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Wide(_mm512_set1_epi32(sum)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Wide(_mm512_add_epi32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn broadcast(x: *const u8) -> Self {
        // SAFETY: four bytes are readable, as the caller promises.
        unsafe { Wide(_mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn weights(w: *const i8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Wide(_mm512_loadu_si512(w.cast())) }
    }

    #[inline(always)]
    unsafe fn dot(self, x: Self, w: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Wide(_mm512_dpbusd_epi32(self.0, x.0, w.0)) }
    }

    #[inline(always)]
    unsafe fn finish_bytes<const N: usize, const RESIDUAL: bool>(
        sums: [Self; N],
        to: &ToBytes<RESIDUAL>,
        column: usize,
        at: usize,
        valid: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rounded = [_mm512_setzero_si512(); 4];
            for n in 0..N {
                let multipliers = _mm512_loadu_ps(to.multipliers.add(column + n * 16));
                rounded[n] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[n].0), multipliers));
                if RESIDUAL {
                    let skipped = n * 16;
                    let residual = to.residual.wrapping_add(at + skipped);
                    let residual = match valid >= skipped + 16 {
                        true => _mm_loadu_si128(residual.cast()),
                        false => read_masked_16(residual, valid.saturating_sub(skipped)),
                    };
                    rounded[n] = add_16(rounded[n], residual, to);
                }
            }
            let mut words = [_mm512_packs_epi32(rounded[0], rounded[1]), _mm512_packs_epi32(rounded[2], rounded[3])];
            let [low, high] = if RESIDUAL {
                to.addition.clamp.map(|bound| bound as i8)
            } else {
                let zero_point = _mm512_set1_epi16(to.zero_point as i16);
                words = [_mm512_adds_epi16(words[0], zero_point), _mm512_adds_epi16(words[1], zero_point)];
                [to.low as i8, to.high as i8]
            };
            let bytes = _mm512_packus_epi16(words[0], words[1]);
            let bytes = _mm512_max_epu8(_mm512_min_epu8(bytes, _mm512_set1_epi8(high)), _mm512_set1_epi8(low));
            // Each quarter holds 4 columns of every register in turn.
            let order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
            write::<N>(_mm512_permutexvar_epi32(order, bytes), to.output.add(at), valid);
        }
    }

    #[inline(always)]
    unsafe fn finish_floats(self, scales: *const f32, bias: *const f32, clamp: [f32; 2], output: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(self.0), _mm512_loadu_ps(scales));
            let biased = _mm512_add_ps(scaled, _mm512_loadu_ps(bias));
            let clamped = _mm512_min_ps(_mm512_max_ps(biased, _mm512_set1_ps(clamp[0])), _mm512_set1_ps(clamp[1]));
            _mm512_storeu_ps(output, clamped);
        }
    }

    #[inline(always)]
    unsafe fn store(self, output: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(output.cast(), self.0) }
    }
}

/// As [`add_8`].
#[inline(always)]
unsafe fn add_16<const RESIDUAL: bool>(rounded: __m512i, b: __m128i, to: &ToBytes<RESIDUAL>) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let offset = _mm512_add_epi32(rounded, _mm512_set1_epi32(to.zero_point));
        let clamped = _mm512_min_epi32(offset, _mm512_set1_epi32(to.high));
        let a = _mm512_cvtepi32_ps(_mm512_max_epi32(clamped, _mm512_set1_epi32(to.low)));
        let b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b));
        let [ratio_a, ratio_b] = to.addition.ratios;
        let b = _mm512_fmadd_ps(b, _mm512_set1_ps(ratio_b), _mm512_set1_ps(to.addition.offset));
        _mm512_cvtps_epi32(_mm512_fmadd_ps(a, _mm512_set1_ps(ratio_a), b))
    }
}

/// Reads `valid` bytes, fewer than 16; the others are zero.
#[inline(always)]
unsafe fn read_masked_16(from: *const u8, valid: usize) -> __m128i {
    // SAFETY: the caller's promise; bytes outside of the mask are not read.
    unsafe { _mm_maskz_loadu_epi8((1u16 << valid) - 1, from.cast()) }
}

/// Writes the first `valid` of `N` · 16 bytes. Masked writes of bytes are slow, so the usual widths go without.
#[inline(always)]
unsafe fn write<const N: usize>(bytes: __m512i, to: *mut u8, valid: usize) {
    // SAFETY: the caller's promise; bytes outside of the mask are not written.
    unsafe {
        if valid == N * 16 {
            match N {
                4 => _mm512_storeu_si512(to.cast(), bytes),
                3 => {
                    _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(bytes));
                    _mm_storeu_si128(to.add(32).cast(), _mm512_extracti32x4_epi32(bytes, 2));
                }
                2 => _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(bytes)),
                _ => _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(bytes)),
            }
        } else if valid == N * 16 - 8 {
            let last = match N {
                4 => {
                    _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(bytes));
                    _mm_storeu_si128(to.add(32).cast(), _mm512_extracti32x4_epi32(bytes, 2));
                    _mm512_extracti32x4_epi32(bytes, 3)
                }
                3 => {
                    _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(bytes));
                    _mm512_extracti32x4_epi32(bytes, 2)
                }
                2 => {
                    _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(bytes));
                    _mm512_extracti32x4_epi32(bytes, 1)
                }
                _ => _mm512_castsi512_si128(bytes),
            };
            _mm_storel_epi64(to.add(N * 16 - 16).cast(), last);
        } else {
            _mm512_mask_storeu_epi8(to.cast(), u64::MAX >> (64 - valid), bytes);
        }
    }
}

impl Interleave for Wide {
    const PARTS: usize = 4;
    const SHARING: usize = 4;

    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], valid: usize) -> [Self; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b, c, d] =
                [read_64(rows[0], valid), read_64(rows[1], valid), read_64(rows[2], valid), read_64(rows[3], valid)];
            let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let (next_low, next_high) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
            [
                Wide(_mm512_unpacklo_epi16(low, next_low)),
                Wide(_mm512_unpackhi_epi16(low, next_low)),
                Wide(_mm512_unpacklo_epi16(high, next_high)),
                Wide(_mm512_unpackhi_epi16(high, next_high)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn in_order(sums: [Self; 4]) -> [Self; 4] {
        // Part p holds channels 16·q + 4·p.. in its quarter q: quarters are transposed.
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b, c, d] = [sums[0].0, sums[1].0, sums[2].0, sums[3].0];
            let (ab_low, ab_high) = (_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee));
            let (cd_low, cd_high) = (_mm512_shuffle_i32x4(c, d, 0x44), _mm512_shuffle_i32x4(c, d, 0xee));
            [
                Wide(_mm512_shuffle_i32x4(ab_low, cd_low, 0x88)),
                Wide(_mm512_shuffle_i32x4(ab_low, cd_low, 0xdd)),
                Wide(_mm512_shuffle_i32x4(ab_high, cd_high, 0x88)),
                Wide(_mm512_shuffle_i32x4(ab_high, cd_high, 0xdd)),
            ]
        }
    }
}

impl Requantize for Wide {
    // Transposing quarters undoes itself.
    #[inline(always)]
    unsafe fn in_lanes(ordered: [Self; 4]) -> [Self; 4] {
        // SAFETY: the caller's promise.
        unsafe { Self::in_order(ordered) }
    }

    // Packs put the four parts of a quarter next to each other, as its channels are.
    #[inline(always)]
    unsafe fn finish_lanes(sums: [Self; 4], multipliers: *const f32, to: &ToBytes<false>, at: usize, valid: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut rounded = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                let multipliers = _mm512_loadu_ps(multipliers.add(i * 16));
                rounded[i] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[i].0), multipliers));
            }
            let zero_point = _mm512_set1_epi16(to.zero_point as i16);
            let first = _mm512_adds_epi16(_mm512_packs_epi32(rounded[0], rounded[1]), zero_point);
            let second = _mm512_adds_epi16(_mm512_packs_epi32(rounded[2], rounded[3]), zero_point);
            let bytes = _mm512_min_epu8(_mm512_packus_epi16(first, second), _mm512_set1_epi8(to.high as i8));
            let bytes = _mm512_max_epu8(bytes, _mm512_set1_epi8(to.low as i8));
            write::<4>(bytes, to.output.add(at), valid);
        }
    }
}

/// Reads `valid` bytes, at most 64; the others are zero.
#[inline(always)]
unsafe fn read_64(from: *const u8, valid: usize) -> __m512i {
    // SAFETY: the caller's promise; bytes outside of the mask are not read.
    unsafe {
        match valid {
            64.. => _mm512_loadu_si512(from.cast()),
            _ => _mm512_maskz_loadu_epi8(u64::MAX >> (64 - valid), from.cast()),
        }
    }
}
