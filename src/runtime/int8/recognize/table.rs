//! Functions of one u8 tensor, element by element: a table of what each of its 256 values becomes.
//!
//! The entries are computed by the float operators themselves, so a table is never anything else than the definition.

use std::collections::HashMap;

use super::conv::computing;
use super::scale::{Scale, dequantized, unsigned};
use crate::ir::op::{DequantizeLinear, QuantizeLinear};
use crate::ir::{DType, Model, NodeId, Operation, Tensor, Use, ValueId};
use crate::kernels::{self, Addition, Multiplication, Quantization};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators as int8;
use crate::runtime::{Execution, Runner};

/// Operators that compute each element from the elements at its place.
const ELEMENTWISE: &[&str] = &[
    "Abs",
    "Add",
    "Clip",
    "Div",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Pow",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Sub",
    "Tanh",
];

/// Nodes of the longest function.
const LONGEST: usize = 16;

/// Q(f(DQ(x))) as a table.
pub(super) fn tabulated(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let to = Scale::of_quantize(at, &root)?;
    let function = Function::of(at, &root)?;
    let table = function.tabulate(at, &root)?;
    let (value, from) = function.source;
    let mut new = at.rewrite();
    let x = unsigned(&mut new, value, &from);
    let table = new.constant("table", Tensor::from_vec(vec![256], table));
    let name = &computing(at, root.x)?.name;
    let table = int8::Table { x, table };
    let rewrite = match to.is_signed {
        false => new.replace_root(table),
        true => {
            let x = new.add(table);
            new.replace_root(int8::Flip { x, to: DType::I8.code().into() })
        }
    };
    Ok(rewrite?.named(name))
}

/// Product of functions of one tensor, such as x · HardSigmoid(x): a function too.
pub(super) fn tabulated_product(at: &Site, root: int8::Product) -> Match<Rewrite> {
    let int8::Product { a, b, a_scale, a_zero_point, b_scale, b_zero_point, y_scale, y_zero_point, low, high } = root;
    let [a_scale, b_scale, y_scale] =
        [(a_scale, a_zero_point), (b_scale, b_zero_point), (y_scale, y_zero_point)].map(quantization);
    let clamp = [low as u8, high as u8];
    let multiplication = Multiplication { clamp, ..Multiplication::new(a_scale, b_scale, y_scale) };
    composed(at, a, b, |a, b, y| multiplication.run(a, b, y))
}

/// Sum of functions of one tensor.
pub(super) fn tabulated_sum(at: &Site, root: int8::Sum) -> Match<Rewrite> {
    let int8::Sum { a, b, a_scale, a_zero_point, b_scale, b_zero_point, y_scale, y_zero_point, low, high } = root;
    let [a_scale, b_scale, y_scale] =
        [(a_scale, a_zero_point), (b_scale, b_zero_point), (y_scale, y_zero_point)].map(quantization);
    let addition = Addition { clamp: [low as u8, high as u8], ..Addition::new(a_scale, b_scale, y_scale) };
    composed(at, a, b, |a, b, y| addition.run(a, b, y))
}

fn quantization((scale, zero_point): (f32, i64)) -> Quantization {
    Quantization { scale, zero_point: zero_point as u8 }
}

fn composed(at: &Site, a: ValueId, b: ValueId, operation: impl FnOnce(&[u8], &[u8], &mut [u8])) -> Match<Rewrite> {
    let ((x, first), (source, second)) = (function_of(at, a)?, function_of(at, b)?);
    require!(x == source, "functions of two tensors");
    let mut new = at.rewrite();
    let table = kernels::Table::composed(&first, &second, operation);
    let table = new.constant("table", Tensor::from_vec(vec![256], table.0.to_vec()));
    new.replace_root(int8::Table { x, table })
}

/// The tensor that `value` is a function of, and which.
fn function_of(at: &Site, value: ValueId) -> Match<(ValueId, kernels::Table)> {
    let Ok(int8::Table { x, table }) = at.producer(value) else { return Ok((value, kernels::Table::identity())) };
    let bytes = at.tensor(table)?.elements::<u8>().ok_or(Miss("no table of bytes"))?;
    let table = <[u8; 256]>::try_from(&*bytes).map_err(|_| Miss("no table of 256"))?;
    Ok((x, kernels::Table(table)))
}

