//! Shapes of what reshapes, joins, splits, slices, pads and resizes.

use rten_shape_inference::SymExpr;

use super::call::{Attributes, Call, Lengths, ONE, Range, fixed_len, place, places, positions};
use super::expression::{is_cut, number, product, quotient, simplified, sum};
use crate::ir::Attr;

impl Call<'_> {
    pub(super) fn reshaped(&mut self) -> Option<Lengths> {
        let attrs = Attributes(self.node);
        let given = match self.node.attrs.get("shape") {
            Some(Attr::Ints(shape)) => Some(shape.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?),
            _ => self.held(1).and_then(|shape| shape.as_vector()).map(<[SymExpr]>::to_vec),
        };
        let Some(target) = given else {
            let rank = fixed_len(&self.lengths(1)?)?;
            return Some(self.symbols.gen_shape(rank));
        };
        let (x, copies) = (self.lengths(0), attrs.int("allowzero", 0) == 0);
        let copied = |(axis, size): (usize, &SymExpr)| match size {
            SymExpr::Value(-1) => None,
            SymExpr::Value(0) if copies => x.as_ref()?.get(axis).cloned(),
            // A symbol of a target may be 0, which would copy; so may an axis of the tensor it was read from be.
            size => (!is_cut(size) && size.is_positive()).then(|| size.clone()),
        };
        let mut lengths: Vec<Option<SymExpr>> = target.iter().enumerate().map(copied).collect();
        let mut open = (0..target.len()).filter(|&axis| lengths[axis].is_none());
        if let (Some(axis), None) = (open.next(), open.next())
            && target[axis] == SymExpr::Value(-1)
            && let Some(x) = &x
        {
            lengths[axis] = remainder(x, lengths.iter().flatten());
        }
        Some(lengths.into_iter().map(|length| self.or_open(length)).collect())
    }

    pub(super) fn joined(&mut self) -> Option<Lengths> {
        let parts: Vec<Option<Lengths>> = (0..self.node.inputs.len()).map(|index| self.lengths(index)).collect();
        let mut known = parts.iter().flatten();
        let mut joined = known.next()?.clone();
        let axis = place(Attributes(self.node).int("axis", 1), joined.len())?;
        for part in known {
            if part.len() != joined.len() {
                return None;
            }
            for (other, (length, more)) in joined.iter_mut().zip(part).enumerate() {
                if other != axis && matches!(more, SymExpr::Value(_)) {
                    *length = more.clone();
                }
            }
        }
        let lengths = parts.iter().map(|part| part.as_ref().map(|part| &part[axis]));
        let total = lengths.collect::<Option<Vec<_>>>().and_then(|lengths| {
            let (mut fixed, mut open) = (0i64, SymExpr::Value(0));
            for length in lengths {
                match length {
                    SymExpr::Value(n) => fixed += i64::from(*n),
                    other => open = sum(&open, other)?,
                }
            }
            sum(&open, &number(fixed)?)
        });
        joined[axis] = self.or_open(total);
        Some(joined)
    }

    pub(super) fn split(&mut self) -> Option<Vec<Lengths>> {
        let attrs = Attributes(self.node);
        let x = self.lengths(0)?;
        let axis = place(attrs.int("axis", 0), x.len())?;
        let count = self.node.outputs.len() as i64;
        let parts: Vec<SymExpr> = match self.is_given(1, "split") {
            true => match attrs.ints("split") {
                Some(parts) => parts.iter().map(|&n| number(n)).collect::<Option<_>>()?,
                None => match self.held(1).and_then(|parts| parts.as_vector()) {
                    Some(parts) => parts.to_vec(),
                    None => self.symbols.gen_shape(count as usize),
                },
            },
            false => match &x[axis] {
                SymExpr::Value(length) => {
                    let length = i64::from(*length);
                    // Equal parts, the last one smaller where they do not come out even.
                    let part = (length + count - 1) / count;
                    (0..count).map(|index| number(part.min(length - part * index).max(0))).collect::<Option<_>>()?
                }
                length if count == 1 => vec![length.clone()],
                _ => self.symbols.gen_shape(count as usize),
            },
        };
        let with = |part: SymExpr| {
            let mut lengths = x.clone();
            lengths[axis] = part;
            lengths
        };
        (parts.len() as i64 == count).then(|| parts.into_iter().map(with).collect())
    }

    pub(super) fn sliced(&mut self) -> Option<Lengths> {
        let mut x = self.lengths(0)?;
        let Some(slices) = self.slices() else { return Some(self.symbols.gen_shape(x.len())) };
        for (index, Range { axis, start, end, step }) in slices.into_iter().enumerate() {
            let expression = |operand: usize| Some(self.held(operand)?.values()?.get(index)?.clone());
            let end_is_length = expression(2).is_some_and(|end| end == x[axis]);
            let far = end.is_some_and(|end| end >= i64::from(i32::MAX));
            let length = match (&x[axis], start, end) {
                (SymExpr::Value(length), Some(start), Some(end)) => {
                    positions((*length).into(), start, end, step).and_then(|all| number(all.count() as i64))
                }
                (length, Some(0), _) if step == 1 && (far || end_is_length) => Some(length.clone()),
                (length, Some(start), _) if step == 1 && start < 0 && far => {
                    // The last elements, as many as there are.
                    let most = number(start.checked_neg()?)?;
                    simplified(length.min(&most))
                }
                _ => None,
            };
            x[axis] = self.or_open(length);
        }
        Some(x)
    }

    pub(super) fn padded(&mut self) -> Option<Lengths> {
        let mut x = self.lengths(0)?;
        let attribute = Attributes(self.node).ints("pads").or(Attributes(self.node).ints("paddings"));
        let pads = match attribute {
            Some(pads) => Some(pads.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?),
            None => self.held(1).and_then(|pads| pads.as_vector()).map(<[SymExpr]>::to_vec),
        };
        let axes = match self.node.inputs.get(3).copied().flatten() {
            Some(_) => self.ints(3).and_then(|axes| places(&axes, x.len())),
            None => Some((0..x.len()).collect()),
        };
        match (pads, axes) {
            (Some(pads), Some(axes)) if pads.len() == 2 * axes.len() => {
                for (at, &axis) in axes.iter().enumerate() {
                    let longer = sum(&pads[at], &pads[axes.len() + at]).and_then(|pad| sum(&x[axis], &pad));
                    x[axis] = self.or_open(longer);
                }
                Some(x)
            }
            _ => Some(self.symbols.gen_shape(x.len())),
        }
    }

    /// A reduction, or the search for an extreme.
    pub(super) fn reduced(&mut self) -> Option<Lengths> {
        let (x, keep) = (self.lengths(0)?, Attributes(self.node).int("keepdims", 1) != 0);
        match self.reduced_axes() {
            Some(axes) if keep => {
                let kept = |(axis, x): (usize, SymExpr)| if axes.contains(&axis) { ONE } else { x };
                Some(x.into_iter().enumerate().map(kept).collect())
            }
            Some(axes) => {
                let rest = x.into_iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
                Some(rest.map(|(_, x)| x).collect())
            }
            None if keep => Some(self.symbols.gen_shape(x.len())),
            None => None,
        }
    }

    pub(super) fn resized(&mut self) -> Option<Lengths> {
        let attrs = Attributes(self.node);
        let x = self.lengths(0)?;
        let open = |call: &mut Self| Some(call.symbols.gen_shape(x.len()));
        let is_upsample = self.node.op == "Upsample" || self.node.inputs.len() == 2;
        let axes = match attrs.ints("axes") {
            Some(axes) => places(axes, x.len())?,
            None => (0..x.len()).collect(),
        };
        if attrs.text("keep_aspect_ratio_policy").is_some_and(|policy| policy != "stretch") {
            return open(self);
        }
        let mut lengths = x.clone();
        let sizes = self.held(3).and_then(|sizes| sizes.as_vector()).filter(|sizes| !sizes.is_empty());
        if let Some(sizes) = sizes {
            let sizes = sizes.to_vec();
            if sizes.len() != axes.len() {
                return None;
            }
            for (&axis, size) in axes.iter().zip(sizes) {
                lengths[axis] = size;
            }
            return Some(lengths);
        }
        let scales = match self.node.attrs.get("scales") {
            Some(Attr::Floats(scales)) => Some(scales.clone()),
            _ => {
                let scales = self.constants.get(if is_upsample { 1 } else { 2 }).copied().flatten();
                scales.and_then(|scales| Some(scales.floats()?.into_owned()))
            }
        };
        match scales {
            Some(scales) if scales.len() == axes.len() => {
                for (&axis, scale) in axes.iter().zip(scales) {
                    let length = match &x[axis] {
                        length if scale == 1.0 => Some(length.clone()),
                        SymExpr::Value(n) => {
                            // Runtimes differ in how precisely they multiply.
                            let (precise, coarse) = (f64::from(*n) * f64::from(scale), *n as f32 * scale);
                            let same = precise.floor() == f64::from(coarse.floor());
                            same.then(|| number(precise.floor() as i64)).flatten()
                        }
                        length if scale.fract() == 0.0 && scale > 0.0 => product([length, &number(scale as i64)?]),
                        _ => None,
                    };
                    lengths[axis] = self.or_open(length);
                }
                Some(lengths)
            }
            _ => open(self),
        }
    }
}

/// The length that makes `x` and the `others` hold equally many elements.
fn remainder<'e>(x: &[SymExpr], others: impl Iterator<Item = &'e SymExpr>) -> Option<SymExpr> {
    let mut x: Vec<&SymExpr> = x.iter().collect();
    let mut left = Vec::new();
    for other in others {
        match x.iter().position(|length| *length == other) {
            // An axis of length 0 says nothing of what it is replaced by.
            Some(same) if *other != SymExpr::Value(0) => drop(x.swap_remove(same)),
            _ => left.push(other),
        }
    }
    let (x, left) = (product(x)?, product(left)?);
    match left {
        SymExpr::Value(1) => Some(x),
        SymExpr::Value(0) => None,
        left => quotient(&x, &left),
    }
}
