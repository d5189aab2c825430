//! Addition of bytes by AVX2 and FMA.

use std::arch::x86_64::*;

use super::avx2::{add as add_8, pack_16, read_16, write_16};
use crate::kernels::epilogue::Addition;

/// Adds operands that are as long as the output, or one byte.
///
/// # Safety
///
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(in crate::kernels) unsafe fn add(addition: &Addition, a: &[u8], b: &[u8], output: &mut [u8]) {
    let fits = |operand: &[u8]| operand.len() == 1 || operand.len() == output.len();
    assert!(fits(a) && fits(b), "operands of another length");
    let (one_a, one_b) = (a.len() == 1 && output.len() != 1, b.len() == 1 && output.len() != 1);
    let mut at = 0;
    while at < output.len() {
        let valid = (output.len() - at).min(16);
        // SAFETY: `valid` bytes from `at` on lie in the output and in operands as long as it is.
        unsafe {
            let a = if one_a { _mm_set1_epi8(a[0] as i8) } else { read_16(a.as_ptr().add(at), valid) };
            let b = if one_b { _mm_set1_epi8(b[0] as i8) } else { read_16(b.as_ptr().add(at), valid) };
            let first = add_8(_mm256_cvtepu8_epi32(a), b, addition);
            let second = add_8(_mm256_cvtepu8_epi32(_mm_srli_si128(a, 8)), _mm_srli_si128(b, 8), addition);
            write_16(pack_16(first, second), output.as_mut_ptr().add(at), valid);
        }
        at += valid;
    }
}
