//! A node as the rules see it: what is known of its operands, and its attributes.

use rten_shape_inference::{InferShapes, InferShapesContext, SymExpr, SymTensor, SymbolGen};

use super::expression::is_cut;
use super::{MOST_ELEMENTS, fixed_length};
use crate::ir::{Attr, Node, Tensor};

/// A shape.
pub type Lengths = Vec<SymExpr>;

pub const ONE: SymExpr = SymExpr::Value(1);

/// A node with what is known of its operands.
pub struct Call<'c> {
    pub node: &'c Node,
    /// What is known of each operand; none where it is left out.
    pub operands: &'c [Option<SymTensor>],
    /// The operands that are constants.
    pub constants: &'c [Option<&'c Tensor>],
    pub opset: i64,
    pub symbols: &'c mut SymbolGen,
}

impl Call<'_> {
    /// The axes that a reduction removes; none where they are not known.
    pub(super) fn reduced_axes(&self) -> Option<Vec<usize>> {
        let attrs = Attributes(self.node);
        let rank = self.lengths(0)?.len();
        if matches!(self.node.op.as_str(), "ArgMax" | "ArgMin") {
            return Some(vec![place(attrs.int("axis", 0), rank)?]);
        }
        let axes = if self.is_given(1, "axes") { self.axes(1, "axes")? } else { vec![] };
        match (axes.as_slice(), attrs.int("noop_with_empty_axes", 0)) {
            ([], 0) => Some((0..rank).collect()),
            (axes, _) => places(axes, rank),
        }
    }

    pub(super) fn infer(&mut self, rule: &dyn InferShapes) -> Option<Lengths> {
        let results = rule.infer_shapes(InferShapesContext::new(self.operands), self.symbols).ok()?;
        Some(results.first()?.shape()?.collect())
    }

    pub(super) fn lengths(&self, index: usize) -> Option<Lengths> {
        Some(self.operands.get(index)?.as_ref()?.shape()?.collect())
    }

    /// The operand, where its elements are known.
    pub(super) fn held(&self, index: usize) -> Option<&SymTensor> {
        self.operands.get(index)?.as_ref().filter(|tensor| tensor.values().is_some())
    }

    /// The elements of an operand that are numbers all.
    pub(super) fn ints(&self, index: usize) -> Option<Vec<i64>> {
        match self.constants.get(index).copied().flatten() {
            Some(tensor) => tensor.ints(),
            None => {
                let number = |x: &SymExpr| match x {
                    SymExpr::Value(n) if !is_cut(x) => Some(i64::from(*n)),
                    _ => None,
                };
                self.held(index)?.values()?.iter().map(number).collect()
            }
        }
    }

    /// The only element of an operand, where it is a number.
    pub(super) fn scalar(&self, index: usize) -> Option<i64> {
        match self.ints(index)?[..] {
            [n] if n.unsigned_abs() < 1 << 31 => Some(n),
            _ => None,
        }
    }

    /// Whether there is an operand, or an attribute in its place, as older opsets have it.
    pub(super) fn is_given(&self, index: usize, name: &str) -> bool {
        self.node.attrs.contains_key(name) || self.node.inputs.get(index).is_some_and(Option::is_some)
    }

    pub(super) fn axes(&self, index: usize, name: &str) -> Option<Vec<i64>> {
        match self.node.attrs.get(name) {
            Some(Attr::Ints(axes)) => Some(axes.clone()),
            Some(_) => None,
            None => self.ints(index),
        }
        .filter(|axes| axes.len() <= MOST_ELEMENTS)
    }

    pub(super) fn or_open(&mut self, length: Option<SymExpr>) -> SymExpr {
        length.unwrap_or_else(|| self.symbols.gen_positive())
    }

    pub(super) fn slices(&self) -> Option<Vec<Range>> {
        let rank = self.operands.first()?.as_ref()?.ndim()?;
        let bound = |index: usize, name: &str, at: usize| -> Option<i64> {
            match Attributes(self.node).ints(name) {
                Some(all) => all.get(at).copied(),
                None => match self.constants.get(index).copied().flatten() {
                    Some(tensor) => tensor.ints()?.get(at).copied(),
                    None => match self.held(index)?.values()?.get(at)? {
                        SymExpr::Value(n) => Some(i64::from(*n)),
                        _ => None,
                    },
                },
            }
        };
        let count = match Attributes(self.node).ints("starts") {
            Some(starts) => starts.len(),
            None => fixed_len(&self.lengths(1)?)?,
        };
        let axes = match self.is_given(3, "axes") {
            true => self.axes(3, "axes")?,
            false => (0..count as i64).collect(),
        };
        let steps = if self.is_given(4, "steps") { self.axes(4, "steps")? } else { vec![1; count] };
        let axes = places(&axes, rank)?;
        (axes.len() == count && steps.len() == count && !steps.contains(&0)).then(|| {
            let range = |at| Range {
                axis: axes[at],
                start: bound(1, "starts", at),
                end: bound(2, "ends", at),
                step: steps[at],
            };
            (0..count).map(range).collect()
        })
    }
}

/// What a Slice takes of one axis; start and end are none where they are not numbers.
pub struct Range {
    pub axis: usize,
    pub start: Option<i64>,
    pub end: Option<i64>,
    pub step: i64,
}

/// The axis counted from the front.
pub fn place(axis: i64, rank: usize) -> Option<usize> {
    let rank = rank as i64;
    (-rank..rank).contains(&axis).then_some((if axis < 0 { axis + rank } else { axis }) as usize)
}

pub fn places(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    let places: Vec<usize> = axes.iter().map(|&axis| place(axis, rank)).collect::<Option<_>>()?;
    (0..places.len()).all(|at| !places[..at].contains(&places[at])).then_some(places)
}

/// The elements of an axis that a slice takes.
pub fn positions(length: i64, start: i64, end: i64, step: i64) -> Option<impl Iterator<Item = i64>> {
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let from_front = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    let (start, end) = (from_front(start).clamp(low.max(0), high.max(0)), from_front(end).clamp(low, high));
    let apart = if step > 0 { end - start } else { start - end };
    let stride = i64::try_from(step.unsigned_abs()).ok()?;
    let count = if length == 0 || apart <= 0 { 0 } else { (apart - 1) / stride + 1 };
    Some((0..count).map(move |at| start + at * step))
}

/// How many numbers a Range has.
pub fn steps([start, limit, delta]: [i64; 3]) -> Option<i64> {
    let (apart, stride) = if delta > 0 { (limit - start, delta) } else { (start - limit, -delta) };
    (delta != 0).then(|| if apart <= 0 { 0 } else { (apart - 1) / stride + 1 })
}

/// How many elements a vector of these lengths has: the rank of what it is the shape of.
pub fn fixed_len(lengths: &[SymExpr]) -> Option<usize> {
    match lengths {
        [length] => fixed_length(length).filter(|&n| n <= MOST_ELEMENTS),
        _ => None,
    }
}

/// The attributes of a node, by name and kind.
pub struct Attributes<'n>(pub &'n Node);

impl<'n> Attributes<'n> {
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.0.attrs.get(name) {
            Some(Attr::Int(x)) => *x,
            _ => default,
        }
    }

    pub fn ints(&self, name: &str) -> Option<&'n [i64]> {
        match self.0.attrs.get(name) {
            Some(Attr::Ints(xs)) => Some(xs),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&'n str> {
        match self.0.attrs.get(name) {
            Some(Attr::Str(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }
}
