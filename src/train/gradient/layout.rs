//! Operators that move elements.

use super::operators::{DepthToSpace, SpaceToDepth};
use super::softmax::wrapped;
use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::ValueId;
use crate::ir::op::{Cast, Concat, Dropout, Pad, Slice, Split, Tile, Transpose};

/// dy
pub(super) fn identity(_: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    Ok(vec![Some(site.dy()?)])
}

/// dy, where nothing is dropped
pub(super) fn dropout(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Dropout { training_mode, .. }) = (site.dy()?, site.view(tape)?);
    let is_off = training_mode.is_none_or(|mode| tape.elements(mode).is_some_and(|mode| mode == [0]));
    match is_off {
        true => Ok(vec![Some(dy)]),
        false => Err(Refusal("it drops values at random")),
    }
}

/// dy in the operand's type
pub(super) fn cast(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, x) = (site.dy()?, site.operands[0].expect("it has an operand"));
    let (dtype, shape) = (tape.dtype(x), tape.shape(x));
    let cast = Cast { x: dy, round_mode: "up".into(), saturate: 1, to: dtype.code().into() };
    Ok(vec![Some(tape.write(cast, dtype, shape))])
}

/// dy in the operand's shape
pub(super) fn reshape(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let shape = tape.shape(site.operands[0].expect("it has an operand"));
    let dy = site.dy()?;
    Ok(vec![Some(tape.reshape(dy, &shape))])
}

/// dy, summed where it was repeated
pub(super) fn expand(_: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    Ok(vec![Some(site.dy()?)])
}

/// dy, summed over the copies
pub(super) fn tile(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Tile { x, .. }) = (site.dy()?, site.view(tape)?);
    let (shape, tiled) = (tape.shape(x), tape.shape(dy));
    let copies: Vec<usize> = shape.iter().zip(&tiled).flat_map(|(&n, &all)| [all / n.max(1), n]).collect();
    let apart = tape.reshape(dy, &copies);
    let axes: Vec<usize> = (0..shape.len()).map(|axis| 2 * axis).collect();
    Ok(vec![Some(tape.sum(apart, &axes, false))])
}

/// dy with the axes in their old order
pub(super) fn transpose(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Transpose { x, perm }) = (site.dy()?, site.view(tape)?);
    let rank = tape.shape(x).len();
    let perm: Vec<usize> = match perm.is_empty() {
        true => (0..rank).rev().collect(),
        false => perm.iter().map(|&axis| axis as usize).collect(),
    };
    let mut inverse = vec![0; rank];
    perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    Ok(vec![Some(tape.transpose(dy, &inverse))])
}

/// the parts of dy
pub(super) fn concat(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Concat { xs, axis }) = (site.dy()?, site.view(tape)?);
    let axis = wrapped(axis, tape.shape(dy).len());
    let mut start = 0;
    let part = |(index, &x): (usize, &ValueId)| {
        let count = tape.shape(x)[axis];
        let part = site.wants(index).then(|| tape.slice_axis(dy, axis, start, count));
        start += count;
        part
    };
    Ok(xs.iter().enumerate().map(part).collect())
}

/// the parts, put together again
pub(super) fn split(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let Split { x, axis, .. } = site.view(tape)?;
    let axis = wrapped(axis, tape.shape(x).len());
    let mut parts = Vec::new();
    for (result, given) in site.results.iter().zip(&site.given) {
        let result = result.ok_or(Refusal("one of its parts has no name"))?;
        let shape = tape.shape(result);
        parts.push(given.unwrap_or_else(|| tape.filled(0.0, &shape, x)));
    }
    Ok(vec![Some(tape.concat(parts, axis))])
}

/// dy at the places it was taken from, zero elsewhere
pub(super) fn slice(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Slice { x, starts, ends, axes, steps }) = (site.dy()?, site.view(tape)?);
    let shape = tape.shape(x);
    let read = |value| tape.elements(value).ok_or(Refusal("its bounds are not constant"));
    let (starts, _) = (read(starts)?, read(ends)?);
    let all: Vec<i64> = (0..starts.len() as i64).collect();
    let axes = axes.map(read).transpose()?.unwrap_or(all);
    let steps = steps.map(read).transpose()?.unwrap_or(vec![1; starts.len()]);
    let count = tape.shape(dy);
    let (mut first, mut step, mut dy) = (vec![0; shape.len()], vec![1; shape.len()], dy);
    for ((&start, &axis), &each) in starts.iter().zip(&axes).zip(&steps) {
        let axis = wrapped(axis, shape.len());
        let n = shape[axis] as i64;
        let start = if start < 0 { start + n } else { start };
        let size = each.unsigned_abs() as usize;
        first[axis] = match each < 0 {
            // The last that was taken, which is the first from the other side.
            true => start.clamp(-1, n - 1).max(0) as usize - (count[axis].max(1) - 1) * size,
            false => start.clamp(0, n) as usize,
        };
        step[axis] = size;
        if each < 0 {
            dy = tape.reverse(dy, axis);
        }
    }
    Ok(vec![Some(tape.unslice(dy, &first, &step, &shape))])
}

/// the middle of dy
pub(super) fn pad(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Pad { x, pads, axes, mode, .. }) = (site.dy()?, site.view(tape)?);
    if mode != "constant" || site.wants(2) {
        return Err(Refusal("it fills up with what depends on its input"));
    }
    let read = |value| tape.elements(value).ok_or(Refusal("its widths are not constant"));
    let (shape, pads) = (tape.shape(x), read(pads)?);
    let axes = axes.map(read).transpose()?.unwrap_or((0..shape.len() as i64).collect());
    let mut start = vec![0; shape.len()];
    for (index, &axis) in axes.iter().enumerate() {
        let (before, after) = (pads[index], pads[index + axes.len()]);
        if before < 0 || after < 0 {
            return Err(Refusal("it cuts off"));
        }
        start[wrapped(axis, shape.len())] = before as usize;
    }
    Ok(vec![Some(tape.slice(dy, &start, &shape, &vec![1; shape.len()]))])
}

/// the inverse on dy
pub(super) fn space_to_depth(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, SpaceToDepth { x, blocksize }) = (site.dy()?, site.view(tape)?);
    let (dtype, shape) = (tape.dtype(x), tape.shape(x));
    Ok(vec![Some(tape.write(DepthToSpace { x: dy, blocksize, mode: "DCR".into() }, dtype, shape))])
}

/// the inverse on dy
pub(super) fn depth_to_space(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, DepthToSpace { x, blocksize, mode }) = (site.dy()?, site.view(tape)?);
    let shape = tape.shape(x);
    let (&[n, c, h, w], b) = (&shape[..], blocksize as usize) else { return Err(Refusal("it is no image")) };
    let blocks = tape.reshape(dy, &[n, c / (b * b), h, b, w, b]);
    // The channels of the input are [b, b, C], or [C, b, b].
    let perm = if mode == "DCR" { [0, 3, 5, 1, 2, 4] } else { [0, 1, 3, 5, 2, 4] };
    let channels = tape.transpose(blocks, &perm);
    Ok(vec![Some(tape.reshape(channels, &shape))])
}
