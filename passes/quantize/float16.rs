//! Weights and arithmetic in float16, with islands of float32.
//!
//! A node computes in float16 where its operator takes that type, where none of its values leaves the range of float16
//! and no constant of it is lost to rounding (an epsilon of 1e-12 is 0 there). Sums over many elements stay in float32,
//! as runtimes keep them inside LayerNormalization and Softmax. Each value has one type, that of the node that makes it;
//! a Cast stands between islands, once for all readers. Inputs and outputs of every graph keep their types.

use std::collections::{HashMap, HashSet};

use globset::GlobSet;
use half::f16;
use rayon::prelude::*;

use crate::analysis::Shapes;
use crate::data::Dataset;
use crate::ir::op::Cast;
use crate::ir::{Attr, DType, Model, NodeId, Operation, Tensor, Type, TypeKind, Use, Value, ValueDef, ValueId};
use crate::rewrite::{Miss, Outcome};
use crate::runtime::{Runner, RuntimeError};

use super::scope::{ancestor, execution_order};

/// Measured values must leave this much room below the largest number of float16: other inputs may give larger ones.
const HEADROOM: f32 = 2.0;

/// Constants that float16 renders with a lower ratio of signal to noise, in decibels, are not rounded to it: numbers with
/// all their bits have 70 and more.
const LEAST_SQNR: f64 = 50.0;

/// Constants with fewer elements that float32 nodes read are not worth a Cast.
const WORTH_A_CAST: usize = 256;

/// Operators whose float operands and results are of one type that may be float16.
#[rustfmt::skip]
const ALIKE: &[&str] = &[
    "Abs", "Acos", "Acosh", "Add", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "AveragePool",
    "BatchNormalization", "Ceil", "Clip", "Compress", "Concat", "Conv", "ConvTranspose", "Cos", "Cosh", "DepthToSpace",
    "Div", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND",
    "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization",
    "HardSigmoid", "HardSwish", "Hardmax", "Identity", "InstanceNormalization", "LRN", "LayerNormalization", "LeakyRelu",
    "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean", "Min",
    "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow", "RMSNormalization", "Reciprocal", "ReduceMax", "ReduceMin", "Relu",
    "Reshape", "ReverseSequence", "Round", "ScatterElements", "ScatterND", "Selu", "Shape", "Sigmoid", "Sign", "Sin",
    "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum",
    "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
];

/// Operators that also have float operands of a type of their own: which of their operands are of the common type.
const MIXED: &[(&str, &[usize])] = &[("Dropout", &[0]), ("Resize", &[0])];

/// Operators that add up many elements.
#[rustfmt::skip]
const SUMS: &[&str] = &[
    "CumSum", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
];

/// Operators whose results are small whatever they read.
#[rustfmt::skip]
const BOUNDED: &[&str] = &[
    "BatchNormalization", "Cos", "Erf", "HardSigmoid", "Hardmax", "InstanceNormalization", "LayerNormalization", "Sigmoid",
    "Sign", "Sin", "Softmax", "Softsign", "Tanh",
];

/// Operators that only move elements: they follow the type of what is around them.
#[rustfmt::skip]
const LAYOUT: &[&str] = &[
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
];

/// What to convert.
pub struct Settings {
    /// Nodes that stay in float32.
    pub kept: GlobSet,
    /// Whether inputs and outputs of the model stay in float32.
    pub keep_io_types: bool,
}

/// The largest magnitude of each value, where it was measured.
pub type Magnitudes = HashMap<ValueId, f32>;

