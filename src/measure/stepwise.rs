//! Runs a model a stretch of nodes at a time, over all samples, so that the nodes behind may still be changed.
//!
//! Law: every node runs once for each sample. Of a sample no more is kept than the values that nodes behind read.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::survey::{SurveyError, Watch, sizes_of};
use crate::analysis::Shapes;
use crate::data::Dataset;
use crate::ir::{DType, Model, NodeId, Tensor, TensorType, TypeKind, Use, ValueDef, ValueId};
use crate::runtime::Runner;

/// A model that has run up to some node.
pub struct Stepwise<'d> {
    data: &'d Dataset,
    /// What was computed and is still read, by sample.
    values: Vec<HashMap<ValueId, Tensor>>,
    /// The nodes that have run, counted in their order.
    reached: usize,
}

impl<'d> Stepwise<'d> {
    pub fn new(data: &'d Dataset) -> Stepwise<'d> {
        Stepwise { data, values: vec![HashMap::new(); data.len()], reached: 0 }
    }

    /// The most bytes that are kept of a sample with the sizes of `sample` while it runs; values of unknown size count nothing.
    pub fn bytes_kept(model: &Model, sample: &[Tensor]) -> usize {
        let shapes = Shapes::infer_with(model, &sizes_of(model, sample));
        let positions: HashMap<NodeId, usize> =
            model.nodes_of(model.main).enumerate().map(|(position, node)| (node, position)).collect();
        // What each position adds to what is kept behind it, and takes from it.
        let mut changes = vec![0i64; positions.len() + 1];
        for (&node, &position) in &positions {
            for &value in model.node(node).outputs.iter().flatten() {
                let last = model.value(value).uses.iter().filter_map(|place| match *place {
                    Use::Node(reader, _) => positions.get(&outermost(model, reader)?).copied(),
                    Use::Output(..) => None,
                });
                let bytes = shapes.fixed(value).map_or(0, |shape| 4 * shape.iter().product::<usize>() as i64);
                changes[position] += bytes;
                changes[last.max().unwrap_or(position)] -= bytes;
            }
        }
        let kept = changes.iter().scan(0, |kept, change| {
            *kept += change;
            Some(*kept)
        });
        usize::try_from(kept.max().unwrap_or(0)).unwrap_or(0)
    }

    /// Runs what stands before `node`, a node of the main graph, as far as it has not run. Values that none of `node` and
    /// the nodes behind it read are forgotten, but for those of `keep`.
    pub fn advance(
        &mut self,
        model: &Model,
        node: NodeId,
        keep: &HashSet<ValueId>,
        watch: Watch,
    ) -> Result<(), SurveyError> {
        self.run_to(model, place(model, node), keep, watch)
    }

    /// As [`advance`](Self::advance), and runs `node` too.
    pub fn advance_past(
        &mut self,
        model: &Model,
        node: NodeId,
        keep: &HashSet<ValueId>,
        watch: Watch,
    ) -> Result<(), SurveyError> {
        self.run_to(model, place(model, node) + 1, keep, watch)
    }

    fn run_to(
        &mut self,
        model: &Model,
        position: usize,
        keep: &HashSet<ValueId>,
        watch: Watch,
    ) -> Result<(), SurveyError> {
        if self.data.is_empty() {
            return Err(SurveyError::NoSamples);
        }
        if position <= self.reached {
            return Ok(());
        }
        self.reached = position;
        let ahead: HashSet<NodeId> = model.nodes_of(model.main).skip(position).collect();
        let read = |value: ValueId| {
            let reads = |place: &Use| match *place {
                Use::Node(reader, _) => outermost(model, reader).is_none_or(|reader| ahead.contains(&reader)),
                Use::Output(..) => false,
            };
            keep.contains(&value) || model.value(value).uses.iter().any(reads)
        };
        let mut held: Vec<ValueId> = self.values[0].keys().copied().collect();
        held.sort_unstable();
        // What follows from constants alone is cheaper to compute again than to keep for every sample.
        let mut follows = HashSet::new();
        let mut wanted = Vec::new();
        for node in model.nodes_of(model.main).take(position).map(|node| model.node(node)) {
            let fixed = |value: &ValueId| model.constant(*value).is_some() || follows.contains(value);
            if node.bodies().next().is_none() && node.inputs.iter().flatten().all(fixed) {
                follows.extend(node.outputs.iter().flatten().copied());
            } else {
                let results = node.outputs.iter().flatten().copied();
                wanted.extend(results.filter(|value| !self.values[0].contains_key(value) && read(*value)));
            }
        }
        let held = held.into_iter().map(|value| (value, self.values[0][&value].dtype())).collect();
        let stretch = Stretch::new(model, held, &wanted)?;
        self.values.par_iter_mut().enumerate().try_for_each(|(sample, values)| {
            if watch.cancelled.load(Ordering::Relaxed) {
                return Err(SurveyError::Cancelled);
            }
            let found = stretch.run(self.data.sample(sample), values)?;
            values.retain(|&value, _| read(value));
            values.extend(wanted.iter().copied().zip(found));
            Ok(())
        })
    }

    /// What `value` holds on a sample: an input, a constant, or what a node computes that has run and some node behind reads.
    pub fn tensor(&self, model: &Model, sample: usize, value: ValueId) -> Option<Tensor> {
        match &model.value(value).def {
            ValueDef::Constant(tensor) => Some(tensor.clone()),
            ValueDef::Input { .. } => {
                let position = crate::data::required_inputs(model).position(|(input, _)| input == value)?;
                Some(self.data.sample(sample).swap_remove(position))
            }
            _ => self.values[sample].get(&value).cloned(),
        }
    }
}

/// How many nodes of the main graph run before `node`.
fn place(model: &Model, node: NodeId) -> usize {
    model.nodes_of(model.main).take_while(|&other| other != node).count()
}

/// The node of the main graph that `node` is, or lies in; none in functions.
fn outermost(model: &Model, mut node: NodeId) -> Option<NodeId> {
    while model.node(node).graph != model.main {
        node = model.graph(model.node(node).graph).parent?;
    }
    Some(node)
}

/// Nodes that compute some values from others.
struct Stretch {
    /// Values that are inputs here, behind those of the model.
    held: Vec<(ValueId, DType)>,
    /// None where there is nothing to compute.
    runner: Option<Runner>,
}

impl Stretch {
    fn new(model: &Model, held: Vec<(ValueId, DType)>, wanted: &[ValueId]) -> Result<Stretch, SurveyError> {
        if wanted.is_empty() {
            return Ok(Stretch { held, runner: None });
        }
        let mut part = model.clone();
        for &(value, dtype) in &held {
            let input = part.add_input(part.main, &model.value(value).name);
            part.set_type(input, Some(TypeKind::Tensor(TensorType { dtype: Some(dtype), shape: None }).into()));
            part.replace_uses(value, input);
        }
        Ok(Stretch { held, runner: Some(Runner::with_outputs(&part, wanted)?) })
    }

