//! Shapes of results: one arm for operators that share a rule.

use rten_shape_inference::ops::{self, Padding};
use rten_shape_inference::{
    BinaryOp, InferShapes, InferShapesContext, ReductionOp, SymExpr, SymTensor, SymbolGen, UnaryOp, VariadicOp,
};

use crate::ir::{Attr, Node};

/// What is known of the shape, and of the elements where they are few integers, of each result of `node`.
pub fn result_shapes(node: &Node, operands: &[Option<SymTensor>], symbols: &mut SymbolGen) -> Option<Vec<SymTensor>> {
    if !node.domain.is_empty() {
        return None;
    }
    // The form of before opset 18, of which the rules below know nothing.
    let old: &[&str] = match node.op.as_str() {
        "Squeeze" | "Unsqueeze" => &["axes"],
        "Slice" => &["starts"],
        "Split" => &["split"],
        "Pad" => &["pads"],
        op if op.starts_with("Reduce") => &["axes"],
        _ => &[],
    };
    if old.iter().any(|attr| node.attrs.contains_key(*attr)) {
        return None;
    }
    let attrs = Attributes(node);
    let infer = |rule: &dyn InferShapes, symbols: &mut SymbolGen| {
        rule.infer_shapes(InferShapesContext::new(operands), symbols).ok()
    };
    let shape_of = |index: usize| -> Option<Vec<SymExpr>> { Some(operands.get(index)?.as_ref()?.shape()?.collect()) };
    let rank = shape_of(0).map(|shape| shape.len());

    // Expressions are of 32 bits: what could overflow them, or is no size at all, is left to its shape.
    let small = |index: usize| {
        let elements = operands.get(index).and_then(|x| x.as_ref()?.values());
        elements.is_none_or(|xs| xs.iter().all(|x| !matches!(x, SymExpr::Value(v) if v.unsigned_abs() >= 1 << 15)))
    };
    let arithmetic = ["Add", "Sub", "Mul", "Div"].contains(&node.op.as_str());
    let positive = |index: usize| {
        let elements = operands.get(index).and_then(|x| x.as_ref()?.values());
        elements.is_none_or(|xs| xs.iter().all(SymExpr::is_positive))
    };
    let rounds_down = node.op == "Div" && !(positive(0) && positive(1));
    if arithmetic && (rounds_down || !(small(0) && small(1))) {
        return infer(&BinaryOp, symbols).map(|all| all.into_iter().map(SymTensor::simplify).collect());
    }

    let results = match node.op.as_str() {
        "Identity" | "Dropout" => {
            let x = operands.first()?.clone()?;
            let shape = SymTensor::from_shape(x.shape()?.collect());
            vec![x, shape]
        }
        // Casts to wide integers keep elements, which only integers have.
        "Cast" if matches!(attrs.int("to", 0), 6 | 7) => vec![operands.first()?.clone()?],
        "Neg" => infer(&ops::Neg, symbols)?,
        "Abs"
        | "Acos"
        | "Acosh"
        | "Asin"
        | "Asinh"
        | "Atan"
        | "Atanh"
        | "BatchNormalization"
        | "BitwiseNot"
        | "Ceil"
        | "Cast"
        | "CastLike"
        | "Celu"
        | "Clip"
        | "Cos"
        | "Cosh"
        | "CumSum"
        | "DequantizeLinear"
        | "Elu"
        | "Erf"
        | "Exp"
        | "EyeLike"
        | "Floor"
        | "Gelu"
        | "GroupNormalization"
        | "HardSigmoid"
        | "HardSwish"
        | "Hardmax"
        | "InstanceNormalization"
        | "IsInf"
        | "IsNaN"
        | "LRN"
        | "LayerNormalization"
        | "LeakyRelu"
        | "Log"
        | "LogSoftmax"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "Mish"
        | "Not"
        | "PRelu"
        | "QuantizeLinear"
        | "RMSNormalization"
        | "RandomNormalLike"
        | "RandomUniformLike"
        | "Bernoulli"
        | "Reciprocal"
        | "Relu"
        | "ReverseSequence"
        | "Round"
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
        | "ThresholdedRelu"
        | "Trilu" => {
            let mut first = infer(&UnaryOp, symbols)?;
            first.truncate(1);
            first
        }
        "Add" => infer(&ops::Add, symbols)?,
        "Sub" => infer(&ops::Sub, symbols)?,
        "Mul" => infer(&ops::Mul, symbols)?,
        "Div" => infer(&ops::Div, symbols)?,
        "Equal" => infer(&ops::Equal, symbols)?,
        "Where" => infer(&ops::Where, symbols)?,
        "And" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Greater" | "GreaterOrEqual" | "Less"
        | "LessOrEqual" | "Mod" | "Or" | "Pow" | "Xor" => infer(&BinaryOp, symbols)?,
        "Max" | "Mean" | "Min" | "Sum" => infer(&VariadicOp, symbols)?,

        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
        | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => {
            let keep_dims = attrs.int("keepdims", 1) != 0;
            let axes = attrs.ints("axes").map(to_i32s);
            let given = operands.get(1).and_then(|axes| axes.as_ref());
            let empty = match given {
                Some(axes) => axes.shape()?.next() == Some(SymExpr::Value(0)),
                None => axes.is_none(),
            };
            if empty && attrs.int("noop_with_empty_axes", 0) != 0 {
                infer(&UnaryOp, symbols)?
            } else if empty {
                ReductionOp { axes: None, keep_dims }.infer_shapes([operands[0].clone()?].into(), symbols).ok()?
            } else {
                infer(&ReductionOp { axes: axes.as_deref(), keep_dims }, symbols)?
            }
        }
        "ArgMax" | "ArgMin" => {
            let axes = [attrs.int("axis", 0)];
            let keep_dims = attrs.int("keepdims", 1) != 0;
            let axes = to_i32s(&axes);
            infer(&ReductionOp { axes: Some(&axes), keep_dims }, symbols)?
        }

        // Of convolutions as of pools, the rules of the crate forget the third axis of a volume.
        "Conv" => {
            let spatial = rank?.checked_sub(2).filter(|&spatial| spatial <= 2)?;
            let window = Window::read(&attrs, spatial)?;
            infer(
                &ops::Conv { dilations: &window.dilations, padding: window.padding(), strides: &window.strides },
                symbols,
            )?
        }
        "ConvTranspose" if attrs.ints("output_shape").is_none() => {
            let spatial = rank?.checked_sub(2).filter(|&spatial| spatial <= 2)?;
            let window = Window::read(&attrs, spatial)?;
            let output_padding = attrs.sizes("output_padding");
            infer(
                &ops::ConvTranspose {
                    groups: usize::try_from(attrs.int("group", 1)).ok()?,
                    padding: window.padding(),
                    strides: &window.strides,
                    dilations: &window.dilations,
                    output_padding: output_padding.as_deref(),
                },
                symbols,
            )?
        }
        "AveragePool" | "LpPool" | "MaxPool" => {
            let kernel_size = attrs.sizes("kernel_shape").filter(|kernel| kernel.len() <= 2)?;
            let window = Window::read(&attrs, kernel_size.len())?;
            let mut pooled = infer(
                &ops::Pool {
                    dilations: &window.dilations,
                    kernel_size: &kernel_size,
                    padding: window.padding(),
                    strides: &window.strides,
                    ceil_mode: attrs.int("ceil_mode", 0) != 0,
                },
                symbols,
            )?;
            pooled.push(pooled.first()?.clone());
            pooled
        }
        "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" => infer(&ops::GlobalPool, symbols)?,

        "MatMul" | "MatMulInteger" => {
            ops::MatMul.infer_shapes(InferShapesContext::new(operands.get(..2)?), symbols).ok()?
        }
        "Gemm" => infer(
            &ops::Gemm { transpose_a: attrs.int("transA", 0) != 0, transpose_b: attrs.int("transB", 0) != 0 },
            symbols,
        )?,
        "Einsum" => match node.attrs.get("equation")? {
            Attr::Str(equation) => infer(&ops::Einsum { equation: std::str::from_utf8(equation).ok()? }, symbols)?,
            _ => return None,
        },

        "Shape" => infer(&ops::Shape { start: attrs.maybe_i32("start")?, end: attrs.maybe_i32("end")? }, symbols)?,
        "Size" => infer(&ops::Size, symbols)?,
        "Reshape" => infer(&ops::Reshape { allow_zero: attrs.int("allowzero", 0) != 0 }, symbols)?,
        "Flatten" => infer(&ops::Flatten { axis: attrs.i32("axis", 1)? }, symbols)?,
        "Squeeze" => infer(&ops::Squeeze, symbols)?,
        "Unsqueeze" => infer(&ops::Unsqueeze, symbols)?,
        "Expand" => {
            // The rule takes an unknown shape for one of at least the rank of what is expanded.
            let to = operands.get(1)?.as_ref()?;
            let shorter = matches!(shape_of(1)?[..], [SymExpr::Value(length)] if length < i32::try_from(rank?).ok()?);
            if to.values().is_none() && shorter {
                return None;
            }
            infer(&ops::Expand, symbols)?
        }
        "Tile" => infer(&ops::Tile, symbols)?,
        "Transpose" => {
            let perm = attrs.sizes("perm");
            infer(&ops::Transpose { perm: perm.as_deref() }, symbols)?
        }
        "Concat" => infer(&ops::Concat { axis: attrs.i32("axis", 0)? }, symbols)?,
        "Split" => {
            let num_outputs = u32::try_from(node.outputs.len()).ok();
            infer(&ops::Split { axis: attrs.i32("axis", 0)?, num_outputs }, symbols)?
        }
        "Slice" => infer(&ops::Slice, symbols)?,
        "Pad" => infer(&ops::Pad, symbols)?,
        "Gather" => infer(&ops::Gather { axis: attrs.i32("axis", 0)? }, symbols)?,
        "GatherElements" => infer(&ops::GatherElements, symbols)?,
        "GatherND" => infer(&ops::GatherND { batch_dims: usize::try_from(attrs.int("batch_dims", 0)).ok()? }, symbols)?,
        "ConstantOfShape" => {
            let value = match node.attrs.get("value") {
                Some(Attr::Tensor(value)) => value.as_int().and_then(|x| i32::try_from(x).ok()),
                _ => None,
            };
            infer(&ops::ConstantOfShape { value }, symbols)?
        }
        "OneHot" => infer(&ops::OneHot { axis: attrs.i32("axis", -1)? }, symbols)?,
        "Range" => infer(&ops::Range, symbols)?,
        "NonZero" => infer(&ops::NonZero, symbols)?,
        "TopK" => infer(&ops::TopK { axis: Some(attrs.i32("axis", -1)?) }, symbols)?,
        "DepthToSpace" => {
            infer(&ops::DepthToSpace { block_size: u32::try_from(attrs.int("blocksize", 1)).ok()? }, symbols)?
        }
        "GridSample" => infer(&ops::GridSample, symbols)?,
        "DynamicQuantizeLinear" => infer(&ops::DynamicQuantizeLinear, symbols)?,
        _ => return None,
    };
    Some(results.into_iter().map(SymTensor::simplify).collect())
}

