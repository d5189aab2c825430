//! Computes what does not depend on the model's inputs, once and for all.
//!
//! First everything that follows from constants is computed, in tract, many nodes at a time. Then it is decided, from
//! the last node to the first, where a result takes the place of the nodes behind it: the constants that it makes must
//! not be larger than those that nobody reads any more. Decoding int8 weights, for one, would undo their quantization.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::ir::op::Constant;
use crate::ir::{Attr, DType, Model, NodeId, Op, Operation, Size, Tensor, TypeKind, Use, ValueDef, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};
use crate::runtime::{Runner, RuntimeError, is_foldable};

pub const INFO: PassInfo =
    PassInfo::of::<FoldConstants>("fold-constants", "Compute what does not depend on the model's inputs");

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct FoldConstants {
    /// The bytes by which the constants that a fold makes may exceed those that it frees.
    allowance: usize,
}

impl Default for FoldConstants {
    fn default() -> FoldConstants {
        FoldConstants { allowance: 1024 }
    }
}

impl Pass for FoldConstants {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let mut folder = Folder::new(model);
        folder.evaluate(model);
        let mut outcome = Outcome::default();
        for (node, miss) in folder.missed {
            outcome.missed.insert(("node", node), miss);
        }
        let mut selection = Selection::new(folder.evaluated, folder.known, self.allowance);
        let mut nodes = 0;
        while selection.apply(model, &mut nodes) {}
        for node in selection.refused {
            outcome.missed.insert(("node", node), Miss("its result is larger than what it is computed from"));
        }
        if nodes > 0 {
            outcome.applied.insert("node", nodes);
        }
        outcome.missed.retain(|(_, node), _| model.is_live(*node));
        cx.report(outcome);
        Ok(())
    }
}

/// Nodes that run in tract together.
const BATCH: usize = 256;

/// Elements up to which it does not matter that a result is larger than what it is computed from.
const SMALL: u64 = 1 << 16;

/// Elements up to which a result is computed to see how large it is.
const LARGE: u64 = 1 << 24;

/// What is known of a value that follows from constants.
enum Known {
    Tensor(Tensor),
    /// Computed with the current batch; no more elements than this.
    Pending(u64),
}

impl Known {
    fn tensor(&self) -> Option<&Tensor> {
        match self {
            Known::Tensor(tensor) => Some(tensor),
            Known::Pending(_) => None,
        }
    }

    fn most_elements(&self) -> u64 {
        match self {
            Known::Tensor(tensor) => tensor.len() as u64,
            Known::Pending(most) => *most,
        }
    }
}

/// Computes the values that follow from constants.
struct Folder {
    known: HashMap<ValueId, Known>,
    /// Operands of each node that are not known yet.
    missing: HashMap<NodeId, usize>,
    ready: VecDeque<NodeId>,
    batch: Vec<NodeId>,
    batch_opset: Option<i64>,
    /// In an order in which each node comes after those that it reads.
    evaluated: Vec<NodeId>,
    missed: Vec<(NodeId, Miss)>,
}

impl Folder {
    fn new(model: &Model) -> Folder {
        let mut folder = Folder {
            known: HashMap::new(),
            missing: HashMap::new(),
            ready: VecDeque::new(),
            batch: Vec::new(),
            batch_opset: None,
            evaluated: Vec::new(),
            missed: Vec::new(),
        };
        for (value, data) in model.all_values() {
            if let ValueDef::Constant(tensor) = &data.def {
                folder.learn(model, value, Known::Tensor(tensor.clone()));
            }
        }
        for node in model.all_nodes() {
            let constant = Constant::read(model.node(node)).filter(|_| is_constant(model, node));
            let constant = constant.and_then(|constant| constant.tensor());
            if let (Some(tensor), &[Some(value)]) = (constant, model.node(node).outputs.as_slice()) {
                folder.learn(model, value, Known::Tensor(tensor));
                folder.evaluated.push(node);
            } else if model.node(node).inputs.iter().flatten().next().is_none() {
                folder.ready.push_back(node);
            }
        }
        folder
    }

    fn learn(&mut self, model: &Model, value: ValueId, known: Known) {
        self.known.insert(value, known);
        for place in &model.value(value).uses {
            let &Use::Node(node, _) = place else { continue };
            let operands = || model.node(node).inputs.iter().flatten().count();
            let missing = self.missing.entry(node).or_insert_with(operands);
            *missing -= 1;
            if *missing == 0 {
                self.ready.push_back(node);
            }
        }
    }

