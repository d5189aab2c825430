//! Golden files: what the cases of `testdata/int8` are run as. `INSTA_UPDATE=always cargo test --test int8` writes them.

use std::fs;
use std::path::PathBuf;

use onnxshrink::ir::text::PrintOptions;
use onnxshrink::ir::{DType, Dim, Model, Size, Tensor};
use onnxshrink::kernels::{Arithmetic, Isa};
use onnxshrink::runtime::{Execution, Runner, in_integers};

fn cases() -> Vec<(PathBuf, Model)> {
    let mut files: Vec<PathBuf> = fs::read_dir("testdata/int8").unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnxtxt"));
    files.sort();
    assert!(!files.is_empty());
    let read = |path: PathBuf| {
        let model =
            Model::parse(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        model.verify().unwrap();
        (path, model)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn quantized_models_are_run_as_agreed() {
    for (path, model) in cases() {
        let lowered = in_integers(&model, &Execution::DEFAULT).unwrap_or_else(|| panic!("{}", path.display()));
        let text = lowered.print(&PrintOptions::whole()).text;
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(path.canonicalize().unwrap().parent().unwrap());
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let name = path.file_stem().unwrap().to_string_lossy();
        settings.bind(|| insta::assert_snapshot!(name.as_ref(), text));
    }
}

/// Elements that follow no pattern.
fn noise(seed: &mut u32) -> u32 {
    *seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
    *seed >> 16
}

fn inputs(model: &Model, seed: &mut u32) -> Vec<Tensor> {
    let main = model.graph(model.main);
    let made = main.inputs.iter().map(|&input| {
        let ty = model.value(input).ty.as_ref().unwrap().as_tensor().unwrap();
        let length = |dim: &Dim| match dim.size {
            Size::Fixed(n) => n as usize,
            _ => 2,
        };
        let shape: Vec<usize> = ty.shape.as_ref().unwrap().iter().map(length).collect();
        let count = shape.iter().product();
        match ty.dtype.unwrap() {
            DType::U8 => Tensor::from_vec(shape, (0..count).map(|_| noise(seed) as u8).collect()),
            DType::I8 => Tensor::from_vec(shape, (0..count).map(|_| noise(seed) as i8).collect()),
            _ => Tensor::from_vec(shape, (0..count).map(|_| noise(seed) as f32 / 8192.0 - 4.0).collect::<Vec<f32>>()),
        }
    });
    made.collect()
}

#[test]
fn cases_give_in_integers_what_they_give_in_reals() {
    for (path, model) in cases() {
        let outputs = model.graph(model.main).outputs.clone();
        let reals = Runner::with(&model, &outputs, &Execution::float()).unwrap();
        for isa in Isa::available() {
            let execution = Execution { isa: Some(isa), ..Execution::DEFAULT };
            let integers = Runner::with(&model, &outputs, &execution).unwrap();
            assert!(!integers.int8_nodes().is_empty());
            let mut seed = 1;
            for _ in 0..20 {
                let inputs = inputs(&model, &mut seed);
                let (found, expected) = (integers.run(&inputs).unwrap(), reals.run(&inputs).unwrap());
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(
                        (found.dtype(), found.shape()),
                        (expected.dtype(), expected.shape()),
                        "{}",
                        path.display()
                    );
                    let numbers = |tensor: &Tensor| match tensor.floats() {
                        Some(floats) => floats.into_owned(),
                        None => tensor.ints().unwrap().iter().map(|&x| x as f32).collect(),
                    };
                    // A step where a sum lies half-way; every scale of the cases is below 0.25, integers step by 1.
                    let step = if found.dtype().is_float() { 0.25 } else { 1.0 };
                    for (found, expected) in numbers(found).iter().zip(numbers(expected)) {
                        assert!((found - expected).abs() <= step, "{} with {isa}: {found} {expected}", path.display());
                    }
                }
            }
        }
    }
}

#[test]
fn floats_between_integers_are_as_exact_as_tracts() {
    let cases =
        cases().into_iter().filter(|(path, _)| path.file_stem().unwrap().to_string_lossy().starts_with("float_"));
    for (path, model) in cases {
        let outputs = model.graph(model.main).outputs.clone();
        let reals = Runner::with(&model, &outputs, &Execution::float()).unwrap();
        let integers = Runner::new(&model).unwrap();
        let mut seed = 7;
        for _ in 0..20 {
            let inputs = inputs(&model, &mut seed);
            let (found, expected) = (integers.run(&inputs).unwrap(), reals.run(&inputs).unwrap());
            for (found, expected) in found.iter().zip(&expected) {
                // Bytes are compared by the test above.
                let (Some(found), Some(expected)) = (found.floats(), expected.floats()) else { continue };
                let range = expected.iter().fold(0f32, |range, x| range.max(x.abs()));
                for (found, expected) in found.iter().zip(expected.iter()) {
                    assert!((found - expected).abs() <= 1e-5 * range, "{}: {found} {expected}", path.display());
                }
            }
        }
    }
}

#[test]
fn heads_on_several_threads_give_what_one_thread_gives() {
    let text = "<ir_version: 10, opset_import: [\"\": 21]>
        heads (float[1,128,4,32] q, float[1,128,4,32] k, float[1,128,4,32] v) => (uint8[1,128,4,32] y)
        <float s = {0.002}, uint8 z = {120}>
        {
           queries = Transpose <perm = [0, 2, 1, 3]> (q)
           keys = Transpose <perm = [0, 2, 3, 1]> (k)
           values = Transpose <perm = [0, 2, 1, 3]> (v)
           scores = MatMul (queries, keys)
           probabilities = Softmax (scores)
           context = MatMul (probabilities, values)
           back = Transpose <perm = [0, 2, 1, 3]> (context)
           y = QuantizeLinear (back, s, z)
        }";
    let model = Model::parse(text).unwrap();
    let runner = Runner::new(&model).unwrap();
    let inputs = inputs(&model, &mut 3);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| runner.run(&inputs).unwrap().remove(0))
    };
    let one = on(1);
    assert!(one.same_data(&on(3)));
    let outputs = model.graph(model.main).outputs.clone();
    let reals = Runner::with(&model, &outputs, &Execution::float()).unwrap().run(&inputs).unwrap().remove(0);
    for (found, expected) in one.ints().unwrap().iter().zip(reals.ints().unwrap()) {
        assert!((found - expected).abs() <= 1, "{found} {expected}");
    }
}

