//! Convolutions become convolutions of blocks; the change back to plain images sinks through what follows, until it meets
//! a change to blocks, which it cancels.

use std::cell::OnceCell;
use std::rc::Rc;

use tract_onnx::tract_core::internal::{TDim, TVec};

use super::operators::{BlockedConv, FromBlocks, ToBlocks};
use crate::analysis::Shapes;
use crate::ir::op::{Add, Clip, Conv, GlobalAveragePool, ReduceMean, ReduceSum, Relu, Reshape};
use crate::ir::{DType, Model, Tensor, ValueId, op};
use crate::kernels::blocked::{BlockedConvolution, FloatIsa};
use crate::require;
use crate::rewrite::{Draft, Match, Miss, Rewrite, Rules, Site};
use crate::runtime::extremes::Reach;
use crate::runtime::window::WindowAttrs;

/// Operators that work element by element, on any layout.
const ELEMENTWISE: &[&str] = &[
    "Abs",
    "Add",
    "Clip",
    "Div",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Pow",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Sign",
    "Softplus",
    "Sqrt",
    "Sub",
    "Tanh",
];

/// Rewrites `model`. `shapes` are those of the model before. It may call itself one of a newer operator set than `opset`.
pub(super) fn recognize(model: &mut Model, shapes: &OnceCell<Rc<Shapes>>, opset: i64) {
    let mut rules = Rules::new()
        .on::<Conv, _>(conv)
        .on::<ToBlocks, _>(kept)
        .on::<Add, _>(residual)
        .on::<Relu, _>(relu)
        .on::<Clip, _>(clip)
        .on::<Reach, _>(reach)
        .on_any(ELEMENTWISE, elementwise);
    if opset >= op::BASE {
        // What these write has another form in older operator sets.
        rules = rules.on::<ReduceMean, _>(mean).on::<ReduceSum, _>(sum).on::<GlobalAveragePool, _>(global_average);
    }
    // What was not met is no news: it runs as it is.
    let _ = rules.apply(model, shapes);
}

fn conv(at: &Site, Conv { x, w, b, auto_pad, dilations, group, pads, strides, .. }: Conv) -> Match<Rewrite> {
    require!(at.dtype(x)? == DType::F32, "not of float32");
    let (image, weights) = (at.fixed_shape(x)?, at.fixed_shape(w)?);
    require!(matches!(weights.len(), 3 | 4), "not over one or two axes");
    let dims: TVec<TDim> = image.iter().map(TDim::from).collect();
    let attributes = WindowAttrs {
        kernel: &weights[2..],
        strides: &strides,
        dilations: &dilations,
        pads: &pads,
        auto_pad: &auto_pad,
    };
    let window = attributes.window(&dims).map_err(|_| Miss("a window that is not known"))?;
    let groups = usize::try_from(group).map_err(|_| Miss("no groups"))?;
    let known = BlockedConvolution::new(FloatIsa::best(), window, groups, image[1], weights[0]);
    require!(known.is_some(), "groups that are neither one nor all");
    let ints = |sizes: &[usize]| sizes.iter().map(|&n| n as i64).collect::<Vec<_>>();
    let mut draft = at.rewrite();
    let x = draft.add(ToBlocks { x });
    let y = draft.add(BlockedConv {
        x,
        w,
        bias: b,
        residual: None,
        channels: image[1] as i64,
        group,
        strides: ints(&window.strides),
        dilations: ints(&window.dilations),
        pads: ints(&window.pads),
        low: f32::NEG_INFINITY,
        high: f32::INFINITY,
    });
    draft.replace_root(FromBlocks { x: y, channels: weights[0] as i64, rank: weights.len() as i64 })
}

/// Back and forth is nothing.
fn kept(at: &Site, ToBlocks { x }: ToBlocks) -> Match<Rewrite> {
    let FromBlocks { x, .. } = at.producer(x)?;
    Rewrite::forward(x)
}

/// conv(x) + residual
fn residual(at: &Site, Add { a, b }: Add) -> Match<Rewrite> {
    let shape = at.fixed_shape(at.result())?;
    require!(at.fixed_shape(a)? == shape && at.fixed_shape(b)? == shape, "it repeats one of them");
    for (sum, other) in [(a, b), (b, a)] {
        let Ok((conv, FromBlocks { channels, rank, .. })) = open_conv(at, sum) else { continue };
        if conv.residual.is_some() {
            continue;
        }
        let mut draft = at.rewrite();
        let other = draft.add(ToBlocks { x: other });
        let y = draft.add(BlockedConv { residual: Some(other), ..conv });
        return draft.replace_root(FromBlocks { x: y, channels, rank });
    }
    Err(Miss("no convolution for it alone"))
}

/// A convolution without a clamp, whose result the root alone reads.
fn open_conv(at: &Site, value: ValueId) -> Match<(BlockedConv, FromBlocks)> {
    let plain: FromBlocks = at.feeder(value)?;
    let conv: BlockedConv = at.producer(plain.x)?;
    require!(at.model.value(plain.x).uses.len() == 1, "the convolution is also read elsewhere");
    require!((conv.low, conv.high) == (f32::NEG_INFINITY, f32::INFINITY), "it has a clamp");
    Ok((conv, plain))
}

fn relu(at: &Site, Relu { x }: Relu) -> Match<Rewrite> {
    clamped(at, x, 0.0, f32::INFINITY)
}

fn clip(at: &Site, Clip { x, min, max }: Clip) -> Match<Rewrite> {
    let bound = |bound: Option<ValueId>, open: f32| bound.map_or(Ok(open), |bound| at.float(bound));
    let (low, high) = (bound(min, f32::NEG_INFINITY)?, bound(max, f32::INFINITY)?);
    require!(low < high, "nothing is between its bounds");
    clamped(at, x, low, high)
}

