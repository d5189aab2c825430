//! What nodes say about sizes, behind a cut: one arm for each operator that says any.
//!
//! Sizes are computed as before the cut, whatever they are computed for; where a node takes one as the length of an axis
//! that is cut, it is given the new one.

use ndarray::arr0;
use rten_shape_inference::SymExpr;

use super::cut::Cut;
use crate::analysis::channels::cuts_groups;
use crate::analysis::shapes::fixed_length;
use crate::ir::op::{Add, Concat, Div, Gather, Mul, Shape, Size};
use crate::ir::{Attr, DType, Model, NodeId, Tensor, Use, ValueId};

/// A number of a vector that becomes another.
struct Change {
    place: usize,
    old: i64,
    new: i64,
}

impl Cut<'_> {
    pub fn edit(&self, model: &mut Model, id: NodeId) {
        if !model.is_live(id) || !model.node(id).domain.is_empty() {
            return;
        }
        let op = model.node(id).op.clone();
        match op.as_str() {
            "Conv" | "ConvTranspose" => self.edit_group(model, id),
            "Reshape" | "Expand" | "ConstantOfShape" | "Resize" => self.edit_target(model, id, &op),
            "Slice" => self.edit_slice(model, id),
            "Split" => self.edit_split(model, id),
            "Pad" => self.edit_pad(model, id),
            "Gather" => self.edit_indices(model, id),
            "Attention" => self.edit_heads(model, id),
            "LSTM" | "GRU" | "RNN" => self.edit_hidden_size(model, id),
            "ReduceMean" => self.edit_mean(model, id),
            "Shape" => self.edit_shape(model, id),
            "Size" => self.edit_size(model, id),
            _ => {}
        }
    }

    fn edit_group(&self, model: &mut Model, id: NodeId) {
        let node = model.node(id);
        let Some(Attr::Int(group)) = node.attrs.get("group") else { return };
        let (Some(x), Some(w)) = (node.inputs[0], node.inputs[1]) else { return };
        let Some((old, new)) = self.lengths(x, 1).filter(|_| *group > 1) else { return };
        let (group, kernel) = (*group as usize, self.shapes.fixed(w).unwrap_or_default());
        let [inputs_each, outputs_each] = match node.op.as_str() {
            "Conv" => [kernel[1], kernel[0] / group],
            _ => [kernel[0] / group, kernel[1]],
        };
        if cuts_groups(inputs_each, outputs_each) {
            model.set_attr(id, "group", Attr::Int((group * new / old) as i64));
        }
    }

    fn edit_target(&self, model: &mut Model, id: NodeId, op: &str) {
        let node = model.node(id);
        let index = match op {
            "Reshape" | "Expand" => 1,
            "ConstantOfShape" => 0,
            _ => 3,
        };
        let (Some(y), Some(target)) = (node.outputs[0], node.inputs.get(index).copied().flatten()) else { return };
        let Some(elements) = self.shapes.elements(target) else { return };
        let rank = self.channels.axes(y).len();
        let places: Vec<Option<usize>> = match (op, node.attrs.get("axes")) {
            ("Resize", Some(Attr::Ints(axes))) => {
                let place = |&axis: &i64| if axis < 0 { axis + rank as i64 } else { axis } as usize;
                let axes: Vec<usize> = axes.iter().map(place).collect();
                (0..rank).map(|axis| axes.iter().position(|&other| other == axis)).collect()
            }
            _ => (0..rank).map(|axis| (axis + elements.len()).checked_sub(rank)).collect(),
        };
        let copies = op == "Reshape" && !matches!(node.attrs.get("allowzero"), Some(Attr::Int(1)));
        let x = node.inputs[0].filter(|_| copies);
        let mut changes = Vec::new();
        for (axis, place) in places.into_iter().enumerate() {
            let (Some(place), Some((old, new))) = (place, self.lengths(y, axis)) else { continue };
            let copied = x.and_then(|x| self.lengths(x, axis)).map(|(_, new)| new);
            match elements[place] {
                SymExpr::Value(-1) => {}
                SymExpr::Value(0) if copied == Some(new) => {}
                SymExpr::Value(0) if copies => changes.push(Change { place, old: 0, new: new as i64 }),
                SymExpr::Value(1) if op == "Expand" => {}
                _ => changes.push(Change { place, old: old as i64, new: new as i64 }),
            }
        }
        change(model, id, index, &changes, self);
    }

    fn edit_slice(&self, model: &mut Model, id: NodeId) {
        let node = model.node(id);
        let (Some(x), Some(y)) = (node.inputs[0], node.outputs[0]) else { return };
        let ints = |index: usize| -> Option<Vec<i64>> { model.constant(node.inputs.get(index).copied()??)?.ints() };
        let (Some(mut starts), Some(mut ends)) = (ints(1), ints(2)) else { return };
        let rank = self.channels.axes(x).len() as i64;
        let axes = ints(3).unwrap_or_else(|| (0..starts.len() as i64).collect());
        let mut is_changed = false;
        for (at, &axis) in axes.iter().enumerate() {
            let axis = (if axis < 0 { axis + rank } else { axis }) as usize;
            let (Some(kept), Some((old, _))) = (self.kept_along(x, axis), self.lengths(x, axis)) else { continue };
            // All of it is taken, whatever is left.
            if self.channels.axis(x, axis) == self.channels.axis(y, axis) && starts[at] == 0 && ends[at] >= old as i64 {
                continue;
            }
            let place = |bound: i64| {
                let bound = if bound < 0 { bound + old as i64 } else { bound }.clamp(0, old as i64);
                kept.partition_point(|&place| (place as i64) < bound) as i64
            };
            (starts[at], ends[at]) = (place(starts[at]), place(ends[at]));
            is_changed = true;
        }
        if is_changed {
            give_constant(model, id, 1, Tensor::from_ints(&starts));
            give_constant(model, id, 2, Tensor::from_ints(&ends));
            // All of these are of one type.
            for (index, ints) in [(3, Some(axes)), (4, ints_of(model, id, 4))] {
                if let Some(ints) = ints.filter(|_| model.node(id).inputs.get(index).is_some_and(Option::is_some)) {
                    give_constant(model, id, index, Tensor::from_ints(&ints));
                }
            }
        }
    }

    fn edit_split(&self, model: &mut Model, id: NodeId) {
        let node = model.node(id);
        let Some(x) = node.inputs[0] else { return };
        let rank = self.channels.axes(x).len() as i64;
        let axis = match node.attrs.get("axis") {
            Some(Attr::Int(axis)) => *axis,
            _ => 0,
        };
        let axis = (if axis < 0 { axis + rank } else { axis }) as usize;
        if self.lengths(x, axis).is_none() {
            return;
        }
        let part = |output: &Option<ValueId>| {
            let output = output.expect("parts of channels have names");
            let whole = self.shapes.lengths(output).and_then(|lengths| fixed_length(&lengths[axis]));
            self.lengths(output, axis).map_or(whole.expect("channels are counted"), |(_, new)| new) as i64
        };
        let parts: Vec<i64> = node.outputs.iter().map(part).collect();
        give_constant(model, id, 1, Tensor::from_ints(&parts));
        model.remove_attr(id, "num_outputs");
    }

    fn edit_pad(&self, model: &mut Model, id: NodeId) {
        let node = model.node(id);
        let (Some(x), Some(y)) = (node.inputs[0], node.outputs[0]) else { return };
        let Some(mut pads) = ints_of(model, id, 1) else { return };
        let rank = self.channels.axes(x).len();
        let axes = ints_of(model, id, 3).unwrap_or_else(|| (0..rank as i64).collect());
        let mut is_changed = false;
        for (at, &axis) in axes.iter().enumerate() {
            let axis = (if axis < 0 { axis + rank as i64 } else { axis }) as usize;
            let Some(kept) = self.kept_along(y, axis) else { continue };
            let (before, behind) = (pads[at] as usize, pads[axes.len() + at] as usize);
            let whole = self.channels.axis(y, axis).map_or(0, |lane| self.channels.classes_of(lane).len());
            pads[at] = kept.iter().filter(|&&place| place < before).count() as i64;
            pads[axes.len() + at] = kept.iter().filter(|&&place| place >= whole - behind).count() as i64;
            is_changed = true;
        }
        if is_changed {
            give_constant(model, id, 1, Tensor::from_ints(&pads));
        }
    }

    fn edit_indices(&self, model: &mut Model, id: NodeId) {
        let node = model.node(id);
        let (Some(data), Some(indices)) = (node.inputs[0], node.inputs[1]) else { return };
        let rank = self.channels.axes(data).len() as i64;
        let axis = match node.attrs.get("axis") {
            Some(Attr::Int(axis)) => *axis,
            _ => 0,
        };
        let axis = (if axis < 0 { axis + rank } else { axis }) as usize;
        let (Some(kept), Some((old, _))) = (self.kept_along(data, axis), self.lengths(data, axis)) else { return };
        let Some(tensor) = model.constant(indices) else { return };
        let (is_scalar, dtype) = (tensor.rank() == 0, tensor.dtype());
        let numbers = tensor.ints().expect("indices are integers");
        let place = |&n: &i64| {
            let n = (if n < 0 { n + old as i64 } else { n }) as usize;
            kept.binary_search(&n).ok().map(|place| place as i64)
        };
        let places: Vec<i64> = numbers.iter().filter_map(place).collect();
        let shape = if is_scalar { vec![] } else { vec![places.len()] };
        let tensor = match dtype {
            DType::I32 => Tensor::from_vec(shape, places.iter().map(|&n| n as i32).collect()),
            _ => Tensor::from_vec(shape, places),
        };
        give_constant(model, id, 1, tensor);
    }

    fn edit_heads(&self, model: &mut Model, id: NodeId) {
        for (name, index) in [("q_num_heads", 0), ("kv_num_heads", 1)] {
            let node = model.node(id);
            let (Some(Attr::Int(heads)), Some(value)) = (node.attrs.get(name), node.inputs[index]) else { continue };
            if let Some((old, new)) = self.lengths(value, 2) {
                let heads = *heads as usize * new / old;
                model.set_attr(id, name, Attr::Int(heads as i64));
            }
        }
    }

    fn edit_hidden_size(&self, model: &mut Model, id: NodeId) {
        let Some(Some(r)) = model.node(id).inputs.get(2).copied() else { return };
        if let Some((_, new)) = self.lengths(r, 2) {
            model.set_attr(id, "hidden_size", Attr::Int(new as i64));
        }
    }

    /// A mean that is no statistic still counts what is cut: as zeros.
    fn edit_mean(&self, model: &mut Model, id: NodeId) {
        if !self.channels.counts_all(id) {
            return;
        }
        let node = model.node(id);
        let (Some(x), Some(y)) = (node.inputs[0], node.outputs[0]) else { return };
        let Some((share, dtype)) = self.share_of_mean(x, y).zip(self.shapes.dtype(x)) else { return };
        let name = model.value(y).name.clone();
        let Some(share) = Tensor::from_reals(&arr0(share).into_dyn(), dtype) else { return };
        let again = model.node(id).with_operands(&[]);
        let mean = model.insert_before(id, again, &format!("{name}.kept"));
        let share = model.add_constant(model.main, &format!("{name}.share"), share);
        model.redefine(y, Mul { a: mean, b: share });
    }

    /// The share of what is averaged that stays.
    pub fn share_of_mean(&self, x: ValueId, y: ValueId) -> Option<f64> {
        let keeps_rank = self.channels.axes(x).len() == self.channels.axes(y).len();
        let mut share = 1.0;
        for axis in 0..self.channels.axes(x).len() {
            let Some((old, new)) = self.lengths(x, axis) else { continue };
            let lane = self.channels.axis(x, axis);
            let stays = match keeps_rank {
                true => self.channels.axis(y, axis) == lane,
                false => self.channels.axes(y).contains(&lane),
            };
            if !stays {
                share *= new as f64 / old as f64;
            }
        }
        (share < 1.0).then_some(share)
    }

    /// A shape that is read tells the lengths before the cut.
    fn edit_shape(&self, model: &mut Model, id: NodeId) {
        let Some(Shape { x, start, end }) = model.view(id) else { return };
        let rank = self.channels.axes(x).len() as i64;
        let bound = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
        let (start_at, end_at) = (bound(start), bound(end.unwrap_or(rank)));
        let lost: Vec<i64> = (start_at..end_at.max(start_at))
            .map(|axis| self.lengths(x, axis).map_or(0, |(old, new)| (old - new) as i64))
            .collect();
        let y = model.node(id).outputs[0].expect("a shape is read");
        let reads_lost = |place: &Use| {
            let Use::Node(reader, 0) = place else { return true };
            let Some(Gather { indices, .. }) = model.view(*reader) else { return true };
            let Some(indices) = model.constant(indices).and_then(|indices| indices.ints()) else { return true };
            let at = |n: i64| (if n < 0 { n + lost.len() as i64 } else { n }) as usize;
            indices.iter().any(|&n| lost.get(at(n)).is_none_or(|&lost| lost != 0))
        };
        if lost.iter().all(|&lost| lost == 0) || !model.value(y).uses.iter().any(reads_lost) {
            return;
        }
        let name = model.value(y).name.clone();
        let shape = model.insert_before(id, Shape { x, start, end }, &format!("{name}.kept"));
        let lost = model.add_constant(model.main, &format!("{name}.cut"), Tensor::from_ints(&lost));
        model.redefine(y, Add { a: shape, b: lost });
    }

    fn edit_size(&self, model: &mut Model, id: NodeId) {
        let Some(Size { x }) = model.view(id) else { return };
        let lengths: Vec<_> = (0..self.channels.axes(x).len()).filter_map(|axis| self.lengths(x, axis)).collect();
        if lengths.is_empty() {
            return;
        }
        let y = model.node(id).outputs[0].expect("a size is read");
        let name = model.value(y).name.clone();
        let [old, new] = [lengths.iter().map(|l| l.0).product::<usize>(), lengths.iter().map(|l| l.1).product()];
        let size = model.insert_before(id, Size { x }, &format!("{name}.kept"));
        let old = model.add_constant(model.main, &format!("{name}.before"), Tensor::scalar(old as i64));
        let new = model.add_constant(model.main, &format!("{name}.behind"), Tensor::scalar(new as i64));
        let product = model.insert_before(id, Mul { a: size, b: old }, &format!("{name}.product"));
        model.redefine(y, Div { a: product, b: new });
    }
}

