//! Shapes of results: one arm for operators that share a rule.
//!
//! A rule answers only what is sure: an operand that it needs and does not know makes the result unknown. Elements are
//! followed through the operators that exporters compute sizes with.

use rten_shape_inference::{InferShapes, InferShapesContext, SymExpr, SymTensor, ops};

use super::call::{Call, Lengths, ONE, place};
use super::elements::rounds_of_range;
use super::expression::{number, product};
use super::family::Family;
use super::{fixed_length, infer};
use crate::ir::Attr;

impl Call<'_> {
    /// The shape of the result of an operator of this family.
    pub fn shape_of(&mut self, family: Family) -> Option<Lengths> {
        match family {
            Family::LikeFirst => self.lengths(0).map(<[SymExpr]>::to_vec),
            // Before opset 7 an attribute said how to broadcast the second operand to the first.
            Family::Arithmetic | Family::Comparison if self.opset < 7 => self.lengths(0).map(<[SymExpr]>::to_vec),
            Family::Arithmetic | Family::Comparison | Family::Variadic => self.broadcast(),
            Family::Reduction => self.reduced(),
        }
    }

    /// The shape of each result.
    pub fn shapes(&mut self) -> Option<Vec<Lengths>> {
        if !self.node.domain.is_empty() {
            return None;
        }
        let attrs = self.attrs();
        let one = |lengths: Option<Lengths>| Some(vec![lengths?]);
        let copy = |lengths: Option<&[SymExpr]>| lengths.map(<[SymExpr]>::to_vec);
        if let Some(family) = self.family {
            return one(self.shape_of(family));
        }
        match self.node.op.as_str() {
            "Bernoulli" | "BitCast" | "Cast" | "CastLike" | "DequantizeLinear" | "EyeLike" | "IsInf" | "IsNaN"
            | "OptionalGetElement" | "QuantizeLinear" | "RandomNormalLike" | "RandomUniformLike" | "RegexFullMatch" => {
                one(copy(self.lengths(0)))
            }
            "Dropout" => Some(vec![self.lengths(0)?.to_vec(); 2]),
            "BatchNormalization" => match self.node.outputs.len() {
                1 => one(copy(self.lengths(0))),
                _ => Some([0, 3, 4].map(|index| copy(self.lengths(index))).into_iter().collect::<Option<_>>()?),
            },
            "LayerNormalization" => {
                let x = self.lengths(0)?;
                let axis = place(attrs.int("axis", -1), x.len())?;
                let mean: Lengths = x[..axis].iter().cloned().chain(x[axis..].iter().map(|_| ONE)).collect();
                Some(vec![x.to_vec(), mean.clone(), mean])
            }
            "DynamicQuantizeLinear" => Some(vec![self.lengths(0)?.to_vec(), vec![], vec![]]),

            "Where" => one(self.broadcast()),
            "ArgMax" | "ArgMin" => one(self.reduced()),
            "TopK" => {
                let mut x = self.lengths(0)?.to_vec();
                let axis = place(attrs.int("axis", -1), x.len())?;
                let k = match attrs.0.attrs.get("k") {
                    Some(Attr::Int(k)) => number(*k),
                    _ => self.only(1).cloned(),
                };
                x[axis] = self.or_open(k);
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
                one(Some(x.iter().enumerate().map(|(axis, x)| if axis < 2 { x.clone() } else { ONE }).collect()))
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
            "Einsum" => one(self.einsum(attrs.text("equation")?)),
            "Attention" => self.attention(),
            "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => self.loss(),
            "Det" => {
                let mut x = self.lengths(0)?.to_vec();
                x.truncate(x.len().checked_sub(2)?);
                one(Some(x))
            }

            "NonZero" => match self.rank(0) {
                Some(rank) => one(Some(vec![number(rank as i64)?, self.open()])),
                None => one(Some(self.open_shape(2))),
            },
            "Shape" => one(Some(self.open_shape(1))),
            "OptionalHasElement" | "Size" => one(Some(vec![])),
            "Constant" => match (self.node.attrs.first()?, self.node.attrs.len()) {
                ((_, Attr::Tensor(tensor)), 1) => one(infer::lengths(tensor.shape())),
                ((_, Attr::SparseTensor(sparse)), 1) => one(infer::lengths(&sparse.shape)),
                ((_, Attr::Int(_) | Attr::Float(_) | Attr::Str(_)), 1) => one(Some(vec![])),
                ((_, Attr::Ints(all)), 1) => one(infer::lengths(&[all.len()])),
                ((_, Attr::Floats(all)), 1) => one(infer::lengths(&[all.len()])),
                ((_, Attr::Strs(all)), 1) => one(infer::lengths(&[all.len()])),
                _ => None,
            },
            "Reshape" => one(self.reshaped()),
            "Flatten" => one(self.flattened()),
            "Squeeze" => one(self.squeezed()),
            "Unsqueeze" => one(self.unsqueezed()),
            "Expand" => one(self.expanded()),
            "Tile" => one(self.tiled()),
            "Transpose" => one(self.transposed()),
            "Concat" => one(self.joined()),
            "Split" => self.split(),
            "Slice" => one(self.sliced()),
            "Pad" => one(self.padded()),
            "Gather" => {
                let (x, indices) = (self.lengths(0)?, self.lengths(1)?);
                let axis = place(attrs.int("axis", 0), x.len())?;
                one(Some([&x[..axis], indices, &x[axis + 1..]].concat()))
            }
            "GatherElements" => one(copy(self.lengths(1))),
            "GatherND" => {
                let (x, indices) = (self.lengths(0)?, self.lengths(1)?);
                let (depth, batch) = indices.split_last()?;
                let taken = attrs.int("batch_dims", 0).checked_add(fixed_length(depth)?.try_into().ok()?)?;
                one(Some([batch, x.get(usize::try_from(taken).ok()?..)?].concat()))
            }
            "Compress" => match attrs.0.attrs.get("axis") {
                Some(Attr::Int(axis)) => {
                    let mut x = self.lengths(0)?.to_vec();
                    let axis = place(*axis, x.len())?;
                    x[axis] = self.open();
                    one(Some(x))
                }
                _ => one(Some(self.open_shape(1))),
            },
            "ConstantOfShape" => match self.vector(0) {
                Some(lengths) => one(Some(lengths.to_vec())),
                None => {
                    let rank = self.count(0)?;
                    one(Some(self.open_shape(rank)))
                }
            },
            "RandomNormal" | "RandomUniform" => {
                one(attrs.ints("shape")?.iter().map(|&n| number(n)).collect::<Option<_>>())
            }
            "BlackmanWindow" | "HammingWindow" | "HannWindow" => one(Some(vec![self.or_open(self.only(0).cloned())])),
            "OneHot" => {
                let mut indices = self.lengths(0)?.to_vec();
                let axis = place(attrs.int("axis", -1), indices.len() + 1)?;
                indices.insert(axis, self.or_open(self.only(1).cloned()));
                one(Some(indices))
            }
            "Range" => {
                let known = match [self.scalar(0), self.scalar(1), self.scalar(2)] {
                    [Some(start), Some(limit), Some(step)] => rounds_of_range(start, limit, step).and_then(number),
                    [Some(0), None, Some(1)] => self.only(1).filter(|limit| limit.is_positive()).cloned(),
                    _ => None,
                };
                one(Some(vec![self.or_open(known)]))
            }
            "DepthToSpace" | "SpaceToDepth" => one(self.blocks()),
            "Resize" | "Upsample" => one(self.resized()),
            "Unique" => {
                let (x, found) = (self.lengths(0)?, self.open());
                let (first, inverse) = match attrs.0.attrs.get("axis") {
                    Some(Attr::Int(axis)) => {
                        let axis = place(*axis, x.len())?;
                        let mut first = x.to_vec();
                        first[axis] = found.clone();
                        (first, Some(x[axis].clone()))
                    }
                    _ => (vec![found.clone()], product(x)),
                };
                let inverse = self.or_open(inverse);
                Some(vec![first, vec![found.clone()], vec![inverse], vec![found]])
            }

            "DFT" => one(self.fourier()),
            "STFT" => one(self.short_time_fourier()),
            "MelWeightMatrix" => one(self.mel_weights()),
            "AffineGrid" => one(self.affine_grid()),
            "CenterCropPad" => one(self.cropped_or_padded()),
            "Col2Im" => one(self.image_of_columns()),
            "MaxUnpool" => one(self.unpooled()),
            "ImageDecoder" => {
                let colors = if attrs.text("pixel_format") == Some("Grayscale") { 1 } else { 3 };
                one(Some(vec![self.open(), self.open(), number(colors)?]))
            }

            "StringConcat" => one(self.broadcast()),
            "StringSplit" => {
                let x = self.lengths(0)?;
                Some(vec![[x, &[self.open()]].concat(), x.to_vec()])
            }
            "StringNormalizer" => {
                let mut x = self.lengths(0)?.to_vec();
                *x.last_mut()? = self.open();
                one(Some(x))
            }
            "TfIdfVectorizer" => {
                let x = self.lengths(0)?;
                let found = attrs.ints("ngram_indexes")?.iter().max()?.checked_add(1)?;
                one(Some([&x[..x.len().checked_sub(1)?], &[number(found)?]].concat()))
            }

            "GridSample" => {
                let (x, grid) = (self.lengths(0)?, self.lengths(1)?);
                let middle = grid.get(1..grid.len().checked_sub(1)?)?;
                one(Some([x.get(..2)?, middle].concat()))
            }
            "LSTM" | "GRU" | "RNN" => self.recurrent(),
            "NonMaxSuppression" => one(Some(vec![self.open(), SymExpr::Value(3)])),
            _ => None,
        }
    }

    fn einsum(&mut self, equation: &str) -> Option<Lengths> {
        let operand = |index| self.lengths(index).map(|lengths| SymTensor::from_shape(lengths.to_vec()));
        let operands: Vec<_> = (0..self.node.inputs.len()).map(operand).collect();
        let context = InferShapesContext::new(&operands);
        let results = ops::Einsum { equation }.infer_shapes(context, self.symbols).ok()?;
        Some(results.first()?.shape()?.collect())
    }
}
