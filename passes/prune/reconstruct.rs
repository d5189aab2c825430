//! Layers behind a cut learn to give what they gave: one after the other, each from what it reads behind those that have
//! learned already.
//!
//! What a layer is to give is looked at where its result has met what it is added to: a block whose result is added to a
//! residual stream makes up for what the stream has lost before.

use std::collections::{HashMap, HashSet};

use ndarray::{Array1, Array2, Axis, s};
use rayon::prelude::*;

use super::cut::Cut;
use crate::data::{Dataset, Random};
use crate::ir::op::{Add, BatchNormalization, Conv, Gemm, MatMul};
use crate::ir::{DType, Model, NodeId, Tensor, Use, ValueId};
use crate::measure::{Reading, Stepwise, SurveyError, Watch};
use crate::passes::least_squares::{Evidence, fit};

/// Rows that a layer learns from, for each number of a row.
const ROWS_FOR_EACH_INPUT: usize = 12;

/// Rows of one sample, at the least.
const FEWEST_ROWS: usize = 32;

/// Numbers of all rows of a layer, at the most.
const MOST_NUMBERS: usize = 1 << 26;

/// Lets layers of `small`, which `cut` has made of `model`, learn from `data`. Returns how many have.
pub fn reconstruct(
    model: &Model,
    small: &mut Model,
    cut: &Cut,
    data: &Dataset,
    seed: u64,
    watch: Watch,
) -> Result<usize, SurveyError> {
    let learners = learners(model, small, cut);
    let [mut exact, mut draft] = [(); 2].map(|()| Stepwise::new(data));
    let mut targets: HashSet<ValueId> = learners.iter().map(|learner| learner.target).collect();
    let mut learned = 0;
    for learner in &learners {
        exact.advance_past(model, learner.target_node, &targets, watch)?;
        draft.advance(small, learner.layer, &HashSet::new(), watch)?;
        targets.remove(&learner.target);
        let rows = learner.rows(small, data.len());
        let evidence = (0..data.len()).into_par_iter().map(|sample| {
            let wanted = exact.tensor(model, sample, learner.target)?;
            let value = |value: ValueId| draft.tensor(small, sample, value);
            learner.evidence(small, &wanted, value, rows, || Random::new(seed, sample as u64))
        });
        let Some(evidence) = evidence.collect::<Option<Vec<Evidence>>>() else { continue };
        let change = fit(&evidence);
        let weight = small.constant(learner.weight).expect("it is one");
        let sum = &learner.matrix(weight) + &change.weights;
        let sum = if learner.is_row { sum } else { sum.reversed_axes().as_standard_layout().into_owned() };
        let shape = weight.shape().to_vec();
        small.set_constant(learner.weight, Tensor::from_vec(shape, sum.into_iter().collect()));
        learner.shift(small, &change.bias);
        learned += 1;
    }
    Ok(learned)
}

/// A layer that reads what a cut has changed, and what it learns.
struct Learner {
    layer: NodeId,
    reading: Reading,
    x: ValueId,
    weight: ValueId,
    /// Whether rows of the weight are outputs.
    is_row: bool,
    /// What the layer gives, how many axes that has, and which are its channels.
    y: ValueId,
    rank: usize,
    /// The outputs that are left; none where all are.
    kept: Option<Vec<usize>>,
    /// The value behind the layer that is to be what it was, and the node that gives it.
    target: ValueId,
    target_node: NodeId,
    /// What leads from the product to the target.
    steps: Vec<Step>,
}

enum Step {
    /// Another value is added.
    Add(ValueId),
    /// Channels are scaled, then shifted.
    Scale(Vec<f32>, Vec<f32>),
}

fn learners(model: &Model, small: &Model, cut: &Cut) -> Vec<Learner> {
    let positions: HashMap<NodeId, usize> =
        model.nodes_of(model.main).enumerate().map(|(at, node)| (node, at)).collect();
    let mut changed: HashSet<ValueId> = HashSet::new();
    let mut learners = Vec::new();
    for node in model.nodes_of(model.main) {
        let of = model.node(node);
        let is_changed = |value: &ValueId| changed.contains(value);
        if of.inputs.first().copied().flatten().is_some_and(|x| is_changed(&x)) && small.is_live(node) {
            learners.extend(Learner::of(small, cut, &positions, node));
        }
        let reads_changed = of.inputs.iter().flatten().any(is_changed);
        changed.extend(of.outputs.iter().flatten().filter(|&&y| reads_changed || cut.touches(y)));
    }
    learners
}

