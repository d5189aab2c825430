//! The walk over a model in execution order.

use rten_shape_inference::{SymExpr, SymbolGen};

use super::call::Call;
use super::{Fact, MOST_ELEMENTS, NOTHING, Shapes};
use crate::analysis::FixedSizes;
use crate::ir::{DType, GraphId, Id, Model, NodeId, Size, Tensor, Type, ValueDef, ValueId};

pub fn infer(model: &Model, sizes: &FixedSizes) -> Shapes {
    let shapes = Shapes { facts: vec![NOTHING.clone(); model.values_end().index()] };
    let mut inference = Inference { model, sizes, shapes, symbols: SymbolGen::new(), opset: 0, loops: 0 };
    for (id, value) in model.all_values() {
        match &value.def {
            ValueDef::Constant(tensor) => inference.shapes.set(id, constant(tensor)),
            ValueDef::Sparse(sparse) => {
                let lengths = lengths(&sparse.shape);
                inference.shapes.set(id, Fact { dtype: Some(sparse.values.dtype()), lengths, elements: None });
            }
            ValueDef::Input { .. } => {
                let mut fact = inference.declared(value.ty.as_ref());
                if let Some(size) = sizes.inputs.get(&id) {
                    fact.lengths = lengths(size);
                }
                inference.shapes.set(id, fact);
            }
            ValueDef::Node(_) => {}
        }
    }
    for graph in model.all_graphs().filter(|&graph| model.graph(graph).parent.is_none()) {
        inference.opset = model.opsets_of(graph).onnx().unwrap_or(0);
        inference.walk(graph);
    }
    inference.shapes
}

pub(super) struct Inference<'m> {
    pub model: &'m Model,
    sizes: &'m FixedSizes,
    pub shapes: Shapes,
    pub symbols: SymbolGen,
    /// Of the graph that is walked.
    pub opset: i64,
    /// How many bodies of loops there are around the graph that is walked.
    pub loops: usize,
}

impl<'m> Inference<'m> {
    pub fn walk(&mut self, graph: GraphId) {
        let model = self.model;
        model.nodes_of(graph).for_each(|node| self.infer(node));
    }

    fn infer(&mut self, id: NodeId) {
        let node = self.model.node(id);
        let facts = match node.op.as_str() {
            "If" if node.domain.is_empty() => self.branches(node),
            "Loop" if node.domain.is_empty() => self.looped(node),
            "Scan" if node.domain.is_empty() => self.scanned(node),
            _ => {
                node.bodies().for_each(|body| self.walk(body));
                let mut call = Call::new(self.model, node, &self.shapes, self.opset, &mut self.symbols);
                if let [Some(out)] = node.outputs[..] {
                    let fact = call.result();
                    return self.settle(out, fact);
                }
                call.results()
            }
        };
        for (out, fact) in node.outputs.iter().zip(facts) {
            if let Some(out) = *out {
                self.settle(out, fact);
            }
        }
    }

    /// Sets what is known of a result; what the file declares fills the gaps.
    pub fn settle(&mut self, value: ValueId, mut fact: Fact) {
        let is_open = |length: &SymExpr| matches!(length, SymExpr::Var(symbol) if symbol.synthetic);
        let gaps = fact.dtype.is_none() || fact.lengths.as_ref().is_none_or(|lengths| lengths.iter().any(is_open));
        if let Some(ty) = self.model.value(value).ty.as_ref().filter(|_| gaps) {
            let declared = self.declared(Some(ty));
            fact.dtype = fact.dtype.or(declared.dtype);
            match (&mut fact.lengths, declared.lengths) {
                (Some(lengths), Some(declared)) if lengths.len() == declared.len() => {
                    let gaps = lengths.iter_mut().zip(declared).filter(|(length, _)| is_open(length));
                    gaps.for_each(|(length, declared)| *length = declared);
                }
                (Some(_), _) => {}
                (lengths, declared) => *lengths = declared,
            }
        }
        self.shapes.set(value, fact);
    }

    fn declared(&mut self, ty: Option<&Type>) -> Fact {
        let Some(tensor) = ty.and_then(Type::as_tensor) else { return Fact::default() };
        let lengths = tensor.shape.as_ref().map(|dims| dims.iter().map(|dim| self.length(&dim.size)).collect());
        Fact { dtype: tensor.dtype, lengths, elements: None }
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

/// Whether elements of this type are followed. A float quotient is not the floor that the expressions compute.
pub(super) fn holds_sizes(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::I64 | DType::I32 | DType::Bool))
}

pub(super) fn constant(tensor: &Tensor) -> Fact {
    let dtype = Some(tensor.dtype());
    let elements = (holds_sizes(dtype) && tensor.len() <= MOST_ELEMENTS).then(|| tensor.ints()).flatten();
    // Ends of slices are often "as far as it goes", which 32 bits say as well; other large numbers have no place here.
    let narrow = |x: i64| SymExpr::Value(x.clamp(-i64::from(i32::MAX), i32::MAX.into()) as i32);
    let elements = elements.map(|ints| ints.into_iter().map(narrow).collect());
    let lengths = lengths(tensor.shape());
    Fact { dtype, elements: elements.filter(|_| lengths.is_some()), lengths }
}

/// A fixed shape; none where an axis is longer than 2³¹.
pub(super) fn lengths(shape: &[usize]) -> Option<Vec<SymExpr>> {
    shape.iter().map(|&n| i32::try_from(n).ok().map(SymExpr::Value)).collect()
}
