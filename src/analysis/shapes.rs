//! The type and shape of every value, as far as they follow from the model.
//!
//! Law: a fact stays true while the model is rewritten, since a rewrite never changes what a value holds. Values made
//! after the inference are unknown to it.

use std::collections::HashMap;

use rten_shape_inference::{SymExpr, SymTensor};

use crate::ir::{DType, Model, Size, ValueDef, ValueId};

/// What is known of a value.
#[derive(Clone, Debug)]
pub struct Fact {
    pub dtype: Option<DType>,
    /// The shape, and for small integer tensors the elements, as expressions over the model's symbolic sizes.
    pub tensor: SymTensor,
}

#[derive(Clone, Debug, Default)]
pub struct Shapes {
    facts: HashMap<ValueId, Fact>,
}

impl Shapes {
    pub fn infer(model: &Model) -> Shapes {
        let mut facts = HashMap::new();
        for (id, value) in model.all_values() {
            let declared = value.ty.as_ref().and_then(|ty| ty.as_tensor());
            let fact = match (&value.def, declared) {
                (ValueDef::Constant(tensor), _) => {
                    Fact { dtype: Some(tensor.dtype()), tensor: SymTensor::from_fixed_shape(tensor.shape()) }
                }
                (_, Some(ty)) => {
                    let shape = ty.shape.as_ref().and_then(|dims| dims.iter().map(|d| length(&d.size)).collect());
                    let tensor = shape.map_or_else(|| SymTensor::unknown("undeclared"), SymTensor::from_shape);
                    Fact { dtype: ty.dtype, tensor }
                }
                _ => continue,
            };
            facts.insert(id, fact);
        }
        Shapes { facts }
    }

    pub fn fact(&self, value: ValueId) -> Option<&Fact> {
        self.facts.get(&value)
    }

    pub fn dtype(&self, value: ValueId) -> Option<DType> {
        self.fact(value)?.dtype
    }

    pub fn rank(&self, value: ValueId) -> Option<usize> {
        self.fact(value)?.tensor.ndim()
    }

    /// The length of each axis, as an expression; none if the rank is unknown.
    pub fn lengths(&self, value: ValueId) -> Option<Vec<SymExpr>> {
        Some(self.fact(value)?.tensor.shape()?.collect())
    }

    /// The shape, where every axis has a fixed length.
    pub fn fixed(&self, value: ValueId) -> Option<Vec<usize>> {
        self.lengths(value)?
            .iter()
            .map(|length| match length {
                SymExpr::Value(n) => usize::try_from(*n).ok(),
                _ => None,
            })
            .collect()
    }

    /// Whether both surely have the same shape.
    pub fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        matches!((self.lengths(a), self.lengths(b)), (Some(a), Some(b)) if a == b)
    }
}

fn length(size: &Size) -> Option<SymExpr> {
    match size {
        Size::Fixed(n) => Some(SymExpr::Value(i32::try_from(*n).ok()?)),
        Size::Symbol(name) => Some(SymExpr::pos_var(name)),
        Size::Unknown => None,
    }
}
