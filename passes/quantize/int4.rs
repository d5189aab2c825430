//! Matrices in int4: each block of elements along the axis that a product sums over has a scale of its own.
//!
//! A block's scale (and zero point) makes its squared error least. Scales are float16: 4.5 bits an element in blocks of 32.
//! The standard form is DequantizeLinear with `block_size` (opset 21) before the product. ONNX Runtime fuses both into
//! MatMulNBits, also where the scale is widened by a Cast; that operator can also be written at once.

use std::borrow::Cow;

use bytes::Bytes;
use half::f16;
use rayon::prelude::*;

use crate::ir::op::{Add, Cast, DequantizeLinear, Gemm, MatMul};
use crate::ir::{Attr, Attrs, DType, Model, NodeId, Operation, Tensor, Use, ValueId};
use crate::pass::PassError;
use crate::passes::cleanup::upgrade_opset;
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

use super::Limits;

/// The first opset with 4-bit types and blocks.
pub const OPSET: i64 = 21;

/// What MatMulNBits belongs to, and its version.
const CONTRIBUTED: (&str, i64) = ("com.microsoft", 1);

/// How int4 weights are stored.
pub struct Settings<'a> {
    pub limits: &'a Limits,
    /// Elements with one scale.
    pub block_size: usize,
    /// Whether zero is always the same level; else each block has a zero point.
    pub symmetric: bool,
    /// Whether to write MatMulNBits instead of the standard operators.
    pub contributed: bool,
}

/// What came of the weights.
#[derive(Default)]
pub struct Stored {
    pub outcome: Outcome,
    /// Sums of squares over all int4 weights: of the weights, and of their errors.
    pub sums: [f64; 2],
    /// The weight that lost most, and its ratio of signal to noise in decibels.
    pub worst: Option<(String, f64)>,
}

/// Quantizes every matrix that only products read.
pub fn quantize(model: &mut Model, settings: &Settings) -> Result<Stored, PassError> {
    let mut stored = Stored::default();
    let graphs = model.all_graphs().flat_map(|graph| model.initializers_of(graph));
    let constants: Vec<ValueId> = graphs.filter(|&value| first_product(model, value).is_some()).collect();
    let mut coded = Vec::new();
    for value in constants {
        let reader = first_product(model, value).expect("it has one");
        match Matrix::read(model, value, settings).and_then(|matrix| matrix.code(settings)) {
            Ok(matrix) => coded.push(matrix),
            Err(miss) => drop(stored.outcome.missed.insert(("int4_weight", reader), miss)),
        }
    }
    if coded.is_empty() {
        return Ok(stored);
    }
    match settings.contributed {
        true => drop(model.opsets.0.insert(CONTRIBUTED.0.into(), CONTRIBUTED.1)),
        false => drop(upgrade_opset::raise(model, OPSET)?),
    }
    stored.outcome.applied.insert("int4_weight", coded.len());
    for matrix in coded {
        let sqnr = decibels(matrix.sums);
        if stored.worst.as_ref().is_none_or(|(_, lowest)| sqnr < *lowest) {
            stored.worst = Some((model.value(matrix.value).name.clone(), sqnr));
        }
        stored.sums = [stored.sums[0] + matrix.sums[0], stored.sums[1] + matrix.sums[1]];
        match settings.contributed {
            true => matrix.write_contributed(model),
            false => matrix.write_standard(model),
        }
    }
    Ok(stored)
}

/// The ratio of signal to noise.
pub fn decibels([signal, noise]: [f64; 2]) -> f64 {
    if noise > 0.0 { 10.0 * (signal / noise).log10() } else { f64::INFINITY }
}

fn readers(model: &Model, value: ValueId) -> impl Iterator<Item = (NodeId, usize)> {
    model.value(value).uses.iter().filter_map(|place| match *place {
        Use::Node(node, index) => Some((node, index)),
        Use::Output(..) => None,
    })
}

fn first_product(model: &Model, value: ValueId) -> Option<NodeId> {
    let is_matrix = model.constant(value).is_some_and(|tensor| tensor.dtype().is_float() && tensor.rank() == 2);
    let product = |(node, index)| summed_axis(model, node, index).map(|_| node);
    readers(model, value).find_map(product).filter(|_| is_matrix)
}

/// The axis of the matrix at operand `index` that the product sums over.
fn summed_axis(model: &Model, node: NodeId, index: usize) -> Option<usize> {
    match (model.node(node).op.as_str(), index) {
        ("MatMul", 1) => model.view::<MatMul>(node).map(|_| 0),
        ("Gemm", 1) => model.view::<Gemm>(node).map(|gemm| usize::from(gemm.transB)),
        _ => None,
    }
}

