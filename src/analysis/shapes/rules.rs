//! Shapes of results: one arm for operators that share a rule.
//!
//! A rule answers only what is sure: an operand that it needs and does not know makes the result unknown. Elements are
//! followed through the operators that exporters compute sizes with.

use rten_shape_inference::ops::{self, Direction};
use rten_shape_inference::{BinaryOp, InferShapes, InferShapesContext, SymExpr, SymTensor, SymbolGen, VariadicOp};

use super::MOST_ELEMENTS;
use super::expression::{difference, equal, is_cut, number, product, quotient, shaped, simplified, sum};
use super::window::Window;
use crate::ir::{Attr, Node, Tensor};

/// A node with what is known of its operands.
pub struct Call<'c> {
    pub node: &'c Node,
    /// What is known of each operand; none where it is left out.
    pub operands: &'c [Option<SymTensor>],
    /// The operands that are constants.
    pub constants: &'c [Option<&'c Tensor>],
    pub opset: i64,
    pub symbols: &'c mut SymbolGen,
}

type Lengths = Vec<SymExpr>;

const ONE: SymExpr = SymExpr::Value(1);

impl Call<'_> {
    /// What is known of the shape, and of the elements where they are few integers, of each result.
    pub fn results(&mut self) -> Option<Vec<SymTensor>> {
        if !self.node.domain.is_empty() {
            return None;
        }
        if let Some(computed) = self.computed() {
            return Some(vec![computed]);
        }
        let shapes = self.shapes()?;
        Some(shapes.into_iter().map(|lengths| shaped(lengths, self.symbols)).collect())
    }

    /// The result where its elements are known.
    fn computed(&mut self) -> Option<SymTensor> {
        let attrs = Attributes(self.node);
        let node = self.node;
        match node.op.as_str() {
            "Identity" | "Dropout" => self.held(0).cloned(),
            "Cast" => {
                let to = attrs.int("to", 0);
                let kept = |x: &SymExpr| match to {
                    6 | 7 => !is_cut(x),
                    9 => matches!(x, SymExpr::Value(0 | 1)),
                    _ => false,
                };
                self.held(0).filter(|held| held.values().is_some_and(|xs| xs.iter().all(kept))).cloned()
            }
            "Constant" => match (node.attrs.first()?, node.attrs.len()) {
                ((_, Attr::Int(n)), 1) => Some(SymTensor::from_scalar(number(*n)?)),
                ((_, Attr::Ints(all)), 1) if all.len() <= MOST_ELEMENTS => {
                    Some(SymTensor::from_vec(all.iter().map(|&n| number(n)).collect::<Option<_>>()?))
                }
                ((_, Attr::Tensor(tensor)), 1) => Some(super::constant(tensor)),
                _ => None,
            },
            "Shape" => {
                let lengths = self.lengths(0)?;
                let rank = lengths.len() as i64;
                let place = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
                let (start, end) = (place(attrs.int("start", 0)), place(attrs.int("end", rank)));
                Some(SymTensor::from_vec(lengths.get(start..end).unwrap_or_default().to_vec()))
            }
            "Size" => Some(SymTensor::from_scalar(product(&self.lengths(0)?)?)),

            "Add" => self.elementwise(sum),
            "Sub" => self.elementwise(difference),
            "Mul" => self.elementwise(|x, y| product([x, y])),
            "Div" => self.elementwise(quotient),
            "Equal" => self.elementwise(|x, y| equal(x, y).map(|same| SymExpr::Value(same.into()))),
            "Neg" => self.map(|x| difference(&SymExpr::Value(0), x)),
            "Max" => self.elementwise(|x, y| extreme(x, y, i32::max, |x, y| x.max(y))),
            "Min" => self.elementwise(|x, y| extreme(x, y, i32::min, |x, y| x.min(y))),
            "Where" => {
                let (condition, [x, y]) = (self.held(0)?, [self.held(1)?, self.held(2)?]);
                let all = [condition, x, y].map(|held| held.values().unwrap_or_default());
                let rank = [condition, x, y].into_iter().filter_map(SymTensor::ndim).max()?;
                let count = all.iter().map(|values| values.len()).max()?;
                let at = |values: &[SymExpr], index: usize| match values.len() {
                    1 => values.first().cloned(),
                    n if n == count => values.get(index).cloned(),
                    _ => None,
                };
                let chosen = (0..count).map(|index| match at(all[0], index)? {
                    SymExpr::Value(0) => at(all[2], index),
                    SymExpr::Value(_) => at(all[1], index),
                    _ => at(all[1], index).filter(|x| at(all[2], index).as_ref() == Some(x)),
                });
                held(chosen.collect::<Option<_>>()?, rank)
            }

            "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => {
                let (values, keep) = (self.held(0)?.as_vector()?, attrs.int("keepdims", 1) != 0);
                let all = matches!(self.reduced_axes()?.as_slice(), [0]);
                let mut values = values.iter();
                let first = values.next()?.clone();
                let reduced = values.try_fold(first, |so_far, x| match node.op.as_str() {
                    "ReduceProd" => product([&so_far, x]),
                    "ReduceSum" => sum(&so_far, x),
                    "ReduceMax" => extreme(&so_far, x, i32::max, |x, y| x.max(y)),
                    _ => extreme(&so_far, x, i32::min, |x, y| x.min(y)),
                })?;
                all.then(|| held(vec![reduced], keep.into())).flatten()
            }

            "Concat" => {
                let parts = (0..node.inputs.len()).map(|index| self.held(index)?.as_vector());
                let all = parts.collect::<Option<Vec<_>>>()?.concat();
                (all.len() <= MOST_ELEMENTS).then(|| SymTensor::from_vec(all))
            }
            "Gather" => {
                let data = self.held(0)?.as_vector()?;
                let index = self.held(1)?;
                let picked = index.values()?.iter().map(|at| match at {
                    SymExpr::Value(at) if *at < 0 => data.get(data.len().checked_add_signed(*at as isize)?).cloned(),
                    SymExpr::Value(at) => data.get(*at as usize).cloned(),
                    _ => None,
                });
                held(picked.collect::<Option<_>>()?, index.ndim()?)
            }
            "Slice" => {
                let data = self.held(0)?.as_vector()?;
                let [(0, start, end, step)] = self.slices()?[..] else { return None };
                let (start, end) = (start?, end?);
                let picked = positions(data.len() as i64, start, end, step)?;
                Some(SymTensor::from_vec(picked.map(|at| data[at as usize].clone()).collect()))
            }
            "Squeeze" => {
                let data = self.held(0)?;
                let [only] = data.values()? else { return None };
                let axes = self.axes(1, "axes");
                let axes = if self.is_given(1, "axes") { axes? } else { (0..data.ndim()? as i64).collect() };
                match (data.ndim()?, axes.as_slice()) {
                    (1, [0 | -1]) => Some(SymTensor::from_scalar(only.clone())),
                    (_, []) => Some(data.clone()),
                    _ => None,
                }
            }
            "Unsqueeze" => match (self.held(0)?.as_scalar()?, self.axes(1, "axes")?.as_slice()) {
                (only, [0 | -1]) => Some(SymTensor::from_vec(vec![only.clone()])),
                _ => None,
            },
            "Reshape" | "Flatten" | "Expand" | "Tile" => {
                let values = self.held(0)?.values()?.to_vec();
                let shape = self.shapes()?.into_iter().next()?;
                let same = match shape.as_slice() {
                    [] => values.len() == 1,
                    [SymExpr::Value(n)] => usize::try_from(*n).is_ok_and(|n| n == values.len()),
                    _ => false,
                };
                match (shape.as_slice(), &values[..]) {
                    _ if same => held(values, shape.len()),
                    ([SymExpr::Value(n)], [x]) if (1..=MOST_ELEMENTS as i32).contains(n) => {
                        Some(SymTensor::from_vec(vec![x.clone(); *n as usize]))
                    }
                    _ => None,
                }
            }
            "ConstantOfShape" => {
                let Some(Attr::Tensor(value)) = node.attrs.get("value") else { return None };
                let element = number(value.ints().filter(|ints| ints.len() == 1)?[0])?;
                match self.held(0)?.as_vector()? {
                    [] => Some(SymTensor::from_scalar(element)),
                    [SymExpr::Value(n)] if (0..=MOST_ELEMENTS as i32).contains(n) => {
                        Some(SymTensor::from_vec(vec![element; *n as usize]))
                    }
                    _ => None,
                }
            }
            "Range" => {
                let ends: [i64; 3] = [self.scalar(0)?, self.scalar(1)?, self.scalar(2)?];
                let count = steps(ends)?;
                let elements = (0..count.min(MOST_ELEMENTS as i64 + 1)).map(|at| number(ends[0] + at * ends[2]));
                let elements: Vec<_> = elements.collect::<Option<_>>()?;
                (elements.len() <= MOST_ELEMENTS).then(|| SymTensor::from_vec(elements))
            }
            _ => None,
        }
    }

    /// The shape of each result.
    fn shapes(&mut self) -> Option<Vec<Lengths>> {
        let attrs = Attributes(self.node);
        let one = |lengths: Option<Lengths>| Some(vec![lengths?]);
        match self.node.op.as_str() {
            "Abs"
            | "Acos"
            | "Acosh"
            | "Asin"
            | "Asinh"
            | "Atan"
            | "Atanh"
            | "Bernoulli"
            | "BitCast"
            | "BitwiseNot"
            | "Cast"
            | "CastLike"
            | "Ceil"
            | "Celu"
            | "Clip"
            | "Cos"
            | "Cosh"
            | "CumSum"
            | "CumProd"
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
            | "Identity"
            | "InstanceNormalization"
            | "IsInf"
            | "IsNaN"
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
            | "QuantizeLinear"
            | "RMSNormalization"
            | "RandomNormalLike"
            | "RandomUniformLike"
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
            | "Trilu" => one(self.lengths(0)),
            "Dropout" => Some(vec![self.lengths(0)?; 2]),
            "BatchNormalization" => match self.node.outputs.len() {
                1 => one(self.lengths(0)),
                _ => Some(vec![self.lengths(0)?, self.lengths(3)?, self.lengths(4)?]),
            },
            "LayerNormalization" => {
                let x = self.lengths(0)?;
                let axis = place(attrs.int("axis", -1), x.len())?;
                let mean: Lengths = x[..axis].iter().cloned().chain(x[axis..].iter().map(|_| ONE)).collect();
                Some(vec![x, mean.clone(), mean])
            }
            "DynamicQuantizeLinear" => Some(vec![self.lengths(0)?, vec![], vec![]]),

            "Add" | "And" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Div" | "Equal" | "Greater"
            | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Mod" | "Mul" | "Or" | "Pow" | "Sub" | "Xor" => {
                // Before opset 7 an attribute said how to broadcast.
                if self.opset < 7 {
                    return one(self.lengths(0));
                }
                one(self.broadcast(&BinaryOp))
            }
            "Max" | "Mean" | "Min" | "Sum" | "Where" => one(self.broadcast(&VariadicOp)),

            "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
            | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" | "ArgMax" | "ArgMin" => {
                let (x, keep) = (self.lengths(0)?, attrs.int("keepdims", 1) != 0);
                match self.reduced_axes() {
                    Some(axes) if keep => {
                        let kept = |(axis, x): (usize, SymExpr)| if axes.contains(&axis) { ONE } else { x };
                        one(Some(x.into_iter().enumerate().map(kept).collect()))
                    }
                    Some(axes) => {
                        let rest = x.into_iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
                        one(Some(rest.map(|(_, x)| x).collect()))
                    }
                    None if keep => one(Some(self.symbols.gen_shape(x.len()))),
                    None => None,
                }
            }
            "TopK" => {
                let mut x = self.lengths(0)?;
                let axis = place(attrs.int("axis", -1), x.len())?;
                let k = match attrs.0.attrs.get("k") {
                    Some(Attr::Int(k)) => number(*k),
                    _ => self.held(1).and_then(|k| k.values()?.first().filter(|k| !is_cut(k)).cloned()),
                };
                x[axis] = k.unwrap_or_else(|| self.symbols.gen_positive());
                Some(vec![x.clone(), x])
            }

            "Conv" | "ConvInteger" | "DeformConv" => one(self.convolved(0, 1)),
            "QLinearConv" => one(self.convolved(0, 3)),
            "ConvTranspose" => one(self.transposed_convolution()),
            "AveragePool" | "LpPool" | "MaxPool" => {
                let pooled = self.pooled()?;
                Some(vec![pooled; self.node.outputs.len().min(2)])
            }
            "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" => {
                let x = self.lengths(0)?;
                one(Some(x.into_iter().enumerate().map(|(axis, x)| if axis < 2 { x } else { ONE }).collect()))
            }
            "MaxRoiPool" | "RoiAlign" => {
                let (x, rois) = (self.lengths(0)?, self.lengths(1)?);
                let (height, width) = match attrs.ints("pooled_shape") {
                    Some([height, width]) => (*height, *width),
                    _ => (attrs.int("output_height", 1), attrs.int("output_width", 1)),
                };
                one(Some(vec![rois.first()?.clone(), x.get(1)?.clone(), number(height)?, number(width)?]))
            }

            "MatMul" | "MatMulInteger" => one(self.matrix_product(0, 1)),
            "QLinearMatMul" => one(self.matrix_product(0, 3)),
            "Gemm" => {
                let (a, b) = (self.lengths(0)?, self.lengths(1)?);
                let [rows, columns] = [attrs.int("transA", 0), 1 - attrs.int("transB", 0)].map(|axis| axis as usize);
                (a.len() == 2 && b.len() == 2)
                    .then(|| Some(vec![vec![a.get(rows)?.clone(), b.get(columns)?.clone()]]))
                    .flatten()
            }
            "Einsum" => one(self.infer(&ops::Einsum { equation: attrs.text("equation")? })),
            "Attention" => {
                let (q, v) = (self.lengths(0)?, self.lengths(2)?);
                match (q.as_slice(), v.as_slice()) {
                    ([batch, heads, queries, _], [.., width]) if v.len() == 4 => {
                        one(Some([batch, heads, queries, width].map(Clone::clone).to_vec()))
                    }
                    ([batch, queries, _], [_, _, values]) => {
                        let [q_heads, kv_heads] =
                            ["q_num_heads", "kv_num_heads"].map(|name| number(attrs.int(name, 0)));
                        let width = product([&quotient(values, &kv_heads?)?, &q_heads?]);
                        let width = self.or_open(width);
                        one(Some(vec![batch.clone(), queries.clone(), width]))
                    }
                    _ => None,
                }
            }
            "Det" => {
                let mut x = self.lengths(0)?;
                x.truncate(x.len().checked_sub(2)?);
                one(Some(x))
            }

            "Shape" | "NonZero" => {
                let rank = self.lengths(0).map(|x| x.len() as i64);
                match (self.node.op.as_str(), rank) {
                    ("NonZero", Some(rank)) => one(Some(vec![number(rank)?, self.symbols.gen_positive()])),
                    _ => one(Some(self.symbols.gen_shape(if self.node.op == "Shape" { 1 } else { 2 }))),
                }
            }
            "Size" => one(Some(vec![])),
            "Constant" => match (self.node.attrs.first()?, self.node.attrs.len()) {
                ((_, Attr::Tensor(tensor)), 1) => one(fixed(tensor.shape())),
                ((_, Attr::SparseTensor(sparse)), 1) => one(fixed(&sparse.shape)),
                ((_, Attr::Int(_) | Attr::Float(_) | Attr::Str(_)), 1) => one(Some(vec![])),
                ((_, Attr::Ints(all)), 1) => one(fixed(&[all.len()])),
                ((_, Attr::Floats(all)), 1) => one(fixed(&[all.len()])),
                ((_, Attr::Strs(all)), 1) => one(fixed(&[all.len()])),
                _ => None,
            },
            "Reshape" => one(self.reshaped()),
            "Flatten" => {
                let x = self.lengths(0)?;
                let axis = attrs.int("axis", 1);
                let axis = if axis < 0 { axis + x.len() as i64 } else { axis };
                let (before, behind) = x.split_at_checked(usize::try_from(axis).ok()?)?;
                let mut or_open = |length: Option<SymExpr>| length.unwrap_or_else(|| self.symbols.gen_positive());
                one(Some(vec![or_open(product(before)), or_open(product(behind))]))
            }
            "Squeeze" => {
                let x = self.lengths(0)?;
                let axes = match self.is_given(1, "axes") {
                    true => places(&self.axes(1, "axes")?, x.len())?,
                    false if x.iter().all(|length| matches!(length, SymExpr::Value(_))) => {
                        (0..x.len()).filter(|&axis| x[axis] == ONE).collect()
                    }
                    false => return None,
                };
                let rest = x.into_iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
                one(Some(rest.map(|(_, x)| x).collect()))
            }
            "Unsqueeze" => {
                let (x, axes) = (self.lengths(0)?, self.axes(1, "axes")?);
                let axes = places(&axes, x.len() + axes.len())?;
                let mut rest = x.into_iter();
                let all =
                    (0..rest.len() + axes.len()).map(|axis| if axes.contains(&axis) { Some(ONE) } else { rest.next() });
                one(all.collect())
            }
            "Expand" => {
                let target = self.held(1).and_then(|shape| shape.as_vector());
                match target {
                    Some(target) if target.iter().all(|n| n.is_positive() && !is_cut(n)) => {
                        let target = SymTensor::from_shape(target.to_vec());
                        let both = [self.operands[0].clone(), Some(target)];
                        let results = BinaryOp.infer_shapes(InferShapesContext::new(&both), self.symbols).ok()?;
                        one(Some(results.first()?.shape()?.collect()))
                    }
                    _ => {
                        let rank = self.lengths(0)?.len().max(fixed_len(&self.lengths(1)?)?);
                        one(Some(self.symbols.gen_shape(rank)))
                    }
                }
            }
            "Tile" => {
                let x = self.lengths(0)?;
                let repeats = self.held(1).and_then(|repeats| repeats.as_vector()).filter(|all| all.len() == x.len());
                match repeats.map(|repeats| repeats.to_vec()) {
                    Some(repeats) => {
                        let lengths = x.iter().zip(&repeats).map(|(x, n)| product([x, n]));
                        let lengths: Vec<_> = lengths.collect();
                        one(Some(lengths.into_iter().map(|x| self.or_open(x)).collect()))
                    }
                    None => one(Some(self.symbols.gen_shape(x.len()))),
                }
            }
            "Transpose" => {
                let x = self.lengths(0)?;
                match attrs.ints("perm") {
                    Some(perm) => {
                        let perm = places(perm, x.len())?;
                        one((perm.len() == x.len()).then(|| perm.iter().map(|&axis| x[axis].clone()).collect()))
                    }
                    None => one(Some(x.into_iter().rev().collect())),
                }
            }
            "Concat" => one(self.joined()),
            "Split" => self.split(),
            "Slice" => one(self.sliced()),
            "Pad" => one(self.padded()),
            "Gather" => {
                let (x, indices) = (self.lengths(0)?, self.lengths(1)?);
                let axis = place(attrs.int("axis", 0), x.len())?;
                one(Some([&x[..axis], &indices, &x[axis + 1..]].concat()))
            }
            "GatherElements" => one(self.lengths(1)),
            "GatherND" => {
                let (x, indices) = (self.lengths(0)?, self.lengths(1)?);
                let (depth, batch) = indices.split_last()?;
                let taken = attrs.int("batch_dims", 0).checked_add(fixed_length(depth)?.try_into().ok()?)?;
                one(Some([batch, x.get(usize::try_from(taken).ok()?..)?].concat()))
            }
            "Compress" => match attrs.0.attrs.get("axis") {
                Some(Attr::Int(axis)) => {
                    let mut x = self.lengths(0)?;
                    let axis = place(*axis, x.len())?;
                    x[axis] = self.symbols.gen_positive();
                    one(Some(x))
                }
                _ => one(Some(self.symbols.gen_shape(1))),
            },
            "ConstantOfShape" => match self.held(0).and_then(|shape| shape.as_vector()) {
                Some(lengths) => one(Some(lengths.to_vec())),
                None => {
                    let rank = fixed_len(&self.lengths(0)?)?;
                    one(Some(self.symbols.gen_shape(rank)))
                }
            },
            "RandomNormal" | "RandomUniform" => {
                one(attrs.ints("shape")?.iter().map(|&n| number(n)).collect::<Option<_>>())
            }
            "BlackmanWindow" | "HammingWindow" | "HannWindow" => match self.scalar(0).and_then(number) {
                Some(length) => one(Some(vec![length])),
                None => one(Some(self.symbols.gen_shape(1))),
            },
            "OneHot" => {
                let mut indices = self.lengths(0)?;
                let axis = place(attrs.int("axis", -1), indices.len() + 1)?;
                let depth = self.scalar(1).and_then(number);
                indices.insert(axis, self.or_open(depth));
                one(Some(indices))
            }
            "Range" => {
                let known = match [self.scalar(0), self.scalar(1), self.scalar(2)] {
                    [Some(start), Some(limit), Some(delta)] => steps([start, limit, delta]).and_then(number),
                    [Some(0), None, Some(1)] => {
                        let limit = self.held(1).and_then(|limit| limit.values()?.first().cloned());
                        limit.filter(|limit| limit.is_positive())
                    }
                    _ => None,
                };
                one(Some(vec![self.or_open(known)]))
            }
            "DepthToSpace" | "SpaceToDepth" => {
                let x = self.lengths(0)?;
                let block = number(attrs.int("blocksize", 0)).filter(|block| *block != SymExpr::Value(0))?;
                let [n, c, h, w] = x.as_slice() else { return None };
                let area = product([&block, &block])?;
                let lengths = match self.node.op.as_str() {
                    "DepthToSpace" => [quotient(c, &area), product([h, &block]), product([w, &block])],
                    _ => [product([c, &area]), quotient(h, &block), quotient(w, &block)],
                };
                let rest = lengths.map(|length| self.or_open(length));
                one(Some(std::iter::once(n.clone()).chain(rest).collect()))
            }
            "Resize" | "Upsample" => one(self.resized()),
            "GridSample" => {
                let (x, grid) = (self.lengths(0)?, self.lengths(1)?);
                let middle = grid.get(1..grid.len().checked_sub(1)?)?;
                one(Some([x.get(..2)?, middle].concat()))
            }
            "LSTM" | "GRU" | "RNN" => self.recurrent(),
            "NonMaxSuppression" => one(Some(vec![self.symbols.gen_positive(), SymExpr::Value(3)])),
            _ => None,
        }
    }

    fn reshaped(&mut self) -> Option<Lengths> {
        let attrs = Attributes(self.node);
        let given = match self.node.attrs.get("shape") {
            Some(Attr::Ints(shape)) => Some(shape.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?),
            _ => self.held(1).and_then(|shape| shape.as_vector()).map(<[SymExpr]>::to_vec),
        };
        let Some(target) = given else {
            let rank = fixed_len(&self.lengths(1)?)?;
            return Some(self.symbols.gen_shape(rank));
        };
        let (x, copies) = (self.lengths(0), attrs.int("allowzero", 0) == 0);
        let copied = |(axis, size): (usize, &SymExpr)| match size {
            SymExpr::Value(-1) => None,
            SymExpr::Value(0) if copies => x.as_ref()?.get(axis).cloned(),
            // A symbol of a target may be 0, which would copy; so may an axis of the tensor it was read from be.
            size => (!is_cut(size) && size.is_positive()).then(|| size.clone()),
        };
        let mut lengths: Vec<Option<SymExpr>> = target.iter().enumerate().map(copied).collect();
        let mut open = (0..target.len()).filter(|&axis| lengths[axis].is_none());
        if let (Some(axis), None) = (open.next(), open.next())
            && target[axis] == SymExpr::Value(-1)
            && let Some(x) = &x
        {
            lengths[axis] = remainder(x, lengths.iter().flatten());
        }
        Some(lengths.into_iter().map(|length| self.or_open(length)).collect())
    }

    fn joined(&mut self) -> Option<Lengths> {
        let parts: Vec<Option<Lengths>> = (0..self.node.inputs.len()).map(|index| self.lengths(index)).collect();
        let mut known = parts.iter().flatten();
        let mut joined = known.next()?.clone();
        let axis = place(Attributes(self.node).int("axis", 1), joined.len())?;
        for part in known {
            if part.len() != joined.len() {
                return None;
            }
            for (other, (length, more)) in joined.iter_mut().zip(part).enumerate() {
                if other != axis && matches!(more, SymExpr::Value(_)) {
                    *length = more.clone();
                }
            }
        }
        let lengths = parts.iter().map(|part| part.as_ref().map(|part| &part[axis]));
        let total = lengths.collect::<Option<Vec<_>>>().and_then(|lengths| {
            let (mut fixed, mut open) = (0i64, SymExpr::Value(0));
            for length in lengths {
                match length {
                    SymExpr::Value(n) => fixed += i64::from(*n),
                    other => open = sum(&open, other)?,
                }
            }
            sum(&open, &number(fixed)?)
        });
        joined[axis] = self.or_open(total);
        Some(joined)
    }

    fn split(&mut self) -> Option<Vec<Lengths>> {
        let attrs = Attributes(self.node);
        let x = self.lengths(0)?;
        let axis = place(attrs.int("axis", 0), x.len())?;
        let count = self.node.outputs.len() as i64;
        let parts: Vec<SymExpr> = match self.is_given(1, "split") {
            true => match attrs.ints("split") {
                Some(parts) => parts.iter().map(|&n| number(n)).collect::<Option<_>>()?,
                None => match self.held(1).and_then(|parts| parts.as_vector()) {
                    Some(parts) => parts.to_vec(),
                    None => self.symbols.gen_shape(count as usize),
                },
            },
            false => match &x[axis] {
                SymExpr::Value(length) => {
                    let length = i64::from(*length);
                    // Equal parts, the last one smaller where they do not come out even.
                    let part = (length + count - 1) / count;
                    (0..count).map(|index| number(part.min(length - part * index).max(0))).collect::<Option<_>>()?
                }
                length if count == 1 => vec![length.clone()],
                _ => self.symbols.gen_shape(count as usize),
            },
        };
        let with = |part: SymExpr| {
            let mut lengths = x.clone();
            lengths[axis] = part;
            lengths
        };
        (parts.len() as i64 == count).then(|| parts.into_iter().map(with).collect())
    }

    /// Axis, start, end and step of each range of a Slice; start and end are none where they are not numbers.
    #[allow(clippy::type_complexity, reason = "axis, start, end and step, once")]
    fn slices(&self) -> Option<Vec<(usize, Option<i64>, Option<i64>, i64)>> {
        let rank = self.operands.first()?.as_ref()?.ndim()?;
        let bound = |index: usize, name: &str, at: usize| -> Option<i64> {
            match Attributes(self.node).ints(name) {
                Some(all) => all.get(at).copied(),
                None => match self.constants.get(index).copied().flatten() {
                    Some(tensor) => tensor.ints()?.get(at).copied(),
                    None => match self.held(index)?.values()?.get(at)? {
                        SymExpr::Value(n) => Some(i64::from(*n)),
                        _ => None,
                    },
                },
            }
        };
        let count = match Attributes(self.node).ints("starts") {
            Some(starts) => starts.len(),
            None => fixed_len(&self.lengths(1)?)?,
        };
        let axes = match self.is_given(3, "axes") {
            true => self.axes(3, "axes")?,
            false => (0..count as i64).collect(),
        };
        let steps = if self.is_given(4, "steps") { self.axes(4, "steps")? } else { vec![1; count] };
        let axes = places(&axes, rank)?;
        (axes.len() == count && steps.len() == count && !steps.contains(&0))
            .then(|| (0..count).map(|at| (axes[at], bound(1, "starts", at), bound(2, "ends", at), steps[at])).collect())
    }

    fn sliced(&mut self) -> Option<Lengths> {
        let mut x = self.lengths(0)?;
        let Some(slices) = self.slices() else { return Some(self.symbols.gen_shape(x.len())) };
        for (index, (axis, start, end, step)) in slices.into_iter().enumerate() {
            let expression = |operand: usize| Some(self.held(operand)?.values()?.get(index)?.clone());
            let end_is_length = expression(2).is_some_and(|end| end == x[axis]);
            let far = end.is_some_and(|end| end >= i64::from(i32::MAX));
            let length = match (&x[axis], start, end) {
                (SymExpr::Value(length), Some(start), Some(end)) => {
                    positions((*length).into(), start, end, step).and_then(|all| number(all.count() as i64))
                }
                (length, Some(0), _) if step == 1 && (far || end_is_length) => Some(length.clone()),
                (length, Some(start), _) if step == 1 && start < 0 && far => {
                    // The last elements, as many as there are.
                    let most = number(start.checked_neg()?)?;
                    simplified(length.min(&most))
                }
                _ => None,
            };
            x[axis] = self.or_open(length);
        }
        Some(x)
    }

    fn padded(&mut self) -> Option<Lengths> {
        let mut x = self.lengths(0)?;
        let attribute = Attributes(self.node).ints("pads").or(Attributes(self.node).ints("paddings"));
        let pads = match attribute {
            Some(pads) => Some(pads.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?),
            None => self.held(1).and_then(|pads| pads.as_vector()).map(<[SymExpr]>::to_vec),
        };
        let axes = match self.node.inputs.get(3).copied().flatten() {
            Some(_) => self.ints(3).and_then(|axes| places(&axes, x.len())),
            None => Some((0..x.len()).collect()),
        };
        match (pads, axes) {
            (Some(pads), Some(axes)) if pads.len() == 2 * axes.len() => {
                for (at, &axis) in axes.iter().enumerate() {
                    let longer = sum(&pads[at], &pads[axes.len() + at]).and_then(|pad| sum(&x[axis], &pad));
                    x[axis] = self.or_open(longer);
                }
                Some(x)
            }
            _ => Some(self.symbols.gen_shape(x.len())),
        }
    }

    fn convolved(&mut self, x: usize, w: usize) -> Option<Lengths> {
        let (x, w) = (self.lengths(x)?, self.lengths(w)?);
        if x.len() != w.len() || x.len() < 2 {
            return None;
        }
        let window = Window::read(&Attributes(self.node), w[2..].to_vec())?;
        let slid = x[2..].iter().enumerate().map(|(axis, x)| window.slide(axis, x));
        let slid: Vec<_> = slid.collect();
        let spatial = slid.into_iter().map(|length| self.or_open(length));
        Some([x[0].clone(), w[0].clone()].into_iter().chain(spatial).collect())
    }

    fn transposed_convolution(&mut self) -> Option<Lengths> {
        let attrs = Attributes(self.node);
        let (x, w) = (self.lengths(0)?, self.lengths(1)?);
        if x.len() != w.len() || x.len() < 2 {
            return None;
        }
        let rank = x.len() - 2;
        let channels = product([&w[1], &number(attrs.int("group", 1))?]);
        let spatial: Vec<Option<SymExpr>> = match attrs.ints("output_shape") {
            Some(shape) if !shape.is_empty() => {
                shape.get(shape.len().checked_sub(rank)?..)?.iter().map(|&n| number(n)).collect()
            }
            _ => {
                let window = Window::read(&attrs, w[2..].to_vec())?;
                let padding = attrs.ints("output_padding").unwrap_or_default();
                let spread = |(axis, x)| window.spread(axis, x, padding.get(axis).copied().unwrap_or(0));
                x[2..].iter().enumerate().map(spread).collect()
            }
        };
        let open = std::iter::once(channels).chain(spatial).map(|length| self.or_open(length));
        let rest: Vec<_> = open.collect();
        Some(std::iter::once(x[0].clone()).chain(rest).collect())
    }

    fn pooled(&mut self) -> Option<Lengths> {
        let attrs = Attributes(self.node);
        let x = self.lengths(0)?;
        let kernel = attrs.ints("kernel_shape")?.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?;
        if x.len() != kernel.len() + 2 {
            return None;
        }
        let window = Window::read(&attrs, kernel)?;
        let slid: Vec<_> = x[2..].iter().enumerate().map(|(axis, x)| window.slide(axis, x)).collect();
        let spatial: Vec<_> = slid.into_iter().map(|length| self.or_open(length)).collect();
        Some(x[..2].iter().cloned().chain(spatial).collect())
    }

    /// Products of stacks of matrices; a vector is a row on the left and a column on the right.
    fn matrix_product(&mut self, a: usize, b: usize) -> Option<Lengths> {
        let (mut a, mut b) = (self.lengths(a)?, self.lengths(b)?);
        let (row, column) = (a.len() == 1, b.len() == 1);
        if row {
            a.insert(0, ONE);
        }
        if column {
            b.push(ONE);
        }
        let stacks = [&a, &b].map(|x| Some(SymTensor::from_shape(x[..x.len().checked_sub(2)?].to_vec())));
        if stacks.iter().any(Option::is_none) {
            return None;
        }
        let stack = BinaryOp.infer_shapes(InferShapesContext::new(&stacks), self.symbols).ok()?;
        let mut lengths: Lengths = stack.first()?.shape()?.collect();
        lengths.extend((!row).then(|| a[a.len() - 2].clone()));
        lengths.extend((!column).then(|| b[b.len() - 1].clone()));
        Some(lengths)
    }

    fn resized(&mut self) -> Option<Lengths> {
        let attrs = Attributes(self.node);
        let x = self.lengths(0)?;
        let open = |call: &mut Self| Some(call.symbols.gen_shape(x.len()));
        let is_upsample = self.node.op == "Upsample" || self.node.inputs.len() == 2;
        let axes = match attrs.ints("axes") {
            Some(axes) => places(axes, x.len())?,
            None => (0..x.len()).collect(),
        };
        if attrs.text("keep_aspect_ratio_policy").is_some_and(|policy| policy != "stretch") {
            return open(self);
        }
        let mut lengths = x.clone();
        let sizes = self.held(3).and_then(|sizes| sizes.as_vector()).filter(|sizes| !sizes.is_empty());
        if let Some(sizes) = sizes {
            let sizes = sizes.to_vec();
            if sizes.len() != axes.len() {
                return None;
            }
            for (&axis, size) in axes.iter().zip(sizes) {
                lengths[axis] = size;
            }
            return Some(lengths);
        }
        let scales = match self.node.attrs.get("scales") {
            Some(Attr::Floats(scales)) => Some(scales.clone()),
            _ => {
                let scales = self.constants.get(if is_upsample { 1 } else { 2 }).copied().flatten();
                scales.and_then(|scales| Some(scales.floats()?.into_owned()))
            }
        };
        match scales {
            Some(scales) if scales.len() == axes.len() => {
                for (&axis, scale) in axes.iter().zip(scales) {
                    let length = match &x[axis] {
                        length if scale == 1.0 => Some(length.clone()),
                        SymExpr::Value(n) => number((f64::from(*n) * f64::from(scale)).floor() as i64),
                        length if scale.fract() == 0.0 && scale > 0.0 => product([length, &number(scale as i64)?]),
                        _ => None,
                    };
                    lengths[axis] = self.or_open(length);
                }
                Some(lengths)
            }
            _ => open(self),
        }
    }

    fn recurrent(&mut self) -> Option<Vec<Lengths>> {
        let attrs = Attributes(self.node);
        if attrs.int("layout", 0) != 0 {
            return None;
        }
        let direction = match attrs.text("direction").unwrap_or("forward") {
            "bidirectional" => Direction::Bidirectional,
            _ => Direction::Unidirectional,
        };
        let hidden = self.lengths(2)?.last()?.clone();
        let x = self.lengths(0)?;
        let [steps, batch, _] = x.as_slice() else { return None };
        let directions = if direction == Direction::Bidirectional { SymExpr::Value(2) } else { ONE };
        let last = vec![directions.clone(), batch.clone(), hidden.clone()];
        let all = vec![steps.clone(), directions, batch.clone(), hidden];
        Some(if self.node.op == "LSTM" { vec![all, last.clone(), last] } else { vec![all, last] })
    }

    /// The axes that a reduction removes; none where they are not known.
    fn reduced_axes(&self) -> Option<Vec<usize>> {
        let attrs = Attributes(self.node);
        let rank = self.lengths(0)?.len();
        if matches!(self.node.op.as_str(), "ArgMax" | "ArgMin") {
            return Some(vec![place(attrs.int("axis", 0), rank)?]);
        }
        let axes = if self.is_given(1, "axes") { self.axes(1, "axes")? } else { vec![] };
        match (axes.as_slice(), attrs.int("noop_with_empty_axes", 0)) {
            ([], 0) => Some((0..rank).collect()),
            (axes, _) => places(axes, rank),
        }
    }

    /// `f` of the elements of two tensors, one of which may be a single element.
    fn elementwise(&self, f: impl Fn(&SymExpr, &SymExpr) -> Option<SymExpr>) -> Option<SymTensor> {
        let [a, b] = match self.operands.len() {
            2 => [self.held(0)?, self.held(1)?],
            _ => return None,
        };
        let (xs, ys) = (a.values()?, b.values()?);
        let rank = a.ndim()?.max(b.ndim()?);
        let results: Option<Vec<SymExpr>> = match (xs, ys) {
            ([x], ys) => ys.iter().map(|y| f(x, y)).collect(),
            (xs, [y]) => xs.iter().map(|x| f(x, y)).collect(),
            _ if xs.len() == ys.len() => xs.iter().zip(ys).map(|(x, y)| f(x, y)).collect(),
            _ => None,
        };
        // Numbers that stand for larger ones are not computed with.
        let cut = xs.iter().chain(ys).any(is_cut);
        held(results.filter(|_| !cut)?, rank)
    }

    fn map(&self, f: impl Fn(&SymExpr) -> Option<SymExpr>) -> Option<SymTensor> {
        let x = self.held(0)?;
        let results = x.values()?.iter().map(|x| f(x).filter(|_| !is_cut(x)));
        held(results.collect::<Option<_>>()?, x.ndim()?)
    }

    fn broadcast(&mut self, rule: &dyn InferShapes) -> Option<Lengths> {
        self.infer(rule)
    }

    fn infer(&mut self, rule: &dyn InferShapes) -> Option<Lengths> {
        let results = rule.infer_shapes(InferShapesContext::new(self.operands), self.symbols).ok()?;
        Some(results.first()?.shape()?.collect())
    }

    fn lengths(&self, index: usize) -> Option<Lengths> {
        Some(self.operands.get(index)?.as_ref()?.shape()?.collect())
    }

    /// The operand, where its elements are known.
    fn held(&self, index: usize) -> Option<&SymTensor> {
        self.operands.get(index)?.as_ref().filter(|tensor| tensor.values().is_some())
    }

    /// The elements of an operand that are numbers all.
    fn ints(&self, index: usize) -> Option<Vec<i64>> {
        match self.constants.get(index).copied().flatten() {
            Some(tensor) => tensor.ints(),
            None => {
                let number = |x: &SymExpr| match x {
                    SymExpr::Value(n) if !is_cut(x) => Some(i64::from(*n)),
                    _ => None,
                };
                self.held(index)?.values()?.iter().map(number).collect()
            }
        }
    }

    /// The only element of an operand, where it is a number.
    fn scalar(&self, index: usize) -> Option<i64> {
        match self.ints(index)?[..] {
            [n] if n.unsigned_abs() < 1 << 31 => Some(n),
            _ => None,
        }
    }

    /// Whether there is an operand, or an attribute in its place, as older opsets have it.
    fn is_given(&self, index: usize, name: &str) -> bool {
        self.node.attrs.contains_key(name) || self.node.inputs.get(index).is_some_and(Option::is_some)
    }

    fn axes(&self, index: usize, name: &str) -> Option<Vec<i64>> {
        match self.node.attrs.get(name) {
            Some(Attr::Ints(axes)) => Some(axes.clone()),
            Some(_) => None,
            None => self.ints(index),
        }
    }

    fn or_open(&mut self, length: Option<SymExpr>) -> SymExpr {
        length.unwrap_or_else(|| self.symbols.gen_positive())
    }
}

