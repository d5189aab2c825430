//! The gradients of clamp(conv(x) + bias + residual): of the input, the weights, the bias and the residual.

use super::forward::{SCRATCH, Scratch};
use super::frame::Frame;
use super::isa::dispatch;
use super::phases::{AxisPhase, Phases};
use super::tile::{self, Job};
use super::vector::Vector;
use super::weight_gradient::{self, Pair};
use super::{BLOCK, BlockedConvolution, FloatIsa, Given, Gradients, OPEN, blocked_length};
use crate::kernels::geometry::Images;

impl BlockedConvolution {
    /// Writes, or adds to, the gradients that are asked for.
    pub fn backward(&self, images: &Images, given: &Given, gradients: &mut Gradients) {
        let output = blocked_length(&self.output(images));
        assert_eq!(images.channels, self.in_channels, "channels of the input");
        assert_eq!(given.x.len(), blocked_length(images), "elements of the input");
        assert_eq!(given.dy.len(), output, "elements of the output's gradient");
        assert!(given.clamp == OPEN || given.y.len() == output, "elements of the output");
        assert_eq!(gradients.weights.len(), self.gradient_length(), "elements of the weights' gradient");
        assert_eq!(gradients.bias.len(), self.out_blocks() * BLOCK, "elements of the bias' gradient");
        assert!(
            gradients.residual.as_ref().is_none_or(|residual| residual.len() == output),
            "of the residual's gradient"
        );
        if let Some(x) = &gradients.x {
            assert_eq!(x.len(), given.x.len(), "elements of the input's gradient");
            let outputs = if self.is_depthwise { 1 } else { self.out_channels };
            assert_eq!(given.weights.len(), self.in_blocks() * BLOCK * outputs * self.window.taps(), "weights, packed");
        }
        if given.x.is_empty() {
            return;
        }
        let mut scratch = SCRATCH.take();
        let (convolution, scratch_of_call) = (self, &mut scratch);
        dispatch!(self.isa, run, (
            convolution: &BlockedConvolution, images: &Images, given: &Given, gradients: &mut Gradients,
            scratch_of_call: &mut Scratch,
        ));
        SCRATCH.set(scratch);
    }
}

/// # Safety
///
/// The CPU has the instruction set, and lengths fit.
#[inline(always)]
unsafe fn run<V: Vector>(
    convolution: &BlockedConvolution,
    images: &Images,
    given: &Given,
    gradients: &mut Gradients,
    scratch: &mut Scratch,
) {
    let output = convolution.output(images);
    let phases = [0, 1].map(|axis| Phases::along(&convolution.window, axis, images.size[axis]));
    let masked = Phases::frame(&phases, output.size);
    let frame = convolution.frame(images);
    let out_blocks = convolution.out_blocks();
    masked.prepare(out_blocks, &mut scratch.dy);
    if !frame.is_bare() {
        frame.prepare(convolution.in_blocks(), &mut scratch.x);
    }
    let (in_image, out_image) = (given.x.len() / images.batch, given.dy.len() / images.batch);
    for image in 0..images.batch {
        // SAFETY: lengths fit; windows lie in their frames.
        unsafe {
            mask::<V>(&masked, image * out_image, out_blocks, given, gradients, scratch);
            let x = given.x.as_ptr().add(image * in_image);
            let x = if frame.is_bare() {
                x
            } else {
                frame.copy::<V>(x, convolution.in_blocks(), &mut scratch.x);
                scratch.x.as_ptr()
            };
            sum_weights::<V>(convolution, &frame, &masked, x, gradients, scratch);
            if let Some(to) = gradients.x.as_mut().map(|x| x.as_mut_ptr().add(image * in_image)) {
                input::<V>(convolution, images, &phases, &masked, given, gradients.adds_x, to, scratch);
            }
        }
    }
}