/// The largest magnitudes that values of the main graph take on `data`.
pub fn measure(model: &Model, shapes: &Shapes, data: &Dataset) -> Result<Magnitudes, RuntimeError> {
    let results = model.nodes_of(model.main).flat_map(|node| model.node(node).outputs.iter().flatten().copied());
    let inputs = model.graph(model.main).inputs.iter().copied();
    let values: Vec<ValueId> = inputs.chain(results).filter(|&value| shapes.dtype(value) == Some(DType::F32)).collect();
    let runner = Runner::with_outputs(model, &values)?;
    let largest = |tensor: &Tensor| {
        let floats = tensor.floats().unwrap_or_default();
        floats.iter().fold(0f32, |max, x| if x.is_nan() { f32::INFINITY } else { max.max(x.abs()) })
    };
    let of_sample = |index: usize| -> Result<Vec<f32>, RuntimeError> {
        Ok(runner.run(&data.sample(index))?.iter().map(largest).collect())
    };
    let none = || Ok(vec![0f32; values.len()]);
    let both = |a: Result<Vec<f32>, RuntimeError>, b: Result<Vec<f32>, RuntimeError>| {
        Ok(a?.into_iter().zip(b?).map(|(a, b)| a.max(b)).collect())
    };
    let all = (0..data.len()).into_par_iter().map(of_sample).reduce(none, both)?;
    Ok(values.into_iter().zip(all).collect())
}

/// Converts `model`. Without `magnitudes` only what constants tell is known to leave the range of float16.
pub fn convert(model: &mut Model, shapes: &Shapes, magnitudes: Option<&Magnitudes>, settings: &Settings) -> Outcome {
    let order = execution_order(model);
    let mut outcome = Outcome::default();
    let narrow = {
        let mut plan = Plan { model, shapes, magnitudes, settings, exceeding: HashSet::new(), narrow: HashSet::new() };
        for &node in &order {
            match plan.decide(node) {
                Ok(true) => {
                    plan.narrow.insert(node);
                }
                Ok(false) => {}
                Err(miss) => {
                    outcome.missed.insert(("float16", node), miss);
                }
            }
        }
        plan.join_islands(&order);
        plan.narrow
    };
    let mut edit = Edit {
        settings,
        is_float32: float32_values(model, shapes),
        narrow,
        wide: HashSet::new(),
        as_float16: HashMap::new(),
        as_float32: HashMap::new(),
        weights: 0,
        casts: 0,
    };
    let nodes = edit.narrow.len();
    edit.inputs(model);
    order.into_iter().for_each(|node| edit.node(model, node));
    edit.outputs(model);
    for (what, times) in [("float16_node", nodes), ("float16_weight", edit.weights), ("cast", edit.casts)] {
        outcome.applied.insert(what, times);
    }
    outcome
}

/// The values that are float32 before the conversion.
fn float32_values(model: &Model, shapes: &Shapes) -> HashSet<ValueId> {
    model.all_values().map(|(id, _)| id).filter(|&id| dtype(model, shapes, id) == Some(DType::F32)).collect()
}

fn dtype(model: &Model, shapes: &Shapes, value: ValueId) -> Option<DType> {
    model.constant(value).map(Tensor::dtype).or_else(|| shapes.dtype(value))
}

/// Which nodes compute in float16.
struct Plan<'m> {
    model: &'m Model,
    shapes: &'m Shapes,
    magnitudes: Option<&'m Magnitudes>,
    settings: &'m Settings,
    /// Values that leave the range of float16, or may do so.
    exceeding: HashSet<ValueId>,
    narrow: HashSet<NodeId>,
}

