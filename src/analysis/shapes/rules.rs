//! Shapes of results: one arm for operators that share a rule.
//!
//! A rule answers only what is sure: an operand that it needs and does not know makes the result unknown. Elements are
//! followed through the operators that exporters compute sizes with.

use rten_shape_inference::{BinaryOp, InferShapes, InferShapesContext, SymExpr, SymTensor, VariadicOp, ops};

use super::call::{Attributes, Call, Lengths, ONE, fixed_len, place, places, steps};
use super::expression::{is_cut, number, product, quotient, shaped};
use super::family::Family;
use super::fixed_length;
use crate::ir::Attr;

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

    /// The shape of each result.
    pub(super) fn shapes(&mut self) -> Option<Vec<Lengths>> {
        let attrs = Attributes(self.node);
        let one = |lengths: Option<Lengths>| Some(vec![lengths?]);
        if let Some(family) = Family::of(&self.node.op) {
            return one(match family {
                Family::LikeFirst => self.lengths(0),
                // Before opset 7 an attribute said how to broadcast the second operand to the first.
                Family::Arithmetic | Family::Comparison if self.opset < 7 => self.lengths(0),
                Family::Arithmetic | Family::Comparison => self.infer(&BinaryOp),
                Family::Variadic => self.infer(&VariadicOp),
                Family::Reduction => self.reduced(),
            });
        }
        match self.node.op.as_str() {
            "Bernoulli" | "BitCast" | "Cast" | "CastLike" | "DequantizeLinear" | "EyeLike" | "IsInf" | "IsNaN"
            | "QuantizeLinear" | "RandomNormalLike" | "RandomUniformLike" => one(self.lengths(0)),
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

            "Where" => one(self.infer(&VariadicOp)),
            "ArgMax" | "ArgMin" => one(self.reduced()),
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
}

fn fixed(shape: &[usize]) -> Option<Lengths> {
    shape.iter().map(|&n| number(n.try_into().ok()?)).collect()
}
