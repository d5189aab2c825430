//! Merges nodes of one kind that follow each other: transposes, concatenations, slices of other axes, casts.

use crate::ir::op::{Cast, Concat, Slice, Transpose};
use crate::ir::{DType, Model, Tensor};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Rewrite, Rules, Site};

pub const INFO: PassInfo = PassInfo::of::<MergeConsecutive>(
    "merge-consecutive",
    "Merge transposes, concatenations, slices and casts that follow each other",
);

/// Merges Transpose, Concat, Slice and Cast nodes with one of their own kind before them.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MergeConsecutive {}

impl Pass for MergeConsecutive {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.apply(model, Rules::new().on(transposes).on(concatenations).on(slices).on(casts));
        Ok(())
    }
}

/// Transpose(Transpose(x, p), q) = Transpose(x, p ∘ q).
fn transposes(at: &Site, outer: Transpose) -> Match<Rewrite> {
    let inner: Transpose = at.producer(outer.x)?;
    let rank = outer.perm.len().max(inner.perm.len());
    let rank = if rank == 0 { at.rank(at.result())? } else { rank };
    let (p, q) = (order(&inner.perm, rank)?, order(&outer.perm, rank)?);
    let perm: Vec<i64> = q.iter().map(|&axis| p[axis] as i64).collect();
    if perm.iter().enumerate().all(|(to, &from)| to as i64 == from) {
        return Rewrite::forward(inner.x);
    }
    at.only_here(outer.x)?;
    at.rewrite().replace_root(Transpose { x: inner.x, perm })
}

/// A permutation; an empty one reverses.
fn order(perm: &[i64], rank: usize) -> Match<Vec<usize>> {
    if perm.is_empty() {
        return Ok((0..rank).rev().collect());
    }
    let order: Vec<usize> = perm.iter().filter_map(|&axis| usize::try_from(axis).ok()).collect();
    require!(order.len() == rank && order.iter().all(|&axis| axis < rank), "not a permutation");
    Ok(order)
}

/// Concat(a, Concat(b, c), d) = Concat(a, b, c, d) on the same axis.
fn concatenations(at: &Site, outer: Concat) -> Match<Rewrite> {
    let mut xs = Vec::new();
    let mut merged = false;
    for &x in &outer.xs {
        match at.feeder::<Concat>(x) {
            Ok(inner) if inner.axis == outer.axis => {
                merged = true;
                xs.extend(inner.xs);
            }
            _ => xs.push(x),
        }
    }
    require!(merged, "no operand is joined on the same axis for it alone");
    at.rewrite().replace_root(Concat { xs, ..outer })
}

/// Slices of different axes are one slice.
fn slices(at: &Site, outer: Slice) -> Match<Rewrite> {
    let inner: Slice = at.feeder(outer.x)?;
    let rank = at.rank(at.result())? as i64;
    let read = |slice: &Slice| -> Match<[Vec<i64>; 4]> {
        let (starts, ends) = (at.ints(slice.starts)?, at.ints(slice.ends)?);
        let count = starts.len();
        let axes = slice.axes.map_or_else(|| Ok((0..count as i64).collect()), |axes| at.ints(axes))?;
        let steps = slice.steps.map_or_else(|| Ok(vec![1; count]), |steps| at.ints(steps))?;
        let axes = axes.into_iter().map(|axis| if axis < 0 { axis + rank } else { axis }).collect();
        Ok([starts, ends, axes, steps])
    };
    let ([first, second], mut new) = ([read(&inner)?, read(&outer)?], at.rewrite());
    require!(!first[2].iter().any(|axis| second[2].contains(axis)), "both slice the same axis");
    let mut join =
        |role, index: usize| new.constant(role, Tensor::from_ints(&[&first[index][..], &second[index]].concat()));
    let (starts, ends) = (join("starts", 0), join("ends", 1));
    let (axes, steps) = (Some(join("axes", 2)), Some(join("steps", 3)));
    new.replace_root(Slice { x: inner.x, starts, ends, axes, steps })
}

/// Cast(Cast(x, wider), t) = Cast(x, t).
fn casts(at: &Site, outer: Cast) -> Match<Rewrite> {
    let inner: Cast = at.producer(outer.x)?;
    let (from, to) = (at.dtype(inner.x)?, at.dtype(outer.x)?);
    require!(holds_exactly(to, from), "the first cast may round");
    require!(outer.to != i64::from(DType::String.code()), "the text of a number depends on its type");
    at.rewrite().replace_root(Cast { x: inner.x, ..outer })
}

/// Whether every number of type `from` is one of type `to`.
fn holds_exactly(to: DType, from: DType) -> bool {
    use DType::*;
    match from {
        Bool | U8 => matches!(to, U8 | I16 | U16 | I32 | U32 | I64 | U64 | F32 | F64),
        I8 => matches!(to, I16 | I32 | I64 | F32 | F64),
        I16 => matches!(to, I32 | I64 | F32 | F64),
        U16 => matches!(to, I32 | U32 | I64 | U64 | F32 | F64),
        I32 => matches!(to, I64 | F64),
        U32 => matches!(to, I64 | U64 | F64),
        F16 | Bf16 => matches!(to, F32 | F64),
        F32 => to == F64,
        _ => false,
    }
}
