//! What control flow gives: the results of `If`, `Loop` and `Scan` follow from their bodies.
//!
//! The body of a loop is walked under an assumption on the values that it carries from round to round, at first that they
//! keep the shapes that they start with. An axis to which the body gives another length may have any; the body is walked
//! again until it keeps what was assumed.

use rten_shape_inference::SymExpr;

use super::call::{Attributes, ONE, place};
use super::expression::is_cut;
use super::infer::Inference;
use super::{Fact, fixed_length};
use crate::ir::{Attr, DType, GraphId, Node, ValueId};

/// Bodies within more loops are walked once: what they carry is taken as unknown.
const DEEPEST: usize = 2;
/// After so many walks, what a body carries is taken as unknown.
const MOST_WALKS: usize = 4;

/// A shape that holds in every round: an axis without a length may have any.
type Assumed = Option<Vec<Option<SymExpr>>>;

impl<'m> Inference<'m> {
    /// What the branch of an `If` that is taken says, or else what both agree on.
    pub fn branches(&mut self, node: &'m Node) -> Vec<Fact> {
        node.bodies().for_each(|body| self.walk(body));
        let condition = node.inputs.first().copied().flatten().and_then(|condition| self.shapes.elements(condition));
        if let Some([SymExpr::Value(holds)]) = condition
            && let Some(Attr::Graph(taken)) = node.attrs.get(if *holds != 0 { "then_branch" } else { "else_branch" })
        {
            return self.outputs(*taken);
        }
        let mut bodies = node.bodies();
        let mut agreed = bodies.next().map(|body| self.outputs(body)).unwrap_or_default();
        for body in bodies {
            let others = self.outputs(body);
            agreed.truncate(others.len());
            for (fact, other) in agreed.iter_mut().zip(others) {
                self.agree(fact, other);
            }
        }
        agreed
    }

    fn outputs(&self, body: GraphId) -> Vec<Fact> {
        self.model.graph(body).outputs.iter().map(|&out| self.shapes.fact(out).clone()).collect()
    }

    /// Leaves of `fact` what `other` says as well.
    fn agree(&mut self, fact: &mut Fact, other: Fact) {
        if fact.dtype != other.dtype {
            fact.dtype = None;
        }
        if fact.lengths != other.lengths || fact.elements != other.elements {
            fact.elements = None;
        }
        let kept = kept(&fact.lengths.take().map(|lengths| lengths.into_iter().map(Some).collect()), other.lengths);
        fact.lengths = self.opened(&kept);
    }

    /// The results of a Loop: what it carries, and what each round leaves, stacked.
    pub fn looped(&mut self, node: &'m Node) -> Vec<Fact> {
        let Some(body) = node.bodies().next() else { return vec![] };
        let graph = self.model.graph(body);
        let starts: Vec<Fact> = node.inputs.iter().skip(2).map(|&start| self.start(start)).collect();
        match (&graph.inputs[..], &graph.outputs[..]) {
            ([round, condition, carried @ ..], [goes_on, results @ ..])
                if carried.len() == starts.len() && results.len() >= starts.len() =>
            {
                let elements = None;
                self.shapes.set(*round, Fact { dtype: Some(DType::I64), elements, ..self.shapes.fact(*round).clone() });
                // A round runs only where the condition holds.
                let known = self.shapes.fact(*condition).clone();
                let elements = known.lengths.as_ref().map(|_| vec![ONE]);
                self.shapes.set(*condition, Fact { dtype: Some(DType::Bool), elements, ..known });
                let (ends, stacked) = results.split_at(starts.len());
                let mut facts = self.carried(body, carried, &starts, ends);
                let rounds = self.rounds(node, *goes_on);
                facts.extend(stacked.iter().map(|&out| self.stacked(out, &rounds, 0)));
                facts
            }
            _ => {
                self.walk(body);
                vec![]
            }
        }
    }

