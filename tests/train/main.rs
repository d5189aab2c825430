//! Training as a whole: whole networks against PyTorch's numbers, and what holds for any run.

#[path = "../onnx/corpus.rs"]
#[allow(dead_code, reason = "other tests need the rest")]
mod corpus;
mod course;
mod cuts;
mod gradual;
mod interrupts;
mod options;
mod qat;
mod recurrent;
mod teachers;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use globset::GlobSet;
use onnxshrink::data::{Dataset, Random};
use onnxshrink::ir::op::{BatchNormalization, Conv, Gemm, ReduceMean, Relu};
use onnxshrink::ir::{DType, Model, Size, Tensor, Type};
use onnxshrink::onnx;
use onnxshrink::pass::{Context, Observer, Pipeline, Verify};
use onnxshrink::passes;
use onnxshrink::runtime::Runner;
use onnxshrink::train::optimizer::Updates;
use onnxshrink::train::weights::{separate, weights};
use onnxshrink::train::{Fit, Goal, Joint, Lessons, Loss, Optimizer, Plan, Target};

/// The zoo; none, and a line that says so, where it is absent.
fn zoo() -> Option<PathBuf> {
    let root = env::var_os("ONNXSHRINK_ZOO").map_or_else(|| PathBuf::from("../shared/zoo"), PathBuf::from);
    if !root.is_dir() {
        eprintln!("no zoo in {} (set ONNXSHRINK_ZOO): nothing was tested", root.display());
        return None;
    }
    Some(root)
}

fn run(model: &mut Model, pipeline: &str, cx: &mut Context) {
    Pipeline::parse(pipeline, passes::ALL).unwrap().run(model, cx).unwrap_or_else(|error| panic!("{error}"));
}

/// The losses of the first steps of SGD with a rate of 1e-3 on the mean square of the outputs.
fn losses(file: &Path, steps: usize) -> Vec<f64> {
    let mut model = onnx::read(file).unwrap_or_else(|error| panic!("{error}")).model;
    run(&mut model, "upgrade-opset", &mut Context::default());
    separate(&mut model);
    let data = Dataset::open(&file.with_extension("x.npy"), &model).unwrap_or_else(|error| panic!("{error}"));
    let trained = weights(&model, &GlobSet::empty());
    let lessons = Lessons {
        inputs: vec![data.sample(0)],
        targets: vec![Target::default()],
        floor: vec![],
        rows: data.sample(0)[0].shape()[0],
    };
    let outputs = model.graph(model.main).outputs.iter();
    let goals: Vec<Goal> = outputs.map(|&value| Goal { value, loss: Loss::MeanSquare, weight: 1.0 }).collect();
    let plan = Plan {
        model: &model,
        weights: &trained,
        goals: &goals,
        batch_statistics: false,
        sample: &lessons.inputs[0],
        samples: 1,
    };
    let joint = Joint::new(&plan).unwrap_or_else(|error| panic!("{error}"));
    let mut fit = Fit::new(joint, &plan, &lessons).unwrap();
    let mut updates = Updates::new(Optimizer::Sgd { momentum: 0.0, nesterov: false }, 0.0, trained.len());
    (0..steps).map(|_| fit.step(&[0], &mut updates, 1e-3, None).unwrap().0).collect()
}

/// The numbers are those that PyTorch 2.15 printed for the same networks, weights and inputs.
#[test]
fn the_first_losses_of_whole_networks_are_those_of_pytorch() {
    let Some(zoo) = zoo() else { return };
    for (name, expected) in [
        ("resnet20", [0.012931, 0.012916, 0.012900]),
        ("mobile_blocks", [0.003543, 0.003538, 0.003533]),
        ("transformer", [0.011324, 0.011291, 0.011259]),
    ] {
        let found = losses(&zoo.join(format!("train/{name}.onnx")), 3);
        eprintln!("{name}: {found:.6?}");
        let near = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= 1e-5);
        assert!(near, "{name}: {found:.6?}, but PyTorch has {expected:?}");
    }
}

/// A small network for the images of the original, with random weights.
fn student() -> Model {
    student_with(false)
}

