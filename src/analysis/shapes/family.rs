//! Operators whose results follow from their operands in the same way, in both type and shape.

#[derive(Clone, Copy)]
pub enum Family {
    /// One result, of the first operand's type and shape.
    LikeFirst,
    /// Two operands of one type broadcast; the result has that type, except for a power, which has that of its base.
    Arithmetic,
    /// Two operands broadcast; the result is true or false.
    Comparison,
    /// Any number of operands of one type broadcast.
    Variadic,
    /// Axes of the first operand become 1 or go; its type stays.
    Reduction,
}

impl Family {
    /// The family of one of ONNX's own operators, if it has one.
    pub fn of(op: &str) -> Option<Family> {
        Some(match op {
            "Abs"
            | "Acos"
            | "Acosh"
            | "Asin"
            | "Asinh"
            | "Atan"
            | "Atanh"
            | "BitwiseNot"
            | "Ceil"
            | "Celu"
            | "Clip"
            | "Cos"
            | "Cosh"
            | "CumProd"
            | "CumSum"
            | "Elu"
            | "Erf"
            | "Exp"
            | "Floor"
            | "Gelu"
            | "GroupNormalization"
            | "HardSigmoid"
            | "HardSwish"
            | "Hardmax"
            | "Identity"
            | "InstanceNormalization"
            | "LRN"
            | "LeakyRelu"
            | "Log"
            | "LogSoftmax"
            | "LpNormalization"
            | "MeanVarianceNormalization"
            | "Mish"
            | "Neg"
            | "Not"
            | "PRelu"
            | "RMSNormalization"
            | "Reciprocal"
            | "Relu"
            | "ReverseSequence"
            | "RotaryEmbedding"
            | "Round"
            | "Scatter"
            | "ScatterElements"
            | "ScatterND"
            | "Selu"
            | "Shrink"
            | "Sigmoid"
            | "Sign"
            | "Sin"
            | "Sinh"
            | "Softmax"
            | "Softplus"
            | "Softsign"
            | "Sqrt"
            | "Swish"
            | "Tan"
            | "Tanh"
            | "TensorScatter"
            | "ThresholdedRelu"
            | "Trilu" => Family::LikeFirst,
            "Add" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Div" | "Mod" | "Mul" | "Pow" | "Sub" => {
                Family::Arithmetic
            }
            "And" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Or" | "Xor" => {
                Family::Comparison
            }
            "Max" | "Mean" | "Min" | "Sum" => Family::Variadic,
            "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
            | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => Family::Reduction,
            _ => return None,
        })
    }
}
