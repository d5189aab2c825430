//! Layers with weights, y = W·x + b, as far as a map of each channel by itself can be moved into W and b.

use ndarray::{Array1, ArrayD, Axis, IxDyn};

use crate::ir::op::{Add, Conv, ConvTranspose, Gemm, LayerNormalization, MatMul};
use crate::ir::{DType, NodeId, Operation, ValueId};
use crate::require;
use crate::rewrite::{Draft, Match, Miss, Site};

use super::affine::{Affine, Channels};

pub enum Layer {
    Conv(Conv),
    ConvTranspose(ConvTranspose),
    Gemm(Gemm),
    /// A product with a constant that is added to it.
    MatMul(MatMul, Option<ValueId>),
    /// Only its scale and bias: nothing moves into it from before.
    LayerNormalization(LayerNormalization),
}

/// The operators that [`Layer::read`] reads.
pub const LAYERS: &[&str] = &["Conv", "ConvTranspose", "Gemm", "MatMul"];

impl Layer {
    /// The layer that computes `value` for the root alone.
    pub fn feeding(at: &Site, value: ValueId) -> Match<Layer> {
        let layer = Layer::read(at, at.model.producer(value).ok_or(Miss("not computed by a node"))?)?;
        at.only_here(value)?;
        Ok(layer)
    }

    pub fn read(at: &Site, node: NodeId) -> Match<Layer> {
        const UNUSUAL: Miss = Miss("the layer has an unusual form");
        let model = at.model;
        Ok(match model.node(node).op.as_str() {
            "Conv" => Layer::Conv(model.view(node).ok_or(UNUSUAL)?),
            "ConvTranspose" => Layer::ConvTranspose(model.view(node).ok_or(UNUSUAL)?),
            "Gemm" => Layer::Gemm(model.view(node).ok_or(UNUSUAL)?),
            "MatMul" => Layer::MatMul(model.view(node).ok_or(UNUSUAL)?, None),
            "LayerNormalization" => Layer::LayerNormalization(model.view(node).ok_or(UNUSUAL)?),
            "Add" => {
                let Add { a, b } = model.view(node).ok_or(UNUSUAL)?;
                let (product, bias) = if model.constant(b).is_some() { (a, b) } else { (b, a) };
                require!(model.constant(bias).is_some(), "no layer with weights computes it");
                Layer::MatMul(at.feeder(product)?, Some(bias))
            }
            _ => return Err(Miss("no layer with weights computes it")),
        })
    }

    /// The channels of the layer's result.
    pub fn outputs(&self, at: &Site) -> Match<Channels> {
        match self {
            Layer::Conv(conv) => {
                let w = at.fixed_shape(conv.w)?;
                require!(w.len() >= 2, "the weight has too few axes");
                Ok(Channels { count: w[0], from_end: w.len() - 2, rank: Some(w.len()) })
            }
            Layer::ConvTranspose(conv) => {
                let w = at.fixed_shape(conv.w)?;
                require!(w.len() >= 2, "the weight has too few axes");
                Ok(Channels { count: w[1] * groups(conv.group)?, from_end: w.len() - 2, rank: Some(w.len()) })
            }
            Layer::Gemm(gemm) => {
                let b = at.fixed_shape(gemm.b)?;
                require!(b.len() == 2, "the weight is not a matrix");
                Ok(Channels { count: b[usize::from(!gemm.transB)], from_end: 0, rank: Some(2) })
            }
            Layer::MatMul(MatMul { a, b }, _) => {
                let w = at.fixed_shape(*b)?;
                require!(w.len() >= 2, "the weight is not a matrix");
                let rank = at.rank(*a).ok().filter(|&rank| rank >= 2).map(|rank| rank.max(w.len()));
                Ok(Channels { count: w[w.len() - 1], from_end: 0, rank })
            }
            Layer::LayerNormalization(norm) => {
                let scale = at.fixed_shape(norm.scale)?;
                require!(norm.axis == -1 && scale.len() == 1, "it normalizes more than the last axis");
                Ok(Channels { count: scale[0], from_end: 0, rank: at.rank(norm.x).ok() })
            }
        }
    }

    /// The channels of the value that the layer reads.
    pub fn inputs(&self, at: &Site) -> Match<Channels> {
        match self {
            Layer::Conv(conv) => {
                let w = at.fixed_shape(conv.w)?;
                require!(w.len() >= 2, "the weight has too few axes");
                Ok(Channels { count: w[1] * groups(conv.group)?, from_end: w.len() - 2, rank: Some(w.len()) })
            }
            Layer::ConvTranspose(conv) => {
                let w = at.fixed_shape(conv.w)?;
                require!(w.len() >= 2, "the weight has too few axes");
                Ok(Channels { count: w[0], from_end: w.len() - 2, rank: Some(w.len()) })
            }
            Layer::Gemm(gemm) => {
                require!(!gemm.transA, "the product transposes what it reads");
                let b = at.fixed_shape(gemm.b)?;
                require!(b.len() == 2, "the weight is not a matrix");
                Ok(Channels { count: b[usize::from(gemm.transB)], from_end: 0, rank: Some(2) })
            }
            Layer::MatMul(MatMul { a, b }, _) => {
                let w = at.fixed_shape(*b)?;
                require!(w.len() == 2, "the weight is not a matrix");
                Ok(Channels { count: w[0], from_end: 0, rank: at.rank(*a).ok() })
            }
            Layer::LayerNormalization(_) => Err(Miss("a normalization undoes scales before it")),
        }
    }

