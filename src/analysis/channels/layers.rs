//! Channels of layers with weights, and of normalizations.

use std::collections::BTreeMap;

use super::Lane;
use super::classes::Pin;
use super::rules::{attribute, operand, result};
use super::walk::{Axes, Walk};
use crate::analysis::shapes::call::place;
use crate::ir::{Attr, Node, NodeId, ValueId};

/// A side of a convolution with groups: channels of an activation, axis by axis in groups of so many.
#[derive(Clone, Copy)]
struct Grouped {
    lane: Option<Lane>,
    each: usize,
}

/// Whether a convolution with groups is cut by whole groups: where a group has one channel on either side. Else every group
/// loses the same of its channels.
pub fn cuts_groups(inputs_each: usize, outputs_each: usize) -> bool {
    inputs_each == 1 || outputs_each == 1
}

/// The labels of the operands of an Einsum and of its result; none where a label comes twice in one of them, or stands for
/// several axes.
pub fn einsum_labels(node: &Node) -> Option<(Vec<Vec<char>>, Vec<char>)> {
    let Some(Attr::Str(equation)) = node.attrs.get("equation") else { return None };
    let equation: String = std::str::from_utf8(equation).ok()?.split_whitespace().collect();
    let (terms, given) = equation.split_once("->")?;
    let terms: Vec<Vec<char>> = terms.split(',').map(|term| term.chars().collect()).collect();
    let given: Vec<char> = given.chars().collect();
    let is_plain = |term: &Vec<char>| {
        let letters = term.iter().all(|letter| letter.is_alphabetic());
        letters && (0..term.len()).all(|at| !term[..at].contains(&term[at]))
    };
    let fits = terms.len() == node.inputs.len() && terms.iter().chain([&given]).all(is_plain);
    fits.then_some((terms, given))
}

