//! Operators that move elements and do not compute: DequantizeLinear passes through them, down to where reals are needed.

use super::scale::{Scale, dequantized};
use crate::ir::op::{Concat, DequantizeLinear, QuantizeLinear};
use crate::ir::{DType, Tensor};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators as int8;

/// Operators whose result holds elements of their first operand; all else is about shapes and indices.
pub(super) const MOVING: &[&str] = &[
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
];

/// move(DQ(x)) = DQ(move(x)).
pub(super) fn moved(at: &Site) -> Match<Rewrite> {
    let node = at.node();
    require!(node.domain.is_empty() && node.outputs.len() == 1, "an operator of another domain");
    let real = node.inputs.first().copied().flatten().ok_or(Miss("no operand"))?;
    let dequantize: DequantizeLinear = at.producer(real)?;
    let (value, _) = dequantized(at, real)?;
    let mut new = at.rewrite();
    let x = new.add(node.with_operands(&[(real, value)]));
    new.replace_root(DequantizeLinear { x, ..dequantize })
}

/// Concat(DQ(x), DQ(y), ..) = DQ(Concat(x, y, ..)), where all have one scale.
pub(super) fn joined(at: &Site, concat: Concat) -> Match<Rewrite> {
    let first = *concat.xs.first().ok_or(Miss("no operand"))?;
    let dequantize: DequantizeLinear = at.producer(first)?;
    let (_, scale) = dequantized(at, first)?;
    let mut xs = Vec::new();
    for &real in &concat.xs {
        let (value, own) = dequantized(at, real)?;
        require!(own == scale, "operands of several scales");
        xs.push(value);
    }
    let mut new = at.rewrite();
    let x = new.add(Concat { xs, ..concat });
    new.replace_root(DequantizeLinear { x, ..dequantize })
}

/// Q(Concat(DQ(x), DQ(y), ..)) = Concat(Q(DQ(x)), Q(DQ(y)), ..).
pub(super) fn quantized_concat(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let concat: Concat = at.feeder(root.x)?;
    Scale::of_quantize(at, &root)?;
    for &real in &concat.xs {
        dequantized(at, real)?;
    }
    let mut new = at.rewrite();
    let xs = concat.xs.iter().map(|&x| new.add(QuantizeLinear { x, ..root.clone() })).collect();
    new.replace_root(Concat { xs, ..concat })
}

/// Q(DQ(x)) = x where both have one scale.
pub(super) fn requantized_alike(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let (value, from) = dequantized(at, root.x)?;
    require!(from == Scale::of_quantize(at, &root)?, "another scale");
    Rewrite::forward(value)
}

/// Q(DQ(x)) as a table.
pub(super) fn requantized(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let to = Scale::of_quantize(at, &root)?;
    let (value, from) = dequantized(at, root.x)?;
    let table = (0..=255).map(|q| to.integer((q - from.zero_point) as f32 * from.scale) as u8);
    let mut new = at.rewrite();
    let x = super::scale::unsigned(&mut new, value, &from);
    let table = new.constant("table", Tensor::from_vec(vec![256], table.collect::<Vec<u8>>()));
    let table = int8::Table { x, table };
    match to.is_signed {
        false => new.replace_root(table),
        true => {
            let x = new.add(table);
            new.replace_root(int8::Flip { x, to: DType::I8.code().into() })
        }
    }
}
