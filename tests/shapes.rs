//! What is inferred of a value is true of what it holds: element type, shape and elements, on the official test vectors
//! and on the zoo.

#[path = "onnx/corpus.rs"]
#[allow(dead_code, reason = "other tests use the other corpora")]
mod corpus;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use onnxshrink::analysis::{FixedSizes, Shapes};
use onnxshrink::ir::{DType, Model, Size, Tensor, Type, ValueId};
use onnxshrink::onnx;
use rten_shape_inference::SymExpr;

#[derive(Default)]
struct Tally {
    outputs: usize,
    typed: usize,
    shaped: usize,
    with_elements: usize,
    wrong: Vec<String>,
    unknown: Vec<String>,
}

impl Tally {
    fn check(&mut self, name: &str, shapes: &Shapes, output: ValueId, actual: &Tensor) {
        self.outputs += 1;
        let mut wrong = |what: String| self.wrong.push(format!("{name}: {what}"));
        if let Some(dtype) = shapes.dtype(output) {
            self.typed += 1;
            if dtype != actual.dtype() {
                wrong(format!("type {dtype} is {}", actual.dtype()));
            }
        }
        let Some(lengths) = shapes.lengths(output) else {
            self.unknown.push(name.into());
            return;
        };
        let agrees = |(length, &actual): (&SymExpr, &usize)| match length {
            SymExpr::Value(n) => usize::try_from(*n) == Ok(actual),
            _ => true,
        };
        if lengths.len() != actual.rank() || !lengths.iter().zip(actual.shape()).all(agrees) {
            wrong(format!("shape {lengths:?} is {:?}", actual.shape()));
        }
        self.shaped += usize::from(shapes.fixed(output).is_some());
        if let (Some(elements), Some(actual)) = (shapes.elements(output), actual.ints()) {
            self.with_elements += 1;
            let agrees = |(element, &actual): (&SymExpr, &i64)| match element {
                SymExpr::Value(n) => i64::from(*n) == actual,
                _ => true,
            };
            if elements.len() != actual.len() || !elements.iter().zip(&actual).all(agrees) {
                wrong(format!("elements {elements:?} are {actual:?}"));
            }
        }
    }
}

fn tensors(folder: &Path, kind: &str) -> Option<Vec<Tensor>> {
    let files = (0..).map(|index| folder.join(format!("{kind}_{index}.pb"))).take_while(|file| file.exists());
    files.map(|file| onnx::decode_tensor(fs::read(file).ok()?.into()).ok()).collect()
}

/// Leaves only the declared types of inputs.
fn forget_declared(model: &mut Model) {
    let declared: Vec<ValueId> = model.all_values().filter(|(_, value)| value.ty.is_some()).map(|(id, _)| id).collect();
    let inputs: Vec<ValueId> = model.all_graphs().flat_map(|graph| model.graph(graph).inputs.clone()).collect();
    declared.into_iter().filter(|id| !inputs.contains(id)).for_each(|id| model.set_type(id, None));
}

#[test]
fn official_outputs_are_as_inferred() {
    let models = corpus::node_tests();
    let (mut by_type, mut by_value) = (Tally::default(), Tally::default());
    for path in &models {
        let name = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let mut model = onnx::read(path).expect("official models are read").model;
        forget_declared(&mut model);
        let outputs = model.graph(model.main).outputs.clone();
        let data = path.with_file_name("test_data_set_0");
        let Some(expected) = tensors(&data, "output").filter(|all| all.len() == outputs.len()) else {
            Shapes::infer(&model);
            continue;
        };
        let shapes = Shapes::infer(&model);
        outputs.iter().zip(&expected).for_each(|(&out, actual)| by_type.check(&name, &shapes, out, actual));

        // The same with known operands, as constants are.
        let inputs = model.graph(model.main).inputs.clone();
        let Some(given) = tensors(&data, "input").filter(|given| given.len() == inputs.len()) else { continue };
        for (input, tensor) in inputs.into_iter().zip(given) {
            let constant = model.add_constant(model.main, "given", tensor);
            model.replace_uses(input, constant);
        }
        let shapes = Shapes::infer(&model);
        let outputs = model.graph(model.main).outputs.clone();
        outputs.iter().zip(&expected).for_each(|(&out, actual)| by_value.check(&name, &shapes, out, actual));
    }
    for (what, tally) in [("by type", &by_type), ("with known operands", &by_value)] {
        let Tally { outputs, typed, shaped, with_elements, wrong, unknown } = tally;
        eprintln!(
            "{what}: of {outputs} outputs {typed} have a type, {shaped} a fixed shape, {with_elements} elements, {} are wrong",
            wrong.len()
        );
        let unexplained = |name: &&String| !WITHOUT_RULE.iter().any(|(beginning, _)| name.starts_with(beginning));
        let unknown: Vec<_> = unknown.iter().filter(unexplained).collect();
        assert!(unknown.is_empty(), "{what}: no rank is known in {unknown:?}");
        assert!(wrong.is_empty(), "{what}: {wrong:#?}");
    }
    assert!(models.is_empty() || by_value.shaped * 100 > by_value.outputs * 94, "few shapes are known");
}

