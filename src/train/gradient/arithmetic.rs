//! Elementwise arithmetic.

use super::operators::{Cos, Mean, Sin, Sum};
use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::ValueId;
use crate::ir::op::{Abs, Div, Erf, Exp, Log, Max, Min, Mul, Pow, Sqrt, Sub, Where};

/// d(a + b) = da + db
pub(super) fn add(_: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let dy = site.dy()?;
    Ok(vec![Some(dy), Some(dy)])
}

/// d(a - b) = da - db
pub(super) fn sub(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let dy = site.dy()?;
    site.view::<Sub>(tape)?;
    let db = site.wants(1).then(|| tape.neg(dy));
    Ok(vec![Some(dy), db])
}

/// d(a·b) = b·da + a·db
pub(super) fn mul(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Mul { a, b }) = (site.dy()?, site.view(tape)?);
    let da = site.wants(0).then(|| tape.mul(dy, b));
    let db = site.wants(1).then(|| tape.mul(dy, a));
    Ok(vec![da, db])
}

/// d(a / b) = da / b - y / b·db
pub(super) fn div(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Div { b, .. }) = (site.dy()?, site.view(tape)?);
    let da = match tape.float(b).filter(|_| !site.wants(1)) {
        Some(b) => tape.scale(dy, 1.0 / f64::from(b)),
        None => tape.div(dy, b),
    };
    let db = site.wants(1).then(|| {
        let product = tape.mul(da, site.y());
        tape.neg(product)
    });
    Ok(vec![Some(da), db])
}

/// d(aᵇ) = b·aᵇ⁻¹·da + y·ln a·db
pub(super) fn pow(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Pow { a, b }) = (site.dy()?, site.view(tape)?);
    if tape.dtype(a) != tape.dtype(b) {
        return Err(Refusal("its base and exponent are of different types"));
    }
    let da = site.wants(0).then(|| {
        let slope = match tape.float(b) {
            Some(2.0) => tape.scale(a, 2.0),
            _ => {
                let less = tape.shift(b, -1.0);
                let power = tape.map(Pow { a, b: less });
                tape.mul(power, b)
            }
        };
        tape.mul(dy, slope)
    });
    let db = site.wants(1).then(|| {
        // Where a is zero, so is y.
        let tiny = tape.scalar(f64::from(f32::MIN_POSITIVE), a);
        let positive = tape.map(Max { xs: vec![a, tiny] });
        let log = tape.map(Log { x: positive });
        let slope = tape.mul(site.y(), log);
        tape.mul(dy, slope)
    });
    Ok(vec![da, db])
}

/// -dx
pub(super) fn neg(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let dy = site.dy()?;
    Ok(vec![Some(tape.neg(dy))])
}

/// sign(x)·dx
pub(super) fn abs(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Abs { x }) = (site.dy()?, site.view(tape)?);
    let sign = tape.sign(x);
    Ok(vec![Some(tape.mul(dy, sign))])
}

/// dx / 2y
pub(super) fn sqrt(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Sqrt { .. }) = (site.dy()?, site.view(tape)?);
    let half = tape.scale(dy, 0.5);
    Ok(vec![Some(tape.div(half, site.y()))])
}

/// -y²·dx
pub(super) fn reciprocal(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y) = (site.dy()?, site.y());
    let square = tape.mul(y, y);
    let product = tape.mul(dy, square);
    Ok(vec![Some(tape.neg(product))])
}

/// y·dx
pub(super) fn exp(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let dy = site.dy()?;
    Ok(vec![Some(tape.mul(dy, site.y()))])
}

/// dx / x
pub(super) fn log(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Log { x }) = (site.dy()?, site.view(tape)?);
    Ok(vec![Some(tape.div(dy, x))])
}

/// 2/√π·exp(-x²)·dx
pub(super) fn erf(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Erf { x }) = (site.dy()?, site.view(tape)?);
    let square = tape.mul(x, x);
    let exponent = tape.neg(square);
    let bell = tape.map(Exp { x: exponent });
    let slope = tape.scale(bell, std::f64::consts::FRAC_2_SQRT_PI);
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// cos x·dx
pub(super) fn sin(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Sin { x }) = (site.dy()?, site.view(tape)?);
    let slope = tape.map(Cos { x });
    Ok(vec![Some(tape.mul(dy, slope))])
}

/// -sin x·dx
pub(super) fn cos(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Cos { x }) = (site.dy()?, site.view(tape)?);
    let sin = tape.map(Sin { x });
    let product = tape.mul(dy, sin);
    Ok(vec![Some(tape.neg(product))])
}

/// Σ dxᵢ
pub(super) fn sum(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Sum { xs }) = (site.dy()?, site.view(tape)?);
    Ok(vec![Some(dy); xs.len()])
}

/// Σ dxᵢ / n
pub(super) fn mean(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Mean { xs }) = (site.dy()?, site.view(tape)?);
    let part = tape.scale(dy, 1.0 / xs.len() as f64);
    Ok(vec![Some(part); xs.len()])
}

/// dx of the greatest; of several, in equal parts
pub(super) fn max(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let Max { xs } = site.view(tape)?;
    extreme(tape, site, &xs)
}

/// dx of the least; of several, in equal parts
pub(super) fn min(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let Min { xs } = site.view(tape)?;
    extreme(tape, site, &xs)
}

fn extreme(tape: &mut Tape, site: &Site, xs: &[ValueId]) -> Result<Gradients, Refusal> {
    let (dy, y) = (site.dy()?, site.y());
    let hits: Vec<ValueId> = xs.iter().map(|&x| equal(tape, x, y)).collect();
    let count = hits[1..].iter().fold(hits[0], |count, &hit| tape.add(count, hit));
    let part = tape.div(dy, count);
    Ok(hits.into_iter().map(|hit| Some(tape.mul(part, hit))).collect())
}

/// 1 where both are equal, else 0. Truth values would take longer.
pub(super) fn equal(tape: &mut Tape, a: ValueId, b: ValueId) -> ValueId {
    let difference = tape.sub(a, b);
    let distance = tape.map(Abs { x: difference });
    let unequal = tape.sign(distance);
    let one = tape.scalar(1.0, unequal);
    tape.sub(one, unequal)
}

/// dx where the condition holds, else dy
pub(super) fn select(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Where { condition, .. }) = (site.dy()?, site.view(tape)?);
    let zero = tape.scalar(0.0, dy);
    let da = site.wants(1).then(|| tape.map(Where { condition, x: dy, y: zero }));
    let db = site.wants(2).then(|| tape.map(Where { condition, x: zero, y: dy }));
    Ok(vec![None, da, db])
}
