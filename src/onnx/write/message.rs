//! From a [`Model`] to the messages of a file. Weights are shared, not copied.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message;

use super::{Names, WriteError};
use crate::ir::{
    Attr, AttrKind, Attrs, Function, Graph, GraphId, Initializer, Model, NodeId, OpsetImports, ValueDef, ValueId,
};
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    TensorAnnotation, TensorProto, ValueInfoProto,
};
use crate::onnx::tensor::{write as write_tensor, write_entries, write_named, write_sparse};
use crate::onnx::types::given;
use crate::onnx::{opset, types};

/// The messages of `model`, its values under `names`.
pub fn to_proto(model: &Model, names: &Names) -> Result<ModelProto, WriteError> {
    if model.opsets.0.is_empty() {
        return Err(WriteError::NoOpset);
    }
    let writer = Writer { model, names };
    let header = &model.header;
    Ok(ModelProto {
        ir_version: Some(header.ir_version.max(opset::ir_version_for(model))),
        opset_import: write_opsets(&model.opsets),
        producer_name: given(&header.producer_name),
        producer_version: given(&header.producer_version),
        domain: given(&header.domain),
        model_version: (header.model_version != 0).then_some(header.model_version),
        doc_string: given(&header.notes.doc),
        graph: Some(writer.graph(model.main)),
        metadata_props: write_entries(&header.notes.metadata),
        training_info: decode_all(&header.training_info)?,
        functions: model.functions.iter().map(|function| writer.function(function)).collect(),
        configuration: decode_all(&header.device_configurations)?,
    })
}

fn decode_all<M: Message + Default>(encoded: &[Bytes]) -> Result<Vec<M>, WriteError> {
    encoded.iter().map(|bytes| M::decode(bytes.clone()).map_err(WriteError::Carried)).collect()
}

fn write_opsets(opsets: &OpsetImports) -> Vec<OperatorSetIdProto> {
    let import = |(domain, &version): (&String, &i64)| OperatorSetIdProto {
        // A file states every set's domain, also the empty one.
        domain: Some(domain.clone()),
        version: Some(version),
    };
    opsets.0.iter().map(import).collect()
}

struct Writer<'m> {
    model: &'m Model,
    names: &'m Names<'m>,
}

