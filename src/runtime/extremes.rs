//! Runs a model for what its values reach over, and not for what they are: each is looked at where it is computed, in
//! whatever layout, and kept no longer than other nodes need it.

use tract_onnx::model::Onnx;
use tract_onnx::tract_core::internal::*;

use super::blocked::kept;
use super::execute::{Operands, Shapes, Stateless, register as one};
use super::int8::operators::DOMAIN;
use super::stack::fix_inputs;
use super::{Execution, Runner, RuntimeError};
use crate::ir::op::ops;
use crate::ir::{Model, Tensor as IrTensor, ValueId};
use crate::kernels::Extremes;

ops! {
    domain "onnxshrink", prefix "Onnxshrink";

    /// Least and largest finite element of a float tensor or zero, and the number of those that are not finite, as three
    /// doubles. With `channels`, `x` is in blocks of so many.
    Reach [1, 1] (x: ValueId) { channels: i64 = 0 }
}

/// Makes tract know the operator.
pub(super) fn register(onnx: &mut Onnx) {
    one::<Reach>(onnx);
}

impl Stateless for Reach {
    fn result_type(&self) -> DatumType {
        DatumType::F64
    }

    fn result_shape(&self, _: &Shapes) -> TractResult<TVec<TDim>> {
        Ok(tvec![3.into()])
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let x = operands.elements(self.x)?;
        let Extremes { min, max, non_finite } = match self.channels {
            0 => Extremes::of(x),
            channels => Extremes::of_blocks(&kept(operands.shape(self.x), channels.try_into()?)?, x),
        };
        Ok(tensor1(&[f64::from(min), f64::from(max), non_finite as f64]))
    }
}

/// A model ready to run for the extremes of some of its values, by the kernels that training has.
pub struct ExtremesRunner(Runner);

impl ExtremesRunner {
    /// For `values`, tensors of float32 in the main graph, and samples of the shapes of this one.
    ///
    /// # Errors
    /// As [`Runner::new`].
    pub fn new(model: &Model, values: &[ValueId], sample: &[IrTensor]) -> Result<ExtremesRunner, RuntimeError> {
        let mut model = model.clone();
        // Where an input has a default, shapes are known only when a plan is made: convolutions stay those of tract.
        let _ = fix_inputs(&mut model, sample, 1);
        model.opsets.0.insert(DOMAIN.into(), 1);
        let main = model.main;
        let reach = |&x: &ValueId| {
            let result = model.append(main, "reach", Reach { x, channels: 0 });
            model.add_output(main, result);
            result
        };
        let outputs: Vec<ValueId> = values.iter().map(reach).collect();
        Ok(ExtremesRunner(Runner::with(&model, &outputs, &Execution::teaching())?))
    }

    /// The extremes of each value on one sample.
    pub fn run(&self, sample: &[IrTensor]) -> Result<Vec<Extremes>, RuntimeError> {
        let results = self.0.run(sample)?;
        let extremes = |result: &IrTensor| match result.elements::<f64>().as_deref() {
            Some(&[min, max, non_finite]) => {
                Ok(Extremes { min: min as f32, max: max as f32, non_finite: non_finite as u64 })
            }
            _ => Err(RuntimeError::Failed { node: None, why: "extremes are no three doubles".into() }),
        };
        results.iter().map(extremes).collect()
    }
}
