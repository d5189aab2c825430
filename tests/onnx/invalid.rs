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
    fs::set_permissions(&path, fs::Permissions::from_mode(0)).unwrap();
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

/// An `If` in an `If` in an `If`.
fn nested(depth: usize) -> Vec<u8> {
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend(content);
        bytes
    }
    let mut graph = Vec::new();
    for _ in 0..depth {
        let attribute = [field(1, b"then_branch"), field(6, &graph), vec![20 << 3 & 0xff | 0x80, 1, 5]].concat();
        let node = [field(4, b"If"), field(5, &attribute)].concat();
        graph = field(1, &node);
    }
    let opset = proto::OperatorSetIdProto { version: Some(17), ..Default::default() };
    let mut model =
        proto::ModelProto { ir_version: Some(8), opset_import: vec![opset], ..Default::default() }.encode_to_vec();
    model.extend(field(7, &graph));
    model
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
