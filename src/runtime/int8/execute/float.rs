//! Attention, softmax, layer normalization and GELU.

use rayon::prelude::*;
use tract_onnx::tract_core::broadcast::multi_broadcast;
use tract_onnx::tract_core::internal::*;

use super::elementwise::factors_of;
use super::matmul::{batch, place};
use super::{Constants, Execute, Operands, Shapes, Stateless, filled, int8, quantization, strides};
use crate::ir::ValueId;
use crate::kernels::{self, Activated, FloatMatrix, LayerNormalization};

/// Multiplications of one product below which heads stay on one thread.
const WORTH_SHARING: usize = 1 << 20;

/// The axes of an operand after they are exchanged: lengths, and elements between neighbours.
struct Axes {
    lengths: TVec<usize>,
    strides: TVec<usize>,
}

impl Axes {
    fn of(shape: &[usize], perm: &[i64]) -> TractResult<Axes> {
        Ok(Axes { lengths: exchanged(shape, perm)?, strides: exchanged(&strides(shape), perm)? })
    }

    /// The matrix that meets the result's matrix `index`; with `size`, an axis of one element is repeated.
    fn matrix<'a>(&self, values: &'a [f32], batches: &[usize], index: usize, size: [usize; 2]) -> FloatMatrix<'a> {
        let rank = self.lengths.len();
        let first = place(index, batches, &self.lengths[..rank - 2], |axis| self.strides[axis]);
        let strides = [0, 1].map(|axis| match self.lengths[rank - 2 + axis] {
            1 => 0,
            _ => self.strides[rank - 2 + axis],
        });
        FloatMatrix { values: &values[first.min(values.len())..], size, strides }
    }

    /// Rows and columns.
    fn size(&self) -> [usize; 2] {
        let rank = self.lengths.len();
        [self.lengths[rank - 2], self.lengths[rank - 1]]
    }
}

fn exchanged<D: Clone>(axes: &[D], perm: &[i64]) -> TractResult<TVec<D>> {
    if perm.is_empty() {
        return Ok(axes.into());
    }
    ensure!(perm.len() == axes.len(), "{} axes are exchanged as {perm:?}", axes.len());
    perm.iter().map(|&axis| axes.get(axis as usize).cloned().context("an axis that is not there")).collect()
}

/// A mask may lack axes in front.
fn with_two_axes<D: Clone + From<usize>>(shape: &[D]) -> TVec<D> {
    let missing = 2usize.saturating_sub(shape.len());
    std::iter::repeat_n(D::from(1), missing).chain(shape.iter().cloned()).collect()
}

impl int8::Attention {
    /// The shape before the result's axes are exchanged.
    fn product_shape<D: DimLike + From<usize>>(&self, shape: impl Fn(ValueId) -> TVec<D>) -> TractResult<TVec<D>> {
        let q = exchanged(&shape(self.q), &self.q_perm)?;
        let k = exchanged(&shape(self.k), &self.k_perm)?;
        let v = exchanged(&shape(self.v), &self.v_perm)?;
        let mask = self.mask.map(|mask| with_two_axes(&shape(mask)));
        let mut batches = tvec!(batch(&q)?, batch(&k)?, batch(&v)?);
        let mut rows = tvec!(q[q.len() - 2..q.len() - 1].to_vec());
        if let Some(mask) = &mask {
            batches.push(batch(mask)?);
            rows.push(mask[mask.len() - 2..mask.len() - 1].to_vec());
        }
        let mut result: TVec<D> = multi_broadcast(&batches)?;
        result.extend(multi_broadcast(&rows)?);
        result.push(v[v.len() - 1].clone());
        Ok(result)
    }
}

impl Stateless for int8::Attention {
    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        exchanged(&self.product_shape(|operand| shapes[operand].into())?, &self.y_perm)
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let shape: TVec<usize> = self.product_shape(|operand| operands.shape(operand).into())?;
        let rank = shape.len();
        let (batches, [rows, width]) = (&shape[..rank - 2], [shape[rank - 2], shape[rank - 1]]);
        let [q, k, v] = [(self.q, &self.q_perm), (self.k, &self.k_perm), (self.v, &self.v_perm)]
            .map(|(operand, perm)| Axes::of(operands.shape(operand), perm));
        let (q, k, v) = (q?, k?, v?);
        let (depth, keys) = (q.size()[1], v.size()[0]);
        ensure!(k.size()[0] == depth, "a product of {:?} and {:?}", q.lengths, k.lengths);
        let [q_values, k_values, v_values] = [self.q, self.k, self.v].map(|operand| operands.elements::<f32>(operand));
        let (q_values, k_values, v_values) = (q_values?, k_values?, v_values?);
        let mask = match self.mask {
            None => None,
            Some(mask) => Some((Axes::of(&with_two_axes(operands.shape(mask)), &[])?, operands.elements::<f32>(mask)?)),
        };
        let one = |index: usize, output: &mut [f32], stride: usize| {
            let attention = kernels::Attention {
                q: q.matrix(q_values, batches, index, [rows, depth]),
                k: k.matrix(k_values, batches, index, [depth, keys]),
                v: v.matrix(v_values, batches, index, [keys, width]),
                mask: mask.as_ref().map(|(axes, values)| axes.matrix(values, batches, index, [rows, keys])),
                scale: self.scale,
            };
            attention.run(output, stride);
        };