    /// The results of a Scan: what it carries, and what each step along the scanned axes leaves, stacked.
    pub fn scanned(&mut self, node: &'m Node) -> Vec<Fact> {
        let Some(body) = node.bodies().next() else { return vec![] };
        let (graph, attrs) = (self.model.graph(body), Attributes(node));
        let count = usize::try_from(attrs.int("num_scan_inputs", 0)).ok();
        let states = count.and_then(|count| node.inputs.len().checked_sub(count));
        let Some(states) = states.filter(|&states| {
            // Before opset 9 there is an axis of samples around it all.
            self.opset >= 9 && graph.inputs.len() == node.inputs.len() && graph.outputs.len() >= states
        }) else {
            self.walk(body);
            return self.outputs(body).into_iter().map(|fact| Fact { dtype: fact.dtype, ..Fact::default() }).collect();
        };
        let axis = |name, index| attrs.ints(name).map_or(Some(0), |axes| axes.get(index).copied());
        let mut steps = self.symbols.gen_positive();
        for (index, (&operand, &input)) in node.inputs[states..].iter().zip(&graph.inputs[states..]).enumerate() {
            let mut fact = self.start(operand);
            if let Some(lengths) = &mut fact.lengths {
                match axis("scan_input_axes", index).and_then(|axis| place(axis, lengths.len())) {
                    Some(axis) => {
                        let length = lengths.remove(axis);
                        steps = if fixed_length(&steps).is_some() { steps } else { length };
                    }
                    None => fact.lengths = None,
                }
            }
            self.settle(input, fact);
        }
        let starts: Vec<Fact> = node.inputs[..states].iter().map(|&start| self.start(start)).collect();
        let (ends, stacked) = graph.outputs.split_at(states);
        let mut facts = self.carried(body, &graph.inputs[..states], &starts, ends);
        for (index, &out) in stacked.iter().enumerate() {
            facts.push(match axis("scan_output_axes", index) {
                Some(axis) => self.stacked(out, &steps, axis),
                None => Fact::default(),
            });
        }
        facts
    }

    /// What a loop starts with, without the elements, which change from round to round.
    fn start(&self, operand: Option<ValueId>) -> Fact {
        operand.map_or_else(Fact::default, |operand| Fact { elements: None, ..self.shapes.fact(operand).clone() })
    }

    /// Walks `body` until what is assumed of the values that it carries is what it leaves of them.
    fn carried(&mut self, body: GraphId, inputs: &[ValueId], starts: &[Fact], ends: &[ValueId]) -> Vec<Fact> {
        let deep = self.loops >= DEEPEST;
        let whole = |start: &Fact| Some(start.lengths.as_ref().filter(|_| !deep)?.iter().cloned().map(Some).collect());
        let mut assumed: Vec<Assumed> = starts.iter().map(whole).collect();
        self.loops += 1;
        for walks in 1.. {
            for ((&input, start), shape) in inputs.iter().zip(starts).zip(&assumed) {
                let lengths = self.opened(shape);
                self.settle(input, Fact { dtype: start.dtype, lengths, elements: None });
            }
            self.walk(body);
            let left = assumed.iter().zip(ends).map(|(shape, &end)| kept(shape, self.shapes.fact(end).lengths.clone()));
            let left: Vec<Assumed> = left.collect();
            if left == assumed {
                break;
            }
            assumed = if walks < MOST_WALKS { left } else { vec![None; starts.len()] };
        }
        self.loops -= 1;
        let results = starts.iter().zip(ends).zip(&assumed);
        results
            .map(|((start, &end), shape)| Fact {
                dtype: start.dtype.or(self.shapes.dtype(end)),
                lengths: self.opened(shape),
                elements: None,
            })
            .collect()
    }

    fn opened(&mut self, shape: &Assumed) -> Option<Vec<SymExpr>> {
        let open = |length: &Option<SymExpr>| length.clone().unwrap_or_else(|| self.symbols.gen_positive());
        Some(shape.as_ref()?.iter().map(open).collect())
    }

    /// How often a Loop runs its body.
    fn rounds(&mut self, node: &Node, goes_on: ValueId) -> SymExpr {
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let is_true = |value: ValueId| self.shapes.elements(value) == Some(&[ONE]);
        let never_stops = operand(1).is_none_or(is_true) && is_true(goes_on);
        match operand(0).and_then(|most| self.shapes.elements(most)) {
            Some([most]) if never_stops && most.is_positive() && !is_cut(most) => most.clone(),
            _ => self.symbols.gen_positive(),
        }
    }

    /// What many rounds leave of a value, along a new axis. A loop that never runs leaves open lengths at 0.
    fn stacked(&mut self, out: ValueId, rounds: &SymExpr, axis: i64) -> Fact {
        let fact = self.shapes.fact(out).clone();
        let lengths = fact.lengths.and_then(|lengths| {
            let mut lengths: Assumed = Some(lengths.into_iter().map(|n| fixed_length(&n).map(|_| n)).collect());
            let all = lengths.as_mut()?;
            all.insert(place(axis, all.len() + 1)?, Some(rounds.clone()));
            self.opened(&lengths)
        });
        Fact { dtype: fact.dtype, lengths, elements: None }
    }
}

/// What holds of a shape that is as assumed, and then is `next`.
fn kept(assumed: &Assumed, next: Option<Vec<SymExpr>>) -> Assumed {
    match (assumed, next) {
        (Some(axes), Some(next)) if axes.len() == next.len() => {
            let same = |(axis, next): (&Option<SymExpr>, SymExpr)| axis.clone().filter(|length| *length == next);
            Some(axes.iter().zip(next).map(same).collect())
        }
        _ => None,
    }
}
