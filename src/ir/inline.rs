//! Puts what a graph computes in the place of the node that runs it: a function for its call, a branch for its `If`.

use std::collections::HashMap;

use super::attr::{Attr, Attrs};
use super::edit::Operation;
use super::model::{GraphId, Initializer, Model, Node, NodeId, Use, ValueDef, ValueId};
use super::op::Identity;
use super::types::{Size, TensorType, Type, TypeKind};

/// What a copy of a graph is given by the node that it replaces.
#[derive(Default)]
pub struct Call {
    /// What the inputs of the graph stand for; missing ones are left out of the nodes that read them.
    pub inputs: Vec<Option<ValueId>>,
    /// What attributes that refer to the call stand for; those that are not here are left out.
    pub attrs: Attrs,
    /// Put before the names of nodes and values.
    pub prefix: String,
    /// Whether the symbols in the types of the graph mean nothing outside it, as in a function.
    pub own_symbols: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("an operand that the call leaves out is returned as a result")]
pub struct MissingResult;

impl Model {
    /// Replaces `node` by a copy of `body`, whose outputs are the results of the node in order. The results keep
    /// their names, types and readers. Returns the nodes of the copy.
    ///
    /// # Errors
    /// If a result that is needed would be an input of the body that `call` leaves out; the model is unchanged then.
    pub fn inline(&mut self, node: NodeId, body: GraphId, call: Call) -> Result<Vec<NodeId>, MissingResult> {
        let mut copy = Copy { values: HashMap::new(), results: HashMap::new(), call };
        for (index, &input) in self.graph(body).inputs.iter().enumerate() {
            copy.values.insert(input, copy.call.inputs.get(index).copied().flatten());
        }
        let Node { graph, ref outputs, .. } = *self.node(node);
        let results: Vec<(ValueId, ValueId)> = std::iter::zip(&self.graph(body).outputs, outputs)
            .filter_map(|(&inner, &outer)| Some((inner, outer?)))
            .collect();
        let missing = |input: &ValueId| copy.values.get(input) == Some(&None);
        let returned = |place: &Use| matches!(*place, Use::Output(graph, _) if graph != body);
        if results.iter().any(|(inner, outer)| missing(inner) && !self.value(*outer).uses.is_empty())
            || self.graph(body).inputs.iter().filter(|v| missing(v)).any(|&v| self.value(v).uses.iter().any(returned))
        {
            return Err(MissingResult);
        }
        for &(inner, outer) in &results {
            let computed_inside = self.producer(inner).is_some_and(|producer| self.node(producer).graph == body);
            if computed_inside && !copy.results.contains_key(&inner) {
                self.release(node, outer);
                copy.results.insert(inner, outer);
            }
        }
        copy.constants(self, body, graph);
        let nodes: Vec<NodeId> = self.nodes_of(body).collect();
        let mut made: Vec<NodeId> = nodes.into_iter().map(|inner| copy.node(self, inner, graph, Some(node))).collect();
        for (inner, outer) in results {
            if self.is_live(node)
                && copy.results.get(&inner) != Some(&outer)
                && let Some(x) = copy.map(inner)
                && !self.unify(outer, x)
            {
                self.redefine(outer, Identity { x });
                made.extend(self.producer(outer));
            }
        }
        self.sweep(node);
        made.retain(|&node| self.is_live(node));
        Ok(made)
    }
}

/// The state of copying one graph.
struct Copy {
    /// What stands for each value of the original; values from outside stand for themselves.
    values: HashMap<ValueId, Option<ValueId>>,
    /// Values that are defined by the copy of what computes them in the original.
    results: HashMap<ValueId, ValueId>,
    call: Call,
}

impl Copy {
    fn map(&self, value: ValueId) -> Option<ValueId> {
        self.values.get(&value).copied().unwrap_or(Some(value))
    }

