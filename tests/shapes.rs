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
use rten_shape_inference::{SymExpr, SymbolMap};

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

/// The zoo in its declared symbolic sizes, and then with each of them fixed: every length follows from those of the
/// inputs, and both tell the same.
#[test]
fn the_zoo_is_known_to_the_last_value() {
    for path in corpus::zoo() {
        let mut model = onnx::read(&path).expect("the zoo is read").model;
        forget_declared(&mut model);
        let symbolic = Shapes::infer(&model);
        let (mut inputs, mut symbols) = (HashMap::new(), Vec::new());
        for &input in &model.graph(model.main).inputs {
            let lengths = symbolic.lengths(input).expect("inputs are declared");
            let free: &[i32] = if lengths.len() == 4 { &[2, 3, 48, 96] } else { &[2, 16] };
            let mut fixed = Vec::new();
            for (axis, length) in lengths.iter().enumerate() {
                fixed.push(match length {
                    SymExpr::Value(n) => *n as usize,
                    SymExpr::Var(symbol) => {
                        symbols.push((symbol.name.as_str(), free[axis]));
                        free[axis] as usize
                    }
                    length => panic!("{length} is declared"),
                });
            }
            inputs.insert(input, fixed);
        }
        let symbols = SymbolMap::new(&symbols);
        let concrete = Shapes::infer_with(&model, &FixedSizes { inputs, ..FixedSizes::default() });
        let mut results = 0;
        for node in model.all_nodes() {
            for &out in model.node(node).outputs.iter().flatten() {
                results += 1;
                let place = || format!("{}: {}", path.display(), model.label(node));
                let (Some(general), Some(special)) = (symbolic.lengths(out), concrete.fixed(out)) else {
                    panic!("{}: {:?}, {:?}", place(), symbolic.fact(out), concrete.fact(out));
                };
                assert!(symbolic.dtype(out).is_some(), "{}", place());
                let lengths: Result<Vec<i32>, _> = general.iter().map(|length| length.eval(&symbols)).collect();
                let lengths = lengths.unwrap_or_else(|error| panic!("{}: {general:?}: {error}", place()));
                assert!(lengths.iter().map(|&n| n as usize).eq(special.iter().copied()), "{}: {general:?}", place());
                let (Some(general), Some(special)) = (symbolic.elements(out), concrete.elements(out)) else { continue };
                let elements: Vec<_> =
                    general.iter().map(|element| element.eval(&symbols).map(SymExpr::Value)).collect();
                assert_eq!(elements, special.iter().cloned().map(Ok).collect::<Vec<_>>(), "{}: {general:?}", place());
            }
        }
        eprintln!("{}: all of {results} results", path.display());
        assert_eq!(concrete.dtype(model.graph(model.main).outputs[0]), Some(DType::F32));
    }
}

/// The shape of each output of a graph, in text.
fn shapes_of(text: &str) -> Vec<String> {
    let model = Model::parse(text).expect("the text is a model");
    let shapes = Shapes::infer(&model);
    let text = |&out: &ValueId| match shapes.lengths(out) {
        Some(lengths) => lengths.iter().map(length_text).collect::<Vec<_>>().join(","),
        None => "unknown".into(),
    };
    model.graph(model.main).outputs.iter().map(text).collect()
}

fn length_text(length: &SymExpr) -> String {
    let is_open = length.iter().any(|part| matches!(part, SymExpr::Var(symbol) if symbol.synthetic));
    if is_open { "?".into() } else { length.to_string() }
}