impl Plan<'_> {
    /// Whether `node` computes in float16; false where it has nothing to do with floats. Nodes are asked in execution order.
    fn decide(&mut self, id: NodeId) -> Result<bool, Miss> {
        let node = self.model.node(id);
        let of_type = |value: &ValueId| dtype(self.model, self.shapes, *value);
        let operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
        let results: Vec<ValueId> = node.outputs.iter().flatten().copied().collect();
        let is_float32 = |value: &ValueId| of_type(value) == Some(DType::F32);
        let floats: Vec<ValueId> = operands.iter().chain(&results).copied().filter(is_float32).collect();
        let (ours, has_bodies) = (common_operands(node), node.bodies().next().is_some());
        let common = |index: usize| ours.is_some_and(|common| common.is_empty() || common.contains(&index));
        let slots = node.inputs.iter().enumerate().filter_map(|(index, value)| Some((index, (*value)?)));
        let common: Vec<ValueId> =
            slots.filter(|(index, value)| common(*index) && is_float32(value)).map(|(_, value)| value).collect();

        // What leaves the range spreads before anything else is asked.
        let lost = common.iter().map(|&value| self.loss(value)).fold(Loss::None, Loss::max);
        let exceeds = |value: &ValueId| self.exceeding.contains(value);
        let spreads = lost == Loss::Range || operands.iter().any(exceeds);
        let measured = |value: &ValueId| self.magnitudes.and_then(|all| all.get(value)).copied();
        let mut beyond = operands.iter().any(exceeds);
        for result in results.iter().filter(|result| is_float32(result)) {
            let leaves = match measured(result) {
                Some(largest) => largest * HEADROOM > f16::MAX.to_f32(),
                None => spreads && !BOUNDED.contains(&node.op.as_str()),
            };
            if leaves {
                self.exceeding.insert(*result);
                beyond = true;
            }
        }
        if floats.is_empty() {
            return Ok(false);
        }

        let miss = |why: &'static str| Err(Miss(why));
        match () {
            () if has_bodies => miss("it holds graphs, which keep the types of their inputs and outputs"),
            () if self.settings.kept.is_match(&node.name) => miss("asked to stay as it is"),
            () if operands.iter().chain(&results).any(|value| of_type(value).is_none()) => {
                miss("the type of an operand or result is not known")
            }
            () if SUMS.contains(&node.op.as_str()) => miss("sums of many elements lose too much in float16"),
            () if ours.is_none() => miss("the operator does not take float16, or only for some operands"),
            () if beyond || lost == Loss::Range => miss("a value leaves the range of float16"),
            () if lost == Loss::Precision => miss("a constant is too small for float16"),
            () => Ok(true),
        }
    }

    fn loss(&self, value: ValueId) -> Loss {
        self.model.constant(value).map_or(Loss::None, Loss::of)
    }

    /// Takes operators that only move elements into an island of float32 if all around them belongs to one.
    fn join_islands(&mut self, order: &[NodeId]) {
        loop {
            let joins = |id: &&NodeId| self.narrow.contains(id) && self.lies_in_island(**id);
            let joining: Vec<NodeId> = order.iter().filter(joins).copied().collect();
            if joining.is_empty() {
                return;
            }
            for id in joining {
                self.narrow.remove(&id);
            }
        }
    }

    fn lies_in_island(&self, id: NodeId) -> bool {
        let node = self.model.node(id);
        let is_float32 = |value: &&ValueId| dtype(self.model, self.shapes, **value) == Some(DType::F32);
        let operands = node.inputs.iter().flatten().filter(is_float32);
        let mut made_wide = operands.map(|&value| match self.model.producer(value) {
            Some(producer) => !self.narrow.contains(&producer),
            None => self.model.constant(value).is_none(),
        });
        let results = node.outputs.iter().flatten().filter(is_float32);
        let mut read_wide = results.flat_map(|&value| &self.model.value(value).uses).map(|place| match place {
            Use::Node(reader, _) => !self.narrow.contains(reader),
            Use::Output(..) => true,
        });
        LAYOUT.contains(&node.op.as_str()) && made_wide.all(|wide| wide) && read_wide.all(|wide| wide)
    }
}

/// Which operands of the node are of the type that may be float16: none of them named means all. None where it has no
/// such type.
fn common_operands(node: &crate::ir::Node) -> Option<&'static [usize]> {
    let mixed = MIXED.iter().find(|(op, _)| *op == node.op).map(|(_, common)| *common);
    let alike = ALIKE.contains(&node.op.as_str()) || is_cast_to_float32(node);
    let known = mixed.or(alike.then_some(&[]));
    known.filter(|_| node.domain.is_empty())
}

fn is_cast_to_float32(node: &crate::ir::Node) -> bool {
    node.op == "Cast" && node.attrs.get("to") == Some(&Attr::Int(i64::from(DType::F32.code())))
}

/// What a constant loses in float16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    None,
    Precision,
    Range,
}

impl Loss {
    fn of(tensor: &Tensor) -> Loss {
        let floats = tensor.floats().unwrap_or_default();
        let (mut signal, mut noise) = (0f64, 0f64);
        for &x in floats.iter().filter(|x| x.is_finite()) {
            let rounded = f16::from_f32(x);
            if rounded.is_infinite() {
                return Loss::Range;
            }
            let error = f64::from(x) - f64::from(rounded.to_f32());
            (signal, noise) = (signal + f64::from(x) * f64::from(x), noise + error * error);
        }
        match noise > 0.0 && 10.0 * (signal / noise).log10() < LEAST_SQNR {
            true => Loss::Precision,
            false => Loss::None,
        }
    }
}

