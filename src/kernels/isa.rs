//! The instruction sets that have kernels, and which of them this CPU has.

use std::fmt;
use std::str::FromStr;

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the reference.
    Portable,
    /// That of rten-gemm for this CPU: ARM and WASM have products only there. What else is to be computed is portable.
    Rten,
    Avx2,
    /// 256-bit VNNI in VEX encoding (Alder Lake and later client CPUs).
    AvxVnni,
    /// 512-bit VNNI (Cascade Lake, Ice Lake, Zen 4 and later).
    Avx512Vnni,
}

/// How products of u8 activations and i8 weights are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// In 32 bits: what VNNI, ARM and NPUs do.
    #[default]
    Exact,
    /// Neighbours in K order are added with saturation to 16 bits, as `vpmaddubsw` does in ONNX Runtime on x86 without
    /// VNNI. It concerns only what ONNX Runtime computes that way: not depthwise convolutions, not u8 weights, and not
    /// weights whose zero point is not zero.
    Saturating,
}

/// Which kernels compute, and what they compute. What an instruction set has no kernel for goes to a lower one: a
/// saturating product under VNNI to AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dispatch {
    pub isa: Isa,
    pub arithmetic: Arithmetic,
}

impl Isa {
    /// Slowest first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Rten, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni];

    /// Whether this CPU can run its kernels.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            match self {
                Isa::Portable | Isa::Rten => true,
                Isa::Avx2 => avx2,
                Isa::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
                Isa::Avx512Vnni => {
                    avx2 && is_x86_feature_detected!("avx512f")
                        && is_x86_feature_detected!("avx512bw")
                        && is_x86_feature_detected!("avx512vl")
                        && is_x86_feature_detected!("avx512vnni")
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            matches!(self, Isa::Portable | Isa::Rten)
        }
    }

    /// Panics where this CPU cannot run its kernels, which would be undefined.
    pub(super) fn require(self) {
        assert!(self.is_available(), "this CPU has no {self}");
    }

    /// Those this CPU has, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    pub fn best() -> Isa {
        *Isa::available().last().expect("every CPU has the portable kernels")
    }

    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Rten => "rten",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512Vnni => "avx512-vnni",
        }
    }
}

impl Dispatch {
    /// The best kernels of this CPU.
    pub fn best(arithmetic: Arithmetic) -> Dispatch {
        Dispatch { isa: Isa::best(), arithmetic }
    }
}

impl Arithmetic {
    pub const ALL: [Arithmetic; 2] = [Arithmetic::Exact, Arithmetic::Saturating];

    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::Exact => "exact",
            Arithmetic::Saturating => "saturating",
        }
    }
}

/// A name that is not in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    name: String,
    known: &'static str,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "`{}` is not one of {}", self.name, self.known)
    }
}

impl std::error::Error for UnknownName {}

impl FromStr for Isa {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Isa, UnknownName> {
        let known = "portable, rten, avx2, avx-vnni, avx512-vnni";
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or(UnknownName { name: name.into(), known })
    }
}

impl FromStr for Arithmetic {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Arithmetic, UnknownName> {
        let known = "exact, saturating";
        Arithmetic::ALL.into_iter().find(|a| a.name() == name).ok_or(UnknownName { name: name.into(), known })
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        for arithmetic in Arithmetic::ALL {
            assert_eq!(arithmetic.to_string().parse(), Ok(arithmetic));
        }
        let error = "avx".parse::<Isa>().unwrap_err();
        assert_eq!(error.to_string(), "`avx` is not one of portable, rten, avx2, avx-vnni, avx512-vnni");
    }

    #[test]
    fn what_the_cpu_lacks_is_refused() {
        for isa in Isa::ALL {
            assert_eq!(std::panic::catch_unwind(|| isa.require()).is_ok(), isa.is_available());
        }
    }

    #[test]
    fn the_reference_is_always_available() {
        assert_eq!(Isa::available()[0], Isa::Portable);
        assert!(Isa::best().is_available());
    }
}
