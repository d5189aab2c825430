//! The type and shape of every value, as far as they follow from the model.
//!
//! Law: a fact stays true while the model is rewritten, since a rewrite never changes what a value holds. Values made
//! after the inference are unknown to it. What contradicts itself is unknown.

mod call;
mod dtype;
mod elements;
mod expression;
mod family;
mod layers;
mod layout;
mod rules;
mod window;

use std::collections::HashMap;

use rten_shape_inference::{SymExpr, SymTensor, SymbolGen};

use super::FixedSizes;
use crate::ir::{DType, GraphId, Model, Node, NodeId, Size, Tensor, Type, ValueDef, ValueId};
use expression::is_cut;

/// Constants with more elements carry their shape only: no operator takes that many sizes.
const MOST_ELEMENTS: usize = 256;

/// What is known of a value.
#[derive(Clone, Debug)]
pub struct Fact {
    pub dtype: Option<DType>,
    /// The shape, and for small integer tensors the elements, as expressions over the model's symbolic sizes.
    pub tensor: SymTensor,
}

#[derive(Clone, Debug, Default)]
pub struct Shapes {
    facts: HashMap<ValueId, Fact>,
}

impl Shapes {
    pub fn infer(model: &Model) -> Shapes {
        Shapes::infer_with(model, &FixedSizes::default())
    }

    /// Infers for inputs of the given sizes.
    pub fn infer_with(model: &Model, sizes: &FixedSizes) -> Shapes {
        let mut inference = Inference { model, sizes, shapes: Shapes::default(), symbols: SymbolGen::new(), opset: 0 };
        for (id, value) in model.all_values() {
            match (&value.def, sizes.inputs.get(&id)) {
                (ValueDef::Constant(tensor), _) => inference.set(id, Some(tensor.dtype()), constant(tensor)),
                (ValueDef::Input { .. }, size) => {
                    let declared = inference.declared(value.ty.as_ref());
                    let tensor = size.map(|size| SymTensor::from_fixed_shape(size));
                    inference.set(id, declared.dtype, tensor.unwrap_or(declared.tensor));
                }
                _ => {}
            }
        }
        let outermost = model.all_graphs().filter(|&graph| model.graph(graph).parent.is_none());
        for graph in outermost {
            inference.opset = model.opsets_of(graph).onnx().unwrap_or(0);
            inference.walk(graph);
        }
        inference.shapes
    }

    pub fn fact(&self, value: ValueId) -> Option<&Fact> {
        self.facts.get(&value)
    }

    pub fn dtype(&self, value: ValueId) -> Option<DType> {
        self.fact(value)?.dtype
    }

    pub fn rank(&self, value: ValueId) -> Option<usize> {
        self.fact(value)?.tensor.ndim()
    }

    /// The length of each axis, as an expression; none if the rank is unknown.
    pub fn lengths(&self, value: ValueId) -> Option<Vec<SymExpr>> {
        Some(self.fact(value)?.tensor.shape()?.collect())
    }

    /// The shape, where every axis has a fixed length.
    pub fn fixed(&self, value: ValueId) -> Option<Vec<usize>> {
        self.lengths(value)?.iter().map(fixed_length).collect()
    }

    /// The elements of a small integer tensor, as expressions; a scalar has one. None where a number is beyond 32 bits.
    pub fn elements(&self, value: ValueId) -> Option<&[SymExpr]> {
        self.fact(value)?.tensor.values().filter(|elements| !elements.iter().any(is_cut))
    }

    /// Whether both surely have the same shape.
    pub fn same_shape(&self, a: ValueId, b: ValueId) -> bool {
        matches!((self.lengths(a), self.lengths(b)), (Some(a), Some(b)) if a == b)
    }
}

