//! Softmax and its logarithm.

use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::op::{Exp, LogSoftmax, Softmax};

/// dx = y·(dy - Σ y·dy)
pub(super) fn softmax(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y, Softmax { axis, .. }) = (site.dy()?, site.y(), site.view(tape)?);
    let axis = wrapped(axis, tape.shape(y).len());
    let product = tape.mul(dy, y);
    let sum = tape.sum(product, &[axis], true);
    let rest = tape.mul(y, sum);
    Ok(vec![Some(tape.sub(product, rest))])
}

/// dx = dy - eʸ·Σ dy
pub(super) fn log_softmax(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y, LogSoftmax { axis, .. }) = (site.dy()?, site.y(), site.view(tape)?);
    let axis = wrapped(axis, tape.shape(y).len());
    let sum = tape.sum(dy, &[axis], true);
    let share = tape.map(Exp { x: y });
    let rest = tape.mul(share, sum);
    Ok(vec![Some(tape.sub(dy, rest))])
}

/// An axis that may be counted from the end.
pub(super) fn wrapped(axis: i64, rank: usize) -> usize {
    (if axis < 0 { axis + rank as i64 } else { axis }) as usize
}
