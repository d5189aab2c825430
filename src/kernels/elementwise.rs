//! Addition, multiplication and functions of one byte.

use super::epilogue::{Addition, Quantization, requantize};
use super::widest::widest;

/// QLinearMul: clamp(round((a - zₐ) · (b - z_b) · ratio) + z, low, high), where ratio = a scale · b scale / y scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multiplication {
    pub ratio: f32,
    /// Of the operands.
    pub zero_points: [u8; 2],
    pub zero_point: u8,
    pub clamp: [u8; 2],
}

/// Any function of a byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(pub [u8; 256]);

impl Addition {
    /// Operands are as long as the output or repeat: a scalar has length 1, a value a channel the length of the last axis.
    pub fn run(&self, a: &[u8], b: &[u8], output: &mut [u8]) {
        widest(|| zip_repeating(a, b, output, |a, b| self.byte(a, b)));
    }
}

impl Multiplication {
    pub fn new(a: Quantization, b: Quantization, y: Quantization) -> Multiplication {
        let ratio = a.scale * b.scale / y.scale;
        let zero_points = [a.zero_point, b.zero_point];
        Multiplication { ratio, zero_points, zero_point: y.zero_point, clamp: [0, 255] }
    }

    #[inline(always)]
    fn byte(&self, a: u8, b: u8) -> u8 {
        let centered = |x: u8, zero_point: u8| f32::from(x) - f32::from(zero_point);
        // Below 2¹⁶, so exact.
        let product = centered(a, self.zero_points[0]) * centered(b, self.zero_points[1]);
        requantize(product, self.ratio, self.zero_point, self.clamp)
    }

    /// Operands are as long as the output or repeat, as in an addition.
    pub fn run(&self, a: &[u8], b: &[u8], output: &mut [u8]) {
        widest(|| zip_repeating(a, b, output, |a, b| self.byte(a, b)));
    }
}

#[inline(always)]
fn zip_repeating(a: &[u8], b: &[u8], output: &mut [u8], function: impl Fn(u8, u8) -> u8) {
    let period = output.len().min(a.len().max(1)).min(b.len().max(1));
    if output.is_empty() {
        return;
    }
    for operand in [a, b] {
        assert!(
            !operand.is_empty() && output.len().is_multiple_of(operand.len()),
            "an operand that does not repeat evenly"
        );
    }
    match (a, b) {
        (&[a], b) if b.len() == output.len() => {
            for (y, &b) in output.iter_mut().zip(b) {
                *y = function(a, b);
            }
        }
        (a, &[b]) if a.len() == output.len() => {
            for (y, &a) in output.iter_mut().zip(a) {
                *y = function(a, b);
            }
        }
        (a, b) => {
            assert!(a.len() % period == 0 && b.len() % period == 0, "operands that do not repeat evenly");
            for (index, output) in output.chunks_exact_mut(period).enumerate() {
                let part = |operand: &[u8]| index * period % operand.len();
                let (a, b) = (&a[part(a)..][..period], &b[part(b)..][..period]);
                for ((y, &a), &b) in output.iter_mut().zip(a).zip(b) {
                    *y = function(a, b);
                }
            }
        }
    }
}

/// Repeats a tensor along the axes where it has length 1, as ONNX broadcasts: what no faster form covers.
pub fn broadcast(x: &[u8], shape: &[usize], target: &[usize]) -> Vec<u8> {
    assert!(shape.len() <= target.len(), "a broadcast to fewer axes");
    let missing = target.len() - shape.len();
    let mut strides = vec![0; target.len()];
    let mut stride = 1;
    for axis in (0..shape.len()).rev() {
        assert!(
            shape[axis] == 1 || shape[axis] == target[missing + axis],
            "{shape:?} does not broadcast to {target:?}"
        );
        if shape[axis] > 1 {
            strides[missing + axis] = stride;
        }
        stride *= shape[axis];
    }
    let element = |mut index: usize| {
        let mut offset = 0;
        for axis in (0..target.len()).rev() {
            offset += index % target[axis] * strides[axis];
            index /= target[axis];
        }
        x[offset]
    };
    (0..target.iter().product()).map(element).collect()
}

impl Table {
    /// x -> quantize(f(dequantize(x))).
    pub fn new(x: Quantization, y: Quantization, function: impl Fn(f32) -> f32) -> Table {
        let entry = |q: usize| y.quantize(function(x.dequantize(q as u8)));
        Table(std::array::from_fn(entry))
    }

    /// From one quantization to another.
    pub fn requantization(x: Quantization, y: Quantization) -> Table {
        Table::new(x, y, |x| x)
    }

    pub fn run(&self, x: &[u8], output: &mut [u8]) {
        assert_eq!(x.len(), output.len(), "elements of the output");
        for (y, &x) in output.iter_mut().zip(x) {
            *y = self.0[usize::from(x)];
        }
    }
}
