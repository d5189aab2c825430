//! Computes once what several nodes compute: the same operator with the same operands and attributes.
//!
//! A body may read what a graph around it computes, never the other way. Floats are compared bit by bit, so that 0 and
//! -0 differ.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::ir::{Attr, GraphId, Model, Node, NodeId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::rewrite::Outcome;

pub const INFO: PassInfo = PassInfo::of::<EliminateCommonSubexpressions>(
    "eliminate-common-subexpressions",
    "Compute once what several nodes compute alike",
);

#[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct EliminateCommonSubexpressions {}

impl Pass for EliminateCommonSubexpressions {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let mut outcome = Outcome::default();
        let outermost: Vec<GraphId> = model.all_graphs().filter(|&id| model.graph(id).parent.is_none()).collect();
        for graph in outermost {
            for op in unite_equal_nodes(model, graph) {
                *outcome.applied.entry(op).or_default() += 1;
            }
        }
        cx.report(outcome);
        Ok(())
    }
}

const RANDOM: &[&str] =
    &["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];

enum Step {
    Node(NodeId),
    /// The end of a body: what was computed since is out of sight.
    Leave(usize),
}

fn unite_equal_nodes(model: &mut Model, outermost: GraphId) -> Vec<&'static str> {
    let mut united = Vec::new();
    // Nodes in sight by hash, and the hashes in the order in which they were added.
    let mut seen: HashMap<u64, Vec<NodeId>> = HashMap::new();
    let mut added = Vec::new();
    let mut work: Vec<Step> = model.nodes_of(outermost).rev().map(Step::Node).collect();
    while let Some(step) = work.pop() {
        let node = match step {
            Step::Node(node) if model.is_live(node) => node,
            Step::Node(_) => continue,
            Step::Leave(before) => {
                for hash in added.drain(before..) {
                    seen.get_mut(&hash).expect("added before").pop();
                }
                continue;
            }
        };
        let bodies: Vec<GraphId> = model.node(node).bodies().collect();
        if !bodies.is_empty() {
            for body in bodies {
                work.push(Step::Leave(added.len()));
                work.extend(model.nodes_of(body).rev().map(Step::Node));
            }
            continue;
        }
        if !is_pure(model.node(node)) {
            continue;
        }
        let hash = hash(model.node(node));
        let alike = seen.entry(hash).or_default();
        let equal = alike.iter().copied().find(|&other| computes_same(model.node(other), model.node(node)));
        match equal {
            Some(other) => united.extend(unite(model, other, node).then_some("node")),
            None => {
                alike.push(node);
                added.push(hash);
            }
        }
    }
    united
}

/// Whether the results depend on nothing but operands and attributes. Of operators of other domains we cannot tell.
fn is_pure(node: &Node) -> bool {
    let known = matches!(node.domain.as_str(), "" | "ai.onnx.ml");
    let training = node.op == "Dropout" && node.inputs.len() > 2;
    known && !training && !RANDOM.contains(&node.op.as_str())
}

fn hash(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&node.domain, &node.op, &node.inputs, node.attrs.len()).hash(&mut hasher);
    // Attributes are in no particular order.
    let attrs = node.attrs.iter().map(|(name, attr)| {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hash_attr(attr, &mut hasher);
        hasher.finish()
    });
    hasher.write_u64(attrs.fold(0, u64::wrapping_add));
    hasher.finish()
}

fn hash_attr(attr: &Attr, hasher: &mut DefaultHasher) {
    match attr {
        Attr::Int(int) => int.hash(hasher),
        Attr::Float(float) => float.to_bits().hash(hasher),
        Attr::Str(string) => string.hash(hasher),
        Attr::Ints(ints) => ints.hash(hasher),
        Attr::Floats(floats) => floats.iter().for_each(|float| float.to_bits().hash(hasher)),
        Attr::Strs(strings) => strings.hash(hasher),
        Attr::Tensor(tensor) => tensor.hash_sample(hasher),
        Attr::Reference { name, .. } => name.hash(hasher),
        _ => {}
    }
}

fn computes_same(a: &Node, b: &Node) -> bool {
    let wants = |wanted: &Node, of: &Node| {
        wanted
            .outputs
            .iter()
            .enumerate()
            .all(|(i, out)| out.is_none() || of.outputs.get(i).is_some_and(Option::is_some))
    };
    let same_attr = |(name, attr): (&String, &Attr)| b.attrs.get(name).is_some_and(|other| same_bits(attr, other));
    (&a.domain, &a.op, &a.overload, &a.inputs) == (&b.domain, &b.op, &b.overload, &b.inputs)
        && a.attrs.len() == b.attrs.len()
        && a.attrs.iter().all(same_attr)
        && wants(b, a)
}

fn same_bits(a: &Attr, b: &Attr) -> bool {
    let bits = |floats: &[f32]| floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>();
    match (a, b) {
        (Attr::Float(a), Attr::Float(b)) => a.to_bits() == b.to_bits(),
        (Attr::Floats(a), Attr::Floats(b)) => bits(a) == bits(b),
        (Attr::Tensor(a), Attr::Tensor(b)) => a.same_data(b),
        (a, b) => a == b,
    }
}

/// Lets the results of `first` stand for those of `second`. A result that has to keep its name, as `first`'s has, is
/// still computed for itself.
fn unite(model: &mut Model, first: NodeId, second: NodeId) -> bool {
    let before = model.revision();
    for index in 0..model.node(second).outputs.len() {
        if !model.is_live(second) {
            break;
        }
        let result = |model: &Model, node| model.node(node).outputs.get(index).copied().flatten();
        if let (Some(source), Some(value)) = (result(model, first), result(model, second)) {
            model.unify(value, source);
        }
    }
    model.revision() > before
}
