//! Reshapes before operators of ours are passed over: these read plain floats, whatever their shape is called, and tract
//! copies what it reshapes if somebody else reads it too.

use tract_onnx::tract_core::internal::*;

use super::chains::Chain;
use super::products::Product;
use super::softmax::Softmax;
use super::sums::Sum;

/// Lets operators of ours read what stands before reshapes.
pub(super) fn pass_over(model: &mut TypedModel) -> TractResult<()> {
    let is_ours = |node: &&TypedNode| {
        node.op_is::<Product>() || node.op_is::<Sum>() || node.op_is::<Softmax>() || node.op_is::<Chain>()
    };
    let ours: Vec<usize> = model.nodes().iter().filter(is_ours).map(|node| node.id).collect();
    for node in ours {
        for slot in 0..model.node(node).inputs.len() {
            let reshaped = model.node(node).inputs[slot];
            let source = before_reshapes(model, reshaped);
            if source != reshaped {
                model.add_edge(source, InletId::new(node, slot))?;
            }
        }
    }
    model.compact()
}

fn before_reshapes(model: &TypedModel, mut outlet: OutletId) -> OutletId {
    loop {
        let node = model.node(outlet.node);
        match node.op_as::<AxisOp>() {
            Some(AxisOp::Add(_) | AxisOp::Rm(_) | AxisOp::Reshape(..)) => outlet = node.inputs[0],
            Some(AxisOp::Move(..)) | None => return outlet,
        }
    }
}
