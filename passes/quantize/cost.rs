//! What operators cost in float and in int8, by a table that was measured once, and whether int8 pays.
//!
//! `costs.csv` comes from `tools/measure_costs.py`: ONNX Runtime 1.32 on one thread of an AMD EPYC with AVX2 and without VNNI.
//! CPUs with VNNI gain more from int8, so that what pays by this table pays there, too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use crate::analysis::Shapes;
use crate::analysis::shapes::fixed_length;
use crate::ir::op::{AveragePool, Conv};
use crate::ir::{Model, NodeId, ValueId};

use super::place::{Role, Unit};

/// Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub float: f64,
    pub int8: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.float += other.float;
        self.int8 += other.int8;
    }
}

/// An operator at one shape.
struct Row {
    macs: f64,
    written: f64,
    cost: Cost,
}

static TABLE: LazyLock<HashMap<&'static str, Vec<Row>>> = LazyLock::new(|| {
    let mut table: HashMap<&'static str, Vec<Row>> = HashMap::new();
    for line in include_str!("costs.csv").lines().filter(|line| !line.starts_with("operator,")) {
        let mut cells = line.split(',');
        let operator = cells.next().expect("a row names its operator");
        let mut number =
            || cells.next().and_then(|cell| cell.parse::<f64>().ok()).expect("the rest of a row is numbers");
        let [macs, _read, written, float, int8] = std::array::from_fn(|_| number());
        table.entry(operator).or_default().push(Row { macs, written, cost: Cost { float, int8 } });
    }
    table
});

/// What an operator of the table costs at a shape: rows count the more the nearer their shapes are, each scaled to the work.
fn look_up(operator: &str, macs: f64, written: f64) -> Cost {
    let log = |x: f64| x.max(1.0).ln();
    let (mut sum, mut weights) = (Cost::default(), 0.0);
    for row in TABLE.get(operator).into_iter().flatten() {
        let distance = (log(macs) - log(row.macs)).powi(2) + (log(written) - log(row.written)).powi(2);
        let weight = (distance + 0.01).powi(-2);
        let work = if row.macs > 0.0 { macs / row.macs } else { written / row.written };
        sum += Cost { float: weight * work * row.cost.float, int8: weight * work * row.cost.int8 };
        weights += weight;
    }
    match weights > 0.0 {
        true => Cost { float: sum.float / weights, int8: sum.int8 / weights },
        false => sum,
    }
}

/// Units that depend on each other's int8 values, and what they cost.
pub struct Region {
    /// By their places among all.
    pub units: Vec<usize>,
    pub cost: Cost,
}

/// The regions of `units`: two are in one where the one reads what the other makes in int8, or both read the same rounded copy.
pub fn regions(model: &Model, shapes: &Shapes, units: &[Unit]) -> Vec<Region> {
    let made: HashMap<ValueId, usize> =
        units.iter().enumerate().filter(|(_, unit)| unit.quantizes).map(|(place, unit)| (unit.result, place)).collect();
    let mut first: HashMap<ValueId, usize> = HashMap::new();
    let mut parent: Vec<usize> = (0..units.len()).collect();
    for (place, unit) in units.iter().enumerate() {
        for operand in &unit.operands {
            let other = made.get(operand).copied().unwrap_or_else(|| *first.entry(*operand).or_insert(place));
            let [a, b] = [place, other].map(|place| find(&mut parent, place));
            parent[a.max(b)] = a.min(b);
        }
    }
    let mut regions: BTreeMap<usize, Region> = BTreeMap::new();
    let nodes: HashSet<NodeId> = units.iter().map(|unit| unit.node).collect();
    for (place, unit) in units.iter().enumerate() {
        let region = find(&mut parent, place);
        let region = regions.entry(region).or_insert_with(|| Region { units: Vec::new(), cost: Cost::default() });
        region.units.push(place);
        region.cost += unit_cost(model, shapes, unit);
        let copies = unit.operands.iter().filter(|operand| first.get(*operand) == Some(&place));
        copies.for_each(|&copied| region.cost += border(shapes, copied));
        let leaves =
            unit.quantizes && super::weights::readers(model, unit.result).any(|(node, _)| !nodes.contains(&node));
        if leaves {
            region.cost += border(shapes, unit.result);
        }
    }
    regions.into_values().collect()
}

fn find(parent: &mut [usize], mut place: usize) -> usize {
    while parent[place] != place {
        parent[place] = parent[parent[place]];
        place = parent[place];
    }
    place
}