impl Writer<'_> {
    fn graph(&self, id: GraphId) -> GraphProto {
        let graph = self.model.graph(id);
        let (initializer, sparse_initializer) = self.initializers(id);
        let interface: HashSet<ValueId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
        GraphProto {
            node: self.nodes(id),
            name: given(&graph.name),
            initializer,
            sparse_initializer,
            doc_string: given(&graph.notes.doc),
            input: graph.inputs.iter().map(|&value| self.value_info(value)).collect(),
            output: graph.outputs.iter().map(|&value| self.value_info(value)).collect(),
            value_info: self.declarations(id, |value| !interface.contains(&value)),
            quantization_annotation: annotations(graph),
            metadata_props: write_entries(&graph.notes.metadata),
        }
    }

    fn function(&self, function: &Function) -> FunctionProto {
        let body = self.model.graph(function.body);
        let name = |&value: &ValueId| self.names[value].to_string();
        let mut node = self.constant_nodes(function.body);
        node.extend(self.nodes(function.body));
        FunctionProto {
            name: given(&function.name),
            input: body.inputs.iter().map(name).collect(),
            output: body.outputs.iter().map(name).collect(),
            attribute: function.required_attrs.clone(),
            attribute_proto: self.attrs(&function.default_attrs, &[]),
            node,
            doc_string: given(&body.notes.doc),
            opset_import: write_opsets(&function.opsets),
            domain: given(&function.domain),
            overload: given(&function.overload),
            value_info: self.declarations(function.body, |_| true),
            metadata_props: write_entries(&body.notes.metadata),
        }
    }

    /// Functions have no initializers: their constants are nodes.
    fn constant_nodes(&self, body: GraphId) -> Vec<NodeProto> {
        let constant = |value: ValueId| {
            let (name, attr) = match &self.model.value(value).def {
                ValueDef::Constant(tensor) => ("value", Attr::Tensor(tensor.clone())),
                ValueDef::Sparse(tensor) => ("sparse_value", Attr::SparseTensor(tensor.clone())),
                ValueDef::Input { .. } | ValueDef::Node(_) => return None,
            };
            Some(NodeProto {
                output: vec![self.names[value].to_string()],
                op_type: Some("Constant".into()),
                attribute: self.attrs(&Attrs::from([(name.to_string(), attr)]), &[]),
                ..NodeProto::default()
            })
        };
        self.model.initializers_of(body).filter_map(constant).collect()
    }

    fn initializers(&self, graph: GraphId) -> (Vec<TensorProto>, Vec<SparseTensorProto>) {
        let (mut dense, mut sparse) = (Vec::new(), Vec::new());
        for value in self.model.initializers_of(graph) {
            let name = &self.names[value];
            match &self.model.value(value).def {
                ValueDef::Constant(tensor) | ValueDef::Input { default: Some(Initializer::Dense(tensor)) } => {
                    dense.push(write_named(tensor, name));
                }
                ValueDef::Sparse(tensor) | ValueDef::Input { default: Some(Initializer::Sparse(tensor)) } => {
                    let values = Some(write_named(&tensor.values, name));
                    sparse.push(SparseTensorProto { values, ..write_sparse(tensor) });
                }
                ValueDef::Input { default: None } | ValueDef::Node(_) => {}
            }
        }
        (dense, sparse)
    }

    /// What is known of the values of `graph` that are `wanted`.
    fn declarations(&self, graph: GraphId, wanted: impl Fn(ValueId) -> bool) -> Vec<ValueInfoProto> {
        let inputs = self.model.graph(graph).inputs.iter().copied();
        let constants = self.model.initializers_of(graph).filter(|&value| self.model.constant(value).is_some());
        let results =
            self.model.nodes_of(graph).flat_map(|node| self.model.node(node).outputs.iter().flatten().copied());
        let says_something = |&value: &ValueId| {
            let value = self.model.value(value);
            value.ty.is_some() || !value.notes.is_empty()
        };
        let values = inputs.chain(constants).chain(results).filter(says_something).filter(|&value| wanted(value));
        values.map(|value| self.value_info(value)).collect()
    }

    fn value_info(&self, id: ValueId) -> ValueInfoProto {
        let value = self.model.value(id);
        ValueInfoProto {
            name: Some(self.names[id].to_string()),
            r#type: value.ty.as_ref().map(types::write),
            doc_string: given(&value.notes.doc),
            metadata_props: write_entries(&value.notes.metadata),
        }
    }

    fn nodes(&self, graph: GraphId) -> Vec<NodeProto> {
        self.model.nodes_of(graph).map(|node| self.node(node)).collect()
    }

    fn node(&self, id: NodeId) -> NodeProto {
        let node = self.model.node(id);
        let name = |value: &Option<ValueId>| value.map(|value| self.names[value].to_string()).unwrap_or_default();
        NodeProto {
            input: node.inputs.iter().map(name).collect(),
            output: node.outputs.iter().map(name).collect(),
            name: given(&self.names[id]),
            op_type: Some(node.op.clone()),
            domain: given(&node.domain),
            overload: given(&node.overload),
            attribute: self.attrs(&node.attrs, &node.attr_docs),
            doc_string: given(&node.notes.doc),
            metadata_props: write_entries(&node.notes.metadata),
            device_configurations: decode_all(&node.device_configurations).unwrap_or_default(),
        }
    }

    fn attrs(&self, attrs: &Attrs, docs: &[(String, String)]) -> Vec<AttributeProto> {
        let write = |(name, attr): (&String, &Attr)| AttributeProto {
            name: Some(name.clone()),
            doc_string: docs.iter().find(|(other, _)| other == name).map(|(_, doc)| doc.clone()),
            ..self.attr(attr)
        };
        attrs.iter().map(write).collect()
    }

    fn attr(&self, attr: &Attr) -> AttributeProto {
        let kind = write_kind(attr.kind());
        let mut proto = AttributeProto { r#type: kind.map(|kind| kind as i32), ..AttributeProto::default() };
        match attr {
            Attr::Float(float) => proto.f = Some(*float),
            Attr::Int(int) => proto.i = Some(*int),
            Attr::Str(string) => proto.s = Some(string.clone()),
            Attr::Tensor(tensor) => proto.t = Some(write_tensor(tensor)),
            Attr::Graph(graph) => proto.g = Some(self.graph(*graph)),
            Attr::SparseTensor(tensor) => proto.sparse_tensor = Some(write_sparse(tensor)),
            Attr::Type(ty) => proto.tp = Some(types::write(ty)),
            Attr::Floats(floats) => proto.floats = floats.clone(),
            Attr::Ints(ints) => proto.ints = ints.clone(),
            Attr::Strs(strings) => proto.strings = strings.clone(),
            Attr::Tensors(tensors) => proto.tensors = tensors.iter().map(write_tensor).collect(),
            Attr::Graphs(graphs) => proto.graphs = graphs.iter().map(|&graph| self.graph(graph)).collect(),
            Attr::SparseTensors(tensors) => proto.sparse_tensors = tensors.iter().map(write_sparse).collect(),
            Attr::Types(types) => proto.type_protos = types.iter().map(types::write).collect(),
            Attr::Reference { name, .. } => proto.ref_attr_name = Some(name.clone()),
        }
        proto
    }
}

fn annotations(graph: &Graph) -> Vec<TensorAnnotation> {
    let annotations = graph.quantization_annotations.iter();
    let write = annotations.map(|annotation| TensorAnnotation {
        tensor_name: given(&annotation.tensor),
        quant_parameter_tensor_names: write_entries(&annotation.parameters),
    });
    write.collect()
}

fn write_kind(kind: AttrKind) -> Option<AttributeType> {
    Some(match kind {
        AttrKind::Undefined => return None,
        AttrKind::Float => AttributeType::Float,
        AttrKind::Int => AttributeType::Int,
        AttrKind::Str => AttributeType::String,
        AttrKind::Tensor => AttributeType::Tensor,
        AttrKind::Graph => AttributeType::Graph,
        AttrKind::SparseTensor => AttributeType::SparseTensor,
        AttrKind::Type => AttributeType::TypeProto,
        AttrKind::Floats => AttributeType::Floats,
        AttrKind::Ints => AttributeType::Ints,
        AttrKind::Strs => AttributeType::Strings,
        AttrKind::Tensors => AttributeType::Tensors,
        AttrKind::Graphs => AttributeType::Graphs,
        AttrKind::SparseTensors => AttributeType::SparseTensors,
        AttrKind::Types => AttributeType::TypeProtos,
    })
}