fn ints_of(model: &Model, node: NodeId, index: usize) -> Option<Vec<i64>> {
    model.constant(model.node(node).inputs.get(index).copied()??)?.ints()
}

fn give_constant(model: &mut Model, node: NodeId, index: usize, tensor: Tensor) {
    let old = model.node(node).inputs.get(index).copied().flatten();
    let name = old.map_or_else(|| format!("{}.sizes", model.node(node).name), |old| model.value(old).name.clone());
    let own = model.add_constant(model.main, &name, tensor);
    model.set_input(node, index, Some(own));
}

/// Lets numbers of the vector that `node` reads be others: in its constant, in constants that are joined to it, or behind it.
fn change(model: &mut Model, node: NodeId, index: usize, changes: &[Change], cut: &Cut) {
    if changes.is_empty() {
        return;
    }
    let vector = model.node(node).inputs[index].expect("it has a target");
    if let Some(mut ints) = model.constant(vector).and_then(|vector| vector.ints()) {
        changes.iter().for_each(|change| ints[change.place] = change.new);
        return give_constant(model, node, index, Tensor::from_ints(&ints));
    }
    let name = model.value(vector).name.clone();
    let new = match joined(model, vector, changes, cut) {
        Some(parts) => {
            let parts = parts.into_iter().map(|part| match part {
                Part::Same(value) => value,
                Part::New(tensor) => model.add_constant(model.main, &format!("{name}.part"), tensor),
            });
            let xs = parts.collect();
            model.insert_before(node, Concat { xs, axis: 0 }, &name)
        }
        None => {
            let length = cut.shapes.elements(vector).expect("they are known").len();
            let mut added = vec![0; length];
            changes.iter().for_each(|change| added[change.place] = change.new - change.old);
            let b = model.add_constant(model.main, &format!("{name}.cut"), Tensor::from_ints(&added));
            model.insert_before(node, Add { a: vector, b }, &name)
        }
    };
    model.set_input(node, index, Some(new));
}

enum Part {
    Same(ValueId),
    New(Tensor),
}

/// The parts that a vector is joined of, changed; none where a number to change is in no constant.
fn joined(model: &Model, vector: ValueId, changes: &[Change], cut: &Cut) -> Option<Vec<Part>> {
    let Concat { xs, .. } = model.view(model.producer(vector)?)?;
    let (mut parts, mut start) = (Vec::new(), 0);
    for x in xs {
        let length = fixed_length(cut.shapes.lengths(x)?.first()?)?;
        let of: Vec<&Change> =
            changes.iter().filter(|change| (start..start + length).contains(&change.place)).collect();
        parts.push(match of.is_empty() {
            true => Part::Same(x),
            false => {
                let mut ints = model.constant(x)?.ints()?;
                of.into_iter().for_each(|change| ints[change.place - start] = change.new);
                Part::New(Tensor::from_ints(&ints))
            }
        });
        start += length;
    }
    Some(parts)
}
