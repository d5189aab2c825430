//! The ways in which exporters write GELU.

use crate::ir::op::{Add, Div, Erf, Mul, Pow, Tanh};
use crate::ir::{DType, Op, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Site};

/// The x of x·½·(1 + erf(x/√2)), where `value` is that in any order of its factors.
pub fn exact(at: &Site, value: ValueId) -> Match<ValueId> {
    let product = Product::of(at, value)?;
    product.gate(at, |at, sum| {
        let erf: Erf = one_more(at, sum)?;
        scaled(at, erf.x, std::f64::consts::FRAC_1_SQRT_2)
    })
}

/// The x of x·½·(1 + tanh(√(2/π)·(x + 0.044715·x³))), where `value` is that in any order of its factors.
pub fn approximate(at: &Site, value: ValueId) -> Match<ValueId> {
    let product = Product::of(at, value)?;
    product.gate(at, |at, sum| {
        let tanh: Tanh = one_more(at, sum)?;
        let inner = scaled(at, tanh.x, (2.0 / std::f64::consts::PI).sqrt())?;
        cubic(at, inner)
    })
}

/// A product of values and a number.
struct Product {
    number: f64,
    values: Vec<ValueId>,
}

impl Product {
    fn of(at: &Site, value: ValueId) -> Match<Product> {
        let mut product = Product { number: 1.0, values: Vec::new() };
        product.multiply(at, value, 0)?;
        Ok(product)
    }

    fn multiply(&mut self, at: &Site, value: ValueId, depth: usize) -> Match<()> {
        if let Ok(number) = at.float(value) {
            self.number *= f64::from(number);
        } else if depth == 0 || depth < 3 && at.only_here(value).is_ok() && at.producer::<Mul>(value).is_ok() {
            let Mul { a, b } = at.producer(value)?;
            self.multiply(at, a, depth + 1)?;
            self.multiply(at, b, depth + 1)?;
        } else {
            self.values.push(value);
        }
        Ok(())
    }

    /// The x of x·½·g, where `gated` reads x out of g.
    fn gate(&self, at: &Site, gated: impl Fn(&Site, ValueId) -> Match<ValueId>) -> Match<ValueId> {
        require!((self.number - 0.5).abs() < 1e-3, "not a product with a half");
        let [a, b] = *self.values else { return Err(Miss("not a product of two values and a half")) };
        let x = if gated(at, b) == Ok(a) {
            a
        } else if gated(at, a) == Ok(b) {
            b
        } else {
            return Err(Miss("not a product of a value and its gate"));
        };
        require!(at.rank(x) != Ok(0), "its constants add an axis to the value");
        Ok(x)
    }
}

/// The operator whose result plus one `sum` is.
fn one_more<O: Op>(at: &Site, sum: ValueId) -> Match<O> {
    at.only_here(sum)?;
    let Add { a, b } = at.producer(sum)?;
    let gate = beside(at, a, b, 1.0)?;
    at.feeder(gate)
}

/// The value of two of which the other is `number`.
fn beside(at: &Site, a: ValueId, b: ValueId, number: f64) -> Match<ValueId> {
    match (is_near(at, a, number), is_near(at, b, number)) {
        (false, true) => Ok(a),
        (true, false) => Ok(b),
        _ => Err(Miss("another constant than expected")),
    }
}

/// The x of x·number, also where it is written as a division.
fn scaled(at: &Site, value: ValueId, number: f64) -> Match<ValueId> {
    at.only_here(value)?;
    if let Ok(Mul { a, b }) = at.producer(value) {
        return beside(at, a, b, number);
    }
    let Div { a, b } = at.producer(value)?;
    require!(is_near(at, b, number.recip()), "another constant than expected");
    Ok(a)
}

/// The x of x + 0.044715·x³ or of x·(1 + 0.044715·x²).
fn cubic(at: &Site, value: ValueId) -> Match<ValueId> {
    const CUBE: f64 = 0.044715;
    at.only_here(value)?;
    if let Ok(Add { a, b }) = at.producer(value) {
        let part = |cube: ValueId, x: ValueId| scaled(at, cube, CUBE).and_then(|cube| power(at, cube, 3)) == Ok(x);
        return match (part(b, a), part(a, b)) {
            (true, _) => Ok(a),
            (_, true) => Ok(b),
            _ => Err(Miss("not a cubic polynomial")),
        };
    }
    let Mul { a, b } = at.producer(value)?;
    let part = |sum: ValueId, x: ValueId| {
        let Add { a, b } = at.feeder(sum)?;
        let square = scaled(at, beside(at, a, b, 1.0)?, CUBE)?;
        Ok(power(at, square, 2)? == x)
    };
    match (part(b, a), part(a, b)) {
        (Ok(true), _) => Ok(a),
        (_, Ok(true)) => Ok(b),
        (Err(miss), _) => Err(miss),
        _ => Err(Miss("not a cubic polynomial")),
    }
}

/// The x of x^exponent, as a power or as products.
fn power(at: &Site, value: ValueId, exponent: u32) -> Match<ValueId> {
    at.only_here(value)?;
    if let Ok(Pow { a, b }) = at.producer(value) {
        require!(at.float(b)? == exponent as f32, "another power than expected");
        return Ok(a);
    }
    let Mul { a, b } = at.producer(value)?;
    match exponent {
        2 if a == b => Ok(a),
        3 if power(at, a, 2) == Ok(b) => Ok(b),
        3 if power(at, b, 2) == Ok(a) => Ok(a),
        _ => Err(Miss("another power than expected")),
    }
}

/// Whether a constant that a file rounded, perhaps to half precision, is meant to be `number`.
pub fn is_near(at: &Site, value: ValueId, number: f64) -> bool {
    let tolerance = match at.dtype(value) {
        Ok(DType::F16) => 1e-3,
        Ok(DType::Bf16) => 8e-3,
        _ => 2e-6,
    };
    at.rank(value).is_ok_and(|axes| axes <= 1)
        && at.float(value).is_ok_and(|x| (f64::from(x) - number).abs() <= tolerance * number.abs())
}
