use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::analysis::FixedSizes;
use crate::ir::op::{Add, Identity, Mul, ReduceMean, Sub};
use crate::ir::{DType, Function, Operation, OpsetImports, Size, Tensor, Type};

fn model() -> Model {
    let mut model = Model::new("test");
    model.opsets.0.insert(String::new(), 18);
    model
}

/// y = x·factor, for x of `[n, classes]`.
fn scale(factor: &[f32]) -> Model {
    let mut model = model();
    let x = model.add_input(model.main, "x");
    let shape = [Size::Symbol("n".into()), Size::Fixed(factor.len() as i64)];
    model.set_type(x, Some(Type::tensor(DType::F32, shape)));
    let factor = model.add_constant(model.main, "factor", Tensor::from_vec(vec![factor.len()], factor.to_vec()));
    let y = model.append(model.main, "y", Mul { a: x, b: factor });
    model.add_output(model.main, y);
    model
}

/// An .npz file with rows `x` and labels.
fn data(model: &Model, x: &[[f32; 2]], labels: &[(&str, Vec<i64>)]) -> Dataset {
    use npyz::WriterBuilder;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.npz");
    let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
    let shape = [x.len() as u64, 2];
    let mut writer = npz.array("x", Default::default()).unwrap().default_dtype().shape(&shape).begin_nd().unwrap();
    writer.extend(x.iter().flatten().copied()).unwrap();
    writer.finish().unwrap();
    for (name, labels) in labels {
        let shape = [x.len() as u64, (labels.len() / x.len()) as u64];
        let writer = npz.array::<i64>(name, Default::default()).unwrap().default_dtype();
        let mut writer = writer.shape(&shape).begin_nd().unwrap();
        writer.extend(labels.iter().copied()).unwrap();
        writer.finish().unwrap();
    }
    drop(npz);
    Dataset::open(&path, model).unwrap()
}

fn agreement(original: &Model, small: &Model, data: &Dataset) -> Agreement {
    match check(original, small, Inputs::Data(data), Options::default()).unwrap() {
        Check::Done(agreement) => *agreement,
        other => panic!("{other:?}"),
    }
}

const ROWS: [[f32; 2]; 3] = [[1.0, 0.0], [3.0, 4.0], [1.0, 2.0]];

#[test]
fn a_model_agrees_with_itself_in_everything() {
    let model = scale(&[1.0, 1.0]);
    let found = agreement(&model, &model, &data(&model, &ROWS, &[]));
    let Closeness::Floats { cosine, cosine_min, max_error, agreement, identical, .. } = found.outputs[0].closeness
    else {
        panic!("{found:?}")
    };
    assert!(identical && max_error == 0.0 && agreement == Some(1.0));
    assert!((cosine - 1.0).abs() < 1e-12 && (cosine_min - 1.0).abs() < 1e-12);
}

#[test]
fn closeness_is_what_its_definitions_say() {
    let original = scale(&[1.0, 1.0]);
    let found = agreement(&original, &scale(&[1.0, 0.5]), &data(&original, &ROWS, &[]));
    let Closeness::Floats { cosine, cosine_min, sqnr_db, max_error, agreement, identical } = found.outputs[0].closeness
    else {
        panic!("{found:?}")
    };
    // (1, 0), (3, 4) and (1, 2) against (1, 0), (3, 2) and (1, 1).
    let cosines = [1.0, 17.0 / (5.0 * 13f64.sqrt()), 3.0 / 10f64.sqrt()];
    assert!((cosine - cosines.iter().sum::<f64>() / 3.0).abs() < 1e-12);
    assert!((cosine_min - cosines[1]).abs() < 1e-12);
    assert!((sqnr_db - 10.0 * (31.0f64 / 5.0).log10()).abs() < 1e-12);
    assert_eq!((max_error, identical), (2.0 / 4.0, false));
    assert_eq!(agreement, Some(1.0 / 3.0));
}

/// Enough rows for several of them to be asked in one run.
fn many_rows() -> Vec<[f32; 2]> {
    (0..70).map(|i| [i as f32, 1.0]).collect()
}

