//! Where the time of a run goes, node by node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use tract_onnx::prelude::{DatumType, TValue, TVec, TractResult, TypedRunnableModel};
use tract_onnx::tract_core::plan::eval;

use super::int8::operators::PREFIX;

/// The time that one node took in one run.
#[derive(Clone, Debug)]
pub struct NodeTime {
    /// Tells nodes of one name apart, and is the same in every run.
    pub id: String,
    /// The name of the node, or else of its first result.
    pub name: String,
    pub op: String,
    pub time: Duration,
    /// Whether any part of it computed with 8-bit integers.
    pub int8: bool,
    /// Whether any part of it ran in an operator of ours, and not in tract's.
    pub ours: bool,
}

/// How a node of the model is called, by the id that begins its name in tract.
pub(super) type Labels = HashMap<String, Label>;

pub(super) struct Label {
    pub name: String,
    pub op: String,
}

/// Operators that read 8-bit integers only to turn them into floats.
const CONVERSIONS: &[&str] = &["Cast", "DequantizeLinearF32", "OnnxshrinkDequantize", "OnnxshrinkDequantizeLinear"];

/// Operators that read floats and compute with 8-bit integers.
const QUANTIZING: &[&str] = &["OnnxshrinkDynamicConv", "OnnxshrinkDynamicMatMul"];

/// Runs `plan` node by node. What tract made of one node of the model counts as that node; what it made up itself, and
/// what it fused across nodes, counts where its name says.
pub(super) fn run(
    plan: &Arc<TypedRunnableModel>,
    inputs: TVec<TValue>,
    labels: &Labels,
) -> TractResult<(TVec<TValue>, Vec<NodeTime>)> {
    let mut times: IndexMap<String, NodeTime> = IndexMap::new();
    let mut state = plan.spawn()?;
    let outputs = state.run_plan_with_eval(inputs, |context, state, node, operands| {
        let int8 = is_int8(&node.op.name(), operands.first().map(|x| x.datum_type()));
        let is_work = !operands.is_empty() && !node.inputs.is_empty();
        let start = Instant::now();
        let results = eval(context, state, node, operands);
        let time = start.elapsed();
        if is_work {
            let entry = match times.get_mut(id(&node.name)) {
                Some(entry) => entry,
                None => {
                    let id = id(&node.name).to_string();
                    let (name, op) = match labels.get(&id) {
                        Some(label) => (label.name.clone(), label.op.clone()),
                        None => (node.name.clone(), node.op.name().to_string()),
                    };
                    let entry = NodeTime { id: id.clone(), name, op, time: Duration::ZERO, int8: false, ours: false };
                    times.entry(id).or_insert(entry)
                }
            };
            entry.time += time;
            entry.int8 |= int8;
            entry.ours |= node.op.name().starts_with(PREFIX);
        }
        results
    })?;
    Ok((outputs, times.into_values().collect()))
}

/// What stands before the label in a node's name in tract.
fn id(name: &str) -> &str {
    name.split_once(' ').map_or(name, |(id, _)| id)
}

fn is_int8(op: &str, first_operand: Option<DatumType>) -> bool {
    let is_8_bit = |dtype: DatumType| matches!(dtype.unquantized(), DatumType::I8 | DatumType::U8);
    first_operand.is_some_and(is_8_bit) && !CONVERSIONS.contains(&op) || QUANTIZING.contains(&op)
}
