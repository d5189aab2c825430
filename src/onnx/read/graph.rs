//! Graphs, nodes and attributes, with names resolved to values.

use std::collections::{HashMap, HashSet};
use std::mem::take;

use bytes::Bytes;
use prost::Message;

use super::error::{Problem, ReadError};
use super::{ExternalFiles, order, read_domain};
use crate::ir::{
    Attr, AttrKind, Attrs, GraphId, Initializer, Model, Notes, Operation, QuantizationAnnotation, SparseTensor, Tensor,
    ValueDef, ValueId,
};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto};
use crate::onnx::tensor::{self, read_entries, read_notes};
use crate::onnx::{opset, types};

type Result<T> = std::result::Result<T, ReadError>;

pub(super) struct Reader {
    pub model: Model,
    /// Whether an initializer that is also an input may be overridden by a caller.
    overridable: bool,
    pub external: ExternalFiles,
    warnings: Vec<String>,
    /// The names of the graph being read and those around it, outermost first.
    scopes: Vec<HashMap<String, ValueId>>,
}

impl Reader {
    pub fn new(name: &str, ir_version: i64, external: ExternalFiles) -> Reader {
        let overridable = ir_version >= opset::INITIALIZERS_APART;
        Reader { model: Model::new(name), overridable, external, warnings: Vec::new(), scopes: Vec::new() }
    }

    pub fn finish(self) -> (Model, Vec<String>) {
        (self.model, self.warnings)
    }

    pub fn read_graph(&mut self, id: GraphId, graph: GraphProto) -> Result<()> {
        self.scopes.push(HashMap::new());
        let own_inputs = self.constant_inputs(&graph);
        let mut declared = Vec::new();
        for input in graph.input {
            match own_inputs.contains(input.name()) {
                true => declared.push(input),
                false => self.read_input(id, input)?,
            }
        }
        for initializer in graph.initializer {
            let place = format!("initializer `{}`", initializer.name());
            self.read_initializer(id, initializer).map_err(|error| error.inside(|| place))?;
        }
        for initializer in graph.sparse_initializer {
            let name = initializer.values.as_ref().map_or("", |values| values.name());
            let place = format!("sparse initializer `{name}`");
            self.read_sparse_initializer(id, initializer).map_err(|error| error.inside(|| place))?;
        }
        self.read_nodes(id, graph.node)?;
        for output in graph.output {
            self.read_output(id, output)?;
        }
        for info in declared.into_iter().chain(graph.value_info) {
            self.declare(info)?;
        }
        let notes = self.model.graph_mut(id);
        *notes.name = graph.name.unwrap_or_default();
        *notes.notes = read_notes(graph.doc_string, graph.metadata_props);
        *notes.quantization_annotations = graph
            .quantization_annotation
            .into_iter()
            .map(|annotation| QuantizationAnnotation {
                tensor: annotation.tensor_name.unwrap_or_default(),
                parameters: read_entries(annotation.quant_parameter_tensor_names),
            })
            .collect();
        self.scopes.pop();
        Ok(())
    }

    /// The body of a function: a graph that sees nothing around it.
    pub fn read_body(
        &mut self,
        inputs: Vec<String>,
        nodes: Vec<NodeProto>,
        outputs: Vec<String>,
        value_info: Vec<ValueInfoProto>,
    ) -> Result<GraphId> {
        let id = self.model.add_graph("");
        let info = |name| ValueInfoProto { name: Some(name), ..ValueInfoProto::default() };
        self.read_graph(
            id,
            GraphProto {
                input: inputs.into_iter().map(info).collect(),
                node: nodes,
                output: outputs.into_iter().map(info).collect(),
                value_info,
                ..GraphProto::default()
            },
        )?;
        Ok(id)
    }

    /// Before IR 4 every initializer had to be an input too, and no caller could override it: those are constants.
    fn constant_inputs(&self, graph: &GraphProto) -> HashSet<String> {
        if self.overridable {
            return HashSet::new();
        }
        let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
        graph.initializer.iter().chain(sparse).map(|tensor| tensor.name().to_string()).collect()
    }

