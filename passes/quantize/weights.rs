//! Weights in int8: `weight` becomes `Mul(Cast(levels), scale)`, an embedding is looked up before it is scaled.
//!
//! Cast and Mul of constants are folded by ONNX Runtime and by tract when they load the model, so that the file is small
//! and the layer runs on the very float weights. DequantizeLinear is not: ONNX Runtime keeps it for its integer kernels
//! and runs it on every call where there is none, two to three times slower on convolutions.

use globset::GlobSet;

use crate::ir::op::{Cast, Gather, Gemm, Mul};
use crate::ir::{DType, Model, NodeId, Tensor, Use, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

use super::channel::PerChannel;
use super::scale::least_squares_scales;

/// What the two nodes, their names and the scale's header take in a file, roughly.
const OVERHEAD_BYTES: usize = 250;

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
        let Weight { value, axis, levels, scales } = self;
        let (graph, name) = (model.value(value).graph, model.value(value).name.clone());
        let anchor = model.nodes_of(graph).next().ok_or(Miss("its graph has no nodes"))?;
        let tensor = model.constant(value).ok_or(Miss("not a constant"))?;
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        // The scale broadcasts against the axes behind the channels'.
        let scale_shape: Vec<usize> = (axis..shape.len()).map(|a| if a == axis { shape[a] } else { 1 }).collect();
        let scales = ndarray::ArrayD::from_shape_vec(scale_shape, scales).expect("a scale for each channel");

        let levels = model.add_constant(graph, &format!("{name}.int8"), Tensor::from_vec(shape, levels));
        let scales = Tensor::from_floats(scales, dtype).ok_or(Miss("not a float tensor"))?;
        let scales = model.add_constant(graph, &format!("{name}.scale"), scales);
        let to = i64::from(dtype.code());
        let cast = |x| Cast { x, round_mode: "up".into(), saturate: 1, to };

        let (lookups, products): (Vec<_>, Vec<_>) =
            readers(model, value).map(|(node, _)| node).partition(|&node| model.node(node).op == "Gather");
        for node in lookups {
            let lookup: Gather = model.view(node).ok_or(Miss("unusual form"))?;
            let result = model.node(node).outputs[0].ok_or(Miss("nothing is read"))?;
            let label = model.node(node).name.clone();
            let rows = model.insert_before(node, Gather { data: levels, ..lookup }, &label);
            let floats = model.insert_before(node, cast(rows), &format!("{label}.float"));
            model.redefine(result, Mul { a: floats, b: scales });
        }
        if !products.is_empty() {
            let floats = model.insert_before(anchor, cast(levels), &format!("{name}.float"));
            let weight = model.insert_before(anchor, Mul { a: floats, b: scales }, &name);
            model.replace_uses(value, weight);
            model.remove_constant(value);
        }
        Ok(())
    }
}
