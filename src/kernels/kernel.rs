//! Which kernel multiplies a given matrix.

use super::epilogue::Epilogue;
use super::isa::{Arithmetic, Dispatch, Isa};
use super::packing::{Matrix, Panels};
#[cfg(target_arch = "x86_64")]
use super::pairs::PairedPanels;
use super::rten::{self, PackedWeights};
use super::terms::Terms;

/// The share of granules in pairs that makes up for lower tiles.
#[cfg(target_arch = "x86_64")]
const WORTH_PAIRS: f64 = 0.3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    Portable {
        saturating: bool,
    },
    /// Exact, for bytes.
    Rten,
    /// Pairs of products saturate; exact where the weights are too small for that.
    #[cfg(target_arch = "x86_64")]
    Avx2Bytes,
    /// The same with granules in pairs, of one tap.
    #[cfg(target_arch = "x86_64")]
    Avx2Pairs {
        saturating: bool,
    },
    /// Exact; for weights that need 9 bits too.
    #[cfg(target_arch = "x86_64")]
    Avx2Words,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Kernel {
    /// For a matrix of so many `taps`. `may_saturate`: whether ONNX Runtime multiplies such weights by `vpmaddubsw`.
    pub(super) fn choose(
        dispatch: Dispatch,
        matrix: &Matrix,
        taps: usize,
        may_saturate: bool,
        terms: &Terms,
    ) -> Kernel {
        dispatch.isa.require();
        let overflows = matrix.can_saturate();
        let saturating = dispatch.arithmetic == Arithmetic::Saturating && may_saturate && overflows;
        match dispatch.isa {
            Isa::Rten if !saturating && matrix.fits_bytes() && rten::is_exact(matrix.depth, overflows) => Kernel::Rten,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if !saturating && suits_vnni(matrix, terms) => Kernel::AvxVnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni if !saturating && suits_vnni(matrix, terms) => Kernel::Avx512Vnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => match matrix.fits_bytes() {
                true if taps == 1 => Kernel::Avx2Pairs { saturating },
                true if saturating || !overflows => Kernel::Avx2Bytes,
                _ => Kernel::Avx2Words,
            },
            _ => Kernel::Portable { saturating },
        }
    }

    /// For a product of two activations; `saturating` if it is one of u8 and i8 that saturates.
    pub(super) fn of_activations(isa: Isa, depth: usize, saturating: bool, bounded: bool) -> Kernel {
        isa.require();
        match isa {
            Isa::Rten if !saturating && rten::is_exact(depth, true) => Kernel::Rten,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni if saturating => Kernel::Avx2Bytes,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if bounded => Kernel::AvxVnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni if bounded => Kernel::Avx512Vnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => Kernel::Avx2Words,
            _ => Kernel::Portable { saturating },
        }
    }

    /// Elements of the depth that are packed together.
    pub(super) fn granule(self) -> usize {
        match self {
            Kernel::Portable { .. } => 2,
            Kernel::Rten => 1,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Words => 2,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Bytes | Kernel::Avx2Pairs { .. } | Kernel::AvxVnni | Kernel::Avx512Vnni => 4,
        }
    }

    /// With the kernel that they are packed for: one without pairs, where too few are found.
    pub(super) fn pack(self, matrix: &Matrix) -> (Kernel, Panels) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Pairs { saturating } => {
                let pairs = PairedPanels::new(matrix, !saturating);
                match pairs.share() >= WORTH_PAIRS || pairs.has_halves() {
                    true => (self, Panels::Pairs(pairs)),
                    false => (Kernel::Avx2Bytes, Panels::bytes(matrix)),
                }
            }
            Kernel::Rten => (self, Panels::Rten(PackedWeights::new(matrix))),
            _ if self.granule() == 2 => (self, Panels::words(matrix)),
            _ => (self, Panels::bytes(matrix)),
        }
    }
}

/// Whether weights are bytes, and no sum leaves the integers of 32 bits when it is requantized.
pub(super) fn suits_vnni(matrix: &Matrix, terms: &Terms) -> bool {
    // A little less than 2³¹, for the rounding of products.
    const LIMIT: f64 = 2_147_000_000.0;
    let Epilogue::Requantize(requantize) = &terms.epilogue else {
        return matrix.fits_bytes();
    };
    let stays = |column: usize| {
        let multiplier = f64::from(requantize.multipliers[column]).abs();
        // Any sum of 32 bits times a multiplier below 1 stays.
        multiplier <= 0.99 || matrix.largest_sum(column, terms.bias[column]) * multiplier < LIMIT
    };
    let residual_stays = requantize.residual.is_none_or(|addition| {
        let largest: f32 = addition.ratios.iter().map(|ratio| ratio.abs() * 255.0).sum();
        f64::from(largest) + f64::from(addition.offset).abs() < LIMIT
    });
    matrix.fits_bytes() && residual_stays && (0..matrix.columns).all(stays)
}
