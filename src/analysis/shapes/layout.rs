//! Shapes of what reshapes, joins, splits, slices, pads, reduces and resizes.

use rten_shape_inference::SymExpr;

use super::call::{Call, Lengths, ONE, place, places};
use super::expression::{is_cut, number, product, quotient, simplified, sum};
use crate::ir::Attr;

/// What a Slice takes of one axis; start and end are none where they are not numbers.
pub struct Range {
    pub axis: usize,
    pub start: Option<i64>,
    pub end: Option<i64>,
    pub step: i64,
}

impl Range {
    /// The elements that are taken of an axis of this length, where that is known.
    pub fn positions(&self, length: i64) -> Option<impl ExactSizeIterator<Item = i64> + use<>> {
        let (start, end, step) = (self.start?, self.end?, self.step);
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let from_front = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
        let (start, end) = (from_front(start).clamp(low.max(0), high.max(0)), from_front(end).clamp(low, high));
        let apart = if step > 0 { end - start } else { start - end };
        let stride = i64::try_from(step.unsigned_abs()).ok()?;
        let count = if length == 0 || apart <= 0 { 0 } else { (apart - 1) / stride + 1 };
        Some((0..i32::try_from(count).ok()?).map(move |at| start + i64::from(at) * step))
    }
}

impl Call<'_> {
    pub fn reshaped(&mut self) -> Option<Lengths> {
        let given = match self.node.attrs.get("shape") {
            Some(Attr::Ints(shape)) => Some(shape.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?),
            _ => self.vector(1).map(<[SymExpr]>::to_vec),
        };
        let Some(target) = given else {
            let rank = self.count(1)?;
            return Some(self.open_shape(rank));
        };
        let (x, copies) = (self.lengths(0), !self.attrs().flag("allowzero", false));
        let copied = |(axis, size): (usize, &SymExpr)| match size {
            SymExpr::Value(-1) => None,
            SymExpr::Value(0) if copies => x?.get(axis).cloned(),
            // A symbol of a target may be 0, which would copy; so may an axis of the tensor it was read from be.
            size => (!is_cut(size) && size.is_positive()).then(|| size.clone()),
        };
        let mut lengths: Vec<Option<SymExpr>> = target.iter().enumerate().map(copied).collect();
        let mut open = (0..target.len()).filter(|&axis| lengths[axis].is_none());
        if let (Some(axis), None) = (open.next(), open.next())
            && target[axis] == SymExpr::Value(-1)
            && let Some(x) = x
        {
            lengths[axis] = remainder(x, lengths.iter().flatten());
        }
        Some(self.all_or_open(lengths))
    }

    pub fn flattened(&mut self) -> Option<Lengths> {
        let x = self.lengths(0)?;
        let axis = self.attrs().int("axis", 1);
        let axis = if axis < 0 { axis + x.len() as i64 } else { axis };
        let (before, behind) = x.split_at_checked(usize::try_from(axis).ok()?)?;
        Some(self.all_or_open([product(before), product(behind)]))
    }

    pub fn squeezed(&mut self) -> Option<Lengths> {
        let x = self.lengths(0)?;
        let axes = match self.is_given(1, "axes") {
            true => self.axes(1, "axes").map(|axes| places(&axes, x.len())),
            false if x.iter().all(|length| matches!(length, SymExpr::Value(_))) => {
                Some(Some((0..x.len()).filter(|&axis| x[axis] == ONE).collect()))
            }
            false => return None,
        };
        match axes {
            Some(axes) => Some(without(x, &axes?)),
            None => {
                let rank = x.len().checked_sub(self.count_of_axes(1, "axes")?)?;
                Some(self.open_shape(rank))
            }
        }
    }

    pub fn unsqueezed(&mut self) -> Option<Lengths> {
        let x = self.lengths(0)?;
        let rank = x.len() + self.count_of_axes(1, "axes")?;
        let Some(axes) = self.axes(1, "axes") else { return Some(self.open_shape(rank)) };
        let axes = places(&axes, rank)?;
        let mut rest = x.iter().cloned();
        (0..rank).map(|axis| if axes.contains(&axis) { Some(ONE) } else { rest.next() }).collect()
    }

    pub fn expanded(&mut self) -> Option<Lengths> {
        let x = self.lengths(0)?;
        match self.vector(1) {
            Some(target) if target.iter().all(|n| n.is_positive() && !is_cut(n)) => {
                super::layers::broadcast_all(&[x, target])
            }
            _ => {
                let rank = x.len().max(self.count(1)?);
                Some(self.open_shape(rank))
            }
        }
    }

    pub fn tiled(&mut self) -> Option<Lengths> {
        let x = self.lengths(0)?;
        match self.vector(1).filter(|all| all.len() == x.len()) {
            Some(repeats) => Some(self.all_or_open(x.iter().zip(repeats).map(|(x, n)| product([x, n])))),
            None => Some(self.open_shape(x.len())),
        }
    }

    pub fn transposed(&self) -> Option<Lengths> {
        let x = self.lengths(0)?;
        match self.attrs().ints("perm") {
            Some(perm) => {
                let perm = places(perm, x.len()).filter(|perm| perm.len() == x.len())?;
                Some(perm.into_iter().map(|axis| x[axis].clone()).collect())
            }
            None => Some(x.iter().rev().cloned().collect()),
        }
    }

    pub fn joined(&mut self) -> Option<Lengths> {
        let parts: Vec<_> = (0..self.node.inputs.len()).map(|index| self.lengths(index)).collect();
        let mut known = parts.iter().flatten();
        let mut joined = known.next()?.to_vec();
        let axis = place(self.attrs().int("axis", 1), joined.len())?;
        for part in known {
            if part.len() != joined.len() {
                return None;
            }
            for (other, (length, more)) in joined.iter_mut().zip(*part).enumerate() {
                if other != axis && matches!(more, SymExpr::Value(_)) {
                    *length = more.clone();
                }
            }
        }
        let lengths = parts.iter().map(|part| part.map(|part| &part[axis]));
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

    pub fn split(&mut self) -> Option<Vec<Lengths>> {
        let attrs = self.attrs();
        let x = self.lengths(0)?;
        let axis = place(attrs.int("axis", 0), x.len())?;
        let count = self.node.outputs.len() as i64;
        let parts: Vec<SymExpr> = match self.is_given(1, "split") {
            true => match attrs.ints("split") {
                Some(parts) => parts.iter().map(|&n| number(n)).collect::<Option<_>>()?,
                None => match self.vector(1) {
                    Some(parts) => parts.to_vec(),
                    None => self.open_shape(count as usize),
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
                _ => self.open_shape(count as usize),
            },
        };
        let with = |part: SymExpr| {
            let mut lengths = x.to_vec();
            lengths[axis] = part;
            lengths
        };
        (parts.len() as i64 == count).then(|| parts.into_iter().map(with).collect())
    }

    /// The ranges of a Slice, where their axes are known.
    pub fn slices(&self) -> Option<Vec<Range>> {
        let rank = self.rank(0)?;
        let bound = |index: usize, name: &str, at: usize| -> Option<i64> {
            match (self.attrs().ints(name), self.constant(index)) {
                (Some(all), _) => all.get(at).copied(),
                (None, Some(tensor)) => tensor.ints()?.get(at).copied(),
                (None, None) => match self.vector(index)?.get(at)? {
                    SymExpr::Value(n) => Some(i64::from(*n)),
                    _ => None,
                },
            }
        };
        let count = self.count_of_axes(1, "starts")?;
        let axes = match self.is_given(3, "axes") {
            true => self.axes(3, "axes")?,
            false => (0..count as i64).collect(),
        };
        let steps = if self.is_given(4, "steps") { self.axes(4, "steps")? } else { vec![1; count] };
        let axes = places(&axes, rank)?;
        let range = |at: usize| Range {
            axis: axes[at],
            start: bound(1, "starts", at),
            end: bound(2, "ends", at),
            step: steps[at],
        };
        (axes.len() == count && steps.len() == count && !steps.contains(&0)).then(|| (0..count).map(range).collect())
    }

    pub fn sliced(&mut self) -> Option<Lengths> {
        let mut x = self.lengths(0)?.to_vec();
        let Some(slices) = self.slices() else { return Some(self.open_shape(x.len())) };
        for (index, range) in slices.into_iter().enumerate() {
            let length = &mut x[range.axis];
            let new = self.slice_of(length, &range, index);
            *length = self.or_open(new);
        }
        Some(x)
    }

    fn slice_of(&self, length: &SymExpr, range: &Range, index: usize) -> Option<SymExpr> {
        if let SymExpr::Value(length) = length
            && let Some(positions) = range.positions((*length).into())
        {
            return number(positions.len() as i64);
        }
        let zero = SymExpr::Value(0);
        let shortened = |by: i64| simplified(sum(length, &number(by)?)?.max(&zero));
        let far = range.end.is_some_and(|end| end >= i64::from(i32::MAX));
        let end = match range.end {
            Some(end) => number(end),
            None => self.vector(2).and_then(|ends| ends.get(index)).filter(|end| !is_cut(end)).cloned(),
        };
        match (range.start.filter(|_| range.step == 1)?, end) {
            (0, _) if far => Some(length.clone()),
            (0, Some(end)) if end == *length => Some(end),
            (0, Some(SymExpr::Value(end))) if end < 0 => shortened(end.into()),
            (0, Some(end)) if end.is_positive() => simplified(length.min(&end)),
            (start, _) if start > 0 && far => shortened(-start),
            // The last elements, as many as there are.
            (start, _) if start < 0 && far => simplified(length.min(&number(start.checked_neg()?)?)),
            _ => None,
        }
    }

    pub fn padded(&mut self) -> Option<Lengths> {
        let mut x = self.lengths(0)?.to_vec();
        let attribute = self.attrs().ints("pads").or(self.attrs().ints("paddings"));
        let pads = match attribute {
            Some(pads) => Some(pads.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?),
            None => self.vector(1).map(<[SymExpr]>::to_vec),
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
            _ => Some(self.open_shape(x.len())),
        }
    }

    /// A reduction, or the search for an extreme.
    pub fn reduced(&mut self) -> Option<Lengths> {
        let (x, keep) = (self.lengths(0)?, self.attrs().flag("keepdims", true));
        match self.reduced_axes() {
            Some(axes) if keep => {
                let kept = |(axis, x): (usize, &SymExpr)| if axes.contains(&axis) { ONE } else { x.clone() };
                Some(x.iter().enumerate().map(kept).collect())
            }
            Some(axes) => Some(without(x, &axes)),
            None if keep => Some(self.open_shape(x.len())),
            None => {
                let count = self.count_of_axes(1, "axes").filter(|&count| count > 0)?;
                let rank = x.len().checked_sub(count)?;
                Some(self.open_shape(rank))
            }
        }
    }

    /// The axes that a reduction removes; none where they are not known.
    pub fn reduced_axes(&self) -> Option<Vec<usize>> {
        let (attrs, rank) = (self.attrs(), self.rank(0)?);
        if matches!(self.node.op.as_str(), "ArgMax" | "ArgMin") {
            return Some(vec![place(attrs.int("axis", 0), rank)?]);
        }
        let axes = if self.is_given(1, "axes") { self.axes(1, "axes")? } else { vec![] };
        match axes.as_slice() {
            [] if !attrs.flag("noop_with_empty_axes", false) => Some((0..rank).collect()),
            axes => places(axes, rank),
        }
    }

    pub fn resized(&mut self) -> Option<Lengths> {
        let (x, attrs) = (self.lengths(0)?, self.attrs());
        let axes = match attrs.ints("axes") {
            Some(axes) => places(axes, x.len())?,
            None => (0..x.len()).collect(),
        };
        if attrs.text("keep_aspect_ratio_policy").is_some_and(|policy| policy != "stretch") {
            return Some(self.open_shape(x.len()));
        }
        let mut lengths = x.to_vec();
        if let Some(sizes) = self.vector(3).filter(|sizes| !sizes.is_empty()) {
            if sizes.len() != axes.len() {
                return None;
            }
            axes.into_iter().zip(sizes).for_each(|(axis, size)| lengths[axis] = size.clone());
            return Some(lengths);
        }
        match self.scales().filter(|scales| scales.len() == axes.len()) {
            Some(scales) => {
                for (axis, scale) in axes.into_iter().zip(scales) {
                    lengths[axis] = self.or_open(scaled(&x[axis], scale));
                }
                Some(lengths)
            }
            None => Some(self.open_shape(x.len())),
        }
    }

    /// The scales of a Resize, or of the Upsample that it was once.
    fn scales(&self) -> Option<Vec<f32>> {
        if let Some(Attr::Floats(scales)) = self.node.attrs.get("scales") {
            return Some(scales.clone());
        }
        let is_upsample = self.node.op == "Upsample" || self.node.inputs.len() == 2;
        let scales = self.constant(if is_upsample { 1 } else { 2 })?;
        Some(scales.floats()?.into_owned())
    }

    /// A block of pixels becomes channels, or comes from them.
    pub fn blocks(&mut self) -> Option<Lengths> {
        let [n, c, h, w] = self.lengths(0)? else { return None };
        let block = number(self.attrs().int("blocksize", 0)).filter(|block| *block != SymExpr::Value(0))?;
        let area = product([&block, &block])?;
        let rest = self.all_or_open(match self.node.op.as_str() {
            "DepthToSpace" => [quotient(c, &area), product([h, &block]), product([w, &block])],
            _ => [product([c, &area]), quotient(h, &block), quotient(w, &block)],
        });
        Some([std::slice::from_ref(n), &rest].concat())
    }
}

/// The lengths of all other axes.
fn without(x: &[SymExpr], axes: &[usize]) -> Lengths {
    x.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, x)| x.clone()).collect()
}

