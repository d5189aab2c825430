//! Removes constants that nothing reads. Inputs stay, with and without a default: they are the model's interface.

use crate::ir::{Model, ValueDef, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::rewrite::Outcome;

pub const INFO: PassInfo =
    PassInfo::of::<EliminateUnusedInitializers>("eliminate-unused-initializers", "Remove constants that nothing reads");

#[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct EliminateUnusedInitializers {}

impl Pass for EliminateUnusedInitializers {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let unread: Vec<ValueId> = model
            .all_values()
            .filter(|(_, value)| {
                value.uses.is_empty() && matches!(value.def, ValueDef::Constant(_) | ValueDef::Sparse(_))
            })
            .map(|(id, _)| id)
            .collect();
        let mut outcome = Outcome::default();
        if !unread.is_empty() {
            outcome.applied.insert("initializer", unread.len());
        }
        unread.into_iter().for_each(|value| model.remove_constant(value));
        cx.report(outcome);
        Ok(())
    }
}
