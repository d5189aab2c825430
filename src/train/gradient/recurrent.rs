//! Recurrent layers, written out step by step in ordinary operators, through which gradients go as through any others.
//!
//! What does not wait for the step before, the product of x and W, is computed for all steps at once. Samples that are
//! shorter than others keep their state at the steps that they do not have.

use super::Refusal;
use super::operators::{GRU, LSTM, Less, RNN};
use super::tape::Tape;
use crate::ir::op::{Gemm, Reshape, Where};
use crate::ir::{Attr, DType, Model, NodeId, Operation, Tensor, ValueId};

/// The operators that are written out.
pub(super) const OPERATORS: &[&str] = &["GRU", "LSTM", "RNN"];

/// Activations, with the `alpha` and `beta` that they take and have by default.
const ACTIVATIONS: &[(&str, [Option<f32>; 2])] = &[
    ("Elu", [Some(1.0), None]),
    ("HardSigmoid", [Some(0.2), Some(0.5)]),
    ("LeakyRelu", [Some(0.01), None]),
    ("Relu", [None, None]),
    ("Sigmoid", [None, None]),
    ("Softplus", [None, None]),
    ("Softsign", [None, None]),
    ("Tanh", [None, None]),
    ("ThresholdedRelu", [Some(1.0), None]),
];

#[derive(Clone, Copy)]
struct Activation {
    op: &'static str,
    parameters: [Option<f32>; 2],
}

/// A recurrent layer of any kind.
struct Layer {
    kind: Kind,
    x: ValueId,
    w: ValueId,
    r: ValueId,
    b: Option<ValueId>,
    /// How many steps each sample has, where not all have all.
    lengths: Option<ValueId>,
    /// What each state starts from; zeros where nothing is given.
    initial: Vec<Option<ValueId>>,
    peepholes: Option<ValueId>,
    /// For each direction, whether it goes backwards.
    directions: Vec<bool>,
    /// Of all directions.
    activations: Vec<Activation>,
    clip: Option<f32>,
    batch_first: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Whether f is 1 - i.
    Lstm {
        is_coupled: bool,
    },
    Gru {
        linear_before_reset: bool,
    },
    Rnn,
}

impl Kind {
    /// Rows of W for each row of the state.
    fn gates(self) -> usize {
        match self {
            Kind::Lstm { .. } => 4,
            Kind::Gru { .. } => 3,
            Kind::Rnn => 1,
        }
    }

    fn default_activations(self) -> &'static [&'static str] {
        match self {
            Kind::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
            Kind::Gru { .. } => &["Sigmoid", "Tanh"],
            Kind::Rnn => &["Tanh"],
        }
    }
}

/// What one direction has at each step.
struct Cell<'a> {
    kind: Kind,
    /// `[gates·H, H]`
    r: ValueId,
    /// What is added to h·Rᵀ alone, where that is not part of what x gives.
    recurrent_bias: Option<ValueId>,
    /// Pᵢ, Pₒ and P_f
    peepholes: Option<[ValueId; 3]>,
    activations: &'a [Activation],
    /// The bounds of what activations read.
    bounds: Option<[ValueId; 2]>,
    hidden: usize,
}

pub(super) fn is_recurrent(model: &Model, node: NodeId) -> bool {
    let node = model.node(node);
    node.domain.is_empty() && OPERATORS.contains(&node.op.as_str())
}

/// Writes out a recurrent layer whose operands have fixed shapes. What is refused is refused before anything is written.
pub(super) fn write_out(tape: &mut Tape, node: NodeId) -> Result<(), Refusal> {
    let layer = Layer::read(tape, node)?;
    let results = tape.model.node(node).outputs.clone();
    let is_read = |value: &ValueId| !tape.model.value(*value).uses.is_empty();
    let wanted: Vec<Option<ValueId>> =
        (0..3).map(|place| results.get(place).copied().flatten().filter(is_read)).collect();
    let written = tape.before(node, |tape| layer.write(tape, wanted[0].is_some()));
    for (value, written) in wanted.into_iter().zip(written) {
        if let (Some(value), Some(x)) = (value, written) {
            let shape: Vec<i64> = tape.shape(value).iter().map(|&n| n as i64).collect();
            let shape = tape.ints(&shape);
            tape.redefine(value, Reshape { x, shape, allowzero: 0 });
        }
    }
    Ok(())
}

