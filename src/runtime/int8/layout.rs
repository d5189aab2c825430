//! Chooses where images have their channels last.
//!
//! Integer kernels read images with channels last, ONNX has them behind the batch. Values that an operator passes on in
//! the order it gets them form a class; a class that meets a convolution or a pool has its channels last as a whole.
//! Quantize and Dequantize change the order on the way; where a class meets any other operator stands a Transpose.

use std::collections::{HashMap, HashSet};

use super::operators as int8;
use crate::analysis::Shapes;
use crate::ir::op::{Concat, Transpose};
use crate::ir::{Attr, Model, Node, NodeId, Op, Operation, Tensor, Use, ValueId};

/// Rewrites `model`; `shapes` are of the values that it had before it was lowered.
pub(super) fn order_channels(model: &mut Model, shapes: &Shapes) {
    let order: Vec<NodeId> = model.nodes_of(model.main).collect();
    let classes = Classes::of(model, shapes, &order);
    let place = order.iter().enumerate().map(|(place, &id)| (id, place)).collect();
    let mut twins = Twins { place, classes, last: HashMap::new() };
    for id in order {
        if let Some(site) = twins.classes.site(model.node(id)) {
            twins.rewrite(model, id, &site);
        }
    }
}

/// An operator that can have the channels of its images last.
struct Form {
    op: &'static str,
    /// The operands that are images; all of them if there are none here.
    operands: &'static [usize],
    /// Whether the result is an image too; that of a linear operator only where it is of integers.
    gives_image: bool,
    /// Whether it reads space in this order, and does not only pass it on.
    wants: bool,
    has_attr: bool,
}

const fn form(op: &'static str, operands: &'static [usize]) -> Form {
    Form { op, operands, gives_image: true, wants: false, has_attr: false }
}

const FORMS: &[Form] = &[
    Form { wants: true, has_attr: true, ..form(int8::AveragePool::NAME, &[0]) },
    Form { wants: true, has_attr: true, ..form(int8::Conv::NAME, &[0, 5]) },
    Form { wants: true, has_attr: true, ..form(int8::ConvTranspose::NAME, &[0]) },
    Form { wants: true, has_attr: true, ..form(int8::MaxPool::NAME, &[0]) },
    Form { wants: true, has_attr: true, ..form(int8::Resize::NAME, &[0]) },
    Form { has_attr: true, ..form(int8::GlobalAveragePool::NAME, &[0]) },
    Form { has_attr: true, ..form(int8::Quantize::NAME, &[usize::MAX]) },
    Form { has_attr: true, gives_image: false, ..form(int8::Dequantize::NAME, &[0]) },
    form(Concat::NAME, &[]),
    form(int8::Flip::NAME, &[0]),
    form(int8::Product::NAME, &[0, 1]),
    form(int8::Sum::NAME, &[0, 1]),
    form(int8::Table::NAME, &[0]),
];

/// The images of a node that can have their channels last.
struct ImageNode {
    form: &'static Form,
    operands: Vec<ValueId>,
    result: Option<ValueId>,
    rank: usize,
}

impl ImageNode {
    fn values(&self) -> impl Iterator<Item = ValueId> {
        self.operands.iter().copied().chain(self.result)
    }
}

/// Which values keep one order of axes together.
struct Classes {
    ranks: HashMap<ValueId, usize>,
    parents: HashMap<ValueId, ValueId>,
    /// Representatives of the classes that have their channels last.
    wanted: HashSet<ValueId>,
}

impl Classes {
    fn of(model: &Model, shapes: &Shapes, order: &[NodeId]) -> Classes {
        let ranks = model.all_values().filter_map(|(id, _)| Some((id, shapes.rank(id)?))).collect();
        let mut classes = Classes { ranks, parents: HashMap::new(), wanted: HashSet::new() };
        for &id in order {
            classes.infer_rank(model, id);
        }
        for &id in order {
            let Some(site) = classes.site(model.node(id)) else { continue };
            let values: Vec<ValueId> = site.values().collect();
            values.windows(2).for_each(|pair| classes.join(pair[0], pair[1]));
            if let (true, Some(&first)) = (site.form.wants, values.first()) {
                let class = classes.class(first);
                classes.wanted.insert(class);
            }
        }
        classes
    }