fn scaled(length: &SymExpr, scale: f32) -> Option<SymExpr> {
    match length {
        length if scale == 1.0 => Some(length.clone()),
        SymExpr::Value(n) => {
            // Runtimes differ in how precisely they multiply.
            let (precise, coarse) = (f64::from(*n) * f64::from(scale), *n as f32 * scale);
            let same = precise.floor() == f64::from(coarse.floor());
            same.then(|| number(precise.floor() as i64)).flatten()
        }
        length if scale.fract() == 0.0 && scale > 0.0 => product([length, &number(scale as i64)?]),
        _ => None,
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
    // Numbers that come out even are divided at once: of other quotients the sign has to be known.
    let fixed = |factor: &&SymExpr| matches!(factor, SymExpr::Value(_));
    let ratio = match (product(x.iter().copied().filter(fixed))?, product(left.iter().copied())?) {
        (SymExpr::Value(x), SymExpr::Value(left)) if left != 0 && x % left == 0 => Some(SymExpr::Value(x / left)),
        _ => None,
    };
    if let Some(ratio) = &ratio {
        return product(x.into_iter().filter(|factor| !fixed(factor)).chain([ratio]));
    }
    match (product(x)?, product(left)?) {
        (_, SymExpr::Value(0)) => None,
        (x, left) => quotient(&x, &left),
    }
}
