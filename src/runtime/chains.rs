//! Chains of elementwise operators of floats: one operator computes them tile by tile, so that what lies between them
//! never leaves the first cache.
//!
//! Law: a chain stands where its last member stood, so whatever else reads a member has to come later.

use std::collections::{HashMap, HashSet};

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;

use super::execute::strides;
use super::spare;
use crate::kernels::{Binary, Repeated, TILE, Unary};

/// A chain holds no more: its tiles are to stay in the cache.
const LONGEST: usize = 32;

/// Below so many elements, a chain takes as long to start as its members take to run.
const SMALLEST: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Unary(Unary),
    Binary(Binary),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    operation: Operation,
    /// Operands, or behind them results of earlier steps.
    sources: TVec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Whole,
    Repeated(Repeated),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    shape: TVec<usize>,
    operands: Vec<Pattern>,
    steps: Vec<Step>,
    /// The steps whose results leave the chain.
    results: TVec<usize>,
}

/// Puts chains in the place of their members.
pub(super) fn take_over(model: &mut TypedModel) -> TractResult<()> {
    for members in groups(model)?.into_iter().filter(|members| members.len() > 1) {
        let (chain, inputs, outlets) = Chain::of(model, &members)?;
        let name = model.node(*members.last().context("a chain without members")?).name.clone();
        let mut patch = TypedModelPatch::default();
        let taps = inputs.iter().map(|&input| patch.tap_model(model, input)).collect::<TractResult<TVec<_>>>()?;
        let results = patch.wire_node(name, chain, &taps)?;
        for (outlet, result) in outlets.into_iter().zip(results) {
            patch.shunt_outside(model, outlet, result)?;
        }
        patch.apply(model)?;
    }
    model.compact()
}

fn operation(node: &TypedNode) -> Option<Operation> {
    if let Some(TypedBinOp(op, None)) = node.op_as::<TypedBinOp>() {
        let binary = match op.name() {
            "Add" => Binary::Add,
            "Sub" => Binary::Sub,
            "Mul" => Binary::Mul,
            "Div" => Binary::Div,
            "Min" => Binary::Min,
            "Max" => Binary::Max,
            _ => return None,
        };
        return Some(Operation::Binary(binary));
    }
    let ElementWiseOp(op, None) = node.op_as::<ElementWiseOp>()? else { return None };
    let unary = match &*op.name() {
        "Abs" => Unary::Abs,
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Ln" => Unary::Log,
        "Neg" => Unary::Neg,
        "Recip" => Unary::Reciprocal,
        "Rsqrt" => Unary::ReciprocalSqrt,
        "Sigmoid" => Unary::Sigmoid,
        "Sign" => Unary::Sign,
        "Sqrt" => Unary::Sqrt,
        "Square" => Unary::Square,
        "Tanh" => Unary::Tanh,
        _ => return None,
    };
    Some(Operation::Unary(unary))
}

/// The shape of the result of a node that can be a member.
fn member_shape(model: &TypedModel, node: &TypedNode) -> Option<TVec<usize>> {
    operation(node)?;
    let facts = model.node_input_facts(node.id).ok()?;
    let [output] = &node.outputs[..] else { return None };
    let is_float = |fact: &TypedFact| fact.datum_type == f32::datum_type() && fact.is_plain();
    let all_float = facts.iter().all(|fact| is_float(fact)) && is_float(&output.fact);
    let shape: TVec<usize> = output.fact.shape.as_concrete()?.into();
    let fits = |fact: &&TypedFact| {
        let operand = fact.shape.as_concrete();
        operand.is_some_and(|operand| {
            operand.len() == shape.len() && operand.iter().zip(&shape).all(|(&n, &whole)| n == whole || n == 1)
        })
    };
    let is_large = shape.iter().product::<usize>() >= SMALLEST;
    (all_float && is_large && facts.iter().all(fits)).then_some(shape)
}

