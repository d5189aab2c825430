//! The operators as ONNX defines them, written from its text and with nothing of the kernels.

use super::super::*;
use super::Values;

/// Sums of pairs of products in K order.
pub fn dot(products: &[i32], arithmetic: Arithmetic) -> i32 {
    match arithmetic {
        Arithmetic::Exact => products.iter().fold(0i32, |sum, product| sum.wrapping_add(*product)),
        Arithmetic::Saturating => products.chunks(2).fold(0i32, |sum, pair| {
            let pair: i32 = pair.iter().sum();
            sum.wrapping_add(pair.clamp(-32768, 32767))
        }),
    }
}

pub fn finish(epilogue: &Epilogue, column: usize, sum: i32, residual: Option<u8>, to: &mut Values, at: usize) {
    let pick = |values: &[f32]| if values.len() == 1 { values[0] } else { values[column] };
    match (epilogue, to) {
        (Epilogue::Integer, Values::I32(to)) => to[at] = sum,
        (Epilogue::Scale(scale), Values::F32(to)) => {
            let bias = if scale.bias.is_empty() { 0.0 } else { pick(&scale.bias) };
            let y = sum as f32 * pick(&scale.scales) + bias;
            to[at] = if y < scale.clamp[0] {
                scale.clamp[0]
            } else if y > scale.clamp[1] {
                scale.clamp[1]
            } else {
                y
            };
        }
        (Epilogue::Requantize(requantize), Values::U8(to)) => {
            let rounded = (sum as f32 * pick(&requantize.multipliers)).round_ties_even();
            let byte = f64::from(rounded) + f64::from(requantize.zero_point);
            let byte = byte.clamp(f64::from(requantize.clamp[0]), f64::from(requantize.clamp[1])) as u8;
            to[at] = match requantize.residual {
                None => byte,
                Some(addition) => add(&addition, byte, residual.expect("a residual")),
            };
        }
        _ => panic!("types differ"),
    }
}

pub fn add(addition: &Addition, a: u8, b: u8) -> u8 {
    let [ratio_a, ratio_b] = addition.ratios;
    let sum = f32::from(a).mul_add(ratio_a, f32::from(b).mul_add(ratio_b, addition.offset));
    (sum.round_ties_even() as i32).clamp(addition.clamp[0].into(), addition.clamp[1].into()) as u8
}
