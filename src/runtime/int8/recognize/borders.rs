//! What is left of QuantizeLinear and DequantizeLinear, as operators of ours.

use super::scale::{Scale, dequantized, unsigned};
use crate::ir::DType;
use crate::ir::op::{DequantizeLinear, QuantizeLinear};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators as int8;

pub(super) fn quantize(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let to = Scale::of_quantize(at, &root)?;
    require!(at.dtype(root.x)? == DType::F32, "not a float32");
    let mut new = at.rewrite();
    let (scale, zero_point) = (to.scale, to.zero_point);
    let quantize = int8::Quantize { x: root.x, factors: None, scale, zero_point, channels_last: false, channels: 0 };
    match to.is_signed {
        false => new.replace_root(quantize),
        true => {
            let x = new.add(quantize);
            new.replace_root(int8::Flip { x, to: DType::I8.code().into() })
        }
    }
}

pub(super) fn dequantize(at: &Site, root: DequantizeLinear) -> Match<Rewrite> {
    require!(at.model.constant(root.x).is_none(), "a constant");
    let (value, from) = dequantized(at, at.result())?;
    let mut new = at.rewrite();
    let x = unsigned(&mut new, value, &from);
    let (scale, zero_point) = (from.scale, from.zero_point);
    new.replace_root(int8::Dequantize { x, scale, zero_point, channels_last: false })
}

/// Flip(Flip(x)) = x.
pub(super) fn flipped_back(at: &Site, outer: int8::Flip) -> Match<Rewrite> {
    let inner: int8::Flip = at.producer(outer.x)?;
    require!(inner.to != outer.to, "two of one direction");
    Rewrite::forward(inner.x)
}

/// Flip(move(Flip(x))) = move(x).
pub(super) fn flipped_beyond(at: &Site, outer: int8::Flip) -> Match<Rewrite> {
    let id = at.model.producer(outer.x).ok_or(Miss("not computed by a node"))?;
    let node = at.model.node(id);
    require!(super::pass_through::MOVING.contains(&node.op.as_str()), "computed by another operator");
    at.only_here(outer.x)?;
    let moved = node.inputs.first().copied().flatten().ok_or(Miss("no operand"))?;
    let inner: int8::Flip = at.producer(moved)?;
    require!(inner.to != outer.to, "two of one direction");
    at.rewrite().replace_root(node.with_operands(&[(moved, inner.x)]))
}
