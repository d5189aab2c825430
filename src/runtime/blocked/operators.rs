//! The operators of images in blocks of channels.
//!
//! Images in blocks are `[batch][channels / 16][height][width][16]`, filled up; what lies in the lanes behind the last
//! channel is any. Weights, bias and their gradients are as ONNX has them. Strides and dilations are [vertical,
//! horizontal], pads [top, left, bottom, right].

use crate::ir::ValueId;
use crate::ir::op::ops;

ops! {
    domain "onnxshrink", prefix "Onnxshrink";

    /// [batch, channels, height, width], or without height, in blocks.
    ToBlocks [1, 1] (x: ValueId) {}
    /// Blocks as an image of `rank` axes: the inverse of [`ToBlocks`].
    FromBlocks [1, 1] (x: ValueId) {
        channels: i64 = crate::ir::REQUIRED,
        rank: i64 = 4,
    }
    /// clamp(conv(x, w) + bias + residual), of so many `channels` of `x`.
    BlockedConv [1, 1] (x: ValueId, w: ValueId, bias: Option<ValueId>, residual: Option<ValueId>) {
        channels: i64 = crate::ir::REQUIRED,
        group: i64 = 1,
        strides: Vec<i64> = vec![1, 1],
        dilations: Vec<i64> = vec![1, 1],
        pads: Vec<i64> = vec![0; 4],
        low: f32 = f32::NEG_INFINITY,
        high: f32 = f32::INFINITY,
    }
    /// The gradients of [`BlockedConv`] by x, w, bias and residual; those that are not among `gives` are empty. `dy` is the
    /// gradient of its result `y`, which is read where there is a clamp. `sum` is added to the gradient by x.
    BlockedConvGradient [1, 1] (x: ValueId, w: ValueId, dy: ValueId, y: Option<ValueId>, sum: Option<ValueId>) {
        channels: i64 = crate::ir::REQUIRED,
        group: i64 = 1,
        strides: Vec<i64> = vec![1, 1],
        dilations: Vec<i64> = vec![1, 1],
        pads: Vec<i64> = vec![0; 4],
        low: f32 = f32::NEG_INFINITY,
        high: f32 = f32::INFINITY,
        gives: Vec<i64> = vec![0, 1, 2],
    }
}

/// Results of [`BlockedConvGradient`].
pub const GRADIENTS: usize = 4;