    fn evaluate(&mut self, model: &Model) {
        while let Some(node) = self.ready.pop_front() {
            if let Err(miss) = self.admit(model, node) {
                self.missed.push((node, miss));
            }
            if self.batch.len() >= BATCH || self.ready.is_empty() {
                self.flush(model);
            }
        }
    }

    /// Puts `node` into the batch.
    fn admit(&mut self, model: &Model, node: NodeId) -> Match<()> {
        let opset = may_fold(model, node)?;
        if self.batch_opset != Some(opset) {
            self.flush(model);
            self.batch_opset = Some(opset);
        }
        let mut most = self.most_elements(model, node)?;
        if most.is_none_or(|most| most > SMALL) {
            self.flush(model);
            most = self.most_elements(model, node)?;
        }
        let most = most.ok_or(Miss("how large its result is cannot be told"))?;
        require!(most <= LARGE.max(self.operands(model, node)?.map(Known::most_elements).sum()), "its result is large");
        self.batch.push(node);
        for &out in model.node(node).outputs.iter().flatten() {
            self.learn(model, out, Known::Pending(most));
        }
        Ok(())
    }

    fn operands(&self, model: &Model, node: NodeId) -> Match<impl Iterator<Item = &Known>> {
        let operands: Option<Vec<_>> =
            model.node(node).inputs.iter().flatten().map(|operand| self.known.get(operand)).collect();
        Ok(operands.ok_or(Miss("what it reads could not be computed"))?.into_iter())
    }

    /// At least as many elements as any result of `node` has; none where only the values of operands tell.
    fn most_elements(&self, model: &Model, node: NodeId) -> Match<Option<u64>> {
        let operands: Vec<&Known> = self.operands(model, node)?.collect();
        let sizes = || operands.iter().map(|operand| operand.most_elements());
        let ints = |index: usize| operands.get(index).and_then(|operand| operand.tensor()).and_then(Tensor::ints);
        let product = |ints: Vec<i64>| ints.iter().fold(1u64, |n, &x| n.saturating_mul(x.unsigned_abs()));
        let first = operands.first().map_or(1, |operand| operand.most_elements());
        let node = model.node(node);
        Ok(match node.op.as_str() {
            "ConstantOfShape" => ints(0).map(product),
            "Expand" => ints(1).map(|shape| first.saturating_mul(product(shape))),
            "Tile" => ints(1).map(|repeats| first.saturating_mul(product(repeats))),
            "Range" => {
                let scalar = |index: usize| {
                    let tensor = operands.get(index)?.tensor()?;
                    tensor.as_int().map(|x| x as f64).or_else(|| tensor.as_float().map(f64::from))
                };
                (|| Some(((scalar(1)? - scalar(0)?) / scalar(2)?).max(0.0).ceil() as u64))()
            }
            "Pad" => operands.first().and_then(|operand| operand.tensor()).zip(ints(1)).map(|(x, pads)| {
                let most = pads.iter().map(|pad| pad.unsigned_abs()).max().unwrap_or(0);
                x.shape().iter().fold(1u64, |n, &d| n.saturating_mul((d as u64).saturating_add(most.saturating_mul(2))))
            }),
            "OneHot" => ints(1).map(|depth| first.saturating_mul(product(depth))),
            "Resize" | "Upsample" | "BlackmanWindow" | "HammingWindow" | "HannWindow" | "MelWeightMatrix" => {
                (sizes().max().unwrap_or(0) <= 64).then_some(SMALL)
            }
            // Whatever broadcasts, multiplies or gathers.
            _ => {
                let shape = operands.iter().filter_map(|operand| operand.tensor()).max_by_key(|tensor| tensor.len());
                let alike = operands.iter().all(|operand| match operand.tensor() {
                    Some(tensor) => tensor.len() == 1 || Some(tensor.shape()) == shape.map(Tensor::shape),
                    None => operand.most_elements() == 1,
                });
                Some(match alike {
                    true => sizes().max().unwrap_or(1),
                    false => sizes().fold(1, |n: u64, size| n.saturating_mul(size.max(1))).max(sizes().sum()),
                })
            }
        })
    }

    /// Computes the batch.
    fn flush(&mut self, model: &Model) {
        let batch = std::mem::take(&mut self.batch);
        self.compute(model, &batch);
    }