/// The output's gradient, where the clamp let it pass, in its frame; its sum is the gradient of the bias.
#[inline(always)]
unsafe fn mask<V: Vector>(
    frame: &Frame,
    image: usize,
    blocks: usize,
    given: &Given,
    gradients: &mut Gradients,
    scratch: &mut Scratch,
) {
    let [height, width] = frame.size;
    let is_clamped = given.clamp != OPEN;
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (V::splat(&given.clamp[0]), V::splat(&given.clamp[1]));
        let mut at = image;
        for block in 0..blocks {
            let mut sums = [V::zero(); 2];
            for row in 0..height {
                let start = block * frame.block() + frame.origin() + row * frame.row();
                let to = scratch.dy.as_mut_ptr().add(start);
                for column in 0..width {
                    let mut dy = V::load(given.dy.as_ptr().add(at));
                    if is_clamped {
                        dy = dy.where_inside(V::load(given.y.as_ptr().add(at)), low, high);
                    }
                    sums[column % 2] = sums[column % 2].add(dy);
                    dy.store(to.add(column * BLOCK));
                    if let Some(residual) = &mut gradients.residual {
                        dy.store(residual.as_mut_ptr().add(at));
                    }
                    at += BLOCK;
                }
            }
            let bias = gradients.bias.as_mut_ptr().add(block * BLOCK);
            V::load(bias).add(sums[0].add(sums[1])).store(bias);
        }
    }
}

#[inline(always)]
unsafe fn sum_weights<V: Vector>(
    convolution: &BlockedConvolution,
    frame: &Frame,
    masked: &Frame,
    x: *const f32,
    gradients: &mut Gradients,
    scratch: &mut Scratch,
) {
    convolution.taps(frame, &mut scratch.taps);
    let [height, width] = masked.size;
    let is_row = convolution.is_pointwise() && masked.is_bare();
    let (rows, columns) = if is_row { (1, height * width) } else { (height, width) };
    let pair = Pair {
        taps: &scratch.taps,
        in_channels: convolution.in_channels,
        out_blocks: convolution.out_blocks(),
        in_block: frame.block(),
        in_row: frame.row() * convolution.window.strides[0],
        in_pixel: BLOCK * convolution.window.strides[1],
        out_block: masked.block(),
        out_row: masked.row(),
        rows,
        columns,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let dy = scratch.dy.as_ptr().add(masked.origin());
        let sums = gradients.weights.as_mut_ptr();
        match convolution.is_depthwise {
            true => weight_gradient::depthwise::<V>(&pair, x, dy, sums),
            false => weight_gradient::dense::<V>(&pair, x, dy, sums),
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one caller")]
unsafe fn input<V: Vector>(
    convolution: &BlockedConvolution,
    images: &Images,
    phases: &[Vec<AxisPhase>; 2],
    masked: &Frame,
    given: &Given,
    adds: bool,
    to: *mut f32,
    scratch: &mut Scratch,
) {
    let [height, width] = images.size;
    let [down, right] = convolution.window.strides;
    let is_row = convolution.is_pointwise() && masked.is_bare();
    let in_blocks = convolution.in_blocks();
    let together = if convolution.is_depthwise { 1 } else { V::BLOCKS.min(in_blocks) };
    let outputs = if convolution.is_depthwise { 1 } else { convolution.out_channels };
    let mut weights = given.weights.as_ptr();
    for vertical in &phases[0] {
        for horizontal in &phases[1] {
            scratch.taps.clear();
            for &y in &vertical.outputs {
                for &x in &horizontal.outputs {
                    let offset = y * masked.row() as isize + x * BLOCK as isize + masked.origin() as isize;
                    scratch.taps.push(offset.max(0) as usize);
                }
            }
            let length = scratch.taps.len() * outputs * in_blocks * BLOCK;
            let (rows, columns) = match is_row {
                true => (1, height * width),
                false => (vertical.count, horizontal.count),
            };
            tile::tiles::<V>(columns, together, &mut scratch.tiles);
            // SAFETY: the caller's promise; every tap of a phase that has inputs lies in the frame.
            unsafe {
                let to = to.wrapping_add((vertical.first * width + horizontal.first) * BLOCK);
                let job = Job {
                    taps: &scratch.taps,
                    tiles: &scratch.tiles,
                    in_channels: convolution.out_channels,
                    in_block: masked.block(),
                    in_row: masked.row(),
                    in_pixel: BLOCK,
                    rows,
                    out_blocks: in_blocks,
                    out_block: height * width * BLOCK,
                    out_row: width * down * BLOCK,
                    out_pixel: right * BLOCK,
                    bias: std::ptr::null(),
                    residual: if adds { to } else { std::ptr::null() },
                    clamp: None,
                };
                if rows > 0 && columns > 0 {
                    match convolution.is_depthwise {
                        true => tile::depthwise::<V>(&job, scratch.dy.as_ptr(), weights, to),
                        false => tile::dense::<V>(&job, scratch.dy.as_ptr(), weights, to),
                    }
                }
                weights = weights.add(length);
            }
        }
    }
}
