//! Where nodes stand: the order in which they run, and where a new one is seen by all that need it.

use crate::ir::{GraphId, Model, NodeId};

/// The nodes of the main graph in the order they run, those of bodies after the node that holds them.
pub fn execution_order(model: &Model) -> Vec<NodeId> {
    let mut order = Vec::new();
    let mut work = vec![model.nodes_of(model.main).collect::<Vec<_>>().into_iter()];
    while let Some(nodes) = work.last_mut() {
        match nodes.next() {
            Some(node) => {
                order.push(node);
                let bodies = model.node(node).bodies().flat_map(|body| model.nodes_of(body));
                work.push(bodies.collect::<Vec<_>>().into_iter());
            }
            None => drop(work.pop()),
        }
    }
    order
}

/// The node of `graph` that is `node` or holds it. What stands before it is seen by `node` and by all that runs later.
///
/// # Panics
/// If `graph` is none of those around `node`.
pub fn ancestor(model: &Model, mut node: NodeId, graph: GraphId) -> NodeId {
    while model.node(node).graph != graph {
        let parent = model.graph(model.node(node).graph).parent;
        node = parent.expect("a value is read in its own graph or inside it");
    }
    node
}
