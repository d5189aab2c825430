//! clamp(conv(x) + bias + residual).

use std::cell::Cell;

use super::frame::Frame;
use super::isa::dispatch;
use super::tile::{self, Job};
use super::vector::Vector;
use super::{BLOCK, BlockedConvolution, Finish, FloatIsa, OPEN, blocked_length};
use crate::kernels::aligned::Aligned;
use crate::kernels::geometry::Images;

/// Buffers that outlive a call.
#[derive(Default)]
pub(super) struct Scratch {
    /// An image of the input, and one of the output's gradient, in their frames.
    pub(super) x: Aligned<f32>,
    pub(super) dy: Aligned<f32>,
    pub(super) taps: Vec<usize>,
    pub(super) tiles: Vec<(usize, usize)>,
}

thread_local!(pub(super) static SCRATCH: Cell<Scratch> = Cell::default());

impl BlockedConvolution {
    /// Writes the output; `weights` are of [`pack_forward`](Self::pack_forward).
    pub fn forward(&self, images: &Images, x: &[f32], weights: &[f32], finish: &Finish, y: &mut [f32]) {
        let output = self.output(images);
        assert_eq!(images.channels, self.in_channels, "channels of the input");
        assert_eq!(x.len(), blocked_length(images), "elements of the input");
        assert_eq!(y.len(), blocked_length(&output), "elements of the output");
        assert!(finish.bias.is_none_or(|bias| bias.len() == self.out_blocks() * BLOCK), "a bias for each channel");
        assert!(finish.residual.is_none_or(|residual| residual.len() == y.len()), "elements of the residual");
        let inputs = if self.is_depthwise { 1 } else { self.in_channels };
        assert_eq!(weights.len(), self.out_blocks() * BLOCK * inputs * self.window.taps(), "weights, packed");
        if y.is_empty() {
            return;
        }
        let mut scratch = SCRATCH.take();
        let (convolution, scratch_of_call) = (self, &mut scratch);
        dispatch!(self.isa, run, (
            convolution: &BlockedConvolution, images: &Images, x: &[f32], weights: &[f32], finish: &Finish, y: &mut [f32],
            scratch_of_call: &mut Scratch,
        ));
        SCRATCH.set(scratch);
    }

    /// The input in its frame.
    pub(super) fn frame(&self, images: &Images) -> Frame {
        Frame { size: images.size, margins: self.window.pads }
    }

    /// Whether each output is made of the input at its own place, so that an image is one long row.
    pub(super) fn is_pointwise(&self) -> bool {
        self.window.kernel == [1, 1] && self.window.strides == [1, 1] && self.window.pads == [0; 4]
    }

    /// Offsets of the taps in a frame.
    pub(super) fn taps(&self, frame: &Frame, taps: &mut Vec<usize>) {
        let [height, width] = self.window.kernel;
        let [down, right] = [self.window.dilations[0] * frame.row(), self.window.dilations[1] * BLOCK];
        taps.clear();
        taps.extend((0..height * width).map(|tap| tap / width * down + tap % width * right));
    }
}

/// # Safety
///
/// The CPU has the instruction set, and lengths fit.
#[inline(always)]
unsafe fn run<V: Vector>(
    convolution: &BlockedConvolution,
    images: &Images,
    x: &[f32],
    weights: &[f32],
    finish: &Finish,
    y: &mut [f32],
    scratch: &mut Scratch,
) {
    let output = convolution.output(images);
    let frame = convolution.frame(images);
    let in_blocks = convolution.in_blocks();
    let [height, width] = output.size;
    if !frame.is_bare() {
        frame.prepare(in_blocks, &mut scratch.x);
    }
    convolution.taps(&frame, &mut scratch.taps);
    let pointwise = convolution.is_pointwise();
    let (rows, columns) = if pointwise { (1, height * width) } else { (height, width) };
    // A tile of two blocks has half the pixels.
    let together = if convolution.is_depthwise { 1 } else { V::BLOCKS.min(convolution.out_blocks()) };
    tile::tiles::<V>(columns, together, &mut scratch.tiles);
    let (in_image, out_image) = (x.len() / images.batch, y.len() / images.batch);
    for image in 0..images.batch {
        // SAFETY: lengths fit; windows lie in the frame.
        unsafe {
            let x = x.as_ptr().add(image * in_image);
            let y = y.as_mut_ptr().add(image * out_image);
            let residual = finish.residual.map_or(std::ptr::null(), |all| all.as_ptr().add(image * out_image));
            let x = if frame.is_bare() {
                x
            } else {
                frame.copy::<V>(x, in_blocks, &mut scratch.x);
                scratch.x.as_ptr()
            };
            let job = Job {
                taps: &scratch.taps,
                tiles: &scratch.tiles,
                in_channels: convolution.in_channels,
                in_block: frame.block(),
                in_row: frame.row() * convolution.window.strides[0],
                in_pixel: BLOCK * convolution.window.strides[1],
                rows,
                out_blocks: convolution.out_blocks(),
                out_block: height * width * BLOCK,
                out_row: width * BLOCK,
                out_pixel: BLOCK,
                bias: finish.bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
                residual,
                clamp: Some(finish.clamp).filter(|&clamp| clamp != OPEN),
            };
            match convolution.is_depthwise {
                true => tile::depthwise::<V>(&job, x, weights.as_ptr(), y),
                false => tile::dense::<V>(&job, x, weights.as_ptr(), y),
            }
        }
    }
}
