//! `QuantizeLinear` and `DynamicQuantizeLinear` as ONNX defines them.
//!
//! tract's own multiply by the reciprocal of the scale, so that half steps fall to the wrong side, and compute what
//! stands between a DequantizeLinear and a QuantizeLinear as a table of 256 elements, which is wrong for a Softmax.

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use crate::kernels::dynamic_quantization;

/// saturate(round(x / scale) + zero point), with halves to even, where scale and zero point are one each or one for each
/// index of an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct QuantizeLinear {
    axis: i64,
    has_zero_point: bool,
}

/// Builds the operator from a node, as tract's table of operators wants it.
pub(super) fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    let has_zero_point = node.input.get(2).is_some_and(|name| !name.is_empty());
    Ok((expand(QuantizeLinear { axis, has_zero_point }), Vec::new()))
}

impl Expansion for QuantizeLinear {
    fn name(&self) -> StaticName {
        "OnnxshrinkQuantizeLinear".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        ensure!(inputs.len() == 2 + usize::from(self.has_zero_point), "QuantizeLinear with {} operands", inputs.len());
        match self.has_zero_point {
            true => solver.equals(&outputs[0].datum_type, &inputs[2].datum_type)?,
            false => solver.equals(&outputs[0].datum_type, u8::datum_type())?,
        }
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for QuantizeLinear {
    fn name(&self) -> StaticName {
        "OnnxshrinkQuantizeLinear".into()
    }
    op_as_typed_op!();
}

impl EvalOp for QuantizeLinear {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, scale) = (inputs[0].cast_to::<f32>()?, inputs[1].cast_to::<f32>()?);
        let zero_point = match inputs.get(2) {
            Some(zero_point) => zero_point.clone().into_tensor(),
            None => tensor0(0u8),
        };
        let blocks = Blocks::of(&x, self.axis, &[scale.len(), zero_point.len()])?;
        Ok(tvec!(
            match zero_point.datum_type() {
                DatumType::U8 => blocks.quantize::<u8>(&x, &scale, &zero_point),
                DatumType::I8 => blocks.quantize::<i8>(&x, &scale, &zero_point),
                DatumType::U16 => blocks.quantize::<u16>(&x, &scale, &zero_point),
                DatumType::I16 => blocks.quantize::<i16>(&x, &scale, &zero_point),
                other => bail!("a zero point of type {other:?}"),
            }?
            .into_tvalue()
        ))
    }
}

impl TypedOp for QuantizeLinear {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let dtype = inputs.get(2).map_or(u8::datum_type(), |zero_point| zero_point.datum_type);
        Ok(tvec!(dtype.fact(inputs[0].shape.clone())))
    }
    as_op!();
}

/// How the elements of a tensor fall into runs with one scale.
pub(super) struct Blocks {
    /// Elements behind one index of the axis.
    pub inner: usize,
    /// The length of the axis.
    pub length: usize,
}

trait Quantum: Datum + Copy {
    const LOWEST: f32;
    const HIGHEST: f32;
    fn widen(self) -> f32;
    fn of(x: f32) -> Self;
}

macro_rules! quanta {
    ($($ty:ty),*) => {$(
        impl Quantum for $ty {
            const LOWEST: f32 = <$ty>::MIN as f32;
            const HIGHEST: f32 = <$ty>::MAX as f32;
            fn widen(self) -> f32 { f32::from(self) }
            fn of(x: f32) -> $ty { x as $ty }
        }
    )*};
}
quanta!(u8, i8, u16, i16);

impl Blocks {
    pub fn of(x: &Tensor, axis: i64, parameters: &[usize]) -> TractResult<Blocks> {
        if parameters.iter().all(|&length| length == 1) {
            return Ok(Blocks { inner: x.len().max(1), length: 1 });
        }
        let rank = x.rank() as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        ensure!((0..rank).contains(&axis), "axis {axis} of a tensor of rank {rank}");
        let (length, behind) = (x.shape()[axis as usize], &x.shape()[axis as usize + 1..]);
        ensure!(parameters.iter().all(|&n| n == 1 || n == length), "{parameters:?} scales for an axis of {length}");
        Ok(Blocks { inner: behind.iter().product::<usize>().max(1), length })
    }

    fn quantize<T: Quantum>(&self, x: &Tensor, scale: &Tensor, zero_point: &Tensor) -> TractResult<Tensor> {
        let mut result = Tensor::zero_dt(T::datum_type(), x.shape())?;
        let (x, scale) = (x.try_as_plain_ram()?, scale.try_as_plain_ram()?);
        let (x, scale) = (x.as_slice::<f32>()?, scale.as_slice::<f32>()?);
        let zero_point = zero_point.try_as_plain_ram()?;
        let zero_point = zero_point.as_slice::<T>()?;
        let at = |index: usize, length: usize| if length == 1 { 0 } else { index };
        let mut view = result.try_as_plain_ram_mut()?;
        let runs = view.as_slice_mut::<T>()?.chunks_mut(self.inner).zip(x.chunks(self.inner));
        for (run, (to, from)) in runs.enumerate() {
            let index = run % self.length;
            let scale = scale[at(index, scale.len())];
            let zero_point = zero_point[at(index, zero_point.len())].widen();
            for (to, &x) in to.iter_mut().zip(from) {
                let q = (x / scale).round_ties_even() + zero_point;
                *to = T::of(q.clamp(T::LOWEST, T::HIGHEST));
            }
        }
        Ok(result)
    }
}

/// Scale, zero point and quantization of a tensor by its range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DynamicQuantizeLinear;

pub(super) fn build_dynamic(_: &ParsingContext, _: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(DynamicQuantizeLinear), Vec::new()))
}

impl Expansion for DynamicQuantizeLinear {
    fn name(&self) -> StaticName {
        "OnnxshrinkDynamicQuantizeLinear".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(3)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.equals(&outputs[0].datum_type, u8::datum_type())?;
        solver.equals(&outputs[1].datum_type, f32::datum_type())?;
        solver.equals(&outputs[2].datum_type, u8::datum_type())?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)?;
        solver.equals(&outputs[1].rank, 0)?;
        solver.equals(&outputs[2].rank, 0)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for DynamicQuantizeLinear {
    fn name(&self) -> StaticName {
        "OnnxshrinkDynamicQuantizeLinear".into()
    }
    op_as_typed_op!();
}

impl EvalOp for DynamicQuantizeLinear {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let x = inputs[0].try_as_plain_ram()?.as_slice::<f32>()?;
        let quantization = dynamic_quantization(x);
        let mut y = Tensor::zero_dt(u8::datum_type(), inputs[0].shape())?;
        quantization.quantize_all(x, y.try_as_plain_ram_mut()?.as_slice_mut::<u8>()?);
        let (scale, zero_point) = (tensor0(quantization.scale), tensor0(quantization.zero_point));
        Ok(tvec!(y.into_tvalue(), scale.into_tvalue(), zero_point.into_tvalue()))
    }
}

impl TypedOp for DynamicQuantizeLinear {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let parameter = |dtype: DatumType| dtype.fact(&[] as &[usize]);
        Ok(tvec!(
            u8::datum_type().fact(inputs[0].shape.clone()),
            parameter(f32::datum_type()),
            parameter(u8::datum_type())
        ))
    }
    as_op!();
}