/// A matrix that products read.
struct Matrix<'m> {
    value: ValueId,
    data: Cow<'m, [f32]>,
    dtype: DType,
    shape: [usize; 2],
    /// The axis that products sum over.
    axis: usize,
    readers: Vec<NodeId>,
}

impl<'m> Matrix<'m> {
    fn read(model: &'m Model, value: ValueId, settings: &Settings) -> Match<Matrix<'m>> {
        let tensor = model.constant(value).ok_or(Miss("not a constant"))?;
        require!(tensor.len() >= settings.limits.min_elements, "the weight is small");
        require!(!model.is_output(value), "the weight is also an output of the graph");
        let axes: Vec<_> = readers(model, value).map(|(node, index)| summed_axis(model, node, index)).collect();
        let axis = axes[0].ok_or(Miss("the weight is also read by a node that is no product"))?;
        require!(axes.iter().all(|other| *other == Some(axis)), "products read the weight along different axes");
        let readers: Vec<NodeId> = readers(model, value).map(|(node, _)| node).collect();
        require!(
            !readers.iter().any(|&node| settings.limits.kept.is_match(&model.node(node).name)),
            "asked to stay as it is"
        );
        let plain = |node: &NodeId| model.view::<Gemm>(*node).is_none_or(|gemm| is_plain(&gemm));
        require!(!settings.contributed || readers.iter().all(plain), "the Gemm scales or transposes its operands");
        require!(matches!(tensor.dtype(), DType::F32 | DType::F16), "neither float32 nor float16");
        let data = tensor.floats().ok_or(Miss("not a float tensor"))?;
        require!(data.iter().all(|x| x.is_finite()), "the weight holds NaN or infinity");
        let shape = [tensor.shape()[0], tensor.shape()[1]];
        Ok(Matrix { value, data, dtype: tensor.dtype(), shape, axis, readers })
    }

    /// One channel of results: the elements that are summed up together.
    fn channel(&self, channel: usize) -> Vec<f32> {
        match self.axis {
            0 => self.data.iter().skip(channel).step_by(self.shape[1]).copied().collect(),
            _ => self.data[channel * self.shape[1]..][..self.shape[1]].to_vec(),
        }
    }

    fn code(self, settings: &Settings) -> Match<Coded> {
        let channels = (0..self.shape[1 - self.axis]).into_par_iter();
        let block = |x: &[f32]| Block::of(x, settings.symmetric);
        let channels = channels.map(|channel| self.channel(channel).chunks(settings.block_size).map(block).collect());
        let channels: Vec<Vec<Block>> = channels.collect();
        let sums =
            channels.iter().flatten().fold([0.0; 2], |sums, block| [sums[0] + block.sums[0], sums[1] + block.sums[1]]);
        require!(decibels(sums) >= settings.limits.min_sqnr, "int4 would lose too much of it: see the option min-sqnr");
        let Matrix { value, dtype, shape, axis, readers, .. } = self;
        let (block_size, symmetric) = (settings.block_size, settings.symmetric);
        Ok(Coded { value, dtype, shape, axis, readers, channels, block_size, symmetric, sums })
    }
}

fn is_plain(gemm: &Gemm) -> bool {
    gemm.alpha == 1.0 && (gemm.beta == 1.0 || gemm.c.is_none()) && !gemm.transA
}

/// x ≈ scale · (level - zero), where levels are 0 to 15.
struct Block {
    levels: Vec<u8>,
    scale: f16,
    zero: u8,
    /// Σx² and Σ(x - scale·(level - zero))².
    sums: [f64; 2],
}

/// The zero of blocks that have none of their own.
const MIDDLE: u8 = 8;

impl Block {
    /// Searches the clipping range; for given levels the best scale is ⟨x, level - zero⟩ / ⟨level - zero, level - zero⟩.
    fn of(x: &[f32], symmetric: bool) -> Block {
        let (low, high) = x.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
        let range = match symmetric {
            true => low.abs().max(high) * 2.0,
            false => high - low,
        };
        const STEPS: usize = 20;
        let clipped = (0..=STEPS).map(|step| 1.1 - 0.5 * step as f32 / STEPS as f32);
        let candidates = clipped.filter_map(|share| {
            let scale = range * share / 15.0;
            let zero = match symmetric {
                true => MIDDLE,
                false => (-low * share / scale).round_ties_even().clamp(0.0, 15.0) as u8,
            };
            let first = Block::coded(x, f16::from_f32(scale), zero)?;
            Some(Block::coded(x, first.fitted(x), zero).filter(|block| block.sums[1] < first.sums[1]).unwrap_or(first))
        });
        let best = candidates.reduce(|best, other| if other.sums[1] < best.sums[1] { other } else { best });
        best.unwrap_or_else(|| {
            // Zeros, or numbers that are as good as zero in float16.
            let signal = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            Block { levels: vec![MIDDLE; x.len()], scale: f16::ONE, zero: MIDDLE, sums: [signal, signal] }
        })
    }