/// The same, with a normalization behind each convolution, of which all share their ones and zeros.
fn student_with(normalizations: bool) -> Model {
    let mut random = Random::new(5, 0);
    let mut model = Model::new("student");
    model.opsets.0.insert(String::new(), 18);
    model.header.ir_version = 8;
    let main = model.main;
    let batch = Size::Symbol("batch".into());
    let x = model.add_input(main, "input");
    let image = [batch.clone(), Size::Fixed(1), Size::Fixed(28), Size::Fixed(28)];
    model.set_type(x, Some(Type::tensor(DType::F32, image)));
    let mut weight = |model: &mut Model, name: &str, shape: &[usize], scale: f32| {
        let elements = (0..shape.iter().product()).map(|_| random.normal() * scale).collect();
        model.add_constant(model.main, name, Tensor::from_vec::<f32>(shape.to_vec(), elements))
    };
    let mut value = x;
    for (layer, [inputs, outputs]) in [[1, 6], [6, 12]].into_iter().enumerate() {
        let w = weight(&mut model, &format!("w{layer}"), &[outputs, inputs, 3, 3], 0.3);
        let b = weight(&mut model, &format!("b{layer}"), &[outputs], 0.0);
        let conv = Conv {
            x: value,
            w,
            b: Some(b),
            auto_pad: "NOTSET".into(),
            dilations: vec![],
            group: 1,
            kernel_shape: vec![],
            pads: vec![1; 4],
            strides: vec![2, 2],
        };
        let mut conv = model.append(main, "conv", conv);
        if normalizations {
            let [ones, zeros] = [1f32, 0.0].map(|x| {
                model.add_constant(main, &format!("{x} of {layer}"), Tensor::from_vec(vec![outputs], vec![x; outputs]))
            });
            let (epsilon, momentum, training_mode) = (1e-5, 0.9, false);
            let (scale, bias, mean, var) = (ones, zeros, zeros, ones);
            let norm = BatchNormalization { x: conv, scale, bias, mean, var, epsilon, momentum, training_mode };
            conv = model.append(main, "norm", norm);
        }
        value = model.append(main, "relu", Relu { x: conv });
    }
    let axes = model.add_constant(main, "axes", Tensor::from_ints(&[2, 3]));
    let mean = ReduceMean { x: value, axes: Some(axes), keepdims: 0, noop_with_empty_axes: 0 };
    let mean = model.append(main, "mean", mean);
    let w = weight(&mut model, "head", &[10, 12], 0.3);
    let b = weight(&mut model, "head_bias", &[10], 0.0);
    let head = Gemm { a: mean, b: w, c: Some(b), alpha: 1.0, beta: 1.0, transA: false, transB: true };
    let logits = model.append(main, "logits", head);
    model.set_type(logits, Some(Type::tensor(DType::F32, [batch, Size::Fixed(10)])));
    model.add_output(main, logits);
    model
}

struct Distilled {
    bytes: Vec<u8>,
    /// What was told of each epoch.
    log: Vec<serde_json::Value>,
    notes: Vec<String>,
    training_graph: Option<Model>,
}

/// `student` after `distill` with these options, in a pool of so many threads, on 64 digits.
fn distilled(student: &Model, options: &str, threads: usize, prepare: impl FnOnce(&mut Context) + Send) -> Distilled {
    trained(student, &format!("distill({options})"), threads, prepare)
}

/// The same of a pipeline whose last pass trains.
fn trained(student: &Model, pipeline: &str, threads: usize, prepare: impl FnOnce(&mut Context) + Send) -> Distilled {
    let original = onnx::read(Path::new("testdata/models/mnist_resdw.onnx")).unwrap().model;
    let data = Dataset::open(Path::new("testdata/models/mnist_resdw.npz"), &original).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut model = student.clone();
        let mut cx = Context { seed: 3, data: Some(data), original: Some(Arc::new(original)), ..Context::default() };
        cx.observers.push(Box::new(Verify));
        prepare(&mut cx);
        run(&mut model, pipeline, &mut cx);
        let report = cx.reports.last().expect("passes ran");
        let (log, notes) = (report.log.clone(), report.notes.clone());
        Distilled { bytes: onnx::encode(&model).unwrap(), log, notes, training_graph: cx.training_graph.take() }
    })
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let student = student();
    let one = distilled(&student, "epochs=2,batch-size=8", 1, |_| {}).bytes;
    let two = distilled(&student, "epochs=2,batch-size=8", 2, |_| {}).bytes;
    assert!(one == two, "the models differ");
    assert!(one != onnx::encode(&student).unwrap(), "nothing was learned");
}