    fn read_input(&mut self, graph: GraphId, info: ValueInfoProto) -> Result<()> {
        let place = || format!("input `{}`", info.name());
        if info.name().is_empty() {
            return Err(Problem::Unnamed("input").into());
        }
        let input = self.model.add_input(graph, info.name());
        self.define(info.name(), input).map_err(|error| error.inside(place))?;
        self.describe(input, info)
    }

    fn read_initializer(&mut self, graph: GraphId, mut proto: TensorProto) -> Result<()> {
        let name = proto.name.take().unwrap_or_default();
        let tensor = tensor::read(proto, &mut self.external)?;
        self.initialize(graph, &name, Initializer::Dense(tensor))
    }

    fn read_sparse_initializer(&mut self, graph: GraphId, mut proto: SparseTensorProto) -> Result<()> {
        let name = proto.values.as_mut().and_then(|values| values.name.take()).unwrap_or_default();
        let tensor = tensor::read_sparse(proto, &mut self.external)?;
        self.initialize(graph, &name, Initializer::Sparse(tensor))
    }

    fn initialize(&mut self, graph: GraphId, name: &str, initializer: Initializer) -> Result<()> {
        if name.is_empty() {
            return Err(Problem::Unnamed("initializer").into());
        }
        if let Some(&input) = self.names().get(name) {
            return match self.model.value(input).def {
                ValueDef::Input { default: None } => {
                    self.model.set_default(input, initializer);
                    Ok(())
                }
                _ => Err(Problem::DefinedTwice { value: name.into() }.into()),
            };
        }
        let constant = match initializer {
            Initializer::Dense(tensor) => self.model.add_constant(graph, name, tensor),
            Initializer::Sparse(tensor) => self.model.add_sparse_constant(graph, name, tensor),
        };
        self.define(name, constant)
    }

    fn read_nodes(&mut self, graph: GraphId, nodes: Vec<NodeProto>) -> Result<()> {
        for mut node in order::sort(nodes)? {
            if let Err(error) = self.read_node(graph, &mut node) {
                return Err(error.inside(|| format!("node {}", order::label(&node))));
            }
        }
        Ok(())
    }

    /// Leaves in `node` what its label is made of.
    fn read_node(&mut self, graph: GraphId, node: &mut NodeProto) -> Result<()> {
        if node.op_type().is_empty() {
            return Err(Problem::NoOperator.into());
        }
        let inputs = node.input.iter().map(|name| self.resolve(name)).collect::<Result<_>>()?;
        let (mut docs, known) = (Vec::new(), self.warnings.len());
        let attrs = self.read_attrs(take(&mut node.attribute), &mut docs)?;
        for warning in &mut self.warnings[known..] {
            *warning = format!("node {}: {warning}", order::label(node));
        }
        let operation = Operation {
            domain: read_domain(node.domain.take().unwrap_or_default()),
            op: node.op_type().into(),
            overload: node.overload.take().unwrap_or_default(),
            inputs,
            attrs,
        };
        let outputs: Vec<_> = node.output.iter().map(|name| (!name.is_empty()).then_some(name.as_str())).collect();
        let id = self.model.append_node(graph, node.name(), operation, &outputs);
        for (index, name) in node.output.iter().enumerate() {
            if let Some(value) = self.model.node(id).outputs[index] {
                self.define(name, value)?;
            }
        }
        let notes = read_notes(node.doc_string.take(), take(&mut node.metadata_props));
        let devices: Vec<Bytes> =
            node.device_configurations.iter().map(|device| device.encode_to_vec().into()).collect();
        if !notes.is_empty() || !docs.is_empty() || !devices.is_empty() {
            let all = self.model.node_notes_mut(id);
            (*all.notes, *all.attr_docs, *all.device_configurations) = (notes, docs, devices);
        }
        Ok(())
    }

    pub fn read_default_attrs(&mut self, attrs: Vec<AttributeProto>) -> Result<Attrs> {
        let mut docs = Vec::new();
        let attrs = self.read_attrs(attrs, &mut docs)?;
        let lost = |(name, _)| format!("the documentation of the function attribute `{name}` will be lost");
        self.warnings.extend(docs.into_iter().map(lost));
        Ok(attrs)
    }

