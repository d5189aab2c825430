//! Activations.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::operators::{Celu, Elu, Mish, PRelu, Selu, Softplus, Softsign, Swish, ThresholdedRelu};
use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::ValueId;
use crate::ir::op::{Abs, Clip, Erf, Exp, Gelu, HardSigmoid, HardSwish, LeakyRelu, Max, Min, Relu, Sigmoid, Tanh};

/// sign(y)·dx
pub(super) fn relu(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Relu { .. }) = (site.dy()?, site.view(tape)?);
    let slope = tape.sign(site.y());
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// 1 for x > 0, else α
pub(super) fn leaky_relu(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, LeakyRelu { x, alpha }) = (site.dy()?, site.view(tape)?);
    let alpha = f64::from(alpha);
    let step = step(tape, x);
    let rise = tape.scale(step, 1.0 - alpha);
    let slope = tape.shift(rise, alpha);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// 1 for x > α, else 0
pub(super) fn thresholded_relu(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ThresholdedRelu { x, alpha }) = (site.dy()?, site.view(tape)?);
    let above = tape.shift(x, -f64::from(alpha));
    let slope = step(tape, above);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// dx = dy for x > 0, else slope·dy; dslope = min(x, 0)·dy
pub(super) fn prelu(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, PRelu { x, slope }) = (site.dy()?, site.view(tape)?);
    let dx = site.wants(0).then(|| {
        let step = step(tape, x);
        let one = tape.scalar(1.0, x);
        let below = tape.sub(one, step);
        let falling = tape.mul(below, slope);
        let sum = tape.add(step, falling);
        tape.mul(dy, sum)
    });
    let dslope = site.wants(1).then(|| {
        let zero = tape.scalar(0.0, x);
        let negative = tape.map(Min { xs: vec![x, zero] });
        tape.mul(dy, negative)
    });
    Ok(vec![dx, dslope])
}

/// dx inside the bounds
pub(super) fn clip(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Clip { min, max, .. }) = (site.dy()?, site.view(tape)?);
    if site.wants(1) || site.wants(2) {
        return Err(Refusal("its bounds depend on what is trained"));
    }
    let bound = |tape: &Tape, bound: Option<ValueId>| match bound {
        None => Ok(None),
        Some(bound) => tape.float(bound).map(f64::from).map(Some).ok_or(Refusal("its bounds are not constant")),
    };
    let (low, high) = (bound(tape, min)?, bound(tape, max)?);
    let inside = inside(tape, site.y(), low, high);
    Ok(vec![Some(inside.map_or(dy, |inside| tape.mul(dy, inside)))])
}

/// α·dx for 0 < y < 1
pub(super) fn hard_sigmoid(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, HardSigmoid { alpha, .. }) = (site.dy()?, site.view(tape)?);
    let inside = inside(tape, site.y(), Some(0.0), Some(1.0)).expect("it has bounds");
    let slope = tape.scale(inside, f64::from(alpha));
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// h + x·h', where h = clip(x/6 + 1/2, 0, 1)
pub(super) fn hard_swish(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, HardSwish { x }) = (site.dy()?, site.view(tape)?);
    let sixth = tape.scale(x, 1.0 / 6.0);
    let line = tape.shift(sixth, 0.5);
    let (zero, one) = (tape.scalar(0.0, x), tape.scalar(1.0, x));
    let h = tape.clip(line, zero, one);
    let inside = inside(tape, h, Some(0.0), Some(1.0)).expect("it has bounds");
    let rest = tape.mul(sixth, inside);
    let slope = tape.add(h, rest);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// y·(1 - y)
pub(super) fn sigmoid(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y) = (site.dy()?, site.y());
    let one = tape.scalar(1.0, y);
    let rest = tape.sub(one, y);
    let slope = tape.mul(y, rest);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// 1 - y²
pub(super) fn tanh(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y) = (site.dy()?, site.y());
    let square = tape.mul(y, y);
    let one = tape.scalar(1.0, y);
    let slope = tape.sub(one, square);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// Φ(x) + x·φ(x); with `approximate=tanh`, (1 + t)/2 + x/2·(1 - t²)·u', where t = tanh u, u = √(2/π)·(x + 0.044715·x³)
