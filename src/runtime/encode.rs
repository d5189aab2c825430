//! From a model to tract's protobuf types.
//!
//! Every value gets a name of its own, made from its id, so that neither shadowed nor empty names reach tract. Constants
//! of the main graph, and large ones of bodies, become inputs here; [`runner`](super::runner) gives them their data.
//! Calls of functions are replaced by the function's body. Types of inner values are not handed over: tract fails on
//! symbolic ones that clash with the concrete shapes of a plan.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

use super::RuntimeError;
use super::profile::{Label, Labels};
use super::{dequantize, support};
use crate::ir::op::{self, Constant};
use crate::ir::{
    Attr, Attrs, DType, Function, GraphId, Initializer, Model, Node, NodeId, Op, Size, Tensor, Type, Value, ValueDef,
    ValueId,
};

/// Constants of bodies up to this size stay in the body, where tract can compute with them while it looks at shapes.
const SMALL: usize = 4096;

/// Bodies in bodies; tract recurses over them.
const DEEPEST: usize = 64;

pub(super) struct Encoded {
    pub proto: pb::ModelProto,
    pub inputs: Vec<Input>,
    /// Constants that the proto has as inputs.
    pub constants: Vec<(String, Tensor)>,
    /// The nodes, those of called functions and bodies included.
    pub labels: Labels,
}

/// An input of the main graph.
pub(super) struct Input {
    pub value: ValueId,
    pub name: String,
    pub default: Option<Tensor>,
}

/// The part of `model` that computes `outputs`, which are results of nodes of the main graph.
pub(super) fn encode(model: &Model, outputs: &[ValueId]) -> Result<Encoded, RuntimeError> {
    let mut encoder = Encoder { model, constants: Vec::new(), known: HashSet::new(), labels: Labels::new() };
    let scope = Scope { names: HashMap::new(), prefix: String::new(), call: None, depth: 0 };
    let graph = model.graph(model.main);
    let inputs = graph.inputs.iter().map(|&value| encoder.input(value)).collect::<Result<Vec<_>, _>>()?;
    let needed = needed_nodes(model, outputs);
    let mut nodes = Vec::new();
    for id in model.nodes_of(model.main).filter(|id| needed.contains(id)) {
        encoder.node(id, &scope, &mut nodes)?;
    }
    let declared = inputs.iter().map(|input| typed(&input.name, elem_type(model.value(input.value)), None));
    let constants = encoder.constants.iter().map(|(name, tensor)| typed(name, tensor.dtype().code(), None));
    let graph = pb::GraphProto {
        name: graph.name.clone(),
        input: declared.chain(constants).collect(),
        output: outputs.iter().map(|&value| named(&scope.name(value))).collect(),
        node: nodes,
        ..Default::default()
    };
    let version = model.opsets.onnx().unwrap_or(op::BASE);
    let opset = pb::OperatorSetIdProto { domain: String::new(), version };
    let proto = pb::ModelProto { graph: Some(graph), opset_import: vec![opset], ..Default::default() };
    Ok(Encoded { proto, inputs, constants: encoder.constants, labels: encoder.labels })
}

/// The nodes of the main graph that `outputs` are computed from.
fn needed_nodes(model: &Model, outputs: &[ValueId]) -> HashSet<NodeId> {
    let mut needed = HashSet::new();
    let mut work: Vec<_> = outputs.iter().filter_map(|&value| model.producer(value)).collect();
    while let Some(node) = work.pop() {
        if needed.insert(node) {
            let node = model.node(node);
            work.extend(node.inputs.iter().flatten().filter_map(|&value| model.producer(value)));
            let mut bodies: Vec<_> = node.bodies().collect();
            while let Some(body) = bodies.pop() {
                work.extend(model.graph(body).outputs.iter().filter_map(|&value| model.producer(value)));
                for id in model.nodes_of(body) {
                    work.extend(model.node(id).inputs.iter().flatten().filter_map(|&value| model.producer(value)));
                    bodies.extend(model.node(id).bodies());
                }
            }
        }
    }
    needed
}

/// What names mean at a place: inside the body of a called function, values have the call's name before theirs, and
/// the function's inputs are the call's operands.
struct Scope<'m> {
    names: HashMap<ValueId, String>,
    prefix: String,
    call: Option<Call<'m>>,
    depth: usize,
}

struct Call<'m> {
    function: &'m Function,
    attrs: Attrs,
}