/// The conversion of a model, node by node in execution order.
struct Edit<'s> {
    settings: &'s Settings,
    is_float32: HashSet<ValueId>,
    narrow: HashSet<NodeId>,
    /// Values of the old float32 that stay so because their node, or what calls the graph, wants it.
    wide: HashSet<ValueId>,
    /// The float16 form of values that are float32, and the other way round.
    as_float16: HashMap<ValueId, ValueId>,
    as_float32: HashMap<ValueId, ValueId>,
    weights: usize,
    casts: usize,
}

impl Edit<'_> {
    fn inputs(&mut self, model: &mut Model) {
        for graph in model.all_graphs().collect::<Vec<_>>() {
            for input in model.graph(graph).inputs.clone() {
                let has_default = matches!(model.value(input).def, ValueDef::Input { default: Some(_) });
                if self.is_float32.contains(&input) {
                    match graph == model.main && !self.settings.keep_io_types && !has_default {
                        true => narrow_type(model, input),
                        false => {
                            self.wide.insert(input);
                        }
                    }
                }
            }
        }
    }

    fn node(&mut self, model: &mut Model, id: NodeId) {
        let narrow = self.narrow.contains(&id);
        let common = common_operands(model.node(id)).unwrap_or_default();
        for index in 0..model.node(id).inputs.len() {
            let Some(value) = model.node(id).inputs[index].filter(|value| self.is_float32.contains(value)) else {
                continue;
            };
            let wanted = match narrow && (common.is_empty() || common.contains(&index)) {
                true => self.float16(model, value, id),
                false => self.float32(model, value, id),
            };
            if wanted != value {
                model.set_input(id, index, Some(wanted));
            }
        }
        let results: Vec<ValueId> = model.node(id).outputs.iter().flatten().copied().collect();
        let floats = results.iter().copied().filter(|result| self.is_float32.contains(result));
        if !narrow {
            self.wide.extend(floats);
            return;
        }
        let floats: Vec<ValueId> = floats.collect();
        let id = if is_cast_to_float32(model.node(id)) { cast_to_float16(model, id) } else { id };
        match floats.iter().any(|&value| self.is_kept_output(model, value)) {
            true => self.split_outputs(model, id),
            false => floats.into_iter().for_each(|value| narrow_type(model, value)),
        }
    }

    fn is_kept_output(&self, model: &Model, value: ValueId) -> bool {
        model.value(value).uses.iter().any(|place| match *place {
            Use::Output(graph, _) => graph != model.main || self.settings.keep_io_types,
            Use::Node(..) => false,
        })
    }

    /// Lets `node` compute in float16 beside its results, which become Casts of what it computes.
    fn split_outputs(&mut self, model: &mut Model, node: NodeId) {
        let operation = model.node(node).with_operands(&[]);
        let results = model.node(node).outputs.clone();
        let first = results.iter().flatten().next().expect("it has a result that is an output");
        let (label, name) = (model.node(node).name.clone(), format!("{}.float16", model.value(*first).name));
        let computed = model.insert_many_before(node, operation, &name, results.len());
        let made = computed.first().and_then(|&value| model.producer(value)).expect("just made");
        let mut casts = Vec::new();
        for (&result, &new) in results.iter().zip(&computed) {
            let Some(result) = result else { continue };
            if self.is_float32.contains(&result) {
                casts.push((result, new));
                self.as_float16.insert(result, new);
                self.wide.insert(result);
            } else {
                model.replace_uses(result, new);
            }
        }
        for (result, new) in casts {
            model.redefine(result, cast(new, DType::F32));
            let made = model.producer(result).expect("just made");
            model.rename_node(made, &format!("{}.float32", model.value(result).name));
            self.casts += 1;
        }
        model.rename_node(made, &label);
    }

    /// What a float16 node reads for `value`.
    fn float16(&mut self, model: &mut Model, value: ValueId, reader: NodeId) -> ValueId {
        if let Some(&known) = self.as_float16.get(&value) {
            return known;
        }
        if let Some(tensor) = model.constant(value) {
            let narrow = to_float16(tensor);
            let (graph, name) = (model.value(value).graph, model.value(value).name.clone());
            let narrow = model.add_constant(graph, &name, narrow);
            self.weights += 1;
            self.as_float16.insert(value, narrow);
            return narrow;
        }
        if !self.wide.contains(&value) {
            return value;
        }
        self.cast(model, value, reader, DType::F16)
    }

    /// What a float32 node reads for `value`.
    fn float32(&mut self, model: &mut Model, value: ValueId, reader: NodeId) -> ValueId {
        if let Some(&known) = self.as_float32.get(&value) {
            return known;
        }
        if let Some(tensor) = model.constant(value) {
            let exact = self.settings.kept.is_match(&model.node(reader).name);
            let worth = tensor.len() >= WORTH_A_CAST && !model.is_output(value) && Loss::of(tensor) == Loss::None;
            if exact || !worth {
                return value;
            }
            let narrow = self.float16(model, value, reader);
            return self.cast_from(model, value, narrow, reader, DType::F32);
        }
        if self.wide.contains(&value) || matches!(model.value(value).def, ValueDef::Sparse(_)) {
            return value;
        }
        self.cast(model, value, reader, DType::F32)
    }

    fn cast(&mut self, model: &mut Model, value: ValueId, reader: NodeId, to: DType) -> ValueId {
        self.cast_from(model, value, value, reader, to)
    }

    /// A Cast of `source`, which stands for `value`, where `reader` and all later readers see it.
    fn cast_from(&mut self, model: &mut Model, value: ValueId, source: ValueId, reader: NodeId, to: DType) -> ValueId {
        let anchor = ancestor(model, reader, model.value(value).graph);
        let suffix = if to == DType::F16 { "float16" } else { "float32" };
        let name = format!("{}.{suffix}", model.value(value).name);
        let made = model.insert_before(anchor, cast(source, to), &name);
        self.casts += 1;
        let known = if to == DType::F16 { &mut self.as_float16 } else { &mut self.as_float32 };
        known.insert(value, made);
        made
    }

    /// Outputs that no node of theirs keeps in float32.
    fn outputs(&mut self, model: &mut Model) {
        if self.settings.keep_io_types {
            return;
        }
        for output in model.graph(model.main).outputs.clone() {
            let made_narrow = model.producer(output).is_some() && !self.wide.contains(&output);
            if self.is_float32.contains(&output) && made_narrow {
                narrow_type(model, output);
            }
        }
    }
}

