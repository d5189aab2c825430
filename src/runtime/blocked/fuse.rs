//! What stands before and behind the gradient of a convolution becomes a part of it: the mask of an activation, and the
//! sum with another gradient of its input.

use std::collections::HashMap;

use super::operators::{BlockedConv, BlockedConvGradient, GRADIENTS};
use crate::ir::op::{Add, Mul, Sign, Sub};
use crate::ir::{Model, NodeId, Use, ValueId};

/// The result by which the gradient of the residual leaves, which is the masked gradient.
const RESIDUAL: usize = 3;

pub(super) fn fuse(model: &mut Model) {
    let order: Vec<NodeId> = model.nodes_of(model.main).collect();
    let mut places: HashMap<NodeId, usize> = order.iter().enumerate().map(|(place, &node)| (node, place)).collect();
    for node in order {
        let node = masked(model, &mut places, node).unwrap_or(node);
        summed(model, &mut places, node);
    }
}

/// gradient(dy · mask(y)) masks for itself. Returns the node in its place.
fn masked(model: &mut Model, places: &mut HashMap<NodeId, usize>, node: NodeId) -> Option<NodeId> {
    if !model.is_live(node) {
        return None;
    }
    let gradient: BlockedConvGradient = model.view(node)?;
    let product = gradient.dy;
    let (dy, y, [low, high]) = mask(model, product)?;
    let place = places[&node];
    let is_behind = |reader: &Use| match reader {
        Use::Node(reader, _) => places.get(reader).is_some_and(|&other| other >= place),
        Use::Output(..) => false,
    };
    if !model.value(product).uses.iter().all(is_behind) {
        return None;
    }
    let mut gives = gradient.gives.clone();
    if model.value(product).uses.len() > 1 {
        gives.push(RESIDUAL as i64);
    }
    let masked = BlockedConvGradient { dy, y: Some(y), low, high, gives, ..gradient };
    let (results, new) = again(model, places, node, masked);
    if model.is_value_live(product) {
        model.replace_uses(product, results[RESIDUAL]);
        let producer = model.producer(product).expect("a product is computed");
        model.sweep(producer);
    }
    Some(new)
}

/// dy and y of a product dy · [low < y < high], where y is the result of a convolution with that clamp.
fn mask(model: &Model, product: ValueId) -> Option<(ValueId, ValueId, [f32; 2])> {
    let Mul { a, b } = model.view(model.producer(product)?)?;
    for (dy, mask) in [(a, b), (b, a)] {
        let Some(Sign { x }) = model.producer(mask).and_then(|node| model.view(node)) else { continue };
        for (y, bounds) in candidates(model, x) {
            let Some(conv) = model.producer(y).and_then(|node| model.view::<BlockedConv>(node)) else { continue };
            if [conv.low, conv.high] == bounds {
                return Some((dy, y, bounds));
            }
        }
    }
    None
}

/// What x may be the sign of: y for y > 0, high - y for y < high, (high - y) · y for both.
fn candidates(model: &Model, x: ValueId) -> Vec<(ValueId, [f32; 2])> {
    let mut found = vec![(x, [0.0, f32::INFINITY])];
    let below = |value: ValueId| {
        let Sub { a, b } = model.view(model.producer(value)?)?;
        Some((b, model.constant(a)?.as_float()?))
    };
    if let Some((y, high)) = below(x) {
        found.push((y, [f32::NEG_INFINITY, high]));
    }
    if let Some(Mul { a, b }) = model.producer(x).and_then(|node| model.view(node)) {
        for (rest, y) in [(a, b), (b, a)] {
            found.extend(below(rest).filter(|(other, _)| *other == y).map(|(y, high)| (y, [0.0, high])));
        }
    }
    found
}

/// The gradient by x, of which alone a sum with what is there already is made, adds to it.
fn summed(model: &mut Model, places: &mut HashMap<NodeId, usize>, node: NodeId) -> Option<()> {
    if !model.is_live(node) {
        return None;
    }
    let gradient: BlockedConvGradient = model.view(node)?;
    let by_x = model.node(node).outputs[0]?;
    let mut readers = model.value(by_x).uses.iter();
    let (Some(Use::Node(reader, _)), None) = (readers.next(), readers.next()) else { return None };
    let reader = *reader;
    let Add { a, b } = model.view(reader)?;
    let other = if a == by_x { b } else { a };
    let is_there = match model.producer(other) {
        Some(producer) => places.get(&producer).is_some_and(|&place| place < places[&node]),
        None => false,
    };
    if !is_there || other == by_x || gradient.sum.is_some() {
        return None;
    }
    let sum = model.node(reader).outputs[0]?;
    let (results, _) = again(model, places, node, BlockedConvGradient { sum: Some(other), ..gradient });
    model.unify(sum, results[0]);
    Some(())
}

/// The gradient once more, in the same place; its readers read the new one.
fn again(
    model: &mut Model,
    places: &mut HashMap<NodeId, usize>,
    node: NodeId,
    gradient: BlockedConvGradient,
) -> (Vec<ValueId>, NodeId) {
    let name = model.node(node).name.clone();
    let old: Vec<Option<ValueId>> = model.node(node).outputs.clone();
    let results = model.insert_many_before(node, gradient, &name, GRADIENTS);
    let new = model.producer(results[0]).expect("just made");
    places.insert(new, places[&node]);
    for (old, &new) in old.iter().zip(&results) {
        if let Some(old) = *old {
            model.replace_uses(old, new);
        }
    }
    model.sweep(node);
    (results, new)
}
