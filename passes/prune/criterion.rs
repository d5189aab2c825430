//! How important classes are: one arm for each criterion.

use std::collections::HashMap;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layer::Layer;
use super::probe::{Samples, activations, changes};
use super::select::Groups;
use super::snip::connections;
use super::surgeon;
use super::variational::noise;
use super::weighed::Direction;
use crate::analysis::channels::{Channels, Class};
use crate::data::Random;
use crate::ir::op::{BatchNormalization, Conv};
use crate::ir::{Model, NodeId, Tensor, ValueDef, ValueId};
use crate::pass::PassError;

/// How it is found which channels are missed least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Those with small weights: their share of the sum of magnitudes of each weight that has them.
    L1,
    /// Those with small weights: their share of the sum of squares of each weight that has them.
    #[default]
    L2,
    /// Those that BatchNormalization scales down most; where there is none behind a channel, those with small weights. The pass
    /// `cleanup` merges normalizations into layers: prune before it.
    Batchnorm,
    /// Those whose weights lie nearest to all others of their layer, so that others can stand for them.
    Median,
    /// Those that are small where layers read them, times the weights that they are multiplied with, as their share of each
    /// layer's sum of squares; needs samples.
    Activation,
    /// Those without which outputs change least, to first order; needs samples.
    Taylor,
    /// Those that matter least for the likelihood of what the model says, by the diagonal of the Fisher information; needs
    /// samples.
    Fisher,
    /// Those without which the layers that read them lose least when the weights of all others make up for it (Optimal Brain
    /// Surgeon), which they then do, as with `reconstruct`; needs samples.
    Obs,
    /// Those whose weights matter least for the loss by labels, to first order: for networks that are not trained yet (SNIP);
    /// needs samples with labels.
    Snip,
    /// Those that carry most noise when each is given as much as leaves what the model says alone (variational dropout): it is
    /// learned, while weights stay as they are, in two thousand runs forward and back; needs samples.
    Variational,
    /// Any, chosen by the seed: what other criteria are compared with.
    Random,
}

impl Criterion {
    /// Whether scores tell what is lost, so that it can be compared with what is saved.
    pub fn is_loss(self) -> bool {
        self != Criterion::Random
    }

    pub fn needs_samples(self) -> bool {
        use Criterion::{Activation, Fisher, Obs, Snip, Taylor, Variational};
        matches!(self, Activation | Taylor | Fisher | Obs | Snip | Variational)
    }
}

/// The stream of random numbers that chooses channels.
const CHOICE: u64 = 2 << 32;

/// A model whose classes are compared, and what they are compared by.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub model: &'a Model,
    pub channels: &'a Channels,
    pub layers: &'a [Layer],
    pub groups: &'a Groups,
    pub seed: u64,
}

/// What is lost with each class, in a unit that is the same for all: layers differ in scale, so that of their weights and
/// activations shares are taken. Those that no group has are 0.
pub fn scores(criterion: Criterion, subject: Subject, samples: Option<&Samples>) -> Result<Vec<f64>, PassError> {
    let Subject { channels, seed, .. } = subject;
    let samples = || samples.ok_or_else(|| PassError("its criterion needs samples; give a file with `--data`".into()));
    let energies = || sizes(subject, |tensor, axis| sums_along(tensor, axis, |x| x * x));
    Ok(match criterion {
        Criterion::L1 => sizes(subject, |tensor, axis| sums_along(tensor, axis, f64::abs)),
        Criterion::L2 => energies(),
        Criterion::Batchnorm => batch_scales(subject, energies())?,
        Criterion::Median => sizes(subject, distances),
        Criterion::Activation => activations(subject, samples()?)?,
        Criterion::Taylor => {
            let mut scores = vec![0.0; channels.len()];
            let add = |class: usize, change: f64| scores[class] += change.abs();
            changes(subject, samples()?, Direction::Signs, add)?;
            scores
        }
        Criterion::Fisher => {
            let mut scores = vec![0.0; channels.len()];
            let add = |class: usize, change: f64| scores[class] += change * change;
            changes(subject, samples()?, Direction::Drawn, add)?;
            scores
        }
        Criterion::Obs => surgeon::losses(subject, samples()?)?,
        Criterion::Snip => connections(subject, samples()?)?,
        // The power of a class over that of its noise.
        Criterion::Variational => noise(subject, samples()?)?.into_iter().map(|log| (-log).exp()).collect(),
        Criterion::Random => {
            let places = Random::new(seed, CHOICE).permutation(channels.len());
            places.into_iter().map(|place| place as f64).collect()
        }
    })
}

/// Classes from the least to the most important. Ties are settled by the order of classes.
///
/// Among all groups, the next to go is the one that loses the least for what it saves, or the one of the lowest score where
/// no savings are given. A group that keeps the share k of its scores S has lost -S·ln k: nearly what its scores say while
/// much is left, and without bound when little is.
pub fn order(groups: &Groups, scores: &[f64], savings: Option<&[f64]>, is_local: bool) -> Vec<Class> {
    let mut keys: Vec<(f64, Class)> = Vec::new();
    for members in &groups.members {
        let mut sorted = members.clone();
        sorted.sort_by(|a, b| scores[a.index()].total_cmp(&scores[b.index()]).then(a.cmp(b)));
        let all: f64 = members.iter().map(|class| scores[class.index()]).sum();
        let mut left = 0.0;
        for (rank, &class) in sorted.iter().enumerate().rev() {
            let score = scores[class.index()];
            left += score;
            let key = match savings.map(|savings| savings[class.index()]) {
                _ if is_local => (rank as f64 + 0.5) / members.len() as f64,
                None => score,
                Some(saving) if saving <= 0.0 => f64::INFINITY,
                Some(_) if score <= 0.0 => 0.0,
                Some(saving) => score * (all / left) / saving,
            };
            keys.push((key, class));
        }
    }
    keys.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    keys.into_iter().map(|(_, class)| class).collect()
}

