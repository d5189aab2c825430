//! Quantized models that ONNX Runtime made and ran: `testdata/expected/make.py` wrote both down.
//!
//! `int8_full` has weights of 8 bits and was run on a CPU without VNNI, where products saturate; `int8_reduced` has
//! weights of 7 bits, which never do. `int8_transformer` has floats between its integers, and gives floats.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use npyz::npz::NpzArchive;
use onnxshrink::ir::Tensor;
use onnxshrink::kernels::{Arithmetic, Isa};
use onnxshrink::onnx::read;
use onnxshrink::runtime::{Execution, Runner};

/// The samples and the outputs.
fn expected(name: &str) -> Vec<(Tensor, Vec<f32>)> {
    let path = format!("testdata/expected/{name}.npz");
    let mut archive = NpzArchive::new(BufReader::new(File::open(path).unwrap())).unwrap();
    let mut array = |name: &str| {
        let array = archive.by_name(name).unwrap().unwrap();
        let shape: Vec<usize> = array.shape().iter().map(|&length| length as usize).collect();
        (shape, array.into_vec::<f32>().unwrap())
    };
    let ((x_shape, x), (y_shape, y)) = (array("x"), array("y"));
    let (x_len, y_len) = (x_shape[1..].iter().product::<usize>(), y_shape[1..].iter().product::<usize>());
    let one: Vec<usize> = [1].into_iter().chain(x_shape[1..].iter().copied()).collect();
    let sample = |x: &[f32]| Tensor::from_vec(one.clone(), x.to_vec());
    x.chunks(x_len).map(sample).zip(y.chunks(y_len).map(<[f32]>::to_vec)).collect()
}

fn equal(name: &str, arithmetic: Arithmetic, int8_nodes: usize) {
    let model = read(Path::new(&format!("testdata/expected/{name}.onnx"))).unwrap().model;
    for isa in Isa::available() {
        let execution = Execution { isa: Some(isa), arithmetic, ..Execution::DEFAULT };
        let runner = Runner::with(&model, &model.graph(model.main).outputs, &execution).unwrap();
        assert_eq!(runner.int8_nodes().len(), int8_nodes, "{:?}", runner.int8_nodes());
        for (x, y) in expected(name) {
            let found = runner.run(&[x]).unwrap();
            assert_eq!(*found[0].floats().unwrap(), *y, "{name}, {arithmetic} with {isa}");
        }
    }
}

#[test]
fn seven_bits_give_what_onnx_runtime_gives() {
    equal("int8_reduced", Arithmetic::Exact, 21);
    equal("int8_reduced", Arithmetic::Saturating, 21);
}

#[test]
fn eight_bits_saturate_as_in_onnx_runtime_without_vnni() {
    equal("int8_full", Arithmetic::Saturating, 21);
}

#[test]
fn floats_between_integers_round_as_in_onnx_runtime() {
    equal("int8_transformer", Arithmetic::Exact, 9);
}