#[test]
fn a_loop_carries_the_lengths_that_its_body_keeps() {
    let text = r#"
        <ir_version: 10, opset_import: ["": 21]>
        loops (float[N,2,4] x, bool go, int64 most) => (a, b, c, stacked)
        <int64 three = {3}, bool yes = {1}> {
            a, b, c, stacked = Loop (three, yes, x, x, x) <body = round (i, cond, p, q, r) => (cond, p2, q2, r2, s) {
                p2 = Relu (p)
                q2 = Concat <axis = 1> (q, p)
                r2 = Transpose <perm = [0, 2, 1]> (r)
                s = ReduceSum <keepdims = 0> (p)
            }>
        }"#;
    // The axes of c are exchanged in each round.
    assert_eq!(shapes_of(text), ["N,2,4", "N,?,4", "N,?,?", "?"]);
    // Where the body goes on for certain, as many rounds are run as are asked for.
    let certain = text.replace("(cond, p2", "(on, p2").replace("p2 = Relu (p)", "on = Identity (cond) p2 = Relu (p)");
    let certain = certain.replace("round (i, cond, p", "round (int64 i, bool cond, p");
    assert_eq!(shapes_of(&certain)[3], "3");
    // Where the condition is only known at run time, nobody knows how many.
    assert_eq!(shapes_of(&certain.replace("Loop (three, yes", "Loop (three, go"))[3], "?");
}

#[test]
fn a_carried_value_may_change_its_rank() {
    let text = r#"
        <ir_version: 10, opset_import: ["": 21]>
        grows (float[N] x, int64 most, bool go) => (a, b) <int64[1] zero = {0}> {
            a, b = Loop (most, go, x, x) <body = round (i, cond, p, q) => (cond, p2, q2) {
                p2 = Unsqueeze (p, zero)
                q2 = Reshape (p, zero)
            }>
        }"#;
    assert_eq!(shapes_of(text), ["unknown", "?"]);
}

#[test]
fn loops_in_loops_are_walked_a_bounded_number_of_times() {
    let mut body = "y = Concat <axis = 0> (p, p)".to_string();
    for depth in 0..40 {
        body = format!(
            "y = Loop (most, go, p) <body = round{depth} (i{depth}, c{depth}, p{depth}) => (c{depth}, y{depth}) {{ {} }}>",
            body.replace("(p, p)", "(p0, p0)")
                .replace("y = ", &format!("y{depth} = "))
                .replace(", p)", &format!(", p{depth})"))
        );
    }
    let text = format!(
        r#"<ir_version: 10, opset_import: ["": 21]> deep (float[N] p, int64 most, bool go) => (y) {{ {body} }}"#
    );
    assert_eq!(shapes_of(&text).len(), 1);
}

#[test]
fn a_scan_stacks_what_its_steps_leave() {
    let text = r#"
        <ir_version: 10, opset_import: ["": 21]>
        scan (float[4] start, float[B,S,4] x) => (end, all) {
            end, all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [-1],
                body = step (float[4] p, float[B,4] q) => (p2, q2) {
                    p2 = Identity (p)
                    q2 = Transpose (q)
                }> (start, x)
        }"#;
    assert_eq!(shapes_of(text), ["4", "4,?,S"]);
}

#[test]
fn a_branch_that_is_taken_for_certain_gives_the_results() {
    let text = r#"
        <ir_version: 10, opset_import: ["": 21]>
        choice (float[N,2] x, bool go) => (y) <bool yes = {1}> {
            y = If (yes) <then_branch = a () => (p) { p = Transpose (x) }, else_branch = b () => (q) { q = Relu (x) }>
        }"#;
    assert_eq!(shapes_of(text), ["2,N"]);
    assert_eq!(shapes_of(&text.replace("If (yes)", "If (go)")), ["?,?"]);
}

#[test]
fn slices_of_open_axes_are_as_long_as_the_axis_allows() {
    let text = r#"
        <ir_version: 10, opset_import: ["": 21]>
        slices (float[N] x, float[512] table) => (first, rest, but_last, last, as_long, sum)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] three = {3}, int64[1] back = {-2},
         int64[1] far = {9223372036854775807}> {
            first = Slice (x, zero, three)
            rest = Slice (x, one, far)
            but_last = Slice (x, zero, back)
            last = Slice (x, back, far)
            length = Shape (x)
            as_long = Slice (table, zero, length)
            sum = Add (x, as_long)
        }"#;
    let expected = [
        "min(3, \"N\"u)",
        "max(0, -1 + \"N\"u)",
        "max(0, -2 + \"N\"u)",
        "min(2, \"N\"u)",
        "min(512, \"N\"u)",
        "\"N\"u",
    ];
    assert_eq!(shapes_of(text), expected.map(|text| text.replace("\"N\"u", "N")));
}
