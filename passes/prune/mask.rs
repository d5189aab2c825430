//! A model with channels at 0 behind each operator: what a cut is defined by.
//!
//! A normalization over a cut axis takes its statistics over what is kept, so that it is written out here, and the mean
//! that one was written out with is scaled to it. The state of a recurrent layer is at 0 from step to step.

use ndarray::arr0;

use super::cut::Cut;
use crate::ir::op::{Add, Div, LayerNormalization, Mul, ReduceMean, Reshape, Shape, Sqrt, Sub, Where};
use crate::ir::{Attr, Model, NodeId, Operation, Tensor, ValueId};

/// `model` with every value of the classes that `cut` removes at 0.
pub fn masked(model: &Model, cut: &Cut) -> Model {
    let mut masked = model.clone();
    let nodes: Vec<NodeId> = model.nodes_of(model.main).collect();
    for node in nodes {
        let results: Vec<ValueId> = model.node(node).outputs.iter().flatten().copied().collect();
        let float = |&value: &ValueId| cut.shapes.dtype(value).is_some_and(|dtype| dtype.is_float());
        let is_cut = results.iter().any(|result| float(result) && cut.touches(*result));
        Masking { model: &mut masked, cut, node }.within();
        if is_cut && masked.is_live(node) {
            Masking { model: &mut masked, cut, node }.mask(&results);
        } else if is_cut {
            let producer = masked.producer(results[0]).expect("it was written out");
            Masking { model: &mut masked, cut, node: producer }.mask(&results);
        }
    }
    masked
}

struct Masking<'a> {
    model: &'a mut Model,
    cut: &'a Cut<'a>,
    node: NodeId,
}

