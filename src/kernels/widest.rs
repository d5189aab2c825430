//! Loops that the compiler vectorizes by itself, with the widest registers that the CPU has. Their results are the same
//! on all of them.

/// Runs a loop compiled for AVX2 and FMA, where there are both.
#[inline]
pub fn widest<R>(run: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2<R>(run: impl FnOnce() -> R) -> R {
            run()
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has both.
            return unsafe { with_avx2(run) };
        }
    }
    run()
}