impl Layer {
    fn read(tape: &Tape, node: NodeId) -> Result<Layer, Refusal> {
        let model = &*tape.model;
        let unknown = Refusal("it has operands or attributes that no gradient is known of");
        // What the three kinds have in common, under the same names.
        macro_rules! layer {
            ($view:ident, $kind:expr, $initial:expr, $peepholes:expr) => {{
                let layer = Layer {
                    kind: $kind,
                    x: $view.x,
                    w: $view.w,
                    r: $view.r,
                    b: $view.b,
                    lengths: $view.sequence_lens,
                    initial: $initial,
                    peepholes: $peepholes,
                    directions: vec![],
                    activations: vec![],
                    clip: $view.clip,
                    batch_first: $view.layout,
                };
                (layer, $view.direction, $view.activations, $view.activation_alpha, $view.activation_beta)
            }};
        }
        let (layer, direction, names, alphas, betas) = if let Some(view) = model.view::<LSTM>(node) {
            let kind = Kind::Lstm { is_coupled: view.input_forget };
            layer!(view, kind, vec![view.initial_h, view.initial_c], view.p)
        } else if let Some(view) = model.view::<GRU>(node) {
            let kind = Kind::Gru { linear_before_reset: view.linear_before_reset };
            layer!(view, kind, vec![view.initial_h], None)
        } else {
            let view: RNN = model.view(node).ok_or(unknown)?;
            layer!(view, Kind::Rnn, vec![view.initial_h], None)
        };
        let directions = match direction.as_str() {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            _ => return Err(Refusal("its direction is none that ONNX has")),
        };
        let names = match names.is_empty() {
            true => layer.kind.default_activations().repeat(directions.len()),
            false => names.iter().map(|name| std::str::from_utf8(name).unwrap_or_default()).collect(),
        };
        let activations = activations(&names, &alphas, &betas)?;
        let layer = Layer { directions, activations, ..layer };
        layer.check(tape)?;
        let steps = layer.steps(tape) as i64;
        let all =
            layer.lengths.and_then(|lengths| tape.elements(lengths)).is_some_and(|n| n.iter().all(|&n| n >= steps));
        Ok(Layer { lengths: layer.lengths.filter(|_| !all), ..layer })
    }

    /// Refuses operands that do not fit each other.
    fn check(&self, tape: &Tape) -> Result<(), Refusal> {
        let (x, w, r) = (tape.shape(self.x), tape.shape(self.w), tape.shape(self.r));
        let (&[_, _, input], &[_, _, hidden]) = (&x[..], &r[..]) else {
            return Err(Refusal("its operands have other ranks than ONNX gives them"));
        };
        let (directions, rows) = (self.directions.len(), self.kind.gates() * hidden);
        let batch = x[usize::from(!self.batch_first)];
        let state = if self.batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
        let has = |value: Option<ValueId>, shape: &[usize]| value.is_none_or(|value| tape.shape(value) == shape);
        let fits = w == [directions, rows, input]
            && r == [directions, rows, hidden]
            && has(self.b, &[directions, 2 * rows])
            && has(self.peepholes, &[directions, 3 * hidden])
            && has(self.lengths, &[batch])
            && self.initial.iter().all(|&initial| has(initial, &state))
            && self.activations.len() == directions * self.kind.default_activations().len();
        match fits && self.steps(tape) > 0 {
            true => Ok(()),
            false => Err(Refusal("the shapes of its operands do not fit each other")),
        }
    }

