//! The inner loops of int8 networks: convolutions, matrix products, and what stands between them.
//!
//! Activations are u8 in channels-last order, weights i8, sums 32 bits that wrap; a 1-D convolution is one of height 1. i8
//! activations become u8 exactly by [`flip_signs`], with their zero points 128 higher. Results equal ONNX Runtime's. All
//! kernels of an operator give the same result: what the portable one gives, which is the definition. Lengths that do not
//! fit panic: they are an error of the caller, not of a model.
//!
//! Nothing here knows of models. Here, and only here, is arithmetic in `unsafe`.

#![cfg_attr(
    not(target_arch = "x86_64"),
    allow(unused, reason = "what chooses and feeds kernels of x86 has less to do")
)]

mod isa;
mod aligned;
mod geometry;
mod epilogue;
mod packing;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod terms;
mod portable;
mod rten;
mod threads;
mod widest;
mod exponential;
mod rounded;
mod taps;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod x86;
mod product;
mod depthwise;
mod convolution;
mod matmul;
mod quantize;
mod elementwise;
mod concat;
mod pool;
mod resize;
mod attention;
mod normalization;
mod gelu;
mod strided;
mod softmax;
mod sum;
mod extremes;
mod chain;
pub mod blocked;

pub use attention::{Attention, FloatMatrix};
pub use chain::{Binary, Chain, Function, Pattern, Repeated, Step, Unary};
pub use concat::{Part, concat};
pub use convolution::{Convolution, ConvolutionShape, TransposedConvolution};
pub use elementwise::{Multiplication, Table, broadcast};
pub use epilogue::{Addition, Epilogue, Output, Quantization, Requantize, Scale};
pub use extremes::Extremes;
pub use gelu::{Activated, Gelu};
pub use geometry::{Images, Window};
pub use isa::{Arithmetic, Dispatch, Isa, UnknownName};
pub use matmul::{ActivationMatMul, MatMul, MatMulShape, MatrixView};
pub use normalization::LayerNormalization;
pub use packing::{Integers, Weights};
pub use pool::{AveragePool, max_pool};
pub use quantize::{dynamic_quantization, flip_signs, transpose};
pub use resize::{Blend, LinearResize, resize_nearest};
pub use softmax::{rounded_softmax, softmax};
pub use strided::{Axis, PackedRight, StridedProduct};
pub use sum::sum_axis;
pub use terms::{InputQuantization, Parameters};
pub use widest::widest;

#[cfg(test)]
mod tests;
