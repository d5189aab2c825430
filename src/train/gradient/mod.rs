//! Gradients as a graph transform: [`gradient`] appends to a model the nodes that compute the derivatives of a loss.
//!
//! - [`table`] has one arm for each operator: from the gradient of a node's results to those of its operands.
//! - [`tape`] writes the nodes, and knows the shape of every value: shapes are fixed, since a plan has fixed shapes anyway.
//! - [`operators`] are views that only gradients need.
//! - One file for each family of operators, with the equation beside each arm. [`recurrent`] layers have no arm: they are
//!   written out first.
//!
//! Law: an arm gives the derivative by each operand as if that were of the result's full shape; sums over axes along which
//! an operand was broadcast, and sums over all readers of a value, are taken here and nowhere else.

mod activation;
mod arithmetic;
mod convolution;
mod indexing;
mod layout;
pub(crate) mod normalization;
pub(crate) mod operators;
mod pool;
mod product;
mod quantization;
mod recurrent;
mod reduction;
mod resize;
mod softmax;
mod table;
pub(crate) mod tape;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{HashMap, HashSet};

use crate::ir::{Model, NodeId, Op, ValueId};
use table::TABLE;
use tape::Tape;

/// Why a loss cannot be differentiated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GradientError {
    #[error("{node} cannot be trained through: {why}")]
    Node { node: String, why: String },
    #[error("the loss `{0}` is not a single float")]
    Loss(String),
}

