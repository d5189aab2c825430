//! Matrix products of floats, and what tract makes of them, as strided products: operands and results are read and
//! written where they are, in whatever order their axes have.

use std::fmt;
use std::sync::Arc;

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::einsum::EinSum;

use super::execute::{replace, strides};
use super::spare;
use crate::kernels::blocked::FloatIsa;
use crate::kernels::{Axis, PackedRight, StridedProduct};

/// Puts our operator in the place of all products of two floats that it knows. Weights that are constant are packed once.
pub(super) fn take_over(model: &mut TypedModel) -> TractResult<()> {
    replace(model, Product::of)?;
    let products: Vec<usize> =
        model.nodes().iter().filter(|node| node.op_is::<Product>()).map(|node| node.id).collect();
    for id in products {
        let node = model.node(id);
        let Some(constant) = model.outlet_fact(node.inputs[1])?.konst.clone() else { continue };
        let Some(product) = node.op_as::<Product>() else { continue };
        if let Some(packed) = product.product.pack(constant.try_as_plain_ram()?.as_slice::<f32>()?) {
            let product = Product { weights: Some(Weights(Arc::new(packed))), ..product.clone() };
            TypedModelPatch::replace_single_op(model, node, &node.inputs[..1], product)?.apply(model)?;
        }
    }
    model.compact()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Product {
    product: StridedProduct,
    shape: TVec<usize>,
    /// The right operand, where it is constant: then it is no operand any more.
    weights: Option<Weights>,
}

#[derive(Clone)]
struct Weights(Arc<PackedRight>);

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("packed")
    }
}

/// Equal are only copies of one packing.
impl PartialEq for Weights {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Weights {}

impl Product {
    fn of(einsum: &EinSum, operands: &[&TypedFact], result: &TypedFact) -> Option<Product> {
        let [a, b] = operands else { return None };
        let facts = [*a, *b, result];
        let is_float = facts.iter().all(|fact| fact.datum_type == f32::datum_type() && fact.is_plain());
        if einsum.q_params.is_some() || !is_float {
            return None;
        }
        let shapes: Vec<TVec<usize>> =
            facts.iter().map(|fact| fact.shape.as_concrete().map(Into::into)).collect::<Option<_>>()?;
        let strides: Vec<TVec<usize>> = shapes.iter().map(|shape| strides(shape)).collect();
        let [mut batch, mut m, mut n, mut k] = [const { Vec::new() }; 4];
        let mut axes: Vec<_> = einsum.axes.iter_all_axes().collect();
        let place = |of: &[usize]| of.first().copied().unwrap_or(usize::MAX);
        axes.sort_by_key(|axis| (place(&axis.outputs[0]), place(&axis.inputs[0])));
        for axis in axes {
            let places = [&axis.inputs[0], &axis.inputs[1], &axis.outputs[0]];
            if places.iter().any(|of| of.len() > 1) {
                return None;
            }
            let at = |operand: usize| places[operand].first().copied();
            let stride = |operand: usize| at(operand).map_or(0, |place| strides[operand][place]);
            let mut lengths = (0..3).filter_map(|operand| at(operand).map(|place| shapes[operand][place]));
            let length = lengths.next()?;
            if lengths.any(|other| other != length) {
                return None;
            }
            let axis = Axis { length, strides: [stride(0), stride(1), stride(2)] };
            match (at(0), at(1), at(2)) {
                (Some(_), Some(_), Some(_)) => batch.push(axis),
                (Some(_), None, Some(_)) => m.push(axis),
                (None, Some(_), Some(_)) => n.push(axis),
                (Some(_), Some(_), None) => k.push(axis),
                _ if length == 1 => {}
                _ => return None,
            }
        }
        let product = StridedProduct::new(FloatIsa::best(), batch, m, n, k);
        Some(Product { product, shape: shapes[2].clone(), weights: None })
    }
}

impl Op for Product {
    fn name(&self) -> StaticName {
        "OnnxshrinkStridedProduct".into()
    }
    op_as_typed_op!();
}

impl EvalOp for Product {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        spare::computed(&self.shape, inputs, |operands, c| match &self.weights {
            Some(weights) => self.product.run_packed(operands[0], &weights.0, c),
            None => self.product.run(operands[0], operands[1], c),
        })
    }
}

impl TypedOp for Product {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }
    as_op!();
}