#[test]
fn samples_that_are_asked_together_are_compared_one_by_one() {
    let (original, small) = (scale(&[1.0, 1.0]), scale(&[1.0, 0.5]));
    let data = data(&original, &many_rows(), &[]);
    assert!(samples_together(&original, &data) > 1);
    let done = AtomicUsize::new(0);
    let progress = |_| {
        done.fetch_add(1, Ordering::Relaxed);
    };
    let options = Options { progress: &progress, ..Options::default() };
    let Check::Done(found) = check(&original, &small, Inputs::Data(&data), options).unwrap() else { panic!() };
    let Closeness::Floats { cosine, cosine_min, .. } = found.outputs[0].closeness else { panic!("{found:?}") };
    // (i, 1) against (i, 1/2)
    let cosines = (0..70).map(|i| f64::from(i * i)).map(|ii| (ii + 0.5) / ((ii + 1.0) * (ii + 0.25)).sqrt());
    assert!((cosine - cosines.sum::<f64>() / 70.0).abs() < 1e-9, "{cosine}");
    // At i = 1; at 0 both are parallel.
    assert!((cosine_min - 1.5 / 2.5f64.sqrt()).abs() < 1e-9, "{cosine_min}");
    assert_eq!(done.into_inner(), 70);
}

#[test]
fn a_model_that_mixes_samples_is_asked_of_each_alone() {
    let mut mixing = model();
    let x = mixing.add_input(mixing.main, "x");
    mixing.set_type(x, Some(Type::tensor(DType::F32, [Size::Symbol("n".into()), Size::Fixed(2)])));
    let batch = mixing.add_constant(mixing.main, "batch", Tensor::from_ints(&[0]));
    let mean =
        mixing.append(mixing.main, "mean", ReduceMean { x, axes: Some(batch), keepdims: 1, noop_with_empty_axes: 0 });
    let y = mixing.append(mixing.main, "y", Sub { a: x, b: mean });
    mixing.add_output(mixing.main, y);
    let found = agreement(&mixing, &scale(&[0.0, 0.0]), &data(&mixing, &many_rows(), &[]));
    let Closeness::Floats { identical, .. } = found.outputs[0].closeness else { panic!("{found:?}") };
    assert!(identical, "{found:?}");
}

#[test]
fn labels_are_judged_in_both_models() {
    let original = scale(&[1.0, 1.0]);
    let labels = [("y", vec![0, 1, 1])];
    let found = agreement(&original, &scale(&[1.0, 0.5]), &data(&original, &ROWS, &labels)).accuracy;
    let [Accuracy { metric: Metric::Top1, original: a, small: b, drop, interval: Some(interval), samples: 3 }] =
        found[..]
    else {
        panic!("{found:?}")
    };
    assert_eq!((a, b, drop), (1.0, 1.0 / 3.0, 1.0 - 1.0 / 3.0));
    // p₁₂ = 3/5, p₂₁ = 1/5: 0.4 ± 1.96·√((0.8 - 0.16)/5)
    assert!((interval.low - (0.4 - 0.701_224)).abs() < 1e-5 && interval.high == 1.0, "{interval:?}");
}

#[test]
fn any_accepted_class_is_right_and_comes_before_y() {
    let model = scale(&[1.0, 1.0]);
    let labels = [("y", vec![1, 0, 0]), ("y_any", vec![1, -1, 0, 1, 1, 5])];
    let found = agreement(&model, &model, &data(&model, &ROWS, &labels)).accuracy;
    assert_eq!((found[0].metric, found[0].original), (Metric::Top1, 2.0 / 3.0));
}

#[test]
fn without_a_differing_pair_the_interval_still_has_a_width() {
    let interval = Interval::of_drop(&[(1.0, 1.0); 98]).unwrap();
    assert!((interval.high - 0.027_719).abs() < 1e-5 && interval.low == -interval.high, "{interval:?}");
    assert_eq!(Interval::of_drop(&[(1.0, 1.0)]), None);
}

#[test]
fn a_value_that_is_finite_in_one_model_only_is_the_worst() {
    let original = scale(&[1.0, 1.0]);
    let found = agreement(&original, &scale(&[1.0, f32::NAN]), &data(&original, &ROWS, &[]));
    let Closeness::Floats { cosine, max_error, sqnr_db, identical, .. } = found.outputs[0].closeness else { panic!() };
    assert_eq!((cosine, max_error, sqnr_db, identical), (0.0, f64::INFINITY, f64::NEG_INFINITY, false));
}

