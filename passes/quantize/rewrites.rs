//! Changes of the float graph that keep what a runtime would otherwise undo.

use crate::analysis::Shapes;
use crate::ir::op::Add;
use crate::ir::{Model, ValueId};

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