impl Learner {
    fn of(small: &Model, cut: &Cut, positions: &HashMap<NodeId, usize>, layer: NodeId) -> Option<Learner> {
        let reading = Reading::of(small, layer)?;
        let node = small.node(layer);
        let (x, weight, y) = (node.inputs[0]?, node.inputs[1]?, node.outputs[0]?);
        let is_own = small.value(weight).uses.len() == 1;
        if !is_own || small.constant(weight)?.dtype() != DType::F32 {
            return None;
        }
        let rank = cut.shapes.rank(y)?;
        let (is_row, bias) = if let Some(Conv { b, .. }) = small.view(layer) {
            let added = |b: ValueId| Some(small.constant(b)?.elements::<f32>()?.into_owned());
            let bias = match b {
                Some(b) => Some(added(b)?),
                None => None,
            };
            (true, bias.map(|bias| Step::Scale(vec![1.0; bias.len()], bias)))
        } else if let Some(Gemm { c, alpha: 1.0, beta: 1.0, transB, .. }) = small.view(layer) {
            (transB, c.map(Step::Add))
        } else {
            small.view::<MatMul>(layer)?;
            (false, None)
        };
        let channel_axis = reading.channel_axis(rank)?;
        let kept = cut.kept_along(y, channel_axis).map(<[usize]>::to_vec);
        let mut learner = Learner {
            layer,
            reading,
            x,
            weight,
            is_row,
            y,
            rank,
            kept,
            target: y,
            target_node: layer,
            steps: Vec::new(),
        };
        learner.steps.extend(bias);
        // As far as nothing else is computed from the result.
        let mut ahead = Vec::new();
        let mut value = y;
        while let Some(next) = only_reader(small, value).filter(|next| positions.contains_key(next)) {
            let z = small.node(next).outputs.first().copied().flatten()?;
            if let Some(Add { a, b }) = small.view(next) {
                let other = if a == value { b } else { a };
                let is_before = |node: NodeId| positions.get(&node).is_some_and(|at| *at < positions[&layer]);
                let is_known = small.producer(other).is_none_or(is_before);
                if !is_known || cut.shapes.lengths(z) != cut.shapes.lengths(y) {
                    break;
                }
                ahead.push(Step::Add(other));
                if small.constant(other).is_none() {
                    learner.steps.append(&mut ahead);
                    (learner.target, learner.target_node) = (z, next);
                    break;
                }
            } else if let Some(normalization) = small.view(next).filter(|_| channel_axis == 1) {
                let Some(step) = scale_and_shift(small, &normalization) else { break };
                ahead.push(step);
            } else {
                break;
            }
            value = z;
        }
        Some(learner)
    }

    /// How many rows of a sample are looked at.
    fn rows(&self, small: &Model, samples: usize) -> usize {
        let weight = small.constant(self.weight).expect("it is one");
        let groups = self.reading.groups();
        let inputs = weight.len() / self.outputs(weight).max(1);
        let rows = (ROWS_FOR_EACH_INPUT * inputs).div_ceil(samples).max(FEWEST_ROWS);
        rows.min(MOST_NUMBERS / (samples * groups * inputs).max(1)).max(1)
    }

    fn outputs(&self, weight: &Tensor) -> usize {
        weight.shape()[if self.is_row { 0 } else { 1 }]
    }

    /// The weight as a matrix with a row for each output.
    fn matrix(&self, weight: &Tensor) -> Array2<f32> {
        let floats = weight.floats().expect("it is of float32").into_owned();
        let (first, rest) = (weight.shape()[0], weight.shape()[1..].iter().product());
        let array = Array2::from_shape_vec((first, rest), floats).expect("it has as many elements");
        if self.is_row { array } else { array.reversed_axes().as_standard_layout().into_owned() }
    }