fn fixed(shape: &[usize]) -> Option<Lengths> {
    shape.iter().map(|&n| number(n.try_into().ok()?)).collect()
}

fn fixed_length(length: &SymExpr) -> Option<usize> {
    super::fixed_length(length)
}

/// How many elements a vector of these lengths has: the rank of what it is the shape of.
fn fixed_len(lengths: &[SymExpr]) -> Option<usize> {
    match lengths {
        [length] => fixed_length(length).filter(|&n| n <= MOST_ELEMENTS),
        _ => None,
    }
}

fn held(mut elements: Vec<SymExpr>, rank: usize) -> Option<SymTensor> {
    match (rank, elements.len()) {
        (0, 1) => elements.pop().map(SymTensor::from_scalar),
        (1, _) => Some(SymTensor::from_vec(elements)),
        _ => None,
    }
}

fn extreme(
    x: &SymExpr,
    y: &SymExpr,
    of_numbers: fn(i32, i32) -> i32,
    of_others: fn(&SymExpr, &SymExpr) -> SymExpr,
) -> Option<SymExpr> {
    match (x, y) {
        (SymExpr::Value(x), SymExpr::Value(y)) => Some(SymExpr::Value(of_numbers(*x, *y))),
        _ => simplified(of_others(x, y)),
    }
}

