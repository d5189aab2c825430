//! Which classes go: the least important ones, until as much is cut as was asked for.
//!
//! Classes that occur in the same weights in the same way are a group: the channels of a layer, the neurons between two
//! products, the heads of an attention, the width of a residual stream. Every group keeps a minimum, and every axis a place.

use std::collections::HashMap;

use rayon::prelude::*;

use super::cut::Cut;
use super::latency::Latencies;
use super::layer::Layer;
use crate::analysis::Shapes;
use crate::analysis::channels::{Channels, Class, Lane};
use crate::ir::{Model, ValueDef};

/// The classes of a model that can be cut, in groups.
pub struct Groups {
    /// For each class, its group; none where it stays.
    of: Vec<Option<usize>>,
    /// For each group, its classes in order.
    pub members: Vec<Vec<Class>>,
    /// For each class, how many channels layers give in it.
    width: Vec<usize>,
    /// For each class, the lanes that have it, and in how many places.
    places: Vec<Vec<(Lane, usize)>>,
    /// Whether a layer gives the channels of a lane.
    is_given: Vec<bool>,
}

/// What a selection keeps to.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Every group keeps at least so many classes.
    pub minimum: usize,
    /// What a group keeps is a multiple of this, where it loses any.
    pub multiple: usize,
}

/// How much is cut, as a share of what there is.
#[derive(Clone, Copy)]
pub enum Amount<'a> {
    /// Of the channels that can be cut.
    Channels(f64),
    Parameters(f64),
    Bytes(f64),
    Macs(f64),
    /// Of the time of a run, by what was measured.
    Latency(f64, Option<&'a Latencies>),
}

impl Amount<'_> {
    /// The share to cut.
    pub fn share(self) -> f64 {
        match self {
            Amount::Channels(share) | Amount::Parameters(share) | Amount::Bytes(share) => share,
            Amount::Macs(share) | Amount::Latency(share, _) => share,
        }
    }

    /// Another share of the same.
    pub fn with_share(self, share: f64) -> Self {
        match self {
            Amount::Channels(_) => Amount::Channels(share),
            Amount::Parameters(_) => Amount::Parameters(share),
            Amount::Bytes(_) => Amount::Bytes(share),
            Amount::Macs(_) => Amount::Macs(share),
            Amount::Latency(_, latencies) => Amount::Latency(share, latencies),
        }
    }

    /// How much there is behind a cut of what is counted: for channels, what each class has in `width` is counted.
    fn counted(self, model: &Model, cut: &Cut, width: usize) -> f64 {
        match self {
            Amount::Channels(_) => width as f64,
            Amount::Parameters(_) => cut.cost(model)[0] as f64,
            Amount::Bytes(_) => cut.cost(model)[1] as f64,
            Amount::Macs(_) => cut.cost(model)[2] as f64,
            Amount::Latency(_, latencies) => latencies.expect("times are measured before").ms(model, cut),
        }
    }
}

impl Groups {
    /// `may_go` tells of each class whether it may be cut.
    pub fn new(model: &Model, channels: &Channels, layers: &[Layer], may_go: impl Fn(Class) -> bool) -> Groups {
        let mut places = vec![Vec::new(); channels.len()];
        for (lane, classes) in channels.lanes() {
            for &class in classes.iter().filter(|&&class| channels.pin(class).is_none()) {
                match places[class.index()].last_mut() {
                    Some((last, count)) if *last == lane => *count += 1,
                    _ => places[class.index()].push((lane, 1)),
                }
            }
        }
        // Where a class occurs in weights: its signature.
        let mut weights: Vec<Vec<(usize, usize, usize)>> = vec![Vec::new(); channels.len()];
        let constants = model.all_values().filter(|(_, of)| matches!(of.def, ValueDef::Constant(_)));
        for (number, (value, _)) in constants.enumerate() {
            for (axis, lane) in
                channels.axes(value).iter().enumerate().filter_map(|(axis, lane)| Some((axis, (*lane)?)))
            {
                for &class in channels.classes_of(lane) {
                    match weights[class.index()].last_mut() {
                        Some((last, at, count)) if (*last, *at) == (number, axis) => *count += 1,
                        _ => weights[class.index()].push((number, axis, 1)),
                    }
                }
            }
        }
        let (mut width, mut is_given) = (vec![0; channels.len()], vec![false; channels.lanes().len()]);
        for lane in layers.iter().filter_map(|layer| layer.gives) {
            is_given[lane.index()] = true;
            channels.classes_of(lane).iter().for_each(|class| width[class.index()] += 1);
        }
        let mut numbers = HashMap::new();
        let (mut of, mut members) = (vec![None; channels.len()], Vec::new());
        for class in channels.free().filter(|&class| may_go(class)) {
            let signature = std::mem::take(&mut weights[class.index()]);
            let group = *numbers.entry(signature).or_insert(members.len());
            if group == members.len() {
                members.push(Vec::new());
            }
            members[group].push(class);
            of[class.index()] = Some(group);
        }
        Groups { of, members, width, places, is_given }
    }

