//! What a runtime makes of Q/DQ pairs: the one table of what each fuses and wants.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

use super::grid::Levels;

/// A runtime that the file is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// ONNX Runtime on any CPU, also those of x86 whose int8 products saturate.
    #[default]
    Onnxruntime,
    /// ONNX Runtime on CPUs whose int8 products are exact: x86 with VNNI, ARM.
    OnnxruntimeVnni,
    /// The runtime of onnxshrink, on tract.
    Tract,
    /// NVIDIA TensorRT: symmetric int8, explicit quantization.
    Tensorrt,
    /// Intel OpenVINO.
    Openvino,
    /// Qualcomm QNN, through ONNX Runtime.
    Qnn,
    /// Any runtime that follows the ONNX standard: activations stay as nodes, biases are int32.
    Generic,
}

/// How a runtime takes the bias of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// As floats, which it quantizes itself.
    Float,
    /// As int32 whose scale is that of the input times that of the weight.
    Int32,
}

/// Which products of two activations run in int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    None,
    /// Those that multiply no probabilities: of an attention, queries and keys.
    BeforeSoftmax,
    All,
}

#[derive(Clone, Copy, Debug)]
pub struct Traits {
    pub levels: Levels,
    /// Whether the zero point has to be in the middle.
    pub symmetric: bool,
    /// The layers that run in int8.
    pub layers: &'static [&'static str],
    /// The other operators that run in int8 between Q/DQ pairs.
    pub operators: &'static [&'static str],
    pub products: Products,
    /// Whether operators read the rounded copies that layers have of a float value, which other nodes read as it is.
    pub reads_copies: bool,
    /// Whether the saturation of a quantizer stands for a Relu or Clip before it; otherwise they stay, and are fused.
    pub absorbs: bool,
    /// Layers whose result is float: their products are dequantized as they are made.
    pub float_results: &'static [&'static str],
    /// Whether the operands of a Concat need the scale of its result.
    pub concat_ties: bool,
    pub conv_bias: Bias,
    pub gemm_bias: Bias,
    /// Whether a HardSwish is written as integer Add and Mul, since the operator itself is not fused.
    pub splits_hard_swish: bool,
    /// Whether the table of costs holds for it.
    pub costs: bool,
    /// Whether it makes one operator of a MatMul and its bias, or of a sum and a normalization, where that is slower.
    pub merges_sums: bool,
    /// Whether weights have a scale for each output channel, not one for all.
    pub per_channel: bool,
}

/// Operators that move elements and leave them as they are: int8 wherever their operand is.
pub const MOVES: &[&str] = &["MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"];

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.serialize(f)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let known = || Target::ALL.map(|target| target.to_string()).join(", ");
        let found = Target::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(text));
        found.map_err(|_| format!("there is no target `{text}`; there are {}", known()))
    }
}

impl Target {
    pub const ALL: [Target; 7] = [
        Target::Onnxruntime,
        Target::OnnxruntimeVnni,
        Target::Tract,
        Target::Tensorrt,
        Target::Openvino,
        Target::Qnn,
        Target::Generic,
    ];

