//! Regions of values that could all be stored in another layout, and the cheapest choice of those that are.
//!
//! Each node of a region computes either in the layout of the model or in the other one. A value whose producer and
//! readers do not all agree costs a Transpose. What is outside has its side: nodes that have one form only are on this
//! side, Transposes between the two layouts are on the other with the end that is away from the region. The cheapest choice is
//! a minimum cut.

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;

use crate::ir::op::Transpose;
use crate::ir::{GraphId, Model, NodeId, Use, ValueId};
use crate::rewrite::{Match, Miss};

use super::cut::{Network, UNBOUNDED};
use super::form::{Form, Operand, Place};
use super::known::Known;
use super::layout::Layout;

/// More than these the search for a cut may not take, so that it stays linear.
const PHASES: usize = 64;

/// Values of one graph, and the layout that all of them could be in.
pub struct Region {
    graph: GraphId,
    pub values: IndexMap<ValueId, Layout>,
    /// The nodes that compute or read them, each with its form in the other layout, or why it has none.
    nodes: IndexMap<NodeId, Match<Form>>,
}

/// Which side a producer or reader is on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    /// The layout that the model has.
    This,
    Other,
    /// Whichever is cheaper.
    Either(usize),
}

/// The nodes of a region that should compute in the other layout.
pub struct Choice(Vec<NodeId>);

impl Region {
    /// Everything around `value` that could be stored in `layout`.
    pub fn around(model: &Model, known: &Known, value: ValueId, layout: Layout) -> Region {
        let mut region = Region { graph: model.value(value).graph, values: IndexMap::new(), nodes: IndexMap::new() };
        region.values.insert(value, layout);
        let mut next = 0;
        while let Some((&value, layout)) = region.values.get_index(next) {
            let layout = layout.clone();
            next += 1;
            if let Some((producer, place)) = region.producer(model, value) {
                region.reach(model, known, producer, place, &layout);
            }
            for &place in &model.value(value).uses {
                if let Use::Node(reader, index) = place {
                    region.reach(model, known, reader, Place::Operand(index), &layout);
                }
            }
        }
        region
    }

    fn producer(&self, model: &Model, value: ValueId) -> Option<(NodeId, Place)> {
        let producer = model.producer(value).filter(|&node| model.node(node).graph == self.graph)?;
        let index = model.node(producer).outputs.iter().position(|&out| out == Some(value))?;
        Some((producer, Place::Result(index)))
    }

    fn reach(&mut self, model: &Model, known: &Known, node: NodeId, place: Place, layout: &Layout) {
        if model.node(node).graph != self.graph || model.view::<Transpose>(node).is_some() {
            return;
        }
        const DISAGREE: Miss = Miss("its operands would be in different layouts");
        if let Some(found) = self.nodes.get_mut(&node) {
            if found.as_ref().is_ok_and(|form| form.layout(place) != Some(layout)) {
                *found = Err(DISAGREE);
            }
            return;
        }
        let form = Form::of(model, known, node, place, layout);
        let form = form.and_then(|form| {
            let stored = stored_values(model, node, &form);
            let agrees =
                stored.iter().all(|(value, layout)| self.values.get(value).is_none_or(|known| known == layout));
            agrees.then_some((form, stored)).ok_or(DISAGREE)
        });
        let form = form.map(|(form, stored)| {
            for (value, layout) in stored {
                self.values.entry(value).or_insert(layout);
            }
            form
        });
        self.nodes.insert(node, form);
    }

    /// The Transposes that compute or read its values.
    pub fn transposes(&self, model: &Model) -> impl Iterator<Item = NodeId> {
        let producers = self.values.keys().filter_map(|&value| model.producer(value));
        let readers = self.values.keys().flat_map(|&value| &model.value(value).uses).filter_map(|place| match *place {
            Use::Node(reader, _) => Some(reader),
            Use::Output(..) => None,
        });
        producers.chain(readers).filter(|&node| model.view::<Transpose>(node).is_some())
    }

