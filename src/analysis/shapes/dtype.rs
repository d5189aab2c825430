//! Element types of results: one arm for operators that share a rule.

use super::family::Family;
use crate::ir::{Attr, DType, Node};

/// The element type of each result of `node`, given those of its operands; none where no rule is known.
pub fn result_types(node: &Node, operands: &[Option<DType>]) -> Vec<Option<DType>> {
    let operand = |index: usize| operands.get(index).copied().flatten();
    let first = operand(0);
    let named = |attr: &str| match node.attrs.get(attr) {
        Some(Attr::Int(0)) | None => None,
        Some(Attr::Int(code)) => i32::try_from(*code).ok().and_then(DType::from_code),
        Some(_) => None,
    };
    let all = |dtype| vec![dtype; node.outputs.len()];
    let then = |first, rest| std::iter::once(first).chain(std::iter::repeat(rest)).take(node.outputs.len()).collect();
    if !node.domain.is_empty() {
        return all(None);
    }
    if let Some(family) = Family::of(&node.op) {
        return all(match family {
            Family::Comparison => Some(DType::Bool),
            Family::LikeFirst | Family::Arithmetic | Family::Variadic | Family::Reduction => first,
        });
    }
    match node.op.as_str() {
        "AffineGrid"
        | "AveragePool"
        | "BatchNormalization"
        | "CenterCropPad"
        | "Col2Im"
        | "Compress"
        | "Concat"
        | "Conv"
        | "ConvTranspose"
        | "DFT"
        | "DeformConv"
        | "DepthToSpace"
        | "Det"
        | "Einsum"
        | "Expand"
        | "Flatten"
        | "GRU"
        | "Gather"
        | "GatherElements"
        | "GatherND"
        | "Gemm"
        | "GlobalAveragePool"
        | "GlobalLpPool"
        | "GlobalMaxPool"
        | "GridSample"
        | "LSTM"
        | "LpPool"
        | "MatMul"
        | "MaxRoiPool"
        | "MaxUnpool"
        | "NegativeLogLikelihoodLoss"
        | "Pad"
        | "RNN"
        | "Range"
        | "Reshape"
        | "Resize"
        | "RoiAlign"
        | "STFT"
        | "Slice"
        | "SoftmaxCrossEntropyLoss"
        | "SpaceToDepth"
        | "Split"
        | "Squeeze"
        | "Tile"
        | "Transpose"
        | "Unsqueeze"
        | "Upsample" => all(first),

        "IsInf" | "IsNaN" | "RegexFullMatch" => all(Some(DType::Bool)),

        "ArgMax" | "ArgMin" | "NonMaxSuppression" | "NonZero" | "Shape" | "Size" => all(Some(DType::I64)),
        "MaxPool" | "TopK" | "Unique" => then(first, Some(DType::I64)),
        "Attention" => then(first, None),
        "Dropout" => then(first, Some(DType::Bool)),
        "LayerNormalization" => then(first, named("stash_type").or(Some(DType::F32))),

        "Where" => all(operand(1)),
        "OneHot" => all(operand(2)),
        "BitCast" | "Cast" => all(named("to")),
        "CastLike" => all(operand(1)),
        "Bernoulli" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => all(named("dtype").or(first)),
        "RandomNormal" | "RandomUniform" => all(named("dtype").or(Some(DType::F32))),
        "Multinomial" => all(named("dtype").or(Some(DType::I32))),
        "BlackmanWindow" | "HammingWindow" | "HannWindow" | "MelWeightMatrix" => {
            all(named("output_datatype").or(Some(DType::F32)))
        }
        "ConstantOfShape" => all(match node.attrs.get("value") {
            Some(Attr::Tensor(tensor)) => Some(tensor.dtype()),
            _ => Some(DType::F32),
        }),
        "Constant" => all(node.attrs.values().next().and_then(|attr| match attr {
            Attr::Tensor(tensor) => Some(tensor.dtype()),
            Attr::SparseTensor(tensor) => Some(tensor.values.dtype()),
            Attr::Float(_) | Attr::Floats(_) => Some(DType::F32),
            Attr::Int(_) | Attr::Ints(_) => Some(DType::I64),
            Attr::Str(_) | Attr::Strs(_) => Some(DType::String),
            _ => None,
        })),

        "QuantizeLinear" => all(operand(2).or(named("output_dtype")).or(Some(DType::U8))),
        "DequantizeLinear" => all(named("output_dtype").or(operand(1))),
        "DynamicQuantizeLinear" => vec![Some(DType::U8), Some(DType::F32), Some(DType::U8)],
        "QLinearConv" | "QLinearMatMul" => all(operand(7)),
        "ConvInteger" | "MatMulInteger" => all(Some(DType::I32)),
        "ImageDecoder" => all(Some(DType::U8)),
        _ => all(None),
    }
}