pub(super) fn gelu(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Gelu { x, approximate }) = (site.dy()?, site.view(tape)?);
    let square = tape.mul(x, x);
    let slope = if approximate == "none" {
        let scaled = tape.scale(x, FRAC_1_SQRT_2);
        let erf = tape.map(Erf { x: scaled });
        let half = tape.scale(erf, 0.5);
        let cdf = tape.shift(half, 0.5);
        let exponent = tape.scale(square, -0.5);
        let bell = tape.map(Exp { x: exponent });
        let pdf = tape.scale(bell, 1.0 / (2.0 * PI).sqrt());
        let rest = tape.mul(x, pdf);
        tape.add(cdf, rest)
    } else {
        let c = (2.0 / PI).sqrt();
        let cubic = tape.scale(square, 0.044715 * c);
        let factor = tape.shift(cubic, c);
        let u = tape.mul(x, factor);
        let t = tape.map(Tanh { x: u });
        let quadratic = tape.scale(square, 3.0 * 0.044715 * c);
        let du = tape.shift(quadratic, c);
        let t2 = tape.mul(t, t);
        let one = tape.scalar(1.0, x);
        let dt = tape.sub(one, t2);
        let inner = tape.mul(dt, du);
        let product = tape.mul(x, inner);
        let sum = tape.add(t, product);
        let sum = tape.shift(sum, 1.0);
        tape.scale(sum, 0.5)
    };
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// 1 for x > 0, else α·eˣ
pub(super) fn elu(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Elu { x, alpha }) = (site.dy()?, site.view(tape)?);
    let slope = exponential(tape, x, f64::from(alpha), 1.0);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// 1 for x > 0, else exp(x/α)
pub(super) fn celu(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Celu { x, alpha }) = (site.dy()?, site.view(tape)?);
    let slope = exponential(tape, x, 1.0, f64::from(alpha));
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// γ for x > 0, else γ·α·eˣ
pub(super) fn selu(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Selu { x, alpha, gamma }) = (site.dy()?, site.view(tape)?);
    let slope = exponential(tape, x, f64::from(alpha), 1.0);
    let slope = tape.scale(slope, f64::from(gamma));
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// 1 for x > 0, else factor·exp(x / width)
fn exponential(tape: &mut Tape, x: ValueId, factor: f64, width: f64) -> ValueId {
    let step = step(tape, x);
    let zero = tape.scalar(0.0, x);
    let negative = tape.map(Min { xs: vec![x, zero] });
    let exponent = tape.scale(negative, 1.0 / width);
    let decay = tape.map(Exp { x: exponent });
    let decay = tape.scale(decay, factor);
    let one = tape.scalar(1.0, x);
    let below = tape.sub(one, step);
    let left = tape.mul(below, decay);
    tape.add(step, left)
}

/// σ(x)
pub(super) fn softplus(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Softplus { x }) = (site.dy()?, site.view(tape)?);
    let slope = tape.map(Sigmoid { x });
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// 1 / (1 + |x|)²
pub(super) fn softsign(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Softsign { x }) = (site.dy()?, site.view(tape)?);
    let size = tape.map(Abs { x });
    let more = tape.shift(size, 1.0);
    let square = tape.mul(more, more);
    Ok(vec![Some(tape.div(dy, square))])
}

/// s + α·x·s·(1 - s), where s = σ(α·x)
pub(super) fn swish(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Swish { x, alpha }) = (site.dy()?, site.view(tape)?);
    let scaled = tape.scale(x, f64::from(alpha));
    let s = tape.map(Sigmoid { x: scaled });
    let one = tape.scalar(1.0, x);
    let rest = tape.sub(one, s);
    let rise = tape.mul(scaled, rest);
    let more = tape.shift(rise, 1.0);
    let slope = tape.mul(s, more);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// t + x·(1 - t²)·σ(x), where t = tanh(softplus(x))
pub(super) fn mish(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Mish { x }) = (site.dy()?, site.view(tape)?);
    let soft = tape.map(Softplus { x });
    let t = tape.map(Tanh { x: soft });
    let s = tape.map(Sigmoid { x });
    let t2 = tape.mul(t, t);
    let one = tape.scalar(1.0, x);
    let dt = tape.sub(one, t2);
    let inner = tape.mul(dt, s);
    let product = tape.mul(x, inner);
    let slope = tape.add(t, product);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// 1 for x > 0, else 0
fn step(tape: &mut Tape, x: ValueId) -> ValueId {
    let sign = tape.sign(x);
    let zero = tape.scalar(0.0, x);
    tape.map(Max { xs: vec![sign, zero] })
}

/// 1 for low < y < high, else 0, for a y that is never outside; none without bounds. Truth values would take longer.
fn inside(tape: &mut Tape, y: ValueId, low: Option<f64>, high: Option<f64>) -> Option<ValueId> {
    let above = |tape: &mut Tape, low: f64| if low == 0.0 { y } else { tape.shift(y, -low) };
    let below = |tape: &mut Tape, high: f64| {
        let high = tape.scalar(high, y);
        tape.sub(high, y)
    };
    match (low, high) {
        (None, None) => None,
        (Some(low), None) => {
            let above = above(tape, low);
            Some(tape.sign(above))
        }
        (None, Some(high)) => {
            let below = below(tape, high);
            Some(tape.sign(below))
        }
        (Some(low), Some(high)) => {
            let (above, below) = (above(tape, low), below(tape, high));
            let product = tape.mul(below, above);
            Some(tape.sign(product))
        }
    }
}
