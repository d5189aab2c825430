//! Operators that take elements by index.

use super::operators::{GatherElements, Less, ScatterElements, ScatterND};
use super::softmax::wrapped;
use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::op::{Cast, Gather};
use crate::ir::{DType, Tensor, ValueId};

/// dy, added at the rows that were taken
pub(super) fn gather(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Gather { data, indices, axis }) = (site.dy()?, site.view(tape)?);
    let shape = tape.shape(data);
    let axis = wrapped(axis, shape.len());
    if let Some(&[index]) = tape.elements(indices).as_deref() {
        // A single row is a slice.
        let mut row = shape.clone();
        row[axis] = 1;
        let mut start = vec![0; shape.len()];
        start[axis] = wrapped(index, shape[axis]);
        let dy = tape.reshape(dy, &row);
        return Ok(vec![Some(tape.unslice(dy, &start, &vec![1; shape.len()], &shape))]);
    }
    // dy is [before, indices, after]; rows are to be its first axes.
    let index_shape = tape.shape(indices);
    let (taken, rank) = (index_shape.len(), tape.shape(dy).len());
    let to_front: Vec<usize> = (axis..axis + taken).chain(0..axis).chain(axis + taken..rank).collect();
    let updates = tape.transpose(dy, &to_front);
    let mut rows: Vec<usize> = vec![shape[axis]];
    rows.extend(shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, &n)| n));
    let indices = positive(tape, indices, shape[axis]);
    let mut tuples = index_shape;
    tuples.push(1);
    let indices = tape.reshape(indices, &tuples);
    let zeros = tape.filled(0.0, &rows, dy);
    let dtype = tape.dtype(dy);
    let sums = tape.write(ScatterND { data: zeros, indices, updates, reduction: "add".into() }, dtype, rows);
    let back: Vec<usize> = (1..=axis).chain([0]).chain(axis + 1..shape.len()).collect();
    Ok(vec![Some(tape.transpose(sums, &back))])
}

/// dy, added at the elements that were taken
pub(super) fn gather_elements(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, GatherElements { data, indices, axis }) = (site.dy()?, site.view(tape)?);
    let shape = tape.shape(data);
    let indices = positive(tape, indices, shape[wrapped(axis, shape.len())]);
    let data = tape.filled(0.0, &shape, dy);
    let dtype = tape.dtype(dy);
    let scatter = ScatterElements { data, indices, updates: dy, axis, reduction: "add".into() };
    Ok(vec![Some(tape.write(scatter, dtype, shape))])
}

/// The indices as 64-bit integers, with the negative ones counted from the start.
fn positive(tape: &mut Tape, indices: ValueId, length: usize) -> ValueId {
    let (dtype, shape) = tape.known(indices).expect("values on the way to the loss have fixed shapes");
    let wide = |tape: &mut Tape, x: ValueId| {
        let cast = Cast { x, round_mode: "up".into(), saturate: 1, to: DType::I64.code().into() };
        tape.write(cast, DType::I64, shape.clone())
    };
    let indices = if dtype == DType::I64 { indices } else { wide(tape, indices) };
    if tape.elements(indices).is_some_and(|all| all.iter().all(|&index| index >= 0)) {
        return indices;
    }
    let zero = tape.constant(Tensor::scalar(0i64));
    let negative = tape.write(Less { a: indices, b: zero }, DType::Bool, shape.clone());
    let negative = wide(tape, negative);
    let length = tape.constant(Tensor::scalar(length as i64));
    let offset = tape.mul(negative, length);
    tape.add(indices, offset)
}
