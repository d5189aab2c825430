//! Resizing of images.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::nn::resize::CoordTransformer;

use super::layout::{Layout, images, pixels, shape_of, write_pixels};
use super::pool::limit;
use super::{Operands, Shapes, Stateless, filled, int8, quantization};
use crate::kernels::{Blend, Images, LinearResize, resize_nearest};

impl int8::Resize {
    /// The length of an axis of space, and its scale.
    fn axis(&self, axis: usize, length: usize) -> TractResult<(usize, f32)> {
        match (self.sizes.get(axis), self.scales.get(axis)) {
            (Some(&size), _) => Ok((usize::try_from(size)?, size as f32 / length as f32)),
            (None, Some(&scale)) => Ok(((length as f32 * scale).floor() as usize, scale)),
            (None, None) => bail!("neither a size nor a scale for axis {axis}"),
        }
    }

    /// For every coordinate of the result where it lies in an input of `length`.
    fn sources(&self, axis: usize, length: usize) -> TractResult<Vec<f32>> {
        let (result, scale) = self.axis(axis, length)?;
        let coordinates = CoordTransformer::parse(&self.coordinates)?;
        Ok((0..result).map(|at| coordinates.transform(at, scale, length, result)).collect())
    }

    fn nearest(&self, source: f32, length: usize) -> TractResult<usize> {
        let rounded = match &*self.nearest_mode {
            "floor" => source.floor(),
            "ceil" => source.ceil(),
            "round_prefer_floor" => (source - 0.5).ceil(),
            "round_prefer_ceil" => (source + 0.5).floor(),
            mode => bail!("the nearest mode `{mode}`"),
        };
        Ok(rounded.clamp(0.0, (length - 1) as f32) as usize)
    }
}

fn blend(source: f32, length: usize) -> Blend {
    let last = (length - 1) as f32;
    let source = source.clamp(0.0, last);
    let first = source.floor();
    Blend { first: first as usize, second: (first + 1.0).min(last) as usize, weight: source - first }
}

impl Stateless for int8::Resize {
    fn result_type(&self) -> DatumType {
        DatumType::U8
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let mut first = Layout::first(&shapes[self.x], self.channels_last);
        for (axis, length) in first[2..].iter_mut().enumerate() {
            *length = self.axis(axis, length.to_usize()?)?.0.to_dim();
        }
        Ok(Layout::ordered(&first, self.channels_last))
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let shape = operands.shape(self.x);
        let images = images(shape, self.channels_last)?;
        let [height, width] = images.size;
        // Of a line, the only axis of space is its width.
        let (rows, columns) = match shape.len() {
            3 => (vec![0.0], self.sources(0, width)?),
            _ => (self.sources(0, height)?, self.sources(1, width)?),
        };
        let result = Images { size: [rows.len(), columns.len()], ..images };
        let shape = shape_of(&result, shape.len(), self.channels_last);
        if images.is_empty() || result.is_empty() {
            return filled(&shape, |_: &mut [u8]| {});
        }
        let x = pixels(operands.elements::<u8>(self.x)?, &images, self.channels_last);
        if self.mode == "nearest" {
            let places = |sources: &[f32], length: usize| -> TractResult<Vec<usize>> {
                sources.iter().map(|&source| self.nearest(source, length)).collect()
            };
            let (rows, columns) = (places(&rows, height)?, places(&columns, width)?);
            return filled(&shape, |y| {
                write_pixels(y, &result, self.channels_last, |y| resize_nearest(&images, &rows, &columns, &x, y));
            });
        }
        let blends = |sources: &[f32], length: usize| sources.iter().map(|&source| blend(source, length)).collect();
        let (rows, columns): (Vec<Blend>, Vec<Blend>) = (blends(&rows, height), blends(&columns, width));
        let resize = LinearResize {
            rows: &rows,
            columns: &columns,
            x: quantization(self.x_scale, self.x_zero_point),
            y: quantization(self.y_scale, self.y_zero_point),
        };
        filled(&shape, |y| {
            write_pixels(y, &result, self.channels_last, |y| {
                resize.run(&images, &x, y);
                limit(y, self.low, self.high);
            });
        })
    }
}
