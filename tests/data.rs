//! Data files, as a user gives them: broken ones are refused in one paragraph, whole ones agree with what NumPy wrote.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use onnxshrink::data::Dataset;
use onnxshrink::ir::Model;

fn model(inputs: &str, first: &str) -> Model {
    let text =
        format!("<ir_version: 8, opset_import: [\"\": 18]>\ntest ({inputs}) => (out) {{ out = Identity({first}) }}");
    Model::parse(&text).unwrap()
}

fn broken_files() -> Vec<PathBuf> {
    let mut files: Vec<_> =
        Path::new("testdata/invalid").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "npz" || extension == "npy"));
    files.sort();
    files
}

#[test]
fn every_broken_file_is_refused_with_its_reason() {
    let (one, two) = (model("float[n, 2] x", "x"), model("int32[n, s] ids, int64[n, s] mask", "ids"));
    let mut messages = String::new();
    for file in broken_files() {
        let name = file.file_stem().unwrap().to_string_lossy();
        let model = if name.starts_with("ids") { &two } else { &one };
        let message = match Dataset::open(&file, model) {
            Ok(_) => panic!("{} was read", file.display()),
            Err(error) => error.to_string(),
        };
        assert!(!message.contains('\n') && message.contains(&*file.to_string_lossy()), "{message}");
        writeln!(messages, "{message}").unwrap();
    }
    insta::assert_snapshot!(messages);
}

#[test]
fn a_directory_and_a_missing_file_are_told_apart() {
    let open = |path: &str| Dataset::open(path.as_ref(), &model("float[n, 2] x", "x")).err().unwrap().to_string();
    insta::assert_snapshot!(open("testdata"), @"`testdata`: it is a directory; name the .npz or .npy file in it");
    insta::assert_snapshot!(open("testdata/nowhere.npz"), @"`testdata/nowhere.npz`: there is no such file; check the path");
}

#[test]
fn no_cut_or_changed_byte_makes_the_reader_panic() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("float[n, 2] x", "x");
    let whole = fs::read("testdata/invalid/y_length.npz").unwrap();
    let file = folder.path().join("data.npz");
    for at in 0..whole.len() {
        fs::write(&file, &whole[..at]).unwrap();
        assert!(Dataset::open(&file, &model).is_err(), "cut at {at}");
        let mut changed = whole.clone();
        changed[at] ^= 0xff;
        fs::write(&file, changed).unwrap();
        let _ = Dataset::open(&file, &model);
    }
}
