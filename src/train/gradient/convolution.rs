//! Convolutions.
//!
//! y[n, o, p] = Σ x[n, c, p·stride + k·dilation - before]·w[o, c, k]. The gradient by x is a convolution of dy with the
//! kernel turned round, one for each remainder of a place by the stride; the gradient by w the product of dy with what each tap of the kernel saw.

use super::tape::Tape;
use super::window::{Attributes, Window, image};
use super::{Gradients, Refusal, Site};
use crate::ir::op::{Conv, ConvTranspose};
use crate::ir::{DType, ValueId};
use crate::kernels::blocked::{BLOCK, BlockedConvolution, FloatIsa};
use crate::runtime::blocked::operators::{BlockedConvGradient, FromBlocks, ToBlocks};

/// Up to so many images at a time, what all taps saw is one matrix; of more it would not stay in the cache.
const IMAGES_IN_ONE_MATRIX: usize = 4;

pub(super) fn conv(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, conv): (_, Conv) = (site.dy()?, site.view(tape)?);
    let (shape, weights, result) = (tape.shape(conv.x), tape.shape(conv.w), tape.shape(dy));
    let attributes =
        Attributes { auto_pad: &conv.auto_pad, pads: &conv.pads, strides: &conv.strides, dilations: &conv.dilations };
    let window = Window::of(attributes, &weights[2..], &shape[2..], &result[2..])?;
    let group = conv.group as usize;
    if let Some(gradients) = in_blocks(tape, site, &conv, dy, &window) {
        return Ok(gradients);
    }
    let dx = site.wants(0).then(|| input_gradient(tape, dy, conv.w, &window, group));
    let dw = site.wants(1).then(|| weight_gradient(tape, conv.x, dy, &window, group));
    let db = site.wants(2).then(|| bias_gradient(tape, dy));
    Ok(vec![dx, dw, db])
}

/// All gradients in one operator of ours, where it knows the convolution.
fn in_blocks(tape: &mut Tape, site: &Site, conv: &Conv, dy: ValueId, window: &Window) -> Option<Gradients> {
    let (shape, weights, result, dtype) = (tape.shape(conv.x), tape.shape(conv.w), tape.shape(dy), tape.dtype(dy));
    if !tape.has_ours || dtype != DType::F32 {
        return None;
    }
    let images = window.two_axes()?;
    let groups = conv.group as usize;
    BlockedConvolution::new(FloatIsa::best(), images, groups, shape[1], weights[0])?;
    let kept = |shape: &[usize]| {
        let space = if shape.len() == 3 { [1, shape[2]] } else { [shape[2], shape[3]] };
        vec![shape[0], shape[1].div_ceil(BLOCK), space[0], space[1], BLOCK]
    };
    let (x_shape, dy_shape) = (kept(&shape), kept(&result));
    let x = tape.write(ToBlocks { x: conv.x }, dtype, x_shape.clone());
    let dy = tape.write(ToBlocks { x: dy }, dtype, dy_shape);
    let ints = |sizes: &[usize]| sizes.iter().map(|&n| n as i64).collect::<Vec<_>>();
    let gradient = BlockedConvGradient {
        x,
        w: conv.w,
        dy,
        y: None,
        sum: None,
        channels: shape[1] as i64,
        group: conv.group,
        strides: ints(&images.strides),
        dilations: ints(&images.dilations),
        pads: ints(&images.pads),
        low: f32::NEG_INFINITY,
        high: f32::INFINITY,
        gives: (0..3).filter(|&index| site.wants(index)).map(|index| index as i64).collect(),
    };
    let wanted = |index: usize, shape: Vec<usize>| if site.wants(index) { shape } else { vec![0] };
    let shapes = [wanted(0, x_shape), wanted(1, weights.clone()), wanted(2, vec![weights[0]]), vec![0]];
    let results = tape.write_many(gradient, dtype, &shapes);
    let dx = site.wants(0).then(|| {
        tape.write(FromBlocks { x: results[0], channels: shape[1] as i64, rank: shape.len() as i64 }, dtype, shape)
    });
    Some(vec![dx, site.wants(1).then_some(results[1]), site.wants(2).then_some(results[2])])
}

