//! Stores equal constants once, in the outermost graph that holds one of them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use crate::ir::{GraphId, Model, Tensor, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::rewrite::Outcome;

pub const INFO: PassInfo =
    PassInfo::of::<MergeInitializers>("merge-initializers", "Store constants with the same data once");

#[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct MergeInitializers {}

impl Pass for MergeInitializers {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let mut outcome = Outcome::default();
        let merged = merge(model);
        if merged > 0 {
            outcome.applied.insert("initializer", merged);
        }
        cx.report(outcome);
        Ok(())
    }
}

fn merge(model: &mut Model) -> usize {
    let keys = keys(model);
    let mut inside: HashMap<GraphId, Vec<GraphId>> = HashMap::new();
    let mut work = Vec::new();
    for graph in model.all_graphs() {
        match model.graph(graph).parent {
            Some(node) => inside.entry(model.node(node).graph).or_default().push(graph),
            None => work.push(Step::Enter(graph)),
        }
    }
    let mut merged = 0;
    // What the graphs around hold, and the keys that each of them added.
    let mut seen: HashMap<(u64, u64), Vec<ValueId>> = HashMap::new();
    let mut added = Vec::new();
    while let Some(step) = work.pop() {
        let graph = match step {
            Step::Enter(graph) => graph,
            Step::Leave(before) => {
                for key in added.drain(before..) {
                    seen.get_mut(&key).expect("added before").pop();
                }
                continue;
            }
        };
        work.push(Step::Leave(added.len()));
        work.extend(inside.get(&graph).into_iter().flatten().map(|&graph| Step::Enter(graph)));
        for value in model.initializers_of(graph).collect::<Vec<_>>() {
            let Some(&key) = keys.get(&value) else { continue };
            let known = seen.entry(key).or_default();
            let tensor = model.constant(value).expect("only constants have keys");
            let same = |other: &ValueId| model.constant(*other).is_some_and(|other| other.same_data(tensor));
            match known.iter().position(same) {
                None => {
                    known.push(value);
                    added.push(key);
                }
                Some(index) => merged += usize::from(unite(model, &mut known[index], value)),
            }
        }
    }
    merged
}

enum Step {
    Enter(GraphId),
    Leave(usize),
}

/// Lets `first` stand for `second`. Of two outputs, which keep their names, each keeps its data.
fn unite(model: &mut Model, first: &mut ValueId, second: ValueId) -> bool {
    // Of `first`, which soon has many readers, this is asked only where it matters.
    let (keep, drop) = match model.is_output(second) {
        false => (*first, second),
        true if model.value(*first).graph == model.value(second).graph && !model.is_output(*first) => (second, *first),
        true => return false,
    };
    model.replace_uses(drop, keep);
    model.remove_constant(drop);
    *first = keep;
    true
}

/// A hash of each constant that may have an equal: of a sample of its data first, and of all of it where samples agree.
fn keys(model: &Model) -> HashMap<ValueId, (u64, u64)> {
    let hash = |tensor: &Tensor, feed: fn(&Tensor, &mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        feed(tensor, &mut hasher);
        hasher.finish()
    };
    let mut alike: HashMap<u64, Vec<ValueId>> = HashMap::new();
    for graph in model.all_graphs() {
        for value in model.initializers_of(graph) {
            if let Some(tensor) = model.constant(value) {
                alike.entry(hash(tensor, Tensor::hash_sample)).or_default().push(value);
            }
        }
    }
    alike.retain(|_, values| values.len() > 1);
    let key = |sample, value| {
        let tensor = model.constant(value).expect("gathered above");
        (value, (sample, hash(tensor, Tensor::hash_data)))
    };
    alike.into_iter().flat_map(|(sample, values)| values.into_iter().map(move |value| key(sample, value))).collect()
}
