//! Merges Reshape, Flatten, Squeeze and Unsqueeze that follow each other: only the last shape counts.

use crate::ir::op::{Reshape, Unsqueeze};
use crate::ir::{Model, Tensor};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

use super::reshaping::{RESHAPING, reshaped};
use super::simplify_shapes::reshape_target;

pub const INFO: PassInfo =
    PassInfo::of::<MergeReshapes>("merge-reshapes", "Merge reshapes, squeezes and unsqueezes that follow each other");

/// Merges Reshape, Flatten, Squeeze and Unsqueeze that follow each other.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MergeReshapes {}

impl Pass for MergeReshapes {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.apply(model, Rules::new().on(unsqueeze_of_unsqueeze).on_any(RESHAPING, reshape_of_reshape));
        Ok(())
    }
}

/// reshape(reshape(x)) = Reshape(x, the last shape), or x itself.
fn reshape_of_reshape(at: &Site) -> Match<Rewrite> {
    let between = reshaped(at.model, at.root).ok_or(Miss("unusual form"))?;
    let inner = at.model.producer(between).and_then(|node| reshaped(at.model, node));
    let x = inner.ok_or(Miss("its operand is not reshaped"))?;
    if at.shapes().same_shape(x, at.result()) {
        return Rewrite::forward(x);
    }
    at.only_here(between)?;
    let sizes = at.shapes().lengths(at.result()).ok_or(Miss("the last shape is not known"))?;
    let target = reshape_target(sizes, at.shapes().lengths(x))?;
    let mut new = at.rewrite();
    let shape = new.constant("shape", Tensor::from_ints(&target));
    new.replace_root(Reshape { x, shape, allowzero: 0 })
}

/// Unsqueeze(Unsqueeze(x, a), b) = Unsqueeze(x, b ∪ a'), where a' are the axes a counted among those that b leaves.
fn unsqueeze_of_unsqueeze(at: &Site, outer: Unsqueeze) -> Match<Rewrite> {
    let inner: Unsqueeze = at.feeder(outer.x)?;
    let rank = at.rank(at.result())?;
    let (outer_axes, inner_axes) = (at.ints(outer.axes)?, at.ints(inner.axes)?);
    let outer_axes = counted(&outer_axes, rank)?;
    let left: Vec<usize> = (0..rank).filter(|axis| !outer_axes.contains(axis)).collect();
    let inner_axes = counted(&inner_axes, left.len())?;
    let mut axes: Vec<i64> = outer_axes.iter().map(|&axis| axis as i64).collect();
    axes.extend(inner_axes.into_iter().map(|axis| left[axis] as i64));
    axes.sort_unstable();
    let mut new = at.rewrite();
    let axes = new.constant("axes", Tensor::from_ints(&axes));
    new.replace_root(Unsqueeze { x: inner.x, axes })
}

/// Axes counted from the front.
fn counted(axes: &[i64], rank: usize) -> Match<Vec<usize>> {
    let count = |&axis: &i64| usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok();
    let axes: Vec<usize> = axes.iter().map(count).collect::<Option<_>>().ok_or(Miss("no such axis"))?;
    require!(axes.iter().all(|&axis| axis < rank), "no such axis");
    Ok(axes)
}
