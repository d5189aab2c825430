//! Memory that starts at a cache line, so that no vector of it lies in two.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Plain numbers: any bytes are a value of them.
pub(super) trait Plain: Copy {}

impl Plain for i8 {}
impl Plain for i16 {}
impl Plain for f32 {}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [u8; 64]);

/// A vector of zeros at first.
pub(super) struct Aligned<T> {
    lines: Vec<Line>,
    length: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    pub(super) fn zeros(length: usize) -> Aligned<T> {
        let mut zeros = Aligned::default();
        zeros.reset(length);
        zeros
    }

    /// Makes it `length` zeros, in the memory it has if that is enough.
    pub(super) fn reset(&mut self, length: usize) {
        self.lines.clear();
        self.lines.resize((length * size_of::<T>()).div_ceil(64), Line([0; 64]));
        self.length = length;
    }

    /// Makes it at least that long; what it holds then is any.
    pub(super) fn reserve(&mut self, length: usize) {
        if self.length < length {
            self.reset(length);
        }
    }
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Aligned { lines: Vec::new(), length: 0, element: PhantomData }
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `length` elements, are initialized, and any bytes are a `Plain` value.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the lines are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}