fn clamped(at: &Site, x: ValueId, low: f32, high: f32) -> Match<Rewrite> {
    let (conv, FromBlocks { channels, rank, .. }) = open_conv(at, x)?;
    let mut draft = at.rewrite();
    let y = draft.add(BlockedConv { low, high, ..conv });
    draft.replace_root(FromBlocks { x: y, channels, rank })
}

/// Blocks reach over what the image does, but for what fills them up.
fn reach(at: &Site, Reach { x, .. }: Reach) -> Match<Rewrite> {
    let FromBlocks { x, channels, .. } = at.producer(x)?;
    at.rewrite().replace_root(Reach { x, channels })
}

/// f(plain(x), ..) = plain(f(x, ..)), where operands are of one size, one for each channel, or one number.
fn elementwise(at: &Site) -> Match<Rewrite> {
    let node = at.node();
    require!(node.domain.is_empty(), "not an operator of ONNX");
    let operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
    let plain = operands.iter().find_map(|&operand| at.producer::<FromBlocks>(operand).ok());
    let FromBlocks { channels, rank, .. } = plain.ok_or(Miss("nothing in blocks"))?;
    require!(at.dtype(at.result())? == DType::F32, "not of float32");
    let mut draft = at.rewrite();
    let mut twins = Vec::new();
    for &operand in &operands {
        if twins.iter().any(|(old, _)| *old == operand) {
            continue;
        }
        if let Ok(from) = at.producer::<FromBlocks>(operand) {
            require!((from.channels, from.rank) == (channels, rank), "images of different channels");
            twins.push((operand, from.x));
            continue;
        }
        let shape = at.fixed_shape(operand)?;
        if shape.iter().product::<usize>() == 1 {
            if shape.len() > 5 {
                return Err(Miss("a number of too many axes"));
            }
            continue;
        }
        twins.push((operand, blocks_of(&mut draft, operand, &shape, channels, rank)?));
    }
    let y = draft.add(node.with_operands(&twins));
    draft.replace_root(FromBlocks { x: y, channels, rank })
}

/// A plain image in blocks, or numbers for its channels.
fn blocks_of(draft: &mut Draft, value: ValueId, shape: &[usize], channels: i64, rank: i64) -> Match<ValueId> {
    let missing = (rank as usize).checked_sub(shape.len()).ok_or(Miss("more axes than the image"))?;
    require!(missing <= 1, "fewer axes than channels and space");
    require!(shape[1 - missing] as i64 == channels, "not as many channels");
    let image = match missing {
        0 => value,
        _ => {
            let shape: Vec<i64> = [1].into_iter().chain(shape.iter().map(|&n| n as i64)).collect();
            let shape = draft.constant("shape", Tensor::from_ints(&shape));
            draft.add(Reshape { x: value, shape, allowzero: 0 })
        }
    };
    Ok(draft.add(ToBlocks { x: image }))
}

/// Over batch and space, or some of these axes; blocks have them at the same places.
fn reduced(
    at: &Site,
    x: ValueId,
    axes: Option<ValueId>,
    keepdims: i64,
    reduce: impl Fn(&mut Draft, ValueId, ValueId) -> ValueId,
) -> Match<Rewrite> {
    let FromBlocks { x: blocks, channels, rank } = at.producer(x)?;
    require!(rank == 4, "not over two axes of space");
    let axes = at.ints(axes.ok_or(Miss("over all axes"))?)?;
    let axes: Vec<i64> = axes.iter().map(|&axis| if axis < 0 { axis + rank } else { axis }).collect();
    require!(!axes.is_empty() && axes.iter().all(|axis| [0, 2, 3].contains(axis)), "over channels");
    let result = at.fixed_shape(at.result())?;
    let mut draft = at.rewrite();
    let axes = draft.constant("axes", Tensor::from_ints(&axes));
    let y = reduce(&mut draft, blocks, axes);
    if keepdims != 0 {
        return draft.replace_root(FromBlocks { x: y, channels, rank });
    }
    let plain = draft.add(FromBlocks { x: y, channels, rank });
    let shape: Vec<i64> = result.iter().map(|&n| n as i64).collect();
    let shape = draft.constant("shape", Tensor::from_ints(&shape));
    draft.replace_root(Reshape { x: plain, shape, allowzero: 0 })
}

fn mean(at: &Site, ReduceMean { x, axes, keepdims, .. }: ReduceMean) -> Match<Rewrite> {
    reduced(at, x, axes, keepdims, |draft, x, axes| {
        draft.add(ReduceMean { x, axes: Some(axes), keepdims: 1, noop_with_empty_axes: 0 })
    })
}

fn sum(at: &Site, ReduceSum { x, axes, keepdims, .. }: ReduceSum) -> Match<Rewrite> {
    reduced(at, x, axes, keepdims, |draft, x, axes| {
        draft.add(ReduceSum { x, axes: Some(axes), keepdims: 1, noop_with_empty_axes: 0 })
    })
}

fn global_average(at: &Site, GlobalAveragePool { x }: GlobalAveragePool) -> Match<Rewrite> {
    let FromBlocks { x: blocks, channels, rank } = at.producer(x)?;
    let mut draft = at.rewrite();
    let axes = draft.constant("axes", Tensor::from_ints(&[2, 3]));
    let y = draft.add(ReduceMean { x: blocks, axes: Some(axes), keepdims: 1, noop_with_empty_axes: 0 });
    draft.replace_root(FromBlocks { x: y, channels, rank })
}
