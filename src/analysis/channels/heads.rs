//! Heads of an attention: an axis that a Reshape makes and a product of two computed values has as a stack of matrices.

use super::layers::einsum_labels;
use super::rules::{attribute, operand, result};
use super::walk::Walk;
use crate::analysis::shapes::call::{place, places};
use crate::ir::{Attr, NodeId, Use, ValueId};

/// So many nodes are looked at: heads are read soon after they are made.
const NODES: usize = 64;

impl Walk<'_> {
    /// Whether an axis of `value` is one of heads.
    pub fn is_batch_of_product(&mut self, value: ValueId, axis: usize) -> bool {
        let (mut work, mut looked_at) = (vec![(value, axis)], 0);
        while let Some((value, axis)) = work.pop() {
            for place in &self.model.value(value).uses {
                let Use::Node(reader, index) = *place else { continue };
                looked_at += 1;
                if looked_at > NODES {
                    return false;
                }
                match self.seen(reader, index, value, axis) {
                    Seen::Heads => return true,
                    Seen::On(axis) => {
                        let results = self.model.node(reader).outputs.iter().flatten();
                        work.extend(results.map(|&result| (result, axis)));
                    }
                    Seen::Nothing => {}
                }
            }
        }
        false
    }

    /// What a reader makes of an axis.
    fn seen(&mut self, reader: NodeId, index: usize, value: ValueId, axis: usize) -> Seen {
        let (node, rank) = (self.model.node(reader), self.lengths(value).len());
        if !node.domain.is_empty() {
            return Seen::Nothing;
        }
        let behind = rank - axis;
        match node.op.as_str() {
            "MatMul" => {
                let other = operand(node, 1 - index);
                let computed = other.is_some_and(|other| self.model.constant(other).is_none());
                if computed && behind > 2 { Seen::Heads } else { Seen::Nothing }
            }
            "Attention" if rank == 4 && axis == 1 => Seen::Heads,
            "InstanceNormalization" if index == 0 && axis == 1 => Seen::Heads,
            "Einsum" => {
                let Some((terms, given)) = einsum_labels(node) else { return Seen::Nothing };
                let label = terms[index].get(axis);
                let is_everywhere = |label| terms.iter().chain([&given]).all(|term| term.contains(label));
                if terms.len() > 1 && label.is_some_and(is_everywhere) { Seen::Heads } else { Seen::Nothing }
            }
            "Transpose" => {
                let perm = match node.attrs.get("perm") {
                    Some(Attr::Ints(perm)) => places(perm, rank),
                    _ => Some((0..rank).rev().collect()),
                };
                perm.and_then(|perm| perm.iter().position(|&from| from == axis)).map_or(Seen::Nothing, Seen::On)
            }
            "Gather" if index == 0 => match operand(node, 1).and_then(|indices| self.shapes.rank(indices)) {
                Some(0) => match place(attribute(node, "axis").unwrap_or(0), rank) {
                    Some(taken) if taken < axis => Seen::On(axis - 1),
                    Some(taken) if taken > axis => Seen::On(axis),
                    _ => Seen::Nothing,
                },
                _ => Seen::Nothing,
            },
            "Squeeze" | "Unsqueeze" if index == 0 => {
                let Some(y) = result(node) else { return Seen::Nothing };
                let long = |value: ValueId| -> Vec<usize> {
                    (0..self.lengths(value).len()).filter(|&axis| self.length(value, axis) != Some(1)).collect()
                };
                let (from, to) = (long(value), long(y));
                match from.iter().position(|&from| from == axis).filter(|_| from.len() == to.len()) {
                    Some(nth) => Seen::On(to[nth]),
                    None => Seen::Nothing,
                }
            }
            "Split" | "Slice" | "Add" | "Sub" | "Mul" | "Div" | "Cast" | "Identity" | "Dropout" | "Softmax"
            | "Concat" | "Neg" | "Where" | "LayerNormalization" | "RMSNormalization" => match result(node) {
                Some(y) if self.lengths(y).len() >= behind => Seen::On(self.lengths(y).len() - behind),
                _ => Seen::Nothing,
            },
            _ => Seen::Nothing,
        }
    }
}

enum Seen {
    Heads,
    /// The result has it, there.
    On(usize),
    Nothing,
}
