//! Weights as sparse initializers, where that takes fewer bytes: each element that is not zero, and its place.

use crate::ir::{Model, SparseTensor, Tensor};

use super::weight::Weight;

/// What the header of a sparse initializer takes beyond that of a dense one, roughly.
const OVERHEAD_BYTES: usize = 40;

/// Stores weights sparsely where that is smaller. Returns how many are.
pub fn store(model: &mut Model, weights: &[Weight]) -> usize {
    let mut stored = 0;
    for weight in weights {
        let tensor = model.constant(weight.value).expect("weights are constants");
        let sparse = sparse(tensor);
        if sparse.values.byte_len() + sparse.indices.byte_len() + OVERHEAD_BYTES < tensor.byte_len() {
            model.set_sparse_constant(weight.value, sparse);
            stored += 1;
        }
    }
    stored
}

fn sparse(tensor: &Tensor) -> SparseTensor {
    let floats = tensor.elements::<f32>().expect("layers have weights of float32");
    let (places, values): (Vec<i64>, Vec<f32>) =
        floats.iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(place, &x)| (place as i64, x)).unzip();
    SparseTensor {
        values: Tensor::from_vec(vec![values.len()], values),
        indices: Tensor::from_vec(vec![places.len()], places),
        shape: tensor.shape().to_vec(),
    }
}