/// Why an arm does not take a node.
pub(super) struct Refusal(pub &'static str);

/// The derivatives by each operand; none where it is not asked for, or zero.
type Gradients = Vec<Option<ValueId>>;

type Arm = fn(&mut Tape, &Site) -> Result<Gradients, Refusal>;

/// A node on the way from what is trained to the loss.
pub(super) struct Site {
    node: NodeId,
    operands: Vec<Option<ValueId>>,
    results: Vec<Option<ValueId>>,
    /// The gradients of the results; none where the loss does not depend on one.
    given: Vec<Option<ValueId>>,
    wanted: Vec<bool>,
}

impl Site {
    /// The node as this operator.
    fn view<O: Op>(&self, tape: &Tape) -> Result<O, Refusal> {
        tape.model.view(self.node).ok_or(Refusal("it has operands or attributes that no gradient is known of"))
    }

    /// The first result.
    fn y(&self) -> ValueId {
        self.results[0].expect("its gradient is given")
    }

    /// The gradient of the first result.
    fn dy(&self) -> Result<ValueId, Refusal> {
        self.given[0].ok_or(Refusal("the loss depends on another of its results than the first"))
    }

    /// Whether the gradient by operand `index` is asked for.
    fn wants(&self, index: usize) -> bool {
        self.wanted.get(index).is_some_and(|wanted| *wanted)
    }
}

/// Appends the nodes that compute the derivatives of `loss`, a single float, by each of `wrt`: constants or inputs of the
/// main graph. None where the loss does not depend on one. Normalizations and recurrent layers on the way are written out, so
/// that both directions share what they have in common; they compute what they did.
///
/// # Errors
/// If an operator on the way has no gradient here, or a shape on the way is not fixed. It is found before anything is
/// computed, and names the node.
pub fn gradient(model: &mut Model, loss: ValueId, wrt: &[ValueId]) -> Result<Vec<Option<ValueId>>, GradientError> {
    let mut tape = Tape::new(model);
    gradient_on(&mut tape, loss, wrt)
}

/// [`gradient`] with operators of ours, which run only [as training runs](crate::runtime::Execution::training).
///
/// # Errors
/// As [`gradient`].
pub fn gradient_in_ours(
    model: &mut Model,
    loss: ValueId,
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GradientError> {
    let mut tape = Tape::new(model);
    tape.has_ours = true;
    let gradients = gradient_on(&mut tape, loss, wrt)?;
    tape.declare();
    Ok(gradients)
}

/// [`gradient`] behind what `tape` has written already.
pub(crate) fn gradient_on(
    tape: &mut Tape,
    loss: ValueId,
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GradientError> {
    let is_single = tape.known(loss).is_some_and(|(dtype, shape)| dtype.is_float() && shape.iter().all(|&n| n == 1));
    if !is_single {
        return Err(GradientError::Loss(tape.model.value(loss).name.clone()));
    }
    unroll(tape, loss, wrt)?;
    let way = Way::find(tape, loss, wrt);
    let shape = tape.shape(loss);
    let one = tape.filled(1.0, &shape, loss);
    let mut sums: HashMap<ValueId, Vec<ValueId>> = HashMap::from([(loss, vec![one])]);
    for &node in way.nodes.iter().rev() {
        let label = tape.model.label(node);
        let (operands, results) = (tape.model.node(node).inputs.clone(), tape.model.node(node).outputs.clone());
        tape.prefix = format!("gradient/{}", name_of(tape.model, node));
        let given: Vec<_> = results.iter().map(|result| total(tape, &mut sums, (*result)?)).collect();
        if given.iter().all(Option::is_none) {
            continue;
        }
        let wanted = operands.iter().map(|operand| operand.is_some_and(|operand| way.depends(operand))).collect();
        let arm = table::arm(tape.model, node).expect("checked before");
        let site = Site { node, operands, results, given, wanted };
        let refused = |Refusal(why)| GradientError::Node { node: label.clone(), why: why.into() };
        let gradients = arm(tape, &site).map_err(refused)?;
        for (index, gradient) in gradients.into_iter().enumerate() {
            let (Some(gradient), Some(operand)) = (gradient, site.operands.get(index).copied().flatten()) else {
                continue;
            };
            if way.depends(operand) {
                let shape = tape.shape(operand);
                let gradient = tape.reduce_to(gradient, &shape);
                sums.entry(operand).or_default().push(gradient);
            }
        }
    }
    tape.prefix = "gradient".into();
    Ok(wrt.iter().map(|&value| total(tape, &mut sums, value)).collect())
}

/// Writes out the recurrent layers between `wrt` and `loss`, after looking whether gradients are known of all that lies
/// there.
///
/// # Errors
/// As [`gradient`].
pub(crate) fn unroll(tape: &mut Tape, loss: ValueId, wrt: &[ValueId]) -> Result<(), GradientError> {
    let way = Way::find(tape, loss, wrt);
    way.check(tape)?;
    for node in way.nodes.into_iter().filter(|&node| recurrent::is_recurrent(tape.model, node)).collect::<Vec<_>>() {
        let label = tape.model.label(node);
        tape.prefix = name_of(tape.model, node);
        recurrent::write_out(tape, node)
            .map_err(|Refusal(why)| GradientError::Node { node: label, why: why.into() })?;
    }
    Ok(())
}

/// The sum of all that was found for `value`.
fn total(tape: &mut Tape, sums: &mut HashMap<ValueId, Vec<ValueId>>, value: ValueId) -> Option<ValueId> {
    let parts = product::joined(tape, sums.get(&value)?.clone());
    let mut parts = parts.into_iter();
    let first = parts.next()?;
    let sum = parts.fold(first, |sum, part| tape.add(sum, part));
    sums.insert(value, vec![sum]);
    Some(sum)
}

fn name_of(model: &Model, node: NodeId) -> String {
    let node = model.node(node);
    match node.name.as_str() {
        "" => node.outputs.iter().flatten().next().map_or(String::new(), |&out| model.value(out).name.clone()),
        name => name.into(),
    }
}

/// What lies between what is trained and the loss.
struct Way {
    /// In execution order.
    nodes: Vec<NodeId>,
    /// What depends on what is trained, and is a float or a level that stands for one.
    dependent: HashSet<ValueId>,
}

impl Way {
    fn find(tape: &Tape, loss: ValueId, wrt: &[ValueId]) -> Way {
        let model = &*tape.model;
        let mut needed = HashSet::new();
        let mut work: Vec<_> = model.producer(loss).into_iter().collect();
        while let Some(node) = work.pop() {
            if needed.insert(node) {
                work.extend(reads(model, node).filter_map(|value| model.producer(value)));
            }
        }
        let mut dependent: HashSet<ValueId> = wrt.iter().copied().collect();
        let mut nodes = Vec::new();
        for node in model.nodes_of(model.main).filter(|node| needed.contains(node)) {
            if !table::is_constant(model, node) && reads(model, node).any(|value| dependent.contains(&value)) {
                // Integers and truth values are constant wherever they do not jump. Levels change with what they stand for.
                let changes = |value: &ValueId| {
                    table::gives_levels(model, node) || tape.known(*value).is_none_or(|(dtype, _)| dtype.is_float())
                };
                let results: Vec<_> = model.node(node).outputs.iter().flatten().copied().filter(changes).collect();
                if !results.is_empty() {
                    dependent.extend(results);
                    nodes.push(node);
                }
            }
        }
        Way { nodes, dependent }
    }

    fn depends(&self, value: ValueId) -> bool {
        self.dependent.contains(&value)
    }

    fn check(&self, tape: &Tape) -> Result<(), GradientError> {
        for &node in &self.nodes {
            let model = &*tape.model;
            let refuse = |why: String| Err(GradientError::Node { node: model.label(node), why });
            if table::arm(model, node).is_none() && !recurrent::is_recurrent(model, node) {
                return refuse("no gradient is known of the operator".into());
            }
            let values = model.node(node).inputs.iter().chain(&model.node(node).outputs).flatten();
            let read = |value: &&ValueId| model.value(**value).uses.iter().next().is_some();
            if let Some(open) = values.filter(read).find(|value| tape.known(**value).is_none()) {
                return refuse(format!("the shape of `{}` is not fixed", model.value(*open).name));
            }
        }
        Ok(())
    }
}

/// What a node reads, its bodies included.
fn reads(model: &Model, node: NodeId) -> impl Iterator<Item = ValueId> {
    let mut values: Vec<ValueId> = model.node(node).inputs.iter().flatten().copied().collect();
    let mut bodies: Vec<_> = model.node(node).bodies().collect();
    while let Some(body) = bodies.pop() {
        for inner in model.nodes_of(body) {
            values.extend(model.node(inner).inputs.iter().flatten());
            bodies.extend(model.node(inner).bodies());
        }
        values.extend(&model.graph(body).outputs);
    }
    values.into_iter()
}

/// Every operator that has a gradient, by its name.
pub fn differentiable() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(op, _)| *op).chain(recurrent::OPERATORS.iter().copied())
}
