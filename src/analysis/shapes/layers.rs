//! Shapes of layers with weights, of pooling, and of losses.

use rten_shape_inference::SymExpr;

use super::call::{Call, Lengths, ONE};
use super::expression::{broadcast, number, product, quotient, sum};
use super::window::Window;

impl Call<'_> {
    pub fn convolved(&mut self, x: usize, w: usize) -> Option<Lengths> {
        let (x, w) = (self.lengths(x)?, self.lengths(w)?);
        if x.len() != w.len() || x.len() < 2 {
            return None;
        }
        let window = Window::read(&self.attrs(), w[2..].to_vec())?;
        let spatial = self.all_or_open(x[2..].iter().enumerate().map(|(axis, x)| window.slide(axis, x)));
        Some([&x[..1], &w[..1], &spatial].concat())
    }

    pub fn transposed_convolution(&mut self) -> Option<Lengths> {
        let attrs = self.attrs();
        let (x, w) = (self.lengths(0)?, self.lengths(1)?);
        if x.len() != w.len() || x.len() < 2 {
            return None;
        }
        let rank = x.len() - 2;
        let channels = product([&w[1], &number(attrs.int("group", 1))?]);
        let spatial = match attrs.ints("output_shape") {
            Some(shape) if !shape.is_empty() => {
                let shape = shape.get(shape.len().checked_sub(rank)?..)?;
                self.all_or_open(shape.iter().map(|&n| number(n)))
            }
            _ => {
                let window = Window::read(&attrs, w[2..].to_vec())?;
                let padding = attrs.ints("output_padding").unwrap_or_default();
                let spread = |(axis, x)| window.spread(axis, x, padding.get(axis).copied().unwrap_or(0));
                self.all_or_open(x[2..].iter().enumerate().map(spread))
            }
        };
        Some([&x[..1], &[self.or_open(channels)], &spatial].concat())
    }

    pub fn pooled(&mut self) -> Option<Lengths> {
        let attrs = self.attrs();
        let x = self.lengths(0)?;
        let kernel = attrs.ints("kernel_shape")?.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?;
        if x.len() != kernel.len() + 2 {
            return None;
        }
        let window = Window::read(&attrs, kernel)?;
        let spatial = self.all_or_open(x[2..].iter().enumerate().map(|(axis, x)| window.slide(axis, x)));
        Some([&x[..2], &spatial].concat())
    }

    /// Products of stacks of matrices; a vector is a row on the left and a column on the right.
    pub fn matrix_product(&mut self, a: usize, b: usize) -> Option<Lengths> {
        let (a, b) = (self.lengths(a)?, self.lengths(b)?);
        let ([a_stack @ .., _], [b_stack @ .., _]) = (a, b) else { return None };
        let (a_stack, row) = match a_stack {
            [] => (a_stack, None),
            [stack @ .., row] => (stack, Some(row)),
        };
        let (b_stack, column) = match b_stack {
            [] => (b_stack, None),
            [stack @ .., _] => (stack, b.last()),
        };
        let mut lengths = broadcast_all(&[a_stack, b_stack])?;
        lengths.extend(row.into_iter().chain(column).cloned());
        Some(lengths)
    }

    /// The result, keys and values with those of the past before them, and the products of queries and keys.
    pub fn attention(&mut self) -> Option<Vec<Lengths>> {
        let attrs = self.attrs();
        let [q, k, v] = [self.lengths(0)?, self.lengths(1)?, self.lengths(2)?];
        // Samples, heads, positions, numbers.
        let ([q4, k4, v4], is_flat) = match (q, k, v) {
            ([_, _, _, _], [_, _, _, _], [_, _, _, _]) => ([q, k, v].map(<[_]>::to_vec), false),
            ([batch, queries, q], [_, keys, k], [_, _, v]) => {
                let [q_heads, kv_heads] = ["q_num_heads", "kv_num_heads"].map(|name| number(attrs.int(name, 0)));
                let (q_heads, kv_heads) = (q_heads?, kv_heads?);
                let mut split = |heads: &SymExpr, positions: &SymExpr, all: &SymExpr| {
                    let width = self.or_open(quotient(all, heads));
                    [batch, heads, positions, &width].map(Clone::clone).to_vec()
                };
                ([split(&q_heads, queries, q), split(&kv_heads, keys, k), split(&kv_heads, keys, v)], true)
            }
            _ => return None,
        };
        let result = match is_flat {
            true => {
                let width = product([&q4[1], &v4[3]]);
                vec![q4[0].clone(), q4[2].clone(), self.or_open(width)]
            }
            false => vec![q4[0].clone(), q4[1].clone(), q4[2].clone(), v4[3].clone()],
        };
        let mut with_past = |past: usize, mut now: Lengths| {
            if self.is_given(past, "") {
                let length = self.lengths(past).and_then(|past| sum(past.get(2)?, &now[2]));
                now[2] = self.or_open(length);
            }
            now
        };
        let (keys, values) = (with_past(4, k4), with_past(5, v4));
        let products = vec![q4[0].clone(), q4[1].clone(), q4[2].clone(), keys[2].clone()];
        Some(vec![result, keys, values, products])
    }

    pub fn recurrent(&mut self) -> Option<Vec<Lengths>> {
        let attrs = self.attrs();
        let hidden = self.lengths(2)?.last()?;
        let [first, second, _] = self.lengths(0)? else { return None };
        let directions = number(if attrs.text("direction") == Some("bidirectional") { 2 } else { 1 })?;
        let batch_first = attrs.flag("layout", false);
        let (all, last) = match batch_first {
            true => ([first, second, &directions, hidden].to_vec(), [first, &directions, hidden]),
            false => ([first, &directions, second, hidden].to_vec(), [&directions, second, hidden]),
        };
        let last: Lengths = last.map(Clone::clone).to_vec();
        Some(vec![all.into_iter().cloned().collect(), last.clone(), last])
    }

    /// The loss, and the logarithms of the probabilities.
    pub fn loss(&mut self) -> Option<Vec<Lengths>> {
        let loss = match self.attrs().text("reduction").unwrap_or("mean") {
            "none" => self.lengths(1)?.to_vec(),
            _ => vec![],
        };
        match self.lengths(0) {
            Some(scores) => Some(vec![loss, scores.to_vec()]),
            None => Some(vec![loss]),
        }
    }

    /// The shape that all operands broadcast to.
    pub fn broadcast(&self) -> Option<Lengths> {
        if self.node.inputs.len() == 2 {
            return broadcast_all(&[self.lengths(0)?, self.lengths(1)?]);
        }
        let operands: Vec<_> = (0..self.node.inputs.len()).map(|index| self.lengths(index)).collect::<Option<_>>()?;
        broadcast_all(&operands)
    }
}

/// The shape that all broadcast to; none where they do not.
pub fn broadcast_all(shapes: &[&[SymExpr]]) -> Option<Lengths> {
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let length = |behind: usize| {
        let mut lengths = shapes.iter().filter_map(|shape| shape.len().checked_sub(behind + 1).map(|at| &shape[at]));
        lengths.try_fold(ONE, |common, length| broadcast(&common, length))
    };
    (0..rank).rev().map(length).collect()
}
