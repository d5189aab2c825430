//! Convolutions of floats, forward and backward, for training.
//!
//! Images are in blocks of 16 channels, `[batch][channels / 16][height][width][16]`, filled up with zeros: a pixel step is 64
//! bytes everywhere, so a tile reads its pixels from one place, without a table and without im2col. Every image is copied
//! into a frame of zeros first, so that each tap is one offset and borders need no code of their own; the copy of the
//! output's gradient also masks it and sums the gradient of the bias. Bias, residual and clamp belong to the forward tile,
//! so no pass over the image is left beside the convolution.
//!
//! The source is one for all instruction sets, over a [`Vector`](vector::Vector) of 16 floats. Sums have a fixed order on
//! each of them. Dense convolutions and depthwise ones are here, with any kernel, stride, dilation and padding; other
//! groups are not.

// Loops over registers are counted: an iterator may stay a call.
#![allow(clippy::needless_range_loop)]

mod backward;
mod forward;
mod frame;
pub(super) mod isa;
mod packing;
mod phases;
pub(super) mod tile;
pub(super) mod vector;
mod weight_gradient;

use super::geometry::{Images, Window};

pub use isa::FloatIsa;
pub use packing::{from_blocks, to_blocks};

/// Channels of a block.
pub const BLOCK: usize = 16;

/// A convolution over images in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockedConvolution {
    window: Window,
    in_channels: usize,
    out_channels: usize,
    is_depthwise: bool,
    isa: FloatIsa,
}

/// What is added to the sums of a convolution, and the clamp behind.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// One for each output channel, filled up to whole blocks.
    pub bias: Option<&'a [f32]>,
    /// As long as the output.
    pub residual: Option<&'a [f32]>,
    pub clamp: [f32; 2],
}

/// What the backward pass of clamp(conv(x) + bias + residual) reads.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    pub x: &'a [f32],
    /// The output of the forward pass; only with a clamp.
    pub y: &'a [f32],
    pub clamp: [f32; 2],
    /// The gradient of the output.
    pub dy: &'a [f32],
    /// Of [`BlockedConvolution::pack_backward`].
    pub weights: &'a [f32],
}

/// What the backward pass writes.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of the input, if it is asked for.
    pub x: Option<&'a mut [f32]>,
    /// Whether the gradient of the input is added to what is there.
    pub adds_x: bool,
    /// Of the weights, in the order of [`BlockedConvolution::weight_gradient`]; it is added to what is there.
    pub weights: &'a mut [f32],
    /// Of the bias, in whole blocks; it is added to what is there.
    pub bias: &'a mut [f32],
    /// Of the residual, if it is asked for.
    pub residual: Option<&'a mut [f32]>,
}

/// No clamp.
pub const OPEN: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

impl BlockedConvolution {
    /// None for groups that are neither one nor as many as there are channels.
    pub fn new(
        isa: FloatIsa,
        window: Window,
        groups: usize,
        in_channels: usize,
        out_channels: usize,
    ) -> Option<BlockedConvolution> {
        let is_depthwise = groups > 1 && groups == in_channels && groups == out_channels;
        let is_sound = window.taps() > 0 && window.strides.iter().chain(&window.dilations).all(|&n| n > 0);
        let is_known = (groups == 1 || is_depthwise) && in_channels > 0 && out_channels > 0 && is_sound;
        is_known.then_some(BlockedConvolution { window, in_channels, out_channels, is_depthwise, isa })
    }

    /// The sizes of the result.
    pub fn output(&self, images: &Images) -> Images {
        let size = self.window.output_size(images.size);
        Images { batch: images.batch, size, channels: self.out_channels }
    }

    fn in_blocks(&self) -> usize {
        self.in_channels.div_ceil(BLOCK)
    }

    fn out_blocks(&self) -> usize {
        self.out_channels.div_ceil(BLOCK)
    }

    /// Blocks of the input that each output channel reads.
    fn depth_blocks(&self) -> usize {
        if self.is_depthwise { 1 } else { self.in_blocks() }
    }
}

/// Elements of images in blocks.
pub fn blocked_length(images: &Images) -> usize {
    images.batch * images.channels.div_ceil(BLOCK) * images.size[0] * images.size[1] * BLOCK
}

/// Channels of a block that are there; the last may have fewer.
fn channels_of_block(channels: usize, block: usize) -> usize {
    BLOCK.min(channels - block * BLOCK)
}
