//! Recurrent layers: written out they are what they were, and they are trained where they stand.

use std::fs;
use std::path::Path;

use globset::GlobSet;
use onnxshrink::data::{Dataset, Random, write_npz};
use onnxshrink::ir::op::{Add, ReduceSum};
use onnxshrink::ir::{DType, Model, Tensor, ValueId};
use onnxshrink::onnx::{self, decode_tensor};
use onnxshrink::pass::Context;
use onnxshrink::runtime::Runner;
use onnxshrink::train::gradient;
use onnxshrink::train::weights::weights;

use super::{corpus, run};

fn tensors(folder: &Path, role: &str) -> Vec<Tensor> {
    let files = (0..).map(|index| folder.join(format!("{role}_{index}.pb"))).take_while(|path| path.exists());
    files.map(|path| decode_tensor(fs::read(&path).unwrap().into()).unwrap()).collect()
}

/// The sum of all outputs.
fn loss(model: &mut Model) -> ValueId {
    let (main, outputs) = (model.main, model.graph(model.main).outputs.clone());
    let sums = outputs.into_iter().map(|x| ReduceSum { x, axes: None, keepdims: 0, noop_with_empty_axes: 0 });
    let sums: Vec<ValueId> = sums.map(|sum| model.append(main, "sum", sum)).collect();
    sums.into_iter().reduce(|a, b| model.append(main, "loss", Add { a, b })).unwrap()
}

#[test]
fn the_node_tests_of_recurrent_layers_pass_written_out() {
    let mut checked = 0;
    for path in corpus::node_tests() {
        let mut model = onnx::read(&path).unwrap_or_else(|error| panic!("{error}")).model;
        let nodes: Vec<_> = model.nodes_of(model.main).collect();
        if !nodes.iter().all(|&node| ["GRU", "LSTM", "RNN"].contains(&model.node(node).op.as_str())) || nodes.is_empty()
        {
            continue;
        }
        run(&mut model, "upgrade-opset", &mut Context::default());
        let (loss, inputs) = (loss(&mut model), model.graph(model.main).inputs.clone());
        gradient(&mut model, loss, &inputs).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let is_left = |node| ["GRU", "LSTM", "RNN"].contains(&model.node(node).op.as_str());
        assert!(!model.nodes_of(model.main).any(is_left), "{} is not written out", path.display());
        let data = path.with_file_name("test_data_set_0");
        let found = Runner::new(&model).unwrap().run(&tensors(&data, "input")).unwrap();
        for (found, expected) in found.iter().zip(tensors(&data, "output")) {
            assert_eq!(found.shape(), expected.shape(), "{}", path.display());
            let (found, expected) = (found.floats().unwrap(), expected.floats().unwrap());
            let far = found.iter().zip(&*expected).find(|(a, b)| (*a - *b).abs() > 1e-5 + 1e-4 * b.abs());
            assert_eq!(far, None, "{}", path.display());
        }
        checked += 1;
    }
    assert!(checked == 0 || checked > 10, "only {checked} tests were found");
}

/// A classifier of sequences of any length.
fn classifier() -> Model {
    let mut random = Random::new(7, 0);
    let mut tensor = |name: &str, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let elements: Vec<String> = (0..count).map(|_| format!("{:.4}", random.normal() * 0.4)).collect();
        let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
        format!("float[{}] {name} = {{{}}}", dims.join(","), elements.join(","))
    };
    let constants = [
        tensor("w", &[2, 24, 2]),
        tensor("r", &[2, 24, 6]),
        tensor("b", &[2, 48]),
        tensor("head", &[12, 2]),
        tensor("bias", &[2]),
        "int64[2] flat = {0, -1}".into(),
    ];
    let text = format!(
        "<ir_version: 8, opset_import: [\"\" : 18]>
        sequences (float[batch,time,2] x) => (float[batch,2] scores)
        <{}>
        {{
            in_time = Transpose <perm = [1, 0, 2]> (x)
            all, last = LSTM <hidden_size = 6, direction = \"bidirectional\"> (in_time, w, r, b)
            rows = Transpose <perm = [1, 0, 2]> (last)
            features = Reshape (rows, flat)
            scores = Gemm (features, head, bias)
        }}",
        constants.join(", ")
    );
    Model::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// Sequences, and whether the first number of each step is positive in the mean.
fn sequences(folder: &Path, model: &Model) -> Dataset {
    let (count, steps) = (48, 7);
    let mut random = Random::new(11, 0);
    let elements: Vec<f32> = (0..count * steps * 2).map(|_| random.normal()).collect();
    let class = |sample: &[f32]| i64::from(sample.iter().step_by(2).sum::<f32>() > 0.0);
    let labels = Tensor::from_ints(&elements.chunks(steps * 2).map(class).collect::<Vec<i64>>());
    let file = folder.join("sequences.npz");
    write_npz(&file, &[("x".into(), Tensor::from_vec(vec![count, steps, 2], elements)), ("y".into(), labels)]).unwrap();
    Dataset::open(&file, model).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn an_lstm_learns_and_stays_an_lstm() {
    let before = classifier();
    let folder = tempfile::tempdir().unwrap();
    let data = sequences(folder.path(), &before);
    let trained = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut model = before.clone();
            let mut cx = Context { data: Some(data.clone()), ..Context::default() };
            let options = "alpha=0,beta=1,epochs=20,batch-size=8,learning-rate=0.01,validation=0";
            run(&mut model, &format!("distill({options})"), &mut cx);
            (model, cx.reports[0].log.clone())
        })
    };
    let (after, log) = trained(2);
    let losses: Vec<f64> = log.iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect();
    assert!(losses[19] < 0.5 * losses[0], "{losses:?}");
    let operators =
        |model: &Model| model.nodes_of(model.main).map(|node| model.node(node).op.clone()).collect::<Vec<_>>();
    assert_eq!(operators(&after), operators(&before));
    for weight in weights(&before, &GlobSet::empty()) {
        let [old, new] = [&before, &after].map(|model| model.constant(weight.value).unwrap().clone());
        assert!(old.dtype() == DType::F32 && old != new, "`{}` stays as it was", before.value(weight.value).name);
    }
    assert_eq!(onnx::encode(&after).unwrap(), onnx::encode(&trained(1).0).unwrap());
}

#[test]
fn an_activation_without_a_gradient_is_refused_with_the_node() {
    let mut model = classifier();
    let lstm = model.nodes_of(model.main).find(|&node| model.node(node).op == "LSTM").unwrap();
    let names = ["Sigmoid", "Affine", "Tanh"].repeat(2).into_iter().map(|name| name.into()).collect();
    model.set_attr(lstm, "activations", onnxshrink::ir::Attr::Strs(names));
    let (loss, x) = (loss(&mut model), model.graph(model.main).inputs[0]);
    model.set_type(x, Some(onnxshrink::ir::Type::tensor(DType::F32, [2, 3, 2].map(onnxshrink::ir::Size::Fixed))));
    let weights: Vec<ValueId> = weights(&model, &GlobSet::empty()).iter().map(|weight| weight.value).collect();
    let error = gradient(&mut model, loss, &weights).unwrap_err().to_string();
    assert_eq!(error, "LSTM of `all` cannot be trained through: no gradient is known of one of its activations");
}