/// Ends the pass after so many steps.
struct Interrupt {
    finish: Arc<AtomicBool>,
    steps: usize,
}

impl Observer for Interrupt {
    fn progress(&mut self, done: usize, _: usize, _: &str) {
        self.finish.store(done >= self.steps, Ordering::Relaxed);
    }
}

#[test]
fn training_goes_on_from_a_checkpoint_as_if_it_had_never_ended() {
    let (student, folder) = (student(), tempfile::tempdir().unwrap());
    let options = "epochs=4,batch-size=4,validation=0.2";
    let whole = distilled(&student, options, 1, |_| {});
    let steps = 4 * whole_steps(&whole);
    let keep = |cx: &mut Context| cx.checkpoints = Some(folder.path().into());
    let part = distilled(&student, options, 1, |cx| {
        keep(cx);
        cx.observers.push(Box::new(Interrupt { finish: cx.finish.clone(), steps: steps / 2 + 1 }));
    });
    assert_eq!(part.log.len(), 2, "it did not end early");
    let resumed = distilled(&student, options, 2, keep);
    assert_eq!(resumed.log, whole.log);
    assert!(resumed.bytes == whole.bytes, "the models differ");
}

/// Steps of an epoch.
fn whole_steps(of: &Distilled) -> usize {
    assert_eq!(of.log.len(), 4);
    let data = Dataset::open(
        Path::new("testdata/models/mnist_resdw.npz"),
        &onnx::read(Path::new("testdata/models/mnist_resdw.onnx")).unwrap().model,
    );
    let samples = data.unwrap().len();
    (samples - (samples as f64 * 0.2).round() as usize).div_ceil(4)
}

#[test]
fn a_student_learns_from_its_teacher() {
    let options = "epochs=30,batch-size=8,learning-rate=0.01,validation=0";
    let log = distilled(&student(), options, 2, |_| {}).log;
    let losses: Vec<f64> = log.iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 30);
    assert!(losses[29] > 0.0 && losses[29] < 0.85 * losses[0], "{losses:?}");
}

#[test]
fn normalizations_learn_the_statistics_of_the_samples() {
    let student = student_with(true);
    let options = "epochs=6,batch-size=16,learning-rate=0.01,validation=0,normalization=batch";
    let trained = distilled(&student, options, 2, |_| {});
    let losses: Vec<f64> = trained.log.iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect();
    assert!(losses[5] < 0.96 * losses[0], "{losses:?}");
    let model = onnx::decode(trained.bytes.into(), None).unwrap().model;
    model.verify().unwrap();
    let norms: Vec<BatchNormalization> = model.nodes_of(model.main).filter_map(|node| model.view(node)).collect();
    assert_eq!(norms.len(), 2);
    for BatchNormalization { scale, bias, mean, var, training_mode, .. } in norms {
        let moved = |value, start: f32| {
            let elements = model.constant(value).unwrap().floats().unwrap().into_owned();
            elements.iter().filter(|&&x| (x - start).abs() > 1e-3).count() * 2 > elements.len()
        };
        assert!(moved(scale, 1.0) && moved(bias, 0.0) && moved(mean, 0.0) && moved(var, 1.0));
        assert!(!training_mode);
    }
}

#[test]
fn frozen_weights_stay_as_they_are() {
    let student = student();
    let after = distilled(&student, "epochs=1,freeze=[\"w*\",\"b*\"]", 1, |_| {});
    let after = onnx::decode(after.bytes.into(), None).unwrap().model;
    let weight = |model: &Model, name: &str| {
        let (value, _) = model.all_values().find(|(_, value)| value.name == name).unwrap();
        model.constant(value).unwrap().clone()
    };
    for (name, stays) in [("w0", true), ("b1", true), ("head", false), ("head_bias", false)] {
        assert_eq!(weight(&student, name).same_data(&weight(&after, name)), stays, "{name}");
    }
}

