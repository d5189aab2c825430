//! The last step of raising a model: what depends on types and shapes, which are known once all operators have the
//! form that inference understands.

use crate::analysis::Shapes;
use crate::ir::op::{CastLike, Flatten, Reshape, Shape};
use crate::ir::{Attr, Model, NodeId, Operation, Tensor, ValueId};

use super::Raising;

/// A node that is put right at the end.
pub enum Late {
    /// A softmax written before opset 13: it normalizes over its axis and all axes behind it.
    Coerced(NodeId),
    /// A `CastLike` of a constant, which goes where the type is known.
    TypeOf(NodeId),
}

impl Raising {
    pub fn settle(mut self) -> Model {
        if self.late.is_empty() {
            return self.model;
        }
        let shapes = Shapes::infer(&self.model);
        for late in std::mem::take(&mut self.late) {
            match late {
                Late::Coerced(node) => settle_axis(&mut self.model, &shapes, node),
                Late::TypeOf(node) => settle_type(&mut self.model, &shapes, node),
            }
        }
        self.model
    }
}

/// The old form is Reshape(f(Flatten(x))); over one axis that is not of length 1 it is just f.
fn settle_axis(model: &mut Model, shapes: &Shapes, node: NodeId) {
    let Some(x) = model.node(node).inputs.first().copied().flatten() else { return };
    if let Some(Attr::Int(axis)) = model.node(node).attrs.get("axis")
        && is_one_axis(shapes, x, *axis)
    {
        return;
    }
    let result = model.node(node).outputs.iter().flatten().next();
    let name = result.map_or_else(String::new, |&result| model.value(result).name.clone());
    let axis = model.node(node).attrs["axis"].clone();
    let mut flatten = Operation::from(Flatten { x, axis: 0 });
    flatten.attrs.insert("axis".into(), axis);
    let flat = model.insert_before(node, flatten, &format!("{name}.flat"));
    let f = Operation {
        op: model.node(node).op.clone(),
        inputs: vec![Some(flat)],
        attrs: [("axis".into(), Attr::Int(-1))].into_iter().collect(),
        ..Operation::default()
    };
    let f = model.insert_before(node, f, &format!("{name}.rows"));
    let shape = model.insert_before(node, Shape { x, end: None, start: 0 }, &format!("{name}.shape"));
    model.replace_operation(node, Reshape { x: f, shape, allowzero: 0 });
}

/// Whether all axes behind `axis` are surely of length 1.
fn is_one_axis(shapes: &Shapes, x: ValueId, axis: i64) -> bool {
    let Some(lengths) = shapes.lengths(x) else { return axis == -1 };
    let axis = usize::try_from(if axis < 0 { axis + lengths.len() as i64 } else { axis });
    axis.is_ok_and(|axis| {
        axis < lengths.len()
            && lengths[axis + 1..].iter().all(|length| *length == rten_shape_inference::SymExpr::Value(1))
    })
}

fn settle_type(model: &mut Model, shapes: &Shapes, node: NodeId) {
    let Some(CastLike { x, like, .. }) = model.view(node) else { return };
    let dtype = shapes.dtype(like);
    let constant = model.constant(x).and_then(|tensor| Tensor::from_floats(tensor.to_array()?, dtype?));
    let result = model.node(node).outputs[0];
    if let (Some(constant), Some(result)) = (constant, result) {
        let (graph, name) = (model.node(node).graph, model.value(x).name.clone());
        let constant = model.add_constant(graph, &name, constant);
        model.unify(result, constant);
    }
}
