//! What a quantizer does besides rounding: the activations, scales and shifts behind a node that it stands for.
//!
//! clip(gain·x + shift, low, high) costs nothing where the result is quantized: the limits are the ends of the grid, gain and
//! shift only rename its numbers.

use crate::ir::op::{Add, Clip, Div, HardSigmoid, Mul, Relu, Sub};
use crate::ir::{Model, NodeId, Use, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss};

/// clip(gain·x + shift, low, high), where gain > 0 and low ≤ 0 ≤ high.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tail {
    pub gain: f32,
    pub shift: f32,
    pub low: f32,
    pub high: f32,
}

impl Tail {
    pub const NOTHING: Tail = Tail { gain: 1.0, shift: 0.0, low: f32::NEG_INFINITY, high: f32::INFINITY };

    /// This one, followed by gain·x + shift.
    fn then_mapped(self, gain: f32, shift: f32) -> Tail {
        let map = |x: f32| x * gain + shift;
        Tail { gain: self.gain * gain, shift: map(self.shift), low: map(self.low), high: map(self.high) }
    }

    fn then_clipped(self, low: f32, high: f32) -> Tail {
        Tail { low: self.low.clamp(low, high), high: self.high.clamp(low, high), ..self }
    }

    /// This one, followed by what `node` does to `x`.
    fn then(self, model: &Model, node: NodeId, x: ValueId) -> Match<Tail> {
        let tail = self.behind(model, node, x)?;
        require!(tail.gain > 0.0 && tail.gain.is_finite() && tail.shift.is_finite(), "it turns the sign");
        require!(tail.low <= 0.0 && tail.high >= 0.0 && tail.low < tail.high, "zero is outside of its limits");
        Ok(tail)
    }

    fn behind(self, model: &Model, node: NodeId, x: ValueId) -> Match<Tail> {
        let number = |value: ValueId| {
            let tensor = model.constant(value).ok_or(Miss("not a constant"))?;
            require!(tensor.rank() <= 1, "the constant may add axes to the value");
            tensor.as_float().filter(|x| x.is_finite()).ok_or(Miss("not a single number"))
        };
        let other = |a: ValueId, b: ValueId| number(if a == x { b } else { a });
        if let Some(Relu { .. }) = model.view(node) {
            return Ok(self.then_clipped(0.0, f32::INFINITY));
        }
        if let Some(Clip { x: clipped, min, max }) = model.view(node) {
            require!(clipped == x, "it is a limit");
            let bound = |bound: Option<ValueId>, open: f32| bound.map_or(Ok(open), number);
            let (low, high) = (bound(min, f32::NEG_INFINITY)?, bound(max, f32::INFINITY)?);
            require!(low <= high, "its limits are crossed");
            return Ok(self.then_clipped(low, high));
        }
        if let Some(HardSigmoid { alpha, beta, .. }) = model.view(node) {
            return Ok(self.then_mapped(alpha, beta).then_clipped(0.0, 1.0));
        }
        if let Some(Mul { a, b }) = model.view(node) {
            return Ok(self.then_mapped(other(a, b)?, 0.0));
        }
        if let Some(Add { a, b }) = model.view(node) {
            return Ok(self.then_mapped(1.0, other(a, b)?));
        }
        if let Some(Sub { a, b }) = model.view(node) {
            require!(a == x, "it turns the sign");
            return Ok(self.then_mapped(1.0, -number(b)?));
        }
        let Div { a, b } = model.view(node).ok_or(Miss("neither a limit nor a map"))?;
        require!(a == x, "a constant is divided by the value");
        Ok(self.then_mapped(number(b)?.recip(), 0.0))
    }
}

/// The nodes behind `value` whose work its quantizer can do, as far as each alone reads the one before.
pub fn follow(model: &Model, value: ValueId, takes: impl Fn(NodeId) -> bool) -> (Vec<NodeId>, Tail) {
    let (mut nodes, mut tail, mut value) = (Vec::new(), Tail::NOTHING, value);
    while let Some(node) = only_reader(model, value).filter(|&node| takes(node)) {
        let Ok(longer) = tail.then(model, node, value) else { break };
        let Some(&Some(result)) = model.node(node).outputs.first() else { break };
        tail = longer;
        nodes.push(node);
        value = result;
    }
    (nodes, tail)
}

/// The node that alone reads `value`, once, in the same graph.
pub fn only_reader(model: &Model, value: ValueId) -> Option<NodeId> {
    let read = model.value(value);
    match read.uses.iter().copied().collect::<Vec<_>>()[..] {
        [Use::Node(node, _)] if model.node(node).graph == read.graph => Some(node),
        _ => None,
    }
}