    fn steps(&self, tape: &Tape) -> usize {
        tape.shape(self.x)[usize::from(self.batch_first)]
    }

    /// All results, of the elements that they have, in order; the first only where it is wanted.
    fn write(&self, tape: &mut Tape, wants_all: bool) -> Vec<Option<ValueId>> {
        let (steps, hidden) = (self.steps(tape), tape.shape(self.r)[2]);
        let in_time = if self.batch_first { tape.transpose(self.x, &[1, 0, 2]) } else { self.x };
        let (batch, input) = (tape.shape(in_time)[1], tape.shape(in_time)[2]);
        let rows = tape.reshape(in_time, &[steps * batch, input]);
        let masks = self.lengths.map(|lengths| masks(tape, lengths, steps));
        let mut all: Vec<Vec<ValueId>> = vec![Vec::new(); steps];
        let mut last: Vec<Vec<ValueId>> = vec![Vec::new(); self.initial.len()];
        for (index, &backwards) in self.directions.iter().enumerate() {
            let (cell, bias) = self.cell(tape, index, hidden);
            let w = direction(tape, self.w, 0, index);
            let projected = product(tape, rows, w, bias);
            let projected = tape.split(projected, 0, &vec![batch; steps]);
            let mut states: Vec<ValueId> = Vec::new();
            for &initial in &self.initial {
                states.push(match initial {
                    Some(initial) => direction(tape, initial, usize::from(self.batch_first), index),
                    None => tape.filled(0.0, &[batch, hidden], self.x),
                });
            }
            let order: Vec<usize> = if backwards { (0..steps).rev().collect() } else { (0..steps).collect() };
            for step in order {
                let mut next = cell.step(tape, projected[step], &states);
                let mut result = next[0];
                if let Some(masks) = &masks {
                    let keep = |tape: &mut Tape, new: ValueId, old: ValueId| {
                        let (dtype, shape) = (tape.dtype(new), tape.shape(new));
                        tape.write(Where { condition: masks[step], x: new, y: old }, dtype, shape)
                    };
                    if wants_all {
                        let zero = tape.scalar(0.0, result);
                        result = keep(tape, result, zero);
                    }
                    next = std::iter::zip(next, &states).map(|(new, &old)| keep(tape, new, old)).collect();
                }
                states = next;
                all[step].push(result);
            }
            last.iter_mut().zip(states).for_each(|(last, state)| last.push(state));
        }
        let axis = usize::from(self.batch_first);
        let all = wants_all.then(|| tape.concat(all.concat(), axis));
        let last = last.into_iter().map(|states| Some(tape.concat(states, axis)));
        std::iter::once(all).chain(last).collect()
    }

    /// What the steps of direction `index` have, and what is added to x·Wᵀ.
    fn cell(&self, tape: &mut Tape, index: usize, hidden: usize) -> (Cell<'_>, Option<ValueId>) {
        let rows = self.kind.gates() * hidden;
        let biases = self.b.map(|b| {
            let both = direction(tape, b, 0, index);
            tape.split(both, 0, &[rows, rows])
        });
        let (bias, recurrent_bias) = match (biases.as_deref(), self.kind) {
            (Some(&[w, r]), Kind::Gru { linear_before_reset: true }) => (Some(w), Some(r)),
            (Some(&[w, r]), _) => (Some(tape.add(w, r)), None),
            _ => (None, None),
        };
        let peepholes = self.peepholes.map(|peepholes| {
            let all = direction(tape, peepholes, 0, index);
            let each = tape.split(all, 0, &[hidden; 3]);
            [each[0], each[1], each[2]]
        });
        let bounds = self.clip.map(|clip| [-clip, clip].map(|bound| tape.scalar(bound.into(), self.x)));
        let count = self.activations.len() / self.directions.len();
        let activations = &self.activations[index * count..][..count];
        let r = direction(tape, self.r, 0, index);
        (Cell { kind: self.kind, r, recurrent_bias, peepholes, activations, bounds, hidden }, bias)
    }
}

