//! What the project promises, held on real models with real data: exact passes keep every output, default shrinking
//! keeps accuracy, and both make models as small as they should be.

use std::env;
use std::path::PathBuf;

use onnxshrink::analysis::FixedSizes;
use onnxshrink::data::Dataset;
use onnxshrink::ir::Model;
use onnxshrink::measure::{self, Agreement, Check, Closeness, Inputs, Options};
use onnxshrink::pass::{Context, Pipeline, Verify};
use onnxshrink::{onnx, passes};

/// A model of the zoo, the data it is judged on, and how many samples a test can afford.
struct Case {
    model: &'static str,
    data: &'static str,
    samples: usize,
    /// The most nodes that cleanup may leave.
    nodes: usize,
}

const CASES: &[Case] = &[
    Case { model: "efficientnet_lite0", data: "imagenet_stamps.npz", samples: 2, nodes: 94 },
    Case { model: "minilm_spam", data: "minilm_spam_test.npz", samples: 2, nodes: 305 },
    Case { model: "mnist_resdw", data: "mnist_test.npz", samples: 20, nodes: 33 },
    Case { model: "mnist_resdw_bn", data: "mnist_test.npz", samples: 20, nodes: 33 },
    Case { model: "ppocr_cls", data: "ocr_angle_test.npz", samples: 4, nodes: 222 },
    Case { model: "ppocr_rec", data: "ocr_lines_test.npz", samples: 2, nodes: 383 },
    Case { model: "spam_tf", data: "spam_test.npz", samples: 10, nodes: 82 },
];

/// The zoo; none, and a line that says so, where it is absent.
fn zoo() -> Option<PathBuf> {
    let root = env::var_os("ONNXSHRINK_ZOO").map_or_else(|| PathBuf::from("../shared/zoo"), PathBuf::from);
    if !root.is_dir() {
        eprintln!("no zoo in {} (set ONNXSHRINK_ZOO): nothing was tested", root.display());
        return None;
    }
    Some(root)
}

fn read(file: PathBuf) -> Model {
    onnx::read(&file).unwrap_or_else(|error| panic!("{error}")).model
}

/// `model` after `pipeline`, and after a trip through a file's bytes.
fn rewrite(model: &Model, pipeline: &str) -> (Model, usize) {
    rewrite_with(model, pipeline, None)
}

/// [`rewrite`], where passes learn from `data`.
fn rewrite_with(model: &Model, pipeline: &str, data: Option<Dataset>) -> (Model, usize) {
    let mut model = model.clone();
    let pipeline = Pipeline::parse(&format!("upgrade-opset,{pipeline}"), passes::ALL).unwrap();
    let mut cx = Context { observers: vec![Box::new(Verify)], data, ..Context::default() };
    pipeline.run(&mut model, &mut cx).unwrap();
    let bytes = onnx::encode(&model).unwrap();
    let size = bytes.len();
    (onnx::decode(bytes.into(), None).unwrap().model, size)
}

fn compare(original: &Model, small: &Model, inputs: Inputs) -> Agreement {
    match measure::check(original, small, inputs, Options::default()).unwrap() {
        Check::Done(agreement) => *agreement,
        other => panic!("{other:?}"),
    }
}

/// The lowest mean cosine and the largest error of all outputs.
fn worst(agreement: &Agreement) -> (f64, f64) {
    agreement.outputs.iter().fold((1.0, 0.0), |(lowest, largest), output| match output.closeness {
        Closeness::Floats { cosine, max_error, .. } => (f64::min(lowest, cosine), f64::max(largest, max_error)),
        Closeness::Exactly { identical: true, .. } => (lowest, largest),
        Closeness::Exactly { .. } => (0.0, f64::INFINITY),
    })
}

