//! Every change of an ONNX operator, by the opset that made it.

use crate::ir::NodeId;

use super::Raising;
use super::rewrites::*;

/// What a new version of an operator asks of nodes in its old form.
#[derive(Clone, Copy)]
pub enum Change {
    /// Nothing: it takes more types, or more attributes and operands whose defaults mean what it did before.
    Same,
    Rewrite(fn(&mut Raising, NodeId) -> Result<(), &'static str>),
    Refuse(&'static str),
}
use Change::{Refuse, Rewrite, Same};

/// Opset, what to do, and the operators that changed in it.
pub const CHANGES: &[(i64, Change, &str)] = &[
    (2, Same, "LpPool GlobalLpPool"),
    (2, Rewrite(pads_renamed), "Pad"),
    (2, Rewrite(split_to_attribute), "Split"),
    (3, Same, "GRU"),
    (4, Rewrite(concat_axis), "Concat"),
    (5, Rewrite(reshape_to_input), "Reshape"),
    (6, Same, "Gemm"),
    (
        6,
        Rewrite(consumed_inputs),
        "Abs Add BatchNormalization Ceil Clip Div Dropout Elu Exp Floor HardSigmoid InstanceNormalization LeakyRelu Log \
         Max Mean Min Mul Neg PRelu Reciprocal Relu Sigmoid Sqrt Sub Sum Tanh",
    ),
    (6, Rewrite(cast_by_name), "Cast"),
    (6, Rewrite(selu_defaults), "Selu"),
    (6, Refuse("its tiles and axis have no equal here"), "Tile"),
    (7, Same, "AveragePool"),
    (7, Rewrite(broadcast), "Add And Div Equal Greater Less Mul Or Pow Sub Xor"),
    (7, Rewrite(gemm_broadcast), "Gemm"),
    (7, Rewrite(slope_of_channels), "PRelu"),
    (7, Rewrite(test_mode), "BatchNormalization Dropout"),
    (7, Rewrite(output_sequence), "GRU LSTM RNN"),
    (7, Rewrite(upsample_scales), "Upsample"),
    (8, Same, "Max MaxPool Mean Min Sum"),
    (9, Same, "Cast Constant Flatten Gemm Greater Less MatMul PRelu"),
    (9, Rewrite(per_activation), "BatchNormalization"),
    (9, Refuse("scans over batches with sequence lengths are gone"), "Scan"),
    (9, Rewrite(scales_to_input), "Upsample"),
    (10, Same, "AveragePool MaxPool"),
    (10, Rewrite(mask_type), "Dropout"),
    (10, Rewrite(slice_to_inputs), "Slice"),
    (10, Rewrite(k_to_input), "TopK"),
    (10, Rewrite(upsample_is_resize), "Upsample"),
    (
        11,
        Same,
        "ArgMax ArgMin AveragePool Compress Concat Constant Conv ConvTranspose DepthToSpace Equal Flatten Gather Gemm \
         Hardmax If LogSoftmax Loop LpPool MaxPool MaxUnpool NonMaxSuppression OneHot ReduceL1 ReduceL2 ReduceLogSum \
         ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Scan Slice Softmax Split \
         Squeeze TopK Unsqueeze",
    ),
    (11, Rewrite(bounds_to_inputs), "Clip"),
    (11, Rewrite(pads_to_input), "Pad"),
    (11, Rewrite(resize_coordinates), "Resize"),
    (11, Rewrite(scatter_elements), "Scatter"),
    (12, Same, "ArgMax ArgMin Clip Constant GatherND Max MaxPool Min Pow ReduceMax ReduceMin"),
    (12, Rewrite(ratio_to_input), "Dropout"),
    (
        13,
        Same,
        "Abs Add ArgMax ArgMin Cast Ceil Clip Concat Constant DepthToSpace DequantizeLinear Div Dropout Equal Erf Exp \
         Expand Flatten Floor Gather GatherElements GatherND Gemm Greater Identity If IsNaN LRN Less Log Loop MatMul Max \
         Mean MeanVarianceNormalization Min Mod Mul Neg NegativeLogLikelihoodLoss NonZero Pad Pow QuantizeLinear \
         Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd \
         ReduceSumSquare Relu Reshape ScatterElements ScatterND Shape Sigmoid Sign Size Slice SoftmaxCrossEntropyLoss \
         SpaceToDepth Sqrt Sub Sum Tanh Tile Transpose",
    ),
    (13, Rewrite(coerced_axis), "Hardmax LogSoftmax Softmax"),
    (13, Rewrite(resize_operands), "Resize"),
    (13, Rewrite(split_to_input), "Split"),
    (13, Rewrite(axes_to_input), "ReduceSum Squeeze Unsqueeze"),
    (14, Same, "Add CumSum Div GRU Identity LSTM Mul RNN Relu Reshape Sub"),
    (14, Rewrite(training_outputs), "BatchNormalization"),
    (15, Same, "BatchNormalization Pow Shape"),
    (16, Same, "GreaterOrEqual Identity If LeakyRelu LessOrEqual Loop PRelu Scan ScatterElements ScatterND Where"),
    (16, Rewrite(roi_coordinates), "RoiAlign"),
    (18, Same, "LpPool OptionalGetElement OptionalHasElement Pad Resize ScatterElements ScatterND"),
    (
        18,
        Rewrite(axes_to_input),
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare",
    ),
    (18, Rewrite(num_outputs), "Split"),
    (
        19,
        Same,
        "AveragePool Cast CastLike Constant DequantizeLinear Equal Identity If Loop Pad QuantizeLinear Reshape Resize \
         Scan Shape Size",
    ),
    (20, Same, "ConstantOfShape IsInf IsNaN ReduceMax ReduceMin"),
    (20, Rewrite(dft_axis_to_input), "DFT"),
    (20, Rewrite(grid_modes), "GridSample"),
    (
        21,
        Same,
        "Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QLinearMatMul \
         QuantizeLinear Reshape Scan Shape Size Squeeze Transpose Unsqueeze",
    ),
    (21, Rewrite(scale_of_channels), "GroupNormalization"),
    (
        22,
        Same,
        "Acos Acosh Asin Asinh Atan Atanh AveragePool Bernoulli Conv ConvTranspose Cos Cosh DeformConv Det Dropout Elu \
         EyeLike GRU GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample HardSigmoid HardSwish \
         InstanceNormalization LSTM LpNormalization LpPool MaxPool MaxRoiPool MaxUnpool Mish Multinomial \
         NegativeLogLikelihoodLoss RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike RoiAlign Round \
         Selu Sin Sinh Softplus Softsign Tan ThresholdedRelu",
    ),
    (
        23,
        Same,
        "Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QuantizeLinear Reshape \
         Scan Shape Size Squeeze Transpose Unsqueeze",
    ),
    (
        24,
        Same,
        "Attention Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad \
         QuantizeLinear Reshape Scan Shape Size SplitToSequence Squeeze TopK Transpose Unsqueeze",
    ),
    (
        25,
        Same,
        "Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad QuantizeLinear Reshape \
         Scan Shape Size Squeeze Transpose Unsqueeze",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CHANGES;

    #[test]
    fn every_change_of_the_schemas_has_one_decision() {
        let listed = include_str!("../../../testdata/opset/changes.txt").lines().filter(|line| !line.starts_with('#'));
        let listed: BTreeSet<String> = listed.map(String::from).collect();
        let rows =
            CHANGES.iter().flat_map(|(opset, _, ops)| ops.split_whitespace().map(move |op| format!("{opset} {op}")));
        let decided: BTreeSet<String> = rows.clone().collect();
        assert_eq!(decided.symmetric_difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new());
        assert_eq!(rows.count(), decided.len(), "an operator has two decisions for one opset");
    }
}
