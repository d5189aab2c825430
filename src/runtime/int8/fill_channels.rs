//! Lets images of three channels have four.
//!
//! Kernels multiply channels in fours, and read them where they are; threes would have to be copied for every window. So
//! the Quantize that makes bytes of a picture fills its pixels up with zero points, and the convolutions that read it
//! have weights of zero for them.

use super::operators as int8;
use crate::ir::{Attr, Model, NodeId, Tensor, Use};

/// Channels that are multiplied at once.
const TOGETHER: usize = 4;

/// Rewrites `model`, whose images are in the order that kernels want.
pub(super) fn fill_channels(model: &mut Model) {
    let nodes: Vec<NodeId> = model.nodes_of(model.main).collect();
    for node in nodes {
        let Some(filled) = filled_weights(model, node) else { continue };
        model.set_attr(node, "channels", Attr::Int(TOGETHER as i64));
        for (conv, weights) in filled {
            let w = model.node(conv).inputs[1].expect("a convolution has weights");
            let (graph, name) = (model.value(w).graph, format!("{}.filled", model.value(w).name));
            let w = model.add_constant(graph, &name, weights);
            model.set_input(conv, 1, Some(w));
        }
    }
}

/// The convolutions that read what `node` makes of a picture, if it is a Quantize that only they read, with their weights
/// filled up.
fn filled_weights(model: &Model, node: NodeId) -> Option<Vec<(NodeId, Tensor)>> {
    let picture = model.view::<int8::Quantize>(node).filter(|quantize| quantize.channels_last)?;
    debug_assert_eq!(picture.channels, 0, "filled up once");
    let result = model.node(node).outputs.first().copied().flatten()?;
    let readers = model.value(result).uses.iter().map(|place| match place {
        Use::Node(conv, 0) => Some((*conv, fill(model, *conv)?)),
        _ => None,
    });
    readers.collect()
}

/// The weights of a convolution of three channels for four.
fn fill(model: &Model, conv: NodeId) -> Option<Tensor> {
    let conv = model.view::<int8::Conv>(conv).filter(|conv| conv.group == 1 && conv.channels_last)?;
    let has_offset =
        |zero_point| !model.constant(zero_point).and_then(Tensor::bytes).is_some_and(|z| z.iter().all(|&z| z == 0));
    if conv.w_zero_point.is_some_and(has_offset) {
        return None;
    }
    let w = model.constant(conv.w)?;
    let [outputs, channels, ref kernel @ ..] = *w.shape() else { return None };
    let bytes = w.bytes().filter(|bytes| channels + 1 == TOGETHER && bytes.len() == w.len())?;
    let area = kernel.iter().product::<usize>();
    let mut filled = Vec::with_capacity(outputs * TOGETHER * area);
    for of_output in bytes.chunks_exact((channels * area).max(1)) {
        filled.extend_from_slice(of_output);
        filled.resize(filled.len() + area, 0);
    }
    let shape = [outputs, TOGETHER].into_iter().chain(kernel.iter().copied()).collect();
    Tensor::new(w.dtype(), shape, filled.into()).ok()
}