    fn compute(&mut self, model: &Model, batch: &[NodeId]) {
        let (batch, lost): (Vec<NodeId>, Vec<NodeId>) = batch
            .iter()
            .partition(|&&node| model.node(node).inputs.iter().flatten().all(|value| self.known.contains_key(value)));
        let forget = |folder: &mut Folder, node: NodeId, why| {
            for out in model.node(node).outputs.iter().flatten() {
                folder.known.remove(out);
            }
            folder.missed.push((node, Miss(why)));
        };
        for node in lost {
            forget(self, node, "what it reads could not be computed");
        }
        if batch.is_empty() {
            return;
        }
        match self.results(model, &batch) {
            Ok(results) => {
                for (value, tensor) in results {
                    self.known.insert(value, Known::Tensor(tensor));
                }
                for node in batch {
                    let fits = |out: &ValueId| {
                        self.known
                            .get(out)
                            .and_then(Known::tensor)
                            .is_some_and(|tensor| is_as_declared(model, *out, tensor))
                    };
                    match model.node(node).outputs.iter().flatten().all(fits) {
                        true => self.evaluated.push(node),
                        false => forget(self, node, "tract computes another type or shape than the model declares"),
                    }
                }
            }
            Err(_) if batch.len() == 1 => forget(self, batch[0], "tract cannot compute it"),
            Err(_) => {
                let (first, second) = batch.split_at(batch.len() / 2);
                self.compute(model, first);
                self.compute(model, second);
            }
        }
    }

    /// Runs a model of these nodes alone.
    fn results(&self, model: &Model, batch: &[NodeId]) -> Result<Vec<(ValueId, Tensor)>, RuntimeError> {
        let mut part = Model::new("constants");
        part.opsets = model.opsets_of(model.node(batch[0]).graph).clone();
        let main = part.main;
        let mut here: HashMap<ValueId, ValueId> = HashMap::new();
        let mut wanted = Vec::new();
        for &id in batch {
            let node = model.node(id);
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for input in &node.inputs {
                inputs.push(input.map(|input| match self.known.get(&input).and_then(Known::tensor) {
                    _ if here.contains_key(&input) => here[&input],
                    tensor => {
                        let tensor = tensor.expect("what is not computed here is known").clone();
                        *here.entry(input).or_insert_with(|| part.add_constant(main, "", tensor))
                    }
                }));
            }
            let operation = Operation {
                domain: node.domain.clone(),
                op: node.op.clone(),
                overload: node.overload.clone(),
                inputs,
                attrs: node.attrs.clone(),
            };
            let outputs: Vec<_> = node.outputs.iter().map(|out| out.map(|_| "")).collect();
            let copy = part.append_node(main, &node.name, operation, &outputs);
            for (out, copy) in node.outputs.iter().zip(&part.node(copy).outputs) {
                if let (Some(out), Some(copy)) = (out, copy) {
                    here.insert(*out, *copy);
                    wanted.push((*out, *copy));
                }
            }
        }
        let copies: Vec<ValueId> = wanted.iter().map(|(_, copy)| *copy).collect();
        let tensors = Runner::with_outputs(&part, &copies)?.run(&[])?;
        Ok(wanted.into_iter().map(|(value, _)| value).zip(tensors).collect())
    }
}

/// The opset in which `node` is written, if it may be folded.
fn may_fold(model: &Model, id: NodeId) -> Match<i64> {
    let node = model.node(id);
    require!(model.callee(id).is_none(), "it calls a function");
    require!(node.bodies().next().is_none(), "it has bodies");
    let random = ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];
    require!(!random.contains(&node.op.as_str()), "it is random");
    require!(node.op != Constant::NAME, "it is sparse, or an attribute of the call");
    require!(is_foldable(&node.domain, &node.op), "tract is not known to compute it as ONNX defines it");
    let depends = node.attrs.values().any(|attr| matches!(attr, Attr::Reference { .. }));
    require!(!depends, "it depends on an attribute of the call");
    model.opsets_of(node.graph).onnx().ok_or(Miss("its operator set is not known"))
}

fn is_as_declared(model: &Model, value: ValueId, tensor: &Tensor) -> bool {
    let Some(TypeKind::Tensor(declared)) = model.value(value).ty.as_ref().map(|ty| &ty.kind) else { return true };
    let same_type = declared.dtype.is_none_or(|dtype: DType| dtype == tensor.dtype());
    let same_shape = declared.shape.as_ref().is_none_or(|dims| {
        dims.len() == tensor.rank()
            && dims.iter().zip(tensor.shape()).all(|(dim, &length)| match dim.size {
                Size::Fixed(n) => n == length as i64,
                Size::Symbol(_) | Size::Unknown => true,
            })
    });
    same_type && same_shape
}

/// Decides which results become constants.
struct Selection {
    evaluated: Vec<NodeId>,
    known: HashMap<ValueId, Known>,
    allowance: usize,
    refused: HashSet<NodeId>,
}