    fn run(&self, mut inputs: Vec<Tensor>, values: &HashMap<ValueId, Tensor>) -> Result<Vec<Tensor>, SurveyError> {
        let Some(runner) = &self.runner else { return Ok(Vec::new()) };
        inputs.extend(self.held.iter().map(|(value, _)| values[value].clone()));
        Ok(runner.run(&inputs)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::FixedSizes;
    use crate::data::synthesize;

    const NETWORK: &str = r#"
        <ir_version: 8, opset_import: ["": 18]>
        network (float[1,4] x) => (float[1,4] y)
        <float[4,4] v = {1,2,3,4,-1,2,0,1,0,1,-3,1,2,2,1,0}, float[4,4] w = {0,1,0,0,1,0,0,0,0,0,0,2,0,0,1,1}, float[4] half = {0.5,0.5,0.5,0.5}>
        {
            scale = Add (half, half)
            a = MatMul (x, v)
            b = Relu (a)
            c = Mul (b, scale)
            d = Add (c, x)
            e = MatMul (d, w)
            y = Add (e, b)
        }"#;

    #[test]
    fn every_node_reads_what_it_would_in_one_run() {
        let model = Model::parse(NETWORK).unwrap();
        let data = synthesize(&model, &FixedSizes::default(), 0, 3, |_| Ok(())).unwrap();
        let mut steps = Stepwise::new(&data);
        for node in model.nodes_of(model.main) {
            steps.advance(&model, node, &HashSet::new(), Watch::default()).unwrap();
            for input in model.node(node).inputs.iter().flatten().copied() {
                let runner = Runner::with_outputs(&model, &[input]).unwrap();
                for sample in 0..data.len() {
                    let Some(found) = steps.tensor(&model, sample, input) else {
                        assert_eq!(model.value(input).name, "scale");
                        continue;
                    };
                    assert_eq!(found, runner.run(&data.sample(sample)).unwrap()[0], "{}", model.value(input).name);
                }
            }
        }
    }

    #[test]
    fn what_is_kept_is_counted_where_most_is() {
        let text = r#"
            <ir_version: 8, opset_import: ["": 18]>
            network (float[1,4] x) => (float[1,4] y) { a = Relu (x) b = Neg (a) c = Add (a, b) d = Abs (c) y = Exp (d) }"#;
        let model = Model::parse(text).unwrap();
        let sample = [Tensor::from_vec(vec![1, 4], vec![0f32; 4])];
        assert_eq!(Stepwise::bytes_kept(&model, &sample), 2 * 4 * 4, "`a` and `b` are kept together");
    }

    #[test]
    fn values_are_kept_as_long_as_somebody_asks_for_them() {
        let model = Model::parse(NETWORK).unwrap();
        let data = synthesize(&model, &FixedSizes::default(), 0, 2, |_| Ok(())).unwrap();
        let nodes: Vec<NodeId> = model.nodes_of(model.main).collect();
        let a = model.node(nodes[1]).outputs[0].unwrap();
        for keeps in [true, false] {
            let keep = HashSet::from_iter(keeps.then_some(a));
            let mut steps = Stepwise::new(&data);
            steps.advance(&model, nodes[5], &keep, Watch::default()).unwrap();
            steps.advance(&model, nodes[2], &keep, Watch::default()).unwrap();
            assert_eq!(steps.tensor(&model, 1, a).is_some(), keeps);
        }
    }

    #[test]
    fn nodes_behind_may_be_changed_and_several_are_run_at_once() {
        let mut model = Model::parse(NETWORK).unwrap();
        let data = synthesize(&model, &FixedSizes::default(), 0, 2, |_| Ok(())).unwrap();
        let nodes: Vec<NodeId> = model.nodes_of(model.main).collect();
        let mut steps = Stepwise::new(&data);
        steps.advance(&model, nodes[3], &HashSet::new(), Watch::default()).unwrap();
        let zero = model.add_constant(model.main, "zero", Tensor::from_vec(vec![4], vec![0f32; 4]));
        model.set_input(nodes[3], 1, Some(zero));
        steps.advance(&model, nodes[6], &HashSet::new(), Watch::default()).unwrap();
        let e = model.node(nodes[5]).outputs[0].unwrap();
        let expected = Runner::with_outputs(&model, &[e]).unwrap();
        for sample in 0..2 {
            assert_eq!(steps.tensor(&model, sample, e), Some(expected.run(&data.sample(sample)).unwrap().remove(0)));
        }
        assert_eq!(steps.values[0].len(), 2, "of the values behind, only `e` and `b` are read");
    }
}
