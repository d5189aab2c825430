//! Raises a model to a newer opset: every operator whose form or meaning changed on the way is rewritten into its new form.
//!
//! [`changelog`] is the table of what changed, [`rewrites`] says how each change is made up for. A model is raised one
//! version after the other, so a rewrite knows exactly one step and a chain of them takes an operator over several.
//! What needs types or shapes is decided at the end, in [`settle`], when the model has the form that inference knows.

mod changelog;
mod rewrites;
mod settle;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::ir::{GraphId, Model, NodeId, OpsetImports, ValueId, op};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::rewrite::Outcome;

use changelog::{CHANGES, Change};
use settle::Late;

pub const INFO: PassInfo = PassInfo::of::<UpgradeOpset>(
    "upgrade-opset",
    "Raise the model to a newer ONNX opset, with every operator in its newer form",
);

#[derive(Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct UpgradeOpset {
    /// The opset to raise the model to. A model that is already newer stays as it is.
    to: i64,
}

impl Default for UpgradeOpset {
    fn default() -> Self {
        UpgradeOpset { to: op::BASE }
    }
}

impl Pass for UpgradeOpset {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        if !(op::BASE..=op::LATEST).contains(&self.to) {
            let (base, latest) = (op::BASE, op::LATEST);
            return Err(PassError(format!("cannot raise to opset {}: give one from {base} to {latest}", self.to)));
        }
        let before = model.opsets.onnx();
        cx.report(raise(model, self.to)?);
        if let (Some(from), Some(to)) = (before, model.opsets.onnx()) {
            cx.note(if from < to {
                format!("raised from opset {from} to {to}")
            } else {
                format!("opset {from} stays")
            });
        }
        Ok(())
    }
}

/// Raises `model`, its bodies and its functions to opset `to`, or to the newest that one of them is written in already.
/// Where an operator cannot be raised, the model is left as it was.
pub fn raise(model: &mut Model, to: i64) -> Result<Outcome, PassError> {
    let imports = std::iter::once(&model.opsets).chain(model.functions.iter().map(|function| &function.opsets));
    let versions: Vec<i64> = imports.filter_map(OpsetImports::onnx).filter(|&version| version <= op::LATEST).collect();
    let to = versions.iter().copied().fold(to, i64::max);
    if versions.iter().all(|&version| version == to) {
        return Ok(Outcome::default());
    }
    if !model.header.training_info.is_empty() {
        return Err(PassError("cannot raise a model with training info: its training graphs would stay behind".into()));
    }
    let mut raising = Raising { model: model.clone(), ranks: HashMap::new(), late: Vec::new() };
    let mut outcome = Outcome::default();
    raising.raise_graph(model.main, None, to, &mut outcome)?;
    for index in 0..model.functions.len() {
        raising.raise_graph(model.functions[index].body, Some(index), to, &mut outcome)?;
    }
    *model = raising.settle();
    Ok(outcome)
}

/// A model on its way up.
struct Raising {
    model: Model,
    /// Ranks that were found, of values before opset 7.
    ranks: HashMap<ValueId, usize>,
    late: Vec<Late>,
}

impl Raising {
    fn raise_graph(
        &mut self,
        outermost: GraphId,
        function: Option<usize>,
        to: i64,
        outcome: &mut Outcome,
    ) -> Result<(), PassError> {
        let imports = |model: &Model| function.map_or(&model.opsets, |index| &model.functions[index].opsets).onnx();
        let Some(from) = imports(&self.model) else { return Ok(()) };
        let graphs = with_bodies(&self.model, outermost);
        for version in from + 1..=to {
            let changes = changes_of(version);
            let changed = |node: NodeId| {
                let node = self.model.node(node);
                let (&op, &change) = changes.get_key_value(node.op.as_str()).filter(|_| node.domain.is_empty())?;
                Some((op, change))
            };
            let nodes = graphs.iter().flat_map(|&graph| self.model.nodes_of(graph));
            let work: Vec<_> = nodes.filter_map(|node| Some((node, changed(node)?))).collect();
            for (node, (op, change)) in work {
                let raised = match change {
                    Change::Same => continue,
                    Change::Refuse(why) => Err(why),
                    Change::Rewrite(rewrite) => rewrite(self, node),
                };
                raised.map_err(|why| self.refusal(node, [from, version, to], why))?;
                *outcome.applied.entry(op).or_default() += 1;
            }
        }
        let opsets = match function {
            Some(index) => &mut self.model.functions[index].opsets,
            None => &mut self.model.opsets,
        };
        if from < to {
            opsets.0.insert(String::new(), to);
        }
        Ok(())
    }

    fn refusal(&self, node: NodeId, [from, changed, to]: [i64; 3], why: &str) -> PassError {
        let node = self.model.label(node);
        PassError(format!("cannot raise {node} from opset {from} to {to}: it changed in opset {changed}, and {why}"))
    }
}

fn changes_of(version: i64) -> HashMap<&'static str, Change> {
    let rows = CHANGES.iter().filter(|(since, change, _)| *since == version && !matches!(change, Change::Same));
    rows.flat_map(|(_, change, ops)| ops.split_whitespace().map(|op| (op, *change))).collect()
}

/// `outermost` and the bodies in it, however deep.
fn with_bodies(model: &Model, outermost: GraphId) -> Vec<GraphId> {
    let mut graphs = vec![outermost];
    let mut next = 0;
    while let Some(&graph) = graphs.get(next) {
        graphs.extend(model.nodes_of(graph).flat_map(|node| model.node(node).bodies()));
        next += 1;
    }
    graphs
}