    /// The ranks of values that came with the lowering.
    fn infer_rank(&mut self, model: &Model, id: NodeId) {
        let node = model.node(id);
        let operand = |index: usize| node.inputs.get(index).copied().flatten();
        let rank = match node.op.as_str() {
            int8::Conv::NAME | int8::ConvTranspose::NAME => operand(1).and_then(|w| Some(model.constant(w)?.rank())),
            op if FORMS.iter().any(|form| form.op == op) => operand(0).and_then(|x| self.ranks.get(&x).copied()),
            _ => None,
        };
        if let (Some(rank), Some(&Some(result))) = (rank, node.outputs.first()) {
            self.ranks.entry(result).or_insert(rank);
        }
    }

    fn class(&self, value: ValueId) -> ValueId {
        let mut class = value;
        while let Some(&parent) = self.parents.get(&class) {
            class = parent;
        }
        class
    }

    fn join(&mut self, a: ValueId, b: ValueId) {
        let (from, to) = (self.class(a), self.class(b));
        if from != to {
            self.parents.insert(from, to);
            if self.wanted.remove(&from) {
                self.wanted.insert(to);
            }
            // Keeps chains short: what is asked about next is one step away.
            self.parents.extend([a, b].into_iter().filter(|&value| value != to).map(|value| (value, to)));
        }
    }

    fn is_last(&self, value: ValueId) -> bool {
        self.wanted.contains(&self.class(value))
    }

    /// What `node` can have channels last of, if it can.
    fn site(&self, node: &Node) -> Option<ImageNode> {
        let form = FORMS.iter().find(|form| form.op == node.op)?;
        // Factors belong to the axis that is the last one now.
        if node.op == int8::Quantize::NAME && node.inputs.iter().flatten().count() > 1 {
            return None;
        }
        if !node.domain.is_empty() && node.domain != int8::DOMAIN {
            return None;
        }
        let is_linear = matches!(node.op.as_str(), int8::Conv::NAME | int8::ConvTranspose::NAME);
        let gives_image = form.gives_image && (!is_linear || node.attrs.contains_key("y_scale"));
        let result = node.outputs.first().copied().flatten()?;
        let operands: Vec<ValueId> = match form.operands {
            [] => node.inputs.iter().copied().collect::<Option<_>>()?,
            indices => indices.iter().filter_map(|&index| node.inputs.get(index).copied().flatten()).collect(),
        };
        let site = ImageNode { form, operands, result: gives_image.then_some(result), rank: 0 };
        let ranks: Option<Vec<usize>> = site.values().map(|value| self.ranks.get(&value).copied()).collect();
        match *ranks? {
            [rank @ (3 | 4), ref rest @ ..] if rest.iter().all(|&other| other == rank) => {
                Some(ImageNode { rank, ..site })
            }
            _ => None,
        }
    }
}

/// Rewrites node by node, with values that have their channels last beside those that have them first.
struct Twins {
    place: HashMap<NodeId, usize>,
    classes: Classes,
    last: HashMap<ValueId, ValueId>,
}

