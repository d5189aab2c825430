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
use crate::ir::{Model, ValueId, op};

pub(super) use execute::{kept, register};

/// `model` with its convolutions on blocks, and the values that `outputs` are there.
pub(super) fn lower(model: &Model, outputs: &[ValueId]) -> (Model, Vec<ValueId>) {
    let mut lowered = model.clone();
    let main = lowered.main;
    let first = lowered.graph(main).outputs.len();
    outputs.iter().for_each(|&output| lowered.add_output(main, output));
    lowered.opsets.0.insert(super::int8::operators::DOMAIN.into(), 1);
    let opset = model.opsets.onnx().unwrap_or(op::LATEST);
    // What views read of older operator sets has the same form there; what has not, they do not read.
    lowered.opsets.0.insert(String::new(), opset.max(op::BASE));
    let shapes = OnceCell::from(Rc::new(Shapes::infer(&lowered)));
    recognize::recognize(&mut lowered, &shapes, opset);
    fuse::fuse(&mut lowered);
    lowered.opsets.0.insert(String::new(), opset);
    let outputs = lowered.graph(main).outputs[first..].to_vec();
    (lowered, outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn convolutions_of_older_operator_sets_are_put_on_blocks_too() {
        for opset in [11, 17, op::LATEST] {
            let model = Model::parse(&format!(
                "<ir_version: 8, opset_import: [\"\": {opset}]>
                network (float[2,1,4,4] x) => (float[2,2,4,4] y)
                <float[2,1,1,1] w = {{1, -2}}>
                {{
                    c = Conv (x, w)
                    y = Relu (c)
                }}"
            ));
            let model = model.expect("the text is a model");
            let (lowered, outputs) = lower(&model, &model.graph(model.main).outputs);
            let ops: Vec<&str> = lowered.nodes_of(lowered.main).map(|node| &*lowered.node(node).op).collect();
            assert!(ops.iter().any(|op| op.ends_with("BlockedConv")), "{opset}: {ops:?}");
            assert_eq!((lowered.opsets.onnx(), outputs.len()), (Some(opset), 1));
        }
    }
}
