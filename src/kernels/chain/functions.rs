//! Elementwise operators of floats.

use crate::kernels::exponential::{erf, exp, gelu, sigmoid, tanh};
use crate::kernels::widest::widest;

/// y = f(x)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    Abs,
    Erf,
    Exp,
    Gelu,
    Log,
    Neg,
    Reciprocal,
    ReciprocalSqrt,
    Sigmoid,
    Sign,
    Sqrt,
    Square,
    Tanh,
}

/// y = f(a, b)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
}

/// y = f(x), element by element.
macro_rules! each {
    ($x:ident, $y:ident, $f:expr) => {
        widest(
            #[inline(always)]
            || {
                for (y, &$x) in $y.iter_mut().zip($x) {
                    *y = $f;
                }
            },
        )
    };
    ($a:ident, $b:ident, $y:ident, $f:expr) => {
        widest(
            #[inline(always)]
            || {
                for ((y, &$a), &$b) in $y.iter_mut().zip($a).zip($b) {
                    *y = $f;
                }
            },
        )
    };
}

impl Unary {
    pub(super) fn run(self, x: &[f32], y: &mut [f32]) {
        match self {
            Unary::Abs => each!(x, y, x.abs()),
            Unary::Erf => each!(x, y, erf(x)),
            Unary::Exp => each!(x, y, exp(x)),
            Unary::Gelu => each!(x, y, gelu(x)),
            Unary::Log => each!(x, y, x.ln()),
            Unary::Neg => each!(x, y, -x),
            Unary::Reciprocal => each!(x, y, 1.0 / x),
            Unary::ReciprocalSqrt => each!(x, y, 1.0 / x.sqrt()),
            Unary::Sigmoid => each!(x, y, sigmoid(x)),
            // NaN stays.
            Unary::Sign => each!(
                x,
                y,
                if x > 0.0 {
                    1.0
                } else if x < 0.0 {
                    -1.0
                } else {
                    x
                }
            ),
            Unary::Sqrt => each!(x, y, x.sqrt()),
            Unary::Square => each!(x, y, x * x),
            Unary::Tanh => each!(x, y, tanh(x)),
        }
    }
}

impl Binary {
    pub(super) fn run(self, a: &[f32], b: &[f32], y: &mut [f32]) {
        match self {
            Binary::Add => each!(a, b, y, a + b),
            Binary::Sub => each!(a, b, y, a - b),
            Binary::Mul => each!(a, b, y, a * b),
            Binary::Div => each!(a, b, y, a / b),
            // NaN of either stays.
            Binary::Min => each!(a, b, y, if b < a || b.is_nan() { b } else { a }),
            Binary::Max => each!(a, b, y, if b > a || b.is_nan() { b } else { a }),
        }
    }
}
