//! Which instruction set the kernels for floats use.

/// An instruction set of the kernels for floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatIsa {
    Portable,
    Avx2,
    Avx512,
}

impl FloatIsa {
    pub const ALL: [FloatIsa; 3] = [FloatIsa::Portable, FloatIsa::Avx2, FloatIsa::Avx512];

    pub fn is_available(self) -> bool {
        match self {
            FloatIsa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            FloatIsa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            FloatIsa::Avx512 => FloatIsa::Avx2.is_available() && is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The best that this CPU has.
    pub fn best() -> FloatIsa {
        FloatIsa::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(FloatIsa::Portable)
    }
}

/// Runs a generic function with the vectors of an instruction set, compiled with its features.
macro_rules! dispatch {
    ($isa:expr, $function:ident, ($($argument:ident: $ty:ty),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn with_avx2($($argument: $ty),*) {
            // SAFETY: the features of the vector are those of this function.
            unsafe { $function::<$crate::kernels::blocked::vector::Avx2>($($argument),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx2,fma")]
        unsafe fn with_avx512($($argument: $ty),*) {
            // SAFETY: as above.
            unsafe { $function::<$crate::kernels::blocked::vector::Avx512>($($argument),*) }
        }
        assert!($isa.is_available(), "this CPU does not have {:?}", $isa);
        // SAFETY: the CPU has the features, and lengths were checked.
        unsafe {
            match $isa {
                #[cfg(target_arch = "x86_64")]
                FloatIsa::Avx2 => with_avx2($($argument),*),
                #[cfg(target_arch = "x86_64")]
                FloatIsa::Avx512 => with_avx512($($argument),*),
                _ => $function::<$crate::kernels::blocked::vector::Portable>($($argument),*),
            }
        }
    }};
}
pub(in crate::kernels) use dispatch;