fn to_i32s(ints: &[i64]) -> Vec<i32> {
    ints.iter().map(|&x| x.clamp(i32::MIN.into(), i32::MAX.into()) as i32).collect()
}

/// The attributes of a node, by name and kind.
struct Attributes<'n>(&'n Node);

impl Attributes<'_> {
    fn int(&self, name: &str, default: i64) -> i64 {
        match self.0.attrs.get(name) {
            Some(Attr::Int(x)) => *x,
            _ => default,
        }
    }

    fn i32(&self, name: &str, default: i64) -> Option<i32> {
        self.int(name, default).try_into().ok()
    }

    /// None where the attribute is there but does not fit.
    fn maybe_i32(&self, name: &str) -> Option<Option<i32>> {
        match self.0.attrs.get(name) {
            Some(Attr::Int(x)) => Some(Some((*x).clamp(i32::MIN.into(), i32::MAX.into()) as i32)),
            Some(_) => None,
            None => Some(None),
        }
    }

    fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.0.attrs.get(name) {
            Some(Attr::Ints(xs)) => Some(xs),
            _ => None,
        }
    }

    fn sizes(&self, name: &str) -> Option<Vec<usize>> {
        self.ints(name)?.iter().map(|&x| usize::try_from(x).ok()).collect()
    }
}

/// How a kernel moves over its input.
struct Window {
    same: bool,
    pads: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
}

impl Window {
    /// None for negative pads and strides of 0, which no rule covers.
    fn read(attrs: &Attributes, spatial: usize) -> Option<Window> {
        let auto_pad = match attrs.0.attrs.get("auto_pad") {
            Some(Attr::Str(mode)) => mode.as_ref(),
            _ => b"NOTSET".as_slice(),
        };
        let or = |name, default: usize, count: usize| match attrs.ints(name) {
            Some([]) | None => Some(vec![default; count]),
            Some(_) => attrs.sizes(name).filter(|sizes| sizes.len() == count),
        };
        let pads = match auto_pad {
            b"NOTSET" | b"" => or("pads", 0, 2 * spatial)?,
            _ => vec![0; 2 * spatial],
        };
        let (strides, dilations) = (or("strides", 1, spatial)?, or("dilations", 1, spatial)?);
        let positive = strides.iter().chain(&dilations).all(|&x| x > 0);
        positive.then_some(Window { same: auto_pad.starts_with(b"SAME"), pads, strides, dilations })
    }

    fn padding(&self) -> Padding<'_> {
        if self.same { Padding::Same } else { Padding::Fixed(&self.pads) }
    }
}
