//! Sums and products of two dequantized tensors.

use super::conv::computing;
use super::scale::{Integers, Target, integers};
use crate::ir::op::{Add, Mul, QuantizeLinear};
use crate::ir::{Tensor, ValueId};
use crate::kernels::{Addition, Multiplication, Quantization};
use crate::rewrite::{Draft, Match, Rewrite, Site};
use crate::runtime::int8::operators as int8;

/// Q(limits(DQ(a) + DQ(b))) as QLinearAdd; a table where one is a number.
pub(super) fn quantized_add(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let add: Add = at.feeder(target.value)?;
    let (mut new, rank) = (at.rewrite(), at.rank(target.value).ok());
    let (a, b) = (integers(at, &mut new, add.a)?, integers(at, &mut new, add.b)?);
    let addition = Addition {
        clamp: [target.low as u8, target.high as u8],
        ..Addition::new(quantization(&a), quantization(&b), target.quantization())
    };
    if let Some((x, entries)) = with_number(at, &a, &b, |a, b, y| addition.run(a, b, y)) {
        let table = new.constant("table", Tensor::from_vec(vec![256], entries));
        return target.end(new, int8::Table { x, table }, &computing(at, target.value)?.name);
    }
    let sum = int8::Sum {
        a: with_rank(at, &mut new, &a, rank),
        b: with_rank(at, &mut new, &b, rank),
        a_scale: a.scale,
        a_zero_point: a.zero_point,
        b_scale: b.scale,
        b_zero_point: b.zero_point,
        y_scale: target.to.scale,
        y_zero_point: target.to.zero_point,
        low: target.low,
        high: target.high,
    };
    target.end(new, sum, &computing(at, target.value)?.name)
}

/// Q(limits(DQ(a) · DQ(b))) as QLinearMul; a table where one is a number.
pub(super) fn quantized_mul(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let mul: Mul = at.feeder(target.value)?;
    let (mut new, rank) = (at.rewrite(), at.rank(target.value).ok());
    let (a, b) = (integers(at, &mut new, mul.a)?, integers(at, &mut new, mul.b)?);
    let multiplication = Multiplication {
        clamp: [target.low as u8, target.high as u8],
        ..Multiplication::new(quantization(&a), quantization(&b), target.quantization())
    };
    if let Some((x, entries)) = with_number(at, &a, &b, |a, b, y| multiplication.run(a, b, y)) {
        let table = new.constant("table", Tensor::from_vec(vec![256], entries));
        return target.end(new, int8::Table { x, table }, &computing(at, target.value)?.name);
    }
    let product = int8::Product {
        a: with_rank(at, &mut new, &a, rank),
        b: with_rank(at, &mut new, &b, rank),
        a_scale: a.scale,
        a_zero_point: a.zero_point,
        b_scale: b.scale,
        b_zero_point: b.zero_point,
        y_scale: target.to.scale,
        y_zero_point: target.to.zero_point,
        low: target.low,
        high: target.high,
    };
    target.end(new, product, &computing(at, target.value)?.name)
}

fn quantization(integers: &Integers) -> Quantization {
    Quantization { scale: integers.scale, zero_point: integers.zero_point as u8 }
}

/// Where one operand is a number: the other, and what each of its values becomes.
fn with_number(
    at: &Site,
    a: &Integers,
    b: &Integers,
    function: impl Fn(&[u8], &[u8], &mut [u8]),
) -> Option<(ValueId, Vec<u8>)> {
    let number = |of: &Integers| {
        let tensor = at.model.constant(of.source).filter(|tensor| tensor.len() == 1 && tensor.rank() <= 1)?;
        let flip = if of.source == of.value { 0 } else { 0x80 };
        Some(tensor.as_int()? as u8 ^ flip)
    };
    let all: Vec<u8> = (0..=255).collect();
    let mut entries = vec![0; 256];
    match (number(a), number(b)) {
        (None, Some(b)) => {
            function(&all, &[b], &mut entries);
            Some((a.value, entries))
        }
        (Some(a), None) => {
            function(&[a], &all, &mut entries);
            Some((b.value, entries))
        }
        _ => None,
    }
}

/// A constant with as many axes as the result has, which broadcasts alike.
fn with_rank(at: &Site, new: &mut Draft, of: &Integers, rank: Option<usize>) -> ValueId {
    let (Some(tensor), Some(rank)) = (at.model.constant(of.source), rank) else { return of.value };
    let missing = rank.checked_sub(tensor.rank()).filter(|&missing| missing > 0 && of.source == of.value);
    let Some(missing) = missing else { return of.value };
    let shape = std::iter::repeat_n(1, missing).chain(tensor.shape().iter().copied()).collect();
    new.constant("operand", tensor.reshaped(shape).expect("as many elements"))
}
