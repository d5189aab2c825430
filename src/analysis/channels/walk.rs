//! The walk over a model in execution order, which unites the channels that go together.

use std::collections::HashSet;

use rten_shape_inference::{SymExpr, SymbolGen};

use super::classes::{Pin, Sets};
use super::{Channels, Class, Lane};
use crate::analysis::Shapes;
use crate::analysis::shapes::call::Call;
use crate::analysis::shapes::fixed_length;
use crate::ir::{GraphId, Id, Model, Node, NodeId, ValueDef, ValueId};

/// A lane for each axis of a value.
pub type Axes = Vec<Option<Lane>>;

/// Longer axes are not followed: no layer is that wide.
pub const LONGEST: usize = 1 << 20;

pub fn walk(model: &Model, shapes: &Shapes) -> Channels {
    let mut walk = Walk {
        model,
        shapes,
        sets: Sets::default(),
        lanes: Vec::new(),
        axes: vec![None; model.values_end().index()],
        means: Vec::new(),
        symbols: SymbolGen::new(),
        opset: model.opsets.onnx().unwrap_or(0),
    };
    for &input in &model.graph(model.main).inputs {
        walk.input(input);
    }
    for node in model.nodes_of(model.main) {
        walk.visit(node);
    }
    for &output in &model.graph(model.main).outputs {
        for lane in walk.axes_of(output).into_iter().flatten() {
            walk.pin(lane, Pin::Output(output));
        }
    }
    walk.finish()
}

pub struct Walk<'m> {
    pub model: &'m Model,
    pub shapes: &'m Shapes,
    pub sets: Sets,
    /// The channels along each lane.
    lanes: Vec<Vec<u32>>,
    axes: Vec<Option<Axes>>,
    pub means: Vec<NodeId>,
    symbols: SymbolGen,
    opset: i64,
}

impl<'m> Walk<'m> {
    /// Lengths that an input fixes are channels too, so that what reads them knows who holds them.
    fn input(&mut self, input: ValueId) {
        let lengths = self.lengths(input);
        let axes = lengths.iter().map(|length| fixed_length(length).filter(|&n| n > 1 && n <= LONGEST));
        let axes: Vec<_> = axes.collect();
        let axes = axes.into_iter().map(|length| length.map(|length| self.fresh(length))).collect::<Axes>();
        for &lane in axes.iter().flatten() {
            self.pin(lane, Pin::Input(input));
        }
        self.axes[input.index()] = Some(axes);
    }

    fn visit(&mut self, id: NodeId) {
        let node = self.model.node(id);
        let has_bodies = node.bodies().next().is_some();
        let known = node.domain.is_empty() && !has_bodies;
        let results = if known { self.results(id) } else { None };
        match results {
            Some(results) => {
                for (output, axes) in node.outputs.iter().zip(results) {
                    if let Some(output) = *output {
                        self.axes[output.index()] = Some(axes);
                    }
                }
            }
            None => self.opaque(id),
        }
        // Bodies see what is around them.
        let bodies: Vec<GraphId> = node.bodies().collect();
        bodies.into_iter().for_each(|body| self.pin_captured(body, id));
    }

    /// Nothing is known of what the node does: all that it reads stays as it is.
    fn opaque(&mut self, id: NodeId) {
        let node = self.model.node(id);
        for &input in node.inputs.iter().flatten() {
            self.pin_all(input, Pin::Node(id, "nothing is known of its channels"));
        }
        for &output in node.outputs.iter().flatten() {
            self.axes[output.index()] = Some(vec![None; self.lengths(output).len()]);
        }
    }

    fn pin_captured(&mut self, body: GraphId, holder: NodeId) {
        let model = self.model;
        let mut read: Vec<ValueId> = model.graph(body).outputs.clone();
        for id in model.nodes_of(body) {
            let node = model.node(id);
            read.extend(node.inputs.iter().flatten());
            node.bodies().for_each(|inner| self.pin_captured(inner, holder));
        }
        for value in read.into_iter().filter(|&value| model.value(value).graph == model.main) {
            self.pin_all(value, Pin::Node(holder, "a body reads them"));
        }
    }

