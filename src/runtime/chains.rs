//! Chains of elementwise operators of floats: one operator computes them tile by tile, so that what lies between them
//! never leaves the first cache.
//!
//! Law: a chain stands where its last member stood, so whatever else reads a member has to come later.

use std::collections::{HashMap, HashSet};

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;

use super::execute::strides;
use super::{recomputation, spare};
use crate::kernels::{self, Binary, Function, Pattern, Repeated, Step, Unary};

/// A chain holds no more: its tiles are to stay in the cache.
pub(super) const LONGEST: usize = 32;

/// Below so many elements, a chain takes as long to start as its members take to run.
const SMALLEST: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    shape: TVec<usize>,
    results: usize,
    chain: kernels::Chain,
}

/// Puts chains in the place of their members.
pub(super) fn take_over(model: &mut TypedModel) -> TractResult<()> {
    recomputation::spread(model)?;
    let mut worth = groups(model)?;
    worth.retain(|members| match members[..] {
        [] => false,
        [alone] => repeats(model, alone),
        _ => true,
    });
    for members in worth {
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

fn function(node: &TypedNode) -> Option<Function> {
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
        return Some(Function::Binary(binary));
    }
    let ElementWiseOp(op, None) = node.op_as::<ElementWiseOp>()? else { return None };
    let unary = match &*op.name() {
        "Abs" => Unary::Abs,
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "GeluExact" => Unary::Gelu,
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
    Some(Function::Unary(unary))
}

/// Whether a member reads elements more than once, which a chain does faster than tract even with one member.
fn repeats(model: &TypedModel, member: usize) -> bool {
    let node = model.node(member);
    let facts = model.node_input_facts(member).unwrap_or_default();
    facts.iter().any(|fact| fact.shape != node.outputs[0].fact.shape)
}

/// The shape of the result of a node that can be a member.
fn member_shape(model: &TypedModel, node: &TypedNode) -> Option<TVec<usize>> {
    function(node)?;
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
pub(super) fn groups(model: &TypedModel) -> TractResult<Vec<Vec<usize>>> {
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
            let function = function(node).context("a member of another operation")?;
            Ok(Step { function, sources: node.inputs.iter().map(source).collect() })
        });
        let steps = steps.collect::<TractResult<_>>()?;
        let is_read = |member: usize| {
            let readers = &model.node(member).outputs[0].successors;
            readers.iter().any(|inlet| !members.contains(&inlet.node))
                || model.output_outlets().is_ok_and(|outputs| outputs.contains(&OutletId::new(member, 0)))
        };
        let results: Vec<usize> = (0..members.len()).filter(|&step| is_read(members[step])).collect();
        let outlets = results.iter().map(|&step| OutletId::new(members[step], 0)).collect();
        let patterns = inputs.iter().map(|&input| pattern(model.outlet_fact(input)?, &shape));
        let chain = kernels::Chain::new(&shape, patterns.collect::<TractResult<_>>()?, steps, &results);
        Ok((Chain { shape, results: results.len(), chain }, inputs, outlets))
    }
}

fn pattern(fact: &TypedFact, shape: &[usize]) -> TractResult<Pattern> {
    let operand = fact.shape.as_concrete().context("an operand of symbolic shape")?;
    if operand == shape {
        return Ok(Pattern::Whole);
    }
    let axes = operand.iter().zip(shape).zip(strides(operand));
    let axes = axes.map(|((&length, &whole), stride)| [whole, if length == 1 { 0 } else { stride }]);
    Ok(Pattern::Repeated(Repeated::new(axes)))
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
        let results = (0..self.results).map(|_| spare::tensor(&self.shape));
        let mut results = results.collect::<TractResult<Vec<Tensor>>>()?;
        {
            let plain = inputs.iter().map(|input| input.try_as_plain_ram()).collect::<TractResult<Vec<_>>>()?;
            let operands = plain.iter().map(|plain| plain.as_slice::<f32>()).collect::<TractResult<Vec<_>>>()?;
            let mut plain = results.iter_mut().map(|y| y.try_as_plain_ram_mut()).collect::<TractResult<Vec<_>>>()?;
            let outputs = plain.iter_mut().map(|y| y.as_slice_mut::<f32>());
            self.chain.run(&operands, &mut outputs.collect::<TractResult<Vec<_>>>()?);
        }
        spare::keep(inputs);
        Ok(results.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

impl TypedOp for Chain {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok((0..self.results).map(|_| f32::fact(&self.shape)).collect())
    }
    as_op!();
}
