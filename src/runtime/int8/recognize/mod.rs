//! Finds in a QDQ model what can be computed in integers, and puts our operators there.
//!
//! The rules run in rounds: operators of quantized operands are written out; DequantizeLinear sinks through what only moves
//! elements; what ends in a QuantizeLinear becomes one operator; then what takes dequantized operands and gives reals; then
//! what is slow in reals, or rounds otherwise in ONNX Runtime; the rest is left to tract between operators that quantize and
//! dequantize.

mod borders;
mod conv;
mod dynamic;
mod elementwise;
mod expand;
mod float;
mod matmul;
mod pass_through;
mod pools;
mod resize;
mod scale;
mod table;

use std::cell::OnceCell;
use std::rc::Rc;

use crate::analysis::Shapes;
use crate::ir::Model;
use crate::ir::op::{
    Add, Concat, Conv, ConvTranspose, DequantizeLinear, Gelu, Gemm, LayerNormalization, MatMul, MaxPool, Mul,
    QuantizeLinear, Resize, Softmax, Transpose,
};
use crate::rewrite::Rules;
use crate::runtime::int8::operators as int8;

/// Writes out operators of quantized operands, and tells whether there were any.
pub(super) fn expand(model: &mut Model) -> bool {
    let rules = Rules::new()
        .on::<int8::QLinearConv, _>(expand::qlinear_conv)
        .on::<int8::QLinearMatMul, _>(expand::qlinear_matmul)
        .on::<int8::QGemm, _>(expand::qgemm)
        .on::<int8::QLinearAdd, _>(expand::qlinear_add)
        .on::<int8::QLinearMul, _>(expand::qlinear_mul)
        .on::<int8::QLinearSigmoid, _>(expand::qlinear_sigmoid)
        .on::<int8::QLinearLeakyRelu, _>(expand::qlinear_leaky_relu)
        .on::<int8::QLinearSoftmax, _>(expand::qlinear_softmax)
        .on::<int8::QLinearGlobalAveragePool, _>(expand::qlinear_global_average_pool)
        .on::<int8::QLinearAveragePool, _>(expand::qlinear_average_pool)
        .on::<int8::QLinearConcat, _>(expand::qlinear_concat);
    // What was not met runs as tract has it.
    !rules.apply(model, &OnceCell::new()).applied.is_empty()
}

/// Rewrites `model`. `shapes` are those of the model before.
pub(super) fn recognize(model: &mut Model, shapes: &OnceCell<Rc<Shapes>>) {
    let moving = || {
        Rules::new()
            .on::<QuantizeLinear, _>(pass_through::requantized_alike)
            .on_any(pass_through::MOVING, pass_through::moved)
            .on::<Concat, _>(pass_through::joined)
            .on::<MaxPool, _>(pools::max_of_integers)
            .on::<Resize, _>(resize::nearest_of_integers)
            .on::<int8::Flip, _>(borders::flipped_back)
            .on::<int8::Flip, _>(borders::flipped_beyond)
    };
    let rounds = [
        moving(),
        moving()
            .on::<QuantizeLinear, _>(pass_through::requantized)
            .on::<QuantizeLinear, _>(pass_through::quantized_concat)
            .on::<QuantizeLinear, _>(conv::quantized_conv)
            .on::<QuantizeLinear, _>(conv::quantized_conv_transpose)
            .on::<QuantizeLinear, _>(matmul::quantized_gemm)
            .on::<QuantizeLinear, _>(matmul::quantized_matmul)
            .on::<QuantizeLinear, _>(elementwise::quantized_add)
            .on::<QuantizeLinear, _>(elementwise::quantized_mul)
            .on::<QuantizeLinear, _>(pools::quantized_global_average)
            .on::<QuantizeLinear, _>(pools::quantized_average)
            .on::<QuantizeLinear, _>(resize::quantized_linear)
            .on::<QuantizeLinear, _>(table::tabulated),
        Rules::new()
            .on::<Conv, _>(conv::float_conv)
            .on::<ConvTranspose, _>(conv::float_conv_transpose)
            .on::<Gemm, _>(matmul::float_gemm)
            .on::<MatMul, _>(matmul::float_matmul)
            .on::<Add, _>(matmul::biased)
            .on::<Mul, _>(dynamic::scaled_matmul)
            .on::<Mul, _>(dynamic::scaled_conv)
            .on::<Add, _>(dynamic::biased_matmul)
            .on::<Add, _>(dynamic::biased_conv)
            .on::<int8::Product, _>(table::tabulated_product)
            .on::<int8::Sum, _>(table::tabulated_sum)
            .on::<int8::Sum, _>(conv::residual),
        Rules::new()
            .on::<MatMul, _>(float::attention)
            .on::<Transpose, _>(float::transposed_attention)
            .on::<LayerNormalization, _>(float::layer_norm)
            .on::<Mul, _>(float::written_out_gelu)
            .on::<Gelu, _>(float::gelu)
            .on::<Mul, _>(float::scaled_gelu)
            .on::<int8::Quantize, _>(float::quantized_gelu)
            .on::<int8::Quantize, _>(float::scaled_quantize)
            .on::<QuantizeLinear, _>(borders::quantize)
            .on::<DequantizeLinear, _>(borders::dequantize)
            .on::<int8::Flip, _>(borders::flipped_back)
            .on::<int8::Flip, _>(borders::flipped_beyond),
        Rules::new().on::<Softmax, _>(float::softmax),
    ];
    for rules in rounds {
        // What was not met is no news: it runs in reals.
        let _ = rules.apply(model, shapes);
    }
}
