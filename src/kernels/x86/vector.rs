//! What the kernels need of a register, so that a tile is written once for all instruction sets (and for emulated
//! registers, on which tests run the tiles of instruction sets that the CPU lacks).

use super::finish::ToBytes;

/// A register of 32-bit lanes. All methods are `#[inline(always)]`: they take on the features of the kernel they are in.
///
/// # Safety
///
/// Every method asks for a CPU with the instruction set of the type. Pointers need no alignment; as many elements must be
/// readable or writable as the method's text says.
pub(super) trait Vector: Copy {
    /// Sums in one register.
    const LANES: usize;
    /// Elements of the depth in one lane: four bytes or two words.
    const GRANULE: usize;
    /// The most rows of a tile, for every number of panels that it may take.
    const TALLEST: &'static [usize];
    type Activation: Copy;
    type Weight: Copy;

    /// Reads `LANES` sums.
    unsafe fn load(sums: *const i32) -> Self;
    unsafe fn splat(sum: i32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    /// Reads a granule into every lane.
    unsafe fn broadcast(x: *const Self::Activation) -> Self;
    /// Reads a granule for each lane.
    unsafe fn weights(w: *const Self::Weight) -> Self;
    /// Adds to each lane the products of its granules.
    unsafe fn dot(self, x: Self, w: Self) -> Self;

    /// Requantizes the sums of one row and writes the first `valid` bytes at `at`; `column` is the first one's.
    unsafe fn finish_bytes<const N: usize, const RESIDUAL: bool>(
        sums: [Self; N],
        to: &ToBytes<RESIDUAL>,
        column: usize,
        at: usize,
        valid: usize,
    );
    /// sum · scale + bias within the clamp, where `LANES` scales and biases are read and floats written.
    unsafe fn finish_floats(self, scales: *const f32, bias: *const f32, clamp: [f32; 2], output: *mut f32);
    /// Writes `LANES` sums.
    unsafe fn store(self, output: *mut i32);
}

/// 256 bits: 6 x 16 sums in 12 of 16 registers.
pub(super) const TALLEST_256: &[usize] = &[6];

/// 512 bits: at least 8 sums are under way wherever rows suffice, and at most 24 of 32 registers.
pub(super) const TALLEST_512: &[usize] = &[8, 8, 8, 6];
