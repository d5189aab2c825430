//! The operators of integers in tract.

mod conv;
mod elementwise;
mod float;
mod layout;
mod matmul;
mod pool;
mod resize;

use std::str::FromStr;

use tract_onnx::model::Onnx;
use tract_onnx::tract_core::internal::TractResult;

use super::operators as int8;
use crate::kernels::{Dispatch, Isa, Quantization};
use crate::runtime::execute::{Constants, Execute, Operands, Shapes, Stateless, filled, register as one, strides};

/// Makes tract know our operators.
pub(in crate::runtime) fn register(onnx: &mut Onnx) {
    one::<int8::Attention>(onnx);
    one::<int8::AveragePool>(onnx);
    one::<int8::BatchMatMul>(onnx);
    one::<int8::Conv>(onnx);
    one::<int8::ConvTranspose>(onnx);
    one::<int8::Dequantize>(onnx);
    one::<int8::DynamicConv>(onnx);
    one::<int8::DynamicMatMul>(onnx);
    one::<int8::Flip>(onnx);
    one::<int8::Gelu>(onnx);
    one::<int8::GlobalAveragePool>(onnx);
    one::<int8::LayerNorm>(onnx);
    one::<int8::MatMul>(onnx);
    one::<int8::MaxPool>(onnx);
    one::<int8::Product>(onnx);
    one::<int8::Quantize>(onnx);
    one::<int8::Resize>(onnx);
    one::<int8::Softmax>(onnx);
    one::<int8::Sum>(onnx);
    one::<int8::Table>(onnx);
}

fn quantization(scale: f32, zero_point: i64) -> Quantization {
    Quantization { scale, zero_point: zero_point as u8 }
}

fn clamp(low: i64, high: i64) -> [u8; 2] {
    [low as u8, high as u8]
}

fn dispatch(isa: &str, arithmetic: &str) -> TractResult<Dispatch> {
    let isa = if isa.is_empty() { Isa::best() } else { Isa::from_str(isa)? };
    Ok(Dispatch { isa, arithmetic: arithmetic.parse()? })
}
