//! What users name: nodes and weights, by name or pattern.

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::ir::{Model, NodeId};
use crate::pass::PassError;

/// The names that the patterns of `option` stand for.
pub fn globs(patterns: &[String], option: &str) -> Result<GlobSet, PassError> {
    let failed = |error| PassError(format!("`{option}`: {error}"));
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(failed)?);
    }
    set.build().map_err(failed)
}

/// Whether a node, or one of its results, has a name of `set`.
pub fn is_named(model: &Model, node: NodeId, set: &GlobSet) -> bool {
    let node = model.node(node);
    set.is_match(&node.name) || node.outputs.iter().flatten().any(|&y| set.is_match(&model.value(y).name))
}
