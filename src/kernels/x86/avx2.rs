//! 256-bit registers without VNNI. Saturating: `vpmaddubsw` on bytes. Exact: `vpmaddwd` on words.

use std::arch::x86_64::*;

use super::depthwise::Interleave;
use super::finish::ToBytes;
use super::vector::{TALLEST_256, Vector};
use crate::kernels::epilogue::Addition;

/// Sums of products of bytes whose pairs saturate, in tiles of at most so many rows.
#[derive(Clone, Copy)]
pub(super) struct Bytes<const ROWS: usize>(__m256i);

/// Sums of products of words.
#[derive(Clone, Copy)]
pub(super) struct Words(__m256i);

/// The methods that do not multiply.
macro_rules! shared_methods {
    ($x:ty, $w:ty, $tallest:expr) => {
        const LANES: usize = 8;
        const TALLEST: &'static [usize] = $tallest;
        type Activation = $x;
        type Weight = $w;

        #[inline(always)]
        unsafe fn load(sums: *const i32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { Self(_mm256_loadu_si256(sums.cast())) }
        }

        #[inline(always)]
        unsafe fn splat(sum: i32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { Self(_mm256_set1_epi32(sum)) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the caller's promise.
            unsafe { Self(_mm256_add_epi32(self.0, other.0)) }
        }

        #[inline(always)]
        unsafe fn broadcast(x: *const $x) -> Self {
            // SAFETY: four bytes are readable, as the caller promises.
            unsafe { Self(_mm256_set1_epi32(x.cast::<i32>().read_unaligned())) }
        }

        #[inline(always)]
        unsafe fn weights(w: *const $w) -> Self {
            // SAFETY: the caller's promise.
            unsafe { Self(_mm256_loadu_si256(w.cast())) }
        }

        #[inline(always)]
        unsafe fn finish_floats(self, scales: *const f32, bias: *const f32, clamp: [f32; 2], output: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { $crate::kernels::x86::avx2::finish_floats(self.0, scales, bias, clamp, output) }
        }

        #[inline(always)]
        unsafe fn store(self, output: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_si256(output.cast(), self.0) }
        }
    };
}
pub(super) use shared_methods;

impl Interleave for Words {
    const PARTS: usize = 2;
    const SHARING: usize = 4;

    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4], valid: usize) -> [Self; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let (first, second) = (read_16(rows[0], valid), read_16(rows[1], valid));
            let low = Words(_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(first, second)));
            let high = Words(_mm256_cvtepu8_epi16(_mm_unpackhi_epi8(first, second)));
            [low, high, low, high]
        }
    }

    #[inline(always)]
    unsafe fn in_order(sums: [Self; 4]) -> [Self; 4] {
        sums
    }
}

impl<const ROWS: usize> Bytes<ROWS> {
    /// Adds the words of two granules before they are widened.
    #[inline(always)]
    pub(super) unsafe fn dot_two(self, x: [Self; 2], w: [Self; 2]) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            self.widen(_mm256_add_epi16(_mm256_maddubs_epi16(x[0].0, w[0].0), _mm256_maddubs_epi16(x[1].0, w[1].0)))
        }
    }

    #[inline(always)]
    unsafe fn widen(self, words: __m256i) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Bytes(_mm256_add_epi32(self.0, _mm256_madd_epi16(words, _mm256_set1_epi16(1)))) }
    }
}

impl<const ROWS: usize> Vector for Bytes<ROWS> {
    const GRANULE: usize = 4;
    shared_methods!(u8, i8, &[ROWS]);

    #[inline(always)]
    unsafe fn dot(self, x: Self, w: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.widen(_mm256_maddubs_epi16(x.0, w.0)) }
    }

    #[inline(always)]
    unsafe fn finish_bytes<const N: usize, const RESIDUAL: bool>(
        sums: [Self; N],
        to: &ToBytes<RESIDUAL>,
        column: usize,
        at: usize,
        valid: usize,
    ) {
        // SAFETY: the caller's promise; tiles of 256 bits have two registers.
        unsafe { finish_16([sums[0].0, sums[N - 1].0], to, column, at, valid) }
    }
}

impl Vector for Words {
    const GRANULE: usize = 2;
    shared_methods!(i16, i16, TALLEST_256);