/// The members of each chain, in execution order.
fn groups(model: &TypedModel) -> TractResult<Vec<Vec<usize>>> {
    let order = model.eval_order()?;
    let places: HashMap<usize, usize> = order.iter().enumerate().map(|(place, &node)| (node, place)).collect();
    let outputs: HashSet<OutletId> = model.output_outlets()?.iter().copied().collect();
    let mut groups: Vec<(TVec<usize>, Vec<usize>)> = Vec::new();
    let mut group_of: HashMap<usize, usize> = HashMap::new();
    for &id in &order {
        let node = model.node(id);
        let Some(shape) = member_shape(model, node) else { continue };
        // What reads a member so far is in its chain, or else the chain would have to stand before and behind it.
        let is_closed = |group: usize| {
            groups[group].1.iter().all(|&member| {
                let mut readers = model.node(member).outputs[0].successors.iter().map(|inlet| inlet.node);
                readers.all(|reader| places[&reader] >= places[&id] || group_of.get(&reader) == Some(&group))
            })
        };
        let mut joined: Vec<usize> = Vec::new();
        for input in &node.inputs {
            let Some(&group) = group_of.get(&input.node) else { continue };
            let length: usize = joined.iter().chain([&group]).map(|&group| groups[group].1.len()).sum();
            let fits = !joined.contains(&group) && groups[group].0 == shape && length < LONGEST;
            if fits && !outputs.contains(input) && is_closed(group) {
                joined.push(group);
            }
        }
        let mut members: Vec<usize> =
            joined.iter().flat_map(|&group| std::mem::take(&mut groups[group].1)).chain([id]).collect();
        members.sort_by_key(|member| places[member]);
        group_of.extend(members.iter().map(|&member| (member, groups.len())));
        groups.push((shape, members));
    }
    Ok(groups.into_iter().map(|(_, members)| members).collect())
}

impl Chain {
    /// With the inputs it reads, and the outlets that its results stand for.
    fn of(model: &TypedModel, members: &[usize]) -> TractResult<(Chain, Vec<OutletId>, Vec<OutletId>)> {
        let first = model.node(members[0]);
        let shape: TVec<usize> = first.outputs[0].fact.shape.as_concrete().context("a chain of symbolic shape")?.into();
        let inside: HashMap<OutletId, usize> =
            members.iter().enumerate().map(|(step, &member)| (OutletId::new(member, 0), step)).collect();
        let mut inputs: Vec<OutletId> = Vec::new();
        for input in members.iter().flat_map(|&member| &model.node(member).inputs) {
            if !inside.contains_key(input) && !inputs.contains(input) {
                inputs.push(*input);
            }
        }
        let source = |input: &OutletId| match inside.get(input) {
            Some(step) => inputs.len() + step,
            None => inputs.iter().position(|other| other == input).expect("it was found before"),
        };
        let steps = members.iter().map(|&member| {
            let node = model.node(member);
            let operation = operation(node).context("a member of another operation")?;
            Ok(Step { operation, sources: node.inputs.iter().map(source).collect() })
        });
        let steps = steps.collect::<TractResult<_>>()?;
        let is_read = |member: usize| {
            let readers = &model.node(member).outputs[0].successors;
            readers.iter().any(|inlet| !members.contains(&inlet.node))
                || model.output_outlets().is_ok_and(|outputs| outputs.contains(&OutletId::new(member, 0)))
        };
        let results: TVec<usize> = (0..members.len()).filter(|&step| is_read(members[step])).collect();
        let outlets = results.iter().map(|&step| OutletId::new(members[step], 0)).collect();
        let operands = inputs.iter().map(|&input| Pattern::of(model.outlet_fact(input)?, &shape));
        let operands = operands.collect::<TractResult<_>>()?;
        Ok((Chain { shape, operands, steps, results }, inputs, outlets))
    }

    /// Elements of a tile: rows of a fitting length, so that operands repeated over rows are read where they lie.
    fn tile(&self) -> usize {
        match self.shape.last() {
            Some(&row) if (TILE / 8..=TILE).contains(&row) => row,
            _ => TILE / 2,
        }
    }
}