impl Walk<'_> {
    pub fn convolved(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (x, w) = (operand(node, 0)?, operand(node, 1)?);
        let group = usize::try_from(attribute(node, "group").unwrap_or(1)).ok()?;
        let (channels, kernel) = (self.axes_of(x), self.axes_of(w));
        let (outputs, inputs_each) = (self.length(w, 0)?, self.length(w, 1)?);
        if channels.len() < 2 || kernel.len() != channels.len() || group == 0 || outputs % group > 0 {
            return None;
        }
        let inputs = Grouped { lane: channels[1], each: inputs_each };
        let outputs = Grouped { lane: kernel[0], each: outputs / group };
        self.pin_some(&channels[2..], Pin::Node(id, "it works along them"));
        self.pin_some(&kernel[2..], Pin::Node(id, "it works along them"));
        self.group(id, group, inputs, outputs, kernel[1], inputs_each);
        self.bias(id, operand(node, 2), outputs.lane);
        Some([&[channels[0], outputs.lane], &vec![None; channels.len() - 2][..]].concat())
    }

    pub fn transposed_convolution(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (x, w) = (operand(node, 0)?, operand(node, 1)?);
        let group = usize::try_from(attribute(node, "group").unwrap_or(1)).ok()?;
        let (channels, kernel) = (self.axes_of(x), self.axes_of(w));
        let (inputs, outputs_each) = (self.length(w, 0)?, self.length(w, 1)?);
        if channels.len() < 2 || kernel.len() != channels.len() || group == 0 || inputs % group > 0 {
            return None;
        }
        let pin = Pin::Node(id, "it works along them");
        self.pin_some(&channels[2..], pin);
        self.pin_some(&kernel[2..], pin);
        if self.length(w, 0) != Some(1) {
            self.meet(channels[1], kernel[0], Pin::Node(id, "its input has channels that are not followed"));
        }
        let outputs = match group {
            1 => kernel[1],
            _ => Some(self.fresh(group * outputs_each)),
        };
        let inputs = Grouped { lane: kernel[0], each: inputs / group };
        self.group(id, group, inputs, Grouped { lane: outputs, each: outputs_each }, kernel[1], outputs_each);
        self.bias(id, operand(node, 2), outputs);
        Some([&[channels[0], outputs], &vec![None; channels.len() - 2][..]].concat())
    }

    /// Ties the channels on both sides of a convolution. `shared` are those that the kernel has once for all groups: the
    /// `each` of either its inputs or its outputs.
    fn group(
        &mut self,
        id: NodeId,
        group: usize,
        inputs: Grouped,
        outputs: Grouped,
        shared: Option<Lane>,
        each: usize,
    ) {
        let pin = Pin::Node(id, "its input has channels that are not followed");
        let node = self.model.node(id);
        let is_conv = node.op == "Conv";
        if group == 1 {
            if is_conv && each != 1 {
                self.meet(inputs.lane, shared, pin);
            }
            return;
        }
        let [Some(from), Some(to)] = [inputs.lane, outputs.lane] else {
            self.pin_some(&[inputs.lane, outputs.lane, shared], pin);
            return;
        };
        let (x, y) = (self.channels(from).to_vec(), self.channels(to).to_vec());
        if x.len() != group * inputs.each || y.len() != group * outputs.each {
            self.pin_some(&[inputs.lane, outputs.lane, shared], pin);
            return;
        }
        if cuts_groups(inputs.each, outputs.each) {
            self.pin_some(&[shared], Pin::Node(id, "every group has them"));
            for (x, y) in x.chunks(inputs.each).zip(y.chunks(outputs.each)) {
                self.tie(&[x, y].concat());
            }
            return;
        }
        let once = shared.map(|lane| self.channels(lane).to_vec());
        for (side, of) in [(&x, inputs.each), (&y, outputs.each)] {
            for (index, &channel) in side.iter().enumerate() {
                self.sets.unite(side[index % of], channel);
            }
        }
        let beside = if is_conv { &x } else { &y };
        for (index, &channel) in once.iter().flatten().enumerate() {
            self.sets.unite(channel, beside[index]);
        }
    }

    fn bias(&mut self, id: NodeId, bias: Option<ValueId>, outputs: Option<Lane>) {
        if let Some(bias) = bias {
            let lanes = self.axes_of(bias);
            if let [lane] = lanes[..]
                && self.length(bias, 0) != Some(1)
            {
                self.meet(lane, outputs, Pin::Node(id, "its bias has channels that are not followed"));
            }
        }
    }

    pub fn matrix_product(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (a, b) = (operand(node, 0)?, operand(node, 1)?);
        let (left, right) = (self.axes_of(a), self.axes_of(b));
        let depth = *left.last()?;
        if left.len() == 1 {
            return self.product_of_row(id, b, depth);
        }
        let column = right.len().checked_sub(2);
        let pin = Pin::Node(id, "it sums over channels that are not followed");
        if self.length(a, left.len() - 1) != Some(1) {
            self.meet(depth, *right.get(column.unwrap_or(0))?, pin);
        }
        let mut axes = self.stacks(id, a, &left, b, &right)?;
        axes.push(left[left.len() - 2]);
        axes.extend(column.map(|_| right[right.len() - 1]));
        Some(axes)
    }

    /// A vector on the left.
    fn product_of_row(&mut self, id: NodeId, b: ValueId, depth: Option<Lane>) -> Option<Axes> {
        let mut right = self.axes_of(b);
        let place = right.len().saturating_sub(2);
        let pin = Pin::Node(id, "it sums over channels that are not followed");
        if self.length(b, place) != Some(1) {
            self.meet(depth, *right.get(place)?, pin);
        }
        right.remove(place);
        Some(right)
    }

    /// The axes of stacks of matrices, broadcast.
    fn stacks(&mut self, id: NodeId, a: ValueId, left: &Axes, b: ValueId, right: &Axes) -> Option<Axes> {
        let ranks = [left.len().checked_sub(2)?, right.len().saturating_sub(2)];
        let rank = ranks[0].max(ranks[1]);
        let pin = Pin::Node(id, "a length beside them is not followed");
        let mut axes = vec![None; rank];
        for (axis, found) in axes.iter_mut().enumerate() {
            let place = ranks.map(|own| (axis + own).checked_sub(rank));
            let is_one = |value: ValueId, place: Option<usize>| place.is_none_or(|p| self.length(value, p) == Some(1));
            let ones = [is_one(a, place[0]), is_one(b, place[1])];
            let lanes = [place[0].and_then(|p| left[p]), place[1].and_then(|p| right[p])];
            *found = match ones {
                [false, false] => {
                    self.meet(lanes[0], lanes[1], pin);
                    lanes[0].and(lanes[1])
                }
                [true, _] => lanes[1],
                [_, true] => lanes[0],
            };
        }
        Some(axes)
    }

    pub fn gemm(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (a, b) = (operand(node, 0)?, operand(node, 1)?);
        let (left, right) = (self.axes_of(a), self.axes_of(b));
        let ([_, _], [_, _]) = (&left[..], &right[..]) else { return None };
        let is_set = |name: &str| attribute(node, name) == Some(1);
        let (row, depth) = if is_set("transA") { (1, 0) } else { (0, 1) };
        let (sum, column) = if is_set("transB") { (1, 0) } else { (0, 1) };
        if self.length(a, depth) != Some(1) {
            self.meet(left[depth], right[sum], Pin::Node(id, "it sums over channels that are not followed"));
        }
        let axes = vec![left[row], right[column]];
        if let Some(c) = operand(node, 2) {
            let lanes = self.axes_of(c);
            let first = 2usize.checked_sub(lanes.len())?;
            let pin = Pin::Node(id, "its bias has channels that are not followed");
            for (axis, &lane) in lanes.iter().enumerate() {
                if self.length(c, axis) != Some(1) {
                    self.meet(axes[first + axis], lane, pin);
                }
            }
        }
        Some(axes)
    }

    pub fn einsum(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (terms, given) = einsum_labels(node)?;
        let pin = Pin::Node(id, "a length beside them is not followed");
        let mut labels: BTreeMap<char, Option<Lane>> = BTreeMap::new();
        for (term, input) in terms.iter().zip(&node.inputs) {
            let lanes = self.axes_of((*input)?);
            if lanes.len() != term.len() {
                return None;
            }
            for (axis, (&label, &lane)) in term.iter().zip(&lanes).enumerate() {
                if self.length((*input)?, axis) == Some(1) {
                    continue;
                }
                match labels.get(&label).copied() {
                    None => drop(labels.insert(label, lane)),
                    Some(known) => {
                        self.meet(known, lane, pin);
                        labels.insert(label, known.and(lane));
                    }
                }
            }
        }
        Some(given.iter().map(|label| labels.get(label).copied().flatten()).collect())
    }

    /// Mean, variance, scale and shift have the channels of axis 1.
    pub fn channel_normalized(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let mut x = self.axes_of(operand(node, 0)?);
        let channels = *x.get(1)?;
        for &parameter in node.inputs.iter().skip(1).flatten() {
            if let [lane] = self.axes_of(parameter)[..]
                && self.length(parameter, 0) != Some(1)
            {
                self.meet(channels, lane, Pin::Node(id, "its channels are not followed"));
            }
        }
        if node.op == "InstanceNormalization" {
            let spatial = x[2..].to_vec();
            self.pin_some(&spatial, Pin::Node(id, "it works along them"));
            x[2..].fill(None);
        }
        Some(x)
    }

    /// Every group loses the same of its channels.
    pub fn group_normalized(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let x = self.channel_normalized_by_group(id, node)?;
        let groups = usize::try_from(attribute(node, "num_groups")?).ok().filter(|&groups| groups > 0)?;
        if let Some(lane) = x[1] {
            let channels = self.channels(lane).to_vec();
            let each = channels.len() / groups;
            for (index, &channel) in channels.iter().enumerate() {
                self.sets.unite(channels[index % each.max(1)], channel);
            }
        }
        Some(x)
    }

    fn channel_normalized_by_group(&mut self, id: NodeId, node: &Node) -> Option<Axes> {
        let mut x = self.axes_of(operand(node, 0)?);
        let (channels, length) = (*x.get(1)?, self.length(operand(node, 0)?, 1));
        for &parameter in node.inputs.iter().skip(1).flatten() {
            let lanes = self.axes_of(parameter);
            let pin = Pin::Node(id, "its channels are not followed");
            match lanes[..] {
                [lane] if self.length(parameter, 0) == length => self.meet(channels, lane, pin),
                // Until opset 20 there was one for each group.
                _ => self.pin_some(&lanes, pin),
            }
        }
        let spatial = x[2..].to_vec();
        self.pin_some(&spatial, Pin::Node(id, "it works along them"));
        x[2..].fill(None);
        Some(x)
    }

    pub fn layer_normalized(&mut self, id: NodeId) -> Option<Vec<Axes>> {
        let node = self.model.node(id);
        let x = self.axes_of(operand(node, 0)?);
        let axis = place(attribute(node, "axis").unwrap_or(-1), x.len())?;
        for &parameter in node.inputs.iter().skip(1).flatten() {
            let rank = self.axes_of(parameter).len();
            let first = x.len().checked_sub(rank)?;
            self.meet_behind(&x, first, parameter, Pin::Node(id, "its channels are not followed"));
        }
        let mut statistics = x.clone();
        statistics[axis..].fill(None);
        Some(vec![x, statistics.clone(), statistics])
    }

    /// Queries, keys and values in heads, on an axis of their own or side by side along the last.
    pub fn attention(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let [q, k, v] = [operand(node, 0)?, operand(node, 1)?, operand(node, 2)?];
        let lanes = [q, k, v].map(|value| self.axes_of(value));
        let pin = Pin::Node(id, "nothing is known of its channels");
        node.inputs.iter().skip(3).flatten().for_each(|&other| self.pin_all(other, pin));
        let heads: Option<[usize; 3]> = match lanes[0].len() {
            4 => Some([self.length(q, 1)?, self.length(k, 1)?, self.length(v, 1)?]),
            3 => {
                let count = |name: &str| attribute(node, name).and_then(|n| usize::try_from(n).ok());
                let (q, kv) = (count("q_num_heads")?, count("kv_num_heads")?);
                Some([q, kv, kv])
            }
            _ => None,
        };
        let (heads, y) = (heads?, result(node)?);
        if heads[1] != heads[2] || heads[1] == 0 || heads[0] % heads[1] > 0 {
            return None;
        }
        let axis = if lanes[0].len() == 4 { 1 } else { 2 };
        let mut outputs = vec![None; lanes[0].len()];
        let found = [lanes[0][axis], lanes[1][axis], lanes[2][axis]];
        let extra = node.inputs.len() > 3;
        if found.iter().any(Option::is_none) || extra {
            lanes.iter().for_each(|lanes| self.pin_some(lanes, pin));
            return Some(outputs);
        }
        // Whatever is not a head stays.
        for lanes in &lanes {
            for (other, &lane) in lanes.iter().enumerate().filter(|(other, _)| *other != axis) {
                if other > 0 {
                    self.pin_some(&[lane], Pin::Node(id, "it works along them"));
                }
            }
        }
        let of_heads = |walk: &Self, lane: Option<Lane>, heads: usize| -> Vec<Vec<u32>> {
            let channels = lane.map(|lane| walk.channels(lane).to_vec()).unwrap_or_default();
            channels.chunks((channels.len() / heads).max(1)).map(<[u32]>::to_vec).collect()
        };
        let [q, k, v] = [0, 1, 2].map(|side| of_heads(self, found[side], heads[side]));
        let shared = heads[0] / heads[1];
        for (head, query) in q.iter().enumerate() {
            let (key, value) = (&k[head / shared], &v[head / shared]);
            self.tie(&[&query[..], key, value].concat());
        }
        let length = self.length(y, axis)?;
        let each = length / heads[0];
        let channels = (0..length).map(|index| q[index / each.max(1)][0]).collect();
        outputs[axis] = Some(self.lane(channels));
        outputs[0] = lanes[0][0];
        Some(outputs)
    }

    /// Rows of a table, or a few of the channels.
    pub fn gathered(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (data, indices) = (operand(node, 0)?, operand(node, 1)?);
        let lanes = self.axes_of(data);
        let axis = place(attribute(node, "axis").unwrap_or(0), lanes.len())?;
        let rank = self.shapes.rank(indices)?;
        self.pin_all(indices, Pin::Node(id, "they are numbers of rows"));
        let mut chosen = vec![None; rank];
        if let Some(lane) = lanes[axis] {
            let channels = self.channels(lane).to_vec();
            let numbers = self.model.constant(indices).filter(|_| rank < 2).and_then(|indices| indices.ints());
            let place = |&n: &i64| usize::try_from(if n < 0 { n + channels.len() as i64 } else { n }).ok();
            let numbers = numbers.and_then(|all| all.iter().map(place).collect::<Option<Vec<_>>>());
            match numbers.filter(|all| all.iter().all(|&n| n < channels.len())) {
                Some(all) if rank == 1 && all.len() > 1 => {
                    chosen[0] = Some(self.lane(all.iter().map(|&n| channels[n]).collect()));
                }
                Some(all) => {
                    for n in all {
                        self.sets.pin(channels[n], Pin::Node(id, "it takes one of them"));
                    }
                }
                None => self.pin(lane, Pin::Node(id, "they are chosen when the model runs")),
            }
        }
        Some([&lanes[..axis], &chosen, &lanes[axis + 1..]].concat())
    }
}
