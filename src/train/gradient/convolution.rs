//! Convolutions.
//!
//! y[n, o, p] = Σ x[n, c, p·stride + k·dilation - before]·w[o, c, k]. The gradient by x is a convolution of dy, spread out
//! by the strides, with the kernel turned round; the gradient by w the product of dy with what each tap of the kernel saw.

use super::tape::Tape;
use super::window::{Attributes, Window, image};
use super::{Gradients, Refusal, Site};
use crate::ir::ValueId;
use crate::ir::op::{Conv, ConvTranspose};

/// Up to so many images at a time, what all taps saw is one matrix; of more it would not stay in the cache.
const IMAGES_IN_ONE_MATRIX: usize = 4;

pub(super) fn conv(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, conv): (_, Conv) = (site.dy()?, site.view(tape)?);
    let (shape, weights, result) = (tape.shape(conv.x), tape.shape(conv.w), tape.shape(dy));
    let attributes =
        Attributes { auto_pad: &conv.auto_pad, pads: &conv.pads, strides: &conv.strides, dilations: &conv.dilations };
    let window = Window::of(attributes, &weights[2..], &shape[2..], &result[2..])?;
    let group = conv.group as usize;
    let dx = site.wants(0).then(|| input_gradient(tape, dy, conv.w, &window, group));
    let dw = site.wants(1).then(|| weight_gradient(tape, conv.x, dy, &window, group));
    let db = site.wants(2).then(|| bias_gradient(tape, dy));
    Ok(vec![dx, dw, db])
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

/// dx = the convolution of dy, with zeros between its elements, and the kernel backwards, its channels exchanged.
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
    let turned = turned(tape, w, group);
    let steps = image(1, 1, &window.strides);
    let spread = tape.spread(dy, &steps);
    // Before dy lie as many zeros as the kernel reaches beyond its first element without padding; after it as many as are
    // missing. Where padding is wider than the kernel, dy is cut instead.
    let rank = window.kernel.len();
    let (mut pads, mut start, mut count) = (vec![0i64; 2 * rank], vec![0; rank + 2], tape.shape(spread));
    for i in 0..rank {
        let reach = (window.dilations[i] * (window.kernel[i] - 1)) as i64;
        let before = reach - window.before[i] as i64;
        let after = window.input[i] as i64 + window.before[i] as i64 - count[i + 2] as i64;
        (pads[i], pads[i + rank]) = (before.max(0), after.max(0));
        start[i + 2] = (-before).max(0) as usize;
        count[i + 2] -= start[i + 2] + (-after).max(0) as usize;
    }
    let spread = tape.slice(spread, &start, &count, &vec![1; rank + 2]);
    let conv = node(spread, turned, &window.kernel, &pads, &vec![1; rank], &window.dilations, group);
    let dtype = tape.dtype(dy);
    tape.write(conv, dtype, shape)
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