    /// The nearest levels; none where the scale is no number to divide by.
    fn coded(x: &[f32], scale: f16, zero: u8) -> Option<Block> {
        if scale <= f16::ZERO || !scale.is_finite() {
            return None;
        }
        let (step, shift) = (scale.to_f32(), f32::from(zero));
        let mut sums = [0f64; 2];
        let level = |&x: &f32| {
            let level = ((x / step).round_ties_even() + shift).clamp(0.0, 15.0);
            let error = x - step * (level - shift);
            sums = [sums[0] + f64::from(x * x), sums[1] + f64::from(error * error)];
            level as u8
        };
        let levels = x.iter().map(level).collect();
        Some(Block { levels, scale, zero, sums })
    }

    fn fitted(&self, x: &[f32]) -> f16 {
        let zero = f32::from(self.zero);
        let (xq, qq) = x.iter().zip(&self.levels).fold((0f32, 0f32), |(xq, qq), (&x, &level)| {
            let q = f32::from(level) - zero;
            (xq + x * q, qq + q * q)
        });
        if qq > 0.0 { f16::from_f32(xq / qq) } else { self.scale }
    }
}

/// A matrix in int4 on its way into the graph.
struct Coded {
    value: ValueId,
    dtype: DType,
    shape: [usize; 2],
    axis: usize,
    readers: Vec<NodeId>,
    /// The blocks of each channel of results.
    channels: Vec<Vec<Block>>,
    block_size: usize,
    symmetric: bool,
    sums: [f64; 2],
}

impl Coded {
    /// Elements that stand by channel, in the order of the matrix.
    fn in_order<T: Copy>(&self, of_channel: impl Fn(&[Block]) -> Vec<T>) -> Vec<T> {
        let channels: Vec<Vec<T>> = self.channels.iter().map(|blocks| of_channel(blocks)).collect();
        match self.axis {
            1 => channels.concat(),
            _ => (0..channels[0].len()).flat_map(|index| channels.iter().map(move |channel| channel[index])).collect(),
        }
    }

    fn write_standard(self, model: &mut Model) {
        let (graph, name) = (model.value(self.value).graph, model.value(self.value).name.clone());
        let anchor = match self.readers[..] {
            [reader] if model.node(reader).graph == graph => reader,
            _ => model.nodes_of(graph).next().expect("the graph of a weight has nodes"),
        };
        let blocks = self.channels[0].len();
        let scale_shape = if self.axis == 0 { [blocks, self.channels.len()] } else { [self.channels.len(), blocks] };
        // Signed levels need no zero point where zero is in the middle.
        let sign = if self.symmetric { MIDDLE } else { 0 };
        let levels = self.in_order(|blocks| blocks.iter().flat_map(|block| &block.levels).copied().collect());
        let dtype = if self.symmetric { DType::I4 } else { DType::U4 };
        let pack = |shape: [usize; 2], levels: &[u8]| {
            let packed = packed(levels.iter().map(|level| level.wrapping_sub(sign) & 15));
            Tensor::new(dtype, shape.to_vec(), packed).expect("two levels in a byte")
        };
        let x = model.add_constant(graph, &format!("{name}.{dtype}"), pack(self.shape, &levels));
        let scales = self.in_order(|blocks| blocks.iter().map(|block| block.scale).collect());
        let scales = Tensor::from_vec(scale_shape.to_vec(), scales);
        let scale = match self.dtype {
            DType::F16 => model.add_constant(graph, &format!("{name}.scale"), scales),
            wide => {
                let narrow = model.add_constant(graph, &format!("{name}.scale.float16"), scales);
                let to = i64::from(wide.code());
                let widen = Cast { x: narrow, round_mode: "up".into(), saturate: 1, to };
                model.insert_before(anchor, widen, &format!("{name}.scale"))
            }
        };
        let zero_point = (!self.symmetric).then(|| {
            let zeros = self.in_order(|blocks| blocks.iter().map(|block| block.zero).collect());
            model.add_constant(graph, &format!("{name}.zero_point"), pack(scale_shape, &zeros))
        });
        let (axis, block_size) = (self.axis as i64, self.block_size as i64);
        let dequantize = DequantizeLinear { x, scale, zero_point, axis, block_size, output_dtype: 0 };
        let weight = model.insert_before(anchor, dequantize, &name);
        model.replace_uses(self.value, weight);
        model.remove_constant(self.value);
    }