#[test]
fn the_command_line_teaches_a_student_and_reports_every_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_string();
    std::fs::write(path("student.onnx"), onnx::encode(&student()).unwrap()).unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxshrink"));
        command.args(["testdata/models/mnist_resdw.onnx", "-o", &path("small.onnx"), "--report", &path("report.json")]);
        command.args(more).output().expect("the program starts")
    };
    let student = ["--student", &path("student.onnx"), "--data", "testdata/models/mnist_resdw.npz"];
    let done = run(&[&student[..], &["--passes", "distill(epochs=2),cleanup"]].concat());
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(path("report.json")).unwrap()).unwrap();
    let passes = report["passes"].as_array().unwrap();
    let distill = passes.iter().find(|pass| pass["pass"] == "distill(epochs=2)").expect("it ran");
    assert_eq!(distill["log"].as_array().unwrap().len(), 2);
    let small = onnx::read(Path::new(&path("small.onnx"))).unwrap().model;
    assert_eq!(small.nodes_of(small.main).count(), 6);

    let refused = run(&["--student", &path("student.onnx")]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("`distill` needs samples"), "{refused:?}");
}

/// The graph as a file, whose gradient is compared with differences of its own loss.
#[test]
fn the_graph_of_a_step_is_a_model_that_gives_its_gradients() {
    let student = student();
    let of = distilled(&student, "epochs=1,batch-size=4", 1, |cx| cx.wants_training_graph = true);
    let bytes = onnx::encode(&of.training_graph.unwrap()).unwrap();
    let graph = onnx::decode(bytes.into(), None).unwrap().model;
    graph.verify().unwrap();
    let names = |values: &[onnxshrink::ir::ValueId]| -> Vec<String> {
        values.iter().map(|&value| graph.value(value).name.clone()).collect()
    };
    let (inputs, outputs) = (names(&graph.graph(graph.main).inputs), names(&graph.graph(graph.main).outputs));
    assert_eq!(outputs[1], "loss");
    let place = outputs.iter().position(|name| name == "gradient.head").expect("every weight has a gradient");
    let mut random = Random::new(1, 0);
    let mut values: Vec<Tensor> = Vec::new();
    for (&input, name) in graph.graph(graph.main).inputs.iter().zip(&inputs) {
        let dims = graph.value(input).ty.as_ref().unwrap().as_tensor().unwrap().shape.clone().unwrap();
        let shape: Vec<usize> = dims
            .iter()
            .map(|dim| matches!(dim.size, Size::Fixed(_)).then_some(dim))
            .map(|dim| {
                let Some(Size::Fixed(n)) = dim.map(|dim| dim.size.clone()) else {
                    panic!("`{name}` has an open shape")
                };
                n as usize
            })
            .collect();
        let elements = (0..shape.iter().product::<usize>()).map(|_| random.normal().abs() * 0.3).collect::<Vec<f32>>();
        values.push(Tensor::from_vec(shape, elements));
    }
    let runner = Runner::new(&graph).unwrap();
    let results = runner.run(&values).unwrap();
    let gradient = results[place].floats().unwrap().into_owned();
    let head = inputs.iter().position(|name| name == "head").unwrap();
    for element in [0, 17, 63] {
        let loss = |offset: f32| {
            let mut moved = values.clone();
            let mut elements = moved[head].floats().unwrap().into_owned();
            elements[element] += offset;
            moved[head] = Tensor::from_vec(moved[head].shape().to_vec(), elements);
            f64::from(runner.run(&moved).unwrap()[1].as_float().unwrap())
        };
        let expected = (loss(0.02) - loss(-0.02)) / 0.04;
        assert!((expected - f64::from(gradient[element])).abs() < 2e-3, "{} for {expected}", gradient[element]);
    }
}

/// Why a pipeline is refused before anything runs.
fn refusal(pipeline: &str) -> Option<String> {
    Pipeline::parse(pipeline, passes::ALL).err().map(|error| error.to_string())
}

/// Each of these pipelines is refused, and is told why.
fn assert_refused(pipelines: &[(&str, &str)]) {
    for (pipeline, why) in pipelines {
        let error = refusal(pipeline).unwrap_or_else(|| panic!("{pipeline} is not refused"));
        assert!(error.contains(why), "{pipeline}: {error}");
    }
}