#[test]
fn values_that_are_asked_for_stay_what_they_are() {
    for (path, model) in cases() {
        let main = model.main;
        let asked: Vec<_> = model
            .nodes_of(main)
            .flat_map(|node| model.node(node).outputs.iter().flatten().copied().collect::<Vec<_>>())
            .filter(|&value| model.constant(value).is_none())
            .collect();
        let inputs = inputs(&model, &mut 5);
        let found = Runner::with(&model, &asked, &Execution::DEFAULT).unwrap().run(&inputs).unwrap();
        let expected = Runner::with(&model, &asked, &Execution::float()).unwrap().run(&inputs).unwrap();
        for ((&value, found), expected) in asked.iter().zip(&found).zip(&expected) {
            let name = &model.value(value).name;
            assert_eq!(
                (found.dtype(), found.shape()),
                (expected.dtype(), expected.shape()),
                "{}: {name}",
                path.display()
            );
        }
    }
}

#[test]
fn arithmetic_and_instruction_set_reach_the_operators() {
    let (_, model) = cases().into_iter().find(|(path, _)| path.ends_with("signed.onnxtxt")).unwrap();
    let execution = Execution { isa: Some(Isa::Portable), arithmetic: Arithmetic::Saturating, ..Execution::DEFAULT };
    let lowered = in_integers(&model, &execution).unwrap();
    let text = lowered.print(&PrintOptions::whole()).text;
    assert!(text.contains(r#"isa = "portable""#) && text.contains(r#"arithmetic = "saturating""#), "{text}");
    assert_eq!(in_integers(&model, &Execution::float()).map(|model| model.print(&PrintOptions::whole()).text), None);
}