impl Cell<'_> {
    /// The states behind a step, of which the first is its result. `x` is what x gives, `[N, gates·H]`.
    fn step(&self, tape: &mut Tape, x: ValueId, states: &[ValueId]) -> Vec<ValueId> {
        match (self.kind, states) {
            (Kind::Lstm { is_coupled }, &[h, c]) => self.lstm(tape, x, h, c, is_coupled),
            (Kind::Gru { linear_before_reset: true }, &[h, ..]) => self.gru_reset_behind(tape, x, h),
            (Kind::Gru { .. }, &[h, ..]) => self.gru_reset_before(tape, x, h),
            (_, states) => {
                // h' = f(x + h·Rᵀ)
                let sum = product(tape, states[0], self.r, Some(x));
                vec![self.activate(tape, 0, sum)]
            }
        }
    }

    /// i, o, f, g = x + h·Rᵀ, and P∘c for the first three, where o sees c'; c' = σ(f)∘c + σ(i)∘tanh(g); h' = σ(o)∘tanh(c')
    fn lstm(&self, tape: &mut Tape, x: ValueId, h: ValueId, c: ValueId, is_coupled: bool) -> Vec<ValueId> {
        let sums = product(tape, h, self.r, Some(x));
        let n = self.hidden;
        let (i, o, f, g) = match self.peepholes {
            None => {
                let parts = tape.split(sums, 1, &[3 * n, n]);
                let gates = self.activate(tape, 0, parts[0]);
                let gates = tape.split(gates, 1, &[n; 3]);
                (gates[0], gates[1], gates[2], parts[1])
            }
            Some([pi, _, pf]) => {
                let parts = tape.split(sums, 1, &[n; 4]);
                let i = self.see(tape, parts[0], pi, c);
                let f = if is_coupled { i } else { self.see(tape, parts[2], pf, c) };
                (i, parts[1], f, parts[3])
            }
        };
        let f = if is_coupled { complement(tape, i) } else { f };
        let g = self.activate(tape, 1, g);
        let (kept, added) = (tape.mul(f, c), tape.mul(i, g));
        let c = tape.add(kept, added);
        let o = match self.peepholes {
            None => o,
            Some([_, po, _]) => self.see(tape, o, po, c),
        };
        // As ONNX Runtime has it, which clips what gates read and not the cell.
        let shown = self.activations[2].write(tape, c);
        vec![tape.mul(o, shown), c]
    }

    /// σ(x + P∘c)
    fn see(&self, tape: &mut Tape, x: ValueId, peephole: ValueId, c: ValueId) -> ValueId {
        let seen = tape.mul(c, peephole);
        let sum = tape.add(x, seen);
        self.activate(tape, 0, sum)
    }

    /// z, r = σ(x + h·Rᵀ); g = tanh(x + (r∘h)·Rᵀ); h' = g + z∘(h - g)
    fn gru_reset_before(&self, tape: &mut Tape, x: ValueId, h: ValueId) -> Vec<ValueId> {
        let n = self.hidden;
        let (x, rows) = (tape.split(x, 1, &[2 * n, n]), tape.split(self.r, 0, &[2 * n, n]));
        let sums = product(tape, h, rows[0], Some(x[0]));
        let gates = self.activate(tape, 0, sums);
        let gates = tape.split(gates, 1, &[n; 2]);
        let reset = tape.mul(gates[1], h);
        let g = product(tape, reset, rows[1], Some(x[1]));
        vec![self.blend(tape, g, gates[0], h)]
    }

    /// z, r = σ(x + h·Rᵀ + b); g = tanh(x + r∘(h·Rᵀ + b)); h' = g + z∘(h - g)
    fn gru_reset_behind(&self, tape: &mut Tape, x: ValueId, h: ValueId) -> Vec<ValueId> {
        let n = self.hidden;
        let recurrent = product(tape, h, self.r, self.recurrent_bias);
        let (x, recurrent) = (tape.split(x, 1, &[2 * n, n]), tape.split(recurrent, 1, &[2 * n, n]));
        let sums = tape.add(x[0], recurrent[0]);
        let gates = self.activate(tape, 0, sums);
        let gates = tape.split(gates, 1, &[n; 2]);
        let reset = tape.mul(gates[1], recurrent[1]);
        let g = tape.add(x[1], reset);
        vec![self.blend(tape, g, gates[0], h)]
    }

    /// tanh(g) + z∘(h - tanh(g))
    fn blend(&self, tape: &mut Tape, g: ValueId, z: ValueId, h: ValueId) -> ValueId {
        let g = self.activate(tape, 1, g);
        let difference = tape.sub(h, g);
        let kept = tape.mul(z, difference);
        tape.add(g, kept)
    }

    /// The activation of this place, of what is clipped before.
    fn activate(&self, tape: &mut Tape, place: usize, x: ValueId) -> ValueId {
        let x = self.bounds.map_or(x, |[low, high]| tape.clip(x, low, high));
        self.activations[place].write(tape, x)
    }
}

