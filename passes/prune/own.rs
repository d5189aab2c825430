//! Constants of their own for nodes that share vectors by chance: exporters write equal biases and scales once, which
//! would tie layers that have nothing to do with each other.

use crate::ir::{Model, Use, ValueDef, ValueId};
use crate::train::weights::separate;

/// Lets constants be initializers, and gives every node its own copy of vectors that it shares with others.
pub fn own_vectors(model: &mut Model) {
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
