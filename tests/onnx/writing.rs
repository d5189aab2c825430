//! Files appear whole, under names that are unique, with their data where they are asked for.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use indexmap::IndexMap;
use onnxshrink::ir::{Attr, DType, GraphId, Model, Operation, OpsetImports, Tensor, ValueId};
use onnxshrink::onnx::proto::{ModelProto, TensorProto};
use onnxshrink::onnx::{self, ExternalData, WriteOptions};
use prost::Message;

fn operation(op: &str, inputs: &[ValueId]) -> Operation {
    Operation { op: op.into(), inputs: inputs.iter().copied().map(Some).collect(), ..Operation::default() }
}

fn empty() -> Model {
    let mut model = Model::new("g");
    model.opsets = OpsetImports(IndexMap::from([(String::new(), 17)]));
    model
}

/// A model that adds constants of these sizes in floats to its input.
fn adding(sizes: &[usize]) -> Model {
    let mut model = empty();
    let mut sum = model.add_input(model.main, "x");
    for (index, &size) in sizes.iter().enumerate() {
        let weight = Tensor::from_vec(vec![size], (0..size).map(|i| i as f32).collect());
        let weight = model.add_constant(model.main, &format!("w{index}"), weight);
        sum = model.append(model.main, &format!("y{index}"), operation("Add", &[sum, weight]));
    }
    model.add_output(model.main, sum);
    model
}

