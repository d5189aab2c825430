//! `DequantizeLinear` as ONNX defines it: tract's own takes scales of float32 alone, and no integers of 16 bits.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::execute::filled;
use super::quantize::Blocks;
use crate::kernels::widest;

/// (x - zero point) · scale, where scale and zero point are one each or one for each index of an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DequantizeLinear {
    axis: i64,
    has_zero_point: bool,
}

/// Builds the operator from a node, as tract's table of operators wants it.
pub(super) fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    let has_zero_point = node.input.get(2).is_some_and(|name| !name.is_empty());
    Ok((expand(DequantizeLinear { axis, has_zero_point }), Vec::new()))
}

impl Expansion for DequantizeLinear {
    fn name(&self) -> StaticName {
        "OnnxshrinkDequantizeLinear".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        ensure!(
            inputs.len() == 2 + usize::from(self.has_zero_point),
            "DequantizeLinear with {} operands",
            inputs.len()
        );
        solver.equals(&inputs[1].datum_type, &outputs[0].datum_type)?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for DequantizeLinear {
    fn name(&self) -> StaticName {
        "OnnxshrinkDequantizeLinear".into()
    }
    op_as_typed_op!();
}

impl EvalOp for DequantizeLinear {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let scale = inputs[1].cast_to::<f32>()?;
        let scale = scale.try_as_plain_ram()?.as_slice::<f32>()?;
        let zero_point = match inputs.get(2) {
            Some(zero_point) => zero_point.cast_to::<i32>()?.try_as_plain_ram()?.as_slice::<i32>()?.to_vec(),
            None => vec![0],
        };
        let (x, axis) = (&inputs[0], self.axis);
        let y = match x.datum_type() {
            DatumType::U8 => dequantize::<u8>(x, axis, scale, &zero_point),
            DatumType::I8 => dequantize::<i8>(x, axis, scale, &zero_point),
            DatumType::U16 => dequantize::<u16>(x, axis, scale, &zero_point),
            DatumType::I16 => dequantize::<i16>(x, axis, scale, &zero_point),
            DatumType::I32 => dequantize::<i32>(x, axis, scale, &zero_point),
            other => bail!("a tensor of type {other:?}"),
        }?;
        Ok(tvec!(y.cast_to_dt(inputs[1].datum_type())?.into_owned().into_tvalue()))
    }
}

impl TypedOp for DequantizeLinear {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[1].datum_type.fact(inputs[0].shape.clone())))
    }
    as_op!();
}

/// An integer that stands for a real.
trait Level: Datum + Copy {
    /// The difference, which is exact as an integer.
    fn less(self, zero_point: i32) -> f32;
}

macro_rules! levels {
    ($($ty:ty as $wide:ty),*) => {$(
        impl Level for $ty {
            #[inline(always)]
            fn less(self, zero_point: i32) -> f32 {
                (<$wide>::from(self) - <$wide>::from(zero_point)) as f32
            }
        }
    )*};
}
levels!(u8 as i32, i8 as i32, u16 as i32, i16 as i32, i32 as i64);

fn dequantize<T: Level>(x: &Tensor, axis: i64, scale: &[f32], zero_point: &[i32]) -> TractResult<Tensor> {
    let blocks = Blocks::of(x, axis, &[scale.len(), zero_point.len()])?;
    if blocks.inner == 1 && blocks.length > 0 && scale.len() == blocks.length {
        return dequantize_columns::<T>(x, scale, zero_point);
    }
    let at = |index: usize, parameters: usize| if parameters == 1 { 0 } else { index % blocks.length };
    let values = x.try_as_plain_ram()?.as_slice::<T>()?;
    filled(x.shape(), |y: &mut [f32]| {
        widest(
            #[inline(always)]
            || {
                for (index, (y, x)) in y.chunks_mut(blocks.inner).zip(values.chunks(blocks.inner)).enumerate() {
                    let (scale, zero) = (scale[at(index, scale.len())], zero_point[at(index, zero_point.len())]);
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = x.less(zero) * scale;
                    }
                }
            },
        );
    })
}

/// With a scale for each place of the last axis.
fn dequantize_columns<T: Level>(x: &Tensor, scale: &[f32], zero_point: &[i32]) -> TractResult<Tensor> {
    let zeros: Vec<i32> = zero_point.iter().copied().cycle().take(scale.len()).collect();
    let values = x.try_as_plain_ram()?.as_slice::<T>()?;
    filled(x.shape(), |y: &mut [f32]| {
        widest(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(scale.len()).zip(values.chunks_exact(scale.len())) {
                    for (((y, &x), &zero), &scale) in y.iter_mut().zip(x).zip(&zeros).zip(scale) {
                        *y = x.less(zero) * scale;
                    }
                }
            },
        );
    })
}