impl Activation {
    fn write(self, tape: &mut Tape, x: ValueId) -> ValueId {
        let named = ["alpha", "beta"].into_iter().zip(self.parameters);
        let attrs = named.filter_map(|(name, x)| Some((name.to_string(), Attr::Float(x?)))).collect();
        tape.map(Operation { op: self.op.into(), inputs: vec![Some(x)], attrs, ..Operation::default() })
    }
}

/// The activations of all directions. Numbers go to those that take some, in their order.
fn activations(names: &[&str], alphas: &[f32], betas: &[f32]) -> Result<Vec<Activation>, Refusal> {
    let mut given = [alphas.iter(), betas.iter()];
    let find = |name: &&str| {
        let known = ACTIVATIONS.iter().find(|(op, _)| op == name);
        let &(op, defaults) = known.ok_or(Refusal("no gradient is known of one of its activations"))?;
        let mut parameters = defaults;
        for (parameter, given) in parameters.iter_mut().zip(&mut given) {
            *parameter = parameter.map(|default| given.next().copied().unwrap_or(default));
        }
        Ok(Activation { op, parameters })
    };
    names.iter().map(find).collect()
}

/// For each step, which samples have it, `[N, 1]`.
fn masks(tape: &mut Tape, lengths: ValueId, steps: usize) -> Vec<ValueId> {
    let batch = tape.shape(lengths)[0];
    let lengths = tape.reshape(lengths, &[batch, 1]);
    let mask = |step: usize| {
        let step = tape.constant(Tensor::scalar(step as i32));
        tape.write(Less { a: step, b: lengths }, DType::Bool, vec![batch, 1])
    };
    (0..steps).map(mask).collect()
}

/// What belongs to one direction, of which `axis` counts.
fn direction(tape: &mut Tape, x: ValueId, axis: usize, index: usize) -> ValueId {
    let one = tape.slice_axis(x, axis, index, 1);
    let mut shape = tape.shape(x);
    shape.remove(axis);
    tape.reshape(one, &shape)
}

/// a·bᵀ + c
fn product(tape: &mut Tape, a: ValueId, b: ValueId, c: Option<ValueId>) -> ValueId {
    let (dtype, shape) = (tape.dtype(a), vec![tape.shape(a)[0], tape.shape(b)[0]]);
    tape.write(Gemm { a, b, c, alpha: 1.0, beta: 1.0, transA: false, transB: true }, dtype, shape)
}

/// 1 - x
fn complement(tape: &mut Tape, x: ValueId) -> ValueId {
    let one = tape.scalar(1.0, x);
    tape.sub(one, x)
}
