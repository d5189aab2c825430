//! Sums of floats over neighbouring axes.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};

use super::execute::replace;
use super::spare;
use crate::kernels::sum_axis;

/// Puts our operator in the place of all sums that it knows.
pub(super) fn take_over(model: &mut TypedModel) -> TractResult<()> {
    replace(model, Sum::of)
}

/// y[outer, inner] = Σ x[outer, length, inner] over length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    length: usize,
    inner: usize,
    shape: TVec<usize>,
}

impl Sum {
    fn of(reduce: &Reduce, operands: &[&TypedFact], _: &TypedFact) -> Option<Sum> {
        let [operand] = operands else { return None };
        let is_float = operand.datum_type == f32::datum_type() && operand.is_plain();
        if reduce.reducer != Reducer::Sum || !is_float {
            return None;
        }
        let mut shape: TVec<usize> = operand.shape.as_concrete()?.into();
        let mut axes = reduce.axes.clone();
        axes.sort_unstable();
        let (&first, &last) = (axes.first()?, axes.last()?);
        if last - first + 1 != axes.len() {
            return None;
        }
        let (length, inner) = (shape[first..=last].iter().product(), shape[last + 1..].iter().product());
        shape[first..=last].fill(1);
        Some(Sum { length, inner, shape })
    }
}

impl Op for Sum {
    fn name(&self) -> StaticName {
        "OnnxshrinkSum".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Sum {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        spare::computed(&self.shape, inputs, |operands, y| sum_axis(operands[0], self.length, self.inner, y))
    }
}

impl TypedOp for Sum {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }
    as_op!();
}
