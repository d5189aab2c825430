//! Pools.

use tract_onnx::tract_core::internal::*;

use super::layout::{Layout, images, outputs, pixels, shape_of, write_pixels};
use super::{Constants, Execute, Operands, Shapes, Stateless, filled, int8, quantization};
use crate::ir::ValueId;
use crate::kernels::{self, AveragePool, Images, Window};
use crate::runtime::window::WindowAttrs;

impl Stateless for int8::GlobalAveragePool {
    fn result_type(&self) -> DatumType {
        DatumType::U8
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let mut first = Layout::first(&shapes[self.x], self.channels_last);
        first[2..].iter_mut().for_each(|length| *length = 1.to_dim());
        Ok(Layout::ordered(&first, self.channels_last))
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let shape = operands.shape(self.x);
        let first = Layout::first(shape, self.channels_last);
        // All of space as one axis.
        let images = Images { batch: first[0], channels: first[1], size: [1, first[2..].iter().product()] };
        let mut result = first.clone();
        result[2..].fill(1);
        let x = pixels(operands.elements::<u8>(self.x)?, &images, self.channels_last);
        let from = quantization(self.x_scale, self.x_zero_point);
        let to = quantization(self.y_scale, self.y_zero_point);
        filled(&Layout::ordered(&result, self.channels_last), |y| {
            AveragePool::global(from, to, &images, &x, y);
            limit(y, self.low, self.high);
        })
    }
}

impl Execute for int8::AveragePool {
    type Prepared = Window;

    fn prepare(&self, _: &Constants, shapes: &Shapes) -> TractResult<Window> {
        self.window(shapes)
    }

    fn result_type(&self) -> DatumType {
        DatumType::U8
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        pooled(&self.window(shapes)?, &shapes[self.x], self.ceil_mode != 0, self.channels_last)
    }

    fn run(&self, window: &Window, operands: &Operands) -> TractResult<Tensor> {
        let pool = AveragePool {
            window: *window,
            count_include_pad: self.count_include_pad != 0,
            x: quantization(self.x_scale, self.x_zero_point),
            y: quantization(self.y_scale, self.y_zero_point),
        };
        pool_images(operands, self.x, window, self.ceil_mode != 0, self.channels_last, |images, size, x, y| {
            pool.run(images, size, x, y);
            limit(y, self.low, self.high);
        })
    }
}

impl int8::AveragePool {
    fn window(&self, shapes: &Shapes) -> TractResult<Window> {
        let kernel = kernel(&self.kernel_shape)?;
        let attrs = WindowAttrs {
            kernel: &kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: &self.auto_pad,
        };
        attrs.window(&Layout::first(&shapes[self.x], self.channels_last))
    }
}

impl Execute for int8::MaxPool {
    type Prepared = Window;

    fn prepare(&self, _: &Constants, shapes: &Shapes) -> TractResult<Window> {
        self.window(shapes)
    }

    fn result_type(&self) -> DatumType {
        DatumType::U8
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        pooled(&self.window(shapes)?, &shapes[self.x], self.ceil_mode != 0, self.channels_last)
    }

    fn run(&self, window: &Window, operands: &Operands) -> TractResult<Tensor> {
        pool_images(operands, self.x, window, self.ceil_mode != 0, self.channels_last, |images, size, x, y| {
            kernels::max_pool(window, images, size, x, y);
        })
    }
}

impl int8::MaxPool {
    fn window(&self, shapes: &Shapes) -> TractResult<Window> {
        let kernel = kernel(&self.kernel_shape)?;
        let attrs = WindowAttrs {
            kernel: &kernel,
            strides: &self.strides,
            dilations: &self.dilations,
            pads: &self.pads,
            auto_pad: &self.auto_pad,
        };
        attrs.window(&Layout::first(&shapes[self.x], self.channels_last))
    }
}

fn kernel(attr: &[i64]) -> TractResult<TVec<usize>> {
    attr.iter().map(|&length| Ok(usize::try_from(length)?)).collect()
}

fn pooled(window: &Window, x: &[TDim], ceil: bool, channels_last: bool) -> TractResult<TVec<TDim>> {
    let first = Layout::first(x, channels_last);
    let space = outputs(window, &first, ceil)?;
    let result: TVec<TDim> = first[..2].iter().cloned().chain(space).collect();
    Ok(Layout::ordered(&result, channels_last))
}

fn pool_images(
    operands: &Operands,
    x: ValueId,
    window: &Window,
    ceil: bool,
    channels_last: bool,
    pool: impl FnOnce(&Images, [usize; 2], &[u8], &mut [u8]),
) -> TractResult<Tensor> {
    let shape = operands.shape(x);
    let images = images(shape, channels_last)?;
    let first: TVec<TDim> = [images.batch, images.channels, images.size[0], images.size[1]].map(|n| n.to_dim()).into();
    let space = outputs(window, &first, ceil)?;
    let size = [space[0].to_usize()?, space[1].to_usize()?];
    let result = Images { size, ..images };
    let x = pixels(operands.elements::<u8>(x)?, &images, channels_last);
    filled(&shape_of(&result, shape.len(), channels_last), |y| {
        write_pixels(y, &result, channels_last, |y| pool(&images, size, &x, y));
    })
}

/// Keeps bytes within a Relu or Clip.
pub(super) fn limit(y: &mut [u8], low: i64, high: i64) {
    if (low, high) != (0, 255) {
        y.iter_mut().for_each(|y| *y = (*y).clamp(low as u8, high as u8));
    }
}
