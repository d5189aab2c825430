//! Changes of the float graph around products and sums: what a runtime would otherwise merge, and what biases take on.

use crate::analysis::Shapes;
use crate::ir::op::Add;
use crate::ir::{Model, NodeId, Tensor, ValueId};

use super::layer::LayerKind;
use super::place::{Placement, Role};
use super::tail::only_reader;

/// ONNX Runtime makes a Gemm of a MatMul and a bias of one axis where shapes are fixed, before it looks for Q/DQ pairs, and
/// does not run it in int8. With the bias as a row, `[1, n]`, the product stays what it is.
pub fn keep_biases_apart(model: &mut Model, placement: &Placement, shapes: &Shapes) {
    let products = placement.units.iter().filter(|unit| match &unit.role {
        Role::Layer(layer) => layer.kind == LayerKind::MatMul && !unit.quantizes && shapes.fixed(layer.x).is_some(),
        _ => false,
    });
    let biases: Vec<(ValueId, ValueId)> = products
        .filter_map(|unit| {
            let sum = only_reader(model, unit.result)?;
            let Add { a, b } = model.view(sum)?;
            Some((unit.result, if a == unit.result { b } else { a }))
        })
        .collect();
    for (product, bias) in biases {
        let Some(tensor) = model.constant(bias).filter(|tensor| tensor.rank() == 1) else { continue };
        let is_row = shapes.rank(product).is_some_and(|rank| rank >= 2);
        let Some(row) = tensor.reshaped(vec![1, tensor.len()]).filter(|_| is_row) else { continue };
        let (Some(sum), name) = (only_reader(model, product), model.value(bias).name.clone()) else { continue };
        let row = model.add_constant(model.main, &name, row);
        let place = model.node(sum).inputs.iter().position(|&input| input == Some(bias));
        model.set_input(sum, place.expect("the sum reads the bias"), Some(row));
    }
}

/// The sum that alone reads a product, and the operand that is its bias: a constant with a number for each of so many channels.
pub fn bias_behind(model: &Model, product: ValueId, channels: usize) -> Option<(NodeId, usize)> {
    let sum = only_reader(model, product)?;
    let Add { a, b } = model.view(sum)?;
    let bias = model.constant(if a == product { b } else { a })?;
    let is_row = bias.shape().last() == Some(&channels) && bias.len() == channels;
    (is_row && bias.floats().is_some()).then_some((sum, usize::from(a == product)))
}

/// Adds a number for each channel to the bias behind a product, if there is one.
pub fn shift_bias(model: &mut Model, product: ValueId, shift: &[f32]) {
    let Some((sum, index)) = bias_behind(model, product, shift.len()) else { return };
    let bias = model.node(sum).inputs[index].expect("a sum has two operands");
    let (name, tensor) = (model.value(bias).name.clone(), model.constant(bias).expect("it was looked at"));
    let shifted = tensor.floats().expect("it was looked at").iter().zip(shift).map(|(b, shift)| b + shift).collect();
    let shifted = Tensor::from_vec(tensor.shape().to_vec(), shifted);
    let shifted = model.add_constant(model.main, &name, shifted);
    model.set_input(sum, index, Some(shifted));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bias_behind_a_product_is_the_constant_of_its_sum() {
        let text = r#"
            <ir_version: 8, opset_import: ["": 18]>
            network (float[1,3] x) => (float[1,2] y)
            <float[3,2] w = {1,2,3,4,5,6}, float[1,2] b = {1,-1}> { p = MatMul (x, w) y = Add (b, p) }"#;
        let mut model = Model::parse(text).unwrap();
        let product = model.all_values().find(|(_, value)| value.name == "p").unwrap().0;
        shift_bias(&mut model, product, &[0.5, 0.25]);
        let (sum, index) = bias_behind(&model, product, 2).unwrap();
        let bias = model.constant(model.node(sum).inputs[index].unwrap()).unwrap();
        assert_eq!((bias.shape(), bias.floats().unwrap().into_owned()), (&[1, 2][..], vec![1.5, -0.75]));
        assert_eq!(bias_behind(&model, product, 3), None);
    }
}
