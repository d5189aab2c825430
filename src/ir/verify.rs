//! Checks that a model is well formed.
//!
//! - Every id refers to a live entity.
//! - Every use list names exactly the places that read the value.
//! - A node's outputs name the node as their definition, and the other way round.
//! - An input or output stands in the list of the graph that defines it.
//! - A node's operands are defined before it, in its own graph or an enclosing one.

use std::collections::{HashMap, HashSet};

use super::model::{GraphId, Model, Use, ValueDef, ValueId};

/// One violated invariant, at the entity that shows it.
#[derive(Debug, thiserror::Error)]
#[error("{at}: {what}")]
pub struct VerifierError {
    pub at: String,
    pub what: &'static str,
}

fn ensure(holds: bool, at: impl FnOnce() -> String, what: &'static str) -> Result<(), VerifierError> {
    if holds { Ok(()) } else { Err(VerifierError { at: at(), what }) }
}

impl Model {
    pub fn verify(&self) -> Result<(), VerifierError> {
        self.verify_uses()?;
        self.verify_definitions()?;
        let mut ready = HashSet::new();
        self.graphs.iter().filter(|(_, g)| g.parent.is_none()).try_for_each(|(id, _)| self.verify_order(id, &mut ready))
    }

    fn verify_uses(&self) -> Result<(), VerifierError> {
        let operands = self.nodes.iter().flat_map(|(id, node)| {
            node.inputs.iter().enumerate().filter_map(move |(index, value)| Some(((*value)?, Use::Node(id, index))))
        });
        let outputs = self.graphs.iter().flat_map(|(id, graph)| {
            graph.outputs.iter().enumerate().map(move |(index, &value)| (value, Use::Output(id, index)))
        });
        let mut reads: HashMap<ValueId, usize> = HashMap::new();
        for (value, place) in operands.chain(outputs) {
            let Some(read) = self.values.get(value) else {
                return ensure(false, || format!("{value:?}"), "a removed value is read");
            };
            ensure(read.uses.contains(&place), || read.name.clone(), "its use list is out of date")?;
            *reads.entry(value).or_default() += 1;
        }
        self.values.iter().try_for_each(|(id, value)| {
            let count = reads.get(&id).copied().unwrap_or_default();
            ensure(value.uses.len() == count, || value.name.clone(), "its use list is out of date")
        })
    }

    fn verify_definitions(&self) -> Result<(), VerifierError> {
        let mut results = HashSet::new();
        for (id, node) in self.nodes.iter() {
            for &out in node.outputs.iter().flatten() {
                ensure(results.insert(out), || self.label(id), "a value is the result of two places")?;
                let names_node = self.values.get(out).is_some_and(|v| matches!(v.def, ValueDef::Node(n) if n == id));
                ensure(names_node, || self.label(id), "an output does not name it as its definition")?;
            }
        }
        let inputs: HashSet<_> = self.graphs.iter().flat_map(|(_, g)| g.inputs.iter().copied()).collect();
        for (id, value) in self.values.iter() {
            let defined = match value.def {
                ValueDef::Input { .. } => inputs.contains(&id),
                ValueDef::Node(node) => results.contains(&id) && self.nodes[node].graph == value.graph,
                ValueDef::Constant(_) | ValueDef::Sparse(_) => true,
            };
            ensure(defined, || value.name.clone(), "nothing defines it")?;
        }
        Ok(())
    }

    /// Walks `graph` in execution order; `ready` holds what is defined so far, here and outside.
    fn verify_order(&self, graph: GraphId, ready: &mut HashSet<ValueId>) -> Result<(), VerifierError> {
        ready.extend(&self.graphs[graph].inputs);
        for id in self.nodes_of(graph) {
            let node = self.node(id);
            for &input in node.inputs.iter().flatten() {
                ensure(
                    self.is_visible(input, graph, ready),
                    || self.label(id),
                    "reads a value that is not defined before it",
                )?;
            }
            for body in node.bodies() {
                self.verify_order(body, ready)?;
            }
            ready.extend(node.outputs.iter().flatten());
        }
        for &out in &self.graphs[graph].outputs {
            ensure(
                self.is_visible(out, graph, ready),
                || self.value(out).name.clone(),
                "an output that is not defined here",
            )?;
        }
        Ok(())
    }

    fn is_visible(&self, value: ValueId, from: GraphId, ready: &HashSet<ValueId>) -> bool {
        let constant = matches!(self.value(value).def, ValueDef::Constant(_) | ValueDef::Sparse(_));
        let defined = constant || ready.contains(&value);
        defined && self.scopes(from).any(|scope| scope == self.value(value).graph)
    }
}
