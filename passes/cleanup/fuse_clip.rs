//! Merges limits: Clip, Relu, and Min and Max with numbers.
//!
//! clip(clip(x, a, b), c, d) = clip(x, clip(a, c, d), clip(b, c, d)) where a ≤ b and c ≤ d.

use crate::ir::op::{Clip, Max, Min, Relu};
use crate::ir::{DType, Model, NodeId, Tensor, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

pub const INFO: PassInfo = PassInfo::of::<FuseClip>("fuse-clip", "Merge Clip, Relu, Min and Max into each other");

/// Merges neighbouring Clip, Relu, and Min and Max with numbers, and removes those that change nothing.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FuseClip {}

impl Pass for FuseClip {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        const LIMITS: &[&str] = &["Clip", "Relu", "Min", "Max"];
        cx.apply(model, Rules::new().on_any(LIMITS, without_effect).on_any(LIMITS, merged));
        Ok(())
    }
}

/// The least and the greatest result.
#[derive(Clone, Copy, PartialEq)]
struct Limits(f64, f64);

impl Limits {
    fn apply(self, x: f64) -> f64 {
        x.max(self.0).min(self.1)
    }
}

fn merged(at: &Site) -> Match<Rewrite> {
    let (middle, outer) = limited(at, at.root)?;
    let producer = at.model.producer(middle).ok_or(Miss("not computed by a node"))?;
    let (x, inner) = limited(at, producer)?;
    at.only_here(middle)?;
    let Limits(low, high) = Limits(outer.apply(inner.0), outer.apply(inner.1));
    let mut operands = [at.root, producer].into_iter().flat_map(|node| at.model.node(node).inputs.iter().flatten());
    let dtype = operands.find_map(|&bound| Some(at.model.constant(bound)?.dtype()));
    let mut new = at.rewrite();
    if (low, high) == (0.0, f64::INFINITY) {
        return new.replace_root(Relu { x });
    }
    let dtype = dtype.ok_or(Miss("no bound"))?;
    let mut bound = |role: &'static str, bound: f64| -> Match<Option<ValueId>> {
        if bound.is_infinite() {
            return Ok(None);
        }
        let tensor = Tensor::from_reals(&ndarray::arr0(bound).into_dyn(), dtype).ok_or(Miss("not a float value"))?;
        Ok(Some(new.constant(role, tensor)))
    };
    let (min, max) = (bound("min", low)?, bound("max", high)?);
    new.replace_root(Clip { x, min, max })
}

/// A limit that everything before it keeps already.
fn without_effect(at: &Site) -> Match<Rewrite> {
    let (x, Limits(low, high)) = limited(at, at.root)?;
    let Limits(least, greatest) = range(at, x)?;
    require!(low <= least && greatest <= high, "the value may leave the limits");
    Rewrite::forward(x)
}

/// What `node` limits, and to what.
fn limited(at: &Site, node: NodeId) -> Match<(ValueId, Limits)> {
    let (x, low, high) = if let Some(Relu { x }) = at.model.view(node) {
        (x, 0.0, f64::INFINITY)
    } else if let Some(Clip { x, min, max }) = at.model.view(node) {
        let bound = |bound: Option<ValueId>, open: f64| bound.map_or(Ok(open), |bound| number(at, bound));
        (x, bound(min, f64::NEG_INFINITY)?, bound(max, f64::INFINITY)?)
    } else if let Some(Max { xs }) = at.model.view(node) {
        let (x, low) = value_and_number(at, &xs)?;
        (x, low, f64::INFINITY)
    } else {
        let Min { xs } = at.model.view(node).ok_or(Miss("not a limit"))?;
        let (x, high) = value_and_number(at, &xs)?;
        (x, f64::NEG_INFINITY, high)
    };
    require!(low <= high, "its limits are crossed");
    Ok((x, Limits(low, high)))
}

fn value_and_number(at: &Site, xs: &[ValueId]) -> Match<(ValueId, f64)> {
    let &[a, b] = xs else { return Err(Miss("it does not compare two values")) };
    let (x, constant) = if at.model.constant(b).is_some() { (a, b) } else { (b, a) };
    let axes = at.rank(constant)?;
    require!(axes == 0 || at.rank(x).is_ok_and(|rank| rank >= axes), "the constant may add axes to the value");
    Ok((x, number(at, constant)?))
}

fn number(at: &Site, value: ValueId) -> Match<f64> {
    require!(at.tensor(value)?.dtype() != DType::F64, "limits of double precision are left as they are");
    Ok(f64::from(at.float(value)?))
}

/// Where the results of the operator that computes `value` lie.
fn range(at: &Site, value: ValueId) -> Match<Limits> {
    let producer = at.model.producer(value).ok_or(Miss("not computed by a node"))?;
    let node = at.model.node(producer);
    Ok(match node.op.as_str() {
        _ if !node.domain.is_empty() => return Err(Miss("computed by an unknown operator")),
        "Sigmoid" | "HardSigmoid" | "Softmax" => Limits(0.0, 1.0),
        "Abs" | "Exp" | "Sqrt" | "Softplus" => Limits(0.0, f64::INFINITY),
        "Tanh" | "Erf" => Limits(-1.0, 1.0),
        _ => limited(at, producer)?.1,
    })
}