/// The axis counted from the front.
fn place(axis: i64, rank: usize) -> Option<usize> {
    let rank = rank as i64;
    (-rank..rank).contains(&axis).then_some((if axis < 0 { axis + rank } else { axis }) as usize)
}

fn places(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    let places: Vec<usize> = axes.iter().map(|&axis| place(axis, rank)).collect::<Option<_>>()?;
    (0..places.len()).all(|at| !places[..at].contains(&places[at])).then_some(places)
}

/// The elements of an axis that a slice takes.
fn positions(length: i64, start: i64, end: i64, step: i64) -> Option<impl Iterator<Item = i64>> {
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let from_front = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    let (start, end) = (from_front(start).clamp(low.max(0), high.max(0)), from_front(end).clamp(low, high));
    let apart = if step > 0 { end - start } else { start - end };
    let stride = i64::try_from(step.unsigned_abs()).ok()?;
    let count = if length == 0 || apart <= 0 { 0 } else { (apart - 1) / stride + 1 };
    Some((0..count).map(move |at| start + at * step))
}

/// How many numbers a Range has.
fn steps([start, limit, delta]: [i64; 3]) -> Option<i64> {
    let (apart, stride) = if delta > 0 { (limit - start, delta) } else { (start - limit, -delta) };
    (delta != 0).then(|| if apart <= 0 { 0 } else { (apart - 1) / stride + 1 })
}

