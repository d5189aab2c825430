//! Removes what no output depends on: nodes, optional results, functions, and imports of operator sets.

use std::collections::HashSet;

use crate::ir::{GraphId, Model, Node, NodeId, OpsetImports, op};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::rewrite::Outcome;

pub const INFO: PassInfo = PassInfo::of::<EliminateDeadNodes>(
    "eliminate-dead-nodes",
    "Remove nodes, optional results and functions that no output depends on",
);

#[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct EliminateDeadNodes {}

/// Operators with results that may be left out, and the first of these.
const OPTIONAL_RESULTS: &[(&str, usize)] = &[
    ("Attention", 1),
    ("BatchNormalization", 1),
    ("Dropout", 1),
    ("GRU", 0),
    ("LSTM", 0),
    ("LayerNormalization", 1),
    ("MaxPool", 1),
    ("RNN", 0),
    ("SoftmaxCrossEntropyLoss", 1),
    ("Unique", 1),
];

impl Pass for EliminateDeadNodes {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let mut outcome = Outcome::default();
        let before = model.all_nodes().count();
        sweep(model);
        let counts = [
            ("node", before - model.all_nodes().count()),
            ("optional_result", drop_optional_results(model)),
            ("function", remove_uncalled_functions(model)),
            ("opset_import", remove_unused_imports(model)),
        ];
        outcome.applied.extend(counts.into_iter().filter(|(_, count)| *count > 0));
        cx.report(outcome);
        Ok(())
    }
}

fn sweep(model: &mut Model) {
    let nodes: Vec<NodeId> = model.all_nodes().collect();
    for node in nodes.into_iter().rev() {
        if model.is_live(node) {
            model.sweep(node);
        }
    }
}

fn drop_optional_results(model: &mut Model) -> usize {
    let mut dropped = 0;
    for node in model.all_nodes().collect::<Vec<_>>() {
        let Some(first) = first_optional(model, node) else { continue };
        for index in (first..model.node(node).outputs.len()).rev() {
            let unread = |output: Option<_>| output.is_some_and(|output| model.value(output).uses.is_empty());
            if model.node(node).outputs.get(index).is_some_and(|&output| unread(output)) {
                model.drop_output(node, index);
                dropped += 1;
            }
        }
    }
    dropped
}

fn first_optional(model: &Model, id: NodeId) -> Option<usize> {
    let node = model.node(id);
    let (_, first) = OPTIONAL_RESULTS.iter().find(|(op, _)| *op == node.op && node.domain.is_empty())?;
    // Before, leaving a result out could mean that the node is not in training mode; in training mode, all are wanted.
    let training = node.attrs.contains_key("training_mode");
    (!training && model.opsets_of(node.graph).onnx()? >= op::BASE).then_some(*first)
}

fn remove_uncalled_functions(model: &mut Model) -> usize {
    let signature = |node: &Node| (node.domain.clone(), node.op.clone(), node.overload.clone());
    let of: std::collections::HashMap<_, usize> = model
        .functions
        .iter()
        .enumerate()
        .map(|(index, f)| ((f.domain.clone(), f.name.clone(), f.overload.clone()), index))
        .collect();
    let (mut work, mut called) = (vec![model.main], HashSet::new());
    while let Some(graph) = work.pop() {
        for node in nodes_below(model, graph) {
            if let Some(&index) = of.get(&signature(model.node(node)))
                && called.insert(index)
            {
                work.push(model.functions[index].body);
            }
        }
    }
    let uncalled: Vec<usize> = (0..model.functions.len()).filter(|index| !called.contains(index)).collect();
    uncalled.iter().rev().for_each(|&index| model.remove_function(index));
    uncalled.len()
}

/// ONNX's own operators stay imported: passes and readers want to know their version.
fn remove_unused_imports(model: &mut Model) -> usize {
    let domains = |graph: GraphId| -> HashSet<String> {
        nodes_below(model, graph).map(|node| model.node(node).domain.clone()).collect()
    };
    let of_functions: Vec<_> = model.functions.iter().map(|function| domains(function.body)).collect();
    let mut of_main = domains(model.main);
    of_main.extend(of_functions.iter().flatten().cloned());

    fn retain(opsets: &mut OpsetImports, used: &HashSet<String>) -> usize {
        let before = opsets.0.len();
        opsets.0.retain(|domain, _| domain.is_empty() || used.contains(domain));
        before - opsets.0.len()
    }
    let functions = std::iter::zip(&mut model.functions, &of_functions);
    let removed: usize = functions.map(|(function, used)| retain(&mut function.opsets, used)).sum();
    removed + retain(&mut model.opsets, &of_main)
}

/// The nodes of `graph` and of the bodies in it.
fn nodes_below(model: &Model, graph: GraphId) -> impl Iterator<Item = NodeId> {
    let mut work: Vec<NodeId> = model.nodes_of(graph).collect();
    std::iter::from_fn(move || {
        let node = work.pop()?;
        work.extend(model.node(node).bodies().flat_map(|body| model.nodes_of(body)));
        Some(node)
    })
}
