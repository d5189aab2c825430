//! Cutting channels out of a model: weights lose their rows and columns, and nodes what they say about sizes.

use rayon::prelude::*;

use super::slice::sliced;
use crate::analysis::channels::{Channels, Class, Lane};
use crate::analysis::{Cost, Shapes};
use crate::ir::{Model, Tensor, ValueDef, ValueId};

/// What is left of every lane when some classes are cut.
pub struct Cut<'a> {
    pub channels: &'a Channels,
    pub shapes: &'a Shapes,
    /// For each lane, the places that stay; none where all do.
    kept: Vec<Option<Vec<usize>>>,
}

impl<'a> Cut<'a> {
    /// `removed` tells of each class whether it goes.
    pub fn new(channels: &'a Channels, shapes: &'a Shapes, removed: &[bool]) -> Cut<'a> {
        let kept = channels.lanes().map(|(_, classes)| {
            let stays = |class: &Class| !removed[class.index()];
            let some_go = !classes.iter().all(stays);
            some_go.then(|| (0..classes.len()).filter(|&place| stays(&classes[place])).collect())
        });
        Cut { channels, shapes, kept: kept.collect() }
    }

    /// The places of a lane that stay; none where all do.
    pub fn kept(&self, lane: Lane) -> Option<&[usize]> {
        self.kept[lane.index()].as_deref()
    }

    /// The places along an axis that stay; none where all do.
    pub fn kept_along(&self, value: ValueId, axis: usize) -> Option<&[usize]> {
        self.kept(self.channels.axis(value, axis)?)
    }

    /// The length of an axis before and behind the cut; none where it keeps it.
    pub fn lengths(&self, value: ValueId, axis: usize) -> Option<(usize, usize)> {
        let lane = self.channels.axis(value, axis)?;
        Some((self.channels.classes_of(lane).len(), self.kept(lane)?.len()))
    }

    pub fn touches(&self, value: ValueId) -> bool {
        self.channels.axes(value).iter().flatten().any(|&lane| self.kept(lane).is_some())
    }

    /// The axes that the cut makes shorter, and their lengths behind it.
    pub fn changed(&self, model: &Model) -> Vec<(ValueId, usize, usize)> {
        let changed = |value: ValueId| {
            let lengths = move |axis| self.lengths(value, axis).map(|(_, new)| (value, axis, new));
            (0..self.channels.axes(value).len()).filter_map(lengths)
        };
        model.all_values().flat_map(|(value, _)| changed(value)).collect()
    }

    /// Parameters, bytes of weights and multiply-accumulates of the model behind the cut.
    pub fn cost(&self, model: &Model) -> [u64; 3] {
        let (mut parameters, mut bytes) = (0u64, 0u64);
        for (value, of) in model.all_values() {
            if let ValueDef::Constant(tensor) = &of.def {
                let length = |axis: usize| self.lengths(value, axis).map_or(tensor.shape()[axis], |(_, new)| new);
                let elements = (0..tensor.rank()).map(length).product::<usize>();
                parameters += elements as u64;
                bytes += tensor.dtype().bytes_for(elements).unwrap_or(0) as u64;
            }
        }
        let macs = Cost::of(model, &self.shapes.with_lengths(self.changed(model))).macs;
        [parameters, bytes, macs]
    }

    /// Cuts `model`, of which channels and shapes are.
    pub fn apply(&self, model: &mut Model) {
        let nodes: Vec<_> = model.nodes_of(model.main).collect();
        let values: Vec<ValueId> = model.all_values().map(|(value, _)| value).filter(|&v| self.touches(v)).collect();
        for node in nodes {
            self.edit(model, node);
        }
        let live: Vec<ValueId> = values.into_iter().filter(|&value| model.is_value_live(value)).collect();
        let weights: Vec<ValueId> = live.iter().copied().filter(|&value| model.constant(value).is_some()).collect();
        let cut = |&value: &ValueId| -> Tensor {
            let tensor = model.constant(value).expect("only constants are sliced");
            let kept: Vec<_> = (0..tensor.rank()).map(|axis| self.kept_along(value, axis)).collect();
            sliced(tensor, &kept)
        };
        let tensors: Vec<Tensor> = weights.par_iter().map(cut).collect();
        for (value, tensor) in weights.into_iter().zip(tensors) {
            model.set_constant(value, tensor);
        }
        for value in live {
            if model.producer(value).is_some() {
                model.set_type(value, None);
            }
        }
    }
}
