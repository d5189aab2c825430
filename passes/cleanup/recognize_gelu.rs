//! Finds GELU in the operators that exporters write for it, and writes it as one where the opset has it.

use std::cell::OnceCell;

use crate::ir::op::{Gelu, Mul};
use crate::ir::{Model, Op};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Rewrite, Rules, Site, gelu};

use super::upgrade_opset;

pub const INFO: PassInfo =
    PassInfo::of::<RecognizeGelu>("recognize-gelu", "Replace what exporters write for GELU by the operator (opset 20)");

/// Replaces x·½·(1 + erf(x/√2)), and its approximation by tanh, by Gelu.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RecognizeGelu {
    /// Raise a model with a GELU to opset 20, the first that has Gelu. There are runtimes that do not know that opset, and
    /// those that do are not faster by it: they find GELU themselves.
    #[serde(default)]
    raise_opset: bool,
}

impl Pass for RecognizeGelu {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let rules = || Rules::new().on(exact).on(approximate);
        let since = *Gelu::OPSETS.start();
        let old = model.opsets.onnx().is_some_and(|opset| opset < since);
        if self.raise_opset && old {
            let mut raised = model.clone();
            let report = upgrade_opset::raise(&mut raised, since)?;
            let outcome = rules().apply(&mut raised, &OnceCell::new());
            if !outcome.applied.is_empty() {
                *model = raised;
                cx.report(report);
            }
            cx.report(outcome);
            return Ok(());
        }
        cx.apply(model, rules());
        Ok(())
    }
}

fn exact(at: &Site, _: Mul) -> Match<Rewrite> {
    let x = gelu::exact(at, at.result())?;
    has_gelu(at)?;
    at.rewrite().replace_root(Gelu { x, approximate: "none".into() })
}

fn approximate(at: &Site, _: Mul) -> Match<Rewrite> {
    let x = gelu::approximate(at, at.result())?;
    has_gelu(at)?;
    at.rewrite().replace_root(Gelu { x, approximate: "tanh".into() })
}

fn has_gelu(at: &Site) -> Match<()> {
    require!(Gelu::OPSETS.contains(&at.opset()), "this is a GELU, but the opset has none: see the option raise-opset");
    Ok(())
}
