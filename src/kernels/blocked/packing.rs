//! Weights and images in the order in which the kernels read them.
//!
//! Weights of a tile, `[group of output blocks][input block][tap][input channel][16 or 32 outputs]`, where a group has two
//! blocks if the instruction set likes that and there are two; depthwise weights are `[block][tap][16]`.

use super::phases::Phases;
use super::{BLOCK, BlockedConvolution, FloatIsa, channels_of_block};
use crate::kernels::geometry::Images;

/// Blocks of output channels that a tile takes.
pub(super) fn blocks_of_group(isa: FloatIsa, blocks: usize, first: usize) -> usize {
    if isa == FloatIsa::Avx512 { 2.min(blocks - first) } else { 1 }
}

/// [batch, channels, height, width] to blocks of zeros.
pub fn to_blocks(images: &Images, x: &[f32], blocked: &mut [f32]) {
    let pixels = images.size[0] * images.size[1];
    assert_eq!((x.len(), blocked.len()), (images.len(), super::blocked_length(images)), "elements of the images");
    if blocked.is_empty() {
        return;
    }
    let whole = images.channels.div_ceil(BLOCK) * pixels * BLOCK;
    for (x, blocked) in x.chunks_exact(images.channels * pixels).zip(blocked.chunks_exact_mut(whole)) {
        for (planes, block) in x.chunks(BLOCK * pixels).zip(blocked.chunks_exact_mut(pixels * BLOCK)) {
            for (pixel, lanes) in block.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
                for (lane, plane) in lanes.iter_mut().zip(planes.chunks_exact(pixels)) {
                    *lane = plane[pixel];
                }
            }
        }
    }
}

/// Blocks to [batch, channels, height, width].
pub fn from_blocks(images: &Images, blocked: &[f32], x: &mut [f32]) {
    let pixels = images.size[0] * images.size[1];
    assert_eq!((x.len(), blocked.len()), (images.len(), super::blocked_length(images)), "elements of the images");
    if x.is_empty() {
        return;
    }
    let whole = images.channels.div_ceil(BLOCK) * pixels * BLOCK;
    for (x, blocked) in x.chunks_exact_mut(images.channels * pixels).zip(blocked.chunks_exact(whole)) {
        for (planes, block) in x.chunks_mut(BLOCK * pixels).zip(blocked.chunks_exact(pixels * BLOCK)) {
            for (lane, plane) in planes.chunks_exact_mut(pixels).enumerate() {
                for (x, lanes) in plane.iter_mut().zip(block.as_chunks::<BLOCK>().0) {
                    *x = lanes[lane];
                }
            }
        }
    }
}

impl BlockedConvolution {
    /// Weights [out channels, in channels / groups, height, width] for the forward pass.
    pub fn pack_forward(&self, weights: &[f32]) -> Vec<f32> {
        let taps = self.window.taps();
        assert_eq!(weights.len(), self.weights_length(), "weights of another shape");
        let all: Vec<usize> = (0..taps).collect();
        if self.is_depthwise {
            return pack_depthwise(self.out_channels, &all, |channel, tap| weights[channel * taps + tap]);
        }
        pack(self.isa, self.in_channels, self.out_channels, &all, |input, output, tap| {
            weights[(output * self.in_channels + input) * taps + tap]
        })
    }

    /// The same weights for the gradient of the input: phase after phase, each a convolution of the output's gradient.
    pub fn pack_backward(&self, weights: &[f32]) -> Vec<f32> {
        let taps = self.window.taps();
        assert_eq!(weights.len(), self.weights_length(), "weights of another shape");
        let mut packed = Vec::new();
        for phase in Phases::of(&self.window) {
            packed.extend(match self.is_depthwise {
                true => pack_depthwise(self.in_channels, &phase, |channel, tap| weights[channel * taps + tap]),
                false => pack(self.isa, self.out_channels, self.in_channels, &phase, |output, input, tap| {
                    weights[(output * self.in_channels + input) * taps + tap]
                }),
            });
        }
        packed
    }

    /// Elements of the weights as ONNX has them.
    pub fn weights_length(&self) -> usize {
        let inputs = if self.is_depthwise { 1 } else { self.in_channels };
        self.out_channels * inputs * self.window.taps()
    }

    /// Elements of the weights' gradient as the kernels sum it.
    pub fn gradient_length(&self) -> usize {
        let channels = if self.is_depthwise { 1 } else { BLOCK };
        self.out_blocks() * self.depth_blocks() * self.window.taps() * channels * BLOCK
    }

    /// The gradient of the weights, [out channels, in channels / groups, height, width], from what the kernels summed.
    pub fn weight_gradient(&self, summed: &[f32], weights: &mut [f32]) {
        assert_eq!(summed.len(), self.gradient_length(), "the gradient of other weights");
        assert_eq!(weights.len(), self.weights_length(), "weights of another shape");
        let taps = self.window.taps();
        if self.is_depthwise {
            for (channel, weights) in weights.chunks_exact_mut(taps).enumerate() {
                let summed = &summed[channel / BLOCK * taps * BLOCK + channel % BLOCK..];
                weights.iter_mut().zip(summed.iter().step_by(BLOCK)).for_each(|(w, sum)| *w = *sum);
            }
            return;
        }
        for (output, weights) in weights.chunks_exact_mut(self.in_channels * taps).enumerate() {
            for (input, weights) in weights.chunks_exact_mut(taps).enumerate() {
                let pair = output / BLOCK * self.in_blocks() + input / BLOCK;
                let summed = &summed[(pair * taps * BLOCK + input % BLOCK) * BLOCK + output % BLOCK..];
                weights.iter_mut().zip(summed.iter().step_by(BLOCK * BLOCK)).for_each(|(w, sum)| *w = *sum);
            }
        }
    }
}

fn pack(
    isa: FloatIsa,
    inputs: usize,
    outputs: usize,
    taps: &[usize],
    weight: impl Fn(usize, usize, usize) -> f32,
) -> Vec<f32> {
    let blocks = outputs.div_ceil(BLOCK);
    let mut packed = Vec::with_capacity(inputs * taps.len() * blocks * BLOCK);
    let mut first = 0;
    while first < blocks {
        let group = blocks_of_group(isa, blocks, first);
        for input_block in 0..inputs.div_ceil(BLOCK) {
            for &tap in taps {
                for channel in 0..channels_of_block(inputs, input_block) {
                    let input = input_block * BLOCK + channel;
                    let of_lane = |lane: usize| {
                        let output = first * BLOCK + lane;
                        if output < outputs { weight(input, output, tap) } else { 0.0 }
                    };
                    packed.extend((0..group * BLOCK).map(of_lane));
                }
            }
        }
        first += group;
    }
    packed
}

fn pack_depthwise(channels: usize, taps: &[usize], weight: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut packed = Vec::with_capacity(channels.next_multiple_of(BLOCK) * taps.len());
    for block in 0..channels.div_ceil(BLOCK) {
        for &tap in taps {
            let of_lane = |lane: usize| {
                let channel = block * BLOCK + lane;
                if channel < channels { weight(channel, tap) } else { 0.0 }
            };
            packed.extend((0..BLOCK).map(of_lane));
        }
    }
    packed
}
