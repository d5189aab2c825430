//! Models, graphs, nodes and values.

use bytes::Bytes;
use indexmap::{IndexMap, IndexSet};

use super::arena::{Arena, ids};
use super::attr::{Attr, Attrs};
use super::op::Op;
use super::tensor::{SparseTensor, Tensor};
use super::types::Type;

ids! {
    /// A tensor flowing through the model.
    ValueId = "v";
    /// An operator application.
    NodeId = "n";
    /// The main graph, the body of an `If`, `Loop` or `Scan`, or the body of a function.
    GraphId = "g";
}

/// A whole ONNX model. Edit its graphs through the methods in [`edit`](super::edit): they keep uses in step.
#[derive(Clone)]
pub struct Model {
    pub main: GraphId,
    pub functions: Vec<Function>,
    pub opsets: OpsetImports,
    pub header: Header,
    pub(super) graphs: Arena<GraphId, Graph>,
    pub(super) nodes: Arena<NodeId, Node>,
    pub(super) values: Arena<ValueId, Value>,
    pub(super) revision: u64,
}

/// What a model file says about itself; nothing here changes what it computes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    pub ir_version: i64,
    pub producer_name: String,
    pub producer_version: String,
    pub domain: String,
    pub model_version: i64,
    pub notes: Notes,
    /// Encoded `TrainingInfoProto`s: carried along, and refused by passes that would outdate them.
    pub training_info: Vec<Bytes>,
    /// Encoded `DeviceConfigurationProto`s.
    pub device_configurations: Vec<Bytes>,
}

/// The version of each operator set by domain. The domain of ONNX's own operators is the empty string.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpsetImports(pub IndexMap<String, i64>);

impl OpsetImports {
    /// The version of ONNX's own operators, where they are imported.
    pub fn onnx(&self) -> Option<i64> {
        self.0.get("").copied()
    }
}

/// Documentation and metadata, as most ONNX messages carry them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    pub doc: String,
    pub metadata: Vec<(String, String)>,
}

impl Notes {
    pub fn is_empty(&self) -> bool {
        self.doc.is_empty() && self.metadata.is_empty()
    }
}

/// An operator defined by the model itself. Inputs, outputs and nodes are those of its body.
#[derive(Clone, Debug)]
pub struct Function {
    pub domain: String,
    pub name: String,
    pub overload: String,
    pub body: GraphId,
    pub opsets: OpsetImports,
    /// Attributes a call must give; nodes of the body refer to them with [`Attr::Reference`].
    pub required_attrs: Vec<String>,
    /// Attributes a call may give, with their defaults.
    pub default_attrs: Attrs,
}

#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub name: String,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
    pub notes: Notes,
    pub quantization_annotations: Vec<QuantizationAnnotation>,
    /// The node whose attribute this graph is; none for the main graph and for functions.
    pub parent: Option<NodeId>,
    pub(super) first: Option<NodeId>,
    pub(super) last: Option<NodeId>,
    /// Constants and input defaults in file order, with ids of removed ones among them.
    pub(super) initializers: Vec<ValueId>,
}

/// The scale and zero point of a tensor, by name, as some quantizers note them.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationAnnotation {
    pub tensor: String,
    pub parameters: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct Node {
    /// Empty for the operators of ONNX itself.
    pub domain: String,
    pub op: String,
    pub overload: String,
    pub name: String,
    pub graph: GraphId,
    /// None where an optional operand is left out.
    pub inputs: Vec<Option<ValueId>>,
    /// None where a result is not wanted.
    pub outputs: Vec<Option<ValueId>>,
    pub attrs: Attrs,
    pub notes: Notes,
    pub attr_docs: Vec<(String, String)>,
    /// Encoded `NodeDeviceConfigurationProto`s.
    pub device_configurations: Vec<Bytes>,
    pub(super) previous: Option<NodeId>,
    pub(super) next: Option<NodeId>,
}

#[derive(Clone, Debug)]
pub struct Value {
    /// The graph that defines the value: only it and the graphs inside it may read it.
    pub graph: GraphId,
    pub name: String,
    pub def: ValueDef,
    /// The type the file declares, if it does. What is known beyond that is in `analysis::shapes`.
    pub ty: Option<Type>,
    pub notes: Notes,
    /// Every place that reads this value, kept by the edit methods.
    pub uses: IndexSet<Use>,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum ValueDef {
    /// A graph input; a caller may override its default, so it is never a constant.
    Input {
        default: Option<Initializer>,
    },
    Constant(Tensor),
    /// A constant written sparsely; opaque to passes.
    Sparse(SparseTensor),
    Node(NodeId),
}

/// The default of an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Initializer {
    Dense(Tensor),
    Sparse(SparseTensor),
}

/// A place that reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Use {
    Node(NodeId, usize),
    Output(GraphId, usize),
}

impl Model {
    pub fn new(name: &str) -> Model {
        let mut graphs = Arena::default();
        let main = graphs.insert(Graph { name: name.into(), ..Graph::default() });
        Model {
            main,
            functions: Vec::new(),
            opsets: OpsetImports::default(),
            header: Header::default(),
            graphs,
            nodes: Arena::default(),
            values: Arena::default(),
            revision: 0,
        }
    }

