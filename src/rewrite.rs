//! Local rewrites: a function looks at one node and proposes a replacement.
//!
//! A rule reads the model through a [`Site`] and never changes it. Anything that is not as the rule needs it ends the
//! attempt with a [`Miss`] through `?`, and the reason is kept for `--explain`. The replacement always computes the very
//! value the old node computed, so names, graph outputs and readers stay as they were.

pub mod gelu;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use indexmap::IndexSet;
use ndarray::ArrayD;

use crate::analysis::Shapes;
use crate::ir::{DType, Id, Model, Node, NodeId, Op, Operation, Tensor, Use, ValueId};

/// Why a rule did not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Miss(pub &'static str);

pub type Match<T> = Result<T, Miss>;

/// Ends the attempt unless `condition` holds.
#[macro_export]
macro_rules! require {
    ($condition:expr, $why:literal) => {
        let holds: bool = $condition;
        if !holds {
            return Err($crate::rewrite::Miss($why));
        }
    };
}

/// The node a rule is tried at.
pub struct Site<'m> {
    pub model: &'m Model,
    pub root: NodeId,
    shapes: &'m OnceCell<Rc<Shapes>>,
}

impl<'m> Site<'m> {
    pub fn node(&self) -> &'m Node {
        self.model.node(self.root)
    }

    /// The first result of the root.
    pub fn result(&self) -> ValueId {
        self.node().outputs[0].expect("rules are tried at nodes that have a first result")
    }

    /// The operator that computes `value`.
    pub fn producer<O: Op>(&self, value: ValueId) -> Match<O> {
        let node = self.model.producer(value).ok_or(Miss("not computed by a node"))?;
        self.model.view(node).ok_or(Miss("computed by another operator"))
    }

    /// The operator that computes `value`, and nothing else, for the root alone, so that it goes when the root goes.
    pub fn feeder<O: Op>(&self, value: ValueId) -> Match<O> {
        let producer = self.producer(value)?;
        self.only_here(value)?;
        Ok(producer)
    }

    /// That the root alone reads `value`, in its own graph, and nobody another result of its producer.
    pub fn only_here(&self, value: ValueId) -> Match<()> {
        self.read_here(value, 1)
    }

    /// That `value` has so many readers, all in the root's graph, and no other result of its producer has any.
    pub fn read_here(&self, value: ValueId, times: usize) -> Match<()> {
        let read = self.model.value(value);
        require!(read.uses.len() == times, "the value in between is also read elsewhere");
        require!(!self.model.is_output(value), "the value in between is an output");
        require!(read.graph == self.node().graph, "computed outside this body, where it runs once");
        let mut results = self.model.producer(value).into_iter().flat_map(|node| self.model.node(node).outputs.iter());
        let unread = |other: &ValueId| *other == value || self.model.value(*other).uses.is_empty();
        require!(results.all(|result| result.as_ref().is_none_or(unread)), "another result of that node is read");
        Ok(())
    }

    /// A constant of any type.
    pub fn tensor(&self, value: ValueId) -> Match<&'m Tensor> {
        self.model.constant(value).ok_or(Miss("not a constant"))
    }

    /// A float constant in double precision, so that what is computed from it is rounded once.
    pub fn reals(&self, value: ValueId) -> Match<ArrayD<f64>> {
        let tensor = self.tensor(value)?;
        match tensor.elements::<f64>() {
            Some(elements) => Ok(ArrayD::from_shape_vec(tensor.shape(), elements.into_owned()).expect("same shape")),
            None => Ok(tensor.to_array().ok_or(Miss("not a float tensor"))?.mapv(f64::from)),
        }
    }

    /// [`reals`](Site::reals) of a weight that no other node reads: rewriting it must not store it twice.
    pub fn weight(&self, value: ValueId) -> Match<ArrayD<f64>> {
        require!(self.model.value(value).uses.len() <= 1, "the weight is shared with another node");
        self.reals(value)
    }

    pub fn floats(&self, value: ValueId) -> Match<Cow<'m, [f32]>> {
        self.tensor(value)?.floats().ok_or(Miss("not a float tensor"))
    }

    pub fn ints(&self, value: ValueId) -> Match<Vec<i64>> {
        self.tensor(value)?.ints().ok_or(Miss("not an integer tensor"))
    }

    /// The one element of a float constant.
    pub fn float(&self, value: ValueId) -> Match<f32> {
        self.tensor(value)?.as_float().ok_or(Miss("not a single float"))
    }

    /// Types and shapes, inferred when the first rule asks.
    pub fn shapes(&self) -> &'m Shapes {
        self.shapes.get_or_init(|| Rc::new(Shapes::infer(self.model)))
    }

    pub fn dtype(&self, value: ValueId) -> Match<DType> {
        match self.model.constant(value) {
            Some(tensor) => Ok(tensor.dtype()),
            None => self.shapes().dtype(value).ok_or(Miss("its element type is not known")),
        }
    }

    pub fn rank(&self, value: ValueId) -> Match<usize> {
        match self.model.constant(value) {
            Some(tensor) => Ok(tensor.rank()),
            None => self.shapes().rank(value).ok_or(Miss("its rank is not known")),
        }
    }

    /// The shape, where no axis is symbolic.
    pub fn fixed_shape(&self, value: ValueId) -> Match<Vec<usize>> {
        match self.model.constant(value) {
            Some(tensor) => Ok(tensor.shape().to_vec()),
            None => self.shapes().fixed(value).ok_or(Miss("its shape is not fixed")),
        }
    }

    /// The operator set that the root is written in.
    pub fn opset(&self) -> i64 {
        self.model.opsets_of(self.node().graph).onnx().unwrap_or(0)
    }

    /// Starts the replacement of the root.
    pub fn rewrite(&self) -> Draft {
        let first = self.model.values_end();
        Draft { first, next: first.index(), steps: Vec::new() }
    }
}

