//! Sums of products of floats over any axes, as strided matrix products: operands are read and results written where
//! they are, in whatever order their axes have. Tiles of ours where there are vectors of ours, elsewhere the crate gemm.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

mod pack;
mod tile;

use std::cell::Cell;

use super::aligned::Aligned;
use super::blocked::isa::dispatch;
use super::blocked::vector::Vector;
use super::blocked::{BLOCK, FloatIsa};
use tile::{Right, Scratch, pack};

thread_local!(static SCRATCH: Cell<Scratch> = Cell::default());

/// An axis: its length, and the elements between neighbours along it in the left operand, the right one and the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    pub length: usize,
    pub strides: [usize; 3],
}

/// c[batch, m, n] = Σ a[batch, m, k] · b[batch, k, n], where each letter stands for any number of axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StridedProduct {
    /// Axes that are walked one by one.
    outer: Vec<Axis>,
    /// Axes of the sum that are walked one by one.
    outer_k: Vec<Axis>,
    m: Axis,
    n: Axis,
    k: Axis,
    isa: FloatIsa,
}

/// A right operand as tiles read it.
pub struct PackedRight {
    values: Aligned<f32>,
    isa: FloatIsa,
    /// Columns and terms.
    axes: [Axis; 2],
}

const ONE: Axis = Axis { length: 1, strides: [0; 3] };

impl StridedProduct {
    /// Axes of each kind stand in the order of the result, or else of the left operand.
    pub fn new(isa: FloatIsa, batch: Vec<Axis>, m: Vec<Axis>, n: Vec<Axis>, k: Vec<Axis>) -> StridedProduct {
        let (mut m, mut n, mut k) = (merged(m), merged(n), merged(k));
        let mut outer = merged(batch);
        let [inner_m, inner_n, inner_k] = [&mut m, &mut n, &mut k].map(longest);
        outer.extend(m);
        outer.extend(n);
        StridedProduct { outer, outer_k: k, m: inner_m, n: inner_n, k: inner_k, isa }
    }

    /// Writes all of `c`.
    pub fn run(&self, a: &[f32], b: &[f32], c: &mut [f32]) {
        for (operand, length) in [a.len(), b.len(), c.len()].into_iter().enumerate() {
            assert!(self.reach(operand) < length || self.is_empty(), "the product reaches beyond its operands");
        }
        if self.k.length == 0 || self.outer_k.iter().any(|axis| axis.length == 0) {
            return c.fill(0.0);
        }
        if self.isa == FloatIsa::Portable {
            return self.run_elsewhere(a, b, c);
        }
        self.multiply(a, Right::Strided(b.as_ptr()), c);
    }

    /// The right operand as tiles read it, once for many runs. None where it is more than one matrix, or where tiles lie
    /// along `a`.
    pub fn pack(&self, b: &[f32]) -> Option<PackedRight> {
        assert!(self.reach(1) < b.len() || self.is_empty(), "the product reaches beyond its operand");
        let is_one = self.outer_k.is_empty() && self.outer.iter().all(|axis| axis.strides[1] == 0);
        if self.isa == FloatIsa::Portable || !is_one || self.is_swapped() || self.is_empty() {
            return None;
        }
        let mut packed = PackedRight { values: Aligned::default(), isa: self.isa, axes: [self.n, self.k] };
        let (axes, b, to) = ([self.m, self.n, self.k], b.as_ptr(), &mut packed.values);
        dispatch!(self.isa, pack, (axes: [Axis; 3], b: *const f32, to: &mut Aligned<f32>));
        Some(packed)
    }

    /// [`run`](StridedProduct::run) with what [`pack`](StridedProduct::pack) made of `b`.
    pub fn run_packed(&self, a: &[f32], b: &PackedRight, c: &mut [f32]) {
        assert!(self.reach(0) < a.len() && self.reach(2) < c.len(), "the product reaches beyond its operands");
        assert!((b.isa, b.axes) == (self.isa, [self.n, self.k]), "packed for another product");
        self.multiply(a, Right::Packed(b.values.as_ptr()), c);
    }

    /// Operands are as long as all axes reach, and what is packed was packed for these.
    fn multiply(&self, a: &[f32], b: Right, c: &mut [f32]) {
        let mut scratch = SCRATCH.take();
        let (product, scratch_of_call) = (self, &mut scratch);
        dispatch!(self.isa, run, (
            product: &StridedProduct, a: &[f32], b: Right, c: &mut [f32], scratch_of_call: &mut Scratch,
        ));
        SCRATCH.set(scratch);
    }