impl Scope<'_> {
    fn name(&self, value: ValueId) -> String {
        self.names.get(&value).cloned().unwrap_or_else(|| format!("{}{value:?}", self.prefix))
    }
}

struct Encoder<'m> {
    model: &'m Model,
    constants: Vec<(String, Tensor)>,
    known: HashSet<String>,
    labels: Labels,
}

impl<'m> Encoder<'m> {
    fn input(&self, id: ValueId) -> Result<Input, RuntimeError> {
        let value = self.model.value(id);
        let refuse = |why: &str| Err(RuntimeError::UnsupportedValue(format!("its input `{}` {why}", value.name)));
        let default = match &value.def {
            ValueDef::Input { default: Some(Initializer::Dense(tensor)) } => Some(tensor.clone()),
            ValueDef::Input { default: Some(Initializer::Sparse(_)) } => return refuse("has a sparse default"),
            _ => None,
        };
        match support::value_type(value) {
            Err(why) => refuse(&why),
            Ok(()) => Ok(Input { value: id, name: format!("{id:?}"), default }),
        }
    }

    fn refuse(&self, id: NodeId, why: impl Into<String>) -> RuntimeError {
        support::refuse(self.model, id, why)
    }

    fn node(&mut self, id: NodeId, scope: &Scope<'m>, to: &mut Vec<pb::NodeProto>) -> Result<(), RuntimeError> {
        let model = self.model;
        if let Some(function) = model.callee(id) {
            return self.call(id, function, scope, to);
        }
        let node = model.node(id);
        let attrs = resolve(&node.attrs, scope);
        if let (Some(constant), [Some(out)]) = (constant(node), node.outputs.as_slice()) {
            let name = scope.name(*out);
            if model.graph(node.graph).parent.is_none() || constant.byte_len() > SMALL {
                return self.constant(name, &constant).map_err(|why| self.refuse(id, why));
            }
        }
        if let (Some(weight), [Some(out)]) = (dequantize::of_constants(model, id), node.outputs.as_slice()) {
            return self.constant(scope.name(*out), &weight).map_err(|why| self.refuse(id, why));
        }
        support::check(model, id, &attrs)?;
        for &input in node.inputs.iter().flatten() {
            self.declare(input, scope).map_err(|why| self.refuse(id, why))?;
        }
        let key = format!("{}{id:?}", scope.prefix);
        let result = node.outputs.iter().flatten().next().map_or("", |&result| &model.value(result).name);
        let label = if node.name.is_empty() { result } else { &node.name };
        self.labels.insert(key.clone(), Label { name: label.into(), op: node.op.clone() });
        let name = |value: &Option<ValueId>| value.map_or(String::new(), |value| scope.name(value));
        let mut proto = pb::NodeProto {
            input: node.inputs.iter().map(name).collect(),
            output: node.outputs.iter().map(name).collect(),
            name: format!("{key} {}", model.label(id)),
            op_type: node.op.clone(),
            domain: node.domain.clone(),
            attribute: attrs
                .iter()
                .map(|(name, attr)| self.attribute(id, name, attr, scope))
                .collect::<Result<_, _>>()?,
            ..Default::default()
        };
        // tract multiplies the bias by a beta in float32, whatever its type.
        let is_plain_sum = matches!(attrs.get("beta"), None | Some(Attr::Float(1.0)));
        match (node.op.as_str(), node.inputs.as_slice()) {
            ("Gemm", [_, _, Some(bias)]) if is_plain_sum => {
                let bias = scope.name(*bias);
                proto.input.pop();
                let product = format!("{}.product", proto.output[0]);
                let sum = pb::NodeProto {
                    input: vec![product.clone(), bias],
                    output: std::mem::replace(&mut proto.output, vec![product]),
                    name: format!("{} bias", proto.name),
                    op_type: "Add".into(),
                    ..Default::default()
                };
                to.extend([proto, sum]);
            }
            _ => to.push(proto),
        }
        Ok(())
    }

