//! Real models on real data: what ONNX Runtime computes, written down by `testdata/expected/make.py`, is what tract
//! computes, before and after the exact passes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use npyz::npz::NpzArchive;
use onnxshrink::data::Dataset;
use onnxshrink::ir::{Model, Tensor};
use onnxshrink::onnx::read;
use onnxshrink::pass::{Context, Pipeline};
use onnxshrink::passes;
use onnxshrink::runtime::Runner;

use crate::corpus;

/// The models and their data, as in `testdata/expected/make.py`.
const MODELS: &[(&str, &str)] = &[
    ("efficientnet_lite0", "imagenet_stamps"),
    ("minilm_spam", "minilm_spam_test"),
    ("mnist_resdw", "mnist_test"),
    ("mnist_resdw_bn", "mnist_test"),
    ("ppocr_cls", "ocr_angle_test"),
    ("ppocr_rec", "ocr_lines_test"),
    ("spam_tf", "spam_test"),
];
const LARGEST: usize = 4096;
const STRIDE: usize = 251;

/// Of the range of an output.
const TOLERANCE: f32 = 1e-4;

#[test]
fn real_models_give_what_onnx_runtime_gives() {
    for (name, model, data) in zoo() {
        compare(&name, &model, &data);
    }
}

#[test]
fn real_models_give_it_after_constants_are_folded() {
    for (name, mut model, data) in zoo() {
        let pipeline = Pipeline::parse("constants-to-initializers,fold-constants", passes::ALL).unwrap();
        pipeline.run(&mut model, &mut Context::default()).unwrap();
        model.verify().unwrap();
        compare(&name, &model, &data);
    }
}

fn zoo() -> Vec<(String, Model, Dataset)> {
    let paths = corpus::zoo();
    let known = MODELS.iter().filter_map(|(name, data)| {
        let path = paths.iter().find(|path| path.ends_with(format!("models/{name}.onnx")))?;
        let model = read(path).unwrap_or_else(|error| panic!("{error}")).model;
        let data = Dataset::open(&path.with_file_name(format!("../data/{data}.npz")), &model);
        Some((name.to_string(), model, data.unwrap_or_else(|error| panic!("{error}"))))
    });
    known.collect()
}

fn compare(name: &str, model: &Model, data: &Dataset) {
    let expected = expected(name);
    let samples: Vec<Vec<Tensor>> = (0..expected.len()).map(|sample| data.sample(sample)).collect();
    let runner = Runner::new(model).unwrap_or_else(|error| panic!("{name}: {error}"));
    let found = runner.run_many(&samples).unwrap_or_else(|error| panic!("{name}: {error}"));
    for (sample, (found, expected)) in found.iter().zip(&expected).enumerate() {
        for (&output, found) in model.graph(model.main).outputs.iter().zip(found) {
            let output = &model.value(output).name;
            let (found, expected) = (found.floats().unwrap(), &expected[output]);
            let stride = if found.len() > LARGEST { STRIDE } else { 1 };
            let found: Vec<f32> = found.iter().copied().step_by(stride).collect();
            assert_eq!(found.len(), expected.len(), "{name}, sample {sample}, {output}");
            let (low, high) = expected.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
            let worst = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
            let relative = worst / (high - low);
            assert!(relative <= TOLERANCE, "{name}, sample {sample}, {output}: {relative:e} of its range");
        }
    }
}

/// The outputs of each sample by their names.
fn expected(name: &str) -> Vec<BTreeMap<String, Vec<f32>>> {
    let path = PathBuf::from("testdata/expected").join(name).with_extension("npz");
    let mut archive = NpzArchive::new(BufReader::new(File::open(&path).unwrap())).unwrap();
    let names: Vec<String> = archive.array_names().map(String::from).collect();
    let mut samples: Vec<BTreeMap<String, Vec<f32>>> = Vec::new();
    for name in names {
        let (sample, output) = name.split_once(':').expect("arrays are named sample:output");
        let sample: usize = sample.parse().unwrap();
        samples.resize(samples.len().max(sample + 1), BTreeMap::new());
        let array = archive.by_name(&name).unwrap().unwrap();
        samples[sample].insert(output.into(), array.into_vec().unwrap());
    }
    samples
}
