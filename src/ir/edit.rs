//! The only ways to change the graphs of a model. Each keeps uses and execution order consistent, in time that depends
//! on the size of the edit alone.

use std::collections::HashSet;

use super::attr::{Attr, Attrs};
use super::model::{
    Function, Graph, GraphId, Initializer, Model, Node, NodeId, Notes, QuantizationAnnotation, Use, Value, ValueDef,
    ValueId,
};
use super::op::Op;
use super::tensor::{SparseTensor, Tensor};
use super::types::{Size, Type};

fn is_plain_input(value: &Value) -> bool {
    matches!(value.def, ValueDef::Input { default: None })
}

/// What a node computes, before it has a place in a graph.
#[derive(Clone, Debug, Default)]
pub struct Operation {
    pub domain: String,
    pub op: String,
    pub overload: String,
    pub inputs: Vec<Option<ValueId>>,
    pub attrs: Attrs,
}

impl<O: Op> From<O> for Operation {
    fn from(op: O) -> Operation {
        Operation {
            domain: O::DOMAIN.into(),
            op: O::NAME.into(),
            overload: String::new(),
            inputs: op.operands(),
            attrs: op.attrs(),
        }
    }
}

impl Node {
    /// The same operation, reading the second of each pair wherever it read the first.
    ///
    /// # Panics
    /// If the node holds graphs: a body has one place.
    pub fn with_operands(&self, replace: &[(ValueId, ValueId)]) -> Operation {
        assert!(self.bodies().next().is_none(), "a node with bodies is not copied");
        let other = |value: ValueId| replace.iter().find(|(old, _)| *old == value).map_or(value, |(_, new)| *new);
        Operation {
            domain: self.domain.clone(),
            op: self.op.clone(),
            overload: self.overload.clone(),
            inputs: self.inputs.iter().map(|input| input.map(other)).collect(),
            attrs: self.attrs.clone(),
        }
    }
}

impl Model {
    pub fn add_graph(&mut self, name: &str) -> GraphId {
        self.revision += 1;
        self.graphs.insert(Graph { name: name.into(), ..Graph::default() })
    }

