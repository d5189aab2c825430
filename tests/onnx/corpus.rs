//! The models that tests run over, where they are present.

use std::env;
use std::path::{Path, PathBuf};

/// The official node tests, or an empty list and a line that says so.
pub fn node_tests() -> Vec<PathBuf> {
    folder("ONNXSHRINK_NODE_TESTS", "target/node-tests", "fetch them with tests/fetch-node-tests.sh", &["node"])
}

pub fn light_models() -> Vec<PathBuf> {
    folder("ONNXSHRINK_NODE_TESTS", "target/node-tests", "fetch them with tests/fetch-node-tests.sh", &["light"])
}

/// The small groups beside the node tests.
pub fn other_official_tests() -> Vec<PathBuf> {
    let groups = ["simple", "pytorch-converted", "pytorch-operator"];
    folder("ONNXSHRINK_NODE_TESTS", "target/node-tests", "fetch them with tests/fetch-node-tests.sh", &groups)
}

pub fn zoo() -> Vec<PathBuf> {
    folder("ONNXSHRINK_ZOO", "../shared/zoo", "set ONNXSHRINK_ZOO", &["models", "train", "students"])
}

fn folder(variable: &str, default: &str, advice: &str, groups: &[&str]) -> Vec<PathBuf> {
    let root = env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from);
    let mut found = Vec::new();
    for group in groups {
        models_in(&root.join(group), &mut found);
    }
    if found.is_empty() {
        eprintln!("no models in {} ({advice}): nothing was tested", root.display());
    }
    found.sort();
    found
}

fn models_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => models_in(&path, found),
            false if path.extension().is_some_and(|extension| extension == "onnx") => found.push(path),
            false => {}
        }
    }
}
