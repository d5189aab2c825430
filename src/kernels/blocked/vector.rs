//! Sixteen floats: one register of 512 bits, two of 256, or an array.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Rows and columns that are transposed together.
pub(in crate::kernels) const SQUARE: usize = 8;

/// Sixteen floats. All methods are `#[inline(always)]`: they take on the features of the kernel they are in.
///
/// # Safety
///
/// Every method asks for a CPU with the instruction set of the type; sixteen floats must be readable or writable at a
/// pointer, but one for `splat`.
pub(in crate::kernels) trait Vector: Copy {
    /// Pixels of a tile, the widest first, and the blocks of output channels that it takes at most.
    const PIXELS: &'static [usize];
    const BLOCKS: usize;
    /// Input channels that a tile of the weights' gradient takes, the most first.
    const CHANNELS: &'static [usize];

    unsafe fn zero() -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn splat(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// self + a · b.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// Element j of row i, of up to eight rows, becomes element i of row j of eight; elements of rows that are not there
    /// are any.
    unsafe fn transpose(from: *const f32, row: usize, rows: usize, to: *mut f32, to_row: usize);
    /// self where low < y < high, otherwise 0.
    unsafe fn where_inside(self, y: Self, low: Self, high: Self) -> Self;
}

#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable([f32; 16]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Portable, function: impl Fn(f32, f32) -> f32) -> Portable {
        Portable(std::array::from_fn(|lane| function(self.0[lane], other.0[lane])))
    }
}

impl Vector for Portable {
    const PIXELS: &'static [usize] = &[4, 2, 1];
    const BLOCKS: usize = 1;
    const CHANNELS: &'static [usize] = &[4, 2, 1];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Portable([0.0; 16])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Portable(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Portable([unsafe { *from }; 16])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Portable(std::array::from_fn(|lane| self.0[lane] + a.0[lane] * b.0[lane]))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, f32::max)
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, f32::min)
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, rows: usize, to: *mut f32, to_row: usize) {
        for i in 0..SQUARE {
            for j in 0..SQUARE {
                // SAFETY: the caller's promise.
                unsafe { *to.add(j * to_row + i) = if i < rows { *from.add(i * row + j) } else { 0.0 } };
            }
        }
    }

    #[inline(always)]
    unsafe fn where_inside(self, y: Self, low: Self, high: Self) -> Self {
        let inside = |lane: usize| y.0[lane] > low.0[lane] && y.0[lane] < high.0[lane];
        Portable(std::array::from_fn(|lane| if inside(lane) { self.0[lane] } else { 0.0 }))
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2(__m256, __m256);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx2 {
    // 6 x 16 sums in 12 of 16 registers.
    const PIXELS: &'static [usize] = &[6, 4, 2, 1];
    const BLOCKS: usize = 1;
    const CHANNELS: &'static [usize] = &[6, 4, 2, 1];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx2(_mm256_setzero_ps(), _mm256_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        let all = unsafe { _mm256_broadcast_ss(&*from) };
        Avx2(all, all)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx2(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx2(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx2(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx2(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, rows: usize, to: *mut f32, to_row: usize) {
        // SAFETY: the caller's promise.
        unsafe { transpose_square(from, row, rows, to, to_row) }
    }

    #[inline(always)]
    unsafe fn where_inside(self, y: Self, low: Self, high: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let first =
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(y.0, low.0), _mm256_cmp_ps::<_CMP_LT_OQ>(y.0, high.0));
            let second =
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(y.1, low.1), _mm256_cmp_ps::<_CMP_LT_OQ>(y.1, high.1));
            Avx2(_mm256_and_ps(self.0, first), _mm256_and_ps(self.1, second))
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512(__m512);

#[cfg(target_arch = "x86_64")]
impl Vector for Avx512 {
    // 8 x 32 or 16 x 16 sums in 16 of 32 registers.
    const PIXELS: &'static [usize] = &[16, 8, 4, 2, 1];
    const BLOCKS: usize = 2;
    const CHANNELS: &'static [usize] = &[16, 8, 4, 2, 1];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx512(_mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx512(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx512(_mm512_set1_ps(*from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx512(_mm512_fmadd_ps(a.0, b.0, self.0)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Avx512(_mm512_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, rows: usize, to: *mut f32, to_row: usize) {
        // SAFETY: the caller's promise.
        unsafe { transpose_square(from, row, rows, to, to_row) }
    }

    #[inline(always)]
    unsafe fn where_inside(self, y: Self, low: Self, high: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let inside = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(y.0, low.0) & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(y.0, high.0);
            Avx512(_mm512_maskz_mov_ps(inside, self.0))
        }
    }
}

/// [`Vector::transpose`] in registers of 256 bits.
///
/// # Safety
///
/// The CPU has AVX2; eight floats are readable in each row, and writable in eight rows of the result.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn transpose_square(from: *const f32, row: usize, rows: usize, to: *mut f32, to_row: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut x = [_mm256_setzero_ps(); SQUARE];
        for i in 0..SQUARE {
            if i < rows {
                x[i] = _mm256_loadu_ps(from.add(i * row));
            }
        }
        let mut pairs = [_mm256_setzero_ps(); SQUARE];
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
        }
        let mut fours = [_mm256_setzero_ps(); SQUARE];
        for i in 0..2 {
            let [a, b, c, d] = [pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]];
            fours[4 * i] = _mm256_shuffle_ps::<0b01_00_01_00>(a, c);
            fours[4 * i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a, c);
            fours[4 * i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(b, d);
            fours[4 * i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(b, d);
        }
        for i in 0..4 {
            _mm256_storeu_ps(to.add(i * to_row), _mm256_permute2f128_ps::<0x20>(fours[i], fours[4 + i]));
        }
        for i in 0..4 {
            _mm256_storeu_ps(to.add((4 + i) * to_row), _mm256_permute2f128_ps::<0x31>(fours[i], fours[4 + i]));
        }
    }
}