    /// Which nodes compute in the other layout where that costs least; none where nothing is cheaper than the model.
    pub fn choose(&self, model: &Model, known: &Known) -> Match<Choice> {
        const MODEL: Miss = Miss("no choice of layouts takes fewer Transposes");
        let (other, this) = (0, 1);
        let mut network = Network::new(2 + self.nodes.len());
        let mut now = 0;
        for (&value, layout) in &self.values {
            let producer = match self.producer_side(model, value, layout) {
                Some(side) => side,
                None => Side::Either(network.add_vertex()),
            };
            let mut readers: Vec<Side> = Vec::new();
            let mut seen = HashSet::new();
            let sides = model.value(value).uses.iter().filter_map(|&place| self.reader_side(model, place, layout));
            readers.extend(sides.filter(|&side| seen.insert(side)));
            let is_other = |side: &Side| *side == Side::Other;
            let cost = known.cost(model, value, layout);
            if readers.iter().any(|side| is_other(side) != is_other(&producer)) {
                now += cost;
            }
            let vertex = |side: Side| match side {
                Side::Other => other,
                Side::This => this,
                Side::Either(vertex) => vertex,
            };
            match readers[..] {
                [reader] => network.connect(vertex(producer), vertex(reader), cost, cost),
                [] => {}
                _ => {
                    // One Transpose serves all readers on the side where the producer is not.
                    let (some_here, some_there) = (network.add_vertex(), network.add_vertex());
                    network.connect(vertex(producer), some_here, cost, 0);
                    network.connect(some_there, vertex(producer), cost, 0);
                    for reader in readers {
                        network.connect(some_here, vertex(reader), UNBOUNDED, 0);
                        network.connect(vertex(reader), some_there, UNBOUNDED, 0);
                    }
                }
            }
        }
        let (cost, is_other) = network.cut(other, this, PHASES).ok_or(Miss("the region is too tangled"))?;
        if cost >= now {
            return Err(self.nodes.values().find_map(|form| form.as_ref().err().copied()).unwrap_or(MODEL));
        }
        let chosen = self.nodes.iter().enumerate().filter(|(index, (_, form))| form.is_ok() && is_other[2 + index]);
        let mut chosen: Vec<NodeId> = chosen.map(|(_, (&node, _))| node).collect();
        if chosen.is_empty() {
            return Err(MODEL);
        }
        chosen.sort_unstable_by_key(|&node| known.position(node));
        Ok(Choice(chosen))
    }

    /// None for a Transpose from a third layout: it can as well end in this or in the other.
    fn producer_side(&self, model: &Model, value: ValueId, layout: &Layout) -> Option<Side> {
        let Some((producer, place)) = self.producer(model, value) else { return Some(Side::This) };
        match transposed(model, producer, layout.rank()) {
            Some((_, from)) if from == layout.inverse() => Some(Side::Other),
            Some(_) => None,
            None => Some(self.side(producer, place, layout)),
        }
    }

    /// None for a Transpose to a third layout.
    fn reader_side(&self, model: &Model, place: Use, layout: &Layout) -> Option<Side> {
        let Use::Node(reader, index) = place else { return Some(Side::This) };
        if model.node(reader).graph != self.graph {
            return Some(Side::This);
        }
        match transposed(model, reader, layout.rank()) {
            Some((_, to)) => (to == *layout).then_some(Side::Other),
            None => Some(self.side(reader, Place::Operand(index), layout)),
        }
    }

    fn side(&self, node: NodeId, place: Place, layout: &Layout) -> Side {
        match self.nodes.get_full(&node) {
            Some((index, _, Ok(form))) if form.layout(place) == Some(layout) => Side::Either(2 + index),
            _ => Side::This,
        }
    }

    /// Rewrites the chosen nodes. Returns the Transposes that it made or changed.
    pub fn apply(&self, model: &mut Model, known: &mut Known, Choice(chosen): &Choice) -> Vec<NodeId> {
        let mut rewriting = Rewriting { region: self, model, known, stored: HashMap::new(), made: Vec::new() };
        for &node in chosen {
            rewriting.compute_stored(node);
        }
        for &node in chosen {
            rewriting.turn_readers(node);
        }
        for &node in chosen.iter().rev() {
            rewriting.retire(node);
        }
        rewriting.made
    }
}

