//! Replaces calls of the model's own functions by what they compute.

use std::collections::{HashMap, HashSet};

use crate::ir::{Attrs, Call, Function, GraphId, Model, Node, NodeId, op};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::rewrite::{Miss, Outcome};

use super::upgrade_opset;

pub const INFO: PassInfo =
    PassInfo::of::<InlineFunctions>("inline-functions", "Replace calls of the model's own functions by their bodies");

/// More nodes than this are taken for a mistake: nested functions can stand for any number.
const MOST_NODES: u64 = 10_000_000;

#[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct InlineFunctions {}

impl Pass for InlineFunctions {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.report(inline(model)?);
        Ok(())
    }
}

/// Domain, name and overload: what a call names.
type Signature = (String, String, String);

/// Replaces calls of the model's own functions, where that can be done, and removes functions that nothing calls any more.
pub fn inline(model: &mut Model) -> Result<Outcome, PassError> {
    let mut outcome = Outcome::default();
    if model.functions.is_empty() {
        return Ok(outcome);
    }
    Library::new(model).check_size(model)?;
    let imports = std::iter::once(&model.opsets).chain(model.functions.iter().map(|function| &function.opsets));
    if imports.filter_map(|opsets| opsets.onnx()).collect::<HashSet<i64>>().len() > 1 {
        upgrade_opset::raise(model, op::BASE)?;
    }
    let library = Library::new(model);
    let functions: Vec<(GraphId, Attrs)> =
        model.functions.iter().map(|function| (function.body, function.default_attrs.clone())).collect();
    let called = library.reachable(model, model.main);
    let fits: Vec<bool> = (0..functions.len()).map(|index| called.contains(&index) && import(model, index)).collect();

    let mut work: Vec<NodeId> = library.calls_below(model, model.main).into_iter().map(|(node, _)| node).collect();
    while let Some(node) = work.pop() {
        let Some(index) = library.callee(model, node).filter(|_| model.is_live(node)) else { continue };
        if !fits[index] {
            outcome.missed.insert(("inline", node), Miss("it is written in other operator sets than the model"));
            continue;
        }
        let Node { name, inputs, outputs, attrs, .. } = model.node(node);
        let result = outputs.iter().flatten().next().map_or("", |&result| &model.value(result).name);
        let (body, defaults) = &functions[index];
        let call = Call {
            inputs: inputs.clone(),
            attrs: defaults.iter().chain(attrs).map(|(name, attr)| (name.clone(), attr.clone())).collect(),
            prefix: format!("{}/", if name.is_empty() { result } else { name }),
            own_symbols: true,
        };
        match model.inline(node, *body, call) {
            Ok(made) => {
                let calls = made.into_iter().flat_map(|node| library.calls_in(model, node));
                work.extend(calls.map(|(node, _)| node).collect::<Vec<_>>());
                *outcome.applied.entry("inline").or_default() += 1;
            }
            Err(_) => {
                let miss = Miss("an operand that the call leaves out is returned as a result");
                outcome.missed.insert(("inline", node), miss);
            }
        }
    }
    let called = library.reachable(model, model.main);
    (0..model.functions.len()).rev().filter(|index| !called.contains(index)).for_each(|i| model.remove_function(i));
    Ok(outcome)
}

/// Gives the model the operator sets that function `index` is written in; false if it has others.
fn import(model: &mut Model, index: usize) -> bool {
    let opsets = model.functions[index].opsets.clone();
    let fits = opsets.0.iter().all(|(domain, version)| model.opsets.0.get(domain).is_none_or(|other| other == version));
    if fits {
        for (domain, version) in opsets.0 {
            model.opsets.0.entry(domain).or_insert(version);
        }
    }
    fits
}

/// The functions of a model by what calls name.
struct Library(HashMap<Signature, usize>);

impl Library {
    fn new(model: &Model) -> Library {
        let signature =
            |function: &Function| (function.domain.clone(), function.name.clone(), function.overload.clone());
        Library(model.functions.iter().enumerate().map(|(index, function)| (signature(function), index)).collect())
    }

    fn callee(&self, model: &Model, node: NodeId) -> Option<usize> {
        if !model.is_live(node) {
            return None;
        }
        let Node { domain, op, overload, .. } = model.node(node);
        self.0.get(&(domain.clone(), op.clone(), overload.clone())).copied()
    }

    /// `node` if it is a call, and the calls in its bodies.
    fn calls_in(&self, model: &Model, node: NodeId) -> Vec<(NodeId, usize)> {
        let (mut work, mut calls) = (vec![node], Vec::new());
        while let Some(node) = work.pop() {
            calls.extend(self.callee(model, node).map(|index| (node, index)));
            work.extend(model.node(node).bodies().flat_map(|body| model.nodes_of(body)));
        }
        calls
    }

    fn calls_below(&self, model: &Model, graph: GraphId) -> Vec<(NodeId, usize)> {
        model.nodes_of(graph).flat_map(|node| self.calls_in(model, node)).collect()
    }

    /// The functions that `graph` calls, also by way of others.
    fn reachable(&self, model: &Model, graph: GraphId) -> HashSet<usize> {
        let (mut work, mut seen) = (vec![graph], HashSet::new());
        while let Some(graph) = work.pop() {
            for (_, callee) in self.calls_below(model, graph) {
                if seen.insert(callee) {
                    work.push(model.functions[callee].body);
                }
            }
        }
        seen
    }

    /// Refuses functions that call themselves, and those that would not end for practical purposes.
    fn check_size(&self, model: &Model) -> Result<(), PassError> {
        enum Step {
            Enter(usize),
            Leave(usize),
        }
        let bodies: Vec<GraphId> = model.functions.iter().map(|function| function.body).collect();
        let calls: Vec<Vec<usize>> = bodies
            .iter()
            .map(|&body| self.calls_below(model, body).into_iter().map(|(_, callee)| callee).collect())
            .collect();
        let size_of = |graph, calls: &[usize], sizes: &HashMap<usize, u64>| {
            let own = model.nodes_of(graph).count() as u64;
            calls.iter().fold(own, |sum, callee| sum.saturating_add(sizes[callee]))
        };
        let (mut sizes, mut open) = (HashMap::new(), HashSet::new());
        let from_main: Vec<usize> = self.calls_below(model, model.main).into_iter().map(|(_, callee)| callee).collect();
        let mut work: Vec<Step> = from_main.iter().map(|&callee| Step::Enter(callee)).collect();
        while let Some(step) = work.pop() {
            match step {
                Step::Enter(index) if sizes.contains_key(&index) => {}
                Step::Enter(index) => {
                    if !open.insert(index) {
                        let name = &model.functions[index].name;
                        return Err(PassError(format!("cannot inline the function `{name}`: it calls itself")));
                    }
                    work.push(Step::Leave(index));
                    work.extend(calls[index].iter().map(|&callee| Step::Enter(callee)));
                }
                Step::Leave(index) => {
                    open.remove(&index);
                    sizes.insert(index, size_of(bodies[index], &calls[index], &sizes));
                }
            }
        }
        let nodes = size_of(model.main, &from_main, &sizes);
        if nodes > MOST_NODES {
            let why = format!("cannot inline functions: the model would have {nodes} nodes, more than {MOST_NODES}");
            return Err(PassError(why));
        }
        Ok(())
    }
}
