//! Values of their own for nodes that share them by chance: exporters write equal biases and scales once, and the zeros that all
//! recurrent layers start from, which would tie layers that have nothing to do with each other.

use crate::ir::op::ConstantOfShape;
use crate::ir::{Model, NodeId, Tensor, Use, ValueDef, ValueId};
use crate::train::weights::separate;

/// Unties layers that share values by chance.
pub fn untie(model: &mut Model) {
    own_vectors(model);
    start_from_nothing(model);
}

/// Lets constants be initializers, and gives every node its own copy of vectors that it shares with others.
fn own_vectors(model: &mut Model) {
    separate(model);
    let shared: Vec<ValueId> = model
        .all_values()
        .filter_map(|(value, of)| {
            let ValueDef::Constant(tensor) = &of.def else { return None };
            let is_vector = tensor.shape().iter().filter(|&&n| n > 1).count() == 1;
            (of.graph == model.main && is_vector && of.uses.len() > 1).then_some(value)
        })
        .collect();
    for value in shared {
        let (name, tensor) = (model.value(value).name.clone(), model.constant(value).expect("it is one").clone());
        let uses: Vec<Use> = model.value(value).uses.iter().copied().skip(1).collect();
        for place in uses {
            if let Use::Node(node, index) = place
                && model.node(node).graph == model.main
            {
                let own = model.add_constant(model.main, &name, tensor.clone());
                model.set_input(node, index, Some(own));
            }
        }
    }
}

/// Leaves out zeros that recurrent layers start from: they are what a layer starts from that is given nothing.
fn start_from_nothing(model: &mut Model) {
    let is_recurrent = |node: &NodeId| {
        let node = model.node(*node);
        node.domain.is_empty() && matches!(node.op.as_str(), "LSTM" | "GRU" | "RNN")
    };
    let layers: Vec<NodeId> = model.nodes_of(model.main).filter(is_recurrent).collect();
    for layer in layers {
        for index in [5, 6] {
            let Some(state) = model.node(layer).inputs.get(index).copied().flatten() else { continue };
            if is_zero(model, state) {
                model.set_input(layer, index, None);
            }
        }
    }
}

/// Whether all elements are zeros, as far as can be told without computing.
fn is_zero(model: &Model, mut value: ValueId) -> bool {
    loop {
        let zeros = |tensor: &Tensor| tensor.floats().is_some_and(|all| all.iter().all(|&x| x == 0.0));
        if let Some(tensor) = model.constant(value) {
            return zeros(tensor);
        }
        let Some(node) = model.producer(value) else { return false };
        if let Some(ConstantOfShape { value, .. }) = model.view(node) {
            return value.is_none_or(|value| zeros(&value));
        }
        let of = model.node(node);
        let moves = matches!(
            of.op.as_str(),
            "Expand" | "Gather" | "Identity" | "Reshape" | "Slice" | "Squeeze" | "Tile" | "Transpose" | "Unsqueeze"
        );
        match of.inputs.first().copied().flatten().filter(|_| moves && of.domain.is_empty()) {
            Some(source) => value = source,
            None => return false,
        }
    }
}
