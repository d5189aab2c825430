//! Pools.

use super::arithmetic::equal;
use super::convolution::input_gradient;
use super::operators::GlobalMaxPool;
use super::reduction;
use super::tape::Tape;
use super::window::{Attributes, Window, image};
use super::{Gradients, Refusal, Site};
use crate::ir::Tensor;
use crate::ir::op::{AveragePool, GlobalAveragePool, MaxPool};

/// dy / n, repeated
pub(super) fn global_average(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, GlobalAveragePool { x }) = (site.dy()?, site.view(tape)?);
    let shape = tape.shape(x);
    let pixels: usize = shape[2..].iter().product();
    let part = tape.scale(dy, 1.0 / pixels as f64);
    Ok(vec![Some(tape.expand(part, &shape))])
}

/// dy where x is the greatest; of several, in equal parts
pub(super) fn global_max(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let GlobalMaxPool { x } = site.view(tape)?;
    let axes: Vec<usize> = (2..tape.shape(x).len()).collect();
    reduction::extreme(tape, site, x, &axes)
}

/// dy / n at each element that the kernel saw: the input gradient of a convolution with ones
pub(super) fn average(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, pool): (_, AveragePool) = (site.dy()?, site.view(tape)?);
    let (shape, result) = (tape.shape(pool.x), tape.shape(dy));
    let attributes =
        Attributes { auto_pad: &pool.auto_pad, pads: &pool.pads, strides: &pool.strides, dilations: &pool.dilations };
    let kernel: Vec<usize> = pool.kernel_shape.iter().map(|&n| n as usize).collect();
    let window = Window::of(attributes, &kernel, &shape[2..], &result[2..])?;
    let counts = counts(&window, pool.count_include_pad != 0);
    let shares = ndarray::ArrayD::from_shape_vec(result[2..].to_vec(), counts.iter().map(|n| 1.0 / n).collect());
    let shares =
        Tensor::from_reals(&shares.expect("one for each place"), tape.dtype(dy)).ok_or(Refusal("of its type"))?;
    let shares = tape.constant(shares);
    let part = tape.mul(dy, shares);
    let ones = tape.filled(1.0, &image(shape[1], 1, &kernel), dy);
    Ok(vec![Some(input_gradient(tape, part, ones, &window, shape[1]))])
}

/// How many elements the kernel counts at each place of the output, row by row.
fn counts(window: &Window, with_padding: bool) -> Vec<f64> {
    let mut counts = vec![1.0];
    for i in 0..window.kernel.len() {
        let (first, last) = match with_padding {
            true => (0, window.before[i] + window.input[i] + window.declared_after[i]),
            false => (window.before[i], window.before[i] + window.input[i]),
        };
        let at = |place: usize| {
            let taps = (0..window.kernel[i]).map(|tap| place * window.strides[i] + tap * window.dilations[i]);
            taps.filter(|tap| (first..last).contains(tap)).count().max(1) as f64
        };
        counts = counts.iter().flat_map(|&n| (0..window.output[i]).map(move |place| n * at(place))).collect();
    }
    counts
}

/// dy at the first element of each place that is the greatest
pub(super) fn max(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, y, pool): (_, _, MaxPool) = (site.dy()?, site.y(), site.view(tape)?);
    let (shape, result) = (tape.shape(pool.x), tape.shape(dy));
    let attributes =
        Attributes { auto_pad: &pool.auto_pad, pads: &pool.pads, strides: &pool.strides, dilations: &pool.dilations };
    let kernel: Vec<usize> = pool.kernel_shape.iter().map(|&n| n as usize).collect();
    let window = Window::of(attributes, &kernel, &shape[2..], &result[2..])?;
    let (before, after) = (image(0, 0, &window.before), image(0, 0, &window.after));
    let lowest = tape.scalar(-3e38, pool.x);
    let padded = tape.pad_with(pool.x, &before, &after, Some(lowest));
    let (all, steps) = (tape.shape(padded), image(1, 1, &window.strides));
    // What of dy has not found its element yet.
    let (mut left, mut sum) = (dy, None);
    for tap in window.taps() {
        let start = image(0, 0, &tap);
        let seen = tape.slice(padded, &start, &result, &steps);
        let hit = equal(tape, seen, y);
        let part = tape.mul(left, hit);
        left = tape.sub(left, part);
        let part = tape.unslice(part, &start, &steps, &all);
        sum = Some(sum.map_or(part, |sum| tape.add(sum, part)));
    }
    let sum = sum.ok_or(Refusal("its kernel is empty"))?;
    Ok(vec![Some(tape.slice(sum, &before, &shape, &vec![1; shape.len()]))])
}
