//! Which kernel multiplies a given matrix.

use super::isa::{Arithmetic, Dispatch, Isa};
use super::packing::{Matrix, Panels};
use super::terms::Terms;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    Portable {
        saturating: bool,
    },
    /// Pairs of products saturate; exact where the weights are too small for that.
    #[cfg(target_arch = "x86_64")]
    Avx2Bytes,
    /// Exact; for weights that need 9 bits too.
    #[cfg(target_arch = "x86_64")]
    Avx2Words,
}

impl Kernel {
    /// `may_saturate`: whether ONNX Runtime multiplies such weights by `vpmaddubsw`.
    pub(super) fn choose(dispatch: Dispatch, matrix: &Matrix, may_saturate: bool, _terms: &Terms) -> Kernel {
        let overflows = matrix.can_saturate();
        let saturating = dispatch.arithmetic == Arithmetic::Saturating && may_saturate && overflows;
        #[cfg(target_arch = "x86_64")]
        if dispatch.isa != Isa::Portable {
            return match () {
                _ if saturating => Kernel::Avx2Bytes,
                _ if matrix.fits_bytes() && !overflows => Kernel::Avx2Bytes,
                _ => Kernel::Avx2Words,
            };
        }
        Kernel::Portable { saturating }
    }

    pub(super) fn pack(self, matrix: &Matrix) -> Panels {
        match self {
            Kernel::Portable { .. } => Panels::words(matrix),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Words => Panels::words(matrix),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Bytes => Panels::bytes(matrix),
        }
    }
}