    fn name(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("{}{name}", self.call.prefix) }
    }

    fn ty(&self, ty: Option<Type>) -> Option<Type> {
        if self.call.own_symbols { ty.map(without_symbols) } else { ty }
    }

    fn constants(&mut self, model: &mut Model, from: GraphId, to: GraphId) {
        for old in model.initializers_of(from).collect::<Vec<_>>() {
            let value = model.value(old);
            let (name, notes, ty) = (self.name(&value.name), value.notes.clone(), value.ty.clone());
            let new = match value.def.clone() {
                ValueDef::Constant(tensor) => model.add_constant(to, &name, tensor),
                ValueDef::Sparse(tensor) => model.add_sparse_constant(to, &name, tensor),
                ValueDef::Input { .. } | ValueDef::Node(_) => continue,
            };
            *model.value_notes_mut(new) = notes;
            model.set_type(new, ty);
            self.values.insert(old, Some(new));
        }
    }

    fn node(&mut self, model: &mut Model, old: NodeId, to: GraphId, before: Option<NodeId>) -> NodeId {
        let Node {
            domain, op, overload, name, inputs, outputs, attrs, notes, attr_docs, device_configurations, ..
        } = model.node(old).clone();
        let mut inputs: Vec<_> = inputs.into_iter().map(|input| self.map(input?)).collect();
        while let Some(None) = inputs.last() {
            inputs.pop();
        }
        let attrs = attrs.into_iter().filter_map(|(name, attr)| Some((name, self.attr(model, attr)?))).collect();
        let mut new_outputs = Vec::new();
        for output in outputs {
            new_outputs.push(output.map(|output| self.output(model, output, to)));
        }
        let operation = Operation { domain, op, overload, inputs, attrs };
        let new = model.place(to, before, operation, &self.name(&name), new_outputs);
        for index in 0..model.node(new).outputs.len() {
            if let Some(output) = model.node(new).outputs[index] {
                model.values[output].def = ValueDef::Node(new);
            }
        }
        let said = model.node_notes_mut(new);
        (*said.notes, *said.attr_docs, *said.device_configurations) = (notes, attr_docs, device_configurations);
        new
    }

    fn output(&mut self, model: &mut Model, old: ValueId, to: GraphId) -> ValueId {
        let new = match self.results.get(&old) {
            Some(&result) => result,
            None => {
                let value = model.value(old);
                let (name, def, notes) = (self.name(&value.name), value.def.clone(), value.notes.clone());
                let ty = self.ty(value.ty.clone());
                let new = model.new_value(to, &name, def);
                *model.value_notes_mut(new) = notes;
                model.set_type(new, ty);
                new
            }
        };
        self.values.insert(old, Some(new));
        new
    }

    /// An attribute of the copy; none if it refers to one that the call does not give.
    fn attr(&mut self, model: &mut Model, attr: Attr) -> Option<Attr> {
        let attr = match attr {
            Attr::Reference { name, .. } => self.call.attrs.get(&name)?.clone(),
            attr => attr,
        };
        Some(match attr {
            Attr::Graph(graph) => Attr::Graph(self.graph(model, graph)),
            Attr::Graphs(graphs) => Attr::Graphs(graphs.into_iter().map(|graph| self.graph(model, graph)).collect()),
            attr => attr,
        })
    }

    fn graph(&mut self, model: &mut Model, old: GraphId) -> GraphId {
        let original = model.graph(old).clone();
        let new = model.add_graph(&original.name);
        let said = model.graph_mut(new);
        (*said.notes, *said.quantization_annotations) = (original.notes, original.quantization_annotations);
        for input in original.inputs {
            let value = model.value(input).clone();
            let copy = model.add_input(new, &self.name(&value.name));
            model.set_type(copy, self.ty(value.ty));
            *model.value_notes_mut(copy) = value.notes;
            if let ValueDef::Input { default: Some(default) } = value.def {
                let default: Initializer = default;
                model.set_default(copy, default);
            }
            self.values.insert(input, Some(copy));
        }
        self.constants(model, old, new);
        for node in model.nodes_of(old).collect::<Vec<_>>() {
            self.node(model, node, new, None);
        }
        for output in original.outputs {
            let output = self.map(output);
            model.add_output(new, output.expect("a body returns what it computes"));
        }
        new
    }
}

fn without_symbols(ty: Type) -> Type {
    let forget = |tensor: TensorType| {
        let shape = tensor.shape.map(|mut dims| {
            dims.iter_mut().filter(|dim| matches!(dim.size, Size::Symbol(_))).for_each(|dim| dim.size = Size::Unknown);
            dims
        });
        TensorType { shape, ..tensor }
    };
    let element = |ty: Option<Box<Type>>| ty.map(|ty| Box::new(without_symbols(*ty)));
    let kind = match ty.kind {
        TypeKind::Tensor(tensor) => TypeKind::Tensor(forget(tensor)),
        TypeKind::SparseTensor(tensor) => TypeKind::SparseTensor(forget(tensor)),
        TypeKind::Sequence(ty) => TypeKind::Sequence(element(ty)),
        TypeKind::Optional(ty) => TypeKind::Optional(element(ty)),
        TypeKind::Map(key, ty) => TypeKind::Map(key, element(ty)),
        kind @ (TypeKind::Opaque { .. } | TypeKind::Unknown) => kind,
    };
    Type { kind, ..ty }
}