        let result = exchanged(&shape, &self.y_perm)?;
        let own: TVec<usize> = (0..rank).collect();
        let exchanged_axes = exchanged(&own, &self.y_perm)?;
        let mut strides = tvec![0; rank];
        let mut step = 1;
        for (place, &axis) in exchanged_axes.iter().enumerate().rev() {
            strides[axis] = step;
            step *= result[place];
        }
        let heads: usize = batches.iter().product();
        let first = |index: usize| place(index, batches, batches, |axis| strides[axis]);
        let stride = strides[rank - 2];
        filled(&result, |y: &mut [f32]| {
            if y.is_empty() {
                return;
            }
            if rayon::current_num_threads() == 1 || heads == 1 || heads * rows * depth * keys < WORTH_SHARING {
                return (0..heads).for_each(|head| one(head, &mut y[first(head)..], stride));
            }
            let computed = (0..heads).into_par_iter().map(|head| {
                let mut y = vec![0.0; rows * width];
                one(head, &mut y, width);
                y
            });
            for (head, rows) in computed.collect::<Vec<_>>().iter().enumerate() {
                for (row, from) in rows.chunks_exact(width).enumerate() {
                    y[first(head) + row * stride..][..width].copy_from_slice(from);
                }
            }
        })
    }
}

impl Stateless for int8::Softmax {
    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        Ok(shapes[self.x].into())
    }

    fn run(&self, operands: &Operands) -> TractResult<Tensor> {
        let (x, shape) = (operands.elements::<f32>(self.x)?, operands.shape(self.x));
        filled(shape, |y| kernels::rounded_softmax(x, shape.last().copied().unwrap_or(1), y))
    }
}

impl Execute for int8::LayerNorm {
    type Prepared = LayerNormalization;

    fn constants(&self) -> Vec<ValueId> {
        [self.scale].into_iter().chain(self.bias).collect()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<LayerNormalization> {
        let length = self.result_shape(shapes)?.last().context("a scalar")?.to_usize()?;
        let repeated = |operand: ValueId| {
            let values = constants.elements::<f32>(operand)?;
            ensure!(values.len() == length || values.len() == 1, "{} factors for {length} elements", values.len());
            Ok(values.iter().copied().cycle().take(length).collect::<Vec<f32>>())
        };
        let (scale, bias) = (repeated(self.scale)?, self.bias.map(repeated).transpose()?);
        Ok(LayerNormalization { epsilon: self.epsilon, scale, bias })
    }

    fn result_type(&self) -> DatumType {
        DatumType::F32
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        let x = &shapes[self.x];
        match self.other {
            None => Ok(x.into()),
            Some(other) => multi_broadcast(&[x, &shapes[other]]),
        }
    }

    fn run(&self, normalization: &LayerNormalization, operands: &Operands) -> TractResult<Tensor> {
        let x_shape = operands.shape(self.x);
        let values = |operand: ValueId| operands.elements::<f32>(operand);
        match self.other {
            None => {
                let x = values(self.x)?;
                filled(x_shape, |y| normalization.run(x, None, y))
            }
            Some(other) if operands.shape(other) == x_shape => {
                let (x, other) = (values(self.x)?, values(other)?);
                filled(x_shape, |y| normalization.run(x, Some(other), y))
            }
            Some(other) => {
                let shape = multi_broadcast(&[x_shape, operands.shape(other)])?;
                let [x, other] = [self.x, other].map(|operand| operands.tensor(operand).broadcast_to_shape(&shape));
                let (x, other) = (x?, other?);
                let (x, other) = (x.try_as_plain_ram()?, other.try_as_plain_ram()?);
                let (x, other) = (x.as_slice::<f32>()?, other.as_slice::<f32>()?);
                filled(&shape, |y| normalization.run(x, Some(other), y))
            }
        }
    }
}

impl Execute for int8::Gelu {
    type Prepared = kernels::Gelu;

    fn constants(&self) -> Vec<ValueId> {
        self.factors.into_iter().collect()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<kernels::Gelu> {
        Ok(kernels::Gelu { factors: factors_of(self.factors, &shapes[self.x], constants)? })
    }

    fn result_type(&self) -> DatumType {
        match self.y_scale {
            Some(_) => DatumType::U8,
            None => DatumType::F32,
        }
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        Ok(shapes[self.x].into())
    }

    fn run(&self, gelu: &kernels::Gelu, operands: &Operands) -> TractResult<Tensor> {
        let (x, shape) = (operands.elements::<f32>(self.x)?, operands.shape(self.x));
        match self.y_scale {
            Some(scale) => {
                let to = quantization(scale, self.y_zero_point);
                filled(shape, |y| gelu.run(x, Activated::Bytes(y, to)))
            }
            None => filled(shape, |y| gelu.run(x, Activated::Floats(y))),
        }
    }
}
