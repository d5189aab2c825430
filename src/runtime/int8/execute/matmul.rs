//! Matrix products, and what all linear operators share: results and parameters.

use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_core::internal::*;

use super::conv::{input_quantization, lengths};
use super::{Constants, Execute, Operands, Shapes, clamp, dispatch, filled, int8, quantization};
use crate::ir::ValueId;
use crate::kernels::{
    ActivationMatMul, Epilogue, Integers, MatMul, MatMulShape, MatrixView, Output, Parameters, Requantize, Scale,
    Weights,
};

/// What the sums of a linear operator become.
#[derive(Clone, Copy)]
pub(super) enum Result {
    Real,
    Integer { scale: f32, zero_point: i64, low: i64, high: i64 },
}

impl Result {
    pub fn of(scale: Option<f32>, zero_point: i64, low: i64, high: i64) -> Result {
        scale.map_or(Result::Real, |scale| Result::Integer { scale, zero_point, low, high })
    }

    pub fn datum_type(&self) -> DatumType {
        match self {
            Result::Real => DatumType::F32,
            Result::Integer { .. } => DatumType::U8,
        }
    }

    /// `scales` are those of the weights; a bias of floats is added to real results.
    pub fn epilogue(
        &self,
        constants: &Constants,
        x_scale: f32,
        scales: ValueId,
        bias: Option<ValueId>,
    ) -> TractResult<Epilogue> {
        let scales = constants.elements::<f32>(scales)?;
        let bias = match bias {
            Some(bias) if constants.tensor(bias)?.datum_type() == DatumType::F32 => constants.elements::<f32>(bias)?,
            _ => &[],
        };
        Ok(self.with(x_scale, scales, bias))
    }

    fn with(&self, x_scale: f32, scales: &[f32], bias: &[f32]) -> Epilogue {
        match *self {
            Result::Real => Epilogue::Scale(Scale {
                scales: scales.iter().map(|scale| x_scale * scale).collect(),
                bias: bias.to_vec(),
                clamp: [f32::NEG_INFINITY, f32::INFINITY],
            }),
            Result::Integer { scale, zero_point, low, high } => {
                let requantize = Requantize::new(x_scale, scales, quantization(scale, zero_point));
                Epilogue::Requantize(Requantize { clamp: clamp(low, high), ..requantize })
            }
        }
    }
}

/// Gives `make` the constants of a linear operator as the kernels take them.
pub(super) fn parameters<T>(
    constants: &Constants,
    weights: ValueId,
    zero_points: Option<ValueId>,
    bias: Option<ValueId>,
    x_zero_point: i64,
    epilogue: Epilogue,
    make: impl FnOnce(&Parameters) -> TractResult<T>,
) -> TractResult<T> {
    let is_signed = constants.tensor(weights)?.datum_type() == DatumType::I8;
    let zero_points: Vec<i32> = match zero_points {
        None => vec![],
        Some(zeros) if is_signed => constants.elements::<i8>(zeros)?.iter().map(|&zero| zero.into()).collect(),
        Some(zeros) => constants.elements::<u8>(zeros)?.iter().map(|&zero| zero.into()).collect(),
    };
    let values = match is_signed {
        true => Integers::I8(constants.elements::<i8>(weights)?),
        false => Integers::U8(constants.elements::<u8>(weights)?),
    };
    let bias = match bias {
        Some(bias) if constants.tensor(bias)?.datum_type() == DatumType::I32 => Some(constants.elements::<i32>(bias)?),
        _ => None,
    };
    let weights = Weights { values, zero_points: &zero_points };
    make(&Parameters { weights, bias, x_zero_point: x_zero_point as u8, epilogue })
}

/// The shape of a constant right operand.
fn matrix(shape: &[TDim], transposed: bool) -> TractResult<MatMulShape> {
    match *lengths(shape)? {
        [columns, depth] if transposed => Ok(MatMulShape { depth, columns, transposed }),
        [depth, columns] => Ok(MatMulShape { depth, columns, transposed }),
        ref shape => bail!("a matrix of shape {shape:?}"),
    }
}

