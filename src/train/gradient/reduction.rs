//! Reductions.

use super::arithmetic::equal;
use super::operators::{
    ReduceL1, ReduceL2, ReduceLogSum, ReduceLogSumExp, ReduceMax, ReduceMin, ReduceProd, ReduceSumSquare,
};
use super::tape::{Tape, reduced};
use super::{Gradients, Refusal, Site};
use crate::ir::ValueId;
use crate::ir::op::{Exp, ReduceMean, ReduceSum};

/// dy, repeated
pub(super) fn sum(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ReduceSum { x, axes, noop_with_empty_axes, .. }) = (site.dy()?, site.view(tape)?);
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    let dy = kept(tape, dy, x, &axes);
    let shape = tape.shape(x);
    Ok(vec![Some(tape.expand(dy, &shape))])
}

/// dy / n, repeated
pub(super) fn mean(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ReduceMean { x, axes, noop_with_empty_axes, .. }) = (site.dy()?, site.view(tape)?);
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    let shape = tape.shape(x);
    let count: usize = axes.iter().map(|&axis| shape[axis]).product();
    let dy = kept(tape, dy, x, &axes);
    let part = tape.scale(dy, 1.0 / count as f64);
    Ok(vec![Some(tape.expand(part, &shape))])
}

/// dy where x is the greatest; of several, in equal parts
pub(super) fn max(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let ReduceMax { x, axes, noop_with_empty_axes, .. } = site.view(tape)?;
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    extreme(tape, site, x, &axes)
}

/// dy where x is the least; of several, in equal parts
pub(super) fn min(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let ReduceMin { x, axes, noop_with_empty_axes, .. } = site.view(tape)?;
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    extreme(tape, site, x, &axes)
}

pub(super) fn extreme(tape: &mut Tape, site: &Site, x: ValueId, axes: &[usize]) -> Result<Gradients, Refusal> {
    let (y, dy) = (kept(tape, site.y(), x, axes), kept(tape, site.dy()?, x, axes));
    let hits = equal(tape, x, y);
    let count = tape.sum(hits, axes, true);
    let part = tape.div(dy, count);
    Ok(vec![Some(tape.mul(hits, part))])
}

/// sign(x)·dy
pub(super) fn l1(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ReduceL1 { x, axes, noop_with_empty_axes, .. }) = (site.dy()?, site.view(tape)?);
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    let dy = kept(tape, dy, x, &axes);
    let sign = tape.sign(x);
    Ok(vec![Some(tape.mul(sign, dy))])
}

/// x / y·dy
pub(super) fn l2(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ReduceL2 { x, axes, noop_with_empty_axes, .. }) = (site.dy()?, site.view(tape)?);
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    let part = tape.div(dy, site.y());
    let part = kept(tape, part, x, &axes);
    Ok(vec![Some(tape.mul(x, part))])
}

/// dy / eʸ
pub(super) fn log_sum(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ReduceLogSum { x, axes, noop_with_empty_axes, .. }) = (site.dy()?, site.view(tape)?);
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    let sum = tape.map(Exp { x: site.y() });
    let part = tape.div(dy, sum);
    let part = kept(tape, part, x, &axes);
    let shape = tape.shape(x);
    Ok(vec![Some(tape.expand(part, &shape))])
}

/// exp(x - y)·dy
pub(super) fn log_sum_exp(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ReduceLogSumExp { x, axes, noop_with_empty_axes, .. }) = (site.dy()?, site.view(tape)?);
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    let (y, dy) = (kept(tape, site.y(), x, &axes), kept(tape, dy, x, &axes));
    let difference = tape.sub(x, y);
    let share = tape.map(Exp { x: difference });
    Ok(vec![Some(tape.mul(share, dy))])
}

/// dy times the product of all others: with p, the product of all that are not zero, p / x where no other is zero, else 0;
/// of a single zero, p
pub(super) fn product(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ReduceProd { x, axes, noop_with_empty_axes, .. }) = (site.dy()?, site.view(tape)?);
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    let dy = kept(tape, dy, x, &axes);
    let zero = tape.scalar(0.0, x);
    let is_zero = equal(tape, x, zero);
    let filled = tape.add(x, is_zero);
    let named = tape.ints(&axes.iter().map(|&axis| axis as i64).collect::<Vec<_>>());
    let shape = tape.shape(dy);
    let dtype = tape.dtype(x);
    let all = ReduceProd { x: filled, axes: Some(named), keepdims: 1, noop_with_empty_axes: 1 };
    let all = tape.write(all, dtype, shape);
    let zeros = tape.sum(is_zero, &axes, true);
    let other_zeros = tape.sub(zeros, is_zero);
    let stop = tape.sign(other_zeros);
    let one = tape.scalar(1.0, x);
    let goes = tape.sub(one, stop);
    let others = tape.div(all, filled);
    let slope = tape.mul(others, goes);
    Ok(vec![Some(tape.mul(slope, dy))])
}

/// x·2·dy
pub(super) fn sum_square(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, ReduceSumSquare { x, axes, noop_with_empty_axes, .. }) = (site.dy()?, site.view(tape)?);
    let axes = read_axes(tape, x, axes, noop_with_empty_axes)?;
    let dy = kept(tape, dy, x, &axes);
    let twice = tape.scale(dy, 2.0);
    Ok(vec![Some(tape.mul(x, twice))])
}

/// The axes that are reduced: all, where none are named.
fn read_axes(tape: &Tape, x: ValueId, axes: Option<ValueId>, noop: i64) -> Result<Vec<usize>, Refusal> {
    let rank = tape.shape(x).len();
    let named = match axes {
        None => vec![],
        Some(axes) => tape.elements(axes).ok_or(Refusal("its axes are not constant"))?,
    };
    if named.is_empty() {
        return Ok(if noop != 0 { vec![] } else { (0..rank).collect() });
    }
    let axis = |&axis: &i64| usize::try_from(if axis < 0 { axis + rank as i64 } else { axis });
    let mut axes: Vec<usize> = named.iter().map(axis).collect::<Result<_, _>>().map_err(|_| Refusal("of its axes"))?;
    axes.sort_unstable();
    Ok(axes)
}

/// What belongs to the result, with axes of length one in place of those that were reduced.
pub(super) fn kept(tape: &mut Tape, value: ValueId, x: ValueId, axes: &[usize]) -> ValueId {
    let shape = reduced(&tape.shape(x), axes, true);
    tape.reshape(value, &shape)
}