/// What is computed between a DequantizeLinear and the root.
struct Function {
    /// The integers and their scale.
    source: (ValueId, Scale),
    /// In the order of execution.
    nodes: Vec<NodeId>,
}

impl Function {
    fn of(at: &Site, root: &QuantizeLinear) -> Match<Function> {
        let (mut source, mut nodes) = (None, Vec::new());
        let mut work = vec![root.x];
        while let Some(value) = work.pop() {
            if let Ok(found) = dequantized(at, value) {
                require!(source.is_none_or(|source| source == found), "a function of several tensors");
                source = Some(found);
                continue;
            }
            if let Some(constant) = at.model.constant(value) {
                require!(constant.len() == 1 && constant.rank() <= 1, "a constant of many numbers");
                continue;
            }
            let id = at.model.producer(value).ok_or(Miss("not computed by a node"))?;
            if nodes.contains(&id) {
                continue;
            }
            let node = at.model.node(id);
            require!(node.domain.is_empty() && ELEMENTWISE.contains(&node.op.as_str()), "no function of one element");
            require!(node.outputs.len() == 1 && node.graph == at.node().graph, "computed elsewhere");
            require!(nodes.len() < LONGEST, "a function of many nodes");
            nodes.push(id);
            work.extend(node.inputs.iter().flatten());
        }
        let source = source.ok_or(Miss("a constant"))?;
        require!(!nodes.is_empty(), "nothing in between");
        require!(at.model.constant(source.0).is_none(), "a constant");
        for &id in &nodes {
            let out = at.model.node(id).outputs[0].ok_or(Miss("no result"))?;
            let inside =
                |place: &Use| matches!(place, Use::Node(reader, _) if *reader == at.root || nodes.contains(reader));
            require!(at.model.value(out).uses.iter().all(inside), "the value in between is also read elsewhere");
        }
        // A node is made after those that it reads, but for rewrites: order by what reads what.
        let order: HashMap<NodeId, usize> =
            at.model.nodes_of(at.node().graph).enumerate().map(|(place, id)| (id, place)).collect();
        nodes.sort_by_key(|id| order[id]);
        Ok(Function { source, nodes })
    }

    /// Runs the function on every u8.
    fn tabulate(&self, at: &Site, root: &QuantizeLinear) -> Match<Vec<u8>> {
        let (_, from) = self.source;
        let to = Scale::of_quantize(at, root)?;
        let mut model = Model::new("table");
        model.opsets = at.model.opsets.clone();
        let main = model.main;
        let integers = Tensor::from_vec(vec![256], (0..=255).collect::<Vec<u8>>());
        let integers = model.add_constant(main, "integers", integers);
        let number = |model: &mut Model, tensor: Tensor| model.add_constant(main, "number", tensor);
        let scale = number(&mut model, Tensor::scalar(from.scale));
        let zero_point = number(&mut model, Tensor::scalar(from.zero_point as u8));
        let dequantize = DequantizeLinear {
            x: integers,
            scale,
            zero_point: Some(zero_point),
            axis: 1,
            block_size: 0,
            output_dtype: 0,
        };
        let real = model.append(main, "real", dequantize);
        let mut known: HashMap<ValueId, ValueId> = HashMap::new();
        for &id in &self.nodes {
            let node = at.model.node(id);
            let inputs = node.inputs.iter().map(|input| {
                let input = (*input)?;
                Some(match (known.get(&input), at.model.constant(input)) {
                    (Some(&own), _) => own,
                    (None, Some(constant)) => number(&mut model, constant.clone()),
                    (None, None) => real,
                })
            });
            let operation = Operation {
                op: node.op.clone(),
                inputs: inputs.collect(),
                attrs: node.attrs.clone(),
                ..Default::default()
            };
            let out = model.append(main, "step", operation);
            known.insert(node.outputs[0].expect("checked before"), out);
        }
        let result = known[&root.x];
        let runner = Runner::with(&model, &[result], &Execution::float()).map_err(|_| Miss("it cannot be run"))?;
        let results = runner.run(&[]).map_err(|_| Miss("it cannot be run"))?;
        let reals = results[0].floats().filter(|reals| reals.len() == 256).ok_or(Miss("no float result"))?;
        Ok(reals.iter().map(|&real| to.integer(real) as u8).collect())
    }
}
