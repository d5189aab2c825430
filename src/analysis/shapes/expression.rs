//! Arithmetic on sizes that are known as expressions.
//!
//! The crate computes in 32 bits without looking: here a result that might leave them is unknown.

use rten_shape_inference::{SymExpr, SymbolGen};

/// Expressions with more terms become symbols, so that a long chain of nodes takes linear time.
const MOST_TERMS: usize = 48;

/// The simplest form of `expression`; none where a number in it might not fit 32 bits, or where it is too long.
pub fn simplified(expression: SymExpr) -> Option<SymExpr> {
    if matches!(expression, SymExpr::Value(_) | SymExpr::Var(_)) {
        return Some(expression);
    }
    // |a + b| and |a · b| are at most (1 + |a|)(1 + |b|), whatever the order of the operations.
    let mut bound = 1f64;
    for (count, term) in expression.iter().enumerate() {
        if count == MOST_TERMS {
            return None;
        }
        if let SymExpr::Value(n) = term {
            bound *= 1.0 + f64::from(n.unsigned_abs());
        }
    }
    (bound < f64::from(i32::MAX)).then(|| expression.simplify())
}

/// The product of `factors`; fixed where they are, and also where a fixed one is 0.
pub fn product<'e>(factors: impl IntoIterator<Item = &'e SymExpr>) -> Option<SymExpr> {
    let (mut fixed, mut open) = (1i64, Vec::new());
    for factor in factors {
        match factor {
            SymExpr::Value(n) => fixed = fixed.checked_mul(i64::from(*n))?,
            other => open.push(other.clone()),
        }
    }
    let fixed = SymExpr::Value(i32::try_from(fixed).ok().filter(|&n| n < i32::MAX)?);
    let alone = open.len() == 1;
    match open.into_iter().reduce(|product, factor| product * factor) {
        Some(_) if fixed == SymExpr::Value(0) => Some(fixed),
        Some(open) if fixed == SymExpr::Value(1) && alone => Some(open),
        Some(open) if fixed == SymExpr::Value(1) => simplified(open),
        Some(open) => simplified(fixed * open),
        None => Some(fixed),
    }
}

/// `x + y` on numbers without overflow, otherwise as an expression.
pub fn sum(x: &SymExpr, y: &SymExpr) -> Option<SymExpr> {
    match (x, y) {
        (SymExpr::Value(x), SymExpr::Value(y)) => number(i64::from(*x) + i64::from(*y)),
        (SymExpr::Value(0), other) | (other, SymExpr::Value(0)) => Some(other.clone()),
        _ => simplified(x.clone() + y.clone()),
    }
}

pub fn difference(x: &SymExpr, y: &SymExpr) -> Option<SymExpr> {
    match (x, y) {
        (SymExpr::Value(x), SymExpr::Value(y)) => number(i64::from(*x) - i64::from(*y)),
        (other, SymExpr::Value(0)) => Some(other.clone()),
        _ => simplified(x.clone() - y.clone()),
    }
}

/// `x / y` as integers are divided; known for operands that are not negative.
pub fn quotient(x: &SymExpr, y: &SymExpr) -> Option<SymExpr> {
    match (x, y) {
        (SymExpr::Value(x), SymExpr::Value(y)) => number(i64::from(*x).checked_div(i64::from(*y))?),
        (_, SymExpr::Value(y)) if *y <= 0 => None,
        _ if x.is_positive() && y.is_positive() => simplified(x.clone() / y.clone()),
        _ => None,
    }
}

/// Whether both are equal, where that is sure for all values of the symbols.
pub fn equal(x: &SymExpr, y: &SymExpr) -> Option<bool> {
    match (x, y) {
        _ if is_cut(x) || is_cut(y) => None,
        (SymExpr::Value(x), SymExpr::Value(y)) => Some(x == y),
        (SymExpr::Value(n), other) | (other, SymExpr::Value(n)) if *n < 0 && other.is_positive() => Some(false),
        _ => (x == y).then_some(true),
    }
}

/// Whether the number stands for one beyond 32 bits.
pub fn is_cut(x: &SymExpr) -> bool {
    matches!(x, SymExpr::Value(n) if n.unsigned_abs() >= i32::MAX as u32)
}

pub fn number(n: i64) -> Option<SymExpr> {
    i32::try_from(n).ok().filter(|n| n.unsigned_abs() < i32::MAX as u32).map(SymExpr::Value)
}

/// Makes a length that no tensor has a symbol.
pub fn plausible(length: &mut SymExpr, symbols: &mut SymbolGen) {
    match length {
        SymExpr::Value(n) if *n < 0 || *n == i32::MAX => *length = symbols.gen_positive(),
        // What broadcasting leaves is simplified here; all other arithmetic is done in this file.
        SymExpr::Broadcast(..) => *length = simplified(length.clone()).unwrap_or_else(|| symbols.gen_positive()),
        _ => {}
    }
}

/// The length of an axis along which two tensors are broadcast; none where they cannot be.
pub fn broadcast(x: &SymExpr, y: &SymExpr) -> Option<SymExpr> {
    match (x, y) {
        (SymExpr::Value(1), other) | (other, SymExpr::Value(1)) => Some(other.clone()),
        (SymExpr::Value(x), SymExpr::Value(y)) => (x == y).then_some(SymExpr::Value(*x)),
        // The other is 1 or the same.
        (number @ SymExpr::Value(_), _) | (_, number @ SymExpr::Value(_)) => Some(number.clone()),
        _ if x == y || is_part_of(y, x) => Some(x.clone()),
        _ if is_part_of(x, y) => Some(y.clone()),
        _ => Some(x.broadcast(y)),
    }
}

/// Whether `x` is min(whole, n) with n ≥ 1: where both can be broadcast, that is to `whole`, since n < whole must be 1.
fn is_part_of(x: &SymExpr, whole: &SymExpr) -> bool {
    let is_number = |n: &SymExpr| matches!(n, SymExpr::Value(1..));
    matches!(x, SymExpr::Min(a, b) if **a == *whole && is_number(b) || **b == *whole && is_number(a))
}
