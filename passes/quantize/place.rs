//! Where a network is int8: which nodes compute in it, and which values are stored in it.
//!
//! A decision about the flow of data. Layers, and products where the target wants them, are int8 wherever they can be; any
//! other operator only between int8 values, so that no value is quantized just for it, and only where int8 goes on behind
//! it. A quantizer takes over the limits and scales that follow a node ([`tail`](super::tail)).

use std::collections::{HashMap, HashSet};

use indexmap::IndexMap;

use crate::analysis::Shapes;
use crate::ir::{DType, Model, NodeId, Use, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

use super::cost::{self, Cost};
use super::layer::{Layer, is_layer};
use super::tail::{self, Tail};
use super::target::{MOVES, Products, Traits};

/// What runs in int8.
pub struct Placement {
    /// In execution order.
    pub units: Vec<Unit>,
    /// Every value that is int8 for some reader, with the value whose grid it has: itself, or what it was moved from.
    pub values: IndexMap<ValueId, ValueId>,
}

/// A node that runs in int8, with the nodes behind it that go with it.
pub struct Unit {
    pub node: NodeId,
    pub role: Role,
    /// The operands that are int8.
    pub operands: Vec<ValueId>,
    /// The nodes whose work the quantizer of the result does.
    pub absorbed: Vec<NodeId>,
    pub tail: Tail,
    /// Activations that the target fuses, between the node and its quantizer.
    pub kept: Vec<NodeId>,
    /// What the last of these nodes computes.
    pub result: ValueId,
    /// Whether the result is int8, too, or float.
    pub quantizes: bool,
}

pub enum Role {
    Layer(Layer),
    /// Moves elements: the result has the grid of the operand.
    Move,
    /// Joins values that need a common grid.
    Join,
    /// Multiplies two activations.
    Product,
    /// HardSwish, as an integer Add that saturates and a Mul.
    HardSwish,
    /// Anything else that the target runs between int8 values; constant operands are int8, too.
    Operator,
}

/// What a quantizer does not need to tell apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub low: f32,
    pub high: f32,
    /// Whether what lies below has to come out as the lower limit or less: it is what makes a reader's result zero.
    pub reached: bool,
}

/// HardSwish is zero below: numbers there need no levels of their own.
const HARD_SWISH_ZERO: f32 = -3.0;

/// The name under which the report lists what became of a node.
const LAYER: &str = "int8_layer";
const OPERATOR: &str = "int8_operator";

impl Placement {
    /// Decides for the main graph of `model`; nodes for which `kept` holds stay float. With `costs`, so do regions that
    /// int8 would not make faster.
    pub fn of(
        model: &Model,
        shapes: &Shapes,
        traits: &Traits,
        costs: bool,
        kept: impl Fn(NodeId) -> bool,
    ) -> (Placement, Outcome) {
        let (int8, copied, outcome) = (HashSet::new(), HashSet::new(), Outcome::default());
        let mut search = Search { model, shapes, traits, kept: &kept, int8, copied, outcome };
        let mut units = search.forwards();
        search.backwards(&mut units);
        if costs {
            search.drop_losses(&mut units);
        }
        let mut outcome = search.outcome;
        for unit in &units {
            let what = if matches!(unit.role, Role::Layer(_)) { LAYER } else { OPERATOR };
            *outcome.applied.entry(what).or_default() += 1;
            *outcome.applied.entry("absorbed_activation").or_default() += unit.absorbed.len();
        }
        let values = grids(&units);
        *outcome.applied.entry("int8_value").or_default() += values.len();
        (Placement { units, values }, outcome)
    }