/// New nodes and constants, under the ids they will get when the rewrite is applied.
pub struct Draft {
    first: ValueId,
    next: usize,
    steps: Vec<Step>,
}

enum Step {
    Constant(&'static str, Tensor),
    /// An operation, the number of its results, and the names of node and result where they are taken over.
    Node(Operation, usize, Option<(String, String)>),
}

impl Draft {
    /// A new constant; `role` becomes part of its name.
    pub fn constant(&mut self, role: &'static str, data: impl Into<Tensor>) -> ValueId {
        self.push(Step::Constant(role, data.into()), 1)[0]
    }

    /// A new float constant, rounded once to `dtype`. Missed where that leaves the numbers of the type.
    pub fn reals(&mut self, role: &'static str, data: ArrayD<f64>, dtype: DType) -> Match<ValueId> {
        let tensor = Tensor::from_reals(&data, dtype).ok_or(Miss("not a float tensor"))?;
        let fits = tensor.floats().is_some_and(|floats| floats.iter().all(|x| x.is_finite()));
        require!(fits || dtype == DType::F64 && data.iter().all(|x| x.is_finite()), "a merged weight would overflow");
        Ok(self.constant(role, tensor))
    }

    /// The node that computes `value`, once more over other operands.
    pub fn again(&mut self, model: &Model, value: ValueId, replace: &[(ValueId, ValueId)]) -> ValueId {
        let node = model.producer(value).expect("only nodes are drawn again");
        self.instead(model, value, model.node(node).with_operands(replace))
    }

    /// A node that takes the names of `value` and its producer, which go with the root.
    pub fn instead(&mut self, model: &Model, value: ValueId, operation: impl Into<Operation>) -> ValueId {
        let node = model.producer(value).expect("only nodes are replaced");
        let names = (model.node(node).name.clone(), model.value(value).name.clone());
        self.push(Step::Node(operation.into(), 1, Some(names)), 1)[0]
    }

    pub fn add(&mut self, operation: impl Into<Operation>) -> ValueId {
        self.push(Step::Node(operation.into(), 1, None), 1)[0]
    }

    /// A node with several results.
    pub fn add_many(&mut self, operation: impl Into<Operation>, results: usize) -> Vec<ValueId> {
        self.push(Step::Node(operation.into(), results, None), results)
    }

    /// Ends the draft: `operation` takes the root's place. A root with several results keeps them all.
    pub fn replace_root(self, operation: impl Into<Operation>) -> Match<Rewrite> {
        Ok(Rewrite { first: Some(self.first), steps: self.steps, end: End::Operation(operation.into()), name: None })
    }

