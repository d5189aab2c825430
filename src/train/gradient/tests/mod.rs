//! Every gradient against differences of the function itself.

mod cases;
mod draw;
mod pytorch;
mod quantization;
mod unrolled;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use super::tape::Tape;
use super::{Refusal, differentiable, gradient, gradient_in_ours, recurrent};
use crate::analysis::Shapes;
use crate::ir::op::{Add, Mul, ReduceSum};
use crate::ir::{Attr, DType, Model, Operation, Size, Tensor, Type, ValueId};
use crate::runtime::{Execution, Runner};
use cases::CASES;
use draw::{Case, Draw, Operand};

/// Differences tell nothing of it, since it has steps: its derivative is defined in `quantization`.
const STRAIGHT_THROUGH: &str = "QuantizeLinear";

#[test]
fn every_operator_of_the_table_has_a_case() {
    let mut tested: Vec<&str> = CASES.iter().map(|(op, _)| *op).collect();
    tested.dedup();
    let mut known: Vec<&str> = differentiable().filter(|op| *op != STRAIGHT_THROUGH).collect();
    known.sort_unstable();
    assert_eq!(tested, known);
}

#[test]
fn gradients_are_those_of_differences() {
    let mut wrong = Vec::new();
    let only = std::env::var("GRADIENT_OF").unwrap_or_default();
    for (op, make) in CASES.iter().filter(|(op, _)| only.is_empty() || *op == only) {
        println!("{op}");
        let config = ProptestConfig {
            cases: 12,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(8),
            ..ProptestConfig::default()
        };
        let checked = TestRunner::new(config).run(&any::<u64>(), |seed| {
            let case = make(&mut Draw::new(seed));
            check(op, &case).map_err(TestCaseError::fail)
        });
        if let Err(error) = checked {
            wrong.push(format!("{op}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The sum of all results, each element with a factor of its own.
struct Loss {
    model: Model,
    results: Vec<ValueId>,
    trained: Vec<ValueId>,
    factors: Vec<Vec<f32>>,
    loss: ValueId,
    inputs: Vec<Tensor>,
}

impl Loss {
    fn of(op: &str, case: &Case) -> Result<Loss, String> {
        Loss::with(op, case, |_, _, result| result)
    }

    /// [`of`](Loss::of), where something may stand behind each result.
    fn with(
        op: &str,
        case: &Case,
        behind: impl Fn(&mut Model, &[Option<ValueId>], ValueId) -> ValueId,
    ) -> Result<Loss, String> {
        let mut model = Model::new("gradient");
        model.opsets.0.insert(String::new(), case.opset);
        let main = model.main;
        let (mut operands, mut trained, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
        for (index, operand) in case.operands.iter().enumerate() {
            operands.push(match operand {
                Operand::Trained(tensor) => {
                    let input = model.add_input(main, &format!("x{index}"));
                    let shape = tensor.shape().iter().map(|&n| Size::Fixed(n as i64));
                    model.set_type(input, Some(Type::tensor(DType::F32, shape)));
                    trained.push(input);
                    inputs.push(tensor.clone());
                    Some(input)
                }
                Operand::Fixed(tensor) => Some(model.add_constant(main, &format!("c{index}"), tensor.clone())),
                Operand::Missing => None,
            });
        }
        while let Some(None) = operands.last() {
            operands.pop();
        }
        let attrs = case.attrs.iter().map(|(name, attr)| (name.to_string(), attr.clone())).collect();
        let operation = Operation { op: op.into(), inputs: operands.clone(), attrs, ..Operation::default() };
        let names: Vec<_> = (0..case.results).map(|_| Some("y")).collect();
        let node = model.append_node(main, op, operation, &names);
        let mut results: Vec<ValueId> = model.node(node).outputs.iter().flatten().copied().collect();
        if case.written_out {
            results.truncate(case.judged);
            results.iter().for_each(|&result| model.add_output(main, result));
            recurrent::write_out(&mut Tape::new(&mut model), node).map_err(|Refusal(why)| why.to_string())?;
        }
        let results: Vec<ValueId> = results.into_iter().map(|result| behind(&mut model, &operands, result)).collect();
        let outputs = Runner::with_outputs(&model, &results).and_then(|runner| runner.run(&inputs));
        let outputs = outputs.map_err(|error| format!("{case:?}: {error}"))?;
        let (mut loss, mut factors) = (None, Vec::new());
        let results: Vec<ValueId> = results[..case.judged].to_vec();
        for (index, (&result, output)) in results.iter().zip(&outputs).enumerate() {
            let of: Vec<f32> = (0..output.len()).map(|i| ((i * 7 + index * 3) % 11) as f32 / 5.0 - 0.9).collect();
            let factor = model.add_constant(main, "factor", Tensor::from_vec(output.shape().to_vec(), of.clone()));
            let product = model.append(main, "product", Mul { a: result, b: factor });
            let sum = ReduceSum { x: product, axes: None, keepdims: 0, noop_with_empty_axes: 0 };
            let sum = model.append(main, "sum", sum);
            loss = Some(loss.map_or(sum, |loss| model.append(main, "loss", Add { a: loss, b: sum })));
            factors.push(of);
        }
        Ok(Loss { model, results, trained, factors, loss: loss.ok_or("no result is judged")?, inputs })
    }
}

/// Compares the gradient by each element with a central difference of the fourth order.
fn check(op: &str, case: &Case) -> Result<(), String> {
    let Loss { model, results, trained, factors, loss, inputs } = Loss::of(op, case)?;
    let forward = Runner::with_outputs(&model, &results).map_err(|error| error.to_string())?;
    let mut joint = model.clone();
    let gradients = gradient(&mut joint, loss, &trained).map_err(|error| format!("{case:?}: {error}"))?;
    joint.verify().map_err(|error| format!("{case:?}: {error}"))?;
    let found: Vec<ValueId> = gradients.iter().copied().flatten().collect();
    if found.len() != trained.len() {
        return Err(format!("{case:?}: a gradient is missing"));
    }
    let outputs: Vec<ValueId> = results.iter().chain(&found).copied().collect();
    let joint = Runner::with_outputs(&joint, &outputs).and_then(|runner| runner.run(&inputs));
    let joint = joint.map_err(|error| format!("{case:?}: {error}"))?;
    let ours = with_ours(&model, loss, &trained, &results, &inputs).map_err(|error| format!("{case:?}: {error}"))?;
    for (joint, ours) in joint.iter().zip(&ours) {
        if let Some(why) = difference(joint, ours) {
            return Err(format!("{case:?}: in operators of ours {why}"));
        }
    }
    let plain = forward.run(&inputs).map_err(|error| error.to_string())?;
    for (plain, joint) in plain.iter().zip(&joint) {
        let (plain, joint) = (plain.floats().unwrap(), joint.floats().unwrap());
        let far = plain.iter().zip(joint.iter()).find(|(a, b)| (*a - *b).abs() > 1e-5 * (1.0 + a.abs()));
        if let Some((plain, joint)) = far {
            return Err(format!("{case:?}: the result {plain} became {joint}"));
        }
    }
    let loss_at = |operand: usize, element: usize, offset: f32| -> Result<f64, String> {
        let mut moved = inputs.clone();
        let mut elements = moved[operand].floats().unwrap().into_owned();
        elements[element] += offset;
        moved[operand] = Tensor::from_vec(moved[operand].shape().to_vec(), elements);
        let outputs = forward.run(&moved).map_err(|error| error.to_string())?;
        let products = outputs.iter().zip(&factors).flat_map(|(output, factors)| {
            let output = output.floats().unwrap().into_owned();
            output.into_iter().zip(factors).map(|(x, &factor)| f64::from(x) * f64::from(factor))
        });
        Ok(products.sum())
    };
    for (operand, input) in inputs.iter().enumerate() {
        let gradient = &joint[results.len() + operand];
        if gradient.shape() != input.shape() {
            return Err(format!("{case:?}: the gradient of {input:?} is {gradient:?}"));
        }
        let gradient = gradient.floats().unwrap();
        let scale = gradient.iter().fold(1f64, |max, &g| max.max(f64::from(g.abs())));
        for (element, &gradient) in gradient.iter().enumerate() {
            let difference = |h: f32| -> Result<f64, String> {
                let (up, down) = (loss_at(operand, element, h)?, loss_at(operand, element, -h)?);
                Ok((up - down) / (2.0 * f64::from(h)))
            };
            let h = case.step;
            let expected = (4.0 * difference(h)? - difference(2.0 * h)?) / 3.0;
            if (expected - f64::from(gradient)).abs() > 2e-3 * scale || gradient.is_nan() {
                return Err(format!(
                    "{case:?}, operand {operand}[{element}]: {gradient}, but differences give {expected}"
                ));
            }
        }
    }
    Ok(())
}

/// `results` and the gradients, as training computes them.
fn with_ours(
    model: &Model,
    loss: ValueId,
    trained: &[ValueId],
    results: &[ValueId],
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, String> {
    let mut model = model.clone();
    let gradients = gradient_in_ours(&mut model, loss, trained).map_err(|error| error.to_string())?;
    let outputs: Vec<ValueId> = results.iter().copied().chain(gradients.into_iter().flatten()).collect();
    let runner = Runner::with(&model, &outputs, &Execution::training()).map_err(|error| error.to_string())?;
    runner.run(inputs).map_err(|error| error.to_string())
}

fn difference(expected: &Tensor, found: &Tensor) -> Option<String> {
    if expected.shape() != found.shape() {
        return Some(format!("{:?} became {:?}", expected.shape(), found.shape()));
    }
    let (expected, found) = (expected.floats()?, found.floats()?);
    let range = expected.iter().fold(1f32, |range, x| range.max(x.abs()));
    let far = expected.iter().zip(&*found).find(|(a, b)| b.is_nan() || (*a - *b).abs() > 1e-4 * range);
    far.map(|(expected, found)| format!("{expected} became {found}"))
}

/// Two blocks with residuals, a stride, a depthwise convolution and one over two groups, in 18 channels: more than a block.
const BLOCKS: &str = include_str!("../../../../testdata/training/blocks.onnxtxt");

#[test]
fn a_network_of_convolutions_has_the_same_gradients_in_operators_of_ours() {
    let mut model = Model::parse(BLOCKS).unwrap();
    let main = model.main;
    let (inputs, output) = (model.graph(main).inputs.clone(), model.graph(main).outputs[0]);
    let square = model.append(main, "square", Mul { a: output, b: output });
    let loss = ReduceSum { x: square, axes: None, keepdims: 0, noop_with_empty_axes: 0 };
    let loss = model.append(main, "loss", loss);
    let mut draw = Draw::new(1);
    let tensors: Vec<Tensor> = inputs
        .iter()
        .map(|&input| {
            let shape = Shapes::infer(&model).fixed(input).unwrap();
            draw.tensor(&shape, -0.6, 0.6)
        })
        .collect();
    let mut plain = model.clone();
    let gradients = gradient(&mut plain, loss, &inputs).unwrap();
    let outputs: Vec<ValueId> = [output].into_iter().chain(gradients.into_iter().flatten()).collect();
    let expected = Runner::with_outputs(&plain, &outputs).unwrap().run(&tensors).unwrap();
    let found = with_ours(&model, loss, &inputs, &[output], &tensors).unwrap();
    assert_eq!(expected.len(), found.len());
    for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(difference(expected, found), None, "{index}");
    }
}

/// tract has no such mode, so the difference is taken of the same formula in other operators.
#[test]
fn batch_normalization_in_training_is_the_instance_normalization_of_one_image() {
    // Over one image, statistics of the batch are those of the instance.
    let mut draw = Draw::new(3);
    let inputs: Vec<Tensor> =
        [vec![1, 2, 3, 2], vec![2], vec![2]].iter().map(|shape| draw.tensor(shape, -1.0, 1.0)).collect();
    let factors = draw.tensor(&[1, 2, 3, 2], -1.0, 1.0);
    let run = |op: &str| {
        let mut model = Model::new("gradient");
        model.opsets.0.insert(String::new(), 18);
        let main = model.main;
        let operands = inputs.iter().map(|tensor| {
            let input = model.add_input(main, "x");
            let shape = tensor.shape().iter().map(|&n| Size::Fixed(n as i64));
            model.set_type(input, Some(Type::tensor(DType::F32, shape)));
            input
        });
        let trained: Vec<ValueId> = operands.collect();
        let mut operands: Vec<_> = trained.iter().copied().map(Some).collect();
        let mut attrs = vec![("epsilon".to_string(), Attr::Float(0.1))];
        let mut results = vec![Some("y")];
        if op == "BatchNormalization" {
            for running in [[0.5f32, -0.5], [2.0, 1.0]] {
                operands.push(Some(model.add_constant(main, "running", Tensor::from_vec(vec![2], running.to_vec()))));
            }
            attrs.extend([("training_mode".into(), Attr::Int(1)), ("momentum".into(), Attr::Float(0.75))]);
            results.extend([Some("mean"), Some("variance")]);
        }
        let attrs = attrs.into_iter().collect();
        let operation = Operation { op: op.into(), inputs: operands, attrs, ..Operation::default() };
        let node = model.append_node(main, op, operation, &results);
        let results: Vec<ValueId> = model.node(node).outputs.iter().flatten().copied().collect();
        let factor = model.add_constant(main, "factor", factors.clone());
        let product = model.append(main, "product", Mul { a: results[0], b: factor });
        let sum = ReduceSum { x: product, axes: None, keepdims: 0, noop_with_empty_axes: 0 };
        let loss = model.append(main, "loss", sum);
        let gradients = gradient(&mut model, loss, &trained).unwrap();
        let outputs: Vec<ValueId> = gradients.into_iter().flatten().chain(results).collect();
        let outputs = Runner::with_outputs(&model, &outputs).unwrap().run(&inputs).unwrap();
        outputs.iter().map(|output| output.floats().unwrap().into_owned()).collect::<Vec<_>>()
    };
    let (batch, instance) = (run("BatchNormalization"), run("InstanceNormalization"));
    for (batch, instance) in batch.iter().zip(&instance) {
        assert!(batch.iter().zip(instance).all(|(a, b)| (a - b).abs() < 1e-5), "{batch:?}, {instance:?}");
    }
    let x = inputs[0].floats().unwrap();
    let moments = x.chunks(6).zip([[0.5, 2.0], [-0.5, 1.0]]).map(|(x, [mean, variance])| {
        let of = x.iter().sum::<f32>() / 6.0;
        let squares = x.iter().map(|x| (x - of) * (x - of)).sum::<f32>() / 6.0;
        [0.75 * mean + 0.25 * of, 0.75 * variance + 0.25 * squares]
    });
    for (channel, expected) in moments.enumerate() {
        let found = [batch[4][channel], batch[5][channel]];
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, {expected:?}");
    }
}

fn model_of(operations: &[(&str, Attr)]) -> Model {
    let mut model = Model::new("gradient");
    model.opsets.0.insert(String::new(), 21);
    let x = model.add_input(model.main, "x");
    model.set_type(x, Some(Type::tensor(DType::F32, [Size::Fixed(2), Size::Fixed(3)])));
    let mut value = x;
    for (op, attr) in operations {
        let attrs = match attr {
            Attr::Str(name) if name.is_empty() => Default::default(),
            attr => [("axis".to_string(), attr.clone())].into_iter().collect(),
        };
        let operation = Operation { op: (*op).into(), inputs: vec![Some(value)], attrs, ..Operation::default() };
        value = model.append(model.main, op, operation);
    }
    let sum = ReduceSum { x: value, axes: None, keepdims: 0, noop_with_empty_axes: 0 };
    let loss = model.append(model.main, "loss", sum);
    model.add_output(model.main, loss);
    model
}

#[test]
fn an_operator_without_a_gradient_is_named_before_anything_is_written() {
    let mut model = model_of(&[("Tanh", Attr::Str(Default::default())), ("Hardmax", Attr::Int(1))]);
    let (x, loss, revision) = (model.graph(model.main).inputs[0], model.graph(model.main).outputs[0], model.revision());
    let error = gradient(&mut model, loss, &[x]).unwrap_err();
    assert_eq!(error.to_string(), "Hardmax `Hardmax` cannot be trained through: no gradient is known of the operator");
    assert_eq!(model.revision(), revision);
}

#[test]
fn what_the_loss_does_not_depend_on_has_no_gradient() {
    let mut model = model_of(&[("Round", Attr::Str(Default::default()))]);
    let (x, loss) = (model.graph(model.main).inputs[0], model.graph(model.main).outputs[0]);
    assert_eq!(gradient(&mut model, loss, &[x]).unwrap(), [None]);
}

#[test]
fn gradients_of_all_readers_are_summed() {
    let mut model = model_of(&[]);
    let x = model.graph(model.main).inputs[0];
    let square = model.append(model.main, "square", Mul { a: x, b: x });
    let sum = model.append(model.main, "sum", Add { a: square, b: x });
    let loss = ReduceSum { x: sum, axes: None, keepdims: 0, noop_with_empty_axes: 0 };
    let loss = model.append(model.main, "loss", loss);
    let gradients = gradient(&mut model, loss, &[x]).unwrap();
    let runner = Runner::with_outputs(&model, &[gradients[0].unwrap()]).unwrap();
    let x = Tensor::from_vec(vec![2, 3], vec![0.0f32, 1.0, 2.0, 3.0, -1.0, -2.0]);
    let expected = Tensor::from_vec(vec![2, 3], vec![1.0f32, 3.0, 5.0, 7.0, -1.0, -3.0]);
    assert_eq!(runner.run(&[x]).unwrap(), [expected]);
}

#[test]
fn a_loss_of_several_elements_is_refused() {
    let mut model = model_of(&[]);
    let x = model.graph(model.main).inputs[0];
    let y = model.append(model.main, "y", Mul { a: x, b: x });
    let error = gradient(&mut model, y, &[x]).unwrap_err();
    assert_eq!(error.to_string(), "the loss `y` is not a single float");
}