    /// What the layer reads.
    pub fn operand(&self) -> ValueId {
        match self {
            Layer::Conv(conv) => conv.x,
            Layer::ConvTranspose(conv) => conv.x,
            Layer::Gemm(gemm) => gemm.a,
            Layer::MatMul(product, _) => product.a,
            Layer::LayerNormalization(norm) => norm.x,
        }
    }

    /// Whether [`then`](Layer::then) could scale the layer.
    pub fn takes_scale(&self, at: &Site) -> bool {
        let (weight, bias) = match self {
            Layer::Conv(conv) => (conv.w, conv.b),
            Layer::ConvTranspose(conv) => (conv.w, conv.b),
            Layer::Gemm(gemm) => (gemm.b, gemm.c),
            Layer::MatMul(product, bias) => (product.b, *bias),
            Layer::LayerNormalization(norm) => (norm.scale, norm.bias),
        };
        let is_constant = |value: ValueId| at.model.constant(value).is_some_and(|tensor| tensor.dtype().is_float());
        is_constant(weight) && at.model.value(weight).uses.len() == 1 && bias.is_none_or(is_constant)
    }

    /// map(W·x + b) = (gain·W)·x + (gain·b + shift), of output channels.
    pub fn then(self, at: &Site, new: &mut Draft, map: &Affine) -> Match<Operation> {
        let channels = self.outputs(at)?;
        let vectors = Channels { from_end: 0, ..channels };
        let bias = |b: Option<ValueId>, factor: f64| -> Match<Option<Array1<f64>>> {
            let old = b.map(|b| vectors.spread(&at.reals(b)?)).transpose()?;
            Ok(match old {
                Some(b) => Some(b * factor * &map.gain + &map.shift),
                None => map.shifts().then(|| map.shift.clone()),
            })
        };
        match self {
            Layer::Conv(conv) => {
                let w = scaled(at, new, map, conv.w, |w| by_axis(w, 0, &map.gain))?;
                let b = every_channel(at, new, conv.w, bias(conv.b, 1.0)?, channels)?;
                Ok(Conv { w, b, ..conv }.into())
            }
            Layer::ConvTranspose(conv) => {
                let groups = groups(conv.group)?;
                let w = scaled(at, new, map, conv.w, |w| grouped(w, groups, &map.gain))?;
                let b = every_channel(at, new, conv.w, bias(conv.b, 1.0)?, channels)?;
                Ok(ConvTranspose { w, b, ..conv }.into())
            }
            Layer::Gemm(gemm) => {
                let b = scaled(at, new, map, gemm.b, |b| by_axis(b, usize::from(!gemm.transB), &map.gain))?;
                let c = vector(new, bias(gemm.c, f64::from(gemm.beta))?, at.dtype(gemm.b)?)?;
                Ok(Gemm { b, c, beta: 1.0, ..gemm }.into())
            }
            Layer::MatMul(product, c) => {
                require!(map.scales() || c.is_some(), "a bias is all that is added to the product");
                let last = at.rank(product.b)? - 1;
                let b = scaled(at, new, map, product.b, |b| by_axis(b, last, &map.gain))?;
                let c = vector(new, bias(c, 1.0)?, at.dtype(product.b)?)?;
                Ok(with_bias(new, MatMul { b, ..product }, c))
            }
            Layer::LayerNormalization(norm) => {
                let scale = scaled(at, new, map, norm.scale, |scale| by_axis(scale, 0, &map.gain))?;
                let bias = every_channel(at, new, norm.scale, bias(norm.bias, 1.0)?, channels)?;
                Ok(LayerNormalization { scale, bias, ..norm }.into())
            }
        }
    }

