//! Quantization-aware training on a small network with a depthwise convolution, a residual and a Gemm.

use onnxshrink::analysis::FixedSizes;
use onnxshrink::data::{Dataset, synthesize};
use onnxshrink::ir::op::DequantizeLinear;
use onnxshrink::ir::{DType, Model};
use onnxshrink::onnx;
use onnxshrink::pass::{Context, Pipeline, Verify};
use onnxshrink::passes;
use onnxshrink::runtime::Runner;

fn network() -> Model {
    Model::parse(include_str!("../../testdata/passes/quantize/convolutions.onnxtxt")).expect("the case is a model")
}

fn samples(model: &Model) -> Dataset {
    synthesize(model, &FixedSizes::default(), 0, 60, |_| Ok(())).expect("inputs can be made up")
}

fn quantized(options: &str, threads: usize) -> Model {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut model = network();
    pool.install(|| {
        let mut cx = Context { data: Some(samples(&model)), ..Context::default() };
        cx.observers.push(Box::new(Verify));
        let pipeline = format!("quantize(arithmetic=int8,min-elements=16,{options})");
        let pipeline = Pipeline::parse(&pipeline, passes::ALL).unwrap();
        pipeline.run(&mut model, &mut cx).unwrap_or_else(|error| panic!("{error}"));
    });
    model
}

/// The mean squared error of the outputs.
fn error(small: &Model) -> f64 {
    let (original, data) = (network(), samples(&network()));
    let [exact, rounded] = [&original, small].map(|model| Runner::new(model).unwrap());
    let squares = (0..data.len()).flat_map(|index| {
        let sample = data.sample(index);
        let [a, b] = [&exact, &rounded].map(|runner| runner.run(&sample).unwrap()[0].floats().unwrap().into_owned());
        a.into_iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).collect::<Vec<_>>()
    });
    let squares: Vec<f64> = squares.collect();
    squares.iter().sum::<f64>() / squares.len() as f64
}

/// Every node with its operator, and the shape and type of each constant it reads.
fn structure(model: &Model) -> Vec<String> {
    let constant =
        |value: &Option<_>| model.constant((*value)?).map(|tensor| (tensor.dtype(), tensor.shape().to_vec()));
    let nodes = model.nodes_of(model.main).map(|node| {
        let node = model.node(node);
        format!("{} {:?}", node.op, node.inputs.iter().map(constant).collect::<Vec<_>>())
    });
    nodes.collect()
}

const TRAINED: &str = "mode=qat,epochs=30,batch-size=8,learning-rate=0.003,validation=0";

#[test]
fn training_makes_up_for_what_rounding_loses() {
    for bits in ["i8", "i4"] {
        for target in ["onnxruntime", "generic"] {
            let options = format!("weights={bits},target={target}");
            let rounded = quantized(&format!("mode=static,rounding=nearest,bias-correction=none,{options}"), 2);
            let trained = quantized(&format!("{TRAINED},{options}"), 2);
            assert_eq!(structure(&trained), structure(&rounded), "{options}");
            let (before, after) = (error(&rounded), error(&trained));
            // Eight bits lose so little that a single level decides; training is only not to lose much more.
            let most = if bits == "i4" { 0.5 } else { 3.0 };
            assert!(after < most * before, "{options}: {after} for {before}");
        }
    }
}

#[test]
fn weights_of_four_bits_are_stored_as_such() {
    let model = quantized(&format!("{TRAINED},weights=i4"), 2);
    let weights: Vec<DType> = model
        .nodes_of(model.main)
        .filter_map(|node| model.view::<DequantizeLinear>(node))
        .filter_map(|decoder| model.constant(decoder.x).map(|levels| levels.dtype()))
        .collect();
    assert!(weights.iter().filter(|&&dtype| dtype == DType::I4).count() >= 3, "{weights:?}");
    let read = onnx::decode(onnx::encode(&model).unwrap().into(), None).unwrap().model;
    assert_eq!(structure(&read), structure(&model));
}

#[test]
fn the_number_of_threads_makes_no_difference() {
    let bytes = |threads| onnx::encode(&quantized("mode=qat,epochs=2,batch-size=8", threads)).unwrap();
    assert!(bytes(1) == bytes(2), "the models differ");
}
