//! Which input and output of one model is which of the other.

use crate::data::{can_cast, cast, required_inputs};
use crate::ir::{DType, Model, Tensor};

/// Inputs and outputs of the small model by those of the original: by name, or else by their order.
pub struct Pairing {
    /// For each input of the small model, its place in a sample of the original and its type.
    inputs: Vec<(usize, Option<DType>)>,
    /// For each output of the original, its place among the small model's.
    outputs: Vec<usize>,
    /// The names of the original's outputs.
    pub output_names: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    #[error("the models do not take the same inputs: {0} and {1}")]
    Inputs(String, String),
    #[error("the models do not give the same outputs: {0} and {1}")]
    Outputs(String, String),
}

impl Pairing {
    pub fn of(original: &Model, small: &Model) -> Result<Pairing, PairingError> {
        let ours = input_names(original);
        let theirs = input_names(small);
        let order = pair(&theirs, &ours).ok_or_else(|| PairingError::Inputs(list(&ours), list(&theirs)))?;
        let dtypes = required_inputs(small).map(|(_, value)| value.ty.as_ref()?.as_tensor()?.dtype);
        let inputs = order.into_iter().zip(dtypes).collect();
        let [ours, theirs] = [original, small].map(output_names);
        let outputs = pair(&ours, &theirs).filter(|_| ours.len() == theirs.len());
        let outputs = outputs.ok_or_else(|| PairingError::Outputs(list(&ours), list(&theirs)))?;
        Ok(Pairing { inputs, outputs, output_names: ours.into_iter().map(String::from).collect() })
    }

    /// A sample of the original in the order and types of the small model.
    pub fn inputs(&self, sample: &[Tensor]) -> Vec<Tensor> {
        let input = |&(place, dtype): &(usize, Option<DType>)| {
            let tensor = &sample[place];
            let other =
                dtype.filter(|&dtype| can_cast(tensor.dtype(), dtype)).and_then(|dtype| cast(tensor, dtype).ok());
            other.unwrap_or_else(|| tensor.clone())
        };
        self.inputs.iter().map(input).collect()
    }

    /// For each output of the original, its place among the small model's.
    pub fn output_places(&self) -> &[usize] {
        &self.outputs
    }

    /// Outputs of the small model in the order of the original.
    pub fn outputs(&self, outputs: Vec<Tensor>) -> Vec<Tensor> {
        self.outputs.iter().map(|&place| outputs[place].clone()).collect()
    }
}

/// For each of `names`, its place among `others`.
fn pair(names: &[&str], others: &[&str]) -> Option<Vec<usize>> {
    let by_name: Option<Vec<_>> = names.iter().map(|name| others.iter().position(|other| other == name)).collect();
    by_name.or_else(|| (names.len() == others.len()).then(|| (0..names.len()).collect()))
}

fn input_names(model: &Model) -> Vec<&str> {
    required_inputs(model).map(|(_, value)| value.name.as_str()).collect()
}

fn output_names(model: &Model) -> Vec<&str> {
    model.graph(model.main).outputs.iter().map(|&output| model.value(output).name.as_str()).collect()
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "none".into(),
        _ => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    }
}