fn decoded(path: &Path) -> ModelProto {
    ModelProto::decode(&*fs::read(path).unwrap()).unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_model_is_written_over_the_file_it_is_read_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    onnx::write(&adding(&[300_000]), &path, &WriteOptions::default()).unwrap();
    let before = decoded(&path);
    let loaded = onnx::read(&path).unwrap();
    let written = onnx::write(&loaded.model, &path, &WriteOptions::default()).unwrap();
    assert_eq!(decoded(&path), before);
    assert_eq!(written.bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(entries(folder.path()), ["model.onnx"], "nothing else is left");
}

#[test]
fn a_write_that_fails_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let error = onnx::write(&adding(&[8]), folder.path(), &WriteOptions::default()).unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    let nowhere = folder.path().join("nowhere/model.onnx");
    onnx::write(&adding(&[8]), nowhere, &WriteOptions::default()).unwrap_err();
    assert!(entries(folder.path()).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let error = onnx::write(&adding(&[100_000]), "/dev/full", &WriteOptions::default()).unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_replaced_file_keeps_its_permissions_and_a_link_stays_a_link() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.onnx"), folder.path().join("link.onnx"));
    fs::write(&real, b"old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&real, &link).unwrap();
    onnx::write(&adding(&[8]), &link, &WriteOptions::default()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(decoded(&real).graph.is_some());
}

#[test]
fn large_initializers_go_to_the_data_file_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let model = adding(&[2, 300, 300_000, 255, 256]);
    let options = WriteOptions { external_data: Some(ExternalData::default()) };
    let written = onnx::write(&model, &path, &options).unwrap();
    let (data, length) = written.external.unwrap();
    assert_eq!(data.file_name().unwrap(), "model.onnx.data");
    assert_eq!(fs::metadata(&data).unwrap().len(), length);
    let places: Vec<_> = decoded(&path).graph.unwrap().initializer.iter().map(place).collect();
    assert_eq!(
        places,
        [
            None,
            Some(("model.onnx.data".into(), 0, 1200)),
            Some(("model.onnx.data".into(), 4096, 1_200_000)),
            None,
            Some(("model.onnx.data".into(), 1_204_096, 1024)),
        ]
    );
    let read = onnx::read(&path).unwrap().model;
    assert_eq!(onnx::encode(&read).unwrap(), onnx::encode(&model).unwrap());

    // Over itself, with the data in use.
    onnx::write(&read, &path, &options).unwrap();
    assert_eq!(onnx::encode(&onnx::read(&path).unwrap().model).unwrap(), onnx::encode(&model).unwrap());
    assert_eq!(entries(folder.path()), ["model.onnx", "model.onnx.data"]);
}

fn place(tensor: &TensorProto) -> Option<(String, u64, u64)> {
    let entry = |key: &str| Some(tensor.external_data.iter().find(|entry| entry.key() == key)?.value());
    Some((entry("location")?.into(), entry("offset")?.parse().unwrap(), entry("length")?.parse().unwrap()))
}

/// The tensors share their bytes, so the data file is small.
#[test]
fn a_model_of_more_than_two_gigabytes_gets_a_data_file_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let mut model = empty();
    let shared = Bytes::from(vec![7; 1 << 20]);
    for index in 0..2100 {
        let tensor = Tensor::new(DType::U8, vec![1 << 20], shared.clone()).unwrap();
        model.add_constant(model.main, &format!("w{index}"), tensor);
    }
    let written = onnx::write(&model, &path, &WriteOptions::default()).unwrap();
    assert!(written.note.unwrap().contains("larger than 2 GB"));
    assert_eq!(written.external.unwrap().1, 1 << 20);
    assert_eq!(onnx::read(&path).unwrap().model.all_values().count(), 2100);
}

#[test]
fn names_are_unique_and_outputs_keep_theirs() {
    let mut model = empty();
    let x = model.add_input(model.main, "same");
    let mut last = x;
    for _ in 0..3 {
        last = model.append(model.main, "same", operation("Relu", &[last]));
    }
    let y = model.append(model.main, "same_1", operation("Relu", &[last]));
    model.add_output(model.main, y);
    let read = onnx::decode(onnx::encode(&model).unwrap().into(), None).unwrap().model;
    let name = |value: ValueId| read.value(value).name.as_str();
    assert_eq!(name(read.graph(read.main).inputs[0]), "same");
    assert_eq!(name(read.graph(read.main).outputs[0]), "same_1");
    assert_eq!(read.all_values().count(), 5);
}

#[test]
fn a_name_is_not_hidden_by_a_body_that_reads_it() {
    let mut model = empty();
    let x = model.add_input(model.main, "x");
    let body = |model: &mut Model| -> GraphId {
        let graph = model.add_graph("body");
        let inner = model.append(graph, "x", operation("Relu", &[x]));
        let outer = model.append(graph, "z", operation("Add", &[inner, x]));
        model.add_output(graph, outer);
        graph
    };
    let branches = [("then_branch", body(&mut model)), ("else_branch", body(&mut model))];
    let mut branch = operation("If", &[x]);
    branch.attrs = branches.into_iter().map(|(name, graph)| (name.to_string(), Attr::Graph(graph))).collect();
    let y = model.append(model.main, "y", branch);
    model.add_output(model.main, y);
    model.verify().unwrap();
    let read = onnx::decode(onnx::encode(&model).unwrap().into(), None).unwrap().model;
    read.verify().unwrap();
    let x = read.graph(read.main).inputs[0];
    assert_eq!(read.value(x).uses.len(), 5, "the condition, and two reads in each branch");
}

#[test]
fn constants_of_a_function_are_written_as_nodes() {
    let mut model = empty();
    let body = model.add_graph("");
    let a = model.add_input(body, "a");
    let one = model.add_constant(body, "one", Tensor::scalar(1f32));
    let b = model.append(body, "b", operation("Add", &[a, one]));
    model.add_output(body, b);
    model.add_function(onnxshrink::ir::Function {
        domain: "local".into(),
        name: "F".into(),
        overload: String::new(),
        body,
        opsets: model.opsets.clone(),
        required_attrs: vec![],
        default_attrs: Default::default(),
    });
    let proto = ModelProto::decode(&*onnx::encode(&model).unwrap()).unwrap();
    let operators: Vec<_> = proto.functions[0].node.iter().map(|node| node.op_type()).collect();
    assert_eq!(operators, ["Constant", "Add"]);
}

#[test]
fn the_ir_version_rises_to_what_the_model_uses() {
    let version = |change: &dyn Fn(&mut Model)| {
        let mut model = adding(&[1]);
        change(&mut model);
        ModelProto::decode(&*onnx::encode(&model).unwrap()).unwrap().ir_version()
    };
    let opset = |version: i64| move |model: &mut Model| model.opsets.0[""] = version;
    assert_eq!([7, 9, 11, 13, 17, 19, 21, 23, 28].map(|v| version(&opset(v))), [4, 4, 6, 7, 8, 9, 10, 11, 14]);
    assert_eq!(version(&|model: &mut Model| model.header.ir_version = 10), 10, "what the file says stays");
    let int4 = |model: &mut Model| {
        let tensor = Tensor::new(DType::I4, vec![2], vec![1].into()).unwrap();
        model.add_constant(model.main, "int4", tensor);
    };
    assert_eq!(version(&int4), 10);
}

#[test]
fn a_model_without_opset_is_not_written() {
    onnx::encode(&Model::new("g")).unwrap_err();
}
