//! How important classes are: one arm for each criterion.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layer::Layer;
use super::probe::{Samples, activations, changes};
use super::select::Groups;
use super::snip::connections;
use super::weighed::Direction;
use crate::analysis::channels::{Channels, Class};
use crate::data::Random;
use crate::ir::op::BatchNormalization;
use crate::ir::{Model, Tensor, ValueDef, ValueId};
use crate::pass::PassError;

/// How it is found which channels are missed least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Those with small weights: the sum of their magnitudes.
    L1,
    /// Those with small weights: the root of the sum of their squares.
    #[default]
    L2,
    /// Those that BatchNormalization scales down most; where there is none behind a channel, those with small weights. The pass
    /// `cleanup` merges normalizations into layers: prune before it.
    Batchnorm,
    /// Those whose weights lie nearest to all others of their layer, so that others can stand for them.
    Median,
    /// Those that are small where layers read them, times the weights that they are multiplied with; needs samples.
    Activation,
    /// Those without which outputs change least, to first order; needs samples.
    Taylor,
    /// Those that matter least for the likelihood of what the model says, by the diagonal of the Fisher information; needs
    /// samples.
    Fisher,
    /// Those whose weights matter least for the loss by labels, to first order: for networks that are not trained yet (SNIP);
    /// needs samples with labels.
    Snip,
    /// Any, chosen by the seed: what other criteria are compared with.
    Random,
}

impl Criterion {
    pub fn needs_samples(self) -> bool {
        matches!(self, Criterion::Activation | Criterion::Taylor | Criterion::Fisher | Criterion::Snip)
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

/// The importance of each class; those that no group has are 0.
pub fn scores(criterion: Criterion, subject: Subject, samples: Option<&Samples>) -> Result<Vec<f64>, PassError> {
    let Subject { channels, seed, .. } = subject;
    let samples = || samples.ok_or_else(|| PassError("its criterion needs samples; give a file with `--data`".into()));
    let norms =
        || sizes(subject, |tensor, axis| sums_along(tensor, axis, |x| x * x).into_iter().map(f64::sqrt).collect());
    Ok(match criterion {
        Criterion::L1 => sizes(subject, |tensor, axis| sums_along(tensor, axis, f64::abs)),
        Criterion::L2 => norms(),
        Criterion::Batchnorm => batch_scales(subject, norms())?,
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
        Criterion::Snip => connections(subject, samples()?)?,
        Criterion::Random => {
            let places = Random::new(seed, CHOICE).permutation(channels.len());
            places.into_iter().map(|place| place as f64).collect()
        }
    })
}

/// Classes from the least to the most important. Ties are settled by the order of classes.
pub fn order(groups: &Groups, scores: &[f64], is_local: bool) -> Vec<Class> {
    let mut keys: Vec<(f64, Class)> = Vec::new();
    for members in &groups.members {
        let mut sorted = members.clone();
        sorted.sort_by(|a, b| scores[a.index()].total_cmp(&scores[b.index()]).then(a.cmp(b)));
        for (rank, &class) in sorted.iter().enumerate() {
            let key = if is_local { (rank as f64 + 0.5) / members.len() as f64 } else { scores[class.index()] };
            keys.push((key, class));
        }
    }
    keys.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    keys.into_iter().map(|(_, class)| class).collect()
}

/// The mean size of the slices of weights that a class has, each over the mean of its weight and axis: layers differ in
/// scale.
fn sizes(subject: Subject, size: impl Fn(&Tensor, usize) -> Vec<f64> + Sync) -> Vec<f64> {
    let Subject { model, channels, groups, .. } = subject;
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
    let all: Vec<Vec<f64>> = sides.par_iter().map(|&(_, tensor, axis)| relative(size(tensor, axis))).collect();
    let (mut sums, mut counts) = (vec![0.0; channels.len()], vec![0usize; channels.len()]);
    for ((value, _, axis), sizes) in sides.into_iter().zip(all) {
        let lane = channels.axis(value, axis).expect("it has one");
        for (class, size) in channels.classes_of(lane).iter().zip(sizes) {
            sums[class.index()] += size;
            counts[class.index()] += 1;
        }
    }
    sums.into_iter().zip(counts).map(|(sum, count)| sum / count.max(1) as f64).collect()
}

/// Sizes over their mean.
fn relative(sizes: Vec<f64>) -> Vec<f64> {
    let mean = sizes.iter().sum::<f64>() / sizes.len().max(1) as f64;
    sizes.into_iter().map(|size| size / mean.max(f64::MIN_POSITIVE)).collect()
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

/// The mean |scale| of the normalizations behind a class, over the mean of each; `others` where there is none.
fn batch_scales(subject: Subject, others: Vec<f64>) -> Result<Vec<f64>, PassError> {
    let Subject { model, channels, .. } = subject;
    let (mut sums, mut counts) = (vec![0.0; channels.len()], vec![0usize; channels.len()]);
    for node in model.nodes_of(model.main) {
        let Some(BatchNormalization { scale, .. }) = model.view(node) else { continue };
        let (Some(tensor), Some(lane)) = (model.constant(scale), channels.axis(scale, 0)) else { continue };
        let scales = relative(sums_along(tensor, 0, f64::abs));
        for (class, size) in channels.classes_of(lane).iter().zip(scales) {
            sums[class.index()] += size;
            counts[class.index()] += 1;
        }
    }
    if counts.iter().all(|&count| count == 0) {
        return Err(PassError(
            "there is no BatchNormalization, of whose scales its criterion is; prune before `cleanup`".into(),
        ));
    }
    let score = |((sum, count), other): ((f64, usize), f64)| if count > 0 { sum / count as f64 } else { other };
    Ok(sums.into_iter().zip(counts).zip(others).map(score).collect())
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
