//! Loops that the compiler vectorizes by itself, with the widest registers that the CPU has. Their results are the same
//! on all of them.

/// Runs a loop compiled for AVX2 and FMA, where there are both, or for AVX-512. The closure has to be
/// `#[inline(always)]`: what the compiler leaves apart is compiled for any CPU.
#[inline]
pub fn widest<R>(run: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn with_avx512<R>(run: impl FnOnce() -> R) -> R {
            run()
        }
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2<R>(run: impl FnOnce() -> R) -> R {
            run()
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            // SAFETY: the CPU has what the function is compiled for.
            return unsafe { if wide { with_avx512(run) } else { with_avx2(run) } };
        }
    }
    run()
}