/// The length, where it is a number.
pub fn fixed_length(length: &SymExpr) -> Option<usize> {
    match length {
        SymExpr::Value(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

struct Inference<'m> {
    model: &'m Model,
    sizes: &'m FixedSizes,
    shapes: Shapes,
    symbols: SymbolGen,
    /// Of the graph that is walked.
    opset: i64,
}

impl Inference<'_> {
    /// Infers in execution order, the bodies of a node before the node.
    fn walk(&mut self, graph: GraphId) {
        for node in self.model.nodes_of(graph) {
            self.model.node(node).bodies().for_each(|body| self.walk(body));
            self.infer(node);
        }
    }

    fn infer(&mut self, id: NodeId) {
        let node = self.model.node(id);
        let dtypes: Vec<_> = node.inputs.iter().map(|input| self.shapes.dtype((*input)?)).collect();
        let operand = |value| self.shapes.fact(value).map_or_else(unknown, |fact| fact.tensor.clone());
        let operands: Vec<_> = node.inputs.iter().map(|input| input.map(operand)).collect();
        let constants: Vec<_> = node.inputs.iter().map(|input| self.model.constant((*input)?)).collect();
        let dtypes = match node.op.as_str() {
            "If" | "Loop" | "Scan" if node.domain.is_empty() => self.body_types(node),
            _ => dtype::result_types(node, &dtypes),
        };
        let tensors = match node.op.as_str() {
            "If" if node.domain.is_empty() => self.branches(id),
            _ => {
                let (opset, symbols) = (self.opset, &mut self.symbols);
                call::Call { node, operands: &operands, constants: &constants, opset, symbols }.results()
            }
        };
        let mut tensors = tensors.unwrap_or_default().into_iter();
        for (index, out) in node.outputs.iter().enumerate() {
            let inferred = tensors.next();
            let Some(out) = *out else { continue };
            let declared = self.declared(self.model.value(out).ty.as_ref());
            let dtype = dtypes.get(index).copied().flatten().or(declared.dtype);
            let tensor = match inferred.filter(|tensor| tensor.ndim().is_some()) {
                Some(tensor) => completed(bounded(tensor, dtype), &declared.tensor),
                None => declared.tensor,
            };
            self.set(out, dtype, tensor);
        }
    }

    /// The element types that bodies give: all branches of an `If`, or the one body of a loop.
    fn body_types(&self, node: &Node) -> Vec<Option<DType>> {
        let skipped = usize::from(node.op == "Loop");
        let mut bodies = node.bodies().map(|body| {
            let outputs = self.model.graph(body).outputs.get(skipped..).unwrap_or_default();
            outputs.iter().map(|&out| self.shapes.dtype(out)).collect::<Vec<_>>()
        });
        let first = bodies.next().unwrap_or_default();
        let others: Vec<_> = bodies.collect();
        let agreed = |(index, &dtype): (usize, &Option<DType>)| {
            dtype.filter(|_| others.iter().all(|types| types.get(index) == Some(&dtype)))
        };
        first.iter().enumerate().map(agreed).collect()
    }

    /// What all branches of an `If` agree on.
    fn branches(&self, node: NodeId) -> Option<Vec<SymTensor>> {
        let mut bodies = self.model.node(node).bodies().map(|body| &self.model.graph(body).outputs);
        let (first, others) = (bodies.next()?, bodies.collect::<Vec<_>>());
        let agreed = |(index, &out): (usize, &ValueId)| {
            let lengths = self.shapes.lengths(out);
            let same = others.iter().all(|outs| outs.get(index).is_some_and(|&o| self.shapes.lengths(o) == lengths));
            lengths.filter(|_| same).map_or_else(|| SymTensor::unknown("branches differ"), SymTensor::from_shape)
        };
        Some(first.iter().enumerate().map(agreed).collect())
    }

    fn set(&mut self, value: ValueId, dtype: Option<DType>, tensor: SymTensor) {
        self.shapes.facts.insert(value, Fact { dtype, tensor });
    }

    fn declared(&mut self, ty: Option<&Type>) -> Fact {
        let Some(tensor) = ty.and_then(Type::as_tensor) else {
            return Fact { dtype: None, tensor: SymTensor::unknown("undeclared") };
        };
        let lengths = tensor.shape.as_ref().map(|dims| dims.iter().map(|dim| self.length(&dim.size)).collect());
        Fact {
            dtype: tensor.dtype,
            tensor: lengths.map_or_else(|| SymTensor::unknown("undeclared"), SymTensor::from_shape),
        }
    }

    fn length(&mut self, size: &Size) -> SymExpr {
        match size {
            Size::Fixed(n) => i32::try_from(*n).ok().filter(|n| *n >= 0).map(SymExpr::Value),
            Size::Symbol(name) => Some(match self.sizes.symbols.get(name).and_then(|&n| i32::try_from(n).ok()) {
                Some(length) => SymExpr::Value(length),
                None => SymExpr::pos_var(name),
            }),
            Size::Unknown => None,
        }
        .unwrap_or_else(|| self.symbols.gen_positive())
    }
}

fn unknown() -> SymTensor {
    SymTensor::unknown("nothing is known")
}

/// Elements are kept for integers alone: a float quotient is not the floor that the expressions compute.
fn bounded(tensor: SymTensor, dtype: Option<DType>) -> SymTensor {
    let integer = matches!(dtype, Some(DType::I64 | DType::I32 | DType::Bool));
    let few = tensor.values().is_some_and(|values| values.len() <= MOST_ELEMENTS);
    match tensor.values() {
        Some(_) if !(integer && few) => SymTensor::from_shape(tensor.shape().into_iter().flatten().collect()),
        _ => tensor,
    }
}

/// `inferred`, with declared lengths where it knows nothing of an axis.
fn completed(inferred: SymTensor, declared: &SymTensor) -> SymTensor {
    let is_open = |length: &SymExpr| matches!(length, SymExpr::Var(symbol) if symbol.synthetic);
    let lengths: Vec<SymExpr> = inferred.shape().into_iter().flatten().collect();
    match declared.shape() {
        Some(declared) if declared.len() == lengths.len() && lengths.iter().any(is_open) => {
            let either = lengths.into_iter().zip(declared).map(|(inferred, declared)| match is_open(&inferred) {
                true => declared,
                false => inferred,
            });
            SymTensor::from_shape(either.collect())
        }
        _ => inferred,
    }
}

fn constant(tensor: &Tensor) -> SymTensor {
    let shape = || match tensor.shape().iter().all(|&n| i32::try_from(n).is_ok()) {
        true => SymTensor::from_fixed_shape(tensor.shape()),
        false => SymTensor::unknown("an axis is longer than 2³¹"),
    };
    let sizes = matches!(tensor.dtype(), DType::I64 | DType::I32 | DType::Bool) && tensor.rank() <= 1;
    let elements = (sizes && tensor.len() <= MOST_ELEMENTS).then(|| tensor.ints()).flatten();
    // Ends of slices are often "as far as it goes", which 32 bits say as well; other large numbers have no place here.
    let narrow = |x: i64| match x {
        x if x >= i64::from(i32::MAX) => Some(i32::MAX),
        x if x <= -i64::from(i32::MAX) => Some(-i32::MAX),
        x => i32::try_from(x).ok(),
    };
    match elements.and_then(|ints| ints.into_iter().map(narrow).collect::<Option<Vec<_>>>()) {
        Some(elements) if tensor.rank() == 0 => SymTensor::from_scalar(SymExpr::Value(elements[0])),
        Some(elements) => SymTensor::from_vec(elements.into_iter().map(SymExpr::Value).collect()),
        None => shape(),
    }
}