impl Twins {
    fn rewrite(&mut self, model: &mut Model, id: NodeId, site: &ImageNode) {
        if !site.values().all(|value| self.classes.is_last(value)) {
            return;
        }
        for &operand in &site.operands {
            if !self.last.contains_key(&operand) {
                let twin = self.transposed(model, operand, site.rank);
                self.last.insert(operand, twin);
            }
        }
        let operation = self.operation(model.node(id), site);
        let Some(result) = site.result else {
            model.replace_operation(id, operation);
            return;
        };
        let can_read = |place: &Use| match place {
            Use::Output(..) => false,
            Use::Node(reader, _) => self.reads_image(model, *reader, result),
        };
        if model.value(result).uses.iter().all(can_read) {
            model.replace_operation(id, operation);
            self.last.insert(result, result);
            return;
        }
        // Somebody needs the channels first.
        let (name, result_name) = (model.node(id).name.clone(), model.value(result).name.clone());
        let twin = model.insert_before(id, operation, &format!("{result_name}.channels_last"));
        if let Some(node) = model.producer(twin) {
            model.rename_node(node, &name);
        }
        model.replace_operation(id, Transpose { x: twin, perm: to_first(site.rank) });
        self.last.insert(result, twin);
    }

    /// Whether the node reads `value` as an image, and nowhere else.
    fn reads_image(&self, model: &Model, reader: NodeId, value: ValueId) -> bool {
        let site = self.classes.site(model.node(reader));
        site.is_some_and(|site| site.operands.contains(&value))
    }

    /// The node's operation with channels last.
    fn operation(&self, node: &Node, site: &ImageNode) -> Operation {
        let twins: Vec<_> = site.operands.iter().map(|&operand| (operand, self.last[&operand])).collect();
        let mut operation = node.with_operands(&twins);
        if site.form.has_attr {
            operation.attrs.insert("channels_last".into(), Attr::Int(1));
        }
        if let (Concat::NAME, Some(&Attr::Int(axis))) = (node.op.as_str(), node.attrs.get("axis")) {
            let rank = site.rank as i64;
            let axis = match if axis < 0 { axis + rank } else { axis } {
                0 => 0,
                1 => rank - 1,
                axis => axis - 1,
            };
            operation.attrs.insert("axis".into(), Attr::Int(axis));
        }
        operation
    }

    /// A copy of `value` with its channels last, placed before the first node that can read it.
    fn transposed(&self, model: &mut Model, value: ValueId, rank: usize) -> ValueId {
        if let Some(tensor) = model.constant(value).and_then(constant_to_last) {
            let (graph, name) = (model.value(value).graph, model.value(value).name.clone());
            return model.add_constant(graph, &name, tensor);
        }
        let readers = model.value(value).uses.iter().filter_map(|place| match place {
            Use::Node(reader, _) => Some(*reader),
            Use::Output(..) => None,
        });
        let readers = readers.filter(|&reader| self.reads_image(model, reader, value));
        let first = readers.min_by_key(|reader| self.place.get(reader).copied().unwrap_or(usize::MAX));
        let first = first.expect("a value is transposed for a reader");
        let name = format!("{}.channels_last", model.value(value).name);
        model.insert_before(first, Transpose { x: value, perm: to_last(rank) }, &name)
    }
}

/// [0, 2, 3, 1] for images with two axes of space.
fn to_last(rank: usize) -> Vec<i64> {
    [0].into_iter().chain(2..rank as i64).chain([1]).collect()
}

/// [0, 3, 1, 2] for images with two axes of space.
fn to_first(rank: usize) -> Vec<i64> {
    [0, rank as i64 - 1].into_iter().chain(1..rank as i64 - 1).collect()
}

/// A constant of bytes with its second axis moved behind the others.
fn constant_to_last(tensor: &Tensor) -> Option<Tensor> {
    let shape = tensor.shape();
    let bytes = tensor.bytes().filter(|bytes| bytes.len() == tensor.len())?;
    let (channels, area) = (shape[1], shape[2..].iter().product::<usize>());
    let mut moved = vec![0u8; bytes.len()];
    crate::kernels::transpose(bytes, channels, area, &mut moved);
    let order = [shape[0]].into_iter().chain(shape[2..].iter().copied()).chain([channels]).collect();
    Tensor::new(tensor.dtype(), order, moved.into()).ok()
}
