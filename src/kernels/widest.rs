//! Loops that the compiler vectorizes by itself, with the widest registers that the CPU has.

/// A loop that is compiled for several CPUs.
pub(super) trait Loop {
    type Output;

    /// Has to be `#[inline(always)]`, as all that it calls: what the compiler leaves apart is compiled for any CPU. `FUSED`
    /// tells whether there is an instruction for a product and a sum that are rounded once.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

/// Runs a loop compiled for AVX2 and FMA, where there are both, or for AVX-512.
#[inline]
pub(super) fn run<L: Loop>(of: L) -> L::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn with_avx512<L: Loop>(of: L) -> L::Output {
            of.run::<true>()
        }
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2<L: Loop>(of: L) -> L::Output {
            of.run::<true>()
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            // SAFETY: the CPU has what the function is compiled for.
            return unsafe { if wide { with_avx512(of) } else { with_avx2(of) } };
        }
    }
    // Without an instruction for it, `mul_add` is a slow call.
    match cfg!(target_arch = "aarch64") {
        true => of.run::<true>(),
        false => of.run::<false>(),
    }
}

/// Runs a loop that fuses nothing: its results are the same on all CPUs. The closure has to be `#[inline(always)]`.
#[inline]
pub fn widest<R>(closure: impl FnOnce() -> R) -> R {
    struct Unfused<F>(F);
    impl<R, F: FnOnce() -> R> Loop for Unfused<F> {
        type Output = R;

        #[inline(always)]
        fn run<const FUSED: bool>(self) -> R {
            self.0()
        }
    }
    run(Unfused(closure))
}