/// The length that makes `x` and the `others` hold equally many elements.
fn remainder<'e>(x: &[SymExpr], others: impl Iterator<Item = &'e SymExpr>) -> Option<SymExpr> {
    let mut x: Vec<&SymExpr> = x.iter().collect();
    let mut left = Vec::new();
    for other in others {
        match x.iter().position(|length| *length == other) {
            // An axis of length 0 says nothing of what it is replaced by.
            Some(same) if *other != SymExpr::Value(0) => drop(x.swap_remove(same)),
            _ => left.push(other),
        }
    }
    let (x, left) = (product(x)?, product(left)?);
    match left {
        SymExpr::Value(1) => Some(x),
        SymExpr::Value(0) => None,
        left => quotient(&x, &left),
    }
}

/// The attributes of a node, by name and kind.
pub struct Attributes<'n>(pub &'n Node);

impl<'n> Attributes<'n> {
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.0.attrs.get(name) {
            Some(Attr::Int(x)) => *x,
            _ => default,
        }
    }

    pub fn ints(&self, name: &str) -> Option<&'n [i64]> {
        match self.0.attrs.get(name) {
            Some(Attr::Ints(xs)) => Some(xs),
            _ => None,
        }
    }

    pub fn text(&self, name: &str) -> Option<&'n str> {
        match self.0.attrs.get(name) {
            Some(Attr::Str(text)) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }
}