    pub fn group(&self, class: Class) -> Option<usize> {
        self.of[class.index()]
    }

    /// For each class, how much of what `amount` counts is saved when it goes alone; 0 for those that stay.
    pub fn savings(&self, model: &Model, channels: &Channels, shapes: &Shapes, amount: Amount) -> Vec<f64> {
        if matches!(amount, Amount::Channels(_)) {
            return self.width.iter().map(|&width| width as f64).collect();
        }
        let nothing = vec![false; channels.len()];
        let all = self.left(model, channels, shapes, amount, &nothing);
        // The classes of a group occur in the same weights: one stands for all.
        let saving = |members: &Vec<Class>| {
            let mut removed = nothing.clone();
            removed[members[0].index()] = true;
            (all - self.left(model, channels, shapes, amount, &removed)).max(0.0)
        };
        let each: Vec<f64> = self.members.par_iter().map(saving).collect();
        self.of.iter().map(|group| group.map_or(0.0, |group| each[group])).collect()
    }

    /// How much is left of what `amount` counts when classes are removed.
    pub fn left(&self, model: &Model, channels: &Channels, shapes: &Shapes, amount: Amount, removed: &[bool]) -> f64 {
        let width = self.width() - self.width_of(removed);
        amount.counted(model, &Cut::new(channels, shapes, removed), width)
    }

    /// The channels that layers give and that can be cut.
    pub fn width(&self) -> usize {
        self.members.iter().flatten().map(|class| self.width[class.index()]).sum()
    }

    pub fn width_of(&self, removed: &[bool]) -> usize {
        removed.iter().zip(&self.width).filter(|(removed, _)| **removed).map(|(_, width)| width).sum()
    }

    /// The first `count` classes of `order` that may go, for each class whether it does.
    pub fn first(&self, channels: &Channels, order: &[Class], count: usize, rules: Rules) -> Vec<bool> {
        let mut removed = vec![false; self.of.len()];
        let mut left: Vec<usize> = channels.lanes().map(|(_, classes)| classes.len()).collect();
        let mut kept: Vec<usize> = self.members.iter().map(Vec::len).collect();
        for &class in &order[..count] {
            let group = self.of[class.index()].expect("only classes of groups are ordered");
            let stays = self.places[class.index()].iter().any(|&(lane, places)| left[lane.index()] <= places);
            if stays || kept[group] <= rules.minimum.max(1) {
                continue;
            }
            kept[group] -= 1;
            self.places[class.index()].iter().for_each(|&(lane, places)| left[lane.index()] -= places);
            removed[class.index()] = true;
        }
        // The most important of those that went come back, until what is kept is a multiple.
        for &class in order[..count].iter().rev() {
            let group = self.of[class.index()].expect("only classes of groups are ordered");
            let given = self.places[class.index()].iter().filter(|(lane, _)| self.is_given[lane.index()]);
            let each = given.map(|&(_, places)| places).max().unwrap_or(1);
            let multiple = rules.multiple / greatest_common_divisor(rules.multiple, each);
            if removed[class.index()] && !kept[group].is_multiple_of(multiple) {
                removed[class.index()] = false;
                kept[group] += 1;
            }
        }
        removed
    }

    /// The fewest of `order`, from its front, that make up `amount`, or all that may go. For each class whether it does.
    pub fn select(
        &self,
        model: &Model,
        channels: &Channels,
        shapes: &Shapes,
        order: &[Class],
        amount: Amount,
        rules: Rules,
    ) -> Vec<bool> {
        let left = |removed: &[bool]| self.left(model, channels, shapes, amount, removed);
        let all = left(&vec![false; channels.len()]);
        let reaches = |removed: &[bool]| all - left(removed) >= (amount.share() - 1e-9) * all;
        let (mut below, mut above) = (0, order.len());
        while below < above {
            let middle = below.midpoint(above);
            match reaches(&self.first(channels, order, middle, rules)) {
                true => above = middle,
                false => below = middle + 1,
            }
        }
        self.first(channels, order, below.min(order.len()), rules)
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
