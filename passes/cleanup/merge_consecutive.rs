//! Merges nodes of one kind that follow each other: transposes, concatenations, slices of other axes, casts,
//! paddings.

use crate::ir::op::{Cast, Concat, Identity, Pad, Slice, Transpose};
use crate::ir::{DType, Model, Tensor, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Rewrite, Rules, Site};

pub const INFO: PassInfo = PassInfo::of::<MergeConsecutive>(
    "merge-consecutive",
    "Merge transposes, concatenations, slices, casts and paddings that follow each other",
);

/// Merges Transpose, Concat, Slice, Cast and Pad nodes with one of their own kind before them.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MergeConsecutive {}

impl Pass for MergeConsecutive {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.apply(model, Rules::new().on(transposes).on(concatenations).on(slices).on(casts).on(paddings));
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
        return match at.model.can_unify(at.result(), inner.x) {
            true => Rewrite::forward(inner.x),
            // Two names that are seen from outside.
            false => at.rewrite().replace_root(Identity { x: inner.x }),
        };
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

/// Pad(Pad(x, p), q) = Pad(x, p + q) with numbers or copies of the border. A reflection sees what the first one made, so that
/// two of them may not meet on an axis.
fn paddings(at: &Site, outer: Pad) -> Match<Rewrite> {
    let inner: Pad = at.feeder(outer.x)?;
    require!(inner.mode == outer.mode, "they pad in different ways");
    let rank = at.rank(at.result())?;
    let (first, second) = (amounts(at, &inner, rank)?, amounts(at, &outer, rank)?);
    match outer.mode.as_str() {
        "constant" => {
            require!(same_filling(at, inner.value, outer.value), "they pad with different numbers");
        }
        "edge" => {}
        _ => {
            let pads = |amounts: &[i64], axis: usize| amounts[axis] != 0 || amounts[rank + axis] != 0;
            let meet = (0..rank).any(|axis| pads(&first, axis) && pads(&second, axis));
            require!(!meet, "the second would mirror what the first one made");
        }
    }
    let sums: Vec<i64> = first.iter().zip(&second).map(|(p, q)| p + q).collect();
    let mut new = at.rewrite();
    let pads = new.constant("pads", Tensor::from_ints(&sums));
    new.replace_root(Pad { x: inner.x, pads, axes: None, ..outer })
}

/// What `pad` adds before each axis, then after each.
fn amounts(at: &Site, pad: &Pad, rank: usize) -> Match<Vec<i64>> {
    let listed = at.ints(pad.pads)?;
    let axes = pad.axes.map_or_else(|| Ok((0..rank as i64).collect()), |axes| at.ints(axes))?;
    require!(listed.len() == 2 * axes.len(), "it does not pad as many axes as it says");
    require!(listed.iter().all(|&amount| amount >= 0), "it also cuts elements off");
    let mut amounts = vec![0; 2 * rank];
    for (index, axis) in axes.iter().enumerate() {
        let axis = usize::try_from(if *axis < 0 { axis + rank as i64 } else { *axis }).unwrap_or(rank);
        require!(axis < rank, "it pads an axis that is not there");
        amounts[axis] += listed[index];
        amounts[rank + axis] += listed[axes.len() + index];
    }
    Ok(amounts)
}

/// Whether both numbers are the same; where none is given it is 0.
fn same_filling(at: &Site, a: Option<ValueId>, b: Option<ValueId>) -> bool {
    let is_zero = |value: Option<ValueId>| {
        value.is_none_or(|value| at.float(value) == Ok(0.0) || at.ints(value).is_ok_and(|ints| ints == [0]))
    };
    let same = |a, b| at.tensor(a).is_ok_and(|a| at.tensor(b).is_ok_and(|b| a.same_data(b)));
    a == b || is_zero(a) && is_zero(b) || matches!((a, b), (Some(a), Some(b)) if same(a, b))
}
