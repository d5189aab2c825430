//! Layers with weights, as pruning sees them: what they read, and what they give.

use crate::analysis::channels::{Channels, Lane};
use crate::ir::{Attr, Model, NodeId, ValueId};

/// A layer whose weight is a constant.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub node: NodeId,
    pub weight: ValueId,
    /// The axis of the weight along which its outputs lie, and the lane of them.
    pub gives: Option<(usize, Lane)>,
    pub reads: Option<Read>,
}

/// What a layer sums over.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// The operand that it reads, and where it stands among the node's.
    pub value: ValueId,
    pub index: usize,
    /// The axis of that operand along which it sums.
    pub axis: usize,
    pub lane: Lane,
    /// The same axis of the weight.
    pub weight_axis: usize,
}

/// Convolutions, products with constants and tables, in the order they run.
pub fn layers(model: &Model, channels: &Channels) -> Vec<Layer> {
    model.nodes_of(model.main).filter_map(|node| layer(model, channels, node)).collect()
}

fn layer(model: &Model, channels: &Channels, id: NodeId) -> Option<Layer> {
    let node = model.node(id);
    if !node.domain.is_empty() {
        return None;
    }
    let operand = |index: usize| node.inputs.get(index).copied().flatten();
    let is_set = |name: &str| matches!(node.attrs.get(name), Some(Attr::Int(1)));
    let group = match node.attrs.get("group") {
        Some(Attr::Int(group)) => *group,
        _ => 1,
    };
    // Where the weight stands, its output axis, and the axes of operand and weight that are summed over.
    let (index, output, sums) = match node.op.as_str() {
        "Conv" => (1, 0, (group == 1).then_some((1, 1))),
        "ConvTranspose" => (1, 1, (group == 1).then_some((1, 0))),
        "Gemm" => {
            let (output, sum) = if is_set("transB") { (0, 1) } else { (1, 0) };
            (1, output, Some((if is_set("transA") { 0 } else { 1 }, sum)))
        }
        "MatMul" => {
            let [left, right] = [operand(0)?, operand(1)?];
            let rank = |value: ValueId| channels.axes(value).len();
            match (model.constant(left), model.constant(right)) {
                (None, Some(weight)) if weight.rank() == 2 => (1, 1, Some((rank(left).checked_sub(1)?, 0))),
                (Some(weight), None) if weight.rank() == 2 => (0, 0, Some((rank(right).checked_sub(2)?, 1))),
                _ => return None,
            }
        }
        "Gather" => (0, 1, None),
        _ => return None,
    };
    let weight = operand(index)?;
    let tensor = model.constant(weight).filter(|tensor| tensor.dtype().is_float() && tensor.rank() > 1)?;
    let value = operand(1 - index);
    let reads = sums.and_then(|(axis, weight_axis)| {
        let value = value?;
        Some(Read { value, index: 1 - index, axis, lane: channels.axis(value, axis)?, weight_axis })
    });
    let gives = channels.axis(weight, output).filter(|_| tensor.rank() > output).map(|lane| (output, lane));
    // Depthwise kernels give what they read: the layer before counts it.
    let is_depthwise = node.op.starts_with("Conv") && group > 1 && tensor.shape()[1] == 1;
    Some(Layer { node: id, weight, gives: gives.filter(|_| !is_depthwise), reads })
}
