//! The left operand as kernels read it: for each row pointers to its taps, in place where taps are whole granules, and
//! copied next to each other where they are not.

use std::ops::Range;

use super::geometry::{OUTSIDE, Rows};
use super::widest::widest;

/// What a kernel reads: bytes, or bytes widened to words.
pub(super) trait Element: Copy + From<u8> {}

impl Element for u8 {}
impl Element for i16 {}

/// The left operand.
pub(super) struct Input<'a> {
    pub(super) values: &'a [u8],
    /// The same as words, where that was worth doing at once.
    pub(super) words: Option<&'a [i16]>,
    /// Where the first channel of the group is.
    pub(super) offset: usize,
    pub(super) rows: &'a Rows,
    pub(super) count: usize,
    /// What the sums of each row start with besides the bias, if the kernel asks for it.
    pub(super) starts: Option<&'a [i32]>,
}

/// Pointers to the taps of some rows, and the memory of those that were copied.
#[cfg(target_arch = "x86_64")]
pub(super) struct Taps<T> {
    pub(super) table: Vec<*const T>,
    /// Of each row.
    pub(super) count: usize,
    /// Elements of a tap.
    pub(super) length: usize,
    padding: Vec<T>,
    copied: Copied<T>,
}

/// Rows whose taps follow each other, filled up to whole granules with zeros.
pub(super) struct Copied<T> {
    pub(super) rows: Vec<T>,
    offsets: Vec<usize>,
}

#[cfg(target_arch = "x86_64")]
impl<T> Default for Taps<T> {
    fn default() -> Self {
        Taps { table: Vec::new(), count: 0, length: 0, padding: Vec::new(), copied: Copied::default() }
    }
}

impl<T> Default for Copied<T> {
    fn default() -> Self {
        Copied { rows: Vec::new(), offsets: Vec::new() }
    }
}

#[cfg(target_arch = "x86_64")]
impl<T: Element> Taps<T> {
    /// Taps of `rows`, to be read in granules. `values` is the whole input as elements of this type, if there is one.
    /// The pointers hold as long as the input is borrowed and this is not changed.
    pub(super) fn find(
        &mut self,
        input: &Input,
        values: Option<&[T]>,
        rows: Range<usize>,
        depth: usize,
        granule: usize,
        zero_point: u8,
    ) {
        let length = depth / input.rows.taps();
        if let Some(values) = values.filter(|_| length.is_multiple_of(granule)) {
            (self.count, self.length) = (input.rows.taps(), length);
            self.padding.clear();
            self.padding.resize(length, T::from(zero_point));
            let first = values[input.offset..].as_ptr();
            input.rows.fill(rows, |at| first.wrapping_add(at), self.padding.as_ptr(), &mut self.table);
        } else {
            (self.count, self.length) = (1, depth.next_multiple_of(granule));
            self.copied.copy(input, rows, depth, granule, zero_point);
            self.table.clear();
            self.table.extend(self.copied.rows.chunks_exact(self.length).map(<[T]>::as_ptr));
        }
    }
}

impl<T: Element> Copied<T> {
    pub(super) fn copy(&mut self, input: &Input, rows: Range<usize>, depth: usize, granule: usize, zero_point: u8) {
        let taps = input.rows.taps();
        let padded = depth.next_multiple_of(granule);
        self.rows.clear();
        if matches!(*input.rows, Rows::Matrix { stride } if stride == depth && padded == depth) {
            let values = &input.values[input.offset + rows.start * depth..][..rows.len() * depth];
            return widest(
                #[inline(always)]
                || self.rows.extend(values.iter().map(|&x| T::from(x))),
            );
        }
        self.rows.resize(rows.len() * padded, T::from(0));
        input.rows.fill(rows, |at| at, OUTSIDE, &mut self.offsets);
        for (row, offsets) in self.rows.chunks_exact_mut(padded).zip(self.offsets.chunks_exact(taps)) {
            copy_row(&mut row[..depth], &input.values[input.offset..], offsets, zero_point);
        }
    }
}

/// Copies the taps at `offsets`. Those that follow each other are copied as one.
fn copy_row<T: Element>(row: &mut [T], values: &[u8], offsets: &[usize], zero_point: u8) {
    let length = row.len() / offsets.len();
    let (mut tap, mut end) = (0, 0);
    while tap < offsets.len() {
        let first = offsets[tap];
        let adjoins = |end: usize| first != OUTSIDE && offsets[end] == first + (end - tap) * length;
        end += 1;
        while end < offsets.len() && adjoins(end) {
            end += 1;
        }
        let to = &mut row[tap * length..];
        let count = (end - tap) * length;
        match first {
            OUTSIDE => to[..count].fill(T::from(zero_point)),
            _ => copy_run(to, &values[first..], count),
        }
        tap = end;
    }
}

/// Copies `count` elements, and for speed perhaps some more that are overwritten by the next run.
#[inline]
fn copy_run<T: Element>(to: &mut [T], from: &[u8], count: usize) {
    match (to.first_chunk_mut::<16>(), from.first_chunk::<16>()) {
        (Some(to), Some(from)) if count <= 16 => *to = from.map(T::from),
        _ => to[..count].iter_mut().zip(&from[..count]).for_each(|(to, &from)| *to = T::from(from)),
    }
}