    fn write_contributed(self, model: &mut Model) {
        let (graph, name) = (model.value(self.value).graph, model.value(self.value).name.clone());
        let (n, blocks) = (self.channels.len(), self.channels[0].len());
        let whole = |block: &Block| {
            let filling = std::iter::repeat_n(block.zero, self.block_size - block.levels.len());
            block.levels.iter().copied().chain(filling).collect::<Vec<_>>()
        };
        let levels = packed(self.channels.iter().flatten().flat_map(whole));
        let levels =
            Tensor::new(DType::U8, vec![n, blocks, self.block_size / 2], levels).expect("two levels in a byte");
        let b = model.add_constant(graph, &format!("{name}.int4"), levels);
        let scales: Vec<f16> = self.channels.iter().flatten().map(|block| block.scale).collect();
        let scales = match self.dtype {
            DType::F16 => Tensor::from_vec(vec![n, blocks], scales),
            _ => Tensor::from_vec(vec![n, blocks], scales.iter().map(|scale| scale.to_f32()).collect::<Vec<f32>>()),
        };
        let scale = model.add_constant(graph, &format!("{name}.scale"), scales);
        let zero_point = (!self.symmetric).then(|| {
            // Each channel begins a byte of its own.
            let padding = std::iter::repeat_n(0, blocks % 2);
            let zeros = |channel: &Vec<Block>| {
                channel.iter().map(|block| block.zero).chain(padding.clone()).collect::<Vec<_>>()
            };
            let zeros = packed(self.channels.iter().flat_map(zeros));
            let zeros = Tensor::new(DType::U8, vec![n, blocks.div_ceil(2)], zeros).expect("two levels in a byte");
            model.add_constant(graph, &format!("{name}.zero_point"), zeros)
        });
        let sizes = [("K", self.shape[self.axis]), ("N", n), ("bits", 4), ("block_size", self.block_size)];
        let attrs: Attrs = sizes.iter().map(|(name, size)| (name.to_string(), Attr::Int(*size as i64))).collect();
        for reader in self.readers {
            let gemm: Option<Gemm> = model.view(reader);
            let a = model.node(reader).inputs[0];
            let inputs = [a, Some(b), Some(scale)].into_iter().chain(zero_point.map(Some)).collect();
            let domain = CONTRIBUTED.0.into();
            let product =
                Operation { domain, op: "MatMulNBits".into(), inputs, attrs: attrs.clone(), ..Operation::default() };
            match gemm.and_then(|gemm| gemm.c) {
                None => drop(model.replace_operation(reader, product)),
                Some(bias) => {
                    let result = model.node(reader).outputs[0].expect("a product has one result");
                    let label = format!("{}.product", model.value(result).name);
                    let product = model.insert_before(reader, product, &label);
                    model.replace_operation(reader, Add { a: product, b: bias });
                }
            }
        }
    }
}

/// Two levels in a byte, the first in the lower half.
pub fn packed(levels: impl Iterator<Item = u8>) -> Bytes {
    let mut bytes = Vec::new();
    for (index, level) in levels.enumerate() {
        match index % 2 {
            0 => bytes.push(level),
            _ => *bytes.last_mut().expect("a first half") |= level << 4,
        }
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(block: &Block) -> Vec<f32> {
        let decode = |&level: &u8| block.scale.to_f32() * (f32::from(level) - f32::from(block.zero));
        block.levels.iter().map(decode).collect()
    }

    #[test]
    fn elements_that_lie_on_levels_are_kept() {
        let signed: Vec<f32> = (-8..8).map(|q| q as f32 * 0.25).collect();
        let unsigned: Vec<f32> = (0..16).map(|q| (q - 3) as f32 * 0.25).collect();
        assert_eq!(decoded(&Block::of(&signed, true)), signed);
        assert_eq!(decoded(&Block::of(&unsigned, false)), unsigned);
    }

    #[test]
    fn zeros_stay_zeros() {
        for symmetric in [true, false] {
            let block = Block::of(&[0.0; 5], symmetric);
            assert_eq!((decoded(&block), block.sums), (vec![0.0; 5], [0.0, 0.0]));
        }
    }

    #[test]
    fn an_odd_last_level_fills_half_a_byte() {
        assert_eq!(packed([1, 2, 15].into_iter()).as_ref(), [0x21, 0x0f]);
    }

    proptest! {
        #[test]
        fn the_error_is_never_above_that_of_the_plain_scale(x in prop::collection::vec(-10f32..10.0, 1..40)) {
            let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
            prop_assume!(largest > 1e-2);
            let plain = Block::coded(&x, f16::from_f32(largest / 7.0), MIDDLE).unwrap();
            // A candidate lies within 1.3 % of every plain scale, so that a little more error is possible.
            prop_assert!(Block::of(&x, true).sums[1] <= plain.sums[1] * 1.1 + 1e-9);
        }

        #[test]
        fn a_zero_point_never_loses_much_against_none(x in prop::collection::vec(0f32..10.0, 4..40)) {
            let (with, without) = (Block::of(&x, false), Block::of(&x, true));
            prop_assert!(with.sums[1] <= without.sums[1] * 1.1 + 1e-9);
        }
    }
}
