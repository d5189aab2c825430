//! Stores the tensors of `Constant` nodes as initializers, where every pass finds them.

use crate::ir::op::Constant;
use crate::ir::{Model, NodeId, Op};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::rewrite::{Match, Miss, Outcome};

pub const INFO: PassInfo = PassInfo::of::<ConstantsToInitializers>(
    "constants-to-initializers",
    "Store the tensors of Constant nodes as initializers, where every pass finds them",
);

#[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct ConstantsToInitializers {}

impl Pass for ConstantsToInitializers {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let mut outcome = Outcome::default();
        let constants: Vec<NodeId> = model.all_nodes().filter(|&node| is_constant(model, node)).collect();
        for node in constants {
            match convert(model, node) {
                Ok(()) => *outcome.applied.entry("constant").or_default() += 1,
                Err(miss) => drop(outcome.missed.insert(("constant", node), miss)),
            }
        }
        cx.report(outcome);
        Ok(())
    }
}

fn is_constant(model: &Model, node: NodeId) -> bool {
    let node = model.node(node);
    node.op == Constant::NAME && node.domain == Constant::DOMAIN
}

fn convert(model: &mut Model, node: NodeId) -> Match<()> {
    let constant = Constant::read(model.node(node)).ok_or(Miss("it is sparse, or an attribute of the call"))?;
    let mut tensor = constant.tensor().ok_or(Miss("not one attribute holds it"))?;
    let &[Some(value)] = model.node(node).outputs.as_slice() else { return Err(Miss("it has no result")) };
    // An attribute may name its tensor; an initializer has the name of its value.
    tensor.label = None;
    model.define_constant(value, tensor);
    Ok(())
}
