//! The graph of one training step: forward, loss and backward, with the weights as inputs.

use super::TrainError;
use super::gradient::normalization::write_out;
use super::gradient::operators::ScatterND;
use super::gradient::tape::Tape;
use super::gradient::{gradient_on, unroll};
use super::loss::Goal;
use super::weights::Weight;
use crate::ir::op::{BatchNormalization, Identity, LogSoftmax, Softmax};
use crate::ir::{DType, Model, NodeId, Size, Tensor, Type, ValueId};
use crate::runtime::stack::fix_inputs;
use crate::runtime::{Execution, NodeTime, Runner, RuntimeError, Shared};

/// A training step, ready to run on so many samples at a time. Its inputs are those of the model, the weights, the running
/// statistics, and the targets of each output.
pub struct Joint {
    forward: Runner,
    step: Runner,
    /// For each weight, how its gradient comes of the results; none where the loss does not depend on it.
    gradients: Vec<Option<Place>>,
    statistics: Vec<ValueId>,
    /// The shape of each value that is judged, for all samples of a run.
    outputs: Vec<Vec<usize>>,
}

/// What is trained, and how.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub model: &'a Model,
    pub weights: &'a [Weight],
    /// What is judged: their losses are added.
    pub goals: &'a [Goal],
    /// Whether normalizations over the batch take mean and variance of the batch, of which they keep a running mean; else
    /// they use those they have.
    pub batch_statistics: bool,
    /// A tensor for each input of the model.
    pub sample: &'a [Tensor],
    /// How many such samples one run takes.
    pub samples: usize,
}

/// Which results make a gradient.
#[derive(Clone, Copy)]
enum Place {
    Whole(usize),
    Rows { indices: usize, updates: usize },
}

/// The gradient by one weight.
pub enum Gradient {
    Whole(Tensor),
    /// Zeros, but for `updates` that are added to the rows of these indices: of a table of which few rows are read.
    Rows {
        indices: Tensor,
        updates: Tensor,
    },
}

/// What one run gives, summed over its samples.
pub struct Step {
    pub loss: f64,
    /// In the order of the weights; none where the loss does not depend on one.
    pub gradients: Vec<Option<Gradient>>,
    /// Running means and variances behind these samples.
    pub statistics: Vec<Tensor>,
}

impl Joint {
    /// # Errors
    /// If the gradient by a weight is not known, or the graph does not run: found before anything is computed.
    pub fn new(plan: &Plan) -> Result<Joint, TrainError> {
        let Written { forward, model, loss, gradients, normalizations, running, outputs } = Written::of(plan, true)?;
        let training = Execution::training();
        let judged: Vec<ValueId> = std::iter::once(loss).chain(plan.goals.iter().map(|goal| goal.value)).collect();
        let forward = Runner::with(&forward, &judged, &training)?;
        let mut results = vec![loss];
        let mut place = |value: ValueId| {
            results.push(value);
            results.len() - 1
        };
        let gradients: Vec<Option<Place>> = gradients
            .iter()
            .map(|gradient| {
                let gradient = (*gradient)?;
                Some(match rows(&model, gradient) {
                    Some((indices, updates)) => Place::Rows { indices: place(indices), updates: place(updates) },
                    None => Place::Whole(place(gradient)),
                })
            })
            .collect();
        if results.len() == 1 {
            return Err(TrainError::NoWeights);
        }
        results.extend(running);
        let step = Runner::with(&model, &results, &training)?;
        Ok(Joint { forward, step, gradients, statistics: normalizations, outputs })
    }

    /// The step as a model in standard operators: what it takes, and its outputs, then `loss` and for each weight
    /// `gradient.<its name>`, all summed over the samples.
    ///
    /// # Errors
    /// As [`new`](Joint::new).
    pub fn graph(plan: &Plan) -> Result<Model, TrainError> {
        let Written { mut model, loss, gradients, .. } = Written::of(plan, false)?;
        let main = model.main;
        let names = plan.weights.iter().map(|weight| format!("gradient.{}", plan.model.value(weight.value).name));
        let named = std::iter::once(("loss".to_string(), Some(loss))).chain(names.zip(gradients));
        let named: Vec<(String, Option<ValueId>)> = named.collect();
        let types: Vec<_> = {
            let tape = Tape::new(&mut model);
            named.iter().map(|(_, value)| value.and_then(|value| tape.known(value))).collect()
        };
        for ((name, value), ty) in named.iter().zip(types) {
            let (Some(value), Some((dtype, shape))) = (*value, ty) else { continue };
            let output = model.append(main, name, Identity { x: value });
            model.set_type(output, Some(Type::tensor(dtype, shape.iter().map(|&n| Size::Fixed(n as i64)))));
            model.add_output(main, output);
        }
        Ok(model)
    }

