//! Random small models that are valid and can be run.
//!
//! Every value is a `float[N,4]`, so that any operator can read any value: results are shared between readers, constants
//! between nodes, and some nodes are read by nobody. An `If` reads values from outside in its bodies.

use onnxshrink::ir::op::{
    Add, Clip, Concat, Gemm, Identity, LayerNormalization, MatMul, Mul, Neg, Relu, Reshape, Sigmoid, Softmax, Split,
    Sub, Transpose,
};
use onnxshrink::ir::{Attr, DType, GraphId, Model, Operation, Size, Tensor, Type, ValueId};
use proptest::prelude::*;

const WIDTH: usize = 4;

/// One node or a few: which operator, and which of the values before it are read.
type Choice = (u8, usize, usize);

pub fn models() -> impl Strategy<Value = Model> {
    let nodes = prop::collection::vec(any::<Choice>(), 1..16);
    let outputs = prop::collection::vec(any::<usize>(), 1..4);
    (nodes, outputs).prop_map(|(nodes, outputs)| model(&nodes, &outputs))
}

fn model(nodes: &[Choice], outputs: &[usize]) -> Model {
    let mut model = Model::new("generated");
    model.opsets.0.insert(String::new(), 21);
    model.header.ir_version = 10;
    let main = model.main;
    let ty = Type::tensor(DType::F32, [Size::Symbol("N".into()), Size::Fixed(WIDTH as i64)]);
    let inputs = ["x", "/in/put"].map(|name| model.add_input(main, name));
    for input in inputs {
        model.set_type(input, Some(ty.clone()));
    }
    let condition = model.add_input(main, "condition");
    model.set_type(condition, Some(Type::tensor(DType::Bool, [])));
    let mut generator = Generator { model, condition, constants: Vec::new() };
    let mut values = inputs.to_vec();
    for &choice in nodes {
        let value = generator.node(main, &values, choice, true);
        values.push(value);
    }
    let mut model = generator.model;
    for &output in outputs {
        let value = values[output % values.len()];
        if model.producer(value).is_some() && !model.is_output(value) {
            model.set_type(value, Some(ty.clone()));
            model.add_output(main, value);
        }
    }
    if model.graph(main).outputs.is_empty() {
        let y = model.append(main, "y", Neg { x: values[0] });
        model.set_type(y, Some(ty));
        model.add_output(main, y);
    }
    model
}

struct Generator {
    model: Model,
    condition: ValueId,
    constants: Vec<(ValueId, Vec<usize>)>,
}

impl Generator {
    fn node(&mut self, graph: GraphId, values: &[ValueId], (kind, first, second): Choice, may_branch: bool) -> ValueId {
        let (a, b) = (values[first % values.len()], values[second % values.len()]);
        let name = format!("{}{}", ["t", "/layer.", "same"][second % 3], first % 100);
        match kind % 16 {
            0 => self.model.append(graph, &name, Relu { x: a }),
            1 => self.model.append(graph, &name, Neg { x: a }),
            2 => self.model.append(graph, &name, Sigmoid { x: a }),
            3 => self.model.append(graph, &name, Identity { x: a }),
            4 => self.model.append(graph, &name, Add { a, b }),
            5 => self.model.append(graph, &name, Mul { a, b }),
            6 => {
                let b = self.constant(vec![WIDTH], second);
                self.model.append(graph, &name, Sub { a, b })
            }
            7 => {
                let b = self.constant(vec![WIDTH, WIDTH], second);
                self.model.append(graph, &name, MatMul { a, b })
            }
            8 => {
                let (b, c) = (self.constant(vec![WIDTH, WIDTH], second), self.constant(vec![WIDTH], first));
                let gemm =
                    Gemm { a, b, c: Some(c), alpha: 0.5, beta: 1.0, transA: false, transB: first.is_multiple_of(2) };
                self.model.append(graph, &name, gemm)
            }
            9 => {
                let x = self.model.append(graph, &name, Transpose { x: a, perm: vec![1, 0] });
                self.model.append(graph, &name, Transpose { x, perm: vec![1, 0] })
            }
            10 => {
                let split = Split { x: a, split: None, axis: 1, num_outputs: Some(2) };
                let node = self.model.append_node(graph, &name, split, &[Some("low"), Some("high")]);
                let mut xs: Vec<_> = self.model.node(node).outputs.iter().flatten().copied().collect();
                xs.reverse();
                self.model.append(graph, &name, Concat { xs, axis: 1 })
            }
            11 => self.model.append(graph, &name, Softmax { x: a, axis: -1 }),
            12 => {
                let shape = self.model.add_constant(graph, "shape", Tensor::from_ints(&[-1, WIDTH as i64]));
                self.model.append(graph, &name, Reshape { x: a, shape, allowzero: 0 })
            }
            13 => {
                let max = self.model.add_constant(graph, "max", Tensor::scalar(0.5f32));
                self.model.append(graph, &name, Clip { x: a, min: None, max: Some(max) })
            }
            14 => {
                let scale = self.constant(vec![WIDTH], second);
                let norm = LayerNormalization { x: a, scale, bias: None, axis: -1, epsilon: 1e-5, stash_type: 1 };
                self.model.append(graph, &name, norm)
            }
            _ if may_branch => self.branch(graph, &name, values, first, second),
            _ => self.model.append(graph, &name, Identity { x: a }),
        }
    }

    fn branch(&mut self, graph: GraphId, name: &str, values: &[ValueId], first: usize, second: usize) -> ValueId {
        let bodies = [("then_branch", first), ("else_branch", second)].map(|(attr, choice)| {
            let body = self.model.add_graph(attr);
            let inner = self.node(body, values, ((choice % 15) as u8, first, second), false);
            let result = self.model.append(body, "result", Neg { x: inner });
            self.model.add_output(body, result);
            (attr.to_string(), Attr::Graph(body))
        });
        let operation = Operation {
            op: "If".into(),
            inputs: vec![Some(self.condition)],
            attrs: bodies.into_iter().collect(),
            ..Operation::default()
        };
        self.model.append(graph, name, operation)
    }

    /// A constant of the main graph: one that is there already, every other time.
    fn constant(&mut self, shape: Vec<usize>, choice: usize) -> ValueId {
        let known = self.constants.iter().find(|(_, other)| *other == shape);
        if let Some((known, _)) = known.filter(|_| choice.is_multiple_of(2)) {
            return *known;
        }
        let count = shape.iter().product::<usize>();
        let elements = (0..count).map(|index| ((index * 7 + choice % 11) % 9) as f32 / 8.0 - 0.5).collect();
        let value = self.model.add_constant(self.model.main, "weight", Tensor::from_vec(shape.clone(), elements));
        self.constants.push((value, shape));
        value
    }
}
