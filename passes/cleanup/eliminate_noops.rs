//! Removes nodes that compute what they are given: reshapes to the same shape, casts to the same type, `x + 0`, `x · 1`.
//! A sum of two, of which nothing can be left out, becomes an Add.

use crate::ir::op::{
    Add, Cast, Concat, Div, Dropout, Expand, Mul, Pad, Pow, Slice, Split, Sub, Sum, Tile, Transpose, Where,
};
use crate::ir::{Model, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

use super::reshaping::{RESHAPING, reshaped};

pub const INFO: PassInfo =
    PassInfo::of::<EliminateNoops>("eliminate-noops", "Remove nodes whose result is their operand");

/// Removes nodes whose result is one of their operands, where types and shapes prove it.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EliminateNoops {}

impl Pass for EliminateNoops {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let layout = Rules::new()
            .on_any(RESHAPING, reshape)
            .on(expand)
            .on(tile)
            .on(slice)
            .on(pad)
            .on(transpose)
            .on(cast)
            .on(concat_of_one)
            .on(split_into_one)
            .on(dropout)
            .on_any(&["Sum", "Max", "Min", "Mean"], of_one)
            .on(sum_of_two)
            .on_any(&["Resize"], resize_by_one);
        let arithmetic =
            Rules::new().on(add_zero).on(subtract_zero).on(times_one).on(over_one).on(to_the_one).on(chosen);
        cx.apply(model, layout);
        cx.apply(model, arithmetic);
        Ok(())
    }
}

fn reshape(at: &Site) -> Match<Rewrite> {
    same_shape(at, reshaped(at.model, at.root).ok_or(Miss("unusual form"))?)
}

fn expand(at: &Site, expand: Expand) -> Match<Rewrite> {
    same_shape(at, expand.x)
}

fn tile(at: &Site, tile: Tile) -> Match<Rewrite> {
    same_shape(at, tile.x)
}

fn same_shape(at: &Site, x: ValueId) -> Match<Rewrite> {
    require!(at.shapes().same_shape(x, at.result()), "the shapes differ, or are not known to be the same");
    Rewrite::forward(x)
}

fn slice(at: &Site, slice: Slice) -> Match<Rewrite> {
    if let Some(steps) = slice.steps {
        require!(at.ints(steps)?.iter().all(|&step| step == 1), "it skips or reverses");
    }
    same_shape(at, slice.x)
}

fn pad(at: &Site, pad: Pad) -> Match<Rewrite> {
    require!(at.ints(pad.pads)?.iter().all(|&n| n == 0), "it pads or crops");
    Rewrite::forward(pad.x)
}

fn transpose(_: &Site, transpose: Transpose) -> Match<Rewrite> {
    let in_order = transpose.perm.iter().enumerate().all(|(to, &from)| to as i64 == from);
    require!(in_order && !transpose.perm.is_empty(), "it moves axes");
    Rewrite::forward(transpose.x)
}

fn cast(at: &Site, cast: Cast) -> Match<Rewrite> {
    require!(i64::from(at.dtype(cast.x)?.code()) == cast.to, "it changes the type");
    Rewrite::forward(cast.x)
}

fn concat_of_one(_: &Site, concat: Concat) -> Match<Rewrite> {
    match concat.xs[..] {
        [x] => Rewrite::forward(x),
        _ => Err(Miss("it joins several values")),
    }
}

fn split_into_one(at: &Site, split: Split) -> Match<Rewrite> {
    require!(at.node().outputs.len() == 1, "it splits");
    same_shape(at, split.x)
}

/// In inference dropout passes its operand on.
fn dropout(at: &Site, dropout: Dropout) -> Match<Rewrite> {
    let training = dropout.training_mode.map_or(Ok(0), |mode| at.tensor(mode)?.as_int().ok_or(Miss("no flag")))?;
    require!(training == 0, "it is in training mode");
    let mask = at.node().outputs.get(1).copied().flatten();
    require!(mask.is_none_or(|mask| at.model.value(mask).uses.is_empty()), "its mask is read");
    Rewrite::forward(dropout.x)
}

fn of_one(at: &Site) -> Match<Rewrite> {
    match at.node().inputs[..] {
        [Some(x)] if at.node().domain.is_empty() => Rewrite::forward(x),
        _ => Err(Miss("it has several operands")),
    }
}

/// No node less, but the form in which passes look for it.
fn sum_of_two(at: &Site, sum: Sum) -> Match<Rewrite> {
    match sum.xs[..] {
        [a, b] => at.rewrite().replace_root(Add { a, b }),
        _ => Err(Miss("it is no sum of two")),
    }
}

fn resize_by_one(at: &Site) -> Match<Rewrite> {
    let node = at.node();
    require!(node.domain.is_empty() && node.inputs.len() == 3, "it does not resize by scales");
    require!(node.inputs[1].is_none(), "it may crop to a region");
    let (Some(x), Some(scales)) = (node.inputs[0], node.inputs[2]) else { return Err(Miss("it has no scales")) };
    require!(at.floats(scales)?.iter().all(|&scale| scale == 1.0), "it changes sizes");
    same_shape(at, x)
}

fn add_zero(at: &Site, add: Add) -> Match<Rewrite> {
    neutral(at, [(add.a, add.b), (add.b, add.a)], 0.0)
}

fn subtract_zero(at: &Site, sub: Sub) -> Match<Rewrite> {
    neutral(at, [(sub.a, sub.b)], 0.0)
}

fn times_one(at: &Site, mul: Mul) -> Match<Rewrite> {
    neutral(at, [(mul.a, mul.b), (mul.b, mul.a)], 1.0)
}

fn over_one(at: &Site, div: Div) -> Match<Rewrite> {
    neutral(at, [(div.a, div.b)], 1.0)
}

fn to_the_one(at: &Site, pow: Pow) -> Match<Rewrite> {
    neutral(at, [(pow.a, pow.b)], 1.0)
}

/// Forwards x of a pair (x, constant) whose constant changes no element and broadcasts nothing.
fn neutral<const N: usize>(at: &Site, pairs: [(ValueId, ValueId); N], element: f32) -> Match<Rewrite> {
    for (x, constant) in pairs {
        let Ok(tensor) = at.tensor(constant) else { continue };
        let all = match (tensor.floats(), tensor.ints()) {
            (Some(floats), _) => floats.iter().all(|&x| x == element),
            (_, Some(ints)) => ints.iter().all(|&x| x as f32 == element),
            _ => false,
        };
        if all && !tensor.is_empty() {
            require!(at.dtype(x)? == at.dtype(at.result())?, "it changes the type");
            return same_shape(at, x);
        }
    }
    Err(Miss("no operand is a neutral constant"))
}

fn chosen(at: &Site, choice: Where) -> Match<Rewrite> {
    let condition = at.ints(choice.condition)?;
    let first = *condition.first().ok_or(Miss("nothing is chosen"))?;
    require!(condition.iter().all(|&c| c == first), "both sides are chosen");
    same_shape(at, if first != 0 { choice.x } else { choice.y })
}