/// The shape of a product whose right operand has so many columns.
fn product_shape(a: &[TDim], columns: TDim) -> TractResult<TVec<TDim>> {
    let (_, rows) = a.split_last().context("a product of a scalar")?;
    Ok(rows.iter().cloned().chain([columns]).collect())
}

/// Runs a product over all rows of `a`.
fn multiply(a_shape: &[usize], columns: usize, result: Result, run: impl FnOnce(usize, Output)) -> TractResult<Tensor> {
    let (_, rows) = a_shape.split_last().context("a product of a scalar")?;
    let shape: TVec<usize> = rows.iter().copied().chain([columns]).collect();
    let rows = rows.iter().product();
    match result {
        Result::Real => filled(&shape, |y: &mut [f32]| run(rows, Output::F32(y))),
        Result::Integer { .. } => filled(&shape, |y: &mut [u8]| run(rows, Output::U8(y))),
    }
}

impl int8::MatMul {
    fn result(&self) -> Result {
        Result::of(self.y_scale, self.y_zero_point, self.low, self.high)
    }
}

impl Execute for int8::MatMul {
    type Prepared = (MatMul, MatMulShape);

    fn constants(&self) -> Vec<ValueId> {
        [self.b, self.b_scale].into_iter().chain(self.b_zero_point).chain(self.bias).collect()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Self::Prepared> {
        let shape = matrix(&shapes[self.b], self.transpose_b)?;
        let epilogue = self.result().epilogue(constants, self.a_scale, self.b_scale, self.bias)?;
        let dispatch = dispatch(&self.isa, &self.arithmetic)?;
        parameters(constants, self.b, self.b_zero_point, self.bias, self.a_zero_point, epilogue, |parameters| {
            Ok((MatMul::new(dispatch, shape, parameters), shape))
        })
    }

    fn result_type(&self) -> DatumType {
        self.result().datum_type()
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let shape = matrix(&shapes[self.b], self.transpose_b)?;
        product_shape(&shapes[self.a], shape.columns.to_dim())
    }

    fn run(&self, (kernel, shape): &Self::Prepared, operands: &Operands) -> TractResult<Tensor> {
        let a = operands.elements::<u8>(self.a)?;
        multiply(operands.shape(self.a), shape.columns, self.result(), |rows, output| {
            kernel.run(MatrixView { values: a, rows, stride: shape.depth }, None, output);
        })
    }
}

impl Execute for int8::DynamicMatMul {
    type Prepared = (MatMul, MatMulShape);

    fn constants(&self) -> Vec<ValueId> {
        [self.b, self.b_scale].into_iter().chain(self.b_zero_point).chain(self.bias).collect()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Self::Prepared> {
        let shape = matrix(&shapes[self.b], false)?;
        let epilogue = Result::Real.epilogue(constants, 1.0, self.b_scale, self.bias)?;
        let dispatch = dispatch(&self.isa, &self.arithmetic)?;
        parameters(constants, self.b, self.b_zero_point, self.bias, 0, epilogue, |parameters| {
            Ok((MatMul::new(dispatch, shape, parameters), shape))
        })
    }

    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        product_shape(&shapes[self.a], matrix(&shapes[self.b], false)?.columns.to_dim())
    }

    fn run(&self, (kernel, shape): &Self::Prepared, operands: &Operands) -> TractResult<Tensor> {
        let input = input_quantization(operands, self.a_scale, self.a_zero_point)?;
        let a = operands.elements::<u8>(self.a)?;
        multiply(operands.shape(self.a), shape.columns, Result::Real, |rows, output| {
            kernel.run_dynamic(input, MatrixView { values: a, rows, stride: shape.depth }, output);
        })
    }
}

impl int8::BatchMatMul {
    fn result(&self) -> Result {
        Result::of(self.y_scale, self.y_zero_point, self.low, self.high)
    }
}

/// The axes before the last two.
pub(super) fn batch<D: Clone>(shape: &[D]) -> TractResult<&[D]> {
    Ok(&shape[..shape.len().checked_sub(2).context("a product of vectors")?])
}

impl Execute for int8::BatchMatMul {
    type Prepared = ActivationMatMul;

