//! Runs convolutions of floats, and their gradients, on images in blocks of channels.
//!
//! - [`operators`] is the list of what works on blocks.
//! - [`recognize`] puts them where convolutions are, and keeps images in blocks between them.
//! - [`fuse`] gives the gradients of convolutions what stands before and behind them.
//! - [`execute`] makes them operators of tract, whose arithmetic is in [`kernels`](crate::kernels::blocked).
//!
//! Law: what is lowered computes the same sums in another order. A convolution that the kernels do not know stays what it
//! is.

mod execute;
mod fuse;
pub(crate) mod operators;
mod recognize;

use std::cell::OnceCell;
use std::rc::Rc;

use crate::analysis::Shapes;
use crate::ir::{Model, ValueId};

pub(super) use execute::register;

/// `model` with its convolutions on blocks, and the values that `outputs` are there.
pub(super) fn lower(model: &Model, outputs: &[ValueId]) -> (Model, Vec<ValueId>) {
    let mut lowered = model.clone();
    let main = lowered.main;
    let first = lowered.graph(main).outputs.len();
    outputs.iter().for_each(|&output| lowered.add_output(main, output));
    lowered.opsets.0.insert(super::int8::operators::DOMAIN.into(), 1);
    let shapes = OnceCell::from(Rc::new(Shapes::infer(&lowered)));
    recognize::recognize(&mut lowered, &shapes);
    fuse::fuse(&mut lowered);
    let outputs = lowered.graph(main).outputs[first..].to_vec();
    (lowered, outputs)
}
