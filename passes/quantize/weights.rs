//! Weights in int8: `weight` becomes `Mul(Cast(levels), scale)`, an embedding is looked up before it is scaled.
//!
//! Cast and Mul of constants are folded by ONNX Runtime and by tract when they load the model, so that the file is small
//! and the layer runs on the very float weights. Scales are float16 where they are normal numbers there,
//! if need be as multiples of a power of two. DequantizeLinear is not: ONNX Runtime keeps it for its integer kernels
//! and runs it on every call where there is none: 2.3 times slower on EfficientNet-Lite0, 1.5 times on MiniLM (Cast and
//! Mul: as fast as the original). tract folds results up to 4 MiB, so larger weights are decoded in pieces and joined.

use std::collections::HashMap;
use std::ops::Range;

use half::{bf16, f16};
use ndarray::ArrayD;

use crate::ir::op::{Cast, Concat, DequantizeLinear, Gather, Gemm, Mul};
use crate::ir::{DType, GraphId, Model, NodeId, Tensor, Use, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

use super::Limits;
use super::channel::PerChannel;
use super::scale::{LEVELS, least_squares_scales};

/// What the two nodes, their names and the scale's header take in a file, roughly.
const OVERHEAD_BYTES: usize = 250;

/// What a node takes that widens float16 scales, and one that multiplies them by their unit.
const NODE_BYTES: usize = 120;

/// The constants that scales are multiples of, each once.
type Units = HashMap<(GraphId, DType, u32), ValueId>;

/// The elements of a piece whose float form tract still folds: 4 MiB of them.
const PIECE_ELEMENTS: usize = 1 << 20;

/// Quantizes every weight that only layers read; shared weights once. Also returns the weight that lost most, and its
/// ratio of signal to noise in decibels.
pub fn quantize(model: &mut Model, limits: &Limits) -> (Outcome, Option<(String, f64)>) {
    let (mut outcome, mut units) = (Outcome::default(), Units::new());
    let constants: Vec<ValueId> =
        model.all_graphs().flat_map(|graph| model.initializers_of(graph)).filter(|&v| is_weight(model, v)).collect();
    let mut worst: Option<(String, f64)> = None;
    for value in constants {
        let (reader, name) = (first_reader(model, value), model.value(value).name.clone());
        let stored =
            Weight::read(model, value, limits).and_then(|weight| weight.store(model, &mut units, limits.dequantizes));
        match stored {
            Ok(sqnr) => {
                *outcome.applied.entry("int8_weight").or_default() += 1;
                if worst.as_ref().is_none_or(|(_, lowest)| sqnr < *lowest) {
                    worst = Some((name, sqnr));
                }
            }
            Err(miss) => drop(reader.and_then(|reader| outcome.missed.insert(("int8_weight", reader), miss))),
        }
    }
    (outcome, worst)
}

/// Whether any reader is a layer: other constants are not worth a word in the report.
fn is_weight(model: &Model, value: ValueId) -> bool {
    model.constant(value).is_some_and(|tensor| tensor.dtype().is_float() && tensor.rank() >= 2)
        && readers(model, value).any(|(node, index)| channel_axis(model, node, index).is_some())
}

pub fn readers(model: &Model, value: ValueId) -> impl Iterator<Item = (NodeId, usize)> {
    model.value(value).uses.iter().filter_map(|place| match *place {
        Use::Node(node, index) => Some((node, index)),
        Use::Output(..) => None,
    })
}

fn first_reader(model: &Model, value: ValueId) -> Option<NodeId> {
    readers(model, value).next().map(|(node, _)| node)
}

/// The axis of the output channels in operand `index` of a layer; that of the columns in an embedding table.
fn channel_axis(model: &Model, node: NodeId, index: usize) -> Option<usize> {
    let rank = model.constant(model.node(node).inputs[index]?)?.rank();
    let op = model.node(node).op.as_str();
    match (op, index) {
        ("Conv", 1) => Some(0),
        ("ConvTranspose", 1) => Some(1),
        ("MatMul", 1) => Some(rank - 1),
        ("MatMul", 0) => Some(rank - 2),
        ("Gemm", 1) => Some(if model.view::<Gemm>(node)?.transB { 0 } else { 1 }),
        ("Gemm", 0) => Some(if model.view::<Gemm>(node)?.transA { 1 } else { 0 }),
        ("Gather", 0) => (rank == 2 && model.view::<Gather>(node)?.axis == 0).then_some(1),
        // Positions and the like that are added to a value, with a scale for each column.
        ("Add", index) if rank >= 2 => {
            let other = model.node(node).inputs[1 - index]?;
            model.constant(other).is_none().then_some(rank - 1)
        }
        // A table that is tied to the last layer is transposed there.
        ("Transpose", 0) if rank == 2 => {
            let transposed = model.node(node).outputs[0]?;
            let axis = |(node, index)| match (model.node(node).op.as_str(), index) {
                ("MatMul", 1) => Some(0),
                ("MatMul", 0) => Some(1),
                _ => None,
            };
            let mut axes = readers(model, transposed).map(axis);
            let first = axes.next()??;
            (!model.is_output(transposed) && axes.all(|axis| axis == Some(first))).then_some(first)
        }
        _ => None,
    }
}

/// A weight that can be stored as int8.
struct Weight {
    value: ValueId,
    axis: usize,
    levels: Vec<i8>,
    scales: Scales,
    /// Signal over quantization noise, in decibels.
    sqnr: f64,
}

/// Scales as they are stored: the numbers, which are of type `dtype`, times the unit. The weight is computed in the type
/// `arithmetic`.
struct Scales {
    numbers: Vec<f32>,
    dtype: DType,
    unit: f32,
    arithmetic: DType,
}

impl Scales {
    /// Rounds `scales` of a weight of type `weight` to float16 where all are normal numbers there and that saves bytes.
    fn stored(scales: Vec<f32>, weight: DType) -> Match<Scales> {
        let saved = scales.len() * weight.bits().saturating_sub(DType::F16.bits()) / 8;
        let largest = scales.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        // Multiples up to 2¹⁵ leave room for scales that are 2²⁹ times smaller, as those of dead channels are.
        let unit = (largest.log2().ceil() - 15.0).exp2();
        let narrow = |unit: f32, arithmetic: DType| -> Option<Scales> {
            let rounded = scales.iter().map(|scale| f16::from_f32(scale / unit));
            let numbers = rounded.map(|scale| scale.is_normal().then(|| scale.to_f32())).collect::<Option<_>>()?;
            Some(Scales { numbers, dtype: DType::F16, unit, arithmetic })
        };
        let found = match weight {
            DType::F16 => narrow(1.0, DType::F16).or_else(|| narrow(unit, DType::F32)),
            _ if saved > 2 * NODE_BYTES => narrow(1.0, weight).or_else(|| narrow(unit, weight)),
            _ if saved > NODE_BYTES => narrow(1.0, weight),
            _ => None,
        };
        require!(found.is_some() || weight != DType::F16, "its scales differ too much for float16");
        Ok(found.unwrap_or_else(|| {
            let round = |scale: f32| if weight == DType::Bf16 { bf16::from_f32(scale).to_f32() } else { scale };
            Scales {
                numbers: scales.iter().map(|&scale| round(scale)).collect(),
                dtype: weight,
                unit: 1.0,
                arithmetic: weight,
            }
        }))
    }

    /// What the levels are multiplied by.
    fn factors(&self) -> Vec<f32> {
        self.numbers.iter().map(|number| number * self.unit).collect()
    }

    /// What they take in a file for a weight of type `weight`, with the nodes that widen and scale them.
    fn bytes(&self, weight: DType) -> usize {
        let nodes = [self.dtype != self.arithmetic, self.unit != 1.0, self.arithmetic != weight];
        self.numbers.len() * self.dtype.bits() / 8 + nodes.iter().filter(|&&made| made).count() * NODE_BYTES
    }
}

impl Weight {
    fn read(model: &Model, value: ValueId, limits: &Limits) -> Match<Weight> {
        let tensor = model.constant(value).ok_or(Miss("not a constant"))?;
        require!(tensor.len() >= limits.min_elements, "the weight is small");
        require!(!model.is_output(value), "the weight is also an output of the graph");
        let axes: Vec<_> = readers(model, value).map(|(node, index)| channel_axis(model, node, index)).collect();
        require!(axes.iter().all(Option::is_some), "the weight is also read by a node that is no layer");
        require!(
            !readers(model, value).any(|(n, _)| limits.kept.is_match(&model.node(n).name)),
            "asked to stay as it is"
        );
        // A table that is both looked up and multiplied keeps its columns: only they can be scaled after the lookup.
        let looked_up = readers(model, value).position(|(node, _)| model.node(node).op == "Gather");
        let axis = axes[looked_up.unwrap_or(0)].expect("all are");

        let floats = tensor.floats().ok_or(Miss("not a float tensor"))?;
        require!(floats.iter().all(|x| x.is_finite()), "the weight holds NaN or infinity");
        let weights = PerChannel::new(floats, tensor.shape(), axis);
        let scales = Scales::stored(least_squares_scales(&weights, LEVELS), tensor.dtype())?;
        require!(
            tensor.len() + scales.bytes(tensor.dtype()) + OVERHEAD_BYTES < tensor.byte_len(),
            "it would not be smaller"
        );
        let (levels, [signal, noise]) = weights.quantize(&scales.factors(), LEVELS);
        let sqnr = if noise > 0.0 { 10.0 * (signal / noise).log10() } else { f64::INFINITY };
        require!(sqnr >= limits.min_sqnr, "int8 would lose too much of it: see the option min-sqnr");
        Ok(Weight { value, axis, levels, scales, sqnr })
    }

    /// Returns the weight's ratio of signal to noise. What is looked up may be scaled by DequantizeLinear.
    fn store(self, model: &mut Model, units: &mut Units, dequantizes: bool) -> Match<f64> {
        let tensor = model.constant(self.value).ok_or(Miss("not a constant"))?;
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        let name = model.value(self.value).name.clone();
        let levels = Tensor::from_vec(shape, self.levels);
        let (lookups, products): (Vec<_>, Vec<_>) =
            readers(model, self.value).map(|(node, _)| node).partition(|&node| model.node(node).op == "Gather");

        let graph = model.value(self.value).graph;
        let anchor = place(model, graph, if products.is_empty() { &lookups } else { &products })?;
        let arithmetic = self.scales.arithmetic;
        let coded = Coded { graph, anchor, name, dtype, arithmetic, axis: self.axis, levels };
        if lookups.is_empty() {
            let weight = coded.decode_at_load(model, &self.scales, units)?;
            model.replace_uses(self.value, weight);
            model.remove_constant(self.value);
            return Ok(self.sqnr);
        }
        let table = coded.add_levels(model, &coded.levels, "");
        if dequantizes && products.is_empty() && dtype == DType::F32 {
            let scale = Tensor::from_vec(vec![self.scales.numbers.len()], self.scales.factors());
            let scale = model.add_constant(graph, &format!("{}.scale", coded.name), scale);
            for node in lookups {
                let lookup: Gather = model.view(node).ok_or(Miss("unusual form"))?;
                let result = model.node(node).outputs[0].ok_or(Miss("nothing is read"))?;
                let label = model.value(result).name.clone();
                let x = model.insert_before(node, Gather { data: table, ..lookup }, &format!("{label}.int8"));
                let columns = DequantizeLinear { x, scale, zero_point: None, axis: -1, block_size: 0, output_dtype: 0 };
                model.redefine(result, columns);
            }
            return Ok(self.sqnr);
        }
        let scale = coded.add_scale(model, units, &self.scales, 0..self.scales.numbers.len(), "")?;
        if !products.is_empty() {
            let weight = coded.decode(model, table, scale, "");
            products.into_iter().for_each(|node| reread(model, node, self.value, weight));
        }
        for node in lookups {
            let lookup: Gather = model.view(node).ok_or(Miss("unusual form"))?;
            let result = model.node(node).outputs[0].ok_or(Miss("nothing is read"))?;
            let label = model.value(result).name.clone();
            let rows = model.insert_before(node, Gather { data: table, ..lookup }, &format!("{label}.int8"));
            let floats = model.insert_before(node, cast(rows, arithmetic), &format!("{label}.float"));
            if arithmetic == dtype {
                model.redefine(result, Mul { a: floats, b: scale });
            } else {
                let wide = model.insert_before(node, Mul { a: floats, b: scale }, &format!("{label}.wide"));
                model.redefine(result, cast(wide, dtype));
            }
        }
        Ok(self.sqnr)
    }
}

/// Lets `node` read `new` wherever it reads `old`.
fn reread(model: &mut Model, node: NodeId, old: ValueId, new: ValueId) {
    for index in 0..model.node(node).inputs.len() {
        if model.node(node).inputs[index] == Some(old) {
            model.set_input(node, index, Some(new));
        }
    }
}

fn cast(x: ValueId, to: DType) -> Cast {
    Cast { x, round_mode: "up".into(), saturate: 1, to: i64::from(to.code()) }
}

/// Where a constant of `graph` is decoded: at its only reader, or where all of them see it.
fn place(model: &Model, graph: GraphId, readers: &[NodeId]) -> Match<NodeId> {
    match *readers {
        [reader] if model.node(reader).graph == graph => Ok(reader),
        _ => model.nodes_of(graph).next().ok_or(Miss("its graph has no nodes")),
    }
}

/// A quantized weight on its way into the graph, before the node `anchor`.
struct Coded {
    graph: GraphId,
    anchor: NodeId,
    name: String,
    dtype: DType,
    arithmetic: DType,
    axis: usize,
    levels: Tensor,
}

impl Coded {
    /// Nodes that compute the float weight from constants alone, in pieces that every runtime folds.
    fn decode_at_load(&self, model: &mut Model, scales: &Scales, units: &mut Units) -> Match<ValueId> {
        let channels = 0..scales.numbers.len();
        let rows = self.levels.shape()[0];
        let row = self.levels.len() / rows.max(1);
        let rows_each = (PIECE_ELEMENTS / row.max(1)).clamp(1, rows);
        if rows_each == rows {
            let levels = self.add_levels(model, &self.levels, "");
            let scale = self.add_scale(model, units, scales, channels.clone(), "")?;
            return Ok(self.decode(model, levels, scale, ""));
        }
        let bytes = self.levels.bytes().expect("levels are bytes");
        let common_scale =
            if self.axis == 0 { None } else { Some(self.add_scale(model, units, scales, channels.clone(), "")?) };
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(rows_each) {
            let end = rows.min(first + rows_each);
            let suffix = format!(".{}", pieces.len());
            let shape = [&[end - first], &self.levels.shape()[1..]].concat();
            let levels = Tensor::new(DType::I8, shape, bytes.slice(first * row..end * row)).expect("whole rows");
            let levels = self.add_levels(model, &levels, &suffix);
            let scale = match common_scale {
                Some(scale) => scale,
                None => self.add_scale(model, units, scales, first..end, &suffix)?,
            };
            pieces.push(self.decode(model, levels, scale, &suffix));
        }
        Ok(model.insert_before(self.anchor, Concat { xs: pieces, axis: 0 }, &self.name))
    }

    fn add_levels(&self, model: &mut Model, levels: &Tensor, suffix: &str) -> ValueId {
        model.add_constant(self.graph, &format!("{}.int8{suffix}", self.name), levels.clone())
    }

    /// Scales of some channels, in the type of the arithmetic and the shape that broadcasts against the channels' axis and those
    /// behind it.
    fn add_scale(
        &self,
        model: &mut Model,
        units: &mut Units,
        scales: &Scales,
        channels: Range<usize>,
        suffix: &str,
    ) -> Match<ValueId> {
        let mut shape = vec![1; self.levels.rank() - self.axis];
        shape[0] = channels.len();
        let numbers =
            ArrayD::from_shape_vec(shape, scales.numbers[channels].to_vec()).expect("a scale for each channel");
        let stored = Tensor::from_floats(numbers, scales.dtype).ok_or(Miss("not a float tensor"))?;
        let name = format!("{}.scale{suffix}", self.name);
        if scales.dtype == self.arithmetic {
            return Ok(model.add_constant(self.graph, &name, stored));
        }
        let stored = model.add_constant(self.graph, &format!("{name}.{}", scales.dtype), stored);
        if scales.unit == 1.0 {
            return Ok(model.insert_before(self.anchor, cast(stored, self.arithmetic), &name));
        }
        let multiples = model.insert_before(self.anchor, cast(stored, self.arithmetic), &format!("{name}.multiples"));
        let tensor = Tensor::from_floats(ArrayD::from_elem(vec![], scales.unit), self.arithmetic);
        let tensor = tensor.ok_or(Miss("not a float tensor"))?;
        let unit = units.entry((self.graph, self.arithmetic, scales.unit.to_bits()));
        let unit = *unit.or_insert_with(|| model.add_constant(self.graph, "scale_unit", tensor));
        Ok(model.insert_before(self.anchor, Mul { a: multiples, b: unit }, &name))
    }

    fn decode(&self, model: &mut Model, levels: ValueId, scale: ValueId, suffix: &str) -> ValueId {
        let name = format!("{}{suffix}", self.name);
        let floats = cast(levels, self.arithmetic);
        let floats = model.insert_before(self.anchor, floats, &format!("{}.float{suffix}", self.name));
        if self.arithmetic == self.dtype {
            return model.insert_before(self.anchor, Mul { a: floats, b: scale }, &name);
        }
        let wide = format!("{}.wide{suffix}", self.name);
        let wide = model.insert_before(self.anchor, Mul { a: floats, b: scale }, &wide);
        model.insert_before(self.anchor, cast(wide, self.dtype), &name)
    }
}