    /// What a sample tells, of which `wanted` is the target in the whole model, and `value` gives what the small one holds.
    fn evidence(
        &self,
        small: &Model,
        wanted: &Tensor,
        value: impl Fn(ValueId) -> Option<Tensor>,
        count: usize,
        random: impl Fn() -> Random,
    ) -> Option<Evidence> {
        let rows = self.reading.rows(&value(self.x)?, count, &mut random())?;
        let mut errors = self.reading.results(wanted, wanted.shape(), count, &mut random())?;
        let mut shape = wanted.shape().to_vec();
        if let Some(kept) = &self.kept {
            errors = errors.select(Axis(1), kept);
            shape[self.reading.channel_axis(self.rank)?] = kept.len();
        }
        for step in self.steps.iter().rev() {
            match step {
                Step::Add(other) => {
                    errors -= &self.reading.results(&value(*other)?, &shape, count, &mut random())?;
                }
                Step::Scale(scale, shift) => {
                    errors -= &Array1::from(shift.clone());
                    errors /= &Array1::from(scale.clone());
                }
            }
        }
        let weights = self.matrix(small.constant(self.weight)?);
        let (groups, count, inputs) = rows.dim();
        let each = weights.nrows() / groups;
        if errors.dim() != (count, weights.nrows()) || inputs != weights.ncols() {
            return None;
        }
        for group in 0..groups {
            let part = group * each..(group + 1) * each;
            let given = rows.index_axis(Axis(0), group).dot(&weights.slice(s![part.clone(), ..]).t());
            let mut errors = errors.slice_mut(s![.., part]);
            errors -= &given;
        }
        Some(Evidence { rows, errors })
    }

    /// Adds to what the layer gives: to its bias, or behind it.
    fn shift(&self, small: &mut Model, shift: &[f32]) {
        let node = small.node(self.layer);
        let name = format!("{}.bias", small.value(self.y).name);
        let takes_bias = node.op != "MatMul";
        let known =
            |value: ValueId| small.constant(value).filter(|tensor| tensor.shape() == [shift.len()])?.elements::<f32>();
        let bias = node.inputs.get(2).copied().flatten();
        let behind = only_reader(small, self.y).and_then(|next| {
            let Add { a, b } = small.view(next)?;
            Some(if a == self.y { (next, 1, b) } else { (next, 0, a) })
        });
        let place = match bias {
            Some(bias) => known(bias).map(|floats| (self.layer, 2, floats)),
            None if takes_bias => Some((self.layer, 2, vec![0.0; shift.len()].into())),
            None => behind.and_then(|(next, index, other)| Some((next, index, known(other)?))),
        };
        if let Some((node, index, floats)) = place {
            let sum = floats.iter().zip(shift).map(|(a, b)| a + b).collect();
            let bias = small.add_constant(small.main, &name, Tensor::from_vec(vec![shift.len()], sum));
            small.set_input(node, index, Some(bias));
            return;
        }
        let mut shape = vec![shift.len()];
        if self.reading != Reading::Rows {
            shape.resize(self.rank - 1, 1);
        }
        let again = small.node(self.layer).with_operands(&[]);
        let a = small.insert_before(self.layer, again, &format!("{name}.product"));
        let b = small.add_constant(small.main, &name, Tensor::from_vec(shape, shift.to_vec()));
        small.redefine(self.y, Add { a, b });
    }
}

/// The one node that reads `value`, once, if nothing else does.
fn only_reader(model: &Model, value: ValueId) -> Option<NodeId> {
    let uses = &model.value(value).uses;
    match uses.first().filter(|_| uses.len() == 1)? {
        Use::Node(node, _) => Some(*node),
        Use::Output(..) => None,
    }
}

/// The least that channels are scaled by, over the most, if a target is to lie behind.
const LEAST_SCALE: f32 = 1e-3;

/// x·g + b, where g = scale / √(var + ε) and b = bias - mean·g
fn scale_and_shift(small: &Model, normalization: &BatchNormalization) -> Option<Step> {
    let &BatchNormalization { scale, bias, mean, var, epsilon, .. } = normalization;
    let floats = |value: ValueId| Some(small.constant(value)?.elements::<f32>()?.into_owned());
    let [scale, bias, mean, var] = [floats(scale)?, floats(bias)?, floats(mean)?, floats(var)?];
    let scale: Vec<f32> = scale.iter().zip(&var).map(|(scale, var)| scale / (var + epsilon).sqrt()).collect();
    let shift = bias.iter().zip(&mean).zip(&scale).map(|((bias, mean), scale)| bias - mean * scale).collect();
    let most = scale.iter().fold(0f32, |most, scale| most.max(scale.abs()));
    scale.iter().all(|scale| scale.abs() > LEAST_SCALE * most).then_some(Step::Scale(scale, shift))
}
