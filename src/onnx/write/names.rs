//! Names for a file: unique wherever two values are visible together.

use std::collections::{HashMap, HashSet};
use std::ops::Index;

use crate::ir::{GraphId, Id, Model, ValueDef, ValueId};

/// The name under which each value of a model is written. Values keep their labels, graph inputs and outputs first;
/// a later value whose label is taken in its graph or one around it gets a number.
pub struct Names {
    names: Vec<Option<String>>,
    /// The last number given to a label.
    numbers: HashMap<String, usize>,
}

impl Names {
    pub fn of(model: &Model) -> Names {
        let mut names = Names { names: vec![None; model.values_end().index()], numbers: HashMap::new() };
        for graph in model.all_graphs().filter(|&graph| model.graph(graph).parent.is_none()) {
            names.name_graph(model, graph, &mut Vec::new());
        }
        names
    }

    fn name_graph(&mut self, model: &Model, id: GraphId, scopes: &mut Vec<HashSet<String>>) {
        scopes.push(HashSet::new());
        let graph = model.graph(id);
        let outputs = graph.outputs.iter().copied().filter(|&value| model.value(value).graph == id);
        let results = model.nodes_of(id).flat_map(|node| model.node(node).outputs.iter().flatten().copied());
        for value in graph.inputs.iter().copied().chain(outputs).chain(model.initializers_of(id)).chain(results) {
            self.name(model, value, scopes);
        }
        for body in model.nodes_of(id).flat_map(|node| model.node(node).bodies()) {
            self.name_graph(model, body, scopes);
        }
        scopes.pop();
    }

    fn name(&mut self, model: &Model, value: ValueId, scopes: &mut [HashSet<String>]) {
        if self.names[value.index()].is_some() {
            return;
        }
        let is_free = |name: &str| !scopes.iter().any(|names| names.contains(name));
        let label = match (model.value(value).name.as_str(), &model.value(value).def) {
            ("", ValueDef::Constant(_) | ValueDef::Sparse(_)) => "constant",
            ("", _) => "value",
            (label, _) => label,
        };
        let mut name = label.to_string();
        if !is_free(&name) {
            let number = self.numbers.entry(name).or_default();
            name = loop {
                *number += 1;
                let numbered = format!("{label}_{number}");
                if is_free(&numbered) {
                    break numbered;
                }
            };
        }
        scopes.last_mut().expect("a graph is being named").insert(name.clone());
        self.names[value.index()] = Some(name);
    }
}

impl Index<ValueId> for Names {
    type Output = str;
    fn index(&self, value: ValueId) -> &str {
        self.names[value.index()].as_deref().expect("a live value of the model that was named")
    }
}
