//! Weights of layers as matrices: a row for each output, a column for each input, and of convolutions for each of its places
//! under the window.

use ndarray::{Array2, Array3, ArrayView3};

use crate::ir::{Model, NodeId, Tensor, ValueId};
use crate::passes::quantize::Layer;

/// A weight that loses elements.
pub struct Weight {
    pub value: ValueId,
    /// The first layer that reads it, and what that reads besides.
    pub node: NodeId,
    pub x: ValueId,
    /// The places under a window: those of an input lie side by side.
    pub taps: usize,
    shape: Vec<usize>,
    /// The axis of the outputs.
    axis: usize,
}

impl Weight {
    pub fn of(model: &Model, layer: &Layer) -> Weight {
        let shape = model.constant(layer.weight).expect("layers have constant weights").shape().to_vec();
        let taps = shape[2..].iter().product();
        Weight { value: layer.weight, node: layer.node, x: layer.x, taps, shape, axis: layer.axis }
    }

    /// Rows and columns.
    pub fn dim(&self) -> (usize, usize) {
        let rows = self.shape[self.axis];
        (rows, self.shape.iter().product::<usize>() / rows.max(1))
    }

    /// The inputs of each output.
    pub fn inputs(&self) -> usize {
        self.dim().1 / self.taps.max(1)
    }

    /// A tensor of the weight's shape as a matrix.
    pub fn matrix(&self, tensor: &Tensor) -> Array2<f32> {
        self.rows(&tensor.floats().expect("layers have weights of floats"))
    }

    /// A matrix as a tensor of the weight's shape.
    pub fn tensor(&self, matrix: &Array2<f32>) -> Tensor {
        Tensor::from_vec(self.shape.clone(), self.elements(matrix))
    }

    /// A matrix of the elements of the weight, as they lie in it.
    pub fn rows<T: Copy>(&self, elements: &[T]) -> Array2<T> {
        let [outer, inner] = self.sides();
        let cube = ArrayView3::from_shape((outer, self.shape[self.axis], inner), elements).expect("it has its shape");
        let rows = cube.permuted_axes([1, 0, 2]).iter().copied().collect();
        Array2::from_shape_vec(self.dim(), rows).expect("it has as many elements")
    }

    /// The elements of a matrix as they lie in the weight.
    pub fn elements<T: Copy>(&self, matrix: &Array2<T>) -> Vec<T> {
        let [outer, inner] = self.sides();
        let cube = Array3::from_shape_vec((self.shape[self.axis], outer, inner), matrix.iter().copied().collect());
        cube.expect("it has as many elements").permuted_axes([1, 0, 2]).iter().copied().collect()
    }

    /// The elements before and behind the axis of the outputs.
    fn sides(&self) -> [usize; 2] {
        [&self.shape[..self.axis], &self.shape[self.axis + 1..]].map(|side| side.iter().product())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_goes_back_to_where_it_came_from() {
        let text = r#"
            <ir_version: 10, opset_import: ["": 21]>
            net (float[1,2,4,4] x, float[3,2] z) => (float[1,3,6,6] a, float[1,1,4,4] b, float[3,3] c)
            <float[2,3,3,1] t, float[1,2,2,2] k, float[3,2] g>
            {
                a = ConvTranspose (x, t)
                b = Conv (x, k)
                c = Gemm <transB = 1> (z, g)
            }"#;
        let fill = |shape: &str, count: usize| {
            let numbers: Vec<String> = (1..=count).map(|x| x.to_string()).collect();
            (shape.to_string(), format!("{shape} = {{{}}}", numbers.join(",")))
        };
        let filled = [("float[2,3,3,1] t", 18), ("float[1,2,2,2] k", 8), ("float[3,2] g", 6)];
        let text = filled.iter().fold(text.to_string(), |text, &(shape, count)| {
            let (from, to) = fill(shape, count);
            text.replace(&from, &to)
        });
        let model = Model::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        let rows: [&[f32]; 3] =
            [&[1.0, 2.0, 3.0, 10.0, 11.0, 12.0], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &[1.0, 2.0]];
        for (node, (first, taps)) in model.nodes_of(model.main).zip(rows.iter().zip([3, 4, 1])) {
            let layer = Layer::read(&model, node).unwrap_or_else(|miss| panic!("{}", miss.0));
            let weight = Weight::of(&model, &layer);
            let tensor = model.constant(weight.value).unwrap();
            let matrix = weight.matrix(tensor);
            assert_eq!(matrix.row(0).to_vec(), *first);
            assert_eq!((weight.taps, weight.inputs()), (taps, 2));
            assert!(weight.tensor(&matrix).same_data(tensor));
        }
    }
}