    pub fn traits(self) -> Traits {
        // Measured in ONNX Runtime 1.32: Conv, Gemm and MatMul (with float results) become QLinearConv, QGemm and
        // MatMulIntegerToFloat; a Relu between Conv and Q keeps the Conv from being fused; Sigmoid, LeakyRelu, Softmax and
        // products of activations gain nothing or lose.
        let onnxruntime = Traits {
            levels: Levels::U8,
            symmetric: false,
            layers: &["Conv", "Gemm", "MatMul"],
            operators: &["Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat", "HardSwish"],
            products: Products::None,
            reads_copies: false,
            absorbs: true,
            float_results: &["MatMul", "Gemm"],
            concat_ties: false,
            conv_bias: Bias::Float,
            gemm_bias: Bias::Int32,
            splits_hard_swish: true,
            costs: true,
            merges_sums: true,
            per_channel: true,
        };
        match self {
            Target::Onnxruntime | Target::OnnxruntimeVnni => onnxruntime,
            Target::Tract => Traits { conv_bias: Bias::Int32, costs: false, merges_sums: false, ..onnxruntime },
            // Zero points are 0, weights symmetric; Relu is fused behind a layer, and an Add with the layer before it when
            // the other operand is quantized; layers give floats where no Q follows. A fused attention is int8 where all
            // operands of both products are, also the probabilities.
            Target::Tensorrt => Traits {
                levels: Levels::I8,
                symmetric: true,
                layers: &["Conv", "ConvTranspose", "Gemm", "MatMul"],
                operators: &["Add", "GlobalAveragePool", "AveragePool", "Concat"],
                products: Products::All,
                reads_copies: false,
                absorbs: false,
                float_results: &["Conv", "ConvTranspose", "Gemm", "MatMul"],
                concat_ties: true,
                conv_bias: Bias::Float,
                gemm_bias: Bias::Float,
                splits_hard_swish: false,
                costs: false,
                merges_sums: false,
                per_channel: true,
            },
            // Q/DQ become FakeQuantize; activations are asymmetric, weights symmetric per channel, biases float, and what
            // joins in a Concat has one scale. Its own quantizers leave products of probabilities in floats.
            Target::Openvino => Traits {
                layers: &["Conv", "ConvTranspose", "Gemm", "MatMul"],
                operators: &["Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat"],
                products: Products::BeforeSoftmax,
                absorbs: false,
                concat_ties: true,
                gemm_bias: Bias::Float,
                splits_hard_swish: false,
                costs: false,
                merges_sums: false,
                ..onnxruntime
            },
            // Every operator of a QNN graph stands between Q/DQ pairs; biases are int32.
            Target::Qnn => Traits {
                layers: &["Conv", "ConvTranspose", "Gemm", "MatMul"],
                operators: &[
                    "Add",
                    "Sub",
                    "Mul",
                    "Div",
                    "GlobalAveragePool",
                    "AveragePool",
                    "Concat",
                    "HardSwish",
                    "Sigmoid",
                    "Tanh",
                    "LeakyRelu",
                    "Softmax",
                    "Elu",
                    "Gelu",
                    "HardSigmoid",
                    "InstanceNormalization",
                    "LayerNormalization",
                    "PRelu",
                ],
                products: Products::All,
                reads_copies: true,
                absorbs: false,
                float_results: &[],
                concat_ties: true,
                conv_bias: Bias::Int32,
                splits_hard_swish: false,
                costs: false,
                merges_sums: false,
                ..onnxruntime
            },
            Target::Generic => Traits {
                layers: &["Conv", "ConvTranspose", "Gemm", "MatMul"],
                operators: &["Add", "Mul", "GlobalAveragePool", "AveragePool", "Concat"],
                absorbs: false,
                float_results: &["MatMul"],
                concat_ties: true,
                conv_bias: Bias::Int32,
                splits_hard_swish: false,
                costs: false,
                merges_sums: false,
                ..onnxruntime
            },
        }
    }

    /// Whether int8 products are added in sixteen bits, which overflow where weights use all of theirs.
    pub fn saturates(self) -> bool {
        self == Target::Onnxruntime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_found_by_its_name() {
        for target in Target::ALL {
            assert_eq!(target.to_string().parse(), Ok(target));
        }
        let missing = "there is no target `coreml`; there are onnxruntime, onnxruntime-vnni, tract, tensorrt, openvino, qnn, \
                       generic";
        assert_eq!("coreml".parse::<Target>(), Err(missing.into()));
    }

    #[test]
    fn activations_are_absorbed_only_where_zero_can_be_the_end_of_the_grid() {
        for target in Target::ALL {
            let traits = target.traits();
            assert!(!traits.absorbs || !traits.symmetric && !traits.concat_ties, "{target:?}");
        }
    }

    #[test]
    fn products_saturate_on_the_target_that_may_be_any_cpu() {
        let saturating: Vec<Target> = Target::ALL.into_iter().filter(|target| target.saturates()).collect();
        assert_eq!(saturating, [Target::Onnxruntime]);
    }
}
