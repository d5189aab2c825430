//! The normalisations that `onnxshrink::onnx` promises, done on messages, without the code under test.

use std::collections::{BTreeMap, HashSet};

use onnxshrink::onnx::proto::attribute_proto::AttributeType;
use onnxshrink::onnx::proto::tensor_shape_proto::dimension;
use onnxshrink::onnx::proto::type_proto::Value;
use onnxshrink::onnx::proto::*;

/// The message that reading and writing `model` must give, up to the order of `value_info`.
pub fn normal(mut model: ModelProto) -> ModelProto {
    let old = model.ir_version.unwrap_or_default() < 4;
    for text in [&mut model.producer_name, &mut model.producer_version, &mut model.domain, &mut model.doc_string] {
        drop_empty(text);
    }
    model.model_version.take_if(|version| *version == 0);
    opsets(&mut model.opset_import);
    if let Some(main) = &mut model.graph {
        graph(main, old);
    }
    for function in &mut model.functions {
        for text in [&mut function.name, &mut function.domain, &mut function.overload, &mut function.doc_string] {
            drop_empty(text);
        }
        function.domain.take_if(|domain| domain == "ai.onnx");
        opsets(&mut function.opset_import);
        function.attribute_proto.iter_mut().for_each(|attr| attribute(attr, old));
        function.node.iter_mut().for_each(|n| node(n, old));
        let names = function.node.iter().flat_map(|node| &node.output).chain(&function.input);
        let names: HashSet<_> = names.cloned().collect();
        value_infos(&mut function.value_info, |name| names.contains(name));
    }
    model
}

/// Sorts what has no order: declarations of values.
pub fn sorted(mut model: ModelProto) -> ModelProto {
    fn sort(graph: &mut GraphProto) {
        graph.value_info.sort_by(|a, b| a.name().cmp(b.name()));
        for attr in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
            attr.g.iter_mut().chain(&mut attr.graphs).for_each(sort);
        }
    }
    model.graph.iter_mut().for_each(sort);
    for function in &mut model.functions {
        function.value_info.sort_by(|a, b| a.name().cmp(b.name()));
        for attr in function.node.iter_mut().flat_map(|node| &mut node.attribute) {
            attr.g.iter_mut().chain(&mut attr.graphs).for_each(sort);
        }
    }
    model
}

fn drop_empty(text: &mut Option<String>) {
    text.take_if(|text| text.is_empty());
}

fn opsets(imports: &mut Vec<OperatorSetIdProto>) {
    let mut highest: BTreeMap<String, i64> = BTreeMap::new();
    for import in imports.iter_mut() {
        let domain = import.domain.take().filter(|domain| domain != "ai.onnx").unwrap_or_default();
        let version = highest.entry(domain.clone()).or_default();
        *version = import.version().max(*version);
        import.domain = Some(domain);
    }
    let mut seen = HashSet::new();
    imports.retain(|import| seen.insert(import.domain().to_string()));
    imports.iter_mut().for_each(|import| import.version = Some(highest[import.domain()]));
}

fn graph(graph: &mut GraphProto, old: bool) {
    drop_empty(&mut graph.name);
    drop_empty(&mut graph.doc_string);
    graph.initializer.iter_mut().for_each(tensor);
    graph.sparse_initializer.iter_mut().for_each(sparse);
    graph.node.iter_mut().for_each(|n| node(n, old));
    if old {
        let constants: HashSet<_> = graph.initializer.iter().map(|tensor| tensor.name().to_string()).collect();
        let (moved, kept) =
            std::mem::take(&mut graph.input).into_iter().partition(|input| constants.contains(input.name()));
        graph.input = kept;
        graph.value_info.splice(0..0, Vec::<_>::into_iter(moved));
    }
    graph.input.iter_mut().for_each(value_info);
    graph.output.iter_mut().for_each(value_info);
    let interface: HashSet<_> = graph.input.iter().chain(&graph.output).map(|value| value.name().to_string()).collect();
    let names = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let names: HashSet<_> = names.chain(graph.initializer.iter().map(|t| t.name())).map(str::to_string).collect();
    value_infos(&mut graph.value_info, |name| names.contains(name) && !interface.contains(name));
}

