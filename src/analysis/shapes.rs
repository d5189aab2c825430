//! The type and shape of every value, as far as they follow from the model.
//!
//! Law: a fact stays true while the model is rewritten, since a rewrite never changes what a value holds. Values made
//! after the inference are unknown to it. What contradicts itself is unknown.

mod bodies;
pub(super) mod call;
mod dtype;
mod elements;
mod expression;
mod family;
mod infer;
mod layers;
mod layout;
mod rules;
mod signal;
mod window;

use rten_shape_inference::SymExpr;

use super::FixedSizes;
use crate::ir::{DType, Id, Model, ValueId};
use expression::is_cut;

/// Elements of larger tensors are not followed: no operator takes that many sizes.
const MOST_ELEMENTS: usize = 256;

/// What is known of a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fact {
    pub dtype: Option<DType>,
    /// The length of each axis, over the model's symbolic sizes; none where not even the rank is known.
    pub lengths: Option<Vec<SymExpr>>,
    /// The elements of a small tensor of integers or truth values, row by row, over the same symbols. Its shape is fixed.
    pub elements: Option<Vec<SymExpr>>,
}

static NOTHING: Fact = Fact { dtype: None, lengths: None, elements: None };

#[derive(Clone, Debug, Default)]
pub struct Shapes {
    /// By the index of the value.
    facts: Vec<Fact>,
}

impl Shapes {
    pub fn infer(model: &Model) -> Shapes {
        Shapes::infer_with(model, &FixedSizes::default())
    }

    /// Infers for inputs of the given sizes.
    pub fn infer_with(model: &Model, sizes: &FixedSizes) -> Shapes {
        infer::infer(model, sizes)
    }

    pub fn fact(&self, value: ValueId) -> &Fact {
        self.facts.get(value.index()).unwrap_or(&NOTHING)
    }

    pub fn dtype(&self, value: ValueId) -> Option<DType> {
        self.fact(value).dtype
    }

    pub fn rank(&self, value: ValueId) -> Option<usize> {
        self.lengths(value).map(<[SymExpr]>::len)
    }

    /// The length of each axis, as an expression; none if the rank is unknown.
    pub fn lengths(&self, value: ValueId) -> Option<&[SymExpr]> {
        self.fact(value).lengths.as_deref()
    }

    /// The shape, where every axis has a fixed length.
    pub fn fixed(&self, value: ValueId) -> Option<Vec<usize>> {
        fixed_lengths(self.lengths(value)?)
    }

    /// The elements of a small integer tensor, row by row, as expressions; a scalar has one. None where a number is
    /// beyond 32 bits.
    pub fn elements(&self, value: ValueId) -> Option<&[SymExpr]> {
        self.fact(value).elements.as_deref().filter(|elements| !elements.iter().any(is_cut))
    }

    /// Whether both surely have the same shape.
    pub fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        matches!((self.lengths(a), self.lengths(b)), (Some(a), Some(b)) if a == b)
    }

    /// The same with other lengths of some axes, given as value, axis and length: what a model would be like.
    pub fn with_lengths(&self, lengths: impl IntoIterator<Item = (ValueId, usize, usize)>) -> Shapes {
        let mut shapes = self.clone();
        for (value, axis, length) in lengths {
            let known = shapes.facts.get_mut(value.index()).and_then(|fact| fact.lengths.as_mut());
            if let (Some(known), Ok(length)) = (known, i32::try_from(length)) {
                known[axis] = SymExpr::Value(length);
            }
        }
        shapes
    }

    fn set(&mut self, value: ValueId, fact: Fact) {
        self.facts[value.index()] = fact;
    }
}

/// The length, where it is a number.
pub fn fixed_length(length: &SymExpr) -> Option<usize> {
    match length {
        SymExpr::Value(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

fn fixed_lengths(lengths: &[SymExpr]) -> Option<Vec<usize>> {
    lengths.iter().map(fixed_length).collect()
}