/// What it costs to leave int8, or to come to it.
fn border(shapes: &Shapes, value: ValueId) -> Cost {
    elements(shapes, value).map_or(Cost::default(), |elements| look_up("Border", 0.0, elements))
}

fn unit_cost(model: &Model, shapes: &Shapes, unit: &Unit) -> Cost {
    let node = model.node(unit.node);
    let cost = || {
        let result = node.outputs[0]?;
        let written = elements(shapes, result)?;
        Some(match &unit.role {
            Role::Move if node.op == "MaxPool" => look_up("MaxPool", 0.0, written),
            Role::Move => Cost::default(),
            // Targets with a table of costs leave them in floats.
            Role::Product => Cost::default(),
            Role::Join => look_up("Border", 0.0, written),
            Role::HardSwish => look_up("HardSwish", 0.0, written),
            Role::Layer(layer) => {
                let weight = model.constant(layer.weight)?;
                let depth = weight.len() as f64 / layer.channels(model) as f64;
                let (operator, depth) = match model.view::<Conv>(unit.node) {
                    Some(conv) if conv.group > 1 && weight.shape()[1] == 1 => ("DepthwiseConv", depth),
                    Some(_) if weight.shape()[2..].iter().all(|&k| k == 1) => ("Conv1x1", depth),
                    Some(_) => ("Conv", depth),
                    None => ("MatMul", depth),
                };
                look_up(operator, written * depth, written)
            }
            Role::Operator => match node.op.as_str() {
                "GlobalAveragePool" => look_up("GlobalAveragePool", 0.0, elements(shapes, unit.operands[0])?),
                "AveragePool" => {
                    let pool: AveragePool = model.view(unit.node)?;
                    // The table has windows of nine.
                    let window = pool.kernel_shape.iter().product::<i64>() as f64 / 9.0;
                    let nine = look_up("AveragePool", 0.0, written);
                    Cost { float: nine.float * window, int8: nine.int8 * window }
                }
                "Add" | "Mul" => {
                    let broadcasts = unit.operands.len() < 2
                        || unit
                            .operands
                            .iter()
                            .any(|&x| elements(shapes, x).is_some_and(|elements| elements < written));
                    look_up(if broadcasts { "Gate" } else { &node.op }, 0.0, written)
                }
                _ => look_up("Add", 0.0, written),
            },
        })
    };
    let mut cost = cost().unwrap_or_default();
    // A runtime fuses Relu and Clip in float, too; what else is absorbed runs by itself.
    let runs = |node: &&NodeId| !matches!(model.node(**node).op.as_str(), "Relu" | "Clip");
    let own = unit.absorbed.iter().filter(runs).filter(|_| !matches!(unit.role, Role::Layer(_)));
    if let Some(written) = elements(shapes, unit.result) {
        cost.float += own.count() as f64 * look_up("Gate", 0.0, written).float;
    }
    cost
}

fn elements(shapes: &Shapes, value: ValueId) -> Option<f64> {
    let lengths = shapes.lengths(value)?;
    lengths.iter().try_fold(1.0, |product, length| Some(product * fixed_length(length)? as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_of_the_table_costs_what_was_measured() {
        let measurable = |row: &&Row| row.cost.float > 5.0 && row.cost.int8 > 5.0;
        for (operator, rows) in TABLE.iter() {
            for row in rows.iter().filter(measurable) {
                let found = look_up(operator, row.macs, row.written);
                let same = || rows.iter().filter(|other| (other.macs, other.written) == (row.macs, row.written));
                for (cost, of) in
                    [(found.float, (|row| row.cost.float) as fn(&Row) -> f64), (found.int8, |row| row.cost.int8)]
                {
                    let [least, most] = [f64::INFINITY, 0.0];
                    let (least, most) = same().map(of).fold((least, most), |(a, b), x| (a.min(x), b.max(x)));
                    assert!(least * 0.75 < cost && cost < most * 1.3, "{operator}: {cost} for {least} to {most}");
                }
            }
        }
    }

    #[test]
    fn work_between_rows_costs_something_between() {
        let [small, middle, large] = [1e6, 3e6, 1e7].map(|macs| look_up("MatMul", macs, 1e4));
        assert!(small.float < middle.float && middle.float < large.float);
        assert_eq!(look_up("Unheard", 1e6, 1e4), Cost::default());
    }
}
