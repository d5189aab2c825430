//! Replaces an `If` whose condition is known by the branch that is taken.

use crate::ir::op::Constant;
use crate::ir::{Attr, Call, GraphId, Model, NodeId, Tensor, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

pub const INFO: PassInfo = PassInfo::of::<InlineBranches>(
    "inline-branches",
    "Replace an If whose condition is constant by the branch that is taken",
);

#[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct InlineBranches {}

impl Pass for InlineBranches {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.report(inline(model));
        Ok(())
    }
}

fn inline(model: &mut Model) -> Outcome {
    let mut outcome = Outcome::default();
    let is_if = |model: &Model, node: NodeId| model.node(node).op == "If" && model.node(node).domain.is_empty();
    let mut work: Vec<NodeId> = model.all_nodes().filter(|&node| is_if(model, node)).collect();
    while let Some(node) = work.pop() {
        if !model.is_live(node) {
            continue;
        }
        match branch(model, node) {
            Ok(branch) => {
                let call = Call::default();
                let made = model.inline(node, branch, call).expect("branches have no inputs");
                work.extend(made.iter().copied().filter(|&node| is_if(model, node)));
                *outcome.applied.entry("branch").or_default() += 1;
            }
            Err(miss) => drop(outcome.missed.insert(("branch", node), miss)),
        }
    }
    outcome.missed.retain(|(_, node), _| model.is_live(*node));
    outcome
}

fn branch(model: &Model, node: NodeId) -> Match<GraphId> {
    let condition = model.node(node).inputs.first().copied().flatten().ok_or(Miss("it has no condition"))?;
    let taken =
        known(model, condition).and_then(|tensor| tensor.as_int()).ok_or(Miss("its condition is not constant"))?;
    let name = if taken != 0 { "then_branch" } else { "else_branch" };
    let Some(&Attr::Graph(branch)) = model.node(node).attrs.get(name) else { return Err(Miss("it lacks the branch")) };
    require!(model.graph(branch).inputs.is_empty(), "its branch has inputs");
    require!(model.graph(branch).outputs.len() >= model.node(node).outputs.len(), "its branch lacks results");
    Ok(branch)
}

fn known(model: &Model, value: ValueId) -> Option<Tensor> {
    match model.producer(value) {
        Some(node) => model.view::<Constant>(node)?.value,
        None => model.constant(value).cloned(),
    }
}
