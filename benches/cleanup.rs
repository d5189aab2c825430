//! Reading, cleaning and writing of real models, and of a chain that shows whether anything is quadratic.

use std::env;
use std::hint::black_box;
use std::path::PathBuf;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use onnxshrink::ir::op::{Add, Identity, Relu};
use onnxshrink::ir::{DType, Model, Size, Tensor, Type};
use onnxshrink::pass::{Context, Pipeline};
use onnxshrink::{onnx, passes};

fn clean(model: &mut Model) {
    let pipeline = Pipeline::parse("upgrade-opset,cleanup", passes::ALL).expect("both are in the table");
    pipeline.run(model, &mut Context::default()).expect("cleanup does not fail");
}

/// Three nodes a link: one that stays, one that goes, one with a constant that all links share.
fn chain(nodes: usize) -> Model {
    let mut model = Model::new("chain");
    model.opsets.0.insert(String::new(), 18);
    let main = model.main;
    let x = model.add_input(main, "x");
    let four = Type::tensor(DType::F32, [Size::Fixed(4)]);
    model.set_type(x, Some(four.clone()));
    let last = (0..nodes / 3).fold(x, |x, link| {
        let one = model.add_constant(main, &format!("one{link}"), Tensor::from_vec(vec![4], vec![1f32; 4]));
        let sum = model.append(main, &format!("sum{link}"), Add { a: x, b: one });
        let same = model.append(main, &format!("same{link}"), Identity { x: sum });
        model.append(main, &format!("relu{link}"), Relu { x: same })
    });
    model.set_type(last, Some(four));
    model.add_output(main, last);
    model
}

fn cleanup(c: &mut Criterion) {
    let mut group = c.benchmark_group("chain of 100,000 nodes");
    group.sample_size(10);
    let model = chain(100_000);
    group.bench_function("cleanup", |b| b.iter_batched_ref(|| model.clone(), clean, BatchSize::PerIteration));
    group.finish();

    let zoo = env::var_os("ONNXSHRINK_ZOO").map_or_else(|| PathBuf::from("../shared/zoo"), PathBuf::from);
    if !zoo.is_dir() {
        return eprintln!("no zoo in {} (set ONNXSHRINK_ZOO): only the chain was measured", zoo.display());
    }
    let folder = tempfile::tempdir().expect("a folder for what is written");
    let written = folder.path().join("written.onnx");
    for name in ["efficientnet_lite0", "minilm_spam", "ppocr_rec", "mnist_resdw_bn", "spam_tf"] {
        let file = zoo.join("models").join(name).with_extension("onnx");
        let read = || onnx::read(&file).expect("a model of the zoo is read").model;
        let (model, mut small) = (read(), read());
        clean(&mut small);
        let mut group = c.benchmark_group(name);
        group.sample_size(10);
        group.bench_function("read", |b| b.iter(|| black_box(read())));
        group.bench_function("cleanup", |b| b.iter_batched_ref(|| model.clone(), clean, BatchSize::PerIteration));
        group.bench_function("write", |b| {
            b.iter(|| onnx::write(&small, &written, &onnx::WriteOptions::default()).expect("the model is written"))
        });
        group.finish();
    }
}

criterion_group!(benches, cleanup);
criterion_main!(benches);
