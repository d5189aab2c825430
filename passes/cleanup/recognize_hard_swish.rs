//! Finds HardSigmoid and HardSwish in the operators that exporters write for them.

use crate::ir::op::{Add, Clip, Div, HardSigmoid, HardSwish, Mul};
use crate::ir::{DType, Model, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

pub const INFO: PassInfo = PassInfo::of::<RecognizeHardSwish>(
    "recognize-hard-swish",
    "Replace what exporters write for HardSigmoid and HardSwish by the operators",
);

/// Replaces clip(x + 3, 0, 6)/6 by HardSigmoid, and x times that by HardSwish.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RecognizeHardSwish {}

impl Pass for RecognizeHardSwish {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let rules = Rules::new()
            .on(swish_divided)
            .on(swish_multiplied)
            .on(swish_of_sigmoid)
            .on(sigmoid_divided)
            .on(sigmoid_multiplied)
            .on(sigmoid_clipped);
        cx.apply(model, rules);
        Ok(())
    }
}

/// x·clip(x + 3, 0, 6) / 6 = HardSwish(x)
fn swish_divided(at: &Site, quotient: Div) -> Match<Rewrite> {
    let (gated, number) = value_and_number(at, quotient.a, quotient.b)?;
    require!(gated == quotient.a && number == 6.0, "it divides by another number than 6");
    swish(at, product_with_gate(at, gated)?)
}

/// x·clip(x + 3, 0, 6)·⅙ = HardSwish(x)
fn swish_multiplied(at: &Site, product: Mul) -> Match<Rewrite> {
    let (gated, number) = value_and_number(at, product.a, product.b)?;
    require!((number * 6.0 - 1.0).abs() < 1e-6, "it multiplies by another number than a sixth");
    swish(at, product_with_gate(at, gated)?)
}

/// x·HardSigmoid(x) with the slope ⅙ and the offset ½ = HardSwish(x)
fn swish_of_sigmoid(at: &Site, product: Mul) -> Match<Rewrite> {
    let (x, gate): (_, HardSigmoid) = match at.feeder(product.b) {
        Ok(gate) => (product.a, gate),
        Err(_) => (product.b, at.feeder(product.a)?),
    };
    require!(gate.x == x, "the sigmoid is of another value");
    let usual = (gate.alpha - 1.0 / 6.0).abs() < 1e-6 && (gate.beta - 0.5).abs() < 1e-6;
    require!(usual, "the sigmoid has another slope than that of HardSwish");
    swish(at, x)
}

/// clip(x + b, 0, c) / c = HardSigmoid(x) with the slope 1/c and the offset b/c
fn sigmoid_divided(at: &Site, quotient: Div) -> Match<Rewrite> {
    let (clipped, number) = value_and_number(at, quotient.a, quotient.b)?;
    let (x, offset, top) = clipped_sum(at, clipped)?;
    require!(clipped == quotient.a && number == top, "it divides by another number than the upper bound");
    sigmoid(at, x, 1.0 / top, offset / top)
}

/// clip(x + b, 0, c)·(1/c) = HardSigmoid(x) with the slope 1/c and the offset b/c
fn sigmoid_multiplied(at: &Site, product: Mul) -> Match<Rewrite> {
    let (clipped, factor) = value_and_number(at, product.a, product.b)?;
    let (x, offset, top) = clipped_sum(at, clipped)?;
    require!((factor * top - 1.0).abs() < 1e-6, "it multiplies by another number than the inverse of the upper bound");
    sigmoid(at, x, factor, offset * factor)
}

/// clip(x·a + b, 0, 1) = HardSigmoid(x) with the slope a and the offset b
fn sigmoid_clipped(at: &Site, clip: Clip) -> Match<Rewrite> {
    require!(bounds(at, &clip)? == (0.0, 1.0), "it is not clipped to 0 and 1");
    let sum: Add = at.feeder(clip.x)?;
    let (product, beta) = value_and_number(at, sum.a, sum.b)?;
    at.only_here(product)?;
    let (x, alpha) = match at.producer(product) {
        Ok(Mul { a, b }) => value_and_number(at, a, b)?,
        Err(_) => {
            let Div { a, b } = at.producer(product)?;
            (a, 1.0 / at.float(b)?)
        }
    };
    sigmoid(at, x, alpha, beta)
}

fn swish(at: &Site, x: ValueId) -> Match<Rewrite> {
    known_to_runtimes(at, x)?;
    at.rewrite().replace_root(HardSwish { x })
}

fn sigmoid(at: &Site, x: ValueId, alpha: f32, beta: f32) -> Match<Rewrite> {
    known_to_runtimes(at, x)?;
    at.rewrite().replace_root(HardSigmoid { x, alpha, beta })
}

fn known_to_runtimes(at: &Site, x: ValueId) -> Match<()> {
    let bound = at.dtype(x)?;
    require!(
        matches!(bound, DType::F32 | DType::F16),
        "runtimes have the operator for single and half precision alone"
    );
    Ok(())
}

/// The x of x·clip(x + 3, 0, 6).
fn product_with_gate(at: &Site, value: ValueId) -> Match<ValueId> {
    let Mul { a, b } = at.feeder(value)?;
    let gates = |gate: ValueId, x: ValueId| clipped_sum(at, gate) == Ok((x, 3.0, 6.0));
    if gates(b, a) {
        Ok(a)
    } else {
        require!(gates(a, b), "not a product with clip(x + 3, 0, 6)");
        Ok(b)
    }
}

/// The x, b and c of clip(x + b, 0, c).
fn clipped_sum(at: &Site, value: ValueId) -> Match<(ValueId, f32, f32)> {
    let clip: Clip = at.feeder(value)?;
    let (low, high) = bounds(at, &clip)?;
    require!(low == 0.0 && high > 0.0, "it is not clipped at 0");
    let sum: Add = at.feeder(clip.x)?;
    let (x, offset) = value_and_number(at, sum.a, sum.b)?;
    Ok((x, offset, high))
}

fn bounds(at: &Site, clip: &Clip) -> Match<(f32, f32)> {
    let (Some(min), Some(max)) = (clip.min, clip.max) else { return Err(Miss("it is clipped on one side alone")) };
    Ok((at.float(min)?, at.float(max)?))
}

/// A value, and a constant with one element that adds no axis to it.
fn value_and_number(at: &Site, a: ValueId, b: ValueId) -> Match<(ValueId, f32)> {
    let (x, constant) = if at.float(b).is_ok() { (a, b) } else { (b, a) };
    let axes = at.rank(constant)?;
    require!(axes <= 1 && (axes == 0 || at.rank(x) != Ok(0)), "the constant adds axes to the value");
    Ok((x, at.float(constant)?))
}
