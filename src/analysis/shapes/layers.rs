//! Shapes of layers with weights, and of pooling.

use rten_shape_inference::{BinaryOp, InferShapes, InferShapesContext, SymExpr, SymTensor};

use super::call::{Attributes, Call, Lengths, ONE};
use super::expression::{number, product};
use super::window::Window;

impl Call<'_> {
    pub(super) fn convolved(&mut self, x: usize, w: usize) -> Option<Lengths> {
        let (x, w) = (self.lengths(x)?, self.lengths(w)?);
        if x.len() != w.len() || x.len() < 2 {
            return None;
        }
        let window = Window::read(&Attributes(self.node), w[2..].to_vec())?;
        let slid = x[2..].iter().enumerate().map(|(axis, x)| window.slide(axis, x));
        let slid: Vec<_> = slid.collect();
        let spatial = slid.into_iter().map(|length| self.or_open(length));
        Some([x[0].clone(), w[0].clone()].into_iter().chain(spatial).collect())
    }

    pub(super) fn transposed_convolution(&mut self) -> Option<Lengths> {
        let attrs = Attributes(self.node);
        let (x, w) = (self.lengths(0)?, self.lengths(1)?);
        if x.len() != w.len() || x.len() < 2 {
            return None;
        }
        let rank = x.len() - 2;
        let channels = product([&w[1], &number(attrs.int("group", 1))?]);
        let spatial: Vec<Option<SymExpr>> = match attrs.ints("output_shape") {
            Some(shape) if !shape.is_empty() => {
                shape.get(shape.len().checked_sub(rank)?..)?.iter().map(|&n| number(n)).collect()
            }
            _ => {
                let window = Window::read(&attrs, w[2..].to_vec())?;
                let padding = attrs.ints("output_padding").unwrap_or_default();
                let spread = |(axis, x)| window.spread(axis, x, padding.get(axis).copied().unwrap_or(0));
                x[2..].iter().enumerate().map(spread).collect()
            }
        };
        let open = std::iter::once(channels).chain(spatial).map(|length| self.or_open(length));
        let rest: Vec<_> = open.collect();
        Some(std::iter::once(x[0].clone()).chain(rest).collect())
    }

    pub(super) fn pooled(&mut self) -> Option<Lengths> {
        let attrs = Attributes(self.node);
        let x = self.lengths(0)?;
        let kernel = attrs.ints("kernel_shape")?.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?;
        if x.len() != kernel.len() + 2 {
            return None;
        }
        let window = Window::read(&attrs, kernel)?;
        let slid: Vec<_> = x[2..].iter().enumerate().map(|(axis, x)| window.slide(axis, x)).collect();
        let spatial: Vec<_> = slid.into_iter().map(|length| self.or_open(length)).collect();
        Some(x[..2].iter().cloned().chain(spatial).collect())
    }

    /// Products of stacks of matrices; a vector is a row on the left and a column on the right.
    pub(super) fn matrix_product(&mut self, a: usize, b: usize) -> Option<Lengths> {
        let (mut a, mut b) = (self.lengths(a)?, self.lengths(b)?);
        let (row, column) = (a.len() == 1, b.len() == 1);
        if row {
            a.insert(0, ONE);
        }
        if column {
            b.push(ONE);
        }
        let stacks = [&a, &b].map(|x| Some(SymTensor::from_shape(x[..x.len().checked_sub(2)?].to_vec())));
        if stacks.iter().any(Option::is_none) {
            return None;
        }
        let stack = BinaryOp.infer_shapes(InferShapesContext::new(&stacks), self.symbols).ok()?;
        let mut lengths: Lengths = stack.first()?.shape()?.collect();
        lengths.extend((!row).then(|| a[a.len() - 2].clone()));
        lengths.extend((!column).then(|| b[b.len() - 1].clone()));
        Some(lengths)
    }

    pub(super) fn recurrent(&mut self) -> Option<Vec<Lengths>> {
        let attrs = Attributes(self.node);
        if attrs.int("layout", 0) != 0 {
            return None;
        }
        let hidden = self.lengths(2)?.last()?.clone();
        let x = self.lengths(0)?;
        let [steps, batch, _] = x.as_slice() else { return None };
        let directions = if attrs.text("direction") == Some("bidirectional") { SymExpr::Value(2) } else { ONE };
        let last = vec![directions.clone(), batch.clone(), hidden.clone()];
        let all = vec![steps.clone(), directions, batch.clone(), hidden];
        Some(if self.node.op == "LSTM" { vec![all, last.clone(), last] } else { vec![all, last] })
    }
}
