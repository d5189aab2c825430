//! The order in which the axes of a value are stored.

use std::rc::Rc;

use bytes::Bytes;
use ndarray::{ArrayViewD, IxDyn};

use crate::ir::op::Transpose;
use crate::ir::{DType, Tensor};

/// Axis `i` of what is stored is axis `order[i]` of the value: what is stored is Transpose(value, order).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout(Rc<[usize]>);

impl Layout {
    /// What `transpose` makes of its operand of this rank; none if that is no permutation.
    pub fn of(transpose: &Transpose, rank: Option<usize>) -> Option<Layout> {
        if transpose.perm.is_empty() {
            return Some(Layout((0..rank?).rev().collect()));
        }
        let rank = transpose.perm.len();
        let order: Rc<[usize]> = transpose.perm.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect();
        let mut found = vec![false; rank];
        order.iter().filter(|&&axis| axis < rank).for_each(|&axis| found[axis] = true);
        (order.len() == rank && found.iter().all(|&found| found)).then_some(Layout(order))
    }

    pub fn rank(&self) -> usize {
        self.0.len()
    }

    pub fn is_natural(&self) -> bool {
        (0..self.rank()).all(|axis| self.keeps(axis))
    }

    /// Whether `axis` is stored in its own place.
    pub fn keeps(&self, axis: usize) -> bool {
        self.0.get(axis) == Some(&axis)
    }

    /// Where `axis` is stored.
    pub fn place(&self, axis: usize) -> usize {
        self.0.iter().position(|&other| other == axis).expect("a permutation has every axis")
    }

    pub fn places(&self, axes: &[usize]) -> Vec<i64> {
        axes.iter().map(|&axis| self.place(axis) as i64).collect()
    }

    pub fn inverse(&self) -> Layout {
        let mut inverse = vec![0; self.rank()];
        self.0.iter().enumerate().for_each(|(place, &axis)| inverse[axis] = place);
        Layout(inverse.into())
    }

    /// Transpose(Transpose(x, self), next) = Transpose(x, self.then(next))
    pub fn then(&self, next: &Layout) -> Layout {
        Layout(self.arrange(&next.0).into())
    }

    fn arrange(&self, places: &[usize]) -> Vec<usize> {
        places.iter().map(|&place| self.0[place]).collect()
    }

    /// One element for each axis, in the order in which the axes are stored.
    pub fn stored<T: Clone>(&self, by_axis: &[T]) -> Vec<T> {
        self.0.iter().map(|&axis| by_axis[axis].clone()).collect()
    }

    /// The order of the axes that are left without `axes`.
    pub fn without(&self, axes: &[usize]) -> Layout {
        let left = self.0.iter().filter(|axis| !axes.contains(axis));
        Layout(left.map(|axis| axis - axes.iter().filter(|gone| *gone < axis).count()).collect())
    }

    pub fn perm(&self) -> Vec<i64> {
        self.0.iter().map(|&axis| axis as i64).collect()
    }

    /// Whether no element of a value moves in memory, since only axes of length 1 change places.
    pub fn is_view(&self, is_one: impl Fn(usize) -> bool) -> bool {
        self.0.iter().filter(|&&axis| !is_one(axis)).is_sorted()
    }

    /// `tensor`, with axes of length 1 put before its own until it has the rank of the layout, as the layout stores it.
    /// None for types whose elements are no whole bytes.
    pub fn apply(&self, tensor: &Tensor) -> Option<Tensor> {
        let mut shape = vec![1; self.rank().checked_sub(tensor.rank())?];
        shape.extend(tensor.shape());
        let tensor = tensor.reshaped(shape.clone())?;
        if self.is_view(|axis| shape[axis] == 1) {
            return tensor.reshaped(self.stored(&shape));
        }
        let data = match tensor.dtype() {
            DType::String => {
                let view = ArrayViewD::from_shape(IxDyn(&shape), tensor.strings()?).ok()?;
                let strings = view.permuted_axes(IxDyn(&self.0)).iter().cloned().collect();
                return Tensor::from_strings(self.stored(&shape), strings).ok();
            }
            dtype => match dtype.bits() {
                8 => self.move_elements::<u8>(&tensor)?,
                16 => self.move_elements::<u16>(&tensor)?,
                32 => self.move_elements::<u32>(&tensor)?,
                64 => self.move_elements::<u64>(&tensor)?,
                128 => self.move_elements::<u128>(&tensor)?,
                _ => return None,
            },
        };
        Tensor::new(tensor.dtype(), self.stored(&shape), data).ok()
    }

    fn move_elements<T: bytemuck::Pod>(&self, tensor: &Tensor) -> Option<Bytes> {
        let elements: Vec<T> = bytemuck::pod_collect_to_vec(tensor.bytes()?);
        let view = ArrayViewD::from_shape(IxDyn(tensor.shape()), &elements).ok()?;
        let moved: Vec<T> = view.permuted_axes(IxDyn(&self.0)).iter().copied().collect();
        Some(Bytes::copy_from_slice(bytemuck::cast_slice(&moved)))
    }
}