/// The gradients of the convolution from y to x: by its input for x's gradient, its roles exchanged for w's.
pub(super) fn conv_transpose(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, conv): (_, ConvTranspose) = (site.dy()?, site.view(tape)?);
    if conv.auto_pad.starts_with("SAME") || !conv.output_shape.is_empty() {
        return Err(Refusal("its padding follows from the shape of its result"));
    }
    let (shape, weights, result) = (tape.shape(conv.x), tape.shape(conv.w), tape.shape(dy));
    let attributes =
        Attributes { auto_pad: &conv.auto_pad, pads: &conv.pads, strides: &conv.strides, dilations: &conv.dilations };
    let window = Window::of(attributes, &weights[2..], &result[2..], &shape[2..])?;
    let group = conv.group as usize;
    let dx = site.wants(0).then(|| {
        let pads: Vec<i64> = window.before.iter().chain(&window.after).map(|&n| n as i64).collect();
        let forward = node(dy, conv.w, &window.kernel, &pads, &window.strides, &window.dilations, group);
        let dtype = tape.dtype(dy);
        tape.write(forward, dtype, shape)
    });
    let dw = site.wants(1).then(|| weight_gradient(tape, dy, conv.x, &window, group));
    let db = site.wants(2).then(|| bias_gradient(tape, dy));
    Ok(vec![dx, dw, db])
}

/// Σ dy over batch and space. The sum over space goes first: it is over elements that lie together.
fn bias_gradient(tape: &mut Tape, dy: ValueId) -> ValueId {
    let shape = tape.shape(dy);
    let rows = tape.reshape(dy, &[shape[0], shape[1], shape[2..].iter().product()]);
    let over_space = tape.sum(rows, &[2], false);
    tape.sum(over_space, &[0], false)
}

/// dx = for each remainder of a place by the stride, the convolution of dy and the taps that this place sees, backwards.
pub(super) fn input_gradient(tape: &mut Tape, dy: ValueId, w: ValueId, window: &Window, group: usize) -> ValueId {
    let (weights, result) = (tape.shape(w), tape.shape(dy));
    let (batch, outputs, inputs) = (result[0], weights[0], weights[1] * group);
    let shape = image(batch, inputs, &window.input);
    if window.is_pointwise() && group == 1 {
        let pixels = result[2..].iter().product();
        let matrix = tape.reshape(w, &[outputs, inputs]);
        let dx = match batch {
            1 => {
                let dy = tape.reshape(dy, &[outputs, pixels]);
                tape.einsum("oc,op->cp", &[matrix, dy])
            }
            _ => {
                let dy = tape.reshape(dy, &[batch, outputs, pixels]);
                tape.einsum("oc,nop->ncp", &[matrix, dy])
            }
        };
        return tape.reshape(dx, &shape);
    }
    let axes: Vec<Vec<Phase>> = (0..window.kernel.len()).map(|axis| phases(window, axis)).collect();
    let dx = by_phases(tape, dy, w, &axes, &shape, group);
    tape.reshape(dx, &shape)
}

/// The places i of one axis of x with one remainder of i + before by the stride. They see every so many-th tap of the
/// kernel only, so that no zeros between elements of dy are needed: dx[first + stride·q] = Σ w[k]·dy[q + offset(k)].
struct Phase {
    /// How many places there are.
    count: usize,
    /// The first tap, how many there are, and their distance.
    tap: usize,
    taps: usize,
    tap_step: usize,
    /// The distance of what neighbouring taps read of dy, and zeros in front of dy and behind it; negative where less of it
    /// is read.
    dilation: usize,
    before: i64,
    after: i64,
}

/// The phases along one axis, in the order of their first places; one where the stride is 1.
fn phases(window: &Window, axis: usize) -> Vec<Phase> {
    let (stride, dilation) = (window.strides[axis], window.dilations[axis]);
    let (kernel, input, output) = (window.kernel[axis], window.input[axis], window.output[axis] as i64);
    let phase = |first: usize| {
        let place = first + window.before[axis];
        let fits = |tap: &usize| (tap * dilation) % stride == place % stride;
        let seen: Vec<usize> = (0..kernel).filter(fits).collect();
        let count = (input - first).div_ceil(stride);
        let offset = |tap: usize| (place as i64 - (tap * dilation) as i64) / stride as i64;
        let (tap, last) = (seen.first().copied().unwrap_or(0), seen.last().copied().unwrap_or(0));
        let tap_step = seen.get(1).map_or(1, |second| second - tap);
        Phase {
            count,
            tap,
            taps: seen.len(),
            tap_step,
            dilation: (tap_step * dilation / stride).max(1),
            before: -offset(last),
            after: offset(tap) + count as i64 - output,
        }
    };
    (0..stride.min(input)).map(phase).collect()
}

