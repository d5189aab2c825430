//! Sums, products and functions of bytes, by AVX2.

use std::arch::x86_64::*;

use super::avx2::{add as add_8, pack_16, read_16, write_16};
use crate::kernels::elementwise::Multiplication;
use crate::kernels::epilogue::Addition;

/// Visits 16 elements at a time of operands that are as long as the output, or one byte; the last may be fewer.
macro_rules! each_16 {
    ($a:ident, $b:ident, $output:ident, |$x:ident, $y:ident| $eight:expr) => {
        let fits = |operand: &[u8]| operand.len() == 1 || operand.len() == $output.len();
        assert!(fits($a) && fits($b), "operands of another length");
        let (one_a, one_b) = ($a.len() == 1 && $output.len() != 1, $b.len() == 1 && $output.len() != 1);
        let mut at = 0;
        while at < $output.len() {
            let valid = ($output.len() - at).min(16);
            // SAFETY: `valid` bytes from `at` on lie in the output and in operands as long as it is.
            unsafe {
                let a = if one_a { _mm_set1_epi8($a[0] as i8) } else { read_16($a.as_ptr().add(at), valid) };
                let b = if one_b { _mm_set1_epi8($b[0] as i8) } else { read_16($b.as_ptr().add(at), valid) };
                let first = {
                    let ($x, $y) = (_mm256_cvtepu8_epi32(a), b);
                    $eight
                };
                let second = {
                    let ($x, $y) = (_mm256_cvtepu8_epi32(_mm_srli_si128(a, 8)), _mm_srli_si128(b, 8));
                    $eight
                };
                write_16(pack_16(first, second), $output.as_mut_ptr().add(at), valid);
            }
            at += valid;
        }
    };
}

/// Adds operands that are as long as the output, or one byte.
///
/// # Safety
///
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(in crate::kernels) unsafe fn add(addition: &Addition, a: &[u8], b: &[u8], output: &mut [u8]) {
    each_16!(a, b, output, |x, y| add_8(x, y, addition));
}

/// Multiplies operands that are as long as the output, or one byte.
///
/// # Safety
///
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(in crate::kernels) unsafe fn multiply(by: &Multiplication, a: &[u8], b: &[u8], output: &mut [u8]) {
    let [zero_a, zero_b] = by.zero_points.map(|zero| _mm256_set1_epi32(zero.into()));
    let [low, high] = by.clamp.map(|limit| _mm256_set1_ps(limit.into()));
    let (ratio, zero_point) = (_mm256_set1_ps(by.ratio), _mm256_set1_ps(by.zero_point.into()));
    each_16!(a, b, output, |x, y| {
        // As words, to which both differences fit; the upper word of one is made 0, so that their product is nothing.
        let y = _mm256_sub_epi32(_mm256_cvtepu8_epi32(y), zero_b);
        let y = _mm256_and_si256(y, _mm256_set1_epi32(0xffff));
        let product = _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_sub_epi32(x, zero_a), y));
        let real = _mm256_add_ps(_mm256_mul_ps(product, ratio), zero_point);
        _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(real, low), high))
    });
}

/// table[x] of whole registers, and how many elements that were: the table is searched in 16 parts, each by a shuffle that
/// gives 0 for what lies in another part.
///
/// # Safety
///
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(in crate::kernels) unsafe fn look_up(table: &[u8; 256], x: &[u8], output: &mut [u8]) -> usize {
    assert_eq!(x.len(), output.len(), "elements of the output");
    let whole = x.len() / 32 * 32;
    // SAFETY: parts lie in the table, registers in the operand and the output.
    unsafe {
        let mut parts = [_mm256_setzero_si256(); 16];
        for (part, register) in parts.iter_mut().enumerate() {
            *register = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().add(part * 16).cast()));
        }
        for at in (0..whole).step_by(32) {
            let x = _mm256_loadu_si256(x.as_ptr().add(at).cast());
            let mut found = _mm256_setzero_si256();
            for part in 0..16 {
                // Below 16 in the part alone; the sum then has no sign, which a shuffle takes for "nothing".
                let within = _mm256_xor_si256(x, _mm256_set1_epi8((part as u8 * 16) as i8));
                let index = _mm256_adds_epu8(within, _mm256_set1_epi8(0x70));
                found = _mm256_or_si256(found, _mm256_shuffle_epi8(parts[part], index));
            }
            _mm256_storeu_si256(output.as_mut_ptr().add(at).cast(), found);
        }
    }
    whole
}
