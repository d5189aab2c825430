//! What training runs on, against what everything else runs on.

use proptest::prelude::*;

use super::{Execution, Runner};
use crate::ir::{Attr, DType, Model, Operation, Size, Tensor, Type, ValueId};

fn model() -> Model {
    let mut model = Model::new("test");
    model.opsets.0.insert(String::new(), 18);
    model
}

fn input(model: &mut Model, shape: &[usize]) -> ValueId {
    let input = model.add_input(model.main, "x");
    model.set_type(input, Some(Type::tensor(DType::F32, shape.iter().map(|&n| Size::Fixed(n as i64)))));
    input
}

fn append(model: &mut Model, op: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) -> ValueId {
    let operation = Operation {
        op: op.into(),
        inputs: inputs.iter().copied().map(Some).collect(),
        attrs: attrs.iter().map(|(name, attr)| (name.to_string(), attr.clone())).collect(),
        ..Operation::default()
    };
    model.append(model.main, op, operation)
}

/// Numbers between .25 and 1.75.
fn tensor(shape: &[usize], seed: usize) -> Tensor {
    let count: usize = shape.iter().product();
    let elements = (0..count).map(|i| 0.25 + ((i * 37 + seed * 101 + i * i * 11) % 97) as f32 / 64.0);
    Tensor::from_vec(shape.to_vec(), elements.collect())
}

/// Runs `model` both ways.
fn compare(model: &Model, outputs: &[ValueId], inputs: &[Tensor]) -> Result<(), TestCaseError> {
    let run = |execution: &Execution| Runner::with(model, outputs, execution).unwrap().run(inputs).unwrap();
    let (expected, found) = (run(&Execution::float()), run(&Execution::training()));
    prop_assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().zip(&found) {
        prop_assert_eq!(expected.shape(), found.shape());
        let (expected, found) = (expected.floats().unwrap(), found.floats().unwrap());
        let range = expected.iter().fold(1f32, |range, x| range.max(x.abs()));
        for (a, b) in expected.iter().zip(&*found) {
            prop_assert!((a - b).abs() <= 2e-5 * range, "{} {}", a, b);
        }
    }
    Ok(())
}

/// Those that are defined everywhere, and those that want a positive number.
const UNARY: &[&str] = &["Abs", "Neg", "Erf", "Sigmoid", "Tanh", "Relu"];
const OF_POSITIVE: &[&str] = &["Reciprocal", "Sqrt", "Log"];
/// Those that keep numbers small enough, and those whose second operand is made so.
const BINARY: &[&str] = &["Add", "Sub", "Min", "Max"];
const OF_FRACTION: &[&str] = &["Mul", "Div"];
const SHAPES: &[&[usize]] = &[&[3, 5, 40], &[3, 5, 40], &[1, 5, 1], &[40], &[3, 1, 40], &[1]];

proptest! {
    /// Nodes over earlier values, with means among them that read and feed chains.
    #[test]
    fn chains_give_what_their_members_give(nodes in prop::collection::vec((0usize..24, any::<[u8; 2]>()), 2..40)) {
        let mut model = model();
        let mut values: Vec<ValueId> = SHAPES.iter().map(|shape| input(&mut model, shape)).collect();
        let inputs: Vec<Tensor> = SHAPES.iter().enumerate().map(|(seed, shape)| tensor(shape, seed)).collect();
        let axes = model.add_constant(model.main, "axes", Tensor::from_ints(&[2]));
        let half = model.add_constant(model.main, "half", Tensor::scalar(0.5f32));
        for (kind, operands) in nodes {
            let [a, b] = operands.map(|operand| values[values.len() - 1 - operand as usize % values.len().min(9)]);
            values.push(match kind {
                0..=5 => append(&mut model, UNARY[kind], &[a], &[]),
                6 => {
                    // The sign of what is 0 but for rounding may be any.
                    let moved = append(&mut model, "Add", &[a, half], &[]);
                    append(&mut model, "Sign", &[moved], &[])
                }
                7..=9 => {
                    let size = append(&mut model, "Abs", &[a], &[]);
                    let positive = append(&mut model, "Add", &[size, half], &[]);
                    append(&mut model, OF_POSITIVE[kind - 7], &[positive], &[])
                }
                10..=17 => append(&mut model, BINARY[kind % BINARY.len()], &[a, b], &[]),
                18..=20 => {
                    let fraction = append(&mut model, "Sigmoid", &[b], &[]);
                    let positive = append(&mut model, "Max", &[fraction, half], &[]);
                    append(&mut model, OF_FRACTION[kind % OF_FRACTION.len()], &[a, positive], &[])
                }
                _ => {
                    // Of a whole value: others may lack the axis.
                    let whole = append(&mut model, "Add", &[a, values[0]], &[]);
                    append(&mut model, "ReduceMean", &[whole, axes], &[("keepdims", Attr::Int(1))])
                }
            });
        }
        let outputs: Vec<ValueId> = values[SHAPES.len()..].iter().copied().rev().step_by(3).collect();
        compare(&model, &outputs, &inputs)?;
    }

    #[test]
    fn products_give_what_tract_gives(
        equation in prop::sample::select(vec![
            "mk,kn->mn", "bmk,bkn->bmn", "abmk,abnk->abmn", "mn,kn->mk", "mk,mn->kn", "nop,ncp->oc", "ngop,nkgcp->gock",
            "mk,nk->nm", "amk,kn->amn", "k,kn->n",
        ]),
        sizes in prop::array::uniform10(1usize..9),
    ) {
        let letters: Vec<char> = "abcgkmnop".chars().collect();
        let size = |letter: char| sizes[letters.iter().position(|&other| other == letter).unwrap()];
        let mut model = model();
        let (left, _) = equation.split_once("->").unwrap();
        let shapes: Vec<Vec<usize>> = left.split(',').map(|term| term.chars().map(size).collect()).collect();
        let operands: Vec<ValueId> = shapes.iter().map(|shape| input(&mut model, shape)).collect();
        let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(seed, shape)| tensor(shape, seed)).collect();
        let y = append(&mut model, "Einsum", &operands, &[("equation", Attr::Str(equation.into()))]);
        compare(&model, &[y], &inputs)?;
    }
}

