//! What the pass knows of values, those included that it made.

use std::collections::HashMap;
use std::rc::Rc;

use rten_shape_inference::SymExpr;

use crate::analysis::{Shapes, shapes::fixed_length};
use crate::ir::{Model, NodeId, ValueId};

use super::layout::Layout;

pub struct Known {
    shapes: Rc<Shapes>,
    made: HashMap<ValueId, Option<Vec<SymExpr>>>,
    /// Where each node stands in its graph; a node that took another's place stands there.
    position: HashMap<NodeId, usize>,
}

impl Known {
    pub fn new(model: &Model, shapes: Rc<Shapes>) -> Known {
        let graphs = model.all_graphs();
        let position =
            graphs.flat_map(|graph| model.nodes_of(graph).enumerate().map(|(at, node)| (node, at))).collect();
        Known { shapes, made: HashMap::new(), position }
    }

    pub fn rank(&self, model: &Model, value: ValueId) -> Option<usize> {
        match (model.constant(value), self.made.get(&value)) {
            (Some(tensor), _) => Some(tensor.rank()),
            (_, Some(lengths)) => lengths.as_ref().map(Vec::len),
            _ => self.shapes.rank(value),
        }
    }

    pub fn lengths(&self, model: &Model, value: ValueId) -> Option<Vec<SymExpr>> {
        let number = |&length: &usize| i32::try_from(length).ok().map(SymExpr::Value);
        match (model.constant(value), self.made.get(&value)) {
            (Some(tensor), _) => tensor.shape().iter().map(number).collect(),
            (_, Some(lengths)) => lengths.clone(),
            _ => self.shapes.lengths(value).map(<[SymExpr]>::to_vec),
        }
    }

    /// Notes that `new` is `value` as `layout` stores it.
    pub fn add_stored(&mut self, model: &Model, new: ValueId, value: ValueId, layout: &Layout) {
        let lengths = self.lengths(model, value).filter(|lengths| lengths.len() == layout.rank());
        self.made.insert(new, lengths.map(|lengths| layout.stored(&lengths)));
    }

    pub fn position(&self, node: NodeId) -> usize {
        self.position[&node]
    }

    /// Notes that `new` stands where `node` stands or stood.
    pub fn place_at(&mut self, new: NodeId, node: NodeId) {
        self.position.insert(new, self.position[&node]);
    }

    /// What a Transpose of `value` to `layout` costs: the node counts most, then the elements that it moves. An open
    /// length counts as a moderate one.
    pub fn cost(&self, model: &Model, value: ValueId, layout: &Layout) -> u64 {
        const NODE: u64 = 1 << 32;
        const OPEN: u64 = 16;
        let lengths = self.lengths(model, value).unwrap_or_default();
        if lengths.len() != layout.rank() || layout.is_view(|axis| lengths[axis] == SymExpr::Value(1)) {
            return NODE;
        }
        let elements = lengths.iter().map(|length| fixed_length(length).map_or(OPEN, |n| n as u64));
        NODE + elements.fold(1, u64::saturating_mul).min(NODE / 2)
    }
}