/// The values that `node` reads and computes in another layout than the model's; constants are in any.
fn stored_values(model: &Model, node: NodeId, form: &Form) -> Vec<(ValueId, Layout)> {
    let node = model.node(node);
    let operands = node.inputs.iter().enumerate().map(|(index, value)| (*value, Place::Operand(index)));
    let results = node.outputs.iter().enumerate().map(|(index, value)| (*value, Place::Result(index)));
    let stored = operands.chain(results).filter_map(|(value, place)| Some((value?, form.layout(place)?.clone())));
    stored.filter(|(value, layout)| !layout.is_natural() && model.constant(*value).is_none()).collect()
}

/// What `node` transposes, and to which layout, where it is a Transpose.
pub fn transposed(model: &Model, node: NodeId, rank: usize) -> Option<(ValueId, Layout)> {
    let transpose: Transpose = model.view(node)?;
    let layout = Layout::of(&transpose, Some(rank))?;
    (layout.rank() == rank).then_some((transpose.x, layout))
}

struct Rewriting<'a> {
    region: &'a Region,
    model: &'a mut Model,
    known: &'a mut Known,
    /// The values that hold those of the region in the other layout.
    stored: HashMap<(ValueId, Layout), ValueId>,
    made: Vec<NodeId>,
}

impl Rewriting<'_> {
    /// Computes the results of `node` in the other layout, too.
    fn compute_stored(&mut self, node: NodeId) {
        let Ok(form) = &self.region.nodes[&node] else { unreachable!("only nodes with a form are chosen") };
        let old = self.model.node(node);
        let (name, notes, outputs) = (old.name.clone(), old.notes.clone(), old.outputs.clone());
        let mut operation = old.with_operands(&[]);
        let base = outputs.iter().flatten().next().map(|&out| self.model.value(out).name.clone()).unwrap_or_default();
        for (index, operand) in form.operands.iter().enumerate() {
            if operation.inputs.len() <= index {
                operation.inputs.resize(index + 1, None);
            }
            let slot = &mut operation.inputs[index];
            match operand {
                Operand::Same => {}
                Operand::Stored(layout) => *slot = slot.map(|value| self.store(node, value, layout)),
                Operand::Replaced(tensor) => {
                    let known = slot.map(|value| self.model.value(value).name.clone());
                    let name = known.unwrap_or_else(|| format!("{base}.axes"));
                    *slot = Some(self.model.add_constant(self.region.graph, &name, tensor.clone()));
                }
            }
        }
        if form.swapped {
            operation.inputs.swap(0, 1);
        }
        operation.attrs.extend(form.attrs.iter().map(|(name, attr)| (name.to_string(), attr.clone())));
        let results = self.model.insert_many_before(node, operation, &base, outputs.len());
        let new = self.model.producer(results[0]).expect("just made");
        self.model.rename_node(new, &name);
        *self.model.node_notes_mut(new).notes = notes;
        self.known.place_at(new, node);
        for ((value, result), layout) in outputs.iter().zip(results).zip(&form.results) {
            if let Some(value) = *value {
                let name = self.model.value(value).name.clone();
                self.model.rename(result, &name);
                self.known.add_stored(self.model, result, value, layout);
                self.stored.insert((value, layout.clone()), result);
            }
        }
    }

    /// `value` in `layout`, for `reader`.
    fn store(&mut self, reader: NodeId, value: ValueId, layout: &Layout) -> ValueId {
        if let Some(&stored) = self.stored.get(&(value, layout.clone())) {
            return stored;
        }
        let stored = self.new_stored(reader, value, layout);
        self.stored.insert((value, layout.clone()), stored);
        stored
    }

    fn new_stored(&mut self, reader: NodeId, value: ValueId, layout: &Layout) -> ValueId {
        if layout.is_natural() {
            return value;
        }
        if let Some(tensor) = self.model.constant(value) {
            let (tensor, name) =
                (layout.apply(tensor).expect("forms ask for what can be stored"), self.model.value(value).name.clone());
            return self.model.add_constant(self.region.graph, &name, tensor);
        }
        let producer = self.region.producer(self.model, value).map(|(node, _)| node);
        if let Some((producer, (x, from))) =
            producer.and_then(|node| Some((node, transposed(self.model, node, layout.rank())?)))
        {
            let whole = from.then(layout);
            return if whole.is_natural() { x } else { self.transpose(producer, x, &whole) };
        }
        let earlier = self.model.value(value).uses.iter().find_map(|&place| {
            let Use::Node(other, _) = place else { return None };
            let (_, to) = transposed(self.model, other, layout.rank()).filter(|(_, to)| to == layout)?;
            let here = self.model.node(other).graph == self.region.graph;
            let before = here && self.known.position(other) < self.known.position(reader);
            self.model.node(other).outputs[0].filter(|_| before && to == *layout)
        });
        earlier.unwrap_or_else(|| self.transpose(reader, value, layout))
    }

    fn transpose(&mut self, before: NodeId, x: ValueId, layout: &Layout) -> ValueId {
        let name = format!("{}.Transpose", self.model.value(x).name);
        let new = self.model.insert_before(before, Transpose { x, perm: layout.perm() }, &name);
        let node = self.model.producer(new).expect("just made");
        self.known.place_at(node, before);
        self.known.add_stored(self.model, new, x, layout);
        self.made.push(node);
        new
    }

    /// Lets Transposes of the results of `node` read what is stored in the other layout.
    fn turn_readers(&mut self, node: NodeId) {
        let Ok(form) = &self.region.nodes[&node] else { return };
        for (index, layout) in form.results.iter().enumerate() {
            // It went with the last Transpose that read it.
            if !self.model.is_live(node) {
                return;
            }
            let Some(value) = self.model.node(node).outputs[index].filter(|_| !layout.is_natural()) else { continue };
            let key = (value, layout.clone());
            for place in self.model.value(value).uses.clone() {
                let stored = self.stored[&key];
                let Use::Node(reader, _) = place else { continue };
                let in_graph = self.model.is_live(reader) && self.model.node(reader).graph == self.region.graph;
                let Some((_, to)) = transposed(self.model, reader, layout.rank()).filter(|_| in_graph) else {
                    continue;
                };
                let whole = layout.inverse().then(&to);
                if whole.is_natural() {
                    let result = self.model.node(reader).outputs[0].expect("a Transpose has a result");
                    self.model.unify(result, stored);
                    if !self.model.is_value_live(stored) {
                        self.stored.insert(key.clone(), result);
                    }
                } else {
                    let new = self.model.replace_operation(reader, Transpose { x: stored, perm: whole.perm() });
                    self.known.place_at(new, reader);
                    self.made.push(new);
                }
            }
        }
    }

    /// Removes `node`; what others still read of it is transposed back.
    fn retire(&mut self, node: NodeId) {
        let Ok(form) = &self.region.nodes[&node] else { return };
        for (index, layout) in form.results.iter().enumerate() {
            if !self.model.is_live(node) {
                return;
            }
            let Some(value) = self.model.node(node).outputs[index] else { continue };
            if self.model.value(value).uses.is_empty() {
                continue;
            }
            let stored = self.stored[&(value, layout.clone())];
            if layout.is_natural() {
                self.model.unify(value, stored);
                continue;
            }
            let name = self.model.value(value).name.clone();
            let op = self.model.node(node).op.clone();
            if !self.model.is_output(stored) {
                self.model.rename(stored, &format!("{name}.{op}"));
            }
            self.model.redefine(value, Transpose { x: stored, perm: layout.inverse().perm() });
            let back = self.model.producer(value).expect("just redefined");
            self.model.rename_node(back, &format!("{name}.Transpose"));
            self.known.place_at(back, node);
            self.made.push(back);
        }
        if self.model.is_live(node) {
            self.model.sweep(node);
        }
    }
}
