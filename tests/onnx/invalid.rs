//! Broken files give one paragraph that says what is wrong, where, and what to do.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use onnxshrink::onnx::{self, Problem, proto};
use prost::Message;

fn message(path: &Path) -> String {
    match onnx::read(path) {
        Ok(_) => panic!("{} was read", path.display()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_broken_file_is_refused_with_its_reason() {
    let folder = Path::new("testdata/invalid");
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    files.sort();
    let mut messages = String::new();
    for file in &files {
        let message = message(file);
        assert!(!message.contains('\n') && message.contains(&*file.to_string_lossy()), "{message}");
        writeln!(messages, "{message}").unwrap();
    }
    insta::assert_snapshot!(messages);
}

#[test]
fn a_directory_and_a_missing_file_are_told_apart() {
    insta::assert_snapshot!(message(Path::new("testdata")), @"`testdata`: it is a directory; name the ONNX file in it");
    insta::assert_snapshot!(message(Path::new("testdata/nowhere.onnx")), @"`testdata/nowhere.onnx`: there is no such file; check the path");
}

#[cfg(unix)]
#[test]
fn a_file_without_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked.onnx");
    fs::write(&path, b"x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&path).is_ok() {
        return eprintln!("this user may read every file: nothing was tested");
    }
    assert!(message(&path).contains("may not be read by this user"));
}

#[cfg(unix)]
#[test]
fn external_data_behind_a_link_out_of_the_folder_are_refused() {
    let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret.bin"), [0; 8]).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.bin"), inside.path().join("nowhere.bin")).unwrap();
    let model = inside.path().join("model.onnx");
    fs::copy("testdata/invalid/external_missing.onnx", &model).unwrap();
    assert!(message(&model).contains("outside the model's folder"), "{}", message(&model));
}

#[cfg(unix)]
#[test]
fn a_link_to_a_model_finds_the_data_linked_beside_it() {
    let (store, snapshot) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::copy("testdata/invalid/external_missing.onnx", store.path().join("1f")).unwrap();
    fs::write(store.path().join("2e"), [0; 8]).unwrap();
    std::os::unix::fs::symlink(store.path().join("1f"), snapshot.path().join("model.onnx")).unwrap();
    std::os::unix::fs::symlink(store.path().join("2e"), snapshot.path().join("nowhere.bin")).unwrap();
    onnx::read(snapshot.path().join("model.onnx")).unwrap();
}

/// An `If` in an `If` in an `If`: what stands before the innermost graph, level by level.
fn nested(depth: usize) -> Vec<u8> {
    fn head(number: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        prost::encoding::encode_varint(length as u64, &mut bytes);
        bytes
    }
    let (mut levels, mut inner) = (Vec::new(), 0);
    for _ in 0..depth {
        let name = proto::AttributeProto { name: Some("then_branch".into()), r#type: Some(5), ..Default::default() };
        let attribute = [name.encode_to_vec(), head(6, inner)].concat();
        let operator = proto::NodeProto { op_type: Some("If".into()), ..Default::default() };
        let node = [operator.encode_to_vec(), head(5, attribute.len() + inner), attribute].concat();
        let level = [head(1, node.len() + inner), node].concat();
        inner += level.len();
        levels.push(level);
    }
    let opset = proto::OperatorSetIdProto { version: Some(17), ..Default::default() };
    let shell = proto::ModelProto { ir_version: Some(8), opset_import: vec![opset], ..Default::default() };
    levels.push([shell.encode_to_vec(), head(7, inner)].concat());
    levels.reverse();
    levels.concat()
}

#[test]
fn bodies_nested_ten_thousand_deep_are_refused() {
    let Err(error) = onnx::decode(nested(10_000).into(), None) else { panic!("it was read") };
    assert!(matches!(*error.problem, Problem::TooDeep), "{error}");
}

#[test]
fn bodies_nested_thirty_deep_are_read() {
    let loaded = onnx::decode(nested(30).into(), None).unwrap();
    assert_eq!(loaded.model.all_nodes().count(), 30);
    loaded.model.verify().unwrap();
}

#[test]
fn external_data_need_a_file_to_start_from() {
    let bytes = Bytes::from(fs::read("testdata/invalid/external_missing.onnx").unwrap());
    let Err(error) = onnx::decode(bytes, None) else { panic!("it was read") };
    assert!(matches!(*error.problem, Problem::NoFolder { .. }), "{error}");
}