#[test]
fn what_does_not_run_is_no_error() {
    let original = scale(&[1.0, 1.0]);
    let mut odd = model();
    let x = odd.add_input(odd.main, "x");
    odd.set_type(x, Some(Type::tensor(DType::F32, [Size::Symbol("n".into()), Size::Fixed(2)])));
    let y = odd.append(odd.main, "y", Operation { op: "Odd".into(), inputs: vec![Some(x)], ..Operation::default() });
    odd.add_output(odd.main, y);
    let data = data(&original, &ROWS, &[]);
    let run = |a, b| check(a, b, Inputs::Data(&data), Options::default()).unwrap();
    assert!(matches!(run(&odd, &original), Check::NotChecked { reason } if reason.contains("Odd `y`")));
    assert!(matches!(run(&original, &odd), Check::Broken { reason } if reason.contains("Odd `y`")));
    let wide = agreement(&original, &original, &data);
    assert_eq!(wide.warnings, [""; 0]);
}

#[test]
fn random_inputs_are_the_same_for_both() {
    let model = scale(&[2.0, 3.0]);
    let inputs = Inputs::Random { sizes: &FixedSizes::default(), seed: 5, count: 4 };
    let Check::Done(found) =
        check(&model, &model, inputs, Options { latency: Some(Duration::from_millis(50)), ..Options::default() })
            .unwrap()
    else {
        panic!()
    };
    assert_eq!(found.inputs, Evidence::Random { seed: 5, samples: 4 });
    assert!(found.outputs[0].closeness.identical() && found.latency.is_some());
}

#[test]
fn models_with_other_inputs_or_outputs_are_not_compared() {
    let original = scale(&[1.0, 1.0]);
    let mut other = scale(&[1.0, 1.0]);
    let extra = other.add_input(other.main, "extra");
    other.set_type(extra, Some(Type::tensor(DType::F32, [])));
    let mut more = scale(&[1.0, 1.0]);
    let y = more.graph(more.main).outputs[0];
    let z = more.append(more.main, "z", Identity { x: y });
    more.add_output(more.main, z);
    let data = data(&original, &ROWS, &[]);
    let fails = |small| check(&original, small, Inputs::Data(&data), Options::default()).unwrap_err().to_string();
    assert_eq!(fails(&other), "the models do not take the same inputs: `x` and `x`, `extra`");
    assert_eq!(fails(&more), "the models do not give the same outputs: `y` and `y`, `z`");
}

#[test]
fn best_paths_become_text() {
    let mut model = model();
    model.header.notes.metadata.push(("character".into(), "a\nb".into()));
    let charset = ctc::Charset::of(&model).unwrap();
    let path = |classes: &[usize]| {
        let scores: Vec<f32> =
            classes.iter().flat_map(|&best| (0..4).map(move |c| f32::from(u8::from(c == best)))).collect();
        charset.decode(&scores, 4)
    };
    assert_eq!(path(&[3, 1, 1, 0, 1, 3, 2, 2, 3]), "aa b");
    assert_eq!(path(&[0, 0]), "");
}

#[test]
fn edits_are_counted_as_levenshtein_did() {
    for (a, b, distance) in [("kitten", "sitting", 3), ("", "añb", 3), ("abc", "", 3), ("same", "same", 0)] {
        assert_eq!(ctc::edit_distance(a, b), distance, "{a} {b}");
    }
}

#[test]
fn nodes_are_counted_once_functions_are_inlined() {
    let mut model = scale(&[1.0, 1.0]);
    let body = model.add_graph("twice");
    let x = model.add_input(body, "x");
    let y = model.append(body, "y", Add { a: x, b: x });
    let z = model.append(body, "z", Add { a: y, b: x });
    model.add_output(body, z);
    let (domain, name) = (String::from("mine"), String::from("Twice"));
    model.add_function(Function {
        domain: domain.clone(),
        name: name.clone(),
        overload: String::new(),
        body,
        opsets: OpsetImports::default(),
        required_attrs: vec![],
        default_attrs: Default::default(),
    });
    let y = model.graph(model.main).outputs[0];
    let called = model.append(
        model.main,
        "called",
        Operation { domain, op: name, inputs: vec![Some(y)], ..Operation::default() },
    );
    model.add_output(model.main, called);
    let constant = Operation { op: "Constant".into(), ..Operation::default() };
    model.append(model.main, "constant", constant);
    assert_eq!(node_count(&model), 1 + 2);
}
