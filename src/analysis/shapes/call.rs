//! A node as the rules see it: what is known of its operands, and its attributes.

use ndarray::{ArrayD, ArrayViewD, IxDyn};
use rten_shape_inference::{SymExpr, SymbolGen};

use super::dtype::result_type;
use super::expression::{is_cut, plausible};
use super::family::Family;
use super::infer::holds_sizes;
use super::{Fact, MOST_ELEMENTS, Shapes, fixed_length, fixed_lengths};
use crate::ir::{Attr, DType, Model, Node, Tensor};

/// A shape.
pub type Lengths = Vec<SymExpr>;

pub const ONE: SymExpr = SymExpr::Value(1);

/// A node with what is known of its operands.
pub struct Call<'c> {
    pub model: &'c Model,
    pub node: &'c Node,
    pub facts: &'c Shapes,
    pub opset: i64,
    pub symbols: &'c mut SymbolGen,
    pub family: Option<Family>,
}

impl<'c> Call<'c> {
    pub fn new(model: &'c Model, node: &'c Node, facts: &'c Shapes, opset: i64, symbols: &'c mut SymbolGen) -> Self {
        let family = if node.domain.is_empty() { Family::of(&node.op) } else { None };
        Call { model, node, facts, opset, symbols, family }
    }

    /// What is known of each result.
    pub fn results(&mut self) -> Vec<Fact> {
        let typed = |index| Fact { dtype: result_type(self, index), ..Fact::default() };
        let mut facts: Vec<Fact> = (0..self.node.outputs.len()).map(typed).collect();
        if facts.first().is_some_and(|first| holds_sizes(first.dtype))
            && let Some(computed) = self.computed()
        {
            facts.iter_mut().zip(computed).for_each(|(fact, elements)| fact.hold(elements));
        } else if let Some(shapes) = self.shapes() {
            for (fact, lengths) in facts.iter_mut().zip(shapes) {
                fact.lengths = Some(self.plausible(lengths));
            }
        }
        facts
    }

    /// What is known of the only result.
    pub fn result(&mut self) -> Fact {
        let mut fact = Fact { dtype: result_type(self, 0), ..Fact::default() };
        if holds_sizes(fact.dtype)
            && let Some(computed) = self.computed()
        {
            computed.into_iter().take(1).for_each(|elements| fact.hold(elements));
        } else {
            let lengths = match self.family {
                Some(family) => self.shape_of(family),
                None => self.shapes().and_then(|shapes| shapes.into_iter().next()),
            };
            fact.lengths = lengths.map(|lengths| self.plausible(lengths));
        }
        fact
    }

    fn plausible(&mut self, mut lengths: Lengths) -> Lengths {
        lengths.iter_mut().for_each(|length| plausible(length, self.symbols));
        lengths
    }

