//! Maps x·gain + shift that act on each channel by itself: what `fuse-batchnorm` and `fuse-scale` move into layers.

use ndarray::{Array1, ArrayD, IxDyn};

use crate::ir::op::{Add, BatchNormalization, Div, Mul, Neg, Sub};
use crate::ir::{NodeId, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Site};

/// x·gain + shift, where each is one number for all channels or one for each.
#[derive(Clone, Debug)]
pub struct Affine {
    pub gain: Array1<f64>,
    pub shift: Array1<f64>,
}

/// Which axis of a value holds its channels.
#[derive(Clone, Copy, Debug)]
pub struct Channels {
    pub count: usize,
    /// Axes after that of the channels.
    pub from_end: usize,
    /// None where the rank is not known.
    pub rank: Option<usize>,
}

impl Affine {
    /// The map that the Add, Sub, Mul, Div, Neg or BatchNormalization `node` is, and what it maps.
    pub fn read(
        at: &Site,
        node: NodeId,
        channels: impl FnOnce(ValueId) -> Match<Channels>,
    ) -> Match<(ValueId, Affine)> {
        let model = at.model;
        let one_constant = |a: ValueId, b: ValueId| match (model.constant(a), model.constant(b)) {
            (None, Some(_)) => Ok((a, b)),
            (Some(_), None) => Ok((b, a)),
            _ => Err(Miss("not an operation of a value and a constant")),
        };
        let (x, gain, shift) = if let Some(Mul { a, b }) = model.view(node) {
            let (x, c) = one_constant(a, b)?;
            (x, at.reals(c)?, scalar(0.0))
        } else if let Some(Add { a, b }) = model.view(node) {
            let (x, c) = one_constant(a, b)?;
            (x, scalar(1.0), at.reals(c)?)
        } else if let Some(Sub { a, b }) = model.view(node) {
            match one_constant(a, b)? {
                (x, c) if x == a => (x, scalar(1.0), -at.reals(c)?),
                (x, c) => (x, scalar(-1.0), at.reals(c)?),
            }
        } else if let Some(Div { a, b }) = model.view(node) {
            let (x, c) = one_constant(a, b)?;
            require!(x == a, "a constant is divided by the value");
            (x, at.reals(c)?.mapv(f64::recip), scalar(0.0))
        } else if let Some(Neg { x }) = model.view(node) {
            (x, scalar(-1.0), scalar(0.0))
        } else {
            let bn: BatchNormalization = model.view(node).ok_or(Miss("not a map of each channel by itself"))?;
            return Ok((bn.x, Affine::of_normalization(at, &bn, channels(bn.x)?)?));
        };
        let channels = channels(x)?;
        Ok((x, Affine { gain: channels.spread(&gain)?, shift: channels.spread(&shift)? }.checked()?))
    }

    /// x·g + (bias - mean·g), where g = scale / √(var + ε).
    pub fn of_normalization(at: &Site, bn: &BatchNormalization, channels: Channels) -> Match<Affine> {
        require!(!bn.training_mode, "the normalization is in training mode");
        let rank = channels.rank.ok_or(Miss("the rank of the normalized value is not known"))?;
        require!(channels.from_end + 2 == rank, "it normalizes another axis than that of the layer's channels");
        let [scale, bias, mean, var] = [bn.scale, bn.bias, bn.mean, bn.var].map(|value| {
            let vector = at.reals(value)?;
            require!(vector.shape() == [channels.count], "its statistics have another length than there are channels");
            Ok(Array1::from_iter(vector))
        });
        let gain = scale? / (var? + f64::from(bn.epsilon)).mapv(f64::sqrt);
        let shift = bias? - mean? * &gain;
        Affine { gain, shift }.checked()
    }

    /// x·gain, one number for all channels.
    pub fn scaling(gain: f64) -> Affine {
        Affine { gain: Array1::from_elem(1, gain), shift: Array1::zeros(1) }
    }

    pub fn scales(&self) -> bool {
        self.gain.iter().any(|&g| g != 1.0)
    }

    pub fn shifts(&self) -> bool {
        self.shift.iter().any(|&s| s != 0.0)
    }

    fn checked(self) -> Match<Affine> {
        require!(self.gain.iter().chain(&self.shift).all(|x| x.is_finite()), "its constants are not finite");
        Ok(self)
    }
}

impl Channels {
    /// The elements of a constant that varies along the channels alone, when it broadcasts over the value: one, or one a
    /// channel.
    pub fn spread(&self, constant: &ArrayD<f64>) -> Match<Array1<f64>> {
        let rank = constant.ndim();
        require!(rank <= self.rank.unwrap_or(self.from_end + 1), "the constant has more axes than the value");
        let along = |axis: usize| rank - 1 - axis == self.from_end;
        let flat = constant.shape().iter().enumerate().all(|(axis, &length)| length == 1 || along(axis));
        require!(flat, "the constant varies along other axes than the channels");
        let one_each = constant.len() == 1 || constant.len() == self.count;
        require!(one_each, "the constant makes the value larger");
        Ok(constant.iter().copied().collect())
    }
}

fn scalar(x: f64) -> ArrayD<f64> {
    ArrayD::from_elem(IxDyn(&[]), x)
}