impl Masking<'_> {
    fn add(&mut self, operation: impl Into<Operation>) -> ValueId {
        self.model.insert_before(self.node, operation, "masked")
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.model.add_constant(self.model.main, "mask", tensor)
    }

    /// A float of the type of `like`.
    fn number(&mut self, number: f64, like: ValueId) -> ValueId {
        let dtype = self.cut.shapes.dtype(like).expect("its type is known");
        self.constant(Tensor::from_reals(&arr0(number).into_dyn(), dtype).expect("it is a float"))
    }

    /// Puts zeros into results of the node.
    fn mask(&mut self, results: &[ValueId]) {
        let again = self.model.node(self.node).with_operands(&[]);
        let raw = self.model.insert_many_before(self.node, again, "whole", self.model.node(self.node).outputs.len());
        let outputs = self.model.node(self.node).outputs.clone();
        for (result, raw) in outputs.into_iter().zip(raw) {
            // The node goes with the last result that is read, and with it those that nobody reads.
            let Some(result) = result.filter(|&result| self.model.is_value_live(result)) else { continue };
            debug_assert!(results.contains(&result));
            let zeros = self.zeroed(raw, result);
            let Some((condition, x, y)) = zeros else {
                self.model.replace_uses(result, raw);
                continue;
            };
            self.model.redefine(result, Where { condition, x, y });
        }
    }

    /// The last Where that masks `raw` as `result` is, with those before it written.
    fn zeroed(&mut self, raw: ValueId, result: ValueId) -> Option<(ValueId, ValueId, ValueId)> {
        let rank = self.cut.channels.axes(result).len();
        let is_float = self.cut.shapes.dtype(result).is_some_and(|dtype| dtype.is_float());
        let mut last: Option<(ValueId, ValueId, ValueId)> = None;
        for axis in (0..rank).filter(|_| is_float) {
            let (Some(kept), Some((old, _))) = (self.cut.kept_along(result, axis), self.cut.lengths(result, axis))
            else {
                continue;
            };
            let mut stays = vec![false; old];
            kept.iter().for_each(|&place| stays[place] = true);
            let mut shape = vec![1; rank];
            shape[axis] = old;
            let condition = self.constant(Tensor::from_bool(shape, stays));
            let y = self.number(0.0, result);
            let x = match last.take() {
                Some((condition, x, y)) => self.add(Where { condition, x, y }),
                None => raw,
            };
            last = Some((condition, x, y));
        }
        last
    }

    /// Writes a node that takes statistics over a cut axis so that it takes them over what is kept, and one that keeps a state so
    /// that it keeps zeros.
    fn within(&mut self) {
        let node = self.model.node(self.node);
        let (Some(Some(x)), Some(Some(y))) = (node.inputs.first().copied(), node.outputs.first().copied()) else {
            return;
        };
        match node.op.as_str() {
            "ReduceMean" if !self.cut.channels.counts_all(self.node) => {
                if let Some(share) = self.cut.share_of_mean(x, y) {
                    let again = self.model.node(self.node).with_operands(&[]);
                    let a = self.add(again);
                    let b = self.number(1.0 / share, x);
                    self.model.redefine(y, Mul { a, b });
                }
            }
            "LayerNormalization" => {
                let rank = self.cut.channels.axes(x).len() as i64;
                let view: LayerNormalization = self.model.view(self.node).expect("a plain normalization");
                let first = if view.axis < 0 { view.axis + rank } else { view.axis };
                self.normalize(x, y, (first..rank).collect(), true, view.epsilon, Some(view.scale), view.bias);
            }
            "RMSNormalization" => {
                let rank = self.cut.channels.axes(x).len() as i64;
                let axis = int(self.model, self.node, "axis").unwrap_or(-1);
                let epsilon = float(self.model, self.node, "epsilon").unwrap_or(1e-5);
                let first = if axis < 0 { axis + rank } else { axis };
                let scale = self.model.node(self.node).inputs[1];
                self.normalize(x, y, (first..rank).collect(), false, epsilon, scale, None);
            }
            "GroupNormalization" => self.group_statistics(x, y),
            "LSTM" | "GRU" | "RNN" => self.state(),
            _ => {}
        }
    }

    /// The state of a recurrent layer is a value of the loop that it stands for: R multiplies it with zeros.
    fn state(&mut self) {
        let r = self.model.node(self.node).inputs[2].expect("it has a weight");
        if let Some((condition, x, y)) = self.zeroed(r, r) {
            let masked = self.add(Where { condition, x, y });
            self.model.set_input(self.node, 2, Some(masked));
        }
    }

    /// (x - E x) / √(E (x - E x)² + ε) · scale + bias, each mean over the kept channels of `axes`.
    #[allow(clippy::too_many_arguments, reason = "a normalization has so many parts")]
    fn normalize(
        &mut self,
        x: ValueId,
        y: ValueId,
        axes: Vec<i64>,
        centers: bool,
        epsilon: f32,
        scale: Option<ValueId>,
        bias: Option<ValueId>,
    ) {
        let lengths: Vec<_> = axes.iter().filter_map(|&axis| self.cut.lengths(x, axis as usize)).collect();
        if lengths.is_empty() {
            return;
        }
        let share = lengths.iter().map(|&(old, new)| old as f64 / new as f64).product::<f64>();
        let axes = self.constant(Tensor::from_ints(&axes));
        let mut centered = x;
        if centers {
            let mean = self.add(ReduceMean { x, axes: Some(axes), keepdims: 1, noop_with_empty_axes: 0 });
            let b = self.number(share, x);
            let mean = self.add(Mul { a: mean, b });
            let difference = self.add(Sub { a: x, b: mean });
            centered = match self.zeroed(difference, y) {
                Some((condition, x, y)) => self.add(Where { condition, x, y }),
                None => difference,
            };
        }
        let square = self.add(Mul { a: centered, b: centered });
        let mean = self.add(ReduceMean { x: square, axes: Some(axes), keepdims: 1, noop_with_empty_axes: 0 });
        let b = self.number(share, x);
        let mean = self.add(Mul { a: mean, b });
        let b = self.number(epsilon.into(), x);
        let sum = self.add(Add { a: mean, b });
        let deviation = self.add(Sqrt { x: sum });
        let mut result = Operation::from(Div { a: centered, b: deviation });
        if let Some(scale) = scale {
            let a = self.add(result);
            result = Mul { a, b: scale }.into();
        }
        if let Some(bias) = bias {
            let a = self.add(result);
            result = Add { a, b: bias }.into();
        }
        self.model.redefine(y, result);
    }

    fn group_statistics(&mut self, x: ValueId, y: ValueId) {
        let Some((old, new)) = self.cut.lengths(x, 1) else { return };
        let groups = int(self.model, self.node, "num_groups").expect("it has groups");
        let epsilon = float(self.model, self.node, "epsilon").unwrap_or(1e-5);
        let (scale, bias) = (self.model.node(self.node).inputs[1], self.model.node(self.node).inputs[2]);
        let share = old as f64 / new as f64;
        let shape = self.constant(Tensor::from_ints(&[0, groups, -1]));
        let axes = Some(self.constant(Tensor::from_ints(&[2])));
        let rank = self.cut.channels.axes(x).len();
        let grouped = self.add(Reshape { x, shape, allowzero: 0 });
        let mean = self.add(ReduceMean { x: grouped, axes, keepdims: 1, noop_with_empty_axes: 0 });
        let b = self.number(share, x);
        let mean = self.add(Mul { a: mean, b });
        let difference = self.add(Sub { a: grouped, b: mean });
        let back = self.add(Shape { x, start: 0, end: None });
        let difference = self.add(Reshape { x: difference, shape: back, allowzero: 0 });
        let (condition, a, b) = self.zeroed(difference, y).expect("its channels are cut");
        let centered = self.add(Where { condition, x: a, y: b });
        let grouped = self.add(Reshape { x: centered, shape, allowzero: 0 });
        let square = self.add(Mul { a: grouped, b: grouped });
        let mean = self.add(ReduceMean { x: square, axes, keepdims: 1, noop_with_empty_axes: 0 });
        let b = self.number(share, x);
        let mean = self.add(Mul { a: mean, b });
        let b = self.number(epsilon.into(), x);
        let sum = self.add(Add { a: mean, b });
        let deviation = self.add(Sqrt { x: sum });
        let normalized = self.add(Div { a: grouped, b: deviation });
        let normalized = self.add(Reshape { x: normalized, shape: back, allowzero: 0 });
        let parameter_shape: Vec<i64> = (0..rank - 1).map(|axis| if axis == 0 { -1 } else { 1 }).collect();
        let shape = self.constant(Tensor::from_ints(&parameter_shape));
        let [scale, bias] = [scale, bias].map(|value| value.expect("it has scale and bias"));
        let scale = self.add(Reshape { x: scale, shape, allowzero: 0 });
        let bias = self.add(Reshape { x: bias, shape, allowzero: 0 });
        let a = self.add(Mul { a: normalized, b: scale });
        self.model.redefine(y, Add { a, b: bias });
    }
}

fn int(model: &Model, node: NodeId, name: &str) -> Option<i64> {
    match model.node(node).attrs.get(name) {
        Some(Attr::Int(n)) => Some(*n),
        _ => None,
    }
}

fn float(model: &Model, node: NodeId, name: &str) -> Option<f32> {
    match model.node(node).attrs.get(name) {
        Some(Attr::Float(x)) => Some(*x),
        _ => None,
    }
}
