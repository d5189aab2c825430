//! Damaged files are refused or read, but nothing panics, and what is read is well formed and can be written.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use onnxshrink::onnx;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::corpus;

/// Small files with everything that ONNX has: bodies, functions, sequences, strings, external data.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut paths: Vec<_> = ["testdata/invalid", "testdata/models"]
        .iter()
        .flat_map(|folder| Path::new(folder).read_dir().into_iter().flatten().flatten().map(|entry| entry.path()))
        .collect();
    let wanted = ["test_loop", "test_if", "test_scan", "test_sequence", "test_string", "test_quantizelinear", "sparse"];
    let of_use = |path: &&std::path::PathBuf| wanted.iter().any(|part| path.to_string_lossy().contains(part));
    paths.extend(corpus::node_tests().iter().filter(of_use).cloned());
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).filter(|bytes| (1..20_000).contains(&bytes.len())).collect()
});

#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = || any::<Index>();
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        4 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), at()).prop_map(|(at, to)| Damage::Remove(at, to)),
        1 => (at(), at()).prop_map(|(at, to)| Damage::Repeat(at, to)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let range = |a: &Index, b: &Index, length: usize| {
        let (a, b) = (a.index(length), b.index(length));
        a.min(b)..a.max(b)
    };
    match damage {
        Damage::Set(at, byte) => *at.get_mut(bytes) = *byte,
        Damage::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
        Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Damage::Remove(a, b) => drop(bytes.drain(range(a, b, bytes.len()))),
        Damage::Repeat(a, b) => {
            let range = range(a, b, bytes.len());
            bytes.extend_from_within(range);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(seed in any::<Index>(), damages in prop::collection::vec(damage(), 1..4)) {
        let mut bytes = seed.get(&SEEDS).clone();
        damages.iter().for_each(|damage| apply(&mut bytes, damage));
        match onnx::decode(bytes.into(), Some(Path::new("testdata/invalid"))) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(loaded) => {
                loaded.model.verify().unwrap();
                let written = onnx::encode(&loaded.model).unwrap();
                let again = onnx::decode(written.clone().into(), None).map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(onnx::encode(&again.model).unwrap(), written);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(onnx::decode(bytes.into(), None));
    }
}
