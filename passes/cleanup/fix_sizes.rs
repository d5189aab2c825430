//! Fixes sizes that the model leaves open, so that what is computed from them becomes constant.

use crate::analysis::FixedSizes;
use crate::ir::{Dim, GraphId, Model, Size, Type, TypeKind, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};

pub const INFO: PassInfo =
    PassInfo::of::<FixSizes>("fix-sizes", "Fix the shapes of inputs and symbolic sizes, for runtimes that want them");

/// Fixes sizes that the model leaves open. What it computes for inputs of these sizes stays; it takes no others.
/// Before `cleanup`, what is computed from the sizes becomes constant.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FixSizes {
    /// Shapes of inputs (`"x=1,3,224,224"`) and lengths of symbols (`"batch=1"`).
    sizes: Vec<String>,
}

impl Pass for FixSizes {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let sizes = FixedSizes::parse(model, &self.sizes).map_err(|error| PassError(error.to_string()))?;
        let fixed: Vec<(ValueId, Type)> = model
            .all_values()
            .filter(|(_, value)| is_called_once(model, value.graph))
            .filter_map(|(id, value)| Some((id, fix(value.ty.as_ref()?, sizes.inputs.get(&id), &sizes)?)))
            .collect();
        cx.applied("type", fixed.len());
        for (value, ty) in fixed {
            model.set_type(value, Some(ty));
        }
        Ok(())
    }
}

/// Whether `graph` is no part of a function, whose symbols are its own.
fn is_called_once(model: &Model, graph: GraphId) -> bool {
    match model.graph(graph).parent {
        Some(node) => is_called_once(model, model.node(node).graph),
        None => graph == model.main,
    }
}

/// `ty` with the given shape, and with lengths for its symbols; none where nothing changes.
fn fix(ty: &Type, shape: Option<&Vec<usize>>, sizes: &FixedSizes) -> Option<Type> {
    let mut fixed = ty.clone();
    let TypeKind::Tensor(tensor) = &mut fixed.kind else { return None };
    if let (Some(lengths), None) = (shape, &tensor.shape) {
        tensor.shape = Some(vec![Dim::default(); lengths.len()]);
    }
    for (axis, dim) in tensor.shape.iter_mut().flatten().enumerate() {
        let length = match &dim.size {
            Size::Fixed(_) => None,
            Size::Symbol(symbol) => sizes.symbols.get(symbol).copied(),
            Size::Unknown => shape.map(|lengths| lengths[axis]),
        };
        if let Some(length) = length.and_then(|length| i64::try_from(length).ok()) {
            dim.size = Size::Fixed(length);
        }
    }
    (fixed != *ty).then_some(fixed)
}
