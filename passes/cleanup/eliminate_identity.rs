//! Removes nodes that only pass a value on.

use crate::ir::Model;
use crate::ir::op::Identity;
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::rewrite::{Match, Rewrite, Rules, Site};

pub const INFO: PassInfo =
    PassInfo::of::<EliminateIdentity>("eliminate-identity", "Remove nodes that only pass a value on");

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EliminateIdentity {}

impl Pass for EliminateIdentity {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.apply(model, Rules::new().on(identity));
        Ok(())
    }
}

fn identity(_: &Site, node: Identity) -> Match<Rewrite> {
    Rewrite::forward(node.x)
}