/// Found by chance: tract merges the two sums each into the other.
#[test]
fn equal_nodes_are_merged_into_one() {
    let mut model = model();
    let x = input(&mut model, &[3]);
    let half = model.add_constant(model.main, "half", Tensor::scalar(0.5f32));
    let [first, second] = [(); 2].map(|()| append(&mut model, "Neg", &[x], &[]));
    let [first_size, second_size] = [first, second].map(|y| append(&mut model, "Abs", &[y], &[]));
    let sums = [[half, second_size], [first_size, half], [second_size, half]];
    let sums = sums.map(|operands| append(&mut model, "Add", &operands, &[]));
    let ends = sums.map(|sum| append(&mut model, "Reciprocal", &[sum], &[]));
    let mut outputs = ends.to_vec();
    outputs.extend([first, second, first_size, second_size, sums[0], sums[2]]);
    compare(&model, &outputs, &[tensor(&[3], 1)]).unwrap();
    compare(&model, &ends, &[tensor(&[3], 1)]).unwrap();
}

/// 18 channels are more than a block; what follows the convolutions stays in blocks, or goes back.
#[test]
fn convolutions_in_blocks_give_what_tract_gives() {
    let text = include_str!("../../testdata/training/blocks.onnxtxt");
    let model = Model::parse(text).unwrap();
    let graph = model.graph(model.main);
    let shapes = crate::analysis::Shapes::infer(&model);
    let inputs = graph.inputs.iter().enumerate();
    let inputs: Vec<Tensor> = inputs
        .map(|(seed, &input)| {
            let centred = tensor(&shapes.fixed(input).unwrap(), seed);
            let elements = centred.floats().unwrap().iter().map(|x| (x - 1.0) * 0.6).collect();
            Tensor::from_vec::<f32>(centred.shape().to_vec(), elements)
        })
        .collect();
    let every: Vec<ValueId> =
        model.nodes_of(model.main).flat_map(|node| model.node(node).outputs.clone()).flatten().collect();
    compare(&model, &graph.outputs, &inputs).unwrap();
    compare(&model, &every, &inputs).unwrap();
}

#[test]
fn recurrent_layers_that_tract_would_misread_are_refused() {
    let refusal = |directions: usize, attrs: &[(&str, Attr)]| {
        let mut model = model();
        let operands = [[2, 2, 3], [directions, 8, 3], [directions, 8, 2]].map(|shape| input(&mut model, &shape));
        let y = append(&mut model, "LSTM", &operands, &[&[("hidden_size", Attr::Int(2))], attrs].concat());
        Runner::with_outputs(&model, &[y]).err().map(|error| error.to_string())
    };
    let text = |text: &str| Attr::Str(text.to_string().into());
    let names = |names: &[&str]| Attr::Strs(names.iter().map(|name| name.to_string().into()).collect());
    for (directions, attrs, why) in [
        (1, vec![("direction", text("reverse"))], "tract does not go backwards alone"),
        (
            2,
            vec![("direction", text("bidirectional")), ("layout", Attr::Int(1))],
            "tract does not go both ways where `layout` is 1",
        ),
        (1, vec![("clip", Attr::Float(1.0))], "tract does not know its attribute `clip`"),
        (1, vec![("input_forget", Attr::Int(1))], "tract does not know its attribute `input_forget`"),
        (
            1,
            vec![("activations", names(&["Sigmoid", "Relu", "Tanh"]))],
            "tract does not know its attribute `activations`",
        ),
    ] {
        let refused = refusal(directions, &attrs).unwrap_or_else(|| panic!("{attrs:?} is not refused"));
        assert!(refused.contains(why), "{refused}");
    }
    let defaults = names(&["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Tanh", "Tanh"]);
    assert_eq!(refusal(2, &[("direction", text("bidirectional")), ("activations", defaults)]), None);
}
