//! Convolutions.

use tract_onnx::tract_core::internal::*;

use super::layout::{Layout, images, outputs, pixels, shape_of, write_pixels};
use super::matmul::{Result, parameters};
use super::{Constants, Execute, Operands, Shapes, clamp, dispatch, filled, int8, quantization};
use crate::ir::ValueId;
use crate::kernels::{
    Addition, Convolution, ConvolutionShape, Epilogue, InputQuantization, Output, TransposedConvolution, Window,
};
use crate::runtime::window::WindowAttrs;

pub(in crate::runtime) struct Transposed {
    kernel: TransposedConvolution,
    window: Window,
    channels: usize,
}

impl int8::Conv {
    fn window(&self, shapes: &Shapes) -> TractResult<Window> {
        let kernel = lengths(&shapes[self.w][2..])?;
        let attrs = WindowAttrs {
            kernel: &kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: &self.auto_pad,
        };
        attrs.window(&Layout::first(&shapes[self.x], self.channels_last))
    }

    fn result(&self) -> Result {
        Result::of(self.y_scale, self.y_zero_point, self.low, self.high)
    }
}

impl Execute for int8::Conv {
    type Prepared = Convolution;

    fn constants(&self) -> Vec<ValueId> {
        [self.w, self.w_scale].into_iter().chain(self.w_zero_point).chain(self.bias).collect()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Convolution> {
        let w = lengths(&shapes[self.w])?;
        let groups = usize::try_from(self.group)?;
        let (in_channels, out_channels) = (w[1] * groups, w[0]);
        let shape = ConvolutionShape { window: self.window(shapes)?, groups, in_channels, out_channels };
        let mut epilogue = self.result().epilogue(constants, self.x_scale, self.w_scale, self.bias)?;
        if let (Some(_), Epilogue::Requantize(requantize)) = (self.other, &mut epilogue) {
            let own = quantization(self.y_scale.unwrap_or(1.0), self.y_zero_point);
            let other = quantization(self.other_scale, self.other_zero_point);
            let sum = quantization(self.sum_scale, self.sum_zero_point);
            let addition = Addition::new(own, other, sum);
            requantize.residual = Some(Addition { clamp: clamp(self.sum_low, self.sum_high), ..addition });
        }
        let dispatch = dispatch(&self.isa, &self.arithmetic)?;
        parameters(constants, self.w, self.w_zero_point, self.bias, self.x_zero_point, epilogue, |parameters| {
            Ok(Convolution::new(dispatch, shape, parameters))
        })
    }

    fn result_type(&self) -> DatumType {
        self.result().datum_type()
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let first = Layout::first(&shapes[self.x], self.channels_last);
        let space = outputs(&self.window(shapes)?, &first, false)?;
        let result: TVec<TDim> = [first[0].clone(), shapes[self.w][0].clone()].into_iter().chain(space).collect();
        Ok(Layout::ordered(&result, self.channels_last && self.y_scale.is_some()))
    }

    fn run(&self, kernel: &Convolution, operands: &Operands) -> TractResult<Tensor> {
        let shape = operands.shape(self.x);
        let last = self.channels_last;
        let images = images(shape, last)?;
        let result = kernel.output(&images);
        let x = pixels(operands.elements::<u8>(self.x)?, &images, last);
        let other = self.other.map(|other| operands.elements::<u8>(other)).transpose()?;
        let other = other.map(|other| pixels(other, &result, last));
        let rank = shape.len();
        let shape = shape_of(&result, rank, last);
        match self.result() {
            Result::Real => filled(&shape_of(&result, rank, false), |y: &mut [f32]| {
                write_pixels(y, &result, false, |y| kernel.run(&images, &x, None, Output::F32(y)));
            }),
            Result::Integer { .. } => filled(&shape, |y: &mut [u8]| {
                write_pixels(y, &result, last, |y| kernel.run(&images, &x, other.as_deref(), Output::U8(y)));
            }),
        }
    }
}

impl int8::ConvTranspose {
    fn window(&self, shapes: &Shapes) -> TractResult<Window> {
        let kernel = lengths(&shapes[self.w][2..])?;
        let attrs = WindowAttrs {
            kernel: &kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: "NOTSET",
        };
        attrs.window(&[])
    }

    fn result(&self) -> Result {
        Result::of(self.y_scale, self.y_zero_point, self.low, self.high)
    }

    /// How much longer an axis of space is than the window makes it.
    fn padding(&self, axis: usize) -> usize {
        self.output_padding.get(axis).map_or(0, |&padding| padding as usize)
    }
}

impl Execute for int8::ConvTranspose {
    type Prepared = Transposed;