    fn prepare(&self, _: &Constants, shapes: &Shapes) -> TractResult<ActivationMatMul> {
        let b = &shapes[self.b];
        let rank = batch(b)?.len();
        let shape = MatMulShape {
            depth: b[rank].to_usize().unwrap_or(0),
            columns: b[rank + 1].to_usize().unwrap_or(0),
            transposed: false,
        };
        Ok(ActivationMatMul {
            dispatch: dispatch(&self.isa, &self.arithmetic)?,
            shape,
            a_zero_point: self.a_zero_point as u8,
            b_zero_point: self.b_zero_point as u8,
            b_is_signed: false,
            epilogue: self.result().with(self.a_scale, &[self.b_scale], &[]),
        })
    }

    fn result_type(&self) -> DatumType {
        self.result().datum_type()
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let (a, b) = (&shapes[self.a], &shapes[self.b]);
        let mut shape: TVec<TDim> = multi_broadcast(&[batch(a)?, batch(b)?])?;
        shape.extend([a[a.len() - 2].clone(), b[b.len() - 1].clone()]);
        Ok(shape)
    }

    fn run(&self, kernel: &ActivationMatMul, operands: &Operands) -> TractResult<Tensor> {
        let (a_shape, b_shape) = (operands.shape(self.a), operands.shape(self.b));
        let batches: TVec<usize> = multi_broadcast(&[batch(a_shape)?, batch(b_shape)?])?;
        let [rows, depth] = a_shape[a_shape.len() - 2..] else { unreachable!("two axes") };
        let columns = b_shape[b_shape.len() - 1];
        ensure!(b_shape[b_shape.len() - 2] == depth, "a product of {a_shape:?} and {b_shape:?}");
        let kernel = ActivationMatMul { shape: MatMulShape { depth, columns, transposed: false }, ..kernel.clone() };
        let (a, b) = (operands.elements::<u8>(self.a)?, operands.elements::<u8>(self.b)?);
        let shape: TVec<usize> = batches.iter().copied().chain([rows, columns]).collect();
        let one = |index: usize, output: Output| {
            let a = &a[dense(index, &batches, a_shape)..][..rows * depth];
            let b = &b[dense(index, &batches, b_shape)..][..depth * columns];
            let (a, b) =
                (MatrixView { values: a, rows, stride: depth }, MatrixView { values: b, rows: depth, stride: columns });
            kernel.run(a, b, output, columns);
        };
        let area = (rows * columns).max(1);
        match self.result() {
            Result::Real => filled(&shape, |y: &mut [f32]| {
                y.chunks_exact_mut(area).enumerate().for_each(|(index, y)| one(index, Output::F32(y)));
            }),
            Result::Integer { .. } => filled(&shape, |y: &mut [u8]| {
                y.chunks_exact_mut(area).enumerate().for_each(|(index, y)| one(index, Output::U8(y)));
            }),
        }
    }
}

/// [`place`] in a tensor without gaps.
fn dense(index: usize, batches: &[usize], shape: &[usize]) -> usize {
    place(index, batches, &shape[..shape.len() - 2], |axis| shape[axis + 1..].iter().product())
}

/// Where the matrix of an operand is that meets the result's matrix `index`: `own` are the operand's axes, and `stride`
/// tells what lies between neighbours on one of them.
pub(super) fn place(mut index: usize, batches: &[usize], own: &[usize], stride: impl Fn(usize) -> usize) -> usize {
    let missing = batches.len() - own.len();
    let mut place = 0;
    for axis in (0..batches.len()).rev() {
        let at = index % batches[axis];
        index /= batches[axis];
        if axis >= missing && own[axis - missing] != 1 {
            place += at * stride(axis - missing);
        }
    }
    place
}
