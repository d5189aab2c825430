//! Runs quantized models in integers.
//!
//! A model with DequantizeLinear and QuantizeLinear says what integers stand for; tract would compute it in reals. Before
//! a plan is made, [`lower`] turns a copy of the model into operators of our own, whose arithmetic is in
//! [`kernels`](crate::kernels):
//!
//! - [`operators`] is their list.
//! - [`recognize`] finds the patterns, as rules of [`rewrite`](crate::rewrite).
//! - [`layout`] chooses where images have their channels last, [`fill_channels`] lets pictures have four.
//! - [`execute`] makes them operators of tract.
//!
//! Law: what is lowered computes what ONNX defines, up to one step of the result's scale where the definition rounds
//! reals in between, and exactly what ONNX Runtime computes where that fuses the same pattern.

mod execute;
mod fill_channels;
mod layout;
pub(super) mod operators;
mod recognize;

use std::cell::OnceCell;
use std::rc::Rc;

use crate::analysis::Shapes;
use crate::ir::op::{self, Constant};
use crate::ir::{Attr, Model, NodeId, ValueId};
use crate::kernels::{Arithmetic, Isa};

pub(super) use execute::register;

/// How models are run.
#[derive(Clone, Debug, PartialEq)]
pub struct Execution {
    /// Whether quantized models are computed in integers.
    pub integers: bool,
    /// The instruction set of integer kernels; none for the best that the CPU has.
    pub isa: Option<Isa>,
    pub arithmetic: Arithmetic,
    /// Whether convolutions and products of floats are computed by kernels of ours, as training needs them.
    pub blocks: bool,
}

impl Default for Execution {
    fn default() -> Execution {
        Execution::DEFAULT
    }
}

impl Execution {
    /// In integers, exactly, as fast as the CPU can.
    pub const DEFAULT: Execution =
        Execution { integers: true, isa: None, arithmetic: Arithmetic::Exact, blocks: false };

    /// By definition, in reals.
    pub fn float() -> Execution {
        Execution { integers: false, ..Execution::DEFAULT }
    }

    /// By definition, with the kernels that training has for convolutions and products.
    pub fn training() -> Execution {
        Execution { blocks: true, ..Execution::float() }
    }

    /// As ever, but with the kernels that training has for floats.
    pub fn teaching() -> Execution {
        Execution { blocks: true, ..Execution::DEFAULT }
    }
}

/// Operators that a quantized model has.
const QUANTIZED: &[&str] = &[
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QGemm",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearConcat",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMatMul",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QuantizeLinear",
];

/// The oldest operator set whose quantized models are looked at: in it QuantizeLinear appears.
const OLDEST: i64 = 10;

/// Whether integers in `model` stand for reals.
pub fn is_quantized(model: &Model) -> bool {
    model.all_nodes().any(|id| QUANTIZED.contains(&&*model.node(id).op))
}

/// `model` in integers, as far as it says so; none if nothing in it does. In reals, operators of quantized operands are
/// only written out. `outputs` stay what they are.
pub(super) fn lower(model: &Model, outputs: &[ValueId], execution: &Execution) -> Option<Model> {
    if !is_quantized(model) {
        return None;
    }
    let opset = model.opsets.onnx().filter(|opset| (OLDEST..=op::LATEST).contains(opset))?;
    let mut lowered = model.clone();
    let main = lowered.main;
    for &output in outputs {
        if !model.graph(main).outputs.contains(&output) {
            lowered.add_output(main, output);
        }
    }
    constants(&mut lowered);
    // What views read of older operator sets has the same form there; what has not, they do not read.
    lowered.opsets.0.insert(String::new(), opset.max(op::BASE));
    lowered.opsets.0.insert(operators::DOMAIN.into(), 1);
    let expanded = recognize::expand(&mut lowered);
    if execution.integers {
        let shapes = Rc::new(Shapes::infer(&lowered));
        recognize::recognize(&mut lowered, &OnceCell::from(shapes.clone()));
        layout::order_channels(&mut lowered, &shapes);
        // What saturates does so by pairs of neighbours: these may not become others.
        if execution.arithmetic == Arithmetic::Exact {
            fill_channels::fill_channels(&mut lowered);
        }
    } else if !expanded {
        return None;
    }
    lowered.opsets.0.insert(String::new(), opset);
    dispatch(&mut lowered, execution);
    Some(lowered)
}

/// The model that a [`Runner`](super::Runner) runs for `model`, where parts of it are computed in integers.
pub fn in_integers(model: &Model, execution: &Execution) -> Option<Model> {
    let outputs = model.graph(model.main).outputs.clone();
    lower(model, &outputs, execution)
}

/// Names of the nodes that were lowered to operators of integers.
pub(super) fn lowered_nodes(model: &Model) -> impl Iterator<Item = String> {
    let lowered = |id: &NodeId| {
        let node = model.node(*id);
        node.domain == operators::DOMAIN && !operators::OF_FLOATS.contains(&node.op.as_str())
    };
    model.all_nodes().filter(lowered).map(|id| model.label(id))
}

/// Lets the results of Constant nodes be constants.
fn constants(model: &mut Model) {
    let found: Vec<_> = model
        .all_nodes()
        .filter_map(|id| {
            let tensor = model.view::<Constant>(id).or_else(|| read_constant(model, id))?.tensor()?;
            Some((model.node(id).outputs.first().copied().flatten()?, tensor))
        })
        .collect();
    for (value, tensor) in found {
        model.define_constant(value, tensor);
    }
}

/// A Constant of an older operator set.
fn read_constant(model: &Model, id: NodeId) -> Option<Constant> {
    let node = model.node(id);
    let is_constant = node.op == "Constant" && node.domain.is_empty();
    <Constant as op::Op>::read(node).filter(|_| is_constant)
}

/// Tells the operators that have several kernels which to take.
fn dispatch(model: &mut Model, execution: &Execution) {
    const LINEAR: &[&str] = &[
        "OnnxshrinkBatchMatMul",
        "OnnxshrinkConv",
        "OnnxshrinkConvTranspose",
        "OnnxshrinkDynamicConv",
        "OnnxshrinkDynamicMatMul",
        "OnnxshrinkMatMul",
    ];
    let nodes: Vec<_> = model.all_nodes().filter(|&id| LINEAR.contains(&model.node(id).op.as_str())).collect();
    for node in nodes {
        if let Some(isa) = execution.isa {
            model.set_attr(node, "isa", Attr::Str(isa.name().into()));
        }
        if execution.arithmetic != Arithmetic::default() {
            model.set_attr(node, "arithmetic", Attr::Str(execution.arithmetic.name().into()));
        }
    }
}
