//! Normalizations. Each is x̂ = (x - μ)/√(σ² + ε) over some axes, scaled and shifted. The forward direction is written out
//! in front of the node, so that the backward direction finds x̂ and 1/√(σ² + ε) there.

use super::operators::{GroupNormalization, RMSNormalization};
use super::softmax::wrapped;
use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::op::{Add, BatchNormalization, InstanceNormalization, LayerNormalization, Mul};
use crate::ir::{NodeId, ValueId};

struct Normalized {
    /// x̂
    x: ValueId,
    /// 1/√(σ² + ε), with axes of length one.
    inverse: ValueId,
    /// μ and σ², with axes of length one; none where nothing is subtracted.
    moments: Option<(ValueId, ValueId)>,
}

/// x̂ = (x - μ)/√(σ² + ε), or x/√(x̄² + ε) where it is not `centred`
fn normalize(tape: &mut Tape, x: ValueId, axes: &[usize], epsilon: f32, centred: bool) -> Normalized {
    let mean = centred.then(|| tape.mean(x, axes, true));
    let difference = mean.map_or(x, |mean| tape.sub(x, mean));
    let square = tape.mul(difference, difference);
    let variance = tape.mean(square, axes, true);
    let positive = tape.shift(variance, f64::from(epsilon));
    let inverse = tape.reciprocal_sqrt(positive);
    let x = tape.mul(difference, inverse);
    Normalized { x, inverse, moments: mean.map(|mean| (mean, variance)) }
}

impl Normalized {
    /// dx = (dx̂ - mean dx̂ - x̂·mean(dx̂·x̂))/√(σ² + ε); without the first mean where nothing is subtracted
    fn gradient(&self, tape: &mut Tape, given: ValueId, axes: &[usize]) -> ValueId {
        let product = tape.mul(given, self.x);
        let slope = tape.mean(product, axes, true);
        let along = tape.mul(self.x, slope);
        let rest = match self.moments {
            Some(_) => {
                let mean = tape.mean(given, axes, true);
                let centred = tape.sub(given, mean);
                tape.sub(centred, along)
            }
            None => tape.sub(given, along),
        };
        tape.mul(rest, self.inverse)
    }
}

pub(super) fn layer(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y, LayerNormalization { x, scale, bias, axis, epsilon, .. }) = (site.dy()?, site.y(), site.view(tape)?);
    only_result(site)?;
    let rank = tape.shape(x).len();
    let axes: Vec<usize> = (wrapped(axis, rank)..rank).collect();
    let normalized = tape.before(site.node, |tape| {
        let normalized = normalize(tape, x, &axes, epsilon, true);
        match bias {
            Some(bias) => {
                let scaled = tape.mul(normalized.x, scale);
                tape.redefine(y, Add { a: scaled, b: bias });
            }
            None => tape.redefine(y, Mul { a: normalized.x, b: scale }),
        }
        normalized
    });
    let dx = site.wants(0).then(|| {
        let given = tape.mul(dy, scale);
        normalized.gradient(tape, given, &axes)
    });
    let dscale = site.wants(1).then(|| tape.mul(dy, normalized.x));
    Ok(vec![dx, dscale, Some(dy)])
}

pub(super) fn root_mean_square(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y, RMSNormalization { x, scale, axis, epsilon, .. }) = (site.dy()?, site.y(), site.view(tape)?);
    let rank = tape.shape(x).len();
    let axes: Vec<usize> = (wrapped(axis, rank)..rank).collect();
    let normalized = tape.before(site.node, |tape| {
        let normalized = normalize(tape, x, &axes, epsilon, false);
        tape.redefine(y, Mul { a: normalized.x, b: scale });
        normalized
    });
    let dx = site.wants(0).then(|| {
        let given = tape.mul(dy, scale);
        normalized.gradient(tape, given, &axes)
    });
    let dscale = site.wants(1).then(|| tape.mul(dy, normalized.x));
    Ok(vec![dx, dscale])
}

pub(super) fn instance(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let InstanceNormalization { x, scale, bias, epsilon } = site.view(tape)?;
    let axes: Vec<usize> = (2..tape.shape(x).len()).collect();
    let shape = tape.shape(x);
    by_channel(tape, site, Channels { x, scale, bias, epsilon, axes, grouped: shape })
}

pub(super) fn group(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let GroupNormalization { x, scale, bias, epsilon, num_groups, .. } = site.view(tape)?;
    let shape = tape.shape(x);
    let groups = num_groups as usize;
    let grouped = vec![shape[0], groups, shape[1..].iter().product::<usize>() / groups];
    by_channel(tape, site, Channels { x, scale, bias, epsilon, axes: vec![2], grouped })
}

