//! Which channels of a model must be cut together.
//!
//! A channel is an index along one axis of a value, on whichever axis it may lie. Operators that tie channels to each other
//! unite their classes; operators that move channels move the classes with them. What is left is the answer: a class is the
//! smallest set of channels that can go. Classes that reach an input or an output of the model, or an operator that needs
//! all channels or that nothing is known of, are pinned, with the reason.
//!
//! Law: cutting a class gives the outputs of the model in which every value of the class is 0 behind each operator. A
//! normalization over a cut axis, and the mean that one is written out with, takes its statistics over what is kept.

mod classes;
mod heads;
mod layers;
mod layout;
mod recurrent;
mod reshape;
mod rules;
mod walk;

use std::collections::HashMap;

use super::Shapes;
use crate::ir::{Id, Model, NodeId, ValueId};
pub use classes::Pin;
pub use layers::{cuts_groups, einsum_labels};

/// Channels that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class(u32);

impl Class {
    pub fn index(self) -> usize {
        self.0 as usize
    }

    fn new(index: usize) -> Class {
        Class(u32::try_from(index).expect("too many classes"))
    }
}

/// The classes along an axis, index by index; several axes of several values share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u32);

impl Lane {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The classes of the channels of a model.
#[derive(Debug)]
pub struct Channels {
    /// By the index of the value: a lane for each axis, none where nothing along it can be cut.
    axes: Vec<Vec<Option<Lane>>>,
    /// For each lane, the class of each index.
    lanes: Vec<Vec<Class>>,
    /// For each class, what holds it; none where it can be cut.
    pins: Vec<Option<Pin>>,
    /// Means over channels that are no statistics of a normalization: of cut channels they must know.
    means: Vec<NodeId>,
}

impl Channels {
    pub fn of(model: &Model, shapes: &Shapes) -> Channels {
        walk::walk(model, shapes)
    }

    /// A lane for each axis of `value`; none where nothing along it can be cut.
    pub fn axes(&self, value: ValueId) -> &[Option<Lane>] {
        self.axes.get(value.index()).map_or(&[], Vec::as_slice)
    }

    pub fn axis(&self, value: ValueId, axis: usize) -> Option<Lane> {
        self.axes(value).get(axis).copied().flatten()
    }

    pub fn classes_of(&self, lane: Lane) -> &[Class] {
        &self.lanes[lane.index()]
    }

    pub fn lanes(&self) -> impl ExactSizeIterator<Item = (Lane, &[Class])> {
        self.lanes.iter().enumerate().map(|(index, classes)| (Lane(index as u32), classes.as_slice()))
    }

    /// How many classes there are, pinned ones among them.
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// The classes that can be cut.
    pub fn free(&self) -> impl Iterator<Item = Class> {
        (0..self.len()).filter(|&index| self.pins[index].is_none()).map(Class::new)
    }

    /// What holds a class; none where it can be cut.
    pub fn pin(&self, class: Class) -> Option<Pin> {
        self.pins[class.index()]
    }

    /// Whether `node` is a mean over channels that counts those that are cut: it is no statistic of a normalization.
    pub fn counts_all(&self, node: NodeId) -> bool {
        self.means.contains(&node)
    }

    /// What holds the channels that layers give, with their number, the most first.
    pub fn pinned(&self, outputs: impl IntoIterator<Item = Lane>) -> Vec<(Pin, usize)> {
        let mut counts: HashMap<Pin, usize> = HashMap::new();
        for lane in outputs {
            for pin in self.classes_of(lane).iter().filter_map(|&class| self.pin(class)) {
                *counts.entry(pin).or_default() += 1;
            }
        }
        let mut all: Vec<_> = counts.into_iter().collect();
        all.sort_by_key(|&(pin, count)| (std::cmp::Reverse(count), pin));
        all
    }
}
