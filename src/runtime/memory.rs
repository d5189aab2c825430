//! Memory for results: not cleared before they are written, and kept where the same is needed again and again.

use std::ffi::c_int;

use tract_onnx::tract_core::internal::*;

/// `mi_option_purge_delay`: milliseconds until freed memory goes back, or -1 for never.
const PURGE_DELAY: c_int = 15;

/// From now on it never does: each step of training, and each run of many samples, needs the same memory again, and to get
/// it anew, page by page, takes a tenth of a step. Of no consequence where mimalloc is not the allocator.
pub fn keep_freed() {
    // SAFETY: it sets a number in a table of the allocator, which any thread may do at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}

/// What was freed goes back now: what comes next is of other sizes.
pub fn return_freed() {
    // SAFETY: it frees only what is free, which any thread may do at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Numbers that any bits stand for.
pub(super) trait Number: Datum {}

impl Number for f32 {}
impl Number for i8 {}
impl Number for u8 {}

/// A tensor that holds nothing yet: every element is to be written before it is read. To clear it first would take a
/// twentieth of the time of a convolution in integers. In builds with debug assertions tract fills it with what stands
/// out, so that tests see an element that was left out.
pub(super) fn unwritten<T: Number>(shape: &[usize]) -> TractResult<Tensor> {
    // SAFETY: kernels write all elements of an output, whose length they check, and any bits are a number.
    unsafe { Tensor::uninitialized::<T>(shape) }
}
