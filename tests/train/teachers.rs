//! What is learned from a teacher does not depend on the form it is written in.

use std::path::Path;
use std::sync::Arc;

use onnxshrink::data::{Dataset, Random, write_npz};
use onnxshrink::ir::{Model, Tensor};
use onnxshrink::pass::Context;

use super::run;

const SOFTMAX: &str = "y = Softmax <axis = -1> (scores)";

/// Three probabilities of four features; `functions` follow the graph.
fn classifier(opsets: &str, weights: [f32; 12], probabilities: &str, functions: &str) -> Model {
    let weights = weights.map(|x| x.to_string()).join(", ");
    let text = format!(
        "<ir_version: 10, opset_import: [{opsets}]>
        net (float[N, 4] x) => (float[N, 3] y) <float[3, 4] w = {{{weights}}}> {{
            scores = Gemm <transB = 1> (x, w)
            {probabilities}
        }}
        {functions}"
    );
    Model::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn samples(folder: &Path, model: &Model) -> Dataset {
    let mut random = Random::new(5, 0);
    let features = Tensor::from_vec(vec![32, 4], (0..128).map(|_| random.normal()).collect());
    let file = folder.join("features.npz");
    write_npz(&file, &[("x".into(), features)]).unwrap();
    Dataset::open(&file, model).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_teacher_of_an_older_opset_or_of_functions_teaches_what_one_of_today_does() {
    let mut random = Random::new(6, 0);
    let [ours, theirs] = [(); 2].map(|()| [(); 12].map(|()| random.normal()));
    let student = classifier("\"\": 21", ours, SOFTMAX, "");
    let folder = tempfile::tempdir().unwrap();
    let data = samples(folder.path(), &student);
    let function = format!(
        "<domain: \"house\", opset_import: [\"\": 21]>
        Probabilities (scores) => (y) {{ {SOFTMAX} }}"
    );
    let teachers = [
        classifier("\"\": 21", theirs, SOFTMAX, ""),
        classifier("\"\": 13", theirs, SOFTMAX, ""),
        // Before opset 13 the axis is counted from the front, and all behind it are one.
        classifier("\"\": 11", theirs, "y = Softmax (scores)", ""),
        classifier("\"\": 21, \"house\": 1", theirs, "y = house.Probabilities (scores)", &function),
    ];
    let losses = |teacher: Option<Model>, original: Model| -> Vec<f64> {
        let mut model = student.clone();
        let (teacher, original) = (teacher.map(Arc::new), Some(Arc::new(original)));
        let mut cx = Context { data: Some(data.clone()), original, teacher, ..Context::default() };
        run(&mut model, "distill(epochs=40,batch-size=8,learning-rate=0.05,validation=0)", &mut cx);
        cx.reports[0].log.iter().map(|epoch| epoch["loss"].as_f64().unwrap()).collect()
    };
    let wanted = losses(None, teachers[0].clone());
    assert!(wanted[39] < 0.05 * wanted[0], "{wanted:?}");
    for teacher in teachers {
        let name = format!("{:?}, {} functions", teacher.opsets, teacher.functions.len());
        assert_eq!(losses(Some(teacher.clone()), student.clone()), wanted, "{name} as a teacher");
        assert_eq!(losses(None, teacher), wanted, "{name} as the original");
    }
}
