//! What reading makes of unusual but valid files.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};

use onnxshrink::ir::{Model, ValueDef};
use onnxshrink::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, ValueInfoProto, attribute_proto::AttributeType,
};
use onnxshrink::onnx::{self, Loaded};
use prost::Message;

pub fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

pub fn value(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() }
}

pub fn floats(name: &str, elements: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![elements.len() as i64],
        data_type: Some(1),
        float_data: elements.to_vec(),
        ..TensorProto::default()
    }
}

/// A graph from `x` to `y`.
pub fn graph(nodes: Vec<NodeProto>) -> GraphProto {
    GraphProto { node: nodes, input: vec![value("x")], output: vec![value("y")], ..GraphProto::default() }
}

pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        g: Some(graph),
        r#type: Some(AttributeType::Graph as i32),
        ..AttributeProto::default()
    }
}

fn load(model: &ModelProto) -> Loaded {
    let loaded = onnx::decode(model.encode_to_vec().into(), None).unwrap_or_else(|error| panic!("{error}"));
    loaded.model.verify().unwrap();
    loaded
}

fn written(model: &Model) -> ModelProto {
    ModelProto::decode(&*onnx::encode(model).unwrap()).unwrap()
}

#[test]
fn nodes_out_of_order_are_sorted_and_the_others_stay() {
    let nodes = vec![
        node("Relu", &["b"], "y"),
        node("Neg", &["x"], "unread"),
        node("Abs", &["a"], "b"),
        node("Exp", &["x"], "a"),
        node("Log", &["x"], "also_unread"),
    ];
    let sorted: Vec<_> = written(&load(&model(graph(nodes))).model).graph.unwrap().node;
    let operators: Vec<_> = sorted.iter().map(|node| node.op_type()).collect();
    assert_eq!(operators, ["Neg", "Exp", "Abs", "Relu", "Log"]);
}

#[test]
fn what_a_body_captures_is_defined_before_it() {
    let inner =
        GraphProto { node: vec![node("Relu", &["late"], "z")], output: vec![value("z")], ..GraphProto::default() };
    let mut branch = node("If", &["x"], "y");
    branch.attribute = vec![body("then_branch", inner.clone()), body("else_branch", inner)];
    let loaded = load(&model(graph(vec![branch, node("Neg", &["x"], "late")])));
    let nodes: Vec<_> = loaded.model.nodes_of(loaded.model.main).map(|id| loaded.model.node(id).op.as_str()).collect();
    assert_eq!(nodes, ["Neg", "If"]);
    let late = loaded.model.all_values().find(|(_, value)| value.name == "late").unwrap().1;
    assert_eq!(late.uses.len(), 2, "both branches read the one value");
}

#[test]
fn only_an_initializer_that_is_an_input_can_be_overridden() {
    let mut main = graph(vec![node("Sum", &["x", "free", "fixed"], "y")]);
    main.input.push(value("free"));
    main.initializer = vec![floats("free", &[1.0]), floats("fixed", &[2.0])];
    let model = load(&model(main)).model;
    let defs: Vec<_> = model.initializers_of(model.main).map(|value| &model.value(value).def).collect();
    assert!(matches!(defs[..], [ValueDef::Input { default: Some(_) }, ValueDef::Constant(_)]));
}

#[test]
fn before_ir_4_initializers_are_constants_although_they_are_inputs() {
    let mut main = graph(vec![node("Sum", &["x", "w"], "y")]);
    main.input.push(value("w"));
    main.initializer = vec![floats("w", &[1.0])];
    let mut old = model(main);
    (old.ir_version, old.opset_import[0].version) = (Some(3), Some(7));
    let model = load(&old).model;
    assert_eq!(model.graph(model.main).inputs.len(), 1);
    assert_eq!(model.initializers_of(model.main).filter(|&value| model.constant(value).is_some()).count(), 1);
    assert_eq!(written(&model).ir_version, Some(4));
}

#[test]
fn sparse_initializers_stay_sparse() {
    let mut main = graph(vec![node("Add", &["x", "w"], "y")]);
    let indices = TensorProto { data_type: Some(7), dims: vec![1], int64_data: vec![3], ..TensorProto::default() };
    main.sparse_initializer =
        vec![SparseTensorProto { values: Some(floats("w", &[1.0])), indices: Some(indices), dims: vec![4] }];
    let sparse = written(&load(&model(main)).model).graph.unwrap().sparse_initializer;
    assert_eq!(sparse.len(), 1);
    assert_eq!((sparse[0].values.as_ref().unwrap().name(), &sparse[0].dims[..]), ("w", &[4][..]));
}

#[test]
fn functions_keep_their_opsets_attributes_and_references() {
    let mut inner = node("LeakyRelu", &["a"], "b");
    inner.attribute.push(AttributeProto {
        name: Some("alpha".into()),
        ref_attr_name: Some("slope".into()),
        r#type: Some(AttributeType::Float as i32),
        ..AttributeProto::default()
    });
    let function = FunctionProto {
        name: Some("F".into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        attribute: vec!["slope".into()],
        node: vec![inner],
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(16) }],
        ..FunctionProto::default()
    };
    let mut proto = model(graph(vec![NodeProto { domain: Some("local".into()), ..node("F", &["x"], "y") }]));
    proto.opset_import.push(OperatorSetIdProto { domain: Some("local".into()), version: Some(1) });
    proto.functions = vec![function.clone()];
    assert_eq!(written(&load(&proto).model).functions, [function]);
}