fn value_infos(infos: &mut Vec<ValueInfoProto>, wanted: impl Fn(&str) -> bool) {
    let mut seen = HashSet::new();
    infos.retain(|info| wanted(info.name()) && seen.insert(info.name().to_string()));
    infos.iter_mut().for_each(value_info);
    infos.retain(|info| info.r#type.is_some() || info.doc_string.is_some() || !info.metadata_props.is_empty());
}

fn value_info(info: &mut ValueInfoProto) {
    drop_empty(&mut info.doc_string);
    info.r#type.iter_mut().for_each(ty);
}

fn ty(ty: &mut TypeProto) {
    drop_empty(&mut ty.denotation);
    let shape = match &mut ty.value {
        Some(Value::TensorType(tensor)) => {
            tensor.elem_type.take_if(|code| *code == 0);
            &mut tensor.shape
        }
        Some(Value::SparseTensorType(tensor)) => &mut tensor.shape,
        Some(Value::SequenceType(of)) => return of.elem_type.iter_mut().for_each(|element| self::ty(element)),
        Some(Value::OptionalType(of)) => return of.elem_type.iter_mut().for_each(|element| self::ty(element)),
        Some(Value::MapType(of)) => return of.value_type.iter_mut().for_each(|element| self::ty(element)),
        _ => return,
    };
    for dim in shape.iter_mut().flat_map(|shape| &mut shape.dim) {
        drop_empty(&mut dim.denotation);
        dim.value.take_if(|value| match value {
            dimension::Value::DimValue(size) => *size < 0,
            dimension::Value::DimParam(symbol) => symbol.is_empty() || symbol == "?",
        });
    }
}

fn node(node: &mut NodeProto, old: bool) {
    for text in [&mut node.name, &mut node.domain, &mut node.overload, &mut node.doc_string] {
        drop_empty(text);
    }
    node.domain.take_if(|domain| domain == "ai.onnx");
    node.attribute.iter_mut().for_each(|attr| attribute(attr, old));
}

fn attribute(attr: &mut AttributeProto, old: bool) {
    use AttributeType as T;
    drop_empty(&mut attr.doc_string);
    drop_empty(&mut attr.ref_attr_name);
    attr.t.iter_mut().chain(&mut attr.tensors).for_each(tensor);
    attr.sparse_tensor.iter_mut().chain(&mut attr.sparse_tensors).for_each(sparse);
    attr.g.iter_mut().chain(&mut attr.graphs).for_each(|inner| graph(inner, old));
    attr.tp.iter_mut().chain(&mut attr.type_protos).for_each(ty);
    if attr.ref_attr_name.is_some() {
        return;
    }
    match attr.r#type() {
        T::Int => attr.i = Some(attr.i()),
        T::Float => attr.f = Some(attr.f()),
        T::String => attr.s = Some(attr.s.take().unwrap_or_default()),
        T::Undefined => {
            let single = [(attr.i.is_some(), T::Int), (attr.f.is_some(), T::Float), (attr.s.is_some(), T::String)];
            let many = [(!attr.ints.is_empty(), T::Ints), (!attr.floats.is_empty(), T::Floats)];
            let found = single.into_iter().chain(many).chain([(attr.t.is_some(), T::Tensor)]).find(|(there, _)| *there);
            attr.set_type(found.expect("the field that is there").1);
        }
        _ => {}
    }
}

fn sparse(tensor: &mut SparseTensorProto) {
    tensor.values.iter_mut().chain(&mut tensor.indices).for_each(self::tensor);
}

/// Moves the elements into `raw_data`.
fn tensor(tensor: &mut TensorProto) {
    use std::mem::take;
    drop_empty(&mut tensor.name);
    drop_empty(&mut tensor.doc_string);
    tensor.data_location.take_if(|location| *location == 0);
    if tensor.data_type() == tensor_proto::DataType::String as i32 {
        return;
    }
    let mut raw = tensor.raw_data.take().unwrap_or_default().to_vec();
    raw.extend(take(&mut tensor.float_data).iter().flat_map(|x| x.to_le_bytes()));
    raw.extend(take(&mut tensor.double_data).iter().flat_map(|x| x.to_le_bytes()));
    raw.extend(take(&mut tensor.int64_data).iter().flat_map(|x| x.to_le_bytes()));
    let width = match tensor.data_type() {
        6 | 12 => 4,
        4 | 5 | 10 | 16 => 2,
        13 => 8,
        27 | 28 => panic!("no model of the tests holds six-bit numbers in int32_data"),
        _ => 1,
    };
    raw.extend(take(&mut tensor.int32_data).iter().flat_map(|x| x.to_le_bytes()[..width].to_vec()));
    raw.extend(take(&mut tensor.uint64_data).iter().flat_map(|x| x.to_le_bytes()[..width].to_vec()));
    tensor.raw_data = Some(raw.into());
}