    /// Tiles are wide along n: the longer axis if one is short, or else the one along which c is written.
    fn is_swapped(&self) -> bool {
        let [m, n] = [self.m, self.n];
        match m.length.min(n.length) < BLOCK {
            true => n.length < m.length,
            false => n.strides[2] != 1 && m.strides[2] == 1,
        }
    }

    fn run_elsewhere(&self, a: &[f32], b: &[f32], c: &mut [f32]) {
        let [m, n, k] = [self.m, self.n, self.k];
        self.each(|[a_first, b_first, c_first], adds| {
            // SAFETY: the operands are as long as all axes reach.
            unsafe {
                gemm::gemm(
                    m.length,
                    n.length,
                    k.length,
                    c.as_mut_ptr().add(c_first),
                    n.strides[2] as isize,
                    m.strides[2] as isize,
                    adds,
                    a.as_ptr().add(a_first),
                    k.strides[0] as isize,
                    m.strides[0] as isize,
                    b.as_ptr().add(b_first),
                    n.strides[1] as isize,
                    k.strides[1] as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        });
    }

    /// Visits the first element of each operand for every matrix product, and whether it is added to one before.
    #[inline(always)]
    fn each(&self, mut visit: impl FnMut([usize; 3], bool)) {
        for index in 0..count(&self.outer) {
            let [a, b, c] = place(&self.outer, index);
            for term in 0..count(&self.outer_k) {
                let [a_more, b_more, _] = place(&self.outer_k, term);
                visit([a + a_more, b + b_more, c], term > 0);
            }
        }
    }

    fn axes(&self) -> impl Iterator<Item = &Axis> {
        self.outer.iter().chain(&self.outer_k).chain([&self.m, &self.n, &self.k])
    }

    fn is_empty(&self) -> bool {
        self.axes().any(|axis| axis.length == 0)
    }

    /// The offset of the last element of an operand.
    fn reach(&self, operand: usize) -> usize {
        self.axes().map(|axis| axis.length.saturating_sub(1) * axis.strides[operand]).sum()
    }
}

/// Neighbours that are one axis, cut in two, become that axis again.
fn merged(axes: Vec<Axis>) -> Vec<Axis> {
    let mut merged: Vec<Axis> = Vec::new();
    for axis in axes.into_iter().filter(|axis| axis.length != 1) {
        match merged.last_mut() {
            Some(last) if (0..3).all(|i| last.strides[i] == axis.strides[i] * axis.length) => {
                *last = Axis { length: last.length * axis.length, strides: axis.strides };
            }
            _ => merged.push(axis),
        }
    }
    merged
}

fn longest(axes: &mut Vec<Axis>) -> Axis {
    let place = (0..axes.len()).max_by_key(|&place| axes[place].length);
    place.map_or(ONE, |place| axes.remove(place))
}

fn count(axes: &[Axis]) -> usize {
    axes.iter().map(|axis| axis.length).product()
}

/// The offset in each operand of a place along all axes, the last of which runs fastest.
fn place(axes: &[Axis], index: usize) -> [usize; 3] {
    let (mut rest, mut place) = (index, [0; 3]);
    for axis in axes.iter().rev() {
        let at = rest % axis.length;
        rest /= axis.length;
        (0..3).for_each(|operand| place[operand] += at * axis.strides[operand]);
    }
    place
}

/// # Safety
///
/// The CPU has the instruction set; the operands are as long as all axes reach, and what is packed was packed for them.
#[inline(always)]
unsafe fn run<V: Vector>(product: &StridedProduct, a: &[f32], b: Right, c: &mut [f32], scratch: &mut Scratch) {
    let [m, n, k] = [product.m, product.n, product.k];
    let swapped = |Axis { length, strides: [a, b, c] }: Axis| Axis { length, strides: [b, a, c] };
    let is_swapped = product.is_swapped();
    let axes = if is_swapped { [n, m, k].map(swapped) } else { [m, n, k] };
    product.each(
        #[inline(always)]
        |[a_first, b_first, c_first], adds| {
            // SAFETY: the caller's promise.
            unsafe {
                let (a, c) = (a.as_ptr().add(a_first), c.as_mut_ptr().add(c_first));
                // What is packed is one matrix for all of `a`, and not swapped.
                let (a, b) = match b {
                    Right::Strided(b) if is_swapped => (b.add(b_first), Right::Strided(a)),
                    Right::Strided(b) => (a, Right::Strided(b.add(b_first))),
                    Right::Packed(_) => (a, b),
                };
                tile::multiply::<V>(axes, a, b, c, adds, scratch);
            }
        },
    );
}
