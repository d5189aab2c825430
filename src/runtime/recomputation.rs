//! What a chain writes for other chains alone, they compute again: arithmetic is faster than memory, and little is kept
//! from the forward to the backward part of a step.
//!
//! Law: for a value that is not kept any more, at most one other is kept longer.

use std::collections::{BTreeMap, HashMap, HashSet};

use tract_onnx::tract_core::internal::*;

use super::chains::{LONGEST, groups};

/// Operators that are run again for one value at most: more take longer than to read it.
const MOST: usize = 8;

/// Gives chains operators of their own for values that only chains read.
pub(super) fn spread(model: &mut TypedModel) -> TractResult<()> {
    let groups = groups(model)?;
    let mut spread = Spread::of(model, &groups)?;
    for member in groups.iter().flatten() {
        spread.value(model, *member)?;
    }
    model.compact()
}

struct Spread {
    group_of: HashMap<usize, usize>,
    /// Members of each group, with what is computed again for it.
    lengths: Vec<usize>,
    /// What each group reads.
    inputs: Vec<HashSet<OutletId>>,
    /// For a group and a member of another one, the node that computes its value again.
    again: HashMap<(usize, usize), usize>,
    outputs: HashSet<OutletId>,
}

impl Spread {
    fn of(model: &TypedModel, groups: &[Vec<usize>]) -> TractResult<Spread> {
        let members = |group: &Vec<usize>| group.iter().flat_map(|&member| model.node(member).inputs.clone()).collect();
        let pairs = groups.iter().enumerate().flat_map(|(group, members)| members.iter().map(move |&m| (m, group)));
        Ok(Spread {
            group_of: pairs.collect(),
            lengths: groups.iter().map(Vec::len).collect(),
            inputs: groups.iter().map(members).collect(),
            again: HashMap::new(),
            outputs: model.output_outlets()?.iter().copied().collect(),
        })
    }

    /// Lets all other chains that read the value of `member` compute it again, if all can.
    fn value(&mut self, model: &mut TypedModel, member: usize) -> TractResult<()> {
        let own = self.group_of[&member];
        let value = OutletId::new(member, 0);
        if self.outputs.contains(&value) {
            return Ok(());
        }
        let shape = &model.outlet_fact(value)?.shape;
        let mut readers: BTreeMap<usize, Vec<InletId>> = BTreeMap::new();
        for &inlet in &model.node(member).outputs[0].successors {
            match self.group_of.get(&inlet.node) {
                Some(&group) if group == own => {}
                Some(&group) if model.outlet_fact(inlet.node.into())?.shape == *shape => {
                    readers.entry(group).or_default().push(inlet);
                }
                _ => return Ok(()),
            }
        }
        let mut plans = Vec::new();
        for (group, inlets) in readers {
            let Some(nodes) = self.nodes(model, group, member)? else { return Ok(()) };
            plans.push((group, inlets, nodes));
        }
        for (group, inlets, nodes) in plans {
            for node in nodes {
                self.run_again(model, group, node)?;
            }
            let again = self.again[&(group, member)];
            for inlet in inlets {
                model.add_edge(again.into(), inlet)?;
            }
        }
        Ok(())
    }

    /// What `group` has to compute for the value of `member`, in execution order; none if that is too much, or if more than
    /// one value would have to be kept for it.
    fn nodes(&self, model: &TypedModel, group: usize, member: usize) -> TractResult<Option<Vec<usize>>> {
        let own = self.group_of[&member];
        let shape = &model.outlet_fact(member.into())?.shape;
        let (mut nodes, mut kept) = (Vec::new(), HashSet::new());
        let mut open = vec![(member, false)];
        while let Some((node, is_closed)) = open.pop() {
            if is_closed {
                nodes.push(node);
                continue;
            }
            if self.again.contains_key(&(group, node)) || nodes.contains(&node) {
                continue;
            }
            open.push((node, true));
            for &input in &model.node(node).inputs {
                if self.group_of.get(&input.node) == Some(&own) && !self.is_kept(model, input) {
                    open.push((input.node, false));
                } else if model.outlet_fact(input)?.shape == *shape && !self.inputs[group].contains(&input) {
                    kept.insert(input);
                }
            }
        }
        let fits = nodes.len() <= MOST && self.lengths[group] + nodes.len() <= LONGEST && kept.len() <= 1;
        Ok(fits.then_some(nodes))
    }

    /// Whether the value of a member is written whatever chains do.
    fn is_kept(&self, model: &TypedModel, value: OutletId) -> bool {
        let mut readers = model.node(value.node).outputs[0].successors.iter();
        self.outputs.contains(&value) || readers.any(|inlet| !self.group_of.contains_key(&inlet.node))
    }

    fn run_again(&mut self, model: &mut TypedModel, group: usize, node: usize) -> TractResult<()> {
        let of = model.node(node);
        let (name, op) = (format!("{}.again.{group}", of.name), of.op.clone());
        let own = |input: &OutletId| match self.again.get(&(group, input.node)) {
            Some(&again) => again.into(),
            None => *input,
        };
        let inputs: TVec<OutletId> = of.inputs.iter().map(own).collect();
        let again = model.wire_node(name, op, &inputs)?[0].node;
        self.again.insert((group, node), again);
        self.group_of.insert(again, group);
        self.lengths[group] += 1;
        self.inputs[group].extend(inputs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::tract_core::ops::math::{add, mul, tanh};
    use tract_onnx::tract_core::ops::nn::{Reduce, Reducer, sigmoid};

    use super::*;
    use crate::runtime::chains::{Chain, take_over};

    #[test]
    fn what_only_chains_read_is_computed_again_and_not_kept() {
        let mut model = TypedModel::default();
        let p = model.add_source("p", f32::fact([4, 32])).unwrap();
        let mut wire =
            |name: &str, op: Box<dyn TypedOp>, inputs: &[OutletId]| model.wire_node(name, op, inputs).unwrap()[0];
        let a = wire("a", Box::new(tanh()), &[p]);
        let b = wire("b", Box::new(sigmoid()), &[a]);
        let y = wire("y", Box::new(mul()), &[a, b]);
        // Reads the first chain, and is read by the second one.
        let sum = wire("sum", Box::new(Reduce::new(tvec!(1), Reducer::Sum)), &[y]);
        let w = wire("w", Box::new(mul()), &[b, sum]);
        let v = wire("v", Box::new(add()), &[w, a]);
        model.select_output_outlets(&[v]).unwrap();
        take_over(&mut model).unwrap();
        let sides = |name: &str| {
            let node = model.node_by_name(name).unwrap();
            assert!(node.op_is::<Chain>(), "{name}");
            let inputs = node.inputs.iter().map(|input| model.node(input.node).name.as_str()).collect::<Vec<_>>();
            (inputs, node.outputs.len())
        };
        assert_eq!(sides("y"), (vec!["p"], 1));
        assert_eq!(sides("v"), (vec!["p", "sum"], 1));
    }
}
