//! Which constants of a model are its weights.

use std::collections::HashSet;

use globset::GlobSet;

use crate::ir::op::{BatchNormalization, Constant};
use crate::ir::{DType, Model, NodeId, ValueId};

/// Operators with weights, and the operands that are weights where they are constant.
const LAYERS: &[(&str, &[usize])] = &[
    ("BatchNormalization", &[1, 2]),
    ("Conv", &[1, 2]),
    ("ConvTranspose", &[1, 2]),
    ("Einsum", &[0, 1]),
    ("Gather", &[0]),
    ("GRU", &[1, 2, 3]),
    ("Gemm", &[0, 1, 2]),
    ("GroupNormalization", &[1, 2]),
    ("InstanceNormalization", &[1, 2]),
    ("LSTM", &[1, 2, 3, 7]),
    ("LayerNormalization", &[1, 2]),
    ("MatMul", &[0, 1]),
    ("PRelu", &[1]),
    ("RMSNormalization", &[1]),
    ("RNN", &[1, 2, 3]),
];

/// Arithmetic, whose constants are weights behind a layer: biases and scales. Before the first layer they are how inputs
/// are scaled.
const ARITHMETIC: &[&str] = &["Add", "Div", "Mul", "Sub"];

/// A weight that is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    pub value: ValueId,
    /// Whether it decays: matrices and kernels do, biases and what belongs to normalizations do not.
    pub decays: bool,
}

/// Gives every weight a constant of its own: constants of nodes become initializers, and so does what an Identity makes of
/// one, as exporters write weights that happen to be equal.
pub fn separate(model: &mut Model) {
    let nodes: Vec<NodeId> = model.nodes_of(model.main).collect();
    for node in nodes {
        let of = model.node(node);
        let [Some(result)] = of.outputs[..] else { continue };
        let tensor = match (of.op.as_str(), of.inputs.first()) {
            ("Constant", _) => model.view::<Constant>(node).and_then(|constant| constant.tensor()),
            ("Identity", Some(Some(source))) if of.domain.is_empty() => model.constant(*source).cloned(),
            _ => None,
        };
        if let Some(mut tensor) = tensor {
            tensor.label = None;
            model.define_constant(result, tensor);
        }
    }
    separate_normalizations(model);
}

/// Untrained normalizations have the same ones and zeros, which exporters write once, and for several purposes.
fn separate_normalizations(model: &mut Model) {
    let nodes = model.nodes_of(model.main).filter(|&node| model.view::<BatchNormalization>(node).is_some());
    for node in nodes.collect::<Vec<NodeId>>() {
        let result = model.node(node).outputs.iter().flatten().next();
        let of = result.map_or(String::new(), |&result| model.value(result).name.clone());
        for index in 1..5 {
            let Some(operand) = model.node(node).inputs[index] else { continue };
            let Some(tensor) = model.constant(operand).cloned() else { continue };
            if model.value(operand).uses.len() > 1 {
                let role = ["", "scale", "bias", "mean", "variance"][index];
                let own = model.add_constant(model.main, &format!("{of}.{role}"), tensor);
                model.set_input(node, index, Some(own));
            }
        }
    }
}

/// The weights of `model` in the order of their first use, without those whose names match `frozen`.
pub fn weights(model: &Model, frozen: &GlobSet) -> Vec<Weight> {
    let mut found: Vec<Weight> = Vec::new();
    let mut known = HashSet::new();
    // Values behind a layer.
    let mut behind: HashSet<ValueId> = HashSet::new();
    for id in model.nodes_of(model.main) {
        let node = model.node(id);
        if !node.domain.is_empty() {
            continue;
        }
        let follows = node.inputs.iter().flatten().any(|value| behind.contains(value));
        let layer = LAYERS.iter().find(|(op, _)| *op == node.op).map(|(_, operands)| *operands);
        let operands: &[usize] = match layer {
            Some(operands) => operands,
            None if follows && ARITHMETIC.contains(&node.op.as_str()) => &[0, 1],
            None => &[],
        };
        let mut is_layer = false;
        for &index in operands {
            let Some(value) = node.inputs.get(index).copied().flatten() else { continue };
            let Some(tensor) = model.constant(value).filter(|tensor| tensor.dtype() == DType::F32) else { continue };
            // A single number is a factor of the formula, not a weight.
            if layer.is_none() && tensor.len() < 2 {
                continue;
            }
            is_layer |= layer.is_some();
            if known.insert(value) && !frozen.is_match(&model.value(value).name) {
                // Of a recurrent layer, all but the matrices are rows for each direction.
                let is_bias = tensor.rank() < 2 || matches!(node.op.as_str(), "GRU" | "LSTM" | "RNN") && index > 2;
                found.push(Weight { value, decays: !is_bias && !node.op.ends_with("Normalization") });
            }
        }
        if follows || is_layer {
            behind.extend(node.outputs.iter().flatten());
        }
    }
    found
}
