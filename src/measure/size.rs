//! How large a model is.

use std::collections::HashMap;

use serde::Serialize;

use crate::ir::{Attr, GraphId, Model, NodeId};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSize {
    /// Of the file, with its external data.
    pub bytes: u64,
    /// Elements of all constants.
    pub parameters: u64,
    /// See [`node_count`].
    pub nodes: usize,
}

impl ModelSize {
    pub fn of(model: &Model, bytes: u64) -> ModelSize {
        let constants = model.all_values().filter_map(|(id, _)| model.constant(id));
        let nodes = model.all_nodes().filter(|&id| model.node(id).op == "Constant");
        let in_nodes = nodes.filter_map(|id| match model.node(id).attrs.get("value") {
            Some(Attr::Tensor(tensor)) => Some(tensor),
            _ => None,
        });
        let parameters = constants.chain(in_nodes).map(|tensor| tensor.len() as u64).sum();
        ModelSize { bytes, parameters, nodes: node_count(model) }
    }
}

/// The nodes of the main graph and its bodies once functions are inlined, without constants.
pub fn node_count(model: &Model) -> usize {
    let functions: HashMap<_, _> =
        model.functions.iter().map(|f| ((&*f.domain, &*f.name, &*f.overload), f.body)).collect();
    let callee = |id: NodeId| {
        let node = model.node(id);
        functions.get(&(&*node.domain, &*node.op, &*node.overload)).copied()
    };
    // Graphs whose parts are counted come before those they are part of.
    let (mut order, mut work) = (Vec::new(), vec![(model.main, false)]);
    let mut counts: HashMap<GraphId, usize> = HashMap::new();
    let parts = |graph: GraphId| model.nodes_of(graph).flat_map(move |id| model.node(id).bodies());
    while let Some((graph, expanded)) = work.pop() {
        if expanded {
            order.push(graph);
        } else if counts.insert(graph, 0).is_none() {
            work.push((graph, true));
            work.extend(parts(graph).chain(model.nodes_of(graph).filter_map(callee)).map(|part| (part, false)));
        }
    }
    for graph in order {
        let count = model.nodes_of(graph).map(|id| match callee(id) {
            Some(body) => counts[&body],
            None if model.node(id).op == "Constant" => 0,
            None => 1 + model.node(id).bodies().map(|body| counts[&body]).sum::<usize>(),
        });
        let count = count.fold(0, usize::saturating_add);
        counts.insert(graph, count);
    }
    counts[&model.main]
}
