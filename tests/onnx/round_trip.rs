//! Law: read then write equals the input, message by message, after the named normalisations.

use std::fs;
use std::path::PathBuf;

use onnxshrink::onnx::{self, WriteOptions, proto::ModelProto};
use prost::Message;

use crate::corpus;
use crate::normal::{normal, sorted};

#[test]
fn node_tests_are_written_as_they_were_read() {
    let models = corpus::node_tests();
    assert!(models.is_empty() || models.len() == 1678, "{} node tests", models.len());
    check(models);
}

#[test]
fn light_models_are_written_as_they_were_read() {
    check(corpus::light_models());
}

#[test]
fn the_other_official_tests_are_written_as_they_were_read() {
    check(corpus::other_official_tests());
}

#[test]
fn the_zoo_is_written_as_it_was_read() {
    check(corpus::zoo());
}

fn check(models: Vec<PathBuf>) {
    let count = models.len();
    let wrong: Vec<_> =
        models.into_iter().filter_map(|path| Some(format!("{}: {}", path.display(), difference(&path)?))).collect();
    eprintln!("{} of {count} models are written as they were read", count - wrong.len());
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What `onnx-protobuf`, which is another library with a schema of its own, finds in a file.
/// Its schema has no presence: fields that hold their default are gone.
fn seen_independently(bytes: &[u8]) -> ModelProto {
    use onnx_protobuf::Message as _;
    let model = onnx_protobuf::ModelProto::parse_from_bytes(bytes).unwrap();
    let seen = ModelProto::decode(&*model.write_to_bytes().unwrap()).unwrap();
    let (ours, theirs) = (ModelProto::decode(bytes).unwrap().graph.unwrap(), seen.graph.as_ref().unwrap());
    assert_eq!(
        (ours.node.len(), ours.initializer.len(), ours.value_info.len()),
        (theirs.node.len(), theirs.initializer.len(), theirs.value_info.len())
    );
    seen
}

fn difference(path: &PathBuf) -> Option<String> {
    let loaded = match onnx::read(path) {
        Ok(loaded) => loaded,
        Err(error) => return Some(error.to_string()),
    };
    if let Err(error) = loaded.model.verify() {
        return Some(error.to_string());
    }
    if !loaded.warnings.is_empty() {
        return Some(loaded.warnings.join("; "));
    }
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model.onnx");
    onnx::write(&loaded.model, &output, &WriteOptions::default()).unwrap();
    let bytes = fs::read(output).unwrap();
    let written = ModelProto::decode(&*bytes).unwrap();
    if written.encode_to_vec() != onnx::encode(&loaded.model).unwrap() {
        return Some("the file and the encoded bytes differ".into());
    }
    let mut original = normal(ModelProto::decode(&*fs::read(path).unwrap()).unwrap());
    // Raised where the model uses what came later, which has its own test.
    original.ir_version = original.ir_version.max(written.ir_version);
    let (original, written) = (sorted(original), sorted(written));
    let seen = |bytes: &[u8]| sorted(seen_independently(bytes)).encode_to_vec();
    if seen(&original.encode_to_vec()) != seen(&bytes) {
        return Some("another protobuf library reads another model".into());
    }
    if original.encode_to_vec() == written.encode_to_vec() {
        return None;
    }
    let (original, written) = (format!("{original:#?}"), format!("{written:#?}"));
    let lines = original.lines().zip(written.lines()).enumerate().find(|(_, (a, b))| a != b);
    Some(match lines {
        Some((number, (a, b))) => format!("line {number}: `{}` became `{}`", a.trim(), b.trim()),
        None => "one is longer".into(),
    })
}
