//! How a kernel moves over its input: convolutions and pooling.

use rten_shape_inference::SymExpr;

use super::call::Attributes;
use super::expression::{difference, number, quotient, simplified, sum};

pub struct Window {
    auto_pad: AutoPad,
    kernel: Vec<SymExpr>,
    /// Before and after, for each axis.
    pads: Vec<(i64, i64)>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    ceil_mode: bool,
}

#[derive(PartialEq)]
enum AutoPad {
    Explicit,
    Same,
    Valid,
}

impl Window {
    /// Reads the attributes for a kernel of these lengths; none where they do not fit it.
    pub fn read(attrs: &Attributes, kernel: Vec<SymExpr>) -> Option<Window> {
        let rank = kernel.len();
        let auto_pad = match attrs.text("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" | "" => AutoPad::Explicit,
            "SAME_UPPER" | "SAME_LOWER" => AutoPad::Same,
            "VALID" => AutoPad::Valid,
            _ => return None,
        };
        let all = |name, default, count: usize| match attrs.ints(name) {
            Some([]) | None => Some(vec![default; count]),
            Some(given) => (given.len() == count).then(|| given.to_vec()),
        };
        let pads = if auto_pad == AutoPad::Explicit { all("pads", 0, 2 * rank)? } else { vec![0; 2 * rank] };
        let (strides, dilations) = (all("strides", 1, rank)?, all("dilations", 1, rank)?);
        let usual = |n: &i64| (1..1 << 24).contains(n);
        let fits = strides.iter().chain(&dilations).all(usual) && pads.iter().all(|pad| (0..1 << 24).contains(pad));
        fits.then(|| Window {
            auto_pad,
            kernel,
            pads: (0..rank).map(|axis| (pads[axis], pads[rank + axis])).collect(),
            strides,
            dilations,
            ceil_mode: attrs.int("ceil_mode", 0) != 0,
        })
    }

    /// The length that an axis of length `x` has after convolution or pooling.
    pub fn slide(&self, axis: usize, x: &SymExpr) -> Option<SymExpr> {
        let stride = number(self.strides[axis])?;
        if self.auto_pad == AutoPad::Same {
            return rounded_up(x, &stride);
        }
        let (before, after) = self.pads[axis];
        // ⌊(x + pads - extent) / stride⌋ + 1 = ⌊(x + pads + stride - extent) / stride⌋, of which the sign is seen more often
        let free = |x: &SymExpr, more: i64| sum(x, &difference(&number(before + after + more)?, &self.extent(axis)?)?);
        let SymExpr::Value(x) = x else {
            return (!self.ceil_mode).then(|| divided(&free(x, self.strides[axis])?, &stride)).flatten();
        };
        match free(&SymExpr::Value(*x), 0)? {
            SymExpr::Value(last) if last < 0 => None,
            SymExpr::Value(last) if self.ceil_mode => {
                let (last, stride) = (i64::from(last), self.strides[axis]);
                let count = (last + stride - 1) / stride + 1;
                // A window that would start behind the input and its first padding does not count.
                number(if (count - 1) * stride >= i64::from(*x) + before { count - 1 } else { count })
            }
            _ if self.ceil_mode => None,
            last => divided(&sum(&last, &stride)?, &stride),
        }
    }

    /// The length that an axis of length `x` has after transposed convolution.
    pub fn spread(&self, axis: usize, x: &SymExpr, output_padding: i64) -> Option<SymExpr> {
        let stride = number(self.strides[axis])?;
        if self.auto_pad == AutoPad::Same {
            return simplified(x.clone() * stride);
        }
        let (before, after) = self.pads[axis];
        // (x - 1) · stride + output_padding + extent - pads
        let reached = simplified(difference(x, &number(1)?)? * stride)?;
        sum(&reached, &sum(&self.extent(axis)?, &number(output_padding - before - after)?)?)
    }

    /// (kernel - 1) · dilation + 1
    fn extent(&self, axis: usize) -> Option<SymExpr> {
        let steps = difference(&self.kernel[axis], &number(1)?)?;
        sum(&simplified(steps * number(self.dilations[axis])?)?, &number(1)?)
    }
}

/// ⌊x / n⌋, where the model would not run if x were negative.
fn divided(x: &SymExpr, n: &SymExpr) -> Option<SymExpr> {
    match (x, n) {
        (SymExpr::Value(_), SymExpr::Value(_)) => quotient(x, n),
        (_, SymExpr::Value(1)) => Some(x.clone()),
        _ => simplified(x.clone() / n.clone()),
    }
}

/// ⌈x / n⌉
fn rounded_up(x: &SymExpr, n: &SymExpr) -> Option<SymExpr> {
    match (x, n) {
        (SymExpr::Value(x), SymExpr::Value(n)) => number((i64::from(*x) + i64::from(*n) - 1) / i64::from(*n)),
        _ => simplified(x.div_ceil(n)),
    }
}