fn cast(x: ValueId, to: DType) -> Cast {
    Cast { x, round_mode: "up".into(), saturate: 1, to: i64::from(to.code()) }
}

fn cast_to_float16(model: &mut Model, node: NodeId) -> NodeId {
    let mut operation: Operation = model.node(node).with_operands(&[]);
    operation.attrs.insert("to".into(), Attr::Int(i64::from(DType::F16.code())));
    model.replace_operation(node, operation)
}

fn to_float16(tensor: &Tensor) -> Tensor {
    let floats = tensor.floats().expect("it is a float tensor");
    Tensor::from_vec(tensor.shape().to_vec(), floats.iter().map(|&x| f16::from_f32(x)).collect())
}

/// Lets the declared type of `value` say float16.
fn narrow_type(model: &mut Model, value: ValueId) {
    let Value { ty: Some(ty), .. } = model.value(value) else { return };
    let mut ty: Type = ty.clone();
    if let TypeKind::Tensor(tensor) = &mut ty.kind {
        tensor.dtype = Some(DType::F16);
    }
    model.set_type(value, Some(ty));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_tell_what_they_lose() {
        let loss = |x: &[f32]| Loss::of(&Tensor::from_vec(vec![x.len()], x.to_vec()));
        assert!(loss(&[0.1, -3.7, 65504.0, f32::INFINITY, 0.0]) == Loss::None);
        assert!(loss(&[1e-12]) == Loss::Precision);
        assert!(loss(&[0.0]) == Loss::None);
        assert!(loss(&[0.5, 1e-12]) == Loss::None);
        assert!(loss(&[1.0, 70000.0]) == Loss::Range);
    }
}