#[test]
fn cleanup_keeps_every_output_and_leaves_few_nodes() {
    let Some(zoo) = zoo() else { return };
    let mut wrong = Vec::new();
    for case in CASES {
        let original = read(zoo.join("models").join(case.model).with_extension("onnx"));
        let (clean, _) = rewrite(&original, "cleanup");
        let data = Dataset::open(&zoo.join("data").join(case.data), &original).unwrap().first(case.samples);
        let (_, error) = worst(&compare(&original, &clean, Inputs::Data(&data)));
        let nodes = measure::node_count(&clean);
        println!("{}: {nodes} nodes, largest error {error:.1e} of the range", case.model);
        if error > 1e-4 || nodes > case.nodes {
            wrong.push(format!("{}: {nodes} nodes ({} at most), error {error:.1e}", case.model, case.nodes));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cleanup_keeps_what_untrained_networks_and_students_compute() {
    let Some(zoo) = zoo() else { return };
    let models = ["students/bert_student", "students/mnist_student"];
    let networks = ["train/mobile_blocks", "train/resnet20", "train/transformer"];
    for name in models.into_iter().chain(networks) {
        let original = read(zoo.join(name).with_extension("onnx"));
        let (clean, _) = rewrite(&original, "cleanup");
        let inputs = Inputs::Random { sizes: &FixedSizes::default(), seed: 1, count: 1 };
        let (_, error) = worst(&compare(&original, &clean, inputs));
        println!("{name}: {} nodes, largest error {error:.1e} of the range", measure::node_count(&clean));
        assert!(error <= 1e-4, "{name}: {error:.1e}");
    }
}

/// What the default pipeline has to reach.
struct Bar {
    model: &'static str,
    data: &'static str,
    samples: usize,
    megabytes: f64,
    cosine: f64,
}

const BARS: &[Bar] = &[
    Bar { model: "efficientnet_lite0", data: "imagenet_stamps.npz", samples: 8, megabytes: 4.80, cosine: 0.995 },
    Bar { model: "minilm_spam", data: "minilm_spam_test.npz", samples: 6, megabytes: 22.9, cosine: 0.999 },
    Bar { model: "ppocr_rec", data: "ocr_lines_test.npz", samples: 40, megabytes: 2.9, cosine: 0.99 },
];

#[test]
fn default_shrinking_reaches_its_bars() {
    let Some(zoo) = zoo() else { return };
    let mut wrong = Vec::new();
    for bar in BARS {
        let original = read(zoo.join("models").join(bar.model).with_extension("onnx"));
        let (small, bytes) = rewrite(&original, "cleanup,quantize(mode=weights)");
        let data = Dataset::open(&zoo.join("data").join(bar.data), &original).unwrap().first(bar.samples);
        let agreement = compare(&original, &small, Inputs::Data(&data));
        let (cosine, _) = worst(&agreement);
        let megabytes = bytes as f64 / 1e6;
        println!("{}: {megabytes:.3} MB, cosine {cosine:.5}", bar.model);
        if cosine < bar.cosine || megabytes > bar.megabytes {
            wrong.push(format!("{}: {megabytes:.3} MB, cosine {cosine:.5}", bar.model));
        }
        let lost = agreement.accuracy.iter().find(|accuracy| accuracy.drop > 0.01);
        wrong.extend(lost.map(|accuracy| format!("{}: {} drops by {:.4}", bar.model, accuracy.metric, accuracy.drop)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The share of decisions of the first output that are the same.
fn decided_alike(agreement: &Agreement) -> f64 {
    match agreement.outputs[0].closeness {
        Closeness::Floats { agreement: Some(agreement), .. } => agreement,
        _ => 0.0,
    }
}

/// What the static mode has to reach, learning from the first `learned` samples of one file and judged on another.
struct StaticBar {
    model: &'static str,
    data: &'static str,
    learned: usize,
    test_data: &'static str,
    judged: usize,
    kilobytes: f64,
    agreement: f64,
}

const STATIC_BARS: &[StaticBar] = &[
    StaticBar {
        model: "mnist_resdw_bn",
        data: "mnist_train.npz",
        learned: 40,
        test_data: "mnist_test.npz",
        judged: 200,
        kilobytes: 130.0,
        agreement: 0.985,
    },
    StaticBar {
        model: "spam_tf",
        data: "spam_train.npz",
        learned: 20,
        test_data: "spam_test.npz",
        judged: 100,
        kilobytes: 590.0,
        agreement: 0.99,
    },
    StaticBar {
        model: "ppocr_cls",
        data: "ocr_angle_calib.npz",
        learned: 10,
        test_data: "ocr_angle_test.npz",
        judged: 100,
        kilobytes: 190.0,
        agreement: 0.99,
    },
];

#[test]
fn static_quantization_reaches_its_bars() {
    let Some(zoo) = zoo() else { return };
    let mut wrong = Vec::new();
    for bar in STATIC_BARS {
        let original = read(zoo.join("models").join(bar.model).with_extension("onnx"));
        let open = |file: &str, count| Dataset::open(&zoo.join("data").join(file), &original).unwrap().first(count);
        let data = open(bar.data, bar.learned);
        let (small, bytes) = rewrite_with(&original, "cleanup,quantize(mode=static)", Some(data));
        let found = compare(&original, &small, Inputs::Data(&open(bar.test_data, bar.judged)));
        let (kilobytes, agreement) = (bytes as f64 / 1e3, decided_alike(&found));
        println!("{}: {kilobytes:.1} kB, agreement {agreement:.4}", bar.model);
        if kilobytes > bar.kilobytes || agreement < bar.agreement {
            wrong.push(format!("{}: {kilobytes:.1} kB, agreement {agreement:.4}", bar.model));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