    /// The body of a called function in place of the call.
    fn call(
        &mut self,
        id: NodeId,
        function: &'m Function,
        scope: &Scope<'m>,
        to: &mut Vec<pb::NodeProto>,
    ) -> Result<(), RuntimeError> {
        if scope.depth >= DEEPEST {
            return Err(self.refuse(id, "functions are nested too deep"));
        }
        let node = self.model.node(id);
        let body = self.model.graph(function.body);
        let mut attrs = function.default_attrs.clone();
        attrs.extend(resolve(&node.attrs, scope));
        let mut names = HashMap::new();
        for (index, &input) in body.inputs.iter().enumerate() {
            let operand = node.inputs.get(index).copied().flatten();
            if let Some(operand) = operand {
                self.declare(operand, scope).map_err(|why| self.refuse(id, why))?;
            }
            names.insert(input, operand.map_or(String::new(), |operand| scope.name(operand)));
        }
        let prefix = format!("{}{id:?}.", scope.prefix);
        let inner = Scope { names, prefix, call: Some(Call { function, attrs }), depth: scope.depth + 1 };
        for inner_id in self.model.nodes_of(function.body) {
            self.node(inner_id, &inner, to)?;
        }
        for (index, out) in node.outputs.iter().enumerate() {
            let (Some(out), Some(&result)) = (out, body.outputs.get(index)) else { continue };
            self.declare(result, &inner).map_err(|why| self.refuse(id, why))?;
            let from = inner.name(result);
            to.push(identity(from, scope.name(*out)));
        }
        Ok(())
    }

    /// Whether `tensor` stays an initializer of the body that defines it.
    fn is_inner(&self, graph: GraphId, tensor: &Tensor) -> bool {
        self.model.graph(graph).parent.is_some() && tensor.byte_len() <= SMALL
    }

    /// Makes a constant known to tract, unless its body does.
    fn declare(&mut self, value: ValueId, scope: &Scope) -> Result<(), String> {
        match &self.model.value(value).def {
            ValueDef::Constant(tensor) if self.is_inner(self.model.value(value).graph, tensor) => {
                support::dtype(tensor.dtype())
            }
            ValueDef::Constant(tensor) => self.constant(scope.name(value), tensor),
            ValueDef::Sparse(sparse) => match sparse.to_dense() {
                Some(tensor) => self.constant(scope.name(value), &tensor),
                None => {
                    Err(format!("its operand `{}` is a sparse tensor that is malformed", self.model.value(value).name))
                }
            },
            ValueDef::Input { .. } | ValueDef::Node(_) => Ok(()),
        }
    }

    fn constant(&mut self, name: String, tensor: &Tensor) -> Result<(), String> {
        support::dtype(tensor.dtype())?;
        if self.known.insert(name.clone()) {
            self.constants.push((name, tensor.clone()));
        }
        Ok(())
    }

    fn attribute(
        &mut self,
        id: NodeId,
        name: &str,
        attr: &Attr,
        scope: &Scope<'m>,
    ) -> Result<pb::AttributeProto, RuntimeError> {
        let mut proto = pb::AttributeProto { name: name.into(), ..Default::default() };
        let kind = match attr {
            Attr::Float(x) => {
                proto.f = *x;
                AttributeType::Float
            }
            Attr::Int(x) => {
                proto.i = *x;
                AttributeType::Int
            }
            Attr::Str(x) => {
                proto.s = x.to_vec();
                AttributeType::String
            }
            Attr::Tensor(x) => {
                proto.t = Some(tensor_proto(x));
                AttributeType::Tensor
            }
            Attr::Graph(x) => {
                proto.g = Some(self.body(id, *x, scope)?);
                AttributeType::Graph
            }
            Attr::Floats(xs) => {
                proto.floats = xs.clone();
                AttributeType::Floats
            }
            Attr::Ints(xs) => {
                proto.ints = xs.clone();
                AttributeType::Ints
            }
            Attr::Strs(xs) => {
                proto.strings = xs.iter().map(|x| x.to_vec()).collect();
                AttributeType::Strings
            }
            Attr::Tensors(xs) => {
                proto.tensors = xs.iter().map(tensor_proto).collect();
                AttributeType::Tensors
            }
            Attr::Graphs(_)
            | Attr::SparseTensor(_)
            | Attr::SparseTensors(_)
            | Attr::Type(_)
            | Attr::Types(_)
            | Attr::Reference { .. } => {
                return Err(self.refuse(id, format!("its attribute `{name}` is of a kind that tract does not read")));
            }
        };
        proto.r#type = kind as i32;
        Ok(proto)
    }

