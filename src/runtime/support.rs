//! What tract cannot run, as far as it can be told by looking at a node.
//!
//! tract finds operators by their name alone, whatever their domain, and skips attributes that it does not know. Both
//! would give wrong results in silence, so this module is strict where tract is not.

use std::collections::HashSet;
use std::sync::LazyLock;

use super::RuntimeError;
use super::int8::operators;
use super::tensor::datum_type;
use crate::ir::{Attr, Attrs, DType, Model, NodeId, Type, TypeKind, Value, op};

/// Operators that tract has under names of other domains.
const CONTRIBUTED: &[(&str, &[&str])] = &[
    (
        "ai.onnx.ml",
        &[
            "ArrayFeatureExtractor",
            "CategoryMapper",
            "LinearClassifier",
            "LinearRegressor",
            "Normalizer",
            "TreeEnsembleClassifier",
        ],
    ),
    (
        "com.microsoft",
        &[
            "BiasGelu",
            "FastGelu",
            "GatherBlockQuantized",
            "GroupQueryAttention",
            "MatMulNBits",
            "MultiHeadAttention",
            "QuickGelu",
            "SkipLayerNormalization",
            "SkipSimplifiedLayerNormalization",
        ],
    ),
];

/// Names that tract knows and ONNX does not.
const OF_TRACT: &[&str] =
    &["ConstantLike", "ParametricSoftplus", "Rsqrt", "ScaledTanh", "SimplifiedLayerNormalization"];

/// Attributes that tract does not read, with the value under which they mean nothing.
const UNREAD: &[(&str, &str, i64)] = &[
    ("DequantizeLinear", "block_size", 0),
    ("DequantizeLinear", "output_dtype", 0),
    ("QuantizeLinear", "block_size", 0),
    ("QuantizeLinear", "output_dtype", 0),
    ("QuantizeLinear", "precision", 0),
];

/// Recurrent layers, and the activations that tract gives them, whatever they ask for.
const RECURRENT: &[(&str, &[&str])] =
    &[("GRU", &["Sigmoid", "Tanh"]), ("LSTM", &["Sigmoid", "Tanh", "Tanh"]), ("RNN", &["Tanh"])];

static OPERATORS: LazyLock<HashSet<String>> = LazyLock::new(|| tract_onnx::onnx().op_register.0.into_keys().collect());

/// Whether tract has the operator at all.
pub(super) fn knows(domain: &str, op: &str) -> bool {
    if domain == operators::DOMAIN {
        return op.starts_with(operators::PREFIX);
    }
    let contributed = |domain: &str| CONTRIBUTED.iter().any(|(of, ops)| (*of == domain) && ops.contains(&op));
    let elsewhere = || CONTRIBUTED.iter().any(|(of, _)| contributed(of));
    OPERATORS.contains(op)
        && match domain {
            "" | "ai.onnx" => !elsewhere() && !OF_TRACT.contains(&op),
            domain => contributed(domain),
        }
}

/// Refuses `node` if tract lacks its operator or would misread it. `attrs` are its attributes, references resolved.
pub(super) fn check(model: &Model, id: NodeId, attrs: &Attrs) -> Result<(), RuntimeError> {
    let node = model.node(id);
    let no = |why: String| Err(refuse(model, id, why));
    if !knows(&node.domain, &node.op) {
        return no("tract has no such operator".into());
    }
    for (name, attr) in attrs {
        let unread = UNREAD.iter().find(|(op, unread, _)| *op == node.op && unread == name);
        if unread.is_some_and(|(_, _, neutral)| *attr != Attr::Int(*neutral)) {
            return no(format!("tract does not know its attribute `{name}`"));
        }
        let held = match attr {
            Attr::Tensor(tensor) => dtype(tensor.dtype()),
            Attr::Tensors(tensors) => tensors.iter().try_for_each(|tensor| dtype(tensor.dtype())),
            Attr::Int(code) if matches!(name.as_str(), "to" | "dtype") => match DType::from_code((*code) as i32) {
                Some(to) => dtype(to),
                None => Err(format!("its attribute `{name}` is no element type")),
            },
            _ => Ok(()),
        };
        held.or_else(&no)?;
    }
    recurrent(&node.op, attrs).or_else(&no)?;
    let (own, of_model) = (model.opsets_of(node.graph).onnx(), model.opsets.onnx());
    if own != of_model && own.is_some() && of_model.is_some() {
        let version = |opset: Option<i64>| opset.unwrap_or(op::BASE);
        let (own, of_model) = (version(own), version(of_model));
        return no(format!("its function is written in operator set {own}, the model in {of_model}"));
    }
    node.outputs.iter().flatten().try_for_each(|&out| value_type(model.value(out)).or_else(&no))
}

/// Whether tract computes what a recurrent layer asks for: it reads few of the attributes.
fn recurrent(op: &str, attrs: &Attrs) -> Result<(), String> {
    let Some((_, defaults)) = RECURRENT.iter().find(|(of, _)| *of == op) else { return Ok(()) };
    let is = |name: &str, value: &Attr| attrs.get(name) == Some(value);
    let other = |name: &Attr| match name {
        Attr::Strs(names) => names.iter().zip(defaults.iter().cycle()).any(|(name, own)| **name != *own.as_bytes()),
        _ => true,
    };
    if is("direction", &Attr::Str("reverse".into())) {
        return Err("tract does not go backwards alone".into());
    }
    if is("direction", &Attr::Str("bidirectional".into())) && is("layout", &Attr::Int(1)) {
        return Err("tract does not go both ways where `layout` is 1".into());
    }
    let asked = [
        ("activations", attrs.get("activations").is_some_and(other)),
        ("clip", attrs.contains_key("clip")),
        ("input_forget", is("input_forget", &Attr::Int(1))),
    ];
    match asked.into_iter().find(|(_, is_asked)| *is_asked) {
        Some((name, _)) => Err(format!("tract does not know its attribute `{name}`")),
        None => Ok(()),
    }
}

/// Whether tract has values of this declared type; a value without one passes.
pub(super) fn value_type(value: &Value) -> Result<(), String> {
    match value.ty.as_ref().map(|ty: &Type| &ty.kind) {
        None | Some(TypeKind::Unknown) => Ok(()),
        Some(TypeKind::Tensor(tensor)) => tensor.dtype.map_or(Ok(()), dtype),
        Some(_) => Err("is a sequence, map, optional or sparse value, which tract does not have".into()),
    }
}

/// Whether tract has tensors of this type.
pub(super) fn dtype(dtype: DType) -> Result<(), String> {
    datum_type(dtype).map(drop).ok_or_else(|| format!("tract has no tensors of type {dtype}"))
}

pub(super) fn refuse(model: &Model, id: NodeId, why: impl Into<String>) -> RuntimeError {
    let node = model.node(id);
    let opset = model.opsets_of(node.graph).0.get(&node.domain).copied().unwrap_or_default();
    RuntimeError::Unsupported {
        node: model.label(id),
        op: node.op.clone(),
        domain: node.domain.clone(),
        opset,
        why: why.into(),
    }
}