    /// W·map(x) + b = (W·gain)·x + (W·shift + b), of input channels. A shift does not pass the zeros around x.
    pub fn after(self, at: &Site, new: &mut Draft, x: ValueId, map: &Affine) -> Match<Operation> {
        let channels = self.outputs(at)?;
        let vectors = Channels { from_end: 0, ..channels };
        let add = |b: Option<ValueId>, factor: f64, moved: Option<Array1<f64>>| -> Match<Option<Array1<f64>>> {
            let old = b.map(|b| vectors.spread(&at.reals(b)?)).transpose()?.map(|b| b * factor);
            Ok(match (old, moved) {
                (Some(b), Some(moved)) => Some(b + moved),
                (b, moved) => b.or(moved),
            })
        };
        match self {
            Layer::Conv(conv) => {
                let unpadded =
                    conv.auto_pad == "VALID" || conv.auto_pad == "NOTSET" && conv.pads.iter().all(|&p| p == 0);
                require!(unpadded || !map.shifts(), "the padding of the convolution would be shifted, too");
                let groups = groups(conv.group)?;
                let weight = at.weight(conv.w)?;
                let moved = map.shifts().then(|| {
                    let parts = grouped(weight.clone(), groups, &map.shift);
                    parts.outer_iter().map(|filter| filter.sum()).collect()
                });
                let w = scaled(at, new, map, conv.w, |w| grouped(w, groups, &map.gain))?;
                let b = match moved.is_some() {
                    true => every_channel(at, new, conv.w, add(conv.b, 1.0, moved)?, channels)?,
                    false => conv.b,
                };
                Ok(Conv { x, w, b, ..conv }.into())
            }
            Layer::ConvTranspose(conv) => {
                require!(!map.shifts(), "a shift before a transposed convolution is another one at its borders");
                let w = scaled(at, new, map, conv.w, |w| by_axis(w, 0, &map.gain))?;
                Ok(ConvTranspose { x, w, ..conv }.into())
            }
            Layer::Gemm(gemm) => {
                let axis = usize::from(gemm.transB);
                let moved = map
                    .shifts()
                    .then(|| {
                        Ok(by_axis(at.weight(gemm.b)?, axis, &map.shift).sum_axis(Axis(axis)) * f64::from(gemm.alpha))
                    })
                    .transpose()?
                    .map(Array1::from_iter);
                let b = scaled(at, new, map, gemm.b, |b| by_axis(b, axis, &map.gain))?;
                let (c, beta) = match moved.is_some() {
                    true => (vector(new, add(gemm.c, f64::from(gemm.beta), moved)?, at.dtype(gemm.b)?)?, 1.0),
                    false => (gemm.c, gemm.beta),
                };
                Ok(Gemm { a: x, b, c, beta, ..gemm }.into())
            }
            Layer::MatMul(product, c) => {
                let moved = map
                    .shifts()
                    .then(|| Ok(by_axis(at.weight(product.b)?, 0, &map.shift).sum_axis(Axis(0))))
                    .transpose()?
                    .map(Array1::from_iter);
                let b = scaled(at, new, map, product.b, |b| by_axis(b, 0, &map.gain))?;
                let c = match moved.is_some() {
                    true => vector(new, add(c, 1.0, moved)?, at.dtype(product.b)?)?,
                    false => c,
                };
                Ok(with_bias(new, MatMul { a: x, b }, c))
            }
            Layer::LayerNormalization(_) => Err(Miss("a normalization undoes scales before it")),
        }
    }
}

fn groups(group: i64) -> Match<usize> {
    usize::try_from(group).ok().filter(|&groups| groups > 0).ok_or(Miss("the number of groups makes no sense"))
}

/// The weight with `scale` done to it, or as it is where the map only shifts: it may then be shared.
fn scaled(
    at: &Site,
    new: &mut Draft,
    map: &Affine,
    weight: ValueId,
    scale: impl FnOnce(ArrayD<f64>) -> ArrayD<f64>,
) -> Match<ValueId> {
    if !map.scales() {
        return Ok(weight);
    }
    let dtype = at.tensor(weight)?.dtype();
    new.reals("weight", scale(at.weight(weight)?), dtype)
}

/// A bias with one element for each channel.
fn every_channel(
    at: &Site,
    new: &mut Draft,
    weight: ValueId,
    bias: Option<Array1<f64>>,
    channels: Channels,
) -> Match<Option<ValueId>> {
    let Some(bias) = bias else { return Ok(None) };
    let bias = bias.broadcast(channels.count).expect("one element, or one a channel").to_owned();
    vector(new, Some(bias), at.dtype(weight)?)
}

fn vector(new: &mut Draft, bias: Option<Array1<f64>>, dtype: DType) -> Match<Option<ValueId>> {
    bias.map(|bias| new.reals("bias", bias.into_dyn(), dtype)).transpose()
}

fn with_bias(new: &mut Draft, product: MatMul, bias: Option<ValueId>) -> Operation {
    match bias {
        Some(b) => Add { a: new.add(product), b }.into(),
        None => product.into(),
    }
}

/// `w` times one factor for each index along `axis`.
fn by_axis(w: ArrayD<f64>, axis: usize, factors: &Array1<f64>) -> ArrayD<f64> {
    let mut shape = vec![1; w.ndim()];
    shape[axis] = factors.len();
    w * factors.to_shape(IxDyn(&shape)).expect("a vector under another shape")
}

/// `w` of shape [groups·m, n, ..] times a factor for each of the groups·n channels of its second axis: the input channels
/// of a Conv, the output channels of a ConvTranspose.
fn grouped(mut w: ArrayD<f64>, groups: usize, factors: &Array1<f64>) -> ArrayD<f64> {
    let (rows, n) = (w.shape()[0], w.shape()[1]);
    for (row, mut slice) in w.outer_iter_mut().enumerate() {
        let group = row / (rows / groups).max(1);
        for (column, mut kernel) in slice.outer_iter_mut().enumerate() {
            kernel *= match factors.len() {
                1 => factors[0],
                _ => factors[group * n + column],
            };
        }
    }
    w
}