/// What share a class has of each of its weights, summed over the weights.
fn sizes(subject: Subject, size: impl Fn(&Tensor, usize) -> Vec<f64> + Sync) -> Vec<f64> {
    let Subject { model, channels, groups, .. } = subject;
    let scales = scales_behind(model);
    let mut sides: Vec<(ValueId, &Tensor, usize)> = Vec::new();
    for (value, of) in model.all_values() {
        let ValueDef::Constant(tensor) = &of.def else { continue };
        if !tensor.dtype().is_float() || tensor.shape().iter().filter(|&&n| n > 1).count() < 2 {
            continue;
        }
        for (axis, lane) in channels.axes(value).iter().enumerate() {
            let is_asked = |&class: &Class| groups.group(class).is_some();
            if lane.is_some_and(|lane| channels.classes_of(lane).iter().any(is_asked)) {
                sides.push((value, tensor, axis));
            }
        }
    }
    let parts = |&(value, tensor, axis): &(ValueId, &Tensor, usize)| match scales.get(&value) {
        Some(scales) => shares(size(&scaled(tensor, scales), axis)),
        None => shares(size(tensor, axis)),
    };
    let all: Vec<Vec<f64>> = sides.par_iter().map(parts).collect();
    let mut sums = vec![0.0; channels.len()];
    for ((value, _, axis), shares) in sides.into_iter().zip(all) {
        let lane = channels.axis(value, axis).expect("it has one");
        for (class, share) in channels.classes_of(lane).iter().zip(shares) {
            sums[class.index()] += share;
        }
    }
    sums
}

/// For the weights of convolutions with a normalization right behind them, what it multiplies each output with:
/// scale / √(var + ε)
fn scales_behind(model: &Model) -> HashMap<ValueId, Vec<f32>> {
    let scales = |node: NodeId| {
        let BatchNormalization { x, scale, var, epsilon, .. } = model.view(node)?;
        let Conv { w, .. } = model.view(model.producer(x)?)?;
        let floats = |value: ValueId| Some(model.constant(value)?.floats()?.into_owned());
        let (scale, var) = (floats(scale)?, floats(var)?);
        let scales = scale.iter().zip(var).map(|(scale, var)| scale / (var + epsilon).sqrt()).collect();
        (model.value(w).uses.len() == 1).then_some((w, scales))
    };
    model.nodes_of(model.main).filter_map(scales).collect()
}

/// A weight with its rows multiplied.
fn scaled(tensor: &Tensor, scales: &[f32]) -> Tensor {
    let floats = tensor.floats().expect("it holds floats");
    let rows = floats.chunks((floats.len() / scales.len().max(1)).max(1)).zip(scales);
    Tensor::from_vec(tensor.shape().to_vec(), rows.flat_map(|(row, g)| row.iter().map(move |w| w * g)).collect())
}

/// Sizes over their sum.
pub fn shares(sizes: Vec<f64>) -> Vec<f64> {
    let sum = sizes.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    sizes.into_iter().map(|size| size / sum).collect()
}

/// For each place of an axis, the sum of its distances from all others: |a - b|² = |a|² + |b|² - 2·a·b.
fn distances(tensor: &Tensor, axis: usize) -> Vec<f64> {
    let array = tensor.to_array().expect("it holds floats");
    let length = tensor.shape()[axis];
    let mut front = array.view();
    front.swap_axes(0, axis);
    let rows = front.as_standard_layout().into_owned();
    let width = tensor.len() / length.max(1);
    let rows = rows.into_shape_with_order((length, width)).expect("it has as many elements");
    let products = rows.dot(&rows.t());
    let distance = |a: usize, b: usize| {
        let square = products[[a, a]] + products[[b, b]] - 2.0 * products[[a, b]];
        f64::from(square.max(0.0)).sqrt()
    };
    (0..length).map(|a| (0..length).map(|b| distance(a, b)).sum()).collect()
}

/// What share a class has of the |scale| of each normalization behind it, summed over them; `others` where there is none.
fn batch_scales(subject: Subject, others: Vec<f64>) -> Result<Vec<f64>, PassError> {
    let Subject { model, channels, .. } = subject;
    let mut sums: Vec<Option<f64>> = vec![None; channels.len()];
    for node in model.nodes_of(model.main) {
        let Some(BatchNormalization { scale, .. }) = model.view(node) else { continue };
        let (Some(tensor), Some(lane)) = (model.constant(scale), channels.axis(scale, 0)) else { continue };
        let shares = shares(sums_along(tensor, 0, f64::abs));
        for (class, share) in channels.classes_of(lane).iter().zip(shares) {
            *sums[class.index()].get_or_insert(0.0) += share;
        }
    }
    if sums.iter().all(Option::is_none) {
        return Err(PassError(
            "there is no BatchNormalization, of whose scales its criterion is; prune before `cleanup`".into(),
        ));
    }
    Ok(sums.into_iter().zip(others).map(|(sum, other)| sum.unwrap_or(other)).collect())
}

/// The sum of a term of the elements at each place of an axis.
pub fn sums_along(tensor: &Tensor, axis: usize, term: impl Fn(f64) -> f64) -> Vec<f64> {
    let floats = tensor.floats().expect("it holds floats");
    let length = tensor.shape()[axis];
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let mut sums = vec![0.0; length];
    for (index, block) in floats.chunks(inner.max(1)).enumerate() {
        sums[index % length] += block.iter().map(|&x| term(f64::from(x))).sum::<f64>();
    }
    sums
}