    /// What a graph says beside its values and nodes.
    pub fn graph_mut(&mut self, graph: GraphId) -> GraphNotes<'_> {
        self.revision += 1;
        let Graph { name, notes, quantization_annotations, .. } = &mut self.graphs[graph];
        GraphNotes { name, notes, quantization_annotations }
    }

    pub fn add_function(&mut self, function: Function) {
        self.revision += 1;
        self.functions.push(function);
    }

    pub fn add_input(&mut self, graph: GraphId, name: &str) -> ValueId {
        let value = self.new_value(graph, name, ValueDef::Input { default: None });
        self.graphs[graph].inputs.push(value);
        value
    }

    /// Gives an input a default, which a caller may override.
    pub fn set_default(&mut self, input: ValueId, initializer: Initializer) {
        let Value { graph, def, .. } = &mut self.values[input];
        *def = ValueDef::Input { default: Some(initializer) };
        let graph = *graph;
        self.graphs[graph].initializers.push(input);
        self.revision += 1;
    }

    pub fn add_constant(&mut self, graph: GraphId, name: &str, tensor: impl Into<Tensor>) -> ValueId {
        let value = self.new_value(graph, name, ValueDef::Constant(tensor.into()));
        self.graphs[graph].initializers.push(value);
        value
    }

    pub fn add_sparse_constant(&mut self, graph: GraphId, name: &str, tensor: SparseTensor) -> ValueId {
        let value = self.new_value(graph, name, ValueDef::Sparse(tensor));
        self.graphs[graph].initializers.push(value);
        value
    }

    /// Lets constants be inputs of their graph, without a default, and with the type and shape they have.
    ///
    /// # Panics
    /// If one of `values` is not a constant.
    pub fn make_inputs(&mut self, values: &[ValueId]) {
        for &value in values {
            let tensor = self.constant(value).expect("only constants are made inputs");
            let shape = tensor.shape().iter().map(|&n| Size::Fixed(n as i64));
            let ty = Type::tensor(tensor.dtype(), shape);
            let Value { graph, def, ty: declared, .. } = &mut self.values[value];
            (*def, *declared) = (ValueDef::Input { default: None }, Some(ty));
            let graph = *graph;
            self.graphs[graph].inputs.push(value);
        }
        let graphs: HashSet<GraphId> = values.iter().map(|&value| self.values[value].graph).collect();
        for graph in graphs {
            let values = &self.values;
            let has_data = |id: &ValueId| values.get(*id).is_some_and(|value| !is_plain_input(value));
            self.graphs[graph].initializers.retain(has_data);
        }
        self.revision += 1;
    }

    /// Puts other data into a constant.
    ///
    /// # Panics
    /// If `value` is not a constant.
    pub fn set_constant(&mut self, value: ValueId, tensor: impl Into<Tensor>) {
        assert!(self.constant(value).is_some(), "only constants are given data");
        self.values[value].def = ValueDef::Constant(tensor.into());
        self.values[value].ty = None;
        self.revision += 1;
    }

    /// Stores a constant without its zeros.
    ///
    /// # Panics
    /// If `value` is not a constant.
    pub fn set_sparse_constant(&mut self, value: ValueId, tensor: SparseTensor) {
        assert!(self.constant(value).is_some(), "only constants are stored sparsely");
        self.values[value].def = ValueDef::Sparse(tensor);
        self.values[value].ty = None;
        self.revision += 1;
    }

    pub fn set_type(&mut self, value: ValueId, ty: Option<Type>) {
        self.values[value].ty = ty;
        self.revision += 1;
    }

    pub fn rename(&mut self, value: ValueId, name: &str) {
        self.values[value].name = name.into();
        self.revision += 1;
    }

    pub fn rename_node(&mut self, node: NodeId, name: &str) {
        self.nodes[node].name = name.into();
        self.revision += 1;
    }

    /// The notes of a value, outside what it computes.
    pub fn value_notes_mut(&mut self, value: ValueId) -> &mut Notes {
        self.revision += 1;
        &mut self.values[value].notes
    }

    /// What a node says beside its operation.
    pub fn node_notes_mut(&mut self, node: NodeId) -> NodeNotes<'_> {
        self.revision += 1;
        let Node { notes, attr_docs, device_configurations, .. } = &mut self.nodes[node];
        NodeNotes { notes, attr_docs, device_configurations }
    }

    pub fn add_output(&mut self, graph: GraphId, value: ValueId) {
        let index = self.graphs[graph].outputs.len();
        self.graphs[graph].outputs.push(value);
        self.values[value].uses.insert(Use::Output(graph, index));
        self.revision += 1;
    }

    /// Appends `operation` to `graph` and returns its one output.
    pub fn append(&mut self, graph: GraphId, name: &str, operation: impl Into<Operation>) -> ValueId {
        let node = self.insert(graph, None, operation.into(), name, &[Some(name)]);
        self.nodes[node].outputs[0].expect("just made")
    }

    /// Appends `operation` to `graph` with outputs of these names; `None` is a result that is not wanted.
    pub fn append_node(
        &mut self,
        graph: GraphId,
        name: &str,
        operation: impl Into<Operation>,
        outputs: &[Option<&str>],
    ) -> NodeId {
        self.insert(graph, None, operation.into(), name, outputs)
    }

    /// Places `operation` before `anchor` and returns its one output.
    pub fn insert_before(&mut self, anchor: NodeId, operation: impl Into<Operation>, name: &str) -> ValueId {
        self.insert_many_before(anchor, operation, name, 1)[0]
    }

    /// Places `operation` before `anchor` and returns its `count` outputs.
    pub fn insert_many_before(
        &mut self,
        anchor: NodeId,
        operation: impl Into<Operation>,
        name: &str,
        count: usize,
    ) -> Vec<ValueId> {
        let node =
            self.insert(self.nodes[anchor].graph, Some(anchor), operation.into(), name, &vec![Some(name); count]);
        self.nodes[node].outputs.iter().flatten().copied().collect()
    }

    /// Lets `node` compute something else: same results, same place, same name.
    pub fn replace_operation(&mut self, node: NodeId, operation: impl Into<Operation>) -> NodeId {
        let Node { graph, ref name, .. } = self.nodes[node];
        let (name, notes) = (name.clone(), std::mem::take(&mut self.nodes[node].notes));
        let outputs = std::mem::take(&mut self.nodes[node].outputs);
        let new = self.place(graph, Some(node), operation.into(), &name, outputs);
        self.nodes[new].notes = notes;
        for index in 0..self.nodes[new].outputs.len() {
            if let Some(out) = self.nodes[new].outputs[index] {
                self.values[out].def = ValueDef::Node(new);
            }
        }
        self.sweep(node);
        new
    }

    /// Lets `node` read `value` as its operand `index`; what it read before goes if nothing else needs it.
    pub fn set_input(&mut self, node: NodeId, index: usize, value: Option<ValueId>) {
        let inputs = &mut self.nodes[node].inputs;
        if inputs.len() <= index {
            inputs.resize(index + 1, None);
        }
        let old = std::mem::replace(&mut inputs[index], value);
        while let Some(None) = self.nodes[node].inputs.last() {
            self.nodes[node].inputs.pop();
        }
        if let Some(value) = value {
            self.values[value].uses.insert(Use::Node(node, index));
        }
        if let Some(old) = old.filter(|&old| Some(old) != value) {
            let mut work = Vec::new();
            self.forget(old, Use::Node(node, index), &mut work);
            work.into_iter().for_each(|node| self.sweep(node));
        }
        self.revision += 1;
    }

    /// Gives `node` an attribute, in place of one of that name.
    ///
    /// # Panics
    /// If either attribute holds graphs: bodies come and go with their node.
    pub fn set_attr(&mut self, node: NodeId, name: &str, attr: Attr) {
        assert!(attr.graphs().is_empty(), "bodies come with their node");
        self.remove_attr(node, name);
        self.nodes[node].attrs.insert(name.into(), attr);
    }

    /// Takes an attribute off `node`, if it has one of that name.
    ///
    /// # Panics
    /// If the attribute holds graphs.
    pub fn remove_attr(&mut self, node: NodeId, name: &str) -> Option<Attr> {
        self.revision += 1;
        self.nodes[node].attr_docs.retain(|(of, _)| of != name);
        let attr = self.nodes[node].attrs.shift_remove(name)?;
        assert!(attr.graphs().is_empty(), "bodies go with their node");
        Some(attr)
    }

    /// Drops the result `index` of `node`, which nobody reads.
    pub fn drop_output(&mut self, node: NodeId, index: usize) {
        if let Some(out) = self.nodes[node].outputs[index].take() {
            assert!(self.values[out].uses.is_empty(), "a result that is read is not dropped");
            self.values.remove(out);
        }
        while let Some(None) = self.nodes[node].outputs.last() {
            self.nodes[node].outputs.pop();
        }
        self.revision += 1;
    }

    /// Removes a constant that nothing reads.
    pub fn remove_constant(&mut self, value: ValueId) {
        let Value { ref uses, ref def, .. } = self.values[value];
        assert!(uses.is_empty() && matches!(def, ValueDef::Constant(_) | ValueDef::Sparse(_)), "it is still needed");
        self.values.remove(value);
        self.revision += 1;
    }

    /// Removes the function at `index` of [`Model::functions`], which nothing calls.
    pub fn remove_function(&mut self, index: usize) {
        let function = self.functions.remove(index);
        let mut work = Vec::new();
        self.release_outputs(function.body, &mut work);
        work.into_iter().rev().for_each(|node| self.sweep(node));
        self.remove_emptied(function.body);
        self.revision += 1;
    }

    /// Gives `value` a new producer, placed where the old one stood. Readers, name and graph outputs
    /// are untouched; the old producer goes if nothing else needs it.
    pub fn redefine(&mut self, value: ValueId, operation: impl Into<Operation>) {
        let old = self.producer(value).expect("only node results are redefined");
        self.release(old, value);
        let (graph, name) = (self.nodes[old].graph, self.nodes[old].name.clone());
        let node = self.place(graph, Some(old), operation.into(), &name, vec![Some(value)]);
        self.values[value].def = ValueDef::Node(node);
        self.sweep(old);
    }

    /// Lets `value`, the result of a node, be a constant. Readers, name and graph outputs are untouched; the node goes if
    /// nothing else needs it.
    pub fn define_constant(&mut self, value: ValueId, tensor: impl Into<Tensor>) {
        let old = self.producer(value).expect("only node results are redefined");
        self.release(old, value);
        self.values[value].def = ValueDef::Constant(tensor.into());
        let is_output = self.is_output(value);
        self.values[value].ty.take_if(|_| !is_output);
        let graph = self.values[value].graph;
        self.graphs[graph].initializers.push(value);
        self.revision += 1;
        self.sweep(old);
    }

    /// Makes every reader of `old` read `new` instead.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for place in std::mem::take(&mut self.values[old].uses) {
            match place {
                Use::Node(node, index) => self.nodes[node].inputs[index] = Some(new),
                Use::Output(graph, index) => self.graphs[graph].outputs[index] = new,
            }
            self.values[new].uses.insert(place);
        }
        self.revision += 1;
    }

    /// Whether `source` can stand for `value`: not where both are fixed names, as in an output that is also an input.
    pub fn can_unify(&self, value: ValueId, source: ValueId) -> bool {
        !self.is_output(value)
            || !self.is_output(source)
                && self.producer(source).is_some_and(|node| self.nodes[node].graph == self.values[value].graph)
    }

    /// Lets `source` stand for `value`, which equals it. Names seen from outside are kept: a graph
    /// output takes over the definition of its source. Returns false where they [cannot](Self::can_unify).
    pub fn unify(&mut self, value: ValueId, source: ValueId) -> bool {
        if !self.can_unify(value, source) {
            return false;
        }
        let copy = self.producer(value).expect("only node results are unified");
        if !self.is_output(value) {
            self.replace_uses(value, source);
            self.sweep(copy);
            return true;
        }
        let producer = self.producer(source).expect("it can be unified");
        self.release(copy, value);
        let slot = self.nodes[producer].outputs.iter_mut().find(|slot| **slot == Some(source));
        *slot.expect("a value is among its producer's outputs") = Some(value);
        self.values[value].def = ValueDef::Node(producer);
        self.replace_uses(source, value);
        self.values.remove(source);
        self.sweep(copy);
        true
    }

    /// Removes `node`, the graphs it holds and then its producers, as far as nothing reads their results.
    pub fn sweep(&mut self, node: NodeId) {
        let (mut work, mut bodies) = (vec![node], Vec::new());
        while let Some(node) = work.pop() {
            let unread = |out: &ValueId| self.values[*out].uses.is_empty();
            if self.nodes.get(node).is_none_or(|n| !n.outputs.iter().flatten().all(unread)) {
                continue;
            }
            self.unlink(node);
            let Node { inputs, outputs, attrs, .. } = self.nodes.remove(node);
            for out in outputs.into_iter().flatten() {
                self.values.remove(out);
            }
            for (index, input) in inputs.into_iter().enumerate() {
                if let Some(input) = input {
                    self.forget(input, Use::Node(node, index), &mut work);
                }
            }
            for &body in attrs.values().flat_map(|attr| attr.graphs()) {
                self.release_outputs(body, &mut work);
                bodies.push(body);
            }
            self.revision += 1;
        }
        bodies.into_iter().for_each(|body| self.remove_emptied(body));
    }

    /// Drops what `body` returns and puts its nodes on the work list, last node on top.
    fn release_outputs(&mut self, body: GraphId, work: &mut Vec<NodeId>) {
        let outputs = std::mem::take(&mut self.graphs[body].outputs);
        let nodes: Vec<_> = self.nodes_of(body).collect();
        for (index, output) in outputs.into_iter().enumerate() {
            self.forget(output, Use::Output(body, index), work);
        }
        work.extend(nodes);
    }

    /// Removes a graph without nodes, with the inputs and unread constants that are left in it.
    fn remove_emptied(&mut self, body: GraphId) {
        let Graph { inputs, initializers, .. } = self.graphs.remove(body);
        for value in inputs.into_iter().chain(initializers) {
            if self.is_value_live(value) {
                self.values.remove(value);
            }
        }
    }

    /// Drops one use; a constant goes with its last one, a producer is put on the work list.
    fn forget(&mut self, value: ValueId, place: Use, work: &mut Vec<NodeId>) {
        self.values[value].uses.swap_remove(&place);
        if self.values[value].uses.is_empty() {
            match self.values[value].def {
                ValueDef::Node(producer) => work.push(producer),
                ValueDef::Constant(_) | ValueDef::Sparse(_) => drop(self.values.remove(value)),
                ValueDef::Input { .. } => {}
            }
        }
    }

    pub(super) fn release(&mut self, node: NodeId, value: ValueId) {
        for slot in &mut self.nodes[node].outputs {
            slot.take_if(|out| *out == value);
        }
    }

    fn insert(
        &mut self,
        graph: GraphId,
        before: Option<NodeId>,
        operation: Operation,
        name: &str,
        outputs: &[Option<&str>],
    ) -> NodeId {
        let def = ValueDef::Node(self.nodes.next_id());
        let outputs = outputs.iter().map(|out| out.map(|out| self.new_value(graph, out, def.clone()))).collect();
        self.place(graph, before, operation, name, outputs)
    }

    pub(super) fn place(
        &mut self,
        graph: GraphId,
        before: Option<NodeId>,
        operation: Operation,
        name: &str,
        outputs: Vec<Option<ValueId>>,
    ) -> NodeId {
        let id = self.nodes.next_id();
        let Operation { domain, op, overload, inputs, attrs } = operation;
        for (index, input) in inputs.iter().enumerate() {
            if let Some(input) = input {
                self.values[*input].uses.insert(Use::Node(id, index));
            }
        }
        for body in attrs.values().flat_map(|attr| attr.graphs()) {
            self.graphs[*body].parent = Some(id);
        }
        let previous = before.map_or(self.graphs[graph].last, |next| self.nodes[next].previous);
        self.nodes.insert(Node {
            domain,
            op,
            overload,
            name: name.into(),
            graph,
            inputs,
            outputs,
            attrs,
            notes: Default::default(),
            attr_docs: Vec::new(),
            device_configurations: Vec::new(),
            previous,
            next: before,
        });
        *self.link_after(graph, previous) = Some(id);
        *self.link_before(graph, before) = Some(id);
        self.revision += 1;
        id
    }

    fn unlink(&mut self, node: NodeId) {
        let Node { graph, previous, next, .. } = self.nodes[node];
        *self.link_after(graph, previous) = next;
        *self.link_before(graph, next) = previous;
    }

    fn link_after(&mut self, graph: GraphId, node: Option<NodeId>) -> &mut Option<NodeId> {
        match node {
            Some(node) => &mut self.nodes[node].next,
            None => &mut self.graphs[graph].first,
        }
    }

    fn link_before(&mut self, graph: GraphId, node: Option<NodeId>) -> &mut Option<NodeId> {
        match node {
            Some(node) => &mut self.nodes[node].previous,
            None => &mut self.graphs[graph].last,
        }
    }

    pub(super) fn new_value(&mut self, graph: GraphId, name: &str, def: ValueDef) -> ValueId {
        self.revision += 1;
        self.values.insert(Value {
            graph,
            name: name.into(),
            def,
            ty: None,
            notes: Default::default(),
            uses: Default::default(),
        })
    }
}

/// The parts of a graph that edits do not need to keep consistent.
pub struct GraphNotes<'m> {
    pub name: &'m mut String,
    pub notes: &'m mut Notes,
    pub quantization_annotations: &'m mut Vec<QuantizationAnnotation>,
}

/// The parts of a node that edits do not need to keep consistent.
pub struct NodeNotes<'m> {
    pub notes: &'m mut Notes,
    pub attr_docs: &'m mut Vec<(String, String)>,
    pub device_configurations: &'m mut Vec<bytes::Bytes>,
}