    /// Grows with every edit; equal revisions mean an unchanged model.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn graph(&self, id: GraphId) -> &Graph {
        &self.graphs[id]
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id]
    }

    pub fn is_live(&self, id: NodeId) -> bool {
        self.nodes.get(id).is_some()
    }

    pub fn is_value_live(&self, id: ValueId) -> bool {
        self.values.get(id).is_some()
    }

    /// All graphs: the main one, bodies and functions.
    pub fn all_graphs(&self) -> impl Iterator<Item = GraphId> {
        self.graphs.iter().map(|(id, _)| id)
    }

    pub fn all_values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter()
    }

    pub fn producer(&self, value: ValueId) -> Option<NodeId> {
        match self.value(value).def {
            ValueDef::Node(node) => Some(node),
            _ => None,
        }
    }

    /// The tensor that `value` always is: an initializer that no caller can override.
    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        match &self.value(value).def {
            ValueDef::Constant(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// The nodes of one graph, in execution order.
    pub fn nodes_of(&self, graph: GraphId) -> impl DoubleEndedIterator<Item = NodeId> {
        NodesOf { model: self, front: self.graphs[graph].first, back: self.graphs[graph].last }
    }

    /// The nodes of every graph, functions included.
    pub fn all_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.graphs.iter().flat_map(|(id, _)| self.nodes_of(id))
    }

    /// Constants, sparse constants and inputs with a default of one graph, in file order.
    pub fn initializers_of(&self, graph: GraphId) -> impl Iterator<Item = ValueId> {
        self.graphs[graph].initializers.iter().copied().filter(|&id| self.is_value_live(id))
    }

    /// `graph` and the graphs around it, innermost first.
    pub fn scopes(&self, graph: GraphId) -> impl Iterator<Item = GraphId> {
        std::iter::successors(Some(graph), |&inner| Some(self.nodes[self.graphs[inner].parent?].graph))
    }

    /// The operator sets that nodes of `graph` are written in.
    pub fn opsets_of(&self, graph: GraphId) -> &OpsetImports {
        let outermost = self.scopes(graph).last().expect("a graph is among its scopes");
        match self.functions.iter().find(|function| function.body == outermost) {
            Some(function) => &function.opsets,
            None => &self.opsets,
        }
    }

    /// The node as a typed operator, where its domain, opset, operands and attributes are all as the view knows them.
    pub fn view<O: Op>(&self, node: NodeId) -> Option<O> {
        let node = self.node(node);
        if node.op != O::NAME || node.domain != O::DOMAIN {
            return None;
        }
        let opset = self.opsets_of(node.graph).0.get(O::DOMAIN)?;
        O::read(node).filter(|_| O::OPSETS.contains(opset))
    }

    /// The function that `node` calls, if it is a call.
    pub fn callee(&self, node: NodeId) -> Option<&Function> {
        let node = self.node(node);
        let key = (&node.domain, &node.op, &node.overload);
        self.functions.iter().find(|f| (&f.domain, &f.name, &f.overload) == key)
    }

    /// Whether `value` is an output of any graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.value(value).uses.iter().any(|place| matches!(place, Use::Output(..)))
    }

    /// Operator and name of a node, as messages call it.
    pub fn label(&self, node: NodeId) -> String {
        let node = self.node(node);
        match (&node.name, node.outputs.iter().flatten().next()) {
            (name, _) if !name.is_empty() => format!("{} `{name}`", node.op),
            (_, Some(&out)) => format!("{} of `{}`", node.op, self.value(out).name),
            _ => node.op.clone(),
        }
    }

    pub(crate) fn values_end(&self) -> ValueId {
        self.values.next_id()
    }
}

struct NodesOf<'m> {
    model: &'m Model,
    front: Option<NodeId>,
    back: Option<NodeId>,
}

impl Iterator for NodesOf<'_> {
    type Item = NodeId;
    fn next(&mut self) -> Option<NodeId> {
        let node = self.front?;
        match self.back == Some(node) {
            true => (self.front, self.back) = (None, None),
            false => self.front = self.model.nodes[node].next,
        }
        Some(node)
    }
}

impl DoubleEndedIterator for NodesOf<'_> {
    fn next_back(&mut self) -> Option<NodeId> {
        let node = self.back?;
        match self.front == Some(node) {
            true => (self.front, self.back) = (None, None),
            false => self.back = self.model.nodes[node].previous,
        }
        Some(node)
    }
}

impl Attr {
    /// The graphs this attribute holds.
    pub fn graphs(&self) -> &[GraphId] {
        match self {
            Attr::Graph(graph) => std::slice::from_ref(graph),
            Attr::Graphs(graphs) => graphs,
            _ => &[],
        }
    }
}

impl Node {
    /// The graphs that the node's attributes hold: the bodies of control flow.
    pub fn bodies(&self) -> impl Iterator<Item = GraphId> {
        self.attrs.values().flat_map(|attr| attr.graphs().iter().copied())
    }
}