    /// The values whose ranges decide about grids, and the limits that hold for each: those of its absorbed activations, and
    /// those beyond which no reader sees a difference.
    pub fn measured(&self, model: &Model) -> Vec<(ValueId, Limits)> {
        let mut limits: IndexMap<ValueId, Limits> = IndexMap::new();
        let moved: HashSet<ValueId> =
            self.units_of(|role| matches!(role, Role::Move)).map(|unit| unit.result).collect();
        for &value in self.values.keys().filter(|value| !moved.contains(*value)) {
            limits.insert(value, Limits { low: f32::NEG_INFINITY, high: f32::INFINITY, reached: false });
        }
        for unit in self.units.iter().filter(|unit| unit.quantizes) {
            if let Some(limits) = limits.get_mut(&unit.result) {
                (limits.low, limits.high) = (unit.tail.low, unit.tail.high);
            }
        }
        let swishes: HashSet<NodeId> =
            self.units_of(|role| matches!(role, Role::HardSwish)).map(|unit| unit.node).collect();
        let is_swish = |place: &Use| matches!(place, Use::Node(node, _) if swishes.contains(node));
        for (value, limits) in &mut limits {
            if model.value(*value).uses.iter().all(is_swish) && limits.low < HARD_SWISH_ZERO {
                (limits.low, limits.reached) = (HARD_SWISH_ZERO, true);
            }
        }
        limits.into_iter().collect()
    }

    /// What is added to each result by its own quantizer. Layers add it to their bias.
    pub fn shifts(&self) -> impl Iterator<Item = (ValueId, f32)> {
        let renamed = self.units.iter().filter(|unit| !matches!(unit.role, Role::Layer(_)));
        renamed.map(|unit| (unit.result, unit.tail.shift))
    }

    fn units_of(&self, role: impl Fn(&Role) -> bool) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(move |unit| role(&unit.role))
    }
}

struct Search<'s> {
    model: &'s Model,
    shapes: &'s Shapes,
    traits: &'s Traits,
    kept: &'s dyn Fn(NodeId) -> bool,
    /// Values that are int8 as they are made.
    int8: HashSet<ValueId>,
    /// Values that layers and products read in int8.
    copied: HashSet<ValueId>,
    outcome: Outcome,
}