    pub fn lengths(&self, value: ValueId) -> &'m [SymExpr] {
        self.shapes.lengths(value).unwrap_or(&[])
    }

    /// The length of an axis, where it is a number.
    pub fn length(&self, value: ValueId, axis: usize) -> Option<usize> {
        fixed_length(self.lengths(value).get(axis)?)
    }

    /// A lane for each axis; empty where not even the rank is known.
    pub fn axes_of(&mut self, value: ValueId) -> Axes {
        if let Some(axes) = &self.axes[value.index()] {
            return axes.clone();
        }
        let axes = match &self.model.value(value).def {
            ValueDef::Constant(tensor) if tensor.dtype().bits() >= 8 => {
                let shape = tensor.shape().to_vec();
                let lane = |walk: &mut Self, n: usize| (n > 1 && n <= LONGEST).then(|| walk.fresh(n));
                shape.into_iter().map(|n| lane(self, n)).collect()
            }
            _ => vec![None; self.lengths(value).len()],
        };
        self.axes[value.index()] = Some(axes.clone());
        axes
    }

    /// A node with its operands, as the inference of shapes reads it.
    pub fn call(&mut self, node: &'m Node) -> Call<'_> {
        Call::new(self.model, node, self.shapes, self.opset, &mut self.symbols)
    }

    pub fn fresh(&mut self, length: usize) -> Lane {
        let channels = self.sets.fresh(length);
        self.lane(channels)
    }

    pub fn lane(&mut self, channels: Vec<u32>) -> Lane {
        self.lanes.push(channels);
        Lane(u32::try_from(self.lanes.len() - 1).expect("too many lanes"))
    }

    pub fn channels(&self, lane: Lane) -> &[u32] {
        &self.lanes[lane.index()]
    }

    pub fn pin(&mut self, lane: Lane, pin: Pin) {
        for index in 0..self.lanes[lane.index()].len() {
            self.sets.pin(self.lanes[lane.index()][index], pin);
        }
    }

    pub fn pin_all(&mut self, value: ValueId, pin: Pin) {
        self.axes_of(value).into_iter().flatten().for_each(|lane| self.pin(lane, pin));
    }

    pub fn pin_some(&mut self, lanes: &[Option<Lane>], pin: Pin) {
        lanes.iter().flatten().for_each(|&lane| self.pin(lane, pin));
    }

    pub fn is_pinned(&mut self, lane: Lane) -> bool {
        let channels = std::mem::take(&mut self.lanes[lane.index()]);
        let all = channels.iter().all(|&channel| self.sets.pin_of(channel).is_some());
        self.lanes[lane.index()] = channels;
        all
    }

    /// Lets two axes of one length be the same channels. Where one of them is not followed, the other is pinned.
    pub fn meet(&mut self, a: Option<Lane>, b: Option<Lane>, pin: Pin) {
        match (a, b) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => {
                if self.channels(a).len() != self.channels(b).len() {
                    [a, b].into_iter().for_each(|lane| self.pin(lane, pin));
                    return;
                }
                for index in 0..self.channels(a).len() {
                    let (a, b) = (self.lanes[a.index()][index], self.lanes[b.index()][index]);
                    self.sets.unite(a, b);
                }
            }
            (Some(lane), None) | (None, Some(lane)) => self.pin(lane, pin),
            (None, None) => {}
        }
    }

    /// Unites channels with each other.
    pub fn tie(&mut self, channels: &[u32]) {
        for pair in channels.windows(2) {
            self.sets.unite(pair[0], pair[1]);
        }
    }

    /// Numbers the classes in the order of their first channel. A class that no weight has, or that no node gives, is no
    /// one's channel: nothing is gained by cutting it.
    fn finish(mut self) -> Channels {
        let model = self.model;
        let mut weights = HashSet::new();
        let mut results = HashSet::new();
        for (value, of) in model.all_values() {
            let Some(axes) = &self.axes[value.index()] else { continue };
            let into = match of.def {
                ValueDef::Constant(_) => &mut weights,
                ValueDef::Node(_) => &mut results,
                _ => continue,
            };
            into.extend(axes.iter().flatten().copied());
        }
        let mut marked = |lanes: &HashSet<Lane>| {
            let mut roots = vec![false; self.sets.len()];
            for &channel in lanes.iter().flat_map(|lane| &self.lanes[lane.index()]) {
                roots[self.sets.find(channel) as usize] = true;
            }
            roots
        };
        let (weights, results) = (marked(&weights), marked(&results));
        // Class 0 is that of nobody's channels.
        let mut pins = vec![Some(Pin::Nobody)];
        let mut classes = vec![Class::new(0); self.sets.len()];
        for channel in 0..self.sets.len() {
            let root = self.sets.find(channel as u32) as usize;
            if root == channel && weights[root] && results[root] {
                classes[root] = Class::new(pins.len());
                pins.push(self.sets.pin_of(root as u32));
            }
        }
        let lanes = std::mem::take(&mut self.lanes).into_iter();
        let lanes =
            lanes.map(|channels| channels.into_iter().map(|one| classes[self.sets.find(one) as usize]).collect());
        let lanes = lanes.collect();
        let axes = self.axes.into_iter().map(Option::unwrap_or_default).collect();
        Channels { axes, lanes, pins, means: self.means }
    }
}