    fn fact(&self, index: usize) -> Option<&'c Fact> {
        Some(self.facts.fact((*self.node.inputs.get(index)?)?))
    }

    pub fn dtype(&self, index: usize) -> Option<DType> {
        self.fact(index)?.dtype
    }

    pub fn lengths(&self, index: usize) -> Option<&'c [SymExpr]> {
        self.fact(index)?.lengths.as_deref()
    }

    pub fn rank(&self, index: usize) -> Option<usize> {
        self.lengths(index).map(<[SymExpr]>::len)
    }

    /// The operand, where it is a constant.
    pub fn constant(&self, index: usize) -> Option<&'c Tensor> {
        self.model.constant((*self.node.inputs.get(index)?)?)
    }

    /// The operand, where its elements are known.
    pub fn held(&self, index: usize) -> Option<ArrayViewD<'c, SymExpr>> {
        let fact = self.fact(index)?;
        let shape = fixed_lengths(fact.lengths.as_ref()?)?;
        ArrayViewD::from_shape(IxDyn(&shape), fact.elements.as_ref()?).ok()
    }

    /// The elements of a vector, where they are known.
    pub fn vector(&self, index: usize) -> Option<&'c [SymExpr]> {
        let fact = self.fact(index)?;
        fact.elements.as_deref().filter(|_| fact.lengths.as_ref().is_some_and(|lengths| lengths.len() == 1))
    }

    /// The only element of an operand, where it is known.
    pub fn only(&self, index: usize) -> Option<&'c SymExpr> {
        match self.fact(index)?.elements.as_deref()? {
            [only] if !is_cut(only) => Some(only),
            _ => None,
        }
    }

    /// The elements of an operand that are numbers all.
    pub fn ints(&self, index: usize) -> Option<Vec<i64>> {
        match self.constant(index) {
            Some(tensor) => tensor.ints(),
            None => {
                let number = |x: &SymExpr| match x {
                    SymExpr::Value(n) if !is_cut(x) => Some(i64::from(*n)),
                    _ => None,
                };
                self.fact(index)?.elements.as_ref()?.iter().map(number).collect()
            }
        }
    }

    /// The only element of an operand, where it is a number.
    pub fn scalar(&self, index: usize) -> Option<i64> {
        match self.ints(index)?[..] {
            [n] if n.unsigned_abs() < 1 << 31 => Some(n),
            _ => None,
        }
    }

    /// How many elements a vector has: the rank of what it is the shape of.
    pub fn count(&self, index: usize) -> Option<usize> {
        match self.lengths(index)? {
            [length] => fixed_length(length).filter(|&n| n <= MOST_ELEMENTS),
            _ => None,
        }
    }

    /// Whether there is an operand, or an attribute in its place, as older opsets have it.
    pub fn is_given(&self, index: usize, name: &str) -> bool {
        self.node.attrs.contains_key(name) || self.node.inputs.get(index).is_some_and(Option::is_some)
    }

    /// The axes that an operand, or an attribute in its place, names.
    pub fn axes(&self, index: usize, name: &str) -> Option<Vec<i64>> {
        match self.node.attrs.get(name) {
            Some(Attr::Ints(axes)) => Some(axes.clone()),
            Some(_) => None,
            None => self.ints(index),
        }
        .filter(|axes| axes.len() <= MOST_ELEMENTS)
    }

    /// How many axes an operand, or an attribute in its place, names.
    pub fn count_of_axes(&self, index: usize, name: &str) -> Option<usize> {
        match self.node.attrs.get(name) {
            Some(Attr::Ints(axes)) => Some(axes.len()),
            Some(_) => None,
            None => self.count(index),
        }
    }

    pub fn attrs(&self) -> Attributes<'c> {
        Attributes(self.node)
    }

    pub fn open(&mut self) -> SymExpr {
        self.symbols.gen_positive()
    }

    /// A shape of which the rank is known.
    pub fn open_shape(&mut self, rank: usize) -> Lengths {
        self.symbols.gen_shape(rank)
    }

    pub fn or_open(&mut self, length: Option<SymExpr>) -> SymExpr {
        length.unwrap_or_else(|| self.symbols.gen_positive())
    }

    pub fn all_or_open(&mut self, lengths: impl IntoIterator<Item = Option<SymExpr>>) -> Lengths {
        lengths.into_iter().map(|length| self.or_open(length)).collect()
    }
}

impl Fact {
    /// Takes over what is known of all elements, if they are few.
    fn hold(&mut self, elements: ArrayD<SymExpr>) {
        self.lengths = super::infer::lengths(elements.shape());
        self.elements = (elements.len() <= MOST_ELEMENTS).then(|| elements.into_iter().collect());
    }
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

/// The attributes of a node, by name and kind.
#[derive(Clone, Copy)]
pub struct Attributes<'n>(pub &'n Node);

impl<'n> Attributes<'n> {
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.0.attrs.get(name) {
            Some(Attr::Int(x)) => *x,
            _ => default,
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name, default.into()) != 0
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
