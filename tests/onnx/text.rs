//! Law: a model that is printed and parsed encodes to the same message, and prints to the same text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnxshrink::ir::Model;
use onnxshrink::ir::text::{ExternalData, PrintOptions};
use onnxshrink::onnx;

use crate::corpus;

#[test]
fn node_tests_are_parsed_as_they_were_printed() {
    check(corpus::node_tests());
}

#[test]
fn light_models_are_parsed_as_they_were_printed() {
    check(corpus::light_models());
}

#[test]
fn the_other_official_tests_are_parsed_as_they_were_printed() {
    check(corpus::other_official_tests());
}

#[test]
fn the_zoo_is_parsed_as_it_was_printed() {
    check(corpus::zoo());
}

fn check(models: Vec<PathBuf>) {
    let count = models.len();
    let wrong: BTreeMap<_, _> =
        models.into_iter().filter_map(|path| Some((path.display().to_string(), difference(&path)?))).collect();
    eprintln!("{} of {count} models are parsed as they were printed", count - wrong.len());
    assert!(wrong.is_empty(), "{} of {count} differ:\n{wrong:#?}", wrong.len());
}

fn difference(path: &Path) -> Option<String> {
    let model = match onnx::read(path) {
        Ok(loaded) => loaded.model,
        Err(error) => return Some(error.to_string()),
    };
    // Larger tensors are no text for people.
    let whole = PrintOptions { inline_bytes: 1 << 16, ..PrintOptions::external("weights.bin") };
    [whole, PrintOptions::external("weights.bin")].iter().find_map(|options| difference_under(options, &model))
}

fn difference_under(options: &PrintOptions, model: &Model) -> Option<String> {
    let printed = model.print(options);
    let file = Bytes::from(printed.external.concat());
    let load = |external: &ExternalData| {
        let start = external.offset as usize;
        let end = external.length.map_or(file.len(), |length| start + length as usize);
        Ok(file.slice(start..end))
    };
    let parsed = match Model::parse_with(&printed.text, load) {
        Ok(parsed) => parsed,
        Err(error) => return Some(error.to_string()),
    };
    if let Err(error) = parsed.verify() {
        return Some(error.to_string());
    }
    if onnx::encode(&parsed).unwrap() != onnx::encode(model).unwrap() {
        let [before, after] =
            [model, &parsed].map(|model| format!("{:#?}", onnx::to_proto(model, &onnx::Names::of(model))));
        let lines = before.lines().zip(after.lines()).find(|(before, after)| before != after);
        return Some(format!("the encoded messages differ: {lines:?}"));
    }
    (parsed.print(options).text != printed.text).then(|| "it prints to another text".into())
}