    fn body(&mut self, parent: NodeId, id: GraphId, scope: &Scope<'m>) -> Result<pb::GraphProto, RuntimeError> {
        let model = self.model;
        if scope.depth >= DEEPEST {
            return Err(self.refuse(parent, "its bodies are nested too deep"));
        }
        let graph = model.graph(id);
        let inner = Scope {
            names: scope.names.clone(),
            prefix: scope.prefix.clone(),
            call: scope.call.as_ref().map(|call| Call { function: call.function, attrs: call.attrs.clone() }),
            depth: scope.depth + 1,
        };
        let mut input = Vec::new();
        for &value in &graph.inputs {
            let value_of = model.value(value);
            support::value_type(value_of)
                .map_err(|why| self.refuse(parent, format!("the input `{}` of its body {why}", value_of.name)))?;
            input.push(typed(&inner.name(value), elem_type(value_of), value_of.ty.as_ref()));
        }
        let mut node = Vec::new();
        for inner_id in model.nodes_of(id) {
            self.node(inner_id, &inner, &mut node)?;
        }
        let mut output = Vec::new();
        for (index, &value) in graph.outputs.iter().enumerate() {
            self.declare(value, &inner).map_err(|why| self.refuse(parent, why))?;
            let own = model.producer(value).is_some_and(|node| model.node(node).graph == id);
            let name = match own && !graph.outputs[..index].contains(&value) {
                true => inner.name(value),
                false => {
                    let name = format!("{}{id:?}.{index}", inner.prefix);
                    node.push(identity(inner.name(value), name.clone()));
                    name
                }
            };
            output.push(named(&name));
        }
        let constants = model.initializers_of(id).filter_map(|value| Some((value, model.constant(value)?)));
        let initializer = constants
            .filter(|(_, tensor)| self.is_inner(id, tensor))
            .map(|(value, tensor)| pb::TensorProto { name: inner.name(value), ..tensor_proto(tensor) })
            .collect();
        Ok(pb::GraphProto { name: graph.name.clone(), input, output, node, initializer, ..Default::default() })
    }
}

/// The attributes of a node with references replaced by what the call gives; what the call does not give is left out.
fn resolve(attrs: &Attrs, scope: &Scope) -> Attrs {
    let given = |attr: &Attr| match (attr, &scope.call) {
        (Attr::Reference { name, .. }, Some(call)) => call.attrs.get(name).cloned(),
        _ => Some(attr.clone()),
    };
    attrs.iter().filter_map(|(name, attr)| Some((name.clone(), given(attr)?))).collect()
}

/// The tensor that a `Constant` node holds, unless it is the attribute of a call.
fn constant(node: &Node) -> Option<Tensor> {
    let is_constant = node.op == Constant::NAME && node.domain == Constant::DOMAIN;
    Constant::read(node).filter(|_| is_constant)?.tensor()
}

fn identity(from: String, to: String) -> pb::NodeProto {
    pb::NodeProto {
        input: vec![from],
        name: format!("Identity of {to}"),
        output: vec![to],
        op_type: "Identity".into(),
        ..Default::default()
    }
}

fn named(name: &str) -> pb::ValueInfoProto {
    pb::ValueInfoProto { name: name.into(), ..Default::default() }
}

fn elem_type(value: &Value) -> i32 {
    value.ty.as_ref().and_then(Type::as_tensor).and_then(|ty| ty.dtype).map_or(0, DType::code)
}

/// A value with its element type, and from `ty` its rank and fixed lengths.
fn typed(name: &str, elem_type: i32, ty: Option<&Type>) -> pb::ValueInfoProto {
    let dims = ty.and_then(Type::as_tensor).and_then(|ty| ty.shape.as_ref());
    let shape = dims.map(|dims| pb::TensorShapeProto {
        dim: dims
            .iter()
            .map(|dim| match dim.size {
                Size::Fixed(n) => Dimension { value: Some(dimension::Value::DimValue(n)), ..Default::default() },
                Size::Symbol(_) | Size::Unknown => Dimension::default(),
            })
            .collect(),
    });
    let tensor = pb::type_proto::Tensor { elem_type, shape };
    let ty = pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() };
    pb::ValueInfoProto { name: name.into(), r#type: Some(ty), ..Default::default() }
}

fn tensor_proto(tensor: &Tensor) -> pb::TensorProto {
    pb::TensorProto {
        dims: tensor.shape().iter().map(|&n| n as i64).collect(),
        data_type: tensor.dtype().code(),
        raw_data: tensor.bytes().map(|bytes| bytes.to_vec()).unwrap_or_default(),
        string_data: tensor.strings().unwrap_or_default().iter().map(|s| s.to_vec()).collect(),
        ..Default::default()
    }
}
