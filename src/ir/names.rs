//! Names as a file needs them: unique wherever they are visible.
//!
//! A value keeps its name unless another value of its graph, or one defined before in an enclosing graph, has it already.
//! Inputs and outputs of a graph choose first. Bodies beside each other may use the same names.
//! Nodes have names of their own, which runtimes want to be unique within a graph.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Index;

use super::model::{GraphId, Model, NodeId, ValueDef, ValueId};

/// The name of every value and node of a model.
pub struct Names<'m> {
    model: &'m Model,
    renamed: HashMap<ValueId, String>,
    renamed_nodes: HashMap<NodeId, String>,
}

impl Names<'_> {
    pub fn of(model: &Model) -> Names<'_> {
        let mut naming = Naming {
            names: Names { model, renamed: HashMap::new(), renamed_nodes: HashMap::new() },
            scopes: Vec::new(),
            all: HashSet::new(),
            last: HashMap::new(),
        };
        naming.graph(model.main);
        for function in &model.functions {
            naming.graph(function.body);
        }
        naming.names
    }
}

impl Index<NodeId> for Names<'_> {
    type Output = str;
    fn index(&self, node: NodeId) -> &str {
        self.renamed_nodes.get(&node).unwrap_or(&self.model.node(node).name)
    }
}

impl Index<ValueId> for Names<'_> {
    type Output = str;
    fn index(&self, value: ValueId) -> &str {
        self.renamed.get(&value).unwrap_or(&self.model.value(value).name)
    }
}

struct Naming<'m> {
    names: Names<'m>,
    /// The graph being named, last, and those around it.
    scopes: Vec<Scope<'m>>,
    /// Every name of the model, gathered when the first one has to change: a new name is none of them.
    all: HashSet<&'m str>,
    /// The last number given to each repeated name.
    last: HashMap<&'m str, usize>,
}

#[derive(Default)]
struct Scope<'m> {
    defined: HashSet<Cow<'m, str>>,
    /// Names of outputs that no node has defined yet.
    reserved: HashSet<Cow<'m, str>>,
}

impl<'m> Naming<'m> {
    fn graph(&mut self, graph: GraphId) {
        let model = self.names.model;
        self.scopes.push(Scope::default());
        for &input in &model.graph(graph).inputs {
            self.define(input);
        }
        let mut outputs = HashSet::new();
        for &output in &model.graph(graph).outputs {
            let value = model.value(output);
            if value.graph == graph && !matches!(value.def, ValueDef::Input { .. }) && outputs.insert(output) {
                let name = self.choose(output);
                self.scope().reserved.insert(name);
            }
        }
        for value in model.initializers_of(graph) {
            if !matches!(model.value(value).def, ValueDef::Input { .. }) {
                self.define_result(value, &outputs);
            }
        }
        self.name_nodes(graph);
        for node in model.nodes_of(graph) {
            for body in model.node(node).bodies() {
                self.graph(body);
            }
            for &output in model.node(node).outputs.iter().flatten() {
                self.define_result(output, &outputs);
            }
        }
        self.scopes.pop();
    }

    /// The first node of a name keeps it; the others get a number that makes it new. Nodes need no name.
    fn name_nodes(&mut self, graph: GraphId) {
        let model = self.names.model;
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for node in model.nodes_of(graph) {
            *counts.entry(&model.node(node).name).or_default() += 1;
        }
        counts.retain(|name, count| !name.is_empty() && *count > 1);
        if counts.is_empty() {
            return;
        }
        let mut taken: HashSet<Cow<str>> =
            model.nodes_of(graph).map(|node| model.node(node).name.as_str().into()).collect();
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for node in model.nodes_of(graph) {
            let name = model.node(node).name.as_str();
            if !counts.contains_key(name) {
                continue;
            }
            let number = numbers.entry(name).or_default();
            while *number > 0 && !taken.insert(format!("{name}_{number}").into()) {
                *number += 1;
            }
            if *number > 0 {
                self.names.renamed_nodes.insert(node, format!("{name}_{number}"));
            }
            *number += 1;
        }
    }

    /// Defines a value that may be among the graph's `outputs`, whose names are chosen.
    fn define_result(&mut self, value: ValueId, outputs: &HashSet<ValueId>) {
        if !outputs.contains(&value) {
            return self.define(value);
        }
        let name = self.current(value);
        self.scope().reserved.remove(&name);
        self.scope().defined.insert(name);
    }

    fn define(&mut self, value: ValueId) {
        let name = self.choose(value);
        self.scope().defined.insert(name);
    }

    fn scope(&mut self) -> &mut Scope<'m> {
        self.scopes.last_mut().expect("a graph is being named")
    }

    fn current(&self, value: ValueId) -> Cow<'m, str> {
        match self.names.renamed.get(&value) {
            Some(name) => Cow::Owned(name.clone()),
            None => Cow::Borrowed(&self.names.model.value(value).name),
        }
    }

    fn choose(&mut self, value: ValueId) -> Cow<'m, str> {
        let model = self.names.model;
        let name = model.value(value).name.as_str();
        let (own, around) = self.scopes.split_last().expect("a graph is being named");
        let taken = own.reserved.contains(name) || own.defined.contains(name);
        if !name.is_empty() && !taken && !around.iter().any(|scope| scope.defined.contains(name)) {
            return Cow::Borrowed(name);
        }
        if self.all.is_empty() {
            self.all = model.all_values().map(|(_, value)| value.name.as_str()).collect();
        }
        let base = match (name, &model.value(value).def) {
            ("", ValueDef::Constant(_) | ValueDef::Sparse(_)) => "constant",
            ("", _) => "value",
            (name, _) => name,
        };
        let number = self.last.entry(base).or_default();
        let new = loop {
            *number += 1;
            let new = format!("{base}_{number}");
            if !self.all.contains(new.as_str()) {
                break new;
            }
        };
        self.names.renamed.insert(value, new.clone());
        Cow::Owned(new)
    }
}