impl Pattern {
    fn of(fact: &TypedFact, shape: &[usize]) -> TractResult<Pattern> {
        let operand = fact.shape.as_concrete().context("an operand of symbolic shape")?;
        if operand == shape {
            return Ok(Pattern::Whole);
        }
        let axes = operand.iter().zip(shape).zip(strides(operand));
        let axes = axes.map(|((&length, &whole), stride)| [whole, if length == 1 { 0 } else { stride }]);
        Ok(Pattern::Repeated(Repeated::new(axes)))
    }
}

impl Op for Chain {
    fn name(&self) -> StaticName {
        "OnnxshrinkChain".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Chain {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let plain = inputs.iter().map(|input| input.try_as_plain_ram()).collect::<TractResult<Vec<_>>>()?;
        let operands = plain.iter().map(|plain| plain.as_slice::<f32>()).collect::<TractResult<Vec<_>>>()?;
        let length: usize = self.shape.iter().product();
        let results = self.results.iter().map(|_| spare::tensor(&self.shape));
        let mut results = results.collect::<TractResult<Vec<Tensor>>>()?;
        let longest = self.tile();
        let is_repeated = self.operands.iter().map(|pattern| matches!(pattern, Pattern::Repeated(_)));
        let is_inside = (0..self.steps.len()).map(|step| !self.results.contains(&step));
        let needed = is_repeated.chain(is_inside);
        let mut tiles: Vec<Vec<f32>> = needed.map(|needed| vec![0.0; if needed { longest } else { 0 }]).collect();
        {
            let mut plain = results.iter_mut().map(|y| y.try_as_plain_ram_mut()).collect::<TractResult<Vec<_>>>()?;
            let mut outputs = plain.iter_mut().map(|y| y.as_slice_mut::<f32>()).collect::<TractResult<Vec<_>>>()?;
            for start in (0..length).step_by(longest) {
                let range = start..length.min(start + longest);
                let count = range.len();
                let sides: Vec<Option<&[f32]>> = self
                    .operands
                    .iter()
                    .zip(&operands)
                    .zip(&mut tiles)
                    .map(|((pattern, values), tile)| match pattern {
                        Pattern::Whole => Some(&values[range.clone()]),
                        Pattern::Repeated(repeated) => repeated.slice(values, start, count).or_else(|| {
                            repeated.fill(values, start, &mut tile[..count]);
                            None
                        }),
                    })
                    .collect();
                for (index, step) in self.steps.iter().enumerate() {
                    let place = self.operands.len() + index;
                    // A result is written where it stays.
                    let result = self.results.iter().position(|&result| result == index);
                    let mut tile = std::mem::take(&mut tiles[place]);
                    let mut output = result.map(|result| std::mem::take(&mut outputs[result]));
                    let y = match &mut output {
                        Some(output) => &mut output[range.clone()],
                        None => &mut tile[..count],
                    };
                    let source = |source: usize| {
                        if let Some(Some(side)) = sides.get(source) {
                            return *side;
                        }
                        let step = source.checked_sub(self.operands.len());
                        match self.results.iter().position(|&result| Some(result) == step) {
                            Some(result) => &outputs[result][range.clone()],
                            None => &tiles[source][..count],
                        }
                    };
                    let x = source(step.sources[0]);
                    match step.operation {
                        Operation::Unary(unary) => unary.run(x, y),
                        Operation::Binary(binary) => binary.run(x, source(step.sources[1]), y),
                    }
                    tiles[place] = tile;
                    if let (Some(result), Some(output)) = (result, output) {
                        outputs[result] = output;
                    }
                }
            }
        }
        drop(operands);
        drop(plain);
        spare::keep(inputs);
        Ok(results.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

impl TypedOp for Chain {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.results.iter().map(|_| f32::fact(&self.shape)).collect())
    }
    as_op!();
}