    /// Constants that follow from the samples and not from gradients: running means and variances.
    pub fn statistics(&self) -> &[ValueId] {
        &self.statistics
    }

    /// The shape of each value that is judged, for all samples of a run.
    pub fn outputs(&self) -> &[Vec<usize>] {
        &self.outputs
    }

    /// The loss and its gradients, for inputs in the order of the graph.
    pub fn step(&self, inputs: &[Shared]) -> Result<Step, RuntimeError> {
        let results = self.step.run_shared(inputs)?;
        let gradient = |place: &Place| match *place {
            Place::Whole(whole) => Gradient::Whole(results[whole].clone()),
            Place::Rows { indices, updates } => {
                Gradient::Rows { indices: results[indices].clone(), updates: results[updates].clone() }
            }
        };
        Ok(Step {
            loss: loss_of(&results[0]),
            gradients: self.gradients.iter().map(|place| place.as_ref().map(gradient)).collect(),
            statistics: results[results.len() - self.statistics.len()..].to_vec(),
        })
    }

    /// The time of each node of a step.
    pub fn profile(&self, inputs: &[Shared]) -> Result<Vec<NodeTime>, RuntimeError> {
        let inputs = inputs.iter().map(Shared::to_tensor).collect::<Result<Vec<_>, _>>()?;
        self.step.prepare(&inputs)?;
        Ok(self.step.profile(&inputs)?.1)
    }

    /// The loss and the outputs, with the running statistics.
    pub fn forward(&self, inputs: &[Shared]) -> Result<(f64, Vec<Tensor>), RuntimeError> {
        let mut results = self.forward.run_shared(inputs)?;
        let outputs = results.split_off(1);
        Ok((loss_of(&results[0]), outputs))
    }
}

/// The graph of a step.
struct Written {
    /// Without gradients.
    forward: Model,
    model: Model,
    loss: ValueId,
    gradients: Vec<Option<ValueId>>,
    /// What [`Joint::statistics`] are, and what they become.
    normalizations: Vec<ValueId>,
    running: Vec<ValueId>,
    outputs: Vec<Vec<usize>>,
}

impl Written {
    /// With operators of ours where `has_ours`, else in standard ones.
    fn of(plan: &Plan, has_ours: bool) -> Result<Written, TrainError> {
        let mut model = plan.model.clone();
        fix_inputs(&mut model, plan.sample, plan.samples)
            .map_err(|input| TrainError::Default(plan.model.value(input).name.clone()))?;
        let normalizations = if plan.batch_statistics { normalizations(&model, plan.weights) } else { Vec::new() };
        let statistics: Vec<ValueId> = normalizations.iter().flat_map(|(_, running)| *running).collect();
        let weights: Vec<ValueId> = plan.weights.iter().map(|weight| weight.value).collect();
        model.make_inputs(&[&weights[..], &statistics].concat());

        let mut tape = Tape::new(&mut model);
        tape.prefix = "loss".into();
        let (mut total, mut outputs) = (None, Vec::new());
        for goal in plan.goals {
            outputs.push(check_output(&tape, goal.value, plan.samples)?);
            let loss = goal.write(&mut tape);
            total = Some(total.map_or(loss, |total| tape.add(total, loss)));
        }
        let loss = total.ok_or(TrainError::NoOutput)?;
        unroll(&mut tape, loss, &weights)?;
        let mut forward = model.clone();
        write_out_normalizations(&mut forward, &[]);
        let in_training: Vec<NodeId> = normalizations.iter().map(|(node, _)| *node).collect();
        write_out_normalizations(&mut model, &in_training);

        let running = normalizations.iter().flat_map(|(node, _)| train_normalization(&mut model, *node)).collect();
        let mut tape = Tape::new(&mut model);
        tape.has_ours = has_ours;
        let gradients = gradient_on(&mut tape, loss, &weights)?;
        tape.declare();
        Ok(Written { forward, model, loss, gradients, normalizations: statistics, running, outputs })
    }
}