#[test]
fn the_long_name_of_the_empty_domain_is_known() {
    let mut proto = model(graph(vec![NodeProto { domain: Some("ai.onnx".into()), ..node("Relu", &["x"], "y") }]));
    proto.opset_import = [("ai.onnx", 9), ("", 13)]
        .map(|(domain, version)| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) })
        .into();
    let model = load(&proto).model;
    assert_eq!(model.opsets.0.len(), 1);
    assert_eq!(model.opsets.onnx(), Some(13));
    assert!(model.all_nodes().all(|node| model.node(node).domain.is_empty()));
}

#[test]
fn fields_that_the_schema_does_not_know_are_named() {
    let unknown = [(99 << 3u64 & 0x7f | 0x80) as u8, 6, 5];
    let node_bytes = [&node("Relu", &["x"], "y").encode_to_vec()[..], &unknown, &unknown].concat();
    let mut graph_bytes =
        GraphProto { input: vec![value("x")], output: vec![value("y")], ..GraphProto::default() }.encode_to_vec();
    prost::encoding::bytes::encode(1, &node_bytes, &mut graph_bytes);
    let mut bytes = ModelProto { graph: None, ..model(GraphProto::default()) }.encode_to_vec();
    prost::encoding::bytes::encode(7, &graph_bytes, &mut bytes);
    bytes.extend(unknown);
    let warnings = onnx::decode(bytes.into(), None).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "ModelProto: field 99 (found once) is not in the ONNX schema known here and will be lost",
            "ModelProto.graph.node: field 99 (found 2 times) is not in the ONNX schema known here and will be lost",
        ]
    );
}

#[test]
fn a_second_value_of_an_attribute_is_reported() {
    let mut clip = node("Clip", &["x"], "y");
    clip.attribute.push(AttributeProto {
        name: Some("min".into()),
        f: Some(1.0),
        i: Some(3),
        r#type: Some(AttributeType::Float as i32),
        ..AttributeProto::default()
    });
    let expected = "node Clip of `y`: attribute `min` is of type FLOAT; its value of type INT will be lost";
    assert_eq!(load(&model(graph(vec![clip]))).warnings, [expected]);
}

#[cfg(unix)]
#[test]
fn external_data_are_found_where_a_link_to_the_model_leads() {
    let (store, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::copy("testdata/invalid/external_missing.onnx", store.path().join("model.onnx")).unwrap();
    fs::write(store.path().join("nowhere.bin"), [0; 8]).unwrap();
    std::os::unix::fs::symlink(store.path().join("model.onnx"), other.path().join("link.onnx")).unwrap();
    onnx::read(other.path().join("link.onnx")).unwrap();
}

#[test]
fn several_external_files_with_offsets_are_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("weights")).unwrap();
    fs::write(folder.path().join("a.bin"), [[0; 4], 1f32.to_le_bytes(), [9; 4]].concat()).unwrap();
    fs::write(folder.path().join("weights/b.bin"), 2f32.to_le_bytes()).unwrap();
    let external = |name: &str, entries: &[(&str, &str)]| TensorProto {
        float_data: vec![],
        data_location: Some(1),
        external_data: entries
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: Some(key.to_string()), value: Some(value.to_string()) })
            .collect(),
        ..floats(name, &[0.0])
    };
    let mut main = graph(vec![node("Sum", &["x", "a", "b"], "y")]);
    main.initializer = vec![
        external("a", &[("location", "a.bin"), ("offset", "4")]),
        external("b", &[("location", "./weights/b.bin")]),
    ];
    let path = folder.path().join("model.onnx");
    fs::write(&path, model(main).encode_to_vec()).unwrap();
    let model = onnx::read(&path).unwrap().model;
    let data: Vec<_> =
        model.initializers_of(model.main).map(|value| model.constant(value).unwrap().as_float()).collect();
    assert_eq!(data, [Some(1.0), Some(2.0)]);
}

/// The file is sparse, so it takes no room on the disk.
#[test]
fn a_file_of_more_than_two_gigabytes_is_read_without_touching_its_weights() {
    const SIZE: u64 = 2_200_000_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.onnx");
    let head = |number: u32, length: u64| {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(length, &mut bytes);
        bytes
    };
    let tensor = TensorProto { float_data: vec![], dims: vec![SIZE as i64 / 4], ..floats("w", &[]) }.encode_to_vec();
    let raw = head(9, SIZE);
    let initializer = head(5, (tensor.len() + raw.len()) as u64 + SIZE);
    let rest = graph(vec![node("Add", &["x", "w"], "y")]).encode_to_vec();
    let whole = head(7, (rest.len() + initializer.len() + tensor.len() + raw.len()) as u64 + SIZE);
    let shell = ModelProto { graph: None, ..model(GraphProto::default()) }.encode_to_vec();
    let mut file = File::create(&path).unwrap();
    file.write_all(&[shell, whole, rest, initializer, tensor, raw].concat()).unwrap();
    let end = file.seek(SeekFrom::Current(SIZE as i64)).unwrap();
    file.set_len(end).unwrap();

    let model = onnx::read(&path).unwrap().model;
    let weight = model.initializers_of(model.main).next().unwrap();
    assert_eq!(model.constant(weight).unwrap().byte_len() as u64, SIZE);
}