/// dx of all phases, put together axis by axis.
fn by_phases(tape: &mut Tape, dy: ValueId, w: ValueId, axes: &[Vec<Phase>], shape: &[usize], group: usize) -> ValueId {
    // Every choice of a phase for each axis, the last axis fastest.
    let mut choices: Vec<Vec<&Phase>> = vec![vec![]];
    for phases in axes {
        choices = choices.iter().flat_map(|chosen| phases.iter().map(|p| [&chosen[..], &[p]].concat())).collect();
    }
    let mut parts: Vec<ValueId> = choices.iter().map(|chosen| one_phase(tape, dy, w, chosen, shape, group)).collect();
    for (axis, phases) in axes.iter().enumerate().rev() {
        parts = parts.chunks(phases.len()).map(|parts| interleave(tape, parts, axis + 2, shape[axis + 2])).collect();
    }
    parts[0]
}

/// dx at the places of one phase of each axis: a convolution of dy with the taps that these see, backwards.
fn one_phase(tape: &mut Tape, dy: ValueId, w: ValueId, chosen: &[&Phase], shape: &[usize], group: usize) -> ValueId {
    let (rank, dtype, weights) = (chosen.len(), tape.dtype(dy), tape.shape(w));
    let space: Vec<usize> = chosen.iter().map(|phase| phase.count).collect();
    let result = image(shape[0], shape[1], &space);
    if chosen.iter().any(|phase| phase.taps == 0) {
        return tape.filled(0.0, &result, dy);
    }
    let of = |value: fn(&Phase) -> usize| chosen.iter().map(|phase| value(phase)).collect::<Vec<usize>>();
    let taps = of(|phase| phase.taps);
    let seen = tape.slice(
        w,
        &image(0, 0, &of(|phase| phase.tap)),
        &image(weights[0], weights[1], &taps),
        &image(1, 1, &of(|phase| phase.tap_step)),
    );
    let kernel = turned(tape, seen, group);
    let (mut pads, mut start, mut count) = (vec![0i64; 2 * rank], vec![0; rank + 2], tape.shape(dy));
    for (i, phase) in chosen.iter().enumerate() {
        (pads[i], pads[i + rank]) = (phase.before.max(0), phase.after.max(0));
        start[i + 2] = (-phase.before).max(0) as usize;
        count[i + 2] = count[i + 2].saturating_sub(start[i + 2] + (-phase.after).max(0) as usize);
    }
    if count.contains(&0) {
        return tape.filled(0.0, &result, dy);
    }
    let dy = tape.slice(dy, &start, &count, &vec![1; rank + 2]);
    let conv = node(dy, kernel, &taps, &pads, &vec![1; rank], &of(|phase| phase.dilation), group);
    tape.write(conv, dtype, result)
}

/// Parts that hold every so many-th element of an axis of this length, each beginning one later than the one before.
fn interleave(tape: &mut Tape, parts: &[ValueId], axis: usize, length: usize) -> ValueId {
    if let [only] = parts {
        return *only;
    }
    let mut shape = tape.shape(parts[0]);
    let longest = shape[axis];
    shape.insert(axis + 1, 1);
    let columns = parts.iter().map(|&part| {
        let mut after = vec![0; shape.len() - 1];
        after[axis] = longest - tape.shape(part)[axis];
        let whole = tape.pad(part, &vec![0; after.len()], &after);
        tape.reshape(whole, &shape)
    });
    let columns: Vec<ValueId> = columns.collect();
    let together = tape.concat(columns, axis + 1);
    shape.remove(axis + 1);
    shape[axis] = longest * parts.len();
    let row = tape.reshape(together, &shape);
    tape.slice_axis(row, axis, 0, length)
}

/// The kernel backwards along each axis of space, inputs and outputs of each group exchanged.
fn turned(tape: &mut Tape, w: ValueId, group: usize) -> ValueId {
    let shape = tape.shape(w);
    let (outputs, inputs, taps) = (shape[0] / group, shape[1], shape[2..].iter().product());
    let rows = tape.reshape(w, &[group, outputs, inputs, taps]);
    let backwards = tape.reverse(rows, 3);
    let exchanged = if outputs == 1 || inputs == 1 { backwards } else { tape.transpose(backwards, &[0, 2, 1, 3]) };
    tape.reshape(exchanged, &image(group * inputs, outputs, &shape[2..]))
}

