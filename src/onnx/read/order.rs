//! The order in which nodes run. Files should list them in it, and some do not.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::error::Problem;
use crate::onnx::proto::{GraphProto, NodeProto};

/// Sorts `nodes` by their dependencies, keeping the file's order wherever it is possible.
pub(super) fn sort(nodes: Vec<NodeProto>) -> Result<Vec<NodeProto>, Problem> {
    let Some(order) = new_order(&nodes)? else { return Ok(nodes) };
    let mut slots: Vec<_> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|index| slots[index].take()).collect())
}

/// None where the nodes are in order already.
fn new_order(nodes: &[NodeProto]) -> Result<Option<Vec<usize>>, Problem> {
    let mut producers = HashMap::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            producers.entry(output.as_str()).or_insert(index);
        }
    }
    let needs: Vec<Vec<usize>> = nodes.iter().map(|node| needed_by(node, &producers)).collect();
    if needs.iter().enumerate().all(|(index, needed)| needed.iter().all(|&other| other < index)) {
        return Ok(None);
    }
    topological(&needs).map(Some).map_err(|cycle| Problem::Cycle { nodes: describe(nodes, &cycle) })
}

/// The order in which everything comes after what it `needs` (each once), as close to the given one as possible; or
/// a cycle, each member followed by one that needs it.
pub(super) fn topological(needs: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut waiting_for: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut readers = vec![Vec::new(); needs.len()];
    for (index, needed) in needs.iter().enumerate() {
        needed.iter().for_each(|&other| readers[other].push(index));
    }
    let ready = (0..needs.len()).filter(|&index| waiting_for[index] == 0);
    let mut ready: BinaryHeap<_> = ready.map(Reverse).collect();
    let mut order = Vec::with_capacity(needs.len());
    while let Some(Reverse(index)) = ready.pop() {
        order.push(index);
        for &reader in &readers[index] {
            waiting_for[reader] -= 1;
            if waiting_for[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    match waiting_for.iter().position(|&count| count > 0) {
        None => Ok(order),
        Some(stuck) => Err(cycle_from(stuck, needs, &waiting_for)),
    }
}

/// The nodes that make what `node` or a graph inside it reads.
fn needed_by(node: &NodeProto, producers: &HashMap<&str, usize>) -> Vec<usize> {
    let mut reads: Vec<&str> = node.input.iter().map(String::as_str).collect();
    let bodies = node.attribute.iter().flat_map(|attr| attr.g.iter().chain(&attr.graphs));
    bodies.for_each(|body| captured(body, &mut reads));
    let mut needed: Vec<usize> = reads.iter().filter_map(|name| producers.get(name).copied()).collect();
    needed.sort_unstable();
    needed.dedup();
    needed
}

/// Adds the names that `graph` reads and does not define.
fn captured<'g>(graph: &'g GraphProto, into: &mut Vec<&'g str>) {
    let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
    let mut defined: HashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
    defined.extend(graph.initializer.iter().chain(sparse).map(|tensor| tensor.name()));
    defined.extend(graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str)));
    let mut reads: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
    for node in &graph.node {
        reads.extend(node.input.iter().map(String::as_str));
        let bodies = node.attribute.iter().flat_map(|attr| attr.g.iter().chain(&attr.graphs));
        bodies.for_each(|body| captured(body, &mut reads));
    }
    into.extend(reads.into_iter().filter(|name| !name.is_empty() && !defined.contains(name)));
}

/// Follows what `stuck` waits for until something comes again.
fn cycle_from(stuck: usize, needs: &[Vec<usize>], waiting_for: &[usize]) -> Vec<usize> {
    let (mut path, mut seen, mut at) = (Vec::new(), HashSet::new(), stuck);
    while seen.insert(at) {
        path.push(at);
        at = *needs[at].iter().find(|&&other| waiting_for[other] > 0).expect("what waits has a reason");
    }
    let start = path.iter().position(|&other| other == at).unwrap_or_default();
    path.drain(..start);
    path.reverse();
    path
}

fn describe(nodes: &[NodeProto], cycle: &[usize]) -> String {
    const SHOWN: usize = 5;
    let mut names: Vec<String> = cycle.iter().take(SHOWN).map(|&index| label(&nodes[index])).collect();
    if cycle.len() > SHOWN {
        names.push(format!("and {} more", cycle.len() - SHOWN));
    }
    names.join(", ")
}

/// Operator and name of a node, as messages call it.
pub(super) fn label(node: &NodeProto) -> String {
    let op = if node.op_type().is_empty() { "(no operator)" } else { node.op_type() };
    match (node.name(), node.output.iter().find(|output| !output.is_empty())) {
        ("", Some(output)) => format!("{op} of `{output}`"),
        ("", None) => op.to_string(),
        (name, _) => format!("{op} `{name}`"),
    }
}