impl Search<'_> {
    fn forwards(&mut self) -> Vec<Unit> {
        let (mut units, mut absorbed) = (Vec::new(), HashSet::new());
        for node in self.model.nodes_of(self.model.main) {
            if absorbed.contains(&node) {
                continue;
            }
            let Some(what) = self.kind(node) else { continue };
            match self.unit(node) {
                Ok(unit) => {
                    absorbed.extend(unit.absorbed.iter().chain(&unit.kept).copied());
                    if unit.quantizes {
                        self.int8.insert(unit.result);
                    }
                    if let Role::Layer(_) | Role::Product = unit.role {
                        self.copied.extend(&unit.operands);
                    }
                    units.push(unit);
                }
                Err(miss) => drop(self.outcome.missed.insert((what, node), miss)),
            }
        }
        units
    }

    /// What the report calls the node where it could be int8 at all.
    fn kind(&self, id: NodeId) -> Option<&'static str> {
        let node = self.model.node(id);
        let op = node.op.as_str();
        match op {
            _ if !node.domain.is_empty() => None,
            _ if is_layer(op) && self.is_weighted(id) => Some(LAYER),
            "MatMul" if self.traits.products != Products::None => Some(OPERATOR),
            _ if self.traits.operators.contains(&op) || MOVES.contains(&op) => Some(OPERATOR),
            _ => None,
        }
    }

    fn is_weighted(&self, node: NodeId) -> bool {
        let weight = self.model.node(node).inputs.get(1).copied().flatten();
        weight.is_some_and(|weight| self.model.constant(weight).is_some())
    }

    fn unit(&self, id: NodeId) -> Match<Unit> {
        let node = self.model.node(id);
        let op = node.op.as_str();
        require!(!(self.kept)(id), "asked to stay float");
        let &[Some(first)] = &node.outputs[..] else { return Err(Miss("it has several results")) };
        if is_layer(op) && self.is_weighted(id) {
            require!(self.traits.layers.contains(&op), "the target has no such layer in int8");
            let layer = Layer::read(self.model, id)?;
            self.accept_operand(layer.x)?;
            let operands = vec![layer.x];
            return Ok(self.computed(op, self.alone(id, Role::Layer(layer), operands, first)));
        }
        let operands = self.data_operands(id);
        require!(!operands.is_empty(), "all of its operands are constants");
        if op == "MatMul" {
            return self.product(id, operands, first);
        }
        let is_int8 =
            |operand| self.int8.contains(operand) || self.traits.reads_copies && self.copied.contains(operand);
        require!(operands.iter().all(is_int8), "it reads a value that is float");
        require!(self.shapes.rank(first).is_some_and(|rank| rank > 0), "its rank is not known");
        let role = match op {
            _ if MOVES.contains(&op) => return Ok(self.alone(id, Role::Move, operands, first)),
            "Concat" if self.traits.concat_ties => return Ok(self.alone(id, Role::Join, operands, first)),
            "HardSwish" if self.traits.splits_hard_swish => Role::HardSwish,
            _ => Role::Operator,
        };
        Ok(self.with_tail(self.alone(id, role, operands, first)))
    }

    /// Wherever it can be, as a layer.
    fn product(&self, id: NodeId, operands: Vec<ValueId>, result: ValueId) -> Match<Unit> {
        require!(operands.len() == 2, "its left operand is constant");
        operands.iter().try_for_each(|&operand| self.accept_operand(operand))?;
        let of_probabilities = operands.iter().any(|&operand| self.holds_probabilities(operand));
        let all = self.traits.products == Products::All;
        require!(all || !of_probabilities, "the target leaves products of probabilities in floats");
        Ok(self.computed("MatMul", self.alone(id, Role::Product, operands, result)))
    }

    /// A layer or a product with what its quantizer can do, or without a quantizer where it gives floats.
    fn computed(&self, op: &str, unit: Unit) -> Unit {
        match op == "MatMul" && self.traits.float_results.contains(&op) {
            true => Unit { quantizes: false, ..unit },
            false => self.with_tail(unit),
        }
    }

    /// Whether `value` comes of a Softmax, moved or not.
    fn holds_probabilities(&self, mut value: ValueId) -> bool {
        while let Some(producer) = self.model.producer(value) {
            let node = self.model.node(producer);
            match node.op.as_str() {
                "Softmax" => return true,
                op if MOVES.contains(&op) || op == "Identity" => match node.inputs[0] {
                    Some(moved) => value = moved,
                    None => return false,
                },
                _ => return false,
            }
        }
        false
    }

    fn alone(&self, node: NodeId, role: Role, operands: Vec<ValueId>, result: ValueId) -> Unit {
        let (absorbed, kept) = (Vec::new(), Vec::new());
        Unit { node, role, operands, absorbed, tail: Tail::NOTHING, kept, result, quantizes: true }
    }

    /// The operands that hold data, without constants; those that tell shapes are none.
    fn data_operands(&self, id: NodeId) -> Vec<ValueId> {
        let node = self.model.node(id);
        let count = if MOVES.contains(&node.op.as_str()) { 1 } else { node.inputs.len() };
        let operands = node.inputs.iter().take(count).flatten().copied();
        operands.filter(|&operand| self.model.constant(operand).is_none()).collect()
    }

    fn accept_operand(&self, x: ValueId) -> Match<()> {
        let value = self.model.value(x);
        require!(value.graph == self.model.main, "it reads a value of another graph");
        require!(self.shapes.dtype(x) == Some(DType::F32), "it does not read single precision");
        let producer = self.model.producer(x).map(|node| self.model.node(node).op.as_str());
        require!(producer != Some("DequantizeLinear"), "what it reads is quantized already");
        Ok(())
    }

    /// The unit with what the quantizer behind it can do, or with the activation that the target fuses.
    fn with_tail(&self, unit: Unit) -> Unit {
        let last = |nodes: &[NodeId]| nodes.last().and_then(|&node| self.model.node(node).outputs[0]);
        let is_free = |node: NodeId| !(self.kept)(node);
        if self.traits.absorbs {
            let (absorbed, tail) = tail::follow(self.model, unit.result, is_free);
            let result = last(&absorbed).unwrap_or(unit.result);
            return Unit { absorbed, tail, result, ..unit };
        }
        let activation = tail::only_reader(self.model, unit.result)
            .filter(|&node| is_free(node) && matches!(self.model.node(node).op.as_str(), "Relu" | "Clip"));
        let kept: Vec<NodeId> = activation.into_iter().collect();
        let result = last(&kept).unwrap_or(unit.result);
        Unit { kept, result, ..unit }
    }

    /// Takes back what is int8 for nobody: an operator behind which everything is float, and the quantizer of a layer that
    /// can give floats.
    fn backwards(&mut self, units: &mut Vec<Unit>) {
        let mut wanted: HashSet<ValueId> = HashSet::new();
        let mut dropped: HashSet<NodeId> = HashSet::new();
        for unit in units.iter_mut().rev() {
            let is_wanted = wanted.contains(&unit.result);
            if let Role::Layer(_) | Role::Product = unit.role {
                let floats = self.traits.float_results.contains(&self.model.node(unit.node).op.as_str());
                if unit.quantizes && !is_wanted && floats {
                    unit.absorbed.clear();
                    unit.kept.clear();
                    unit.result = self.model.node(unit.node).outputs[0].expect("a layer has a result");
                    (unit.tail, unit.quantizes) = (Tail::NOTHING, false);
                }
            } else if !is_wanted {
                dropped.insert(unit.node);
                let why = Miss("everything that reads it is float");
                self.outcome.missed.insert((OPERATOR, unit.node), why);
                continue;
            }
            wanted.extend(&unit.operands);
        }
        units.retain(|unit| !dropped.contains(&unit.node));
    }
}

