//! Weights in int8: `weight` becomes `Mul(Cast(levels), scale)`, an embedding is looked up before it is scaled.
//!
//! Cast and Mul of constants are folded by ONNX Runtime and by tract when they load the model, so that the file is small
//! and the layer runs on the very float weights. DequantizeLinear is not: ONNX Runtime keeps it for its integer kernels
//! and runs it on every call where there is none: 2.3 times slower on EfficientNet-Lite0, 1.5 times on MiniLM (Cast and
//! Mul: as fast as the original). tract folds results up to 4 MiB, so larger weights are decoded in pieces and joined.

use globset::GlobSet;
use ndarray::ArrayD;

use crate::ir::op::{Cast, Concat, Gather, Gemm, Mul};
use crate::ir::{DType, GraphId, Model, NodeId, Tensor, Use, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

use super::channel::PerChannel;
use super::scale::least_squares_scales;

/// What the two nodes, their names and the scale's header take in a file, roughly.
const OVERHEAD_BYTES: usize = 250;

/// The elements of a piece whose float form tract still folds: 4 MiB of them.
const PIECE_ELEMENTS: usize = 1 << 20;

/// Quantizes every weight that only layers read; shared weights once.
pub fn quantize(model: &mut Model, kept: &GlobSet, min_elements: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let constants: Vec<ValueId> =
        model.all_graphs().flat_map(|graph| model.initializers_of(graph)).filter(|&v| is_weight(model, v)).collect();
    for value in constants {
        let reader = first_reader(model, value);
        match Weight::read(model, value, kept, min_elements).and_then(|weight| weight.store(model)) {
            Ok(()) => *outcome.applied.entry("int8_weight").or_default() += 1,
            Err(miss) => drop(reader.and_then(|reader| outcome.missed.insert(("int8_weight", reader), miss))),
        }
    }
    outcome
}

/// Whether any reader is a layer: other constants are not worth a word in the report.
fn is_weight(model: &Model, value: ValueId) -> bool {
    model.constant(value).is_some_and(|tensor| tensor.dtype().is_float() && tensor.rank() >= 2)
        && readers(model, value).any(|(node, index)| channel_axis(model, node, index).is_some())
}

fn readers(model: &Model, value: ValueId) -> impl Iterator<Item = (NodeId, usize)> {
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
    scales: Vec<f32>,
}

impl Weight {
    fn read(model: &Model, value: ValueId, kept: &GlobSet, min_elements: usize) -> Match<Weight> {
        let tensor = model.constant(value).ok_or(Miss("not a constant"))?;
        require!(tensor.len() >= min_elements, "the weight is small");
        require!(!model.is_output(value), "the weight is also an output of the graph");
        let axes: Vec<_> = readers(model, value).map(|(node, index)| channel_axis(model, node, index)).collect();
        require!(axes.iter().all(Option::is_some), "the weight is also read by a node that is no layer");
        require!(!readers(model, value).any(|(n, _)| kept.is_match(&model.node(n).name)), "asked to stay as it is");
        // A table that is both looked up and multiplied keeps its columns: only they can be scaled after the lookup.
        let looked_up = readers(model, value).position(|(node, _)| model.node(node).op == "Gather");
        let axis = axes[looked_up.unwrap_or(0)].expect("all are");

        let scale_bytes = tensor.shape()[axis] * tensor.dtype().bits() / 8;
        require!(tensor.len() + scale_bytes + OVERHEAD_BYTES < tensor.byte_len(), "it would not be smaller");
        let floats = tensor.floats().ok_or(Miss("not a float tensor"))?;
        require!(floats.iter().all(|x| x.is_finite()), "the weight holds NaN or infinity");
        let weights = PerChannel::new(floats, tensor.shape(), axis);
        let scales = least_squares_scales(&weights);
        let smallest = scales.iter().copied().fold(f32::INFINITY, f32::min);
        let narrow = tensor.dtype() == DType::F16;
        require!(!narrow || smallest >= half::f16::MIN_POSITIVE.to_f32(), "its scales are too small for float16");
        let (levels, _) = weights.quantize(&scales);
        Ok(Weight { value, axis, levels, scales })
    }

    fn store(self, model: &mut Model) -> Match<()> {
        let tensor = model.constant(self.value).ok_or(Miss("not a constant"))?;
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        let name = model.value(self.value).name.clone();
        let levels = Tensor::from_vec(shape, self.levels);
        let (lookups, products): (Vec<_>, Vec<_>) =
            readers(model, self.value).map(|(node, _)| node).partition(|&node| model.node(node).op == "Gather");

        let coded = Coded { graph: model.value(self.value).graph, name, dtype, axis: self.axis, levels };
        if lookups.is_empty() {
            let weight = coded.decode_at_load(model, coded.place(model, &products)?, &self.scales)?;
            model.replace_uses(self.value, weight);
            model.remove_constant(self.value);
            return Ok(());
        }
        let (table, scale) = (coded.add_levels(model, &coded.levels, ""), coded.add_scale(model, &self.scales, "")?);
        if !products.is_empty() {
            let anchor = coded.place(model, &products)?;
            let weight = coded.decode_before(model, anchor, table, scale, "");
            products.into_iter().for_each(|node| reread(model, node, self.value, weight));
        }
        for node in lookups {
            let lookup: Gather = model.view(node).ok_or(Miss("unusual form"))?;
            let result = model.node(node).outputs[0].ok_or(Miss("nothing is read"))?;
            let label = model.value(result).name.clone();
            let rows = model.insert_before(node, Gather { data: table, ..lookup }, &format!("{label}.int8"));
            let floats = model.insert_before(node, cast(rows, dtype), &format!("{label}.float"));
            model.redefine(result, Mul { a: floats, b: scale });
        }
        Ok(())
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

/// A quantized weight on its way into the graph.
struct Coded {
    graph: GraphId,
    name: String,
    dtype: DType,
    axis: usize,
    levels: Tensor,
}

impl Coded {
    /// Where the weight is decoded: at its only reader, or where all of them see it.
    fn place(&self, model: &Model, readers: &[NodeId]) -> Match<NodeId> {
        match *readers {
            [reader] if model.node(reader).graph == self.graph => Ok(reader),
            _ => model.nodes_of(self.graph).next().ok_or(Miss("its graph has no nodes")),
        }
    }

    /// Nodes that compute the float weight from constants alone, in pieces that every runtime folds.
    fn decode_at_load(&self, model: &mut Model, anchor: NodeId, scales: &[f32]) -> Match<ValueId> {
        let rows = self.levels.shape()[0];
        let row = self.levels.len() / rows.max(1);
        let rows_each = (PIECE_ELEMENTS / row.max(1)).clamp(1, rows);
        if rows_each == rows {
            let (levels, scale) = (self.add_levels(model, &self.levels, ""), self.add_scale(model, scales, "")?);
            return Ok(self.decode_before(model, anchor, levels, scale, ""));
        }
        let bytes = self.levels.bytes().expect("levels are bytes");
        let common_scale = if self.axis == 0 { None } else { Some(self.add_scale(model, scales, "")?) };
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(rows_each) {
            let end = rows.min(first + rows_each);
            let suffix = format!(".{}", pieces.len());
            let shape = [&[end - first], &self.levels.shape()[1..]].concat();
            let levels = Tensor::new(DType::I8, shape, bytes.slice(first * row..end * row)).expect("whole rows");
            let levels = self.add_levels(model, &levels, &suffix);
            let scale = match common_scale {
                Some(scale) => scale,
                None => self.add_scale(model, &scales[first..end], &suffix)?,
            };
            pieces.push(self.decode_before(model, anchor, levels, scale, &suffix));
        }
        Ok(model.insert_before(anchor, Concat { xs: pieces, axis: 0 }, &self.name))
    }

    fn add_levels(&self, model: &mut Model, levels: &Tensor, suffix: &str) -> ValueId {
        model.add_constant(self.graph, &format!("{}.int8{suffix}", self.name), levels.clone())
    }

    /// Scales in the shape that broadcasts against the channels' axis and those behind it.
    fn add_scale(&self, model: &mut Model, scales: &[f32], suffix: &str) -> Match<ValueId> {
        let mut shape = vec![1; self.levels.rank() - self.axis];
        shape[0] = scales.len();
        let scales = ArrayD::from_shape_vec(shape, scales.to_vec()).expect("a scale for each channel");
        let scales = Tensor::from_floats(scales, self.dtype).ok_or(Miss("not a float tensor"))?;
        Ok(model.add_constant(self.graph, &format!("{}.scale{suffix}", self.name), scales))
    }

    fn decode_before(
        &self,
        model: &mut Model,
        anchor: NodeId,
        levels: ValueId,
        scale: ValueId,
        suffix: &str,
    ) -> ValueId {
        let floats = model.insert_before(anchor, cast(levels, self.dtype), &format!("{}.float{suffix}", self.name));
        model.insert_before(anchor, Mul { a: floats, b: scale }, &format!("{}{suffix}", self.name))
    }
}