    fn read_attrs(&mut self, protos: Vec<AttributeProto>, docs: &mut Vec<(String, String)>) -> Result<Attrs> {
        let mut attrs = Attrs::with_capacity(protos.len());
        for mut proto in protos {
            let name = proto.name.take().unwrap_or_default();
            let place = || format!("attribute `{name}`");
            if let Some(doc) = proto.doc_string.take().filter(|doc| !doc.is_empty()) {
                docs.push((name.clone(), doc));
            }
            let attr = self.read_attr(&name, proto).map_err(|error| error.inside(place))?;
            if attrs.contains_key(&name) {
                return Err(ReadError::from(Problem::RepeatedAttribute).inside(place));
            }
            attrs.insert(name, attr);
        }
        Ok(attrs)
    }

    fn read_attr(&mut self, name: &str, proto: AttributeProto) -> Result<Attr> {
        use AttributeType as T;
        let code = proto.r#type.unwrap_or_default();
        let given = T::try_from(code).map_err(|_| Problem::UnknownAttributeType { code })?;
        if let Some(name) = proto.ref_attr_name.filter(|name| !name.is_empty()) {
            return Ok(Attr::Reference { name, kind: read_kind(given) });
        }
        // The first version of the IR had no types: the field that is there tells.
        let fields = [
            (T::Float, proto.f.is_some()),
            (T::Int, proto.i.is_some()),
            (T::String, proto.s.is_some()),
            (T::Tensor, proto.t.is_some()),
            (T::Graph, proto.g.is_some()),
            (T::SparseTensor, proto.sparse_tensor.is_some()),
            (T::TypeProto, proto.tp.is_some()),
            (T::Floats, !proto.floats.is_empty()),
            (T::Ints, !proto.ints.is_empty()),
            (T::Strings, !proto.strings.is_empty()),
            (T::Tensors, !proto.tensors.is_empty()),
            (T::Graphs, !proto.graphs.is_empty()),
            (T::SparseTensors, !proto.sparse_tensors.is_empty()),
            (T::TypeProtos, !proto.type_protos.is_empty()),
        ];
        let mut present = fields.iter().filter(|(_, present)| *present).map(|(kind, _)| *kind);
        let kind = if given == T::Undefined { present.clone().next().ok_or(Problem::EmptyAttribute)? } else { given };
        if let Some(other) = present.find(|&other| other != kind) {
            let [kind, other] = [kind, other].map(|kind| kind.as_str_name());
            self.warnings.push(format!("attribute `{name}` is of type {kind}; its value of type {other} will be lost"));
        }
        let missing = || ReadError::from(Problem::MissingAttributeValue);
        Ok(match kind {
            T::Undefined => return Err(Problem::EmptyAttribute.into()),
            T::Float => Attr::Float(proto.f.unwrap_or_default()),
            T::Int => Attr::Int(proto.i.unwrap_or_default()),
            T::String => Attr::Str(proto.s.unwrap_or_default()),
            T::Tensor => Attr::Tensor(self.read_tensor(proto.t.ok_or_else(missing)?)?),
            T::Graph => Attr::Graph(self.read_inner(proto.g.ok_or_else(missing)?)?),
            T::SparseTensor => Attr::SparseTensor(self.read_sparse(proto.sparse_tensor.ok_or_else(missing)?)?),
            T::TypeProto => Attr::Type(types::read(proto.tp.ok_or_else(missing)?)?),
            T::Floats => Attr::Floats(proto.floats),
            T::Ints => Attr::Ints(proto.ints),
            T::Strings => Attr::Strs(proto.strings),
            T::Tensors => Attr::Tensors(each(proto.tensors, |tensor| self.read_tensor(tensor))?),
            T::Graphs => Attr::Graphs(each(proto.graphs, |graph| self.read_inner(graph))?),
            T::SparseTensors => Attr::SparseTensors(each(proto.sparse_tensors, |tensor| self.read_sparse(tensor))?),
            T::TypeProtos => Attr::Types(each(proto.type_protos, types::read)?),
        })
    }