/// dw[o, c, k] = Σ dy[n, o, p]·x[n, c, p·stride + k·dilation - before]
pub(super) fn weight_gradient(tape: &mut Tape, x: ValueId, dy: ValueId, window: &Window, group: usize) -> ValueId {
    let (shape, result) = (tape.shape(x), tape.shape(dy));
    let (batch, inputs, outputs) = (shape[0], shape[1] / group, result[1] / group);
    let pixels: usize = result[2..].iter().product();
    let weights = image(group * outputs, inputs, &window.kernel);
    if inputs == 1 && outputs == 1 && window.kernel.len() <= 2 {
        return depthwise_weight_gradient(tape, x, dy, window);
    }
    let seen: Vec<ValueId> = match window.is_pointwise() {
        true => vec![x],
        false => taps_seen(tape, x, window),
    };
    let taps = seen.len();
    if group > 1 {
        let dy = tape.reshape(dy, &[batch, group, outputs, pixels]);
        let rows = seen.into_iter().map(|x| tape.reshape(x, &[batch, 1, group, inputs, pixels])).collect();
        let seen = tape.concat(rows, 1);
        let products = tape.einsum("ngop,nkgcp->gock", &[dy, seen]);
        return tape.reshape(products, &weights);
    }
    if batch > IMAGES_IN_ONE_MATRIX || taps == 1 {
        let dy = tape.reshape(dy, &[batch, outputs, pixels]);
        let mut products = Vec::new();
        for x in seen {
            let x = tape.reshape(x, &[batch, inputs, pixels]);
            let product = tape.einsum("nop,ncp->oc", &[dy, x]);
            products.push(tape.reshape(product, &[outputs, inputs, 1]));
        }
        let products = tape.concat(products, 2);
        return tape.reshape(products, &weights);
    }
    let rows = seen.into_iter().map(|x| tape.reshape(x, &[batch, inputs, pixels])).collect();
    let matrix = tape.concat(rows, 1);
    let products = match batch {
        1 => {
            let (dy, matrix) = (tape.reshape(dy, &[outputs, pixels]), tape.reshape(matrix, &[taps * inputs, pixels]));
            tape.einsum("op,kp->ok", &[dy, matrix])
        }
        _ => {
            let dy = tape.reshape(dy, &[batch, outputs, pixels]);
            tape.einsum("nop,nkp->ok", &[dy, matrix])
        }
    };
    let products = tape.reshape(products, &[outputs, taps, inputs]);
    let products = tape.transpose(products, &[0, 2, 1]);
    tape.reshape(products, &weights)
}

/// What each tap of the kernel reads, for all places of the output.
pub(super) fn taps_seen(tape: &mut Tape, x: ValueId, window: &Window) -> Vec<ValueId> {
    let shape = tape.shape(x);
    let padded = tape.pad(x, &image(0, 0, &window.before), &image(0, 0, &window.after));
    let count = image(shape[0], shape[1], &window.output);
    let steps = image(1, 1, &window.strides);
    window.taps().iter().map(|tap| tape.slice(padded, &image(0, 0, tap), &count, &steps)).collect()
}

/// One convolution with a group for each channel of each image, whose kernel is dy: strides and dilations change places.
fn depthwise_weight_gradient(tape: &mut Tape, x: ValueId, dy: ValueId, window: &Window) -> ValueId {
    let (shape, dtype) = (tape.shape(x), tape.dtype(x));
    let (batch, channels, rank) = (shape[0], shape[1], window.kernel.len());
    let (mut pads, mut count) = (vec![0i64; 2 * rank], image(1, batch * channels, &window.input));
    for i in 0..rank {
        let reach = window.dilations[i] * (window.kernel[i] - 1) + window.strides[i] * (window.output[i] - 1) + 1;
        let after = reach as i64 - (window.input[i] + window.before[i]) as i64;
        (pads[i], pads[i + rank]) = (window.before[i] as i64, after.max(0));
        count[i + 2] -= (-after).max(0) as usize;
    }
    let images = tape.reshape(x, &image(1, batch * channels, &window.input));
    let images = tape.slice(images, &vec![0; rank + 2], &count, &vec![1; rank + 2]);
    let kernels = tape.reshape(dy, &image(batch * channels, 1, &window.output));
    let conv = node(images, kernels, &window.output, &pads, &window.dilations, &window.strides, batch * channels);
    let products = tape.write(conv, dtype, image(1, batch * channels, &window.kernel));
    let products = tape.reshape(products, &[batch, channels, window.kernel.iter().product()]);
    let sums = tape.sum(products, &[0], false);
    tape.reshape(sums, &image(channels, 1, &window.kernel))
}

fn node(
    x: ValueId,
    w: ValueId,
    kernel: &[usize],
    pads: &[i64],
    strides: &[usize],
    dilations: &[usize],
    group: usize,
) -> Conv {
    let ints = |sizes: &[usize]| sizes.iter().map(|&n| n as i64).collect();
    Conv {
        x,
        w,
        b: None,
        auto_pad: "NOTSET".into(),
        dilations: ints(dilations),
        group: group as i64,
        kernel_shape: ints(kernel),
        pads: pads.to_vec(),
        strides: ints(strides),
    }
}