/// Over the batch where the node trains; else by the given mean and variance, which are no part of what is trained:
/// dx = scale/√(var + ε)·dy
pub(super) fn batch(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let view: BatchNormalization = site.view(tape)?;
    let BatchNormalization { x, scale, bias, mean, var, epsilon, momentum, training_mode } = view;
    let shape = tape.shape(x);
    let axes: Vec<usize> = (0..shape.len()).filter(|&axis| axis != 1).collect();
    if training_mode {
        let results = site.results.clone();
        let running = move |tape: &mut Tape, normalized: &Normalized| {
            // running = momentum·running + (1 - momentum)·of this batch
            let moments = normalized.moments.expect("it is centred");
            for (result, (old, new)) in results[1..].iter().zip([(mean, moments.0), (var, moments.1)]) {
                let Some(result) = *result else { continue };
                let channels = tape.shape(old);
                let new = tape.reshape(new, &channels);
                let (kept, added) = (tape.scale(old, momentum.into()), tape.scale(new, 1.0 - f64::from(momentum)));
                tape.redefine(result, Add { a: kept, b: added });
            }
        };
        return by_channel_with(tape, site, Channels { x, scale, bias, epsilon, axes, grouped: shape }, running);
    }
    if site.wants(3) || site.wants(4) {
        return Err(Refusal("its mean or variance depends on what is trained"));
    }
    let dy = site.dy()?;
    let channel = channel_shape(&shape);
    let positive = tape.shift(var, epsilon.into());
    let inverse = tape.reciprocal_sqrt(positive);
    let factor = tape.mul(scale, inverse);
    let factor = tape.reshape(factor, &channel);
    let dx = site.wants(0).then(|| tape.mul(dy, factor));
    let dscale = site.wants(1).then(|| {
        let mean = tape.reshape(mean, &channel);
        let difference = tape.sub(x, mean);
        let product = tape.mul(dy, difference);
        let sum = tape.sum(product, &axes, false);
        tape.mul(sum, inverse)
    });
    let dbias = site.wants(2).then(|| tape.sum(dy, &axes, false));
    Ok(vec![dx, dscale, dbias])
}

/// Writes out a normalization by given mean and variance: the runtime wants constants there, and what is trained is none.
///
/// y = x·g + b, where g = scale/√(var + ε) and b = bias - mean·g
pub(crate) fn write_out(tape: &mut Tape, node: NodeId) {
    let view: Option<BatchNormalization> = tape.model.view(node);
    let (Some(view), Some(y)) = (view, tape.model.node(node).outputs[0]) else { return };
    let BatchNormalization { x, scale, bias, mean, var, epsilon, .. } = view;
    let channel = channel_shape(&tape.shape(x));
    let (factor, offset) = tape.before(node, |tape| {
        let positive = tape.shift(var, epsilon.into());
        let inverse = tape.reciprocal_sqrt(positive);
        let factor = tape.mul(scale, inverse);
        let moved = tape.mul(mean, factor);
        let offset = tape.sub(bias, moved);
        let factor = tape.reshape(factor, &channel);
        (tape.mul(x, factor), tape.reshape(offset, &channel))
    });
    tape.redefine(y, Add { a: factor, b: offset });
}

/// A normalization whose scale and shift belong to channels.
struct Channels {
    x: ValueId,
    scale: ValueId,
    bias: ValueId,
    epsilon: f32,
    /// The axes of `grouped` that are normalized over.
    axes: Vec<usize>,
    /// The shape in which x is normalized.
    grouped: Vec<usize>,
}

fn by_channel(tape: &mut Tape, site: &Site, over: Channels) -> Result<Gradients, Refusal> {
    by_channel_with(tape, site, over, |_, _| {})
}

fn by_channel_with(
    tape: &mut Tape,
    site: &Site,
    over: Channels,
    also: impl FnOnce(&mut Tape, &Normalized),
) -> Result<Gradients, Refusal> {
    let (dy, y) = (site.dy()?, site.y());
    let Channels { x, scale, bias, epsilon, axes, grouped } = over;
    let shape = tape.shape(x);
    let channel = channel_shape(&shape);
    let (normalized, flat, scale) = tape.before(site.node, |tape| {
        let rows = tape.reshape(x, &grouped);
        let normalized = normalize(tape, rows, &axes, epsilon, true);
        let flat = tape.reshape(normalized.x, &shape);
        let (scale, bias) = (tape.reshape(scale, &channel), tape.reshape(bias, &channel));
        let scaled = tape.mul(flat, scale);
        also(tape, &normalized);
        tape.redefine(y, Add { a: scaled, b: bias });
        (normalized, flat, scale)
    });
    let dx = site.wants(0).then(|| {
        let given = tape.mul(dy, scale);
        let given = tape.reshape(given, &grouped);
        let dx = normalized.gradient(tape, given, &axes);
        tape.reshape(dx, &shape)
    });
    let others: Vec<usize> = (0..shape.len()).filter(|&axis| axis != 1).collect();
    let dscale = site.wants(1).then(|| {
        let product = tape.mul(dy, flat);
        tape.sum(product, &others, false)
    });
    let dbias = site.wants(2).then(|| tape.sum(dy, &others, false));
    Ok(vec![dx, dscale, dbias])
}

/// [C] as it is broadcast over [N, C, ...].
fn channel_shape(shape: &[usize]) -> Vec<usize> {
    let axis = |(i, &n): (usize, &usize)| if i == 1 { n } else { 1 };
    shape.iter().enumerate().skip(1).map(axis).collect()
}

fn only_result(site: &Site) -> Result<(), Refusal> {
    match site.results[1..].iter().all(Option::is_none) {
        true => Ok(()),
        false => Err(Refusal("it also gives its mean")),
    }
}
