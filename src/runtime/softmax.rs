//! Softmax of floats over the last axes.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::nn::{Softmax as TractSoftmax, SoftmaxKind};

use super::execute::replace;
use super::spare;
use crate::kernels::softmax;

/// Puts our operator in the place of all softmaxes that it knows.
pub(super) fn take_over(model: &mut TypedModel) -> TractResult<()> {
    replace(model, Softmax::of)
}

/// Over rows of so many elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Softmax {
    length: usize,
    shape: TVec<usize>,
}

impl Softmax {
    fn of(softmax: &TractSoftmax, operands: &[&TypedFact], _: &TypedFact) -> Option<Softmax> {
        let [operand] = operands else { return None };
        let is_float = operand.datum_type == f32::datum_type() && operand.is_plain();
        if softmax.kind != SoftmaxKind::Softmax || !is_float {
            return None;
        }
        let shape: TVec<usize> = operand.shape.as_concrete()?.into();
        let first = shape.len() - softmax.axes.len();
        (first..shape.len())
            .all(|axis| softmax.axes.contains(&axis))
            .then(|| Softmax { length: shape[first..].iter().product(), shape })
    }
}

impl Op for Softmax {
    fn name(&self) -> StaticName {
        "OnnxshrinkSoftmax".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Softmax {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        spare::computed(&self.shape, inputs, |operands, y| softmax(operands[0], self.length, y))
    }
}

impl TypedOp for Softmax {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }
    as_op!();
}
