//! Layers whose weights become int8: y = W·x + b.

use crate::ir::op::{Conv, ConvTranspose, Gemm, MatMul};
use crate::ir::{DType, Model, NodeId, Tensor, Use, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss};

/// A layer as it is quantized.
#[derive(Clone, Debug)]
pub struct Layer {
    pub node: NodeId,
    pub kind: LayerKind,
    pub x: ValueId,
    pub weight: ValueId,
    /// The axis of the weight that counts output channels.
    pub axis: usize,
    pub bias: Option<ValueId>,
    /// What the layer itself does to W·x and to b: Gemm's alpha and beta.
    alpha: f32,
    beta: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A convolution of so many groups.
    Conv {
        groups: usize,
    },
    ConvTranspose,
    /// The weight lies as [outputs, inputs] where it is transposed.
    Gemm {
        transposed: bool,
    },
    MatMul,
}

impl Layer {
    pub fn read(model: &Model, node: NodeId) -> Match<Layer> {
        const UNUSUAL: Miss = Miss("the layer has an unusual form");
        let layer = |kind, x, weight, axis, bias| Layer { node, kind, x, weight, axis, bias, alpha: 1.0, beta: 1.0 };
        let layer = match model.node(node).op.as_str() {
            "Conv" => {
                let conv: Conv = model.view(node).ok_or(UNUSUAL)?;
                let groups = usize::try_from(conv.group).map_err(|_| UNUSUAL)?;
                layer(LayerKind::Conv { groups }, conv.x, conv.w, 0, conv.b)
            }
            "ConvTranspose" => {
                let conv: ConvTranspose = model.view(node).ok_or(UNUSUAL)?;
                require!(conv.group == 1, "output channels of a grouped ConvTranspose lie along no axis of its weight");
                layer(LayerKind::ConvTranspose, conv.x, conv.w, 1, conv.b)
            }
            "Gemm" => {
                let gemm: Gemm = model.view(node).ok_or(UNUSUAL)?;
                require!(!gemm.transA, "the product transposes what it reads");
                let kind = LayerKind::Gemm { transposed: gemm.transB };
                let axis = usize::from(!gemm.transB);
                Layer { alpha: gemm.alpha, beta: gemm.beta, ..layer(kind, gemm.a, gemm.b, axis, gemm.c) }
            }
            "MatMul" => {
                let MatMul { a, b } = model.view(node).ok_or(UNUSUAL)?;
                layer(LayerKind::MatMul, a, b, 1, None)
            }
            _ => return Err(Miss("not a layer")),
        };
        layer.checked(model)
    }

    fn checked(self, model: &Model) -> Match<Layer> {
        let tensor = model.constant(self.weight).ok_or(Miss("its weight is no constant"))?;
        require!(model.constant(self.x).is_none(), "it reads a constant");
        require!(tensor.dtype() == DType::F32, "its weight is not of single precision");
        require!(self.kind != LayerKind::MatMul || tensor.rank() == 2, "it multiplies with a stack of matrices");
        require!(tensor.rank() > self.axis && !tensor.is_empty(), "its weight has no channels");
        let finite = |tensor: &Tensor| tensor.floats().is_some_and(|all| all.iter().all(|x| x.is_finite()));
        require!(finite(tensor), "its weight holds NaN or infinity");
        let channels = tensor.shape()[self.axis];
        if let Some(bias) = self.bias {
            let bias = model.constant(bias).ok_or(Miss("its bias is no constant"))?;
            let per_channel = bias.len() == 1 || bias.len() == channels && bias.shape().last() == Some(&channels);
            require!(bias.dtype() == DType::F32 && per_channel, "its bias has no number for each channel");
            require!(finite(bias), "its bias holds NaN or infinity");
        }
        let layer_reads = |place: &Use| match *place {
            Use::Node(node, index) => index == 1 && is_layer(&model.node(node).op),
            Use::Output(..) => false,
        };
        let only_layers = model.value(self.weight).uses.iter().all(layer_reads);
        require!(only_layers, "the weight is also read by a node that is no layer");
        Ok(self)
    }

    /// gain·α·W, in the layout of the layer's weight.
    pub fn weights(&self, model: &Model, gain: f32) -> Tensor {
        let tensor = model.constant(self.weight).expect("checked when it was read");
        let factor = gain * self.alpha;
        if factor == 1.0 {
            return tensor.clone();
        }
        let floats = tensor.floats().expect("checked when it was read");
        Tensor::from_vec(tensor.shape().to_vec(), floats.iter().map(|w| w * factor).collect())
    }

    /// gain·β·b + shift, a number for each channel; none where that is nothing.
    pub fn biases(&self, model: &Model, gain: f32, shift: f32) -> Option<Vec<f32>> {
        let channels = self.channels(model);
        let bias = self.bias.and_then(|bias| model.constant(bias)?.floats());
        match bias {
            None if shift == 0.0 => None,
            None => Some(vec![shift; channels]),
            Some(bias) => Some((0..channels).map(|c| bias[c % bias.len()] * self.beta * gain + shift).collect()),
        }
    }

    pub fn channels(&self, model: &Model) -> usize {
        model.constant(self.weight).expect("checked when it was read").shape()[self.axis]
    }
}

pub fn is_layer(op: &str) -> bool {
    matches!(op, "Conv" | "ConvTranspose" | "Gemm" | "MatMul")
}
