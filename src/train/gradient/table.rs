//! The table of gradients: one arm for each operator.

use super::{
    Arm, activation, arithmetic, convolution, indexing, layout, normalization, pool, product, quantization, reduction,
    resize, softmax,
};
use crate::ir::{Model, NodeId};

pub(super) const TABLE: &[(&str, Arm)] = &[
    ("Abs", arithmetic::abs),
    ("Add", arithmetic::add),
    ("AveragePool", pool::average),
    ("BatchNormalization", normalization::batch),
    ("Cast", layout::cast),
    ("CastLike", layout::cast),
    ("Celu", activation::celu),
    ("Clip", activation::clip),
    ("Concat", layout::concat),
    ("Conv", convolution::conv),
    ("ConvTranspose", convolution::conv_transpose),
    ("Cos", arithmetic::cos),
    ("DepthToSpace", layout::depth_to_space),
    ("DequantizeLinear", quantization::dequantize),
    ("Div", arithmetic::div),
    ("Dropout", layout::dropout),
    ("Einsum", product::einsum),
    ("Elu", activation::elu),
    ("Erf", arithmetic::erf),
    ("Exp", arithmetic::exp),
    ("Expand", layout::expand),
    ("Flatten", layout::reshape),
    ("Gather", indexing::gather),
    ("GatherElements", indexing::gather_elements),
    ("Gelu", activation::gelu),
    ("Gemm", product::gemm),
    ("GlobalAveragePool", pool::global_average),
    ("GlobalMaxPool", pool::global_max),
    ("GroupNormalization", normalization::group),
    ("HardSigmoid", activation::hard_sigmoid),
    ("HardSwish", activation::hard_swish),
    ("Identity", layout::identity),
    ("InstanceNormalization", normalization::instance),
    ("LayerNormalization", normalization::layer),
    ("LeakyRelu", activation::leaky_relu),
    ("Log", arithmetic::log),
    ("LogSoftmax", softmax::log_softmax),
    ("MatMul", product::matmul),
    ("Max", arithmetic::max),
    ("MaxPool", pool::max),
    ("Mean", arithmetic::mean),
    ("Min", arithmetic::min),
    ("Mish", activation::mish),
    ("Mul", arithmetic::mul),
    ("Neg", arithmetic::neg),
    ("PRelu", activation::prelu),
    ("Pad", layout::pad),
    ("Pow", arithmetic::pow),
    ("QuantizeLinear", quantization::quantize),
    ("RMSNormalization", normalization::root_mean_square),
    ("Reciprocal", arithmetic::reciprocal),
    ("ReduceL1", reduction::l1),
    ("ReduceL2", reduction::l2),
    ("ReduceLogSum", reduction::log_sum),
    ("ReduceLogSumExp", reduction::log_sum_exp),
    ("ReduceMax", reduction::max),
    ("ReduceMean", reduction::mean),
    ("ReduceMin", reduction::min),
    ("ReduceProd", reduction::product),
    ("ReduceSum", reduction::sum),
    ("ReduceSumSquare", reduction::sum_square),
    ("Relu", activation::relu),
    ("Reshape", layout::reshape),
    ("Resize", resize::resize),
    ("Selu", activation::selu),
    ("Sigmoid", activation::sigmoid),
    ("Sin", arithmetic::sin),
    ("Slice", layout::slice),
    ("Softmax", softmax::softmax),
    ("Softplus", activation::softplus),
    ("Softsign", activation::softsign),
    ("SpaceToDepth", layout::space_to_depth),
    ("Split", layout::split),
    ("Sqrt", arithmetic::sqrt),
    ("Squeeze", layout::reshape),
    ("Sub", arithmetic::sub),
    ("Sum", arithmetic::sum),
    ("Swish", activation::swish),
    ("Tanh", activation::tanh),
    ("ThresholdedRelu", activation::thresholded_relu),
    ("Tile", layout::tile),
    ("Transpose", layout::transpose),
    ("Unsqueeze", layout::reshape),
    ("Where", arithmetic::select),
];

/// Operators whose results do not change with small changes of their operands.
const CONSTANT: &[&str] = &["Ceil", "ConstantOfShape", "Floor", "Round", "Shape", "Sign", "Size"];

/// How the gradient of `node` is found; none if that is not known.
pub(super) fn arm(model: &Model, node: NodeId) -> Option<Arm> {
    let node = model.node(node);
    let index = TABLE.binary_search_by(|(op, _)| (*op).cmp(&node.op)).ok()?;
    node.domain.is_empty().then_some(TABLE[index].1)
}

/// Whether results of `node` are integers that stand for floats, so that gradients go through them.
pub(super) fn gives_levels(model: &Model, node: NodeId) -> bool {
    let node = model.node(node);
    node.domain.is_empty() && node.op == "QuantizeLinear"
}

/// Whether the loss does not depend on what `node` reads, as far as derivatives tell.
pub(super) fn is_constant(model: &Model, node: NodeId) -> bool {
    let node = model.node(node);
    node.domain.is_empty() && CONSTANT.contains(&node.op.as_str())
}
