//! Addition, multiplication and functions of one byte.

use super::epilogue::{Addition, Quantization, round};
#[cfg(target_arch = "x86_64")]
use super::{isa::Isa, x86};

/// QLinearMul: clamp(round((a - zₐ) · (b - z_b) · ratio + z), low, high), where ratio = a scale · b scale / y scale.
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
        each_run(a, b, output, |a, b, output| {
            #[cfg(target_arch = "x86_64")]
            if Isa::Avx2.is_available() {
                // SAFETY: the CPU has AVX2.
                return unsafe { x86::add(self, a, b, output) };
            }
            zip(a, b, output, |a, b| self.byte(a, b));
        });
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
        let [low, high] = self.clamp.map(f32::from);
        round(product * self.ratio + f32::from(self.zero_point), low, high) as u8
    }

    /// Operands are as long as the output or repeat, as in an addition.
    pub fn run(&self, a: &[u8], b: &[u8], output: &mut [u8]) {
        each_run(a, b, output, |a, b, output| {
            #[cfg(target_arch = "x86_64")]
            if Isa::Avx2.is_available() {
                // SAFETY: the CPU has AVX2.
                return unsafe { x86::multiply(self, a, b, output) };
            }
            zip(a, b, output, |a, b| self.byte(a, b));
        });
    }
}

/// Visits runs of the output in which each operand is as long as the run, or one byte.
#[inline(always)]
fn each_run(a: &[u8], b: &[u8], output: &mut [u8], mut visit: impl FnMut(&[u8], &[u8], &mut [u8])) {
    if output.is_empty() {
        return;
    }
    let length = [a.len(), b.len()].into_iter().filter(|&length| length != 1).min().unwrap_or(output.len());
    let repeats = |whole: usize, part: usize| part != 0 && whole.is_multiple_of(part);
    let even = |operand: &[u8]| operand.len() == 1 || repeats(operand.len(), length);
    assert!(repeats(output.len(), length) && even(a) && even(b), "operands that do not repeat evenly");
    for (index, output) in output.chunks_exact_mut(length).enumerate() {
        let part = |operand: &[u8]| match operand.len() {
            1 => 0..1,
            all => index * length % all..index * length % all + length,
        };
        visit(&a[part(a)], &b[part(b)], output);
    }
}

#[inline(always)]
fn zip(a: &[u8], b: &[u8], output: &mut [u8], function: impl Fn(u8, u8) -> u8) {
    match (a, b) {
        (&[a], &[b]) => output.fill(function(a, b)),
        (&[a], b) => output.iter_mut().zip(b).for_each(|(y, &b)| *y = function(a, b)),
        (a, &[b]) => output.iter_mut().zip(a).for_each(|(y, &a)| *y = function(a, b)),
        (a, b) => output.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = function(a, b)),
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

    /// x -> operation(a(x), b(x)), for one that works element by element.
    pub fn composed(a: &Table, b: &Table, operation: impl FnOnce(&[u8], &[u8], &mut [u8])) -> Table {
        let mut table = [0; 256];
        operation(&a.0, &b.0, &mut table);
        Table(table)
    }

    pub fn identity() -> Table {
        Table(std::array::from_fn(|q| q as u8))
    }

    /// From one quantization to another.
    pub fn requantization(x: Quantization, y: Quantization) -> Table {
        Table::new(x, y, |x| x)
    }

    pub fn run(&self, x: &[u8], output: &mut [u8]) {
        assert_eq!(x.len(), output.len(), "elements of the output");
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if Isa::Avx2.is_available() {
            // SAFETY: the CPU has AVX2.
            done = unsafe { x86::look_up(&self.0, x, output) };
        }
        for (y, &x) in output[done..].iter_mut().zip(&x[done..]) {
            *y = self.0[usize::from(x)];
        }
    }
}
