//! Quantize, Dequantize, tables, sums and products.

use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_core::internal::*;

use super::layout::{Layout, images};
use super::{Constants, Execute, Operands, Shapes, Stateless, clamp, filled, int8, quantization};
use crate::ir::{DType, ValueId};
use crate::kernels::{self, Addition, Multiplication};

impl int8::Quantize {
    /// The shape of the result for that of `x`.
    fn shape<D: Clone + From<usize>>(&self, x: &[D]) -> TVec<D> {
        if !self.channels_last {
            return x.into();
        }
        let mut shape = Layout::channels_last(x);
        if let (1.., Some(channels)) = (self.channels, shape.last_mut()) {
            *channels = D::from(self.channels as usize);
        }
        shape
    }
}

impl Execute for int8::Quantize {
    /// The factors.
    type Prepared = Vec<f32>;

    fn constants(&self) -> Vec<ValueId> {
        self.factors.into_iter().collect()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Vec<f32>> {
        factors_of(self.factors, &shapes[self.x], constants)
    }

    fn result_type(&self) -> DatumType {
        DatumType::U8
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let x = &shapes[self.x];
        Ok(self.shape(x))
    }

    fn run(&self, factors: &Vec<f32>, operands: &Operands) -> TractResult<Tensor> {
        let x = operands.elements::<f32>(self.x)?;
        let shape = operands.shape(self.x);
        let quantization = quantization(self.scale, self.zero_point);
        filled(&self.shape(shape), |y| {
            if !factors.is_empty() {
                return quantization.quantize_scaled(x, factors, y);
            }
            if !self.channels_last || x.is_empty() {
                return quantization.quantize_all(x, y);
            }
            let (channels, pixels) = (shape[1], shape[2..].iter().product());
            let filled = channels.max(self.channels as usize);
            quantization.quantize_channels_last(x, channels, pixels, filled, y);
        })
    }
}

/// Factors for the last axis of a tensor of that shape; none where there are none.
pub(super) fn factors_of(factors: Option<ValueId>, shape: &[TDim], constants: &Constants) -> TractResult<Vec<f32>> {
    let Some(factors) = factors else { return Ok(Vec::new()) };
    let factors = constants.elements::<f32>(factors)?;
    let length = shape.last().context("factors of a scalar")?;
    ensure!(*length == factors.len().to_dim(), "{} factors for {length} elements", factors.len());
    Ok(factors.to_vec())
}

impl Stateless for int8::Dequantize {
    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let x = &shapes[self.x];
        Ok(if self.channels_last { Layout::channels_first(x) } else { x.into() })
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let x = operands.elements::<u8>(self.x)?;
        let shape = operands.shape(self.x);
        let quantization = quantization(self.scale, self.zero_point);
        if !self.channels_last || x.is_empty() {
            let shape = if self.channels_last { Layout::channels_first(shape) } else { shape.into() };
            return filled(&shape, |y| quantization.dequantize_all(x, y));
        }
        let images = images(shape, true)?;
        let pixels = images.size[0] * images.size[1];
        filled(&Layout::channels_first(shape), |y| {
            quantization.dequantize_channels_first(x, images.channels, pixels, y);
        })
    }
}

impl Stateless for int8::Flip {
    fn result_type(&self) -> DatumType {
        match DType::from_code(self.to as i32) {
            Some(DType::I8) => DatumType::I8,
            _ => DatumType::U8,
        }
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        Ok(shapes[self.x].into())
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let shape = operands.shape(self.x);
        match Stateless::result_type(self) {
            DatumType::I8 => {
                let x = operands.elements::<u8>(self.x)?;
                filled(shape, |y: &mut [i8]| y.iter_mut().zip(x).for_each(|(y, x)| *y = (x ^ 0x80) as i8))
            }
            _ => {
                let x = operands.elements::<i8>(self.x)?;
                filled(shape, |y: &mut [u8]| y.iter_mut().zip(x).for_each(|(y, x)| *y = (*x as u8) ^ 0x80))
            }
        }
    }
}

impl Execute for int8::Table {
    type Prepared = kernels::Table;

    fn constants(&self) -> Vec<ValueId> {
        vec![self.table]
    }

    fn prepare(&self, constants: &Constants, _: &Shapes) -> TractResult<kernels::Table> {
        let entries = constants.elements::<u8>(self.table)?;
        Ok(kernels::Table(entries.try_into().context("a table without 256 entries")?))
    }

    fn result_type(&self) -> DatumType {
        DatumType::U8
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        Ok(shapes[self.x].into())
    }

    fn run(&self, table: &kernels::Table, operands: &Operands) -> TractResult<Tensor> {
        let x = operands.elements::<u8>(self.x)?;
        filled(operands.shape(self.x), |y| table.run(x, y))
    }
}

impl Execute for int8::Sum {
    type Prepared = Addition;

    fn prepare(&self, _: &Constants, _: &Shapes) -> TractResult<Addition> {
        let a = quantization(self.a_scale, self.a_zero_point);
        let b = quantization(self.b_scale, self.b_zero_point);
        let y = quantization(self.y_scale, self.y_zero_point);
        Ok(Addition { clamp: clamp(self.low, self.high), ..Addition::new(a, b, y) })
    }

    fn result_type(&self) -> DatumType {
        DatumType::U8
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        multi_broadcast(&[&shapes[self.a], &shapes[self.b]])
    }

    fn run(&self, addition: &Addition, operands: &Operands) -> TractResult<Tensor> {
        zipped(operands, self.a, self.b, |a, b, y| addition.run(a, b, y))
    }
}

impl Execute for int8::Product {
    type Prepared = Multiplication;

    fn prepare(&self, _: &Constants, _: &Shapes) -> TractResult<Multiplication> {
        let a = quantization(self.a_scale, self.a_zero_point);
        let b = quantization(self.b_scale, self.b_zero_point);
        let y = quantization(self.y_scale, self.y_zero_point);
        Ok(Multiplication { clamp: clamp(self.low, self.high), ..Multiplication::new(a, b, y) })
    }

    fn result_type(&self) -> DatumType {
        DatumType::U8
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        multi_broadcast(&[&shapes[self.a], &shapes[self.b]])
    }

    fn run(&self, multiplication: &Multiplication, operands: &Operands) -> TractResult<Tensor> {
        zipped(operands, self.a, self.b, |a, b, y| multiplication.run(a, b, y))
    }
}

/// Applies `function` to operands that broadcast. One that repeats as a whole, over the first axes, is not copied.
fn zipped(
    operands: &Operands,
    a: ValueId,
    b: ValueId,
    function: impl FnOnce(&[u8], &[u8], &mut [u8]),
) -> TractResult<Tensor> {
    let shape = multi_broadcast(&[operands.shape(a), operands.shape(b)])?;
    let spread = |operand: ValueId| -> TractResult<Option<Vec<u8>>> {
        let own = operands.shape(operand);
        let varying = &own[own.iter().position(|&length| length != 1).unwrap_or(own.len())..];
        Ok(match shape.ends_with(varying) {
            true => None,
            false => Some(kernels::broadcast(operands.elements::<u8>(operand)?, own, &shape)),
        })
    };
    let (spread_a, spread_b) = (spread(a)?, spread(b)?);
    let a = spread_a.as_deref().map_or_else(|| operands.elements::<u8>(a), Ok)?;
    let b = spread_b.as_deref().map_or_else(|| operands.elements::<u8>(b), Ok)?;
    filled(&shape, |y| {
        if !y.is_empty() {
            function(a, b, y);
        }
    })
}
