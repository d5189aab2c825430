//! Which version of the IR a file needs.

use crate::ir::{Attr, DType, Model, OpsetImports, Type, TypeKind, ValueDef};

/// The releases of ONNX: IR version, and the versions of `ai.onnx` and `ai.onnx.ml` that it brought.
const RELEASES: &[(i64, i64, i64)] = &[
    (3, 8, 1),
    (4, 9, 1),
    (5, 10, 1),
    (6, 11, 2),
    (7, 14, 2),
    (8, 18, 3),
    (9, 20, 4),
    (10, 22, 5),
    (11, 23, 5),
    (12, 24, 5),
    (13, 27, 5),
    (14, 28, 5),
];

/// The newest version of ONNX's own operators that is known here.
pub const NEWEST: i64 = RELEASES[RELEASES.len() - 1].1;

pub const NEWEST_IR: i64 = RELEASES[RELEASES.len() - 1].0;

/// The first IR version with initializers that are no inputs: before it, no caller could override one.
pub const INITIALIZERS_APART: i64 = 4;
const ANNOTATIONS: i64 = 5;
const SPARSE: i64 = 6;
const TRAINING: i64 = 7;
const FUNCTIONS: i64 = 8;
const FUNCTION_DEFAULTS: i64 = 9;
const OVERLOADS: i64 = 10;
const DEVICES: i64 = 11;

/// The IR version that came with these operator sets; the newest for sets from beyond.
fn of_opsets(opsets: &OpsetImports) -> i64 {
    let came_with = |(domain, &version): (&String, &i64)| {
        let release = match domain.as_str() {
            "" => RELEASES.iter().find(|release| release.1 >= version),
            "ai.onnx.ml" => RELEASES.iter().find(|release| release.2 >= version),
            "ai.onnx.training" | "ai.onnx.preview.training" => return TRAINING,
            _ => RELEASES.first(),
        };
        release.unwrap_or(&RELEASES[RELEASES.len() - 1]).0
    };
    opsets.0.iter().map(came_with).max().unwrap_or(RELEASES[0].0)
}

fn of_dtype(dtype: DType) -> i64 {
    use DType::*;
    match dtype {
        Bf16 => 4,
        F8E4M3Fn | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz => 9,
        U4 | I4 => 10,
        F4E2M1 => 11,
        F8E8M0 => 12,
        U2 | I2 => 13,
        F6E2M3 | F6E3M2 => 14,
        _ => RELEASES[0].0,
    }
}

fn of_type(ty: &Type) -> i64 {
    match &ty.kind {
        TypeKind::Tensor(tensor) => tensor.dtype.map_or(0, of_dtype),
        TypeKind::SparseTensor(tensor) => tensor.dtype.map_or(0, of_dtype).max(8),
        TypeKind::Optional(element) => element.as_deref().map_or(0, of_type).max(8),
        TypeKind::Sequence(element) | TypeKind::Map(_, element) => element.as_deref().map_or(0, of_type),
        TypeKind::Opaque { .. } | TypeKind::Unknown => 0,
    }
}

/// The lowest IR version that has everything `model` uses.
pub fn ir_version_for(model: &Model) -> i64 {
    let mut version = of_opsets(&model.opsets);
    let mut need = |feature: i64| version = version.max(feature);
    for function in &model.functions {
        need(FUNCTIONS);
        need(of_opsets(&function.opsets));
        if !function.default_attrs.is_empty() {
            need(FUNCTION_DEFAULTS);
        }
        if !function.overload.is_empty() {
            need(OVERLOADS);
        }
    }
    if !model.header.training_info.is_empty() {
        need(TRAINING);
    }
    if !model.header.device_configurations.is_empty() {
        need(DEVICES);
    }
    for graph in model.all_graphs().map(|id| model.graph(id)) {
        if !graph.quantization_annotations.is_empty() {
            need(ANNOTATIONS);
        }
    }
    for (_, value) in model.all_values() {
        need(value.ty.as_ref().map_or(0, of_type));
        match &value.def {
            ValueDef::Constant(tensor) => need(of_dtype(tensor.dtype()).max(INITIALIZERS_APART)),
            ValueDef::Sparse(_) => need(SPARSE),
            ValueDef::Input { .. } | ValueDef::Node(_) => {}
        }
    }
    for node in model.all_nodes().map(|id| model.node(id)) {
        if !node.device_configurations.is_empty() {
            need(DEVICES);
        }
        for attr in node.attrs.values() {
            match attr {
                Attr::Tensor(tensor) => need(of_dtype(tensor.dtype())),
                Attr::SparseTensor(_) | Attr::SparseTensors(_) => need(SPARSE),
                Attr::Type(_) | Attr::Types(_) => need(FUNCTIONS),
                _ => {}
            }
        }
    }
    version
}