    /// Ends the draft: the root's first result is just `value`.
    pub fn forward(self, value: ValueId) -> Match<Rewrite> {
        Ok(Rewrite { first: Some(self.first), steps: self.steps, end: End::Forward(value), name: None })
    }

    fn push(&mut self, step: Step, results: usize) -> Vec<ValueId> {
        self.steps.push(step);
        self.next += results;
        (self.next - results..self.next).map(ValueId::new).collect()
    }
}

/// A proposed replacement, ready to be applied.
pub struct Rewrite {
    first: Option<ValueId>,
    steps: Vec<Step>,
    end: End,
    /// The root's new name; it keeps its own where this is none.
    name: Option<String>,
}

enum End {
    Operation(Operation),
    Forward(ValueId),
}

impl Rewrite {
    /// The root's first result is just `value`.
    pub fn forward(value: ValueId) -> Match<Rewrite> {
        Ok(Rewrite { first: None, steps: Vec::new(), end: End::Forward(value), name: None })
    }

    /// The same, where the new root is called like another node that goes.
    pub fn named(self, name: &str) -> Rewrite {
        Rewrite { name: Some(name.into()), ..self }
    }

    /// Returns the nodes to look at next, none if nothing could be changed.
    fn apply(self, model: &mut Model, root: NodeId, result: ValueId) -> Option<Vec<NodeId>> {
        if let Some(first) = self.first {
            assert_eq!(first, model.values_end(), "a draft is applied to the model it was drawn from");
        }
        let (graph, base) = (model.node(root).graph, model.value(result).name.clone());
        let mut made = Vec::new();
        for step in self.steps {
            match step {
                Step::Constant(role, tensor) => {
                    model.add_constant(graph, &format!("{base}.{role}"), tensor);
                }
                Step::Node(operation, results, names) => {
                    // Runtimes refuse two nodes of one name.
                    let name = match made.iter().filter(|&&other| model.node(other).op == operation.op).count() {
                        0 => format!("{base}.{}", operation.op),
                        before => format!("{base}.{}.{}", operation.op, before + 1),
                    };
                    let (node_name, value_name) = names.unwrap_or_else(|| (name.clone(), name));
                    let results = model.insert_many_before(root, operation, &value_name, results);
                    if let Some(node) = results.first().and_then(|&value| model.producer(value)) {
                        model.rename_node(node, &node_name);
                    }
                    made.extend(results.first().and_then(|&value| model.producer(value)));
                }
            };
        }
        match self.end {
            End::Operation(operation) => {
                let new = model.replace_operation(root, operation);
                if let Some(name) = self.name {
                    model.rename_node(new, &name);
                }
                made.push(new);
                Some(made)
            }
            End::Forward(value) => model.unify(result, value).then(|| {
                let standing = if model.is_value_live(result) { result } else { value };
                made.extend(model.producer(standing));
                made
            }),
        }
    }
}

/// A set of rules, tried in order at every node until none applies.
#[derive(Default)]
pub struct Rules {
    rules: Vec<Rule>,
    by_op: HashMap<&'static str, Vec<usize>>,
}

struct Rule {
    name: &'static str,
    try_at: TryAt,
}

type TryAt = Box<dyn Fn(&Site) -> Match<Rewrite>>;

/// What a set of rules did to a model: the pass hands it to the report, also where it is empty.
#[derive(Debug, Default)]
pub struct Outcome {
    pub applied: BTreeMap<&'static str, usize>,
    /// Where a rule did not apply, and why, once each rule and node.
    pub missed: BTreeMap<(&'static str, NodeId), Miss>,
}

impl Rules {
    pub fn new() -> Rules {
        Rules::default()
    }

    /// Adds a rule for nodes of type `O`, named after its function.
    pub fn on<O: Op, F: Fn(&Site, O) -> Match<Rewrite> + 'static>(self, rule: F) -> Rules {
        let try_at = move |site: &Site| {
            let op = site.model.view::<O>(site.root).ok_or(Miss("unusual form"))?;
            rule(site, op)
        };
        self.add(&[O::NAME], last_segment::<F>(), Box::new(try_at))
    }