    fn read_inner(&mut self, graph: GraphProto) -> Result<GraphId> {
        let id = self.model.add_graph("");
        self.read_graph(id, graph)?;
        Ok(id)
    }

    fn read_tensor(&mut self, tensor: TensorProto) -> Result<Tensor> {
        tensor::read(tensor, &mut self.external)
    }

    fn read_sparse(&mut self, tensor: SparseTensorProto) -> Result<SparseTensor> {
        tensor::read_sparse(tensor, &mut self.external)
    }

    fn read_output(&mut self, graph: GraphId, info: ValueInfoProto) -> Result<()> {
        let value = match self.resolve(info.name()) {
            Ok(Some(value)) => value,
            Ok(None) => return Err(Problem::Unnamed("output").into()),
            Err(_) => return Err(Problem::UndefinedOutput { value: info.name().into() }.into()),
        };
        self.model.add_output(graph, value);
        self.describe(value, info)
    }

    /// What `info` says of a value of this graph; an entry for a name that does not exist says nothing.
    fn declare(&mut self, info: ValueInfoProto) -> Result<()> {
        match self.names().get(info.name()) {
            Some(&value) => self.describe(value, info),
            None => Ok(()),
        }
    }

    /// Adds what `info` says of `value`; what was said before stays.
    fn describe(&mut self, value: ValueId, info: ValueInfoProto) -> Result<()> {
        let ValueInfoProto { name, r#type, doc_string, metadata_props } = info;
        if let Some(ty) = r#type
            && self.model.value(value).ty.is_none()
        {
            let ty = types::read(ty);
            let place = || format!("value `{}`", name.unwrap_or_default());
            self.model.set_type(value, Some(ty.map_err(|error| error.inside(place))?));
        }
        let notes = read_notes(doc_string, metadata_props);
        if !notes.is_empty() && self.model.value(value).notes == Notes::default() {
            *self.model.value_notes_mut(value) = notes;
        }
        Ok(())
    }

    fn names(&self) -> &HashMap<String, ValueId> {
        self.scopes.last().expect("a graph is being read")
    }

    fn define(&mut self, name: &str, value: ValueId) -> Result<()> {
        let names = self.scopes.last_mut().expect("a graph is being read");
        match names.insert(name.into(), value) {
            None => Ok(()),
            Some(_) => Err(Problem::DefinedTwice { value: name.into() }.into()),
        }
    }

    /// The value that `name` stands for here: of the innermost graph that has one. The empty name is no value.
    fn resolve(&self, name: &str) -> Result<Option<ValueId>> {
        if name.is_empty() {
            return Ok(None);
        }
        let found = self.scopes.iter().rev().find_map(|names| names.get(name).copied());
        found.map(Some).ok_or_else(|| Problem::Undefined { value: name.into() }.into())
    }
}

fn each<P, T>(protos: Vec<P>, read: impl FnMut(P) -> Result<T>) -> Result<Vec<T>> {
    protos.into_iter().map(read).collect()
}

fn read_kind(kind: AttributeType) -> AttrKind {
    match kind {
        AttributeType::Undefined => AttrKind::Undefined,
        AttributeType::Float => AttrKind::Float,
        AttributeType::Int => AttrKind::Int,
        AttributeType::String => AttrKind::Str,
        AttributeType::Tensor => AttrKind::Tensor,
        AttributeType::Graph => AttrKind::Graph,
        AttributeType::SparseTensor => AttrKind::SparseTensor,
        AttributeType::TypeProto => AttrKind::Type,
        AttributeType::Floats => AttrKind::Floats,
        AttributeType::Ints => AttrKind::Ints,
        AttributeType::Strings => AttrKind::Strs,
        AttributeType::Tensors => AttrKind::Tensors,
        AttributeType::Graphs => AttrKind::Graphs,
        AttributeType::SparseTensors => AttrKind::SparseTensors,
        AttributeType::TypeProtos => AttrKind::Types,
    }
}