/// Official tests whose outputs have no known rank, by the beginnings of their names.
const WITHOUT_RULE: &[(&str, &str)] = &[
    ("test_adagrad", "operators of training have no rules"),
    ("test_adam", "operators of training have no rules"),
    ("test_momentum", "operators of training have no rules"),
    ("test_nesterov_momentum", "operators of training have no rules"),
    ("test_ai_onnx_ml", "operators of other domains have no rules"),
    ("test_affine_grid", "the expanded function joins branches for images and volumes"),
    ("test_optional_get_element_optional_tensor", "optional values are not followed"),
    ("test_scan_sum", "Scan had an axis of samples around all of its operands before opset 9"),
];

#[test]
fn inferred_types_and_shapes_agree_with_the_declared_ones() {
    let (mut results, mut typed, mut shaped, mut wrong) = (0, 0, 0, Vec::new());
    for path in [corpus::node_tests(), corpus::other_official_tests(), corpus::light_models()].concat() {
        let Ok(loaded) = onnx::read(&path) else { continue };
        let mut model = loaded.model;
        let declared: Vec<_> = model.all_values().map(|(id, value)| (id, value.ty.clone())).collect();
        forget_declared(&mut model);
        let shapes = Shapes::infer(&model);
        for (id, ty) in declared {
            let Some(tensor) = ty.as_ref().and_then(Type::as_tensor) else { continue };
            results += 1;
            let dims = tensor.shape.as_ref().and_then(|dims| {
                dims.iter()
                    .map(|dim| match dim.size {
                        Size::Fixed(n) => usize::try_from(n).ok(),
                        _ => None,
                    })
                    .collect::<Option<Vec<_>>>()
            });
            let dtype = shapes.dtype(id);
            typed += usize::from(dtype.is_some());
            let fixed = shapes.fixed(id);
            shaped += usize::from(fixed.is_some());
            let other_type = dtype.is_some() && dtype != tensor.dtype;
            if other_type || (dims.is_some() && fixed.is_some() && fixed != dims) {
                wrong.push(format!("{}: {dtype:?}{fixed:?}, declared {tensor:?}", path.display()));
            }
        }
    }
    eprintln!("{results} results: {typed} types and {shaped} fixed shapes inferred");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn operators_in_an_old_form_are_known_and_expansions_to_an_open_shape_keep_the_rank() {
    let text = r#"
        <ir_version: 4, opset_import: ["": 11]>
        old (float[1,2,1] x, int64[1] to) => (y, z) {
            y = Squeeze <axes = [0]> (x)
            z = Expand (x, to)
        }"#;
    let model = Model::parse(text).expect("the text is a model");
    let shapes = Shapes::infer(&model);
    let [y, z] = model.graph(model.main).outputs[..] else { panic!("there are two outputs") };
    assert_eq!(shapes.fixed(y), Some(vec![2, 1]));
    assert_eq!((shapes.rank(z), shapes.fixed(z)), (Some(3), None));
}

#[test]
fn nothing_panics_whatever_is_left_out() {
    for path in corpus::node_tests() {
        let mut model = onnx::read(&path).expect("official models are read").model;
        Shapes::infer(&model);
        // Operands go one by one, constants first hold other numbers.
        for node in model.all_nodes().collect::<Vec<_>>() {
            let operands = if model.is_live(node) { model.node(node).inputs.len() } else { 0 };
            for index in 0..operands {
                // What only a removed operand needed is gone, and with a body its nodes.
                if !model.is_live(node) || index >= model.node(node).inputs.len() {
                    break;
                }
                for tensor in strange_tensors() {
                    if index >= model.node(node).inputs.len() {
                        break;
                    }
                    let constant = model.add_constant(model.node(node).graph, "strange", tensor);
                    let before = model.node(node).inputs[index];
                    model.set_input(node, index, Some(constant));
                    Shapes::infer(&model);
                    if !model.is_live(node) {
                        break;
                    }
                    if let Some(before) = before.filter(|&before| model.is_value_live(before)) {
                        model.set_input(node, index, Some(before));
                    }
                }
                if model.is_live(node) {
                    model.set_input(node, index, None);
                    Shapes::infer(&model);
                }
            }
        }
    }
}

fn strange_tensors() -> Vec<Tensor> {
    vec![
        Tensor::scalar(i64::MIN),
        Tensor::from_ints(&[]),
        Tensor::from_ints(&[i64::MAX, -1, i64::MIN, i64::from(i32::MIN)]),
        Tensor::from_ints(&[1 << 31, (1 << 31) - 1, 0]),
        Tensor::from_ints(&[i64::from(i32::MAX) - 1; 5]),
        Tensor::from_vec(vec![0, 3], Vec::<f32>::new()),
    ]
}

/// The zoo in its declared symbolic sizes, and then with each of them fixed: both must tell the same.
#[test]
fn the_zoo_is_known_to_the_last_value() {
    for path in corpus::zoo() {
        let mut model = onnx::read(&path).expect("the zoo is read").model;
        forget_declared(&mut model);
        let symbolic = Shapes::infer(&model);
        let inputs: HashMap<ValueId, Vec<usize>> = (model.graph(model.main).inputs.iter())
            .filter_map(|&input| {
                let lengths = symbolic.lengths(input)?;
                let free: &[usize] = if lengths.len() == 4 { &[2, 3, 48, 96] } else { &[2, 16] };
                let length = |(axis, length): (usize, &SymExpr)| match length {
                    SymExpr::Value(n) => *n as usize,
                    _ => free[axis],
                };
                Some((input, lengths.iter().enumerate().map(length).collect()))
            })
            .collect();
        let concrete = Shapes::infer_with(&model, &FixedSizes { inputs, ..FixedSizes::default() });
        let given: Vec<&SymExpr> =
            model.graph(model.main).inputs.iter().filter_map(|&x| symbolic.lengths(x)).flatten().collect();
        let (mut results, mut open) = (0, Vec::new());
        for node in model.all_nodes() {
            for &out in model.node(node).outputs.iter().flatten() {
                results += 1;
                let place = || format!("{}: {}", path.display(), model.label(node));
                let (Some(general), Some(special)) = (symbolic.lengths(out), concrete.fixed(out)) else {
                    panic!("{}: {:?}, {:?}", place(), symbolic.fact(out), concrete.fact(out));
                };
                assert!(symbolic.dtype(out).is_some() && general.len() == special.len(), "{}", place());
                let agrees = |(length, n): (&SymExpr, &usize)| match length {
                    SymExpr::Value(length) => *length as usize == *n,
                    _ => true,
                };
                assert!(general.iter().zip(&special).all(agrees), "{}: {general:?} is {special:?}", place());
                if general.iter().any(|length| is_open(length, &given)) {
                    open.push(format!("{} {general:?}", place()));
                }
            }
        }
        eprintln!("{}: {results} results, {} with an open length", path.display(), open.len());
        assert!(open.is_empty(), "{}", open.join("\n"));
        assert_eq!(concrete.dtype(model.graph(model.main).outputs[0]), Some(DType::F32));
    }
}

/// Whether the length does not follow from those of the inputs.
fn is_open(length: &SymExpr, given: &[&SymExpr]) -> bool {
    length.iter().any(|part| matches!(part, SymExpr::Var(symbol) if symbol.synthetic && !given.contains(&part)))
}