    fn constants(&self) -> Vec<ValueId> {
        [self.w, self.w_scale].into_iter().chain(self.w_zero_point).chain(self.bias).collect()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Transposed> {
        let w = lengths(&shapes[self.w])?;
        let groups = usize::try_from(self.group)?;
        let (in_channels, channels) = (w[0], w[1] * groups);
        let window = self.window(shapes)?;
        let shape = ConvolutionShape { window, groups, in_channels, out_channels: channels };
        let epilogue = self.result().epilogue(constants, self.x_scale, self.w_scale, self.bias)?;
        let dispatch = dispatch(&self.isa, &self.arithmetic)?;
        parameters(constants, self.w, self.w_zero_point, self.bias, self.x_zero_point, epilogue, |parameters| {
            Ok(Transposed { kernel: TransposedConvolution::new(dispatch, shape, parameters), window, channels })
        })
    }

    fn result_type(&self) -> DatumType {
        self.result().datum_type()
    }

    // (n - 1) · stride + reach - pads + output padding
    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let first = Layout::first(&shapes[self.x], self.channels_last);
        let window = self.window(shapes)?;
        let rank = first.len() - 2;
        let channels = shapes[self.w][1].clone() * self.group;
        let mut result: TVec<TDim> = tvec!(first[0].clone(), channels);
        for axis in 0..rank {
            let place = axis + 2 - rank;
            let reach = (window.kernel[place] - 1) * window.dilations[place] + 1 + self.padding(axis);
            let full = (first[2 + axis].clone() - 1) * window.strides[place] + reach;
            result.push(full - window.pads[place] - window.pads[place + 2]);
        }
        Ok(Layout::ordered(&result, self.channels_last && self.y_scale.is_some()))
    }

    fn run(&self, transposed: &Transposed, operands: &Operands) -> TractResult<Tensor> {
        let shape = operands.shape(self.x);
        let last = self.channels_last;
        let images = images(shape, last)?;
        let mut size = transposed.window.transposed_size(images.size);
        let rank = shape.len() - 2;
        (0..rank).for_each(|axis| size[axis + 2 - rank] += self.padding(axis));
        let result = crate::kernels::Images { batch: images.batch, size, channels: transposed.channels };
        let x = pixels(operands.elements::<u8>(self.x)?, &images, last);
        let run = |output: Output| transposed.kernel.run(&images, size, &x, None, output);
        match self.result() {
            Result::Real => filled(&shape_of(&result, shape.len(), false), |y: &mut [f32]| {
                write_pixels(y, &result, false, |y| run(Output::F32(y)));
            }),
            Result::Integer { .. } => filled(&shape_of(&result, shape.len(), last), |y: &mut [u8]| {
                write_pixels(y, &result, last, |y| run(Output::U8(y)))
            }),
        }
    }
}

impl int8::DynamicConv {
    fn window(&self, shapes: &Shapes) -> TractResult<Window> {
        let kernel = lengths(&shapes[self.w][2..])?;
        let attrs = WindowAttrs {
            kernel: &kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: &self.auto_pad,
        };
        attrs.window(&shapes[self.x])
    }
}

impl Execute for int8::DynamicConv {
    type Prepared = Convolution;

    fn constants(&self) -> Vec<ValueId> {
        [self.w, self.w_scale].into_iter().chain(self.w_zero_point).chain(self.bias).collect()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Convolution> {
        let w = lengths(&shapes[self.w])?;
        let groups = usize::try_from(self.group)?;
        let (in_channels, out_channels) = (w[1] * groups, w[0]);
        let shape = ConvolutionShape { window: self.window(shapes)?, groups, in_channels, out_channels };
        let epilogue = Result::Real.epilogue(constants, 1.0, self.w_scale, self.bias)?;
        let dispatch = dispatch(&self.isa, &self.arithmetic)?;
        parameters(constants, self.w, self.w_zero_point, self.bias, 0, epilogue, |parameters| {
            Ok(Convolution::new(dispatch, shape, parameters))
        })
    }

    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let x = &shapes[self.x];
        let space = outputs(&self.window(shapes)?, x, false)?;
        Ok([x[0].clone(), shapes[self.w][0].clone()].into_iter().chain(space).collect())
    }

    fn run(&self, kernel: &Convolution, operands: &Operands) -> TractResult<Tensor> {
        let shape = operands.shape(self.x);
        let images = images(shape, false)?;
        let result = kernel.output(&images);
        let input = input_quantization(operands, self.x_scale, self.x_zero_point)?;
        let x = pixels(operands.elements::<u8>(self.x)?, &images, false);
        filled(&shape_of(&result, shape.len(), false), |y: &mut [f32]| {
            write_pixels(y, &result, false, |y| kernel.run_dynamic(input, &images, &x, Output::F32(y)));
        })
    }
}

/// The quantization that was computed for an input.
pub(super) fn input_quantization(
    operands: &Operands,
    scale: ValueId,
    zero_point: ValueId,
) -> TractResult<InputQuantization> {
    let scale_factor = *operands.elements::<f32>(scale)?.first().context("no scale")?;
    let zero_point = *operands.elements::<u8>(zero_point)?.first().context("no zero point")?;
    Ok(InputQuantization { zero_point, scale_factor })
}

/// Lengths that have to be known.
pub(super) fn lengths(shape: &[TDim]) -> TractResult<TVec<usize>> {
    shape.iter().map(|length| Ok(length.to_usize()?)).collect()
}
