//! Changes of the float graph around products and sums: what a runtime would otherwise merge, and what biases take on.

use crate::analysis::Shapes;
use crate::ir::op::{Add, LayerNormalization, Sum};
use crate::ir::{Model, NodeId, Tensor, ValueId};
use crate::rewrite::Outcome;

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

/// ONNX Runtime makes a SkipLayerNormalization of an Add of two like values and the LayerNormalization behind it, which on
/// CPUs takes twice as long as both apart (54 and 24 µs for 96 x 96, release 1.32). A Sum it leaves alone. Exporters hide
/// shapes from it, and so keep it from that; cleanup brings them to light.
pub fn keep_sums_apart(model: &mut Model, shapes: &Shapes) -> Outcome {
    let alike = |&(_, Add { a, b }): &(NodeId, Add)| {
        [a, b].iter().all(|&operand| model.constant(operand).is_none()) && shapes.same_shape(a, b)
    };
    let normalized = model.all_nodes().filter_map(|id| Some(model.view::<LayerNormalization>(id)?.x));
    let sums = normalized.filter_map(|x| model.producer(x)).filter_map(|sum| Some((sum, model.view::<Add>(sum)?)));
    let sums: Vec<(NodeId, Add)> = sums.filter(alike).collect();
    let mut outcome = Outcome::default();
    for (sum, Add { a, b }) in sums {
        if model.is_live(sum) {
            model.replace_operation(sum, Sum { xs: vec![a, b] });
            *outcome.applied.entry("sum kept apart").or_default() += 1;
        }
    }
    outcome
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
    fn sums_of_like_values_before_normalizations_are_kept_apart() {
        let text = r#"
            <ir_version: 8, opset_import: ["": 18]>
            network (float[n,4] x, float[n,4] y, float[4] z) => (float[n,4] u, float[n,4] v, float[n,4] w)
            <float[4] scale = {1,2,3,4}, float[4] bias = {1,-1,0,2}> {
              a = Add (x, y) u = LayerNormalization (a, scale)
              b = Add (x, bias) v = LayerNormalization (b, scale)
              c = Add (x, z) w = LayerNormalization (c, scale)
            }"#;
        let mut model = Model::parse(text).unwrap();
        let shapes = Shapes::infer(&model);
        assert_eq!(
            keep_sums_apart(&mut model, &shapes).applied.into_iter().collect::<Vec<_>>(),
            [("sum kept apart", 1)]
        );
        let ops: Vec<_> = model.nodes_of(model.main).map(|id| model.node(id).op.to_string()).collect();
        assert_eq!(ops.iter().filter(|op| *op == "Sum").count(), 1);
        assert_eq!(ops[0], "Sum");
    }

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