    /// Adds a rule for nodes of several types, which it reads for itself.
    pub fn on_any<F: Fn(&Site) -> Match<Rewrite> + 'static>(self, ops: &[&'static str], rule: F) -> Rules {
        self.add(ops, last_segment::<F>(), Box::new(rule))
    }

    fn add(mut self, ops: &[&'static str], name: &'static str, try_at: TryAt) -> Rules {
        for op in ops {
            self.by_op.entry(op).or_default().push(self.rules.len());
        }
        self.rules.push(Rule { name, try_at });
        self
    }

    /// Rewrites `model` until no rule applies. A node is tried again only when an operand or reader of it changed.
    /// `shapes` are those of `model`, and are inferred here where a rule asks for them first.
    #[must_use = "an outcome that nobody reports is a silent no-op"]
    pub fn apply(&self, model: &mut Model, shapes: &OnceCell<Rc<Shapes>>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut work = Work::new(model);
        while let Some(root) = work.next(model) {
            let Some(rules) = self.by_op.get(model.node(root).op.as_str()) else { continue };
            let Some(&Some(result)) = model.node(root).outputs.first() else { continue };
            if model.value(result).uses.is_empty() {
                continue;
            }
            for rule in rules.iter().map(|&index| &self.rules[index]) {
                match (rule.try_at)(&Site { model, root, shapes }) {
                    Err(miss) => drop(outcome.missed.insert((rule.name, root), miss)),
                    Ok(rewrite) => {
                        let around = Neighbours::of(model, root);
                        if let Some(made) = rewrite.apply(model, root, result) {
                            *outcome.applied.entry(rule.name).or_default() += 1;
                            work.revisit(around);
                            made.into_iter().for_each(|node| work.push(node));
                            break;
                        }
                    }
                }
            }
        }
        outcome.missed.retain(|(_, node), _| model.is_live(*node));
        outcome
    }
}

fn last_segment<F>() -> &'static str {
    std::any::type_name::<F>().rsplit("::").next().unwrap_or_default()
}

/// The nodes to look at, last first, each once.
struct Work {
    stack: Vec<NodeId>,
    waiting: HashSet<NodeId>,
    /// Values whose many readers are looked at when nothing else is left: each rewrite near a value that everybody
    /// reads would otherwise put everybody on the stack.
    crowded: IndexSet<ValueId>,
}

impl Work {
    /// More readers than this are put off.
    const CROWD: usize = 64;

    fn new(model: &Model) -> Work {
        let mut stack: Vec<NodeId> = model.all_nodes().collect();
        stack.reverse();
        Work { waiting: stack.iter().copied().collect(), stack, crowded: IndexSet::new() }
    }

    fn push(&mut self, node: NodeId) {
        if self.waiting.insert(node) {
            self.stack.push(node);
        }
    }

    fn revisit(&mut self, around: Neighbours) {
        around.nodes.into_iter().for_each(|node| self.push(node));
        self.crowded.extend(around.crowded);
    }

    fn next(&mut self, model: &Model) -> Option<NodeId> {
        loop {
            while let Some(node) = self.stack.pop() {
                self.waiting.remove(&node);
                if model.is_live(node) {
                    return Some(node);
                }
            }
            let value = self.crowded.pop()?;
            if model.is_value_live(value) {
                readers(model, value).for_each(|reader| self.push(reader));
            }
        }
    }
}

/// The producers and readers of a node, to be looked at again when it changes.
struct Neighbours {
    nodes: Vec<NodeId>,
    crowded: Vec<ValueId>,
}

impl Neighbours {
    fn of(model: &Model, node: NodeId) -> Neighbours {
        let node = model.node(node);
        let producers = node.inputs.iter().flatten().filter_map(|&value| model.producer(value));
        let mut around = Neighbours { nodes: producers.collect(), crowded: Vec::new() };
        for &out in node.outputs.iter().flatten() {
            match model.value(out).uses.len() > Work::CROWD {
                true => around.crowded.push(out),
                false => around.nodes.extend(readers(model, out)),
            }
        }
        around
    }
}

fn readers(model: &Model, value: ValueId) -> impl Iterator<Item = NodeId> {
    model.value(value).uses.iter().filter_map(|place| match place {
        Use::Node(reader, _) => Some(*reader),
        Use::Output(..) => None,
    })
}