/// Indices and updates of a gradient that is zeros but for some rows.
fn rows(model: &Model, gradient: ValueId) -> Option<(ValueId, ValueId)> {
    let ScatterND { data, indices, updates, reduction } = model.view(model.producer(gradient)?)?;
    let zeros = model.constant(data)?.floats()?;
    (reduction == "add" && zeros.iter().all(|&x| x == 0.0)).then_some((indices, updates))
}

fn loss_of(tensor: &Tensor) -> f64 {
    f64::from(tensor.as_float().unwrap_or(f32::NAN))
}

fn check_output(tape: &Tape, output: ValueId, samples: usize) -> Result<Vec<usize>, TrainError> {
    let wrong = |why| TrainError::Output { output: tape.model.value(output).name.clone(), why };
    let (dtype, shape) = tape.known(output).ok_or_else(|| wrong("its shape is not fixed"))?;
    match &shape[..] {
        _ if dtype != DType::F32 => Err(wrong("it is no float32")),
        [rows, _, ..] if *rows > 0 && rows % samples == 0 => Ok(shape),
        _ => Err(wrong("its first axis does not count samples")),
    }
}

/// Before Softmax, or its logarithm, along the last axis.
pub fn logits(model: &Model, output: ValueId) -> ValueId {
    let Some(node) = model.producer(output) else { return output };
    let softmax = model.view::<Softmax>(node).map(|Softmax { x, axis }| (x, axis));
    let log = model.view::<LogSoftmax>(node).map(|LogSoftmax { x, axis }| (x, axis));
    match (softmax.or(log), model.view::<Identity>(node)) {
        (Some((x, axis)), _) if axis == -1 || axis + 1 == rank(model, output) => x,
        (_, Some(Identity { x })) => logits(model, x),
        _ => output,
    }
}

/// The declared rank; -1 where there is none.
fn rank(model: &Model, value: ValueId) -> i64 {
    let shape = model.value(value).ty.as_ref().and_then(Type::as_tensor).and_then(|tensor| tensor.shape.as_ref());
    shape.map_or(-1, |dims| dims.len() as i64)
}

/// Normalizations over the batch that are trained, with their means and variances.
fn normalizations(model: &Model, weights: &[Weight]) -> Vec<(NodeId, [ValueId; 2])> {
    let trained = |value: ValueId| weights.iter().any(|weight| weight.value == value);
    let nodes = model.nodes_of(model.main);
    let found = nodes.filter_map(|node| {
        let BatchNormalization { scale, bias, mean, var, training_mode, .. } = model.view(node)?;
        let known = model.constant(mean).is_some() && model.constant(var).is_some() && mean != var;
        ((trained(scale) || trained(bias)) && known && !training_mode).then_some((node, [mean, var]))
    });
    found.collect()
}

/// Writes out the normalizations by given mean and variance whose parameters are inputs, but for some.
fn write_out_normalizations(model: &mut Model, except: &[NodeId]) {
    let is_open = |node: &NodeId| {
        let view: Option<BatchNormalization> = model.view(*node);
        view.is_some_and(|view| {
            let parameters = [view.scale, view.bias, view.mean, view.var];
            !view.training_mode && parameters.iter().any(|&value| model.constant(value).is_none())
        })
    };
    let found: Vec<NodeId> = model.nodes_of(model.main).filter(is_open).filter(|node| !except.contains(node)).collect();
    if found.is_empty() {
        return;
    }
    let mut tape = Tape::new(model);
    tape.prefix = "normalization".into();
    found.into_iter().for_each(|node| write_out(&mut tape, node));
    tape.declare();
}

/// Lets a normalization use the statistics of the batch, and returns the running ones behind it.
fn train_normalization(model: &mut Model, node: NodeId) -> [ValueId; 2] {
    let view: BatchNormalization = model.view(node).expect("it was found by its view");
    let y = model.node(node).outputs[0].expect("it has a result");
    let name = model.value(y).name.clone();
    let results = model.insert_many_before(node, BatchNormalization { training_mode: true, ..view }, &name, 3);
    model.replace_uses(y, results[0]);
    model.sweep(node);
    [results[1], results[2]]
}
