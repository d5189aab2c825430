//! Layers with weights, as pruning sees them: what they read, and what they give.

use crate::analysis::channels::{Channels, Lane, einsum_labels};
use crate::ir::{Attr, Model, NodeId, ValueId};

/// A layer whose weight is a constant.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub node: NodeId,
    pub weight: ValueId,
    /// The channels that it gives.
    pub gives: Option<Lane>,
    pub reads: Option<Read>,
}

/// What a layer sums over.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// What it reads, and the axis along which it sums.
    pub value: ValueId,
    pub axis: usize,
    /// Where the operand with these channels on as many axes from its end stands among the node's: that value, or for the state
    /// of a recurrent layer, which is read as it is computed, the weight that it is multiplied with.
    pub index: usize,
    pub lane: Lane,
    /// The same axis of the weight.
    pub weight_axis: usize,
}

/// Convolutions, products with constants, recurrent layers and tables, in the order they run.
pub fn layers(model: &Model, channels: &Channels) -> Vec<Layer> {
    let of_node = |node: NodeId| match model.node(node).op.as_str() {
        "LSTM" | "GRU" | "RNN" => recurrent(model, channels, node),
        "Einsum" => einsum(model, channels, node).unwrap_or_default(),
        _ => layer(model, channels, node).into_iter().collect(),
    };
    model.nodes_of(model.main).flat_map(of_node).collect()
}

/// A recurrent layer is two: W, which gives the state, and R, which reads it one step later.
fn recurrent(model: &Model, channels: &Channels, id: NodeId) -> Vec<Layer> {
    let node = model.node(id);
    let operand = |index: usize| node.inputs.get(index).copied().flatten();
    let is_weight = |value: &ValueId| model.constant(*value).is_some_and(|tensor| tensor.dtype().is_float());
    let [Some(x), Some(w), Some(r)] = [operand(0), operand(1).filter(is_weight), operand(2).filter(is_weight)] else {
        return Vec::new();
    };
    let state = channels.axis(r, 2).filter(|_| node.domain.is_empty());
    let read = |value: ValueId, index: usize| {
        let axis = channels.axes(value).len().checked_sub(1)?;
        Some(Read { value, axis, index, lane: channels.axis(value, axis)?, weight_axis: 2 })
    };
    let given = node.outputs.iter().take(2).flatten().next();
    vec![
        Layer { node: id, weight: w, gives: state, reads: read(x, 0) },
        Layer { node: id, weight: r, gives: None, reads: given.and_then(|&given| read(given, 2)) },
    ]
}

/// A product with several axes of outputs or of sums is as many layers.
fn einsum(model: &Model, channels: &Channels, id: NodeId) -> Option<Vec<Layer>> {
    let node = model.node(id);
    let ([Some(a), Some(b)], (terms, given)) = (&node.inputs[..], einsum_labels(node)?) else { return None };
    let index = usize::from(model.constant(*a).is_none());
    let [weight, value] = if index == 0 { [*a, *b] } else { [*b, *a] };
    model.constant(weight).filter(|tensor| tensor.dtype().is_float() && tensor.rank() > 1)?;
    let (mut gives, mut reads) = (Vec::new(), Vec::new());
    for (weight_axis, label) in terms[index].iter().enumerate() {
        let axis = terms[1 - index].iter().position(|other| other == label);
        match (axis, given.contains(label)) {
            (None, true) => gives.extend(channels.axis(weight, weight_axis)),
            (Some(axis), false) => {
                let lane = channels.axis(value, axis);
                reads.extend(lane.map(|lane| Read { value, axis, index: 1 - index, lane, weight_axis }));
            }
            _ => {}
        }
    }
    let count = gives.len().max(reads.len()).max(1);
    let layer = |nth: usize| Layer { node: id, weight, gives: gives.get(nth).copied(), reads: reads.get(nth).copied() };
    Some((0..count).map(layer).collect())
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
    let gives = channels.axis(weight, output).filter(|_| tensor.rank() > output);
    // Depthwise kernels give what they read: the layer before counts it.
    let is_depthwise = node.op.starts_with("Conv") && group > 1 && tensor.shape()[1] == 1;
    Some(Layer { node: id, weight, gives: gives.filter(|_| !is_depthwise), reads })
}
