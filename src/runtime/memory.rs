//! When memory that is freed goes back to the system.

use std::ffi::c_int;

/// `mi_option_purge_delay`: milliseconds until freed memory goes back, or -1 for never.
const PURGE_DELAY: c_int = 15;

/// From now on it never does: each step of training needs the same memory again, and to get it anew, page by page, takes a
/// tenth of the step. Of no consequence where mimalloc is not the allocator.
pub fn keep_freed() {
    // SAFETY: it sets a number in a table of the allocator, which any thread may do at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}
