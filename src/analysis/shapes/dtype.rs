//! Element types of results: one arm for operators that share a rule.

use super::call::Call;
use super::family::Family;
use crate::ir::{Attr, DType};

/// The element type of one result of a node; none where no rule is known.
pub fn result_type(call: &Call, result: usize) -> Option<DType> {
    let node = call.node;
    if !node.domain.is_empty() {
        return None;
    }
    let first = call.dtype(0);
    if let Some(family) = call.family {
        return match family {
            Family::Comparison => Some(DType::Bool),
            Family::LikeFirst | Family::Arithmetic | Family::Variadic | Family::Reduction => first,
        };
    }
    let named = |attr: &str| match node.attrs.get(attr) {
        Some(Attr::Int(0)) | None => None,
        Some(Attr::Int(code)) => i32::try_from(*code).ok().and_then(DType::from_code),
        Some(_) => None,
    };
    match node.op.as_str() {
        "AffineGrid"
        | "AveragePool"
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
        | "OptionalGetElement"
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
        | "StringConcat"
        | "StringNormalizer"
        | "Tile"
        | "Transpose"
        | "Unsqueeze"
        | "Upsample" => first,

        "IsInf" | "IsNaN" | "OptionalHasElement" | "RegexFullMatch" => Some(DType::Bool),

        "ArgMax" | "ArgMin" | "NonMaxSuppression" | "NonZero" | "Shape" | "Size" => Some(DType::I64),
        "MaxPool" | "StringSplit" | "TopK" | "Unique" => {
            if result == 0 {
                first
            } else {
                Some(DType::I64)
            }
        }
        // The result, the keys and values with those of the past, and products of queries and keys.
        "Attention" => call.dtype([0, 1, 2, 0].get(result).copied()?),
        "Dropout" if result > 0 && call.opset >= 10 => Some(DType::Bool),
        "Dropout" => first,
        "LayerNormalization" if result > 0 => named("stash_type").or(Some(DType::F32)),
        "LayerNormalization" => first,
        "BatchNormalization" => {
            if result == 0 {
                first
            } else {
                call.dtype(3)
            }
        }
        "TfIdfVectorizer" => Some(DType::F32),

        "Where" => call.dtype(1),
        "OneHot" => call.dtype(2),
        "BitCast" | "Cast" => named("to"),
        "CastLike" => call.dtype(1),
        "Bernoulli" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => named("dtype").or(first),
        "RandomNormal" | "RandomUniform" => named("dtype").or(Some(DType::F32)),
        "Multinomial" => named("dtype").or(Some(DType::I32)),
        "BlackmanWindow" | "HammingWindow" | "HannWindow" | "MelWeightMatrix" => {
            named("output_datatype").or(Some(DType::F32))
        }
        "ConstantOfShape" => match node.attrs.get("value") {
            Some(Attr::Tensor(tensor)) => Some(tensor.dtype()),
            _ => Some(DType::F32),
        },
        "Constant" => node.attrs.values().next().and_then(|attr| match attr {
            Attr::Tensor(tensor) => Some(tensor.dtype()),
            Attr::SparseTensor(tensor) => Some(tensor.values.dtype()),
            Attr::Float(_) | Attr::Floats(_) => Some(DType::F32),
            Attr::Int(_) | Attr::Ints(_) => Some(DType::I64),
            Attr::Str(_) | Attr::Strs(_) => Some(DType::String),
            _ => None,
        }),

        "QuantizeLinear" => call.dtype(2).or(named("output_dtype")).or(Some(DType::U8)),
        "DequantizeLinear" => named("output_dtype").or(call.dtype(1)),
        "DynamicQuantizeLinear" => {
            if result == 1 {
                Some(DType::F32)
            } else {
                Some(DType::U8)
            }
        }
        "QLinearConv" | "QLinearMatMul" => call.dtype(7),
        "ConvInteger" | "MatMulInteger" => Some(DType::I32),
        "ImageDecoder" => Some(DType::U8),
        _ => None,
    }
}
