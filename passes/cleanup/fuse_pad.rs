//! Merges Pad into the convolution or pool that reads it.

use crate::ir::op::{AveragePool, Conv, MaxPool, Pad};
use crate::ir::{Model, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

pub const INFO: PassInfo = PassInfo::of::<FusePad>("fuse-pad", "Merge Pad into the convolution or pool that reads it");

/// Merges a Pad of spatial axes into what reads it: zeros into Conv and AveragePool, -∞ into MaxPool, and also zeros
/// there where no element is negative.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FusePad {}

impl Pass for FusePad {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.apply(model, Rules::new().on(into_conv).on(into_average).on(into_maximum));
        Ok(())
    }
}

fn into_conv(at: &Site, conv: Conv) -> Match<Rewrite> {
    let pad = padding(at, conv.x)?;
    require!(pad.value == 0.0, "it does not pad with zeros");
    let pads = together(&pad, &conv.pads, &conv.auto_pad)?;
    at.rewrite().replace_root(Conv { x: pad.x, pads, auto_pad: "NOTSET".into(), ..conv })
}

/// The pool counts the zeros as elements, so it must count its own padding, too: it has none, or counts it already.
fn into_average(at: &Site, pool: AveragePool) -> Match<Rewrite> {
    let pad = padding(at, pool.x)?;
    require!(pad.value == 0.0, "it does not pad with zeros");
    let counts = pool.count_include_pad == 1 || pool.pads.iter().all(|&p| p == 0);
    require!(counts, "the pool counts its own padding otherwise than what is padded here");
    require!(pool.ceil_mode == 0, "the pool counts what lies beyond its padding otherwise");
    let pads = together(&pad, &pool.pads, &pool.auto_pad)?;
    require!(windows_reach(&pads, &pool.kernel_shape), "the padding is wider than the pool's window");
    let pool = AveragePool { x: pad.x, pads, auto_pad: "NOTSET".into(), count_include_pad: 1, ..pool };
    at.rewrite().replace_root(pool)
}

fn into_maximum(at: &Site, pool: MaxPool) -> Match<Rewrite> {
    require!(at.node().outputs.len() == 1, "the indices that it returns would change");
    let pad = padding(at, pool.x)?;
    let never_wins = pad.value == f32::NEG_INFINITY || pad.value == 0.0 && is_never_negative(at, pad.x);
    require!(never_wins, "what is padded could be the maximum");
    require!(pool.ceil_mode == 0 && pool.dilations.iter().all(|&d| d == 1), "a window may lie in the padding alone");
    let pads = together(&pad, &pool.pads, &pool.auto_pad)?;
    require!(windows_reach(&pads, &pool.kernel_shape), "a window may lie in the padding alone");
    at.rewrite().replace_root(MaxPool { x: pad.x, pads, auto_pad: "NOTSET".into(), ..pool })
}

/// A Pad of the axes after batch and channels.
struct Padding {
    x: ValueId,
    value: f32,
    /// Before each spatial axis, then after each.
    pads: Vec<i64>,
}

fn padding(at: &Site, value: ValueId) -> Match<Padding> {
    let pad: Pad = at.producer(value).map_err(|_| Miss("no Pad before it"))?;
    require!(at.model.value(value).graph == at.node().graph, "computed outside this body, where it runs once");
    require!(pad.mode == "constant", "it pads with copies of elements");
    let amounts = at.ints(pad.pads)?;
    let rank = match pad.axes {
        None => amounts.len() / 2,
        Some(_) => at.rank(pad.x)?,
    };
    let axes = match pad.axes {
        Some(axes) => at.ints(axes)?,
        None => (0..rank as i64).collect(),
    };
    require!(amounts.len() == 2 * axes.len() && rank > 2, "it does not pad as many axes as it says");
    let mut pads = vec![0; 2 * (rank - 2)];
    for (index, axis) in axes.iter().enumerate() {
        let (before, after) = (amounts[index], amounts[axes.len() + index]);
        require!(before >= 0 && after >= 0, "it also cuts elements off");
        let axis = usize::try_from(if *axis < 0 { axis + rank as i64 } else { *axis }).unwrap_or(rank);
        require!(axis < rank, "it pads an axis that is not there");
        require!(axis >= 2 || before == 0 && after == 0, "it pads the batch or the channels");
        if axis >= 2 {
            pads[axis - 2] += before;
            pads[rank - 2 + axis - 2] += after;
        }
    }
    let value = pad.value.map_or(Ok(0.0), |value| at.float(value))?;
    Ok(Padding { x: pad.x, value, pads })
}

/// The padding of both.
fn together(pad: &Padding, own: &[i64], auto_pad: &str) -> Match<Vec<i64>> {
    match auto_pad {
        "VALID" => return Ok(pad.pads.clone()),
        "NOTSET" => {}
        _ => return Err(Miss("the reader pads by itself, as much as the padded value needs")),
    }
    require!(own.is_empty() || own.len() == pad.pads.len(), "the reader has another number of axes");
    Ok(pad.pads.iter().enumerate().map(|(index, amount)| amount + own.get(index).unwrap_or(&0)).collect())
}

/// Whether every window holds an element that is not padding.
fn windows_reach(pads: &[i64], kernel: &[i64]) -> bool {
    pads.len() == 2 * kernel.len() && pads.iter().zip(kernel.iter().chain(kernel)).all(|(pad, length)| pad < length)
}

fn is_never_negative(at: &Site, value: ValueId) -> bool {
    let Some(producer) = at.model.producer(value) else { return false };
    let node = at.model.node(producer);
    let clipped = || node.inputs.get(1).copied().flatten().is_some_and(|low| at.float(low).is_ok_and(|low| low >= 0.0));
    node.domain.is_empty()
        && match node.op.as_str() {
            "Relu" | "Sigmoid" | "HardSigmoid" | "Softmax" | "Abs" | "Exp" | "Sqrt" => true,
            "Clip" => clipped(),
            _ => false,
        }
}