/// Nodes behind one result that are looked at to see which constants go with it.
const DEPTH: usize = 1000;

impl Selection {
    fn new(evaluated: Vec<NodeId>, known: HashMap<ValueId, Known>, allowance: usize) -> Selection {
        Selection { evaluated, known, allowance, refused: HashSet::new() }
    }

    /// Makes constants of the results that nodes outside the selection read. Returns whether there were any.
    fn apply(&mut self, model: &mut Model, nodes: &mut usize) -> bool {
        self.evaluated.retain(|&node| model.is_live(node));
        self.refused.clear();
        let mut inside: HashSet<NodeId> =
            self.evaluated.iter().copied().filter(|&node| !is_constant(model, node)).collect();
        let mut accepted = Vec::new();
        for &node in self.evaluated.iter().rev().filter(|node| !is_constant(model, **node)) {
            let is_read = |place: &Use| !matches!(place, Use::Node(reader, _) if inside.contains(reader));
            let read: Vec<ValueId> = model.node(node).outputs.iter().flatten().copied().collect();
            let read: Vec<ValueId> =
                read.into_iter().filter(|&out| model.value(out).uses.iter().any(is_read)).collect();
            if read.is_empty() {
                continue;
            }
            let made: usize = read.iter().filter_map(|out| self.known[out].tensor()).map(Tensor::byte_len).sum();
            match made <= self.allowance || made <= self.allowance + self.freed(model, node, made) {
                true => accepted.extend(read),
                false => {
                    inside.remove(&node);
                    self.refused.insert(node);
                }
            }
        }
        for &value in &accepted {
            let tensor = self.known[&value].tensor().expect("evaluated").clone();
            model.define_constant(value, tensor);
        }
        *nodes += inside.iter().filter(|&&node| !model.is_live(node)).count();
        !accepted.is_empty()
    }

    /// The bytes of the constants that are read for `root` alone; it may stop counting at `enough`.
    fn freed(&self, model: &Model, root: NodeId, enough: usize) -> usize {
        let mut left: HashMap<ValueId, usize> = HashMap::new();
        let (mut freed, mut looked) = (0, 0);
        let mut work = vec![root];
        while let Some(node) = work.pop() {
            looked += 1;
            for &operand in model.node(node).inputs.iter().flatten() {
                let left = left.entry(operand).or_insert_with(|| model.value(operand).uses.len());
                *left -= 1;
                if *left > 0 {
                    continue;
                }
                match model.producer(operand) {
                    None => freed += model.constant(operand).map_or(0, Tensor::byte_len),
                    Some(node) if is_constant(model, node) => {
                        freed += self.known.get(&operand).and_then(Known::tensor).map_or(0, Tensor::byte_len);
                    }
                    Some(node) => {
                        let others = model.node(node).outputs.iter().flatten().filter(|out| **out != operand);
                        if others.into_iter().all(|out| model.value(*out).uses.is_empty()) {
                            work.push(node);
                        }
                    }
                }
            }
            if freed >= enough || looked >= DEPTH {
                break;
            }
        }
        freed
    }
}

fn is_constant(model: &Model, node: NodeId) -> bool {
    model.node(node).op == Constant::NAME && model.node(node).domain == Constant::DOMAIN
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::ir::op::{Add, Neg};

    #[test]
    fn a_chain_of_100000_nodes_is_folded_in_linear_time() {
        let mut time = [0.0; 2];
        for (time, length) in time.iter_mut().zip([10_000, 100_000]) {
            let mut model = Model::new("chain");
            model.opsets.0.insert(String::new(), 18);
            let x = model.add_input(model.main, "x");
            let one = model.add_constant(model.main, "one", Tensor::from_ints(&[1]));
            let mut sum = one;
            for index in 0..length {
                sum = match index % 2 {
                    0 => model.append(model.main, "sum", Add { a: sum, b: one }),
                    _ => model.append(model.main, "sum", Neg { x: sum }),
                };
            }
            let y = model.append(model.main, "y", Add { a: x, b: sum });
            model.add_output(model.main, y);
            let start = Instant::now();
            FoldConstants::default().run(&mut model, &mut Context::default()).unwrap();
            *time = start.elapsed().as_secs_f64();
            assert_eq!(model.all_nodes().count(), 1);
            assert_eq!(model.constant(sum).and_then(Tensor::as_int), Some(1));
        }
        eprintln!("{time:?}");
        assert!(time[1] < 30.0 * time[0] + 1.0, "{time:?}");
    }
}
