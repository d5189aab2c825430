//! Inputs that many runs read without a copy, and that change between them: the weights of a model that is trained.

use std::sync::Arc;

use tract_onnx::prelude::{IntoTValue, TVec, Tensor as TractTensor};

use super::runner::{Known, Output, guarded};
use super::tensor::{from_tract, to_tract};
use super::{Runner, RuntimeError};
use crate::ir::{DType, Tensor};

/// A tensor in the runtime's memory. Clones share it.
#[derive(Clone)]
pub struct Shared {
    dtype: DType,
    data: Arc<TractTensor>,
}

impl Shared {
    /// A copy of `tensor`.
    ///
    /// # Errors
    /// If the runtime has no tensors of its type.
    pub fn of(tensor: &Tensor) -> Result<Shared, RuntimeError> {
        let dtype = tensor.dtype();
        let data =
            to_tract(tensor).ok_or_else(|| RuntimeError::Input(format!("is {dtype}, which tract does not have")))?;
        Ok(Shared { dtype, data: Arc::new(data) })
    }

    /// A copy of it as a tensor of the model.
    pub fn to_tensor(&self) -> Result<Tensor, RuntimeError> {
        guarded(|| from_tract(self.data.clone().into_tvalue()))
    }

    /// The elements, to be changed; none where they are no `f32`.
    ///
    /// # Panics
    /// If a clone is still in use.
    pub fn floats_mut(&mut self) -> Option<&mut [f32]> {
        let data = Arc::get_mut(&mut self.data).expect("weights change between runs");
        (self.dtype == DType::F32).then(|| bytemuck::cast_slice_mut(data.as_bytes_mut()))
    }

    pub fn floats(&self) -> Option<&[f32]> {
        (self.dtype == DType::F32).then(|| bytemuck::cast_slice(self.data.as_bytes()))
    }
}

impl Runner {
    /// [`run`](Runner::run) on all inputs, without copying them.
    pub fn run_shared(&self, inputs: &[Shared]) -> Result<Vec<Tensor>, RuntimeError> {
        let computed: Vec<Tensor> = match &self.template {
            None => Vec::new(),
            Some(template) => {
                let key = inputs.iter().map(|input| Known::Shape(input.dtype, input.data.shape().to_vec())).collect();
                let (_, plan) = self.cached(template, key)?;
                let inputs: TVec<_> = inputs.iter().map(|input| input.data.clone().into_tvalue()).collect();
                guarded(|| plan.run(inputs)?.into_iter().map(from_tract).collect())?
            }
        };
        let outputs = self.outputs.iter().map(|output| match output {
            Output::Constant(tensor) => Ok(tensor.clone()),
            Output::Computed(index) => Ok(computed[*index].clone()),
            Output::Input(index) => inputs[*index].to_tensor(),
        });
        outputs.collect()
    }
}