impl Search<'_> {
    /// Leaves regions in float in which int8 costs as much or more.
    fn drop_losses(&mut self, units: &mut Vec<Unit>) {
        let mut dropped = vec![false; units.len()];
        for region in cost::regions(self.model, self.shapes, units) {
            if region.cost.int8 < region.cost.float || region.cost == Cost::default() {
                continue;
            }
            for &place in &region.units {
                dropped[place] = true;
                let unit = &units[place];
                let what = if matches!(unit.role, Role::Layer(_)) { LAYER } else { OPERATOR };
                self.outcome.missed.insert((what, unit.node), Miss("int8 is not faster than float at these shapes"));
            }
        }
        let mut places = dropped.into_iter();
        units.retain(|_| !places.next().unwrap_or_default());
    }
}

/// Which values are int8, and whose grid each has.
fn grids(units: &[Unit]) -> IndexMap<ValueId, ValueId> {
    let mut values: IndexMap<ValueId, ValueId> = IndexMap::new();
    let mut ties: HashMap<ValueId, ValueId> = HashMap::new();
    for unit in units {
        for &operand in &unit.operands {
            values.entry(operand).or_insert(operand);
        }
        if !unit.quantizes {
            continue;
        }
        let grid = match unit.role {
            Role::Move => values[&unit.operands[0]],
            _ => unit.result,
        };
        values.insert(unit.result, grid);
        if let Role::Join = unit.role {
            for operand in &unit.operands {
                ties.insert(root(&ties, values[operand]), unit.result);
            }
        }
    }
    for grid in values.values_mut() {
        *grid = root(&ties, *grid);
    }
    values
}

fn root(ties: &HashMap<ValueId, ValueId>, value: ValueId) -> ValueId {
    let mut value = value;
    while let Some(&next) = ties.get(&value).filter(|&&next| next != value) {
        value = next;
    }
    value
}