    #[inline(always)]
    unsafe fn dot(self, x: Self, w: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Words(_mm256_add_epi32(self.0, _mm256_madd_epi16(x.0, w.0))) }
    }

    #[inline(always)]
    unsafe fn finish_bytes<const N: usize, const RESIDUAL: bool>(
        sums: [Self; N],
        to: &ToBytes<RESIDUAL>,
        column: usize,
        at: usize,
        valid: usize,
    ) {
        // SAFETY: the caller's promise; tiles of 256 bits have two registers.
        unsafe { finish_16([sums[0].0, sums[N - 1].0], to, column, at, valid) }
    }
}

/// Requantizes 16 sums. They are clamped as floats, so that any multiplier is right.
///
/// # Safety
///
/// As for [`Vector::finish_bytes`].
#[inline(always)]
pub(super) unsafe fn finish_16<const RESIDUAL: bool>(
    sums: [__m256i; 2],
    to: &ToBytes<RESIDUAL>,
    column: usize,
    at: usize,
    valid: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let multipliers = to.multipliers.add(column);
        let mut first = requantize(sums[0], multipliers, to);
        let mut second = requantize(sums[1], multipliers.add(8), to);
        if RESIDUAL {
            let residual = read_16(to.residual.add(at), valid);
            first = add(first, residual, &to.addition);
            second = add(second, _mm_srli_si128(residual, 8), &to.addition);
        }
        write_16(pack_16(first, second), to.output.add(at), valid);
    }
}

/// 16 integers as bytes.
#[inline(always)]
pub(super) unsafe fn pack_16(first: __m256i, second: __m256i) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        let words = _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0b11_01_10_00);
        _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1))
    }
}

/// clamp(round(sum · multiplier)) + zero point.
#[inline(always)]
unsafe fn requantize<const RESIDUAL: bool>(sums: __m256i, multipliers: *const f32, to: &ToBytes<RESIDUAL>) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let real = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(multipliers));
        let low = _mm256_set1_ps((to.low - to.zero_point) as f32);
        let high = _mm256_set1_ps((to.high - to.zero_point) as f32);
        let clamped = _mm256_min_ps(_mm256_max_ps(real, low), high);
        _mm256_add_epi32(_mm256_cvtps_epi32(clamped), _mm256_set1_epi32(to.zero_point))
    }
}

/// round(clamp(a · rₐ + (b · r_b + c))) for eight bytes; `a` holds them as integers, `b` in its lower half.
#[inline(always)]
pub(super) unsafe fn add(a: __m256i, b: __m128i, addition: &Addition) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let [ratio_a, ratio_b] = addition.ratios;
        let b = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b));
        let b = _mm256_fmadd_ps(b, _mm256_set1_ps(ratio_b), _mm256_set1_ps(addition.offset));
        let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), _mm256_set1_ps(ratio_a), b);
        let low = _mm256_set1_ps(addition.clamp[0] as f32);
        let high = _mm256_set1_ps(addition.clamp[1] as f32);
        _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(sum, low), high))
    }
}

#[inline(always)]
pub(super) unsafe fn finish_floats(
    sums: __m256i,
    scales: *const f32,
    bias: *const f32,
    clamp: [f32; 2],
    output: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(scales));
        let biased = _mm256_add_ps(scaled, _mm256_loadu_ps(bias));
        let clamped = _mm256_min_ps(_mm256_max_ps(biased, _mm256_set1_ps(clamp[0])), _mm256_set1_ps(clamp[1]));
        _mm256_storeu_ps(output, clamped);
    }
}

/// Reads `valid` bytes, at most 16; the others are zero.
#[inline(always)]
pub(super) unsafe fn read_16(from: *const u8, valid: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        if valid >= 16 {
            _mm_loadu_si128(from.cast())
        } else if valid == 8 {
            _mm_loadl_epi64(from.cast())
        } else {
            let mut bytes = [0u8; 16];
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), valid);
            _mm_loadu_si128(bytes.as_ptr().cast())
        }
    }
}

/// Writes the first `valid` bytes, at most 16.
#[inline(always)]
pub(super) unsafe fn write_16(bytes: __m128i, to: *mut u8, valid: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if valid >= 16 {
            _mm_storeu_si128(to.cast(), bytes)
        } else if valid == 8 {
            _mm_storel_epi64(to.cast(), bytes)
        } else {
            let mut all = [0u8; 16];
            _mm_storeu_si128(all.as_mut_ptr().cast(), bytes);
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, valid)
        }
    }
}
