//! Elements of results, as exporters compute sizes: one arm for operators that share a rule.

use ndarray::{Array1, ArrayD, ArrayViewD, Axis, IxDyn, Zip, arr0, concatenate};
use rten_shape_inference::SymExpr;

use super::call::{Call, place, places};
use super::expression::{difference, equal, is_cut, number, product, quotient, simplified, sum};
use super::{MOST_ELEMENTS, fixed_lengths, infer};
use crate::ir::Attr;

type Elements = ArrayD<SymExpr>;

impl Call<'_> {
    /// The results where their elements are known.
    pub fn computed(&mut self) -> Option<Vec<Elements>> {
        match self.node.op.as_str() {
            "Split" => self.split_elements(),
            _ => Some(vec![self.computed_one()?]),
        }
    }

    fn computed_one(&mut self) -> Option<Elements> {
        let (node, attrs) = (self.node, self.attrs());
        match node.op.as_str() {
            "Identity" | "Dropout" => Some(self.held(0)?.to_owned()),
            "Cast" => {
                let to = attrs.int("to", 0);
                let kept = |x: &SymExpr| match to {
                    6 | 7 => !is_cut(x),
                    9 => matches!(x, SymExpr::Value(0 | 1)),
                    _ => false,
                };
                self.held(0).filter(|held| held.iter().all(kept)).map(|held| held.to_owned())
            }
            "Constant" => match (node.attrs.first()?, node.attrs.len()) {
                ((_, Attr::Int(n)), 1) => Some(arr0(number(*n)?).into_dyn()),
                ((_, Attr::Ints(all)), 1) if all.len() <= MOST_ELEMENTS => {
                    vector(all.iter().map(|&n| number(n)).collect::<Option<_>>()?)
                }
                ((_, Attr::Tensor(tensor)), 1) => {
                    let elements = infer::constant(tensor).elements?;
                    ArrayD::from_shape_vec(tensor.shape(), elements).ok()
                }
                _ => None,
            },
            "Shape" => {
                let lengths = self.lengths(0)?;
                let rank = lengths.len() as i64;
                let place = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
                let (start, end) = (place(attrs.int("start", 0)), place(attrs.int("end", rank)));
                vector(lengths.get(start..end).unwrap_or_default().to_vec())
            }
            "Size" => Some(arr0(product(self.lengths(0)?)?).into_dyn()),

            "Add" => self.elementwise(sum),
            "Sub" => self.elementwise(difference),
            "Mul" => self.elementwise(|x, y| product([x, y])),
            "Div" => self.elementwise(quotient),
            "Mod" => self.elementwise(|x, y| match (x, y) {
                (SymExpr::Value(x), SymExpr::Value(y)) if *x >= 0 && *y > 0 => Some(SymExpr::Value(x % y)),
                _ => None,
            }),
            "Max" => self.elementwise(|x, y| extreme(x, y, i32::max, |x, y| x.max(y))),
            "Min" => self.elementwise(|x, y| extreme(x, y, i32::min, |x, y| x.min(y))),
            "Equal" => self.elementwise(|x, y| equal(x, y).map(truth)),
            "Less" => self.compare(|x, y| x < y),
            "LessOrEqual" => self.compare(|x, y| x <= y),
            "Greater" => self.compare(|x, y| x > y),
            "GreaterOrEqual" => self.compare(|x, y| x >= y),
            "And" => self.compare(|x, y| x != 0 && y != 0),
            "Or" => self.compare(|x, y| x != 0 || y != 0),
            "Not" => self.map(|x| equal(x, &SymExpr::Value(0)).map(truth)),
            "Neg" => self.map(|x| difference(&SymExpr::Value(0), x)),
            "Abs" => self.map(|x| match x {
                SymExpr::Value(n) => number(i64::from(*n).abs()),
                x => x.is_positive().then(|| x.clone()),
            }),
            "Where" => {
                let [condition, x, y] = [self.held(0)?, self.held(1)?, self.held(2)?];
                let shape = common_shape(&[condition.shape(), x.shape(), y.shape()])?;
                let all = Zip::from(condition.broadcast(shape.clone())?)
                    .and(x.broadcast(shape.clone())?)
                    .and(y.broadcast(shape)?);
                sure(all.map_collect(|condition, x, y| match condition {
                    SymExpr::Value(0) => Some(y.clone()),
                    SymExpr::Value(_) => Some(x.clone()),
                    _ => (x == y).then(|| x.clone()),
                }))
            }

            "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => {
                let both = |x: &SymExpr, y: &SymExpr| match node.op.as_str() {
                    "ReduceProd" => product([x, y]),
                    "ReduceSum" => sum(x, y),
                    "ReduceMax" => extreme(x, y, i32::max, |x, y| x.max(y)),
                    _ => extreme(x, y, i32::min, |x, y| x.min(y)),
                };
                let mut reduced = self.held(0).filter(|held| !held.iter().any(is_cut))?.to_owned();
                let mut axes = self.reduced_axes()?;
                axes.sort_unstable();
                for &axis in axes.iter().rev() {
                    reduced = sure(reduced.map_axis(Axis(axis), |lane| {
                        let mut elements = lane.iter();
                        let first = elements.next()?.clone();
                        elements.try_fold(first, |so_far, x| both(&so_far, x))
                    }))?;
                }
                if attrs.flag("keepdims", true) {
                    axes.iter().for_each(|&axis| reduced.insert_axis_inplace(Axis(axis)));
                }
                Some(reduced)
            }

            "Concat" => {
                let parts: Vec<ArrayViewD<SymExpr>> =
                    (0..node.inputs.len()).map(|index| self.held(index)).collect::<Option<_>>()?;
                let axis = place(attrs.int("axis", 1), parts.first()?.ndim())?;
                concatenate(Axis(axis), &parts).ok()
            }
            "Gather" => {
                let (data, indices) = (self.held(0)?, self.held(1)?);
                let axis = place(attrs.int("axis", 0), data.ndim())?;
                let length = data.shape()[axis];
                let at = |index: &SymExpr| match index {
                    SymExpr::Value(n) => place((*n).into(), length),
                    _ => None,
                };
                let picked = data.select(Axis(axis), &indices.iter().map(at).collect::<Option<Vec<_>>>()?);
                let shape = [&data.shape()[..axis], indices.shape(), &data.shape()[axis + 1..]].concat();
                picked.into_shape_with_order(shape).ok()
            }
            "Slice" => {
                let mut data = self.held(0)?.to_owned();
                for slice in self.slices()? {
                    let length = data.shape()[slice.axis] as i64;
                    let picked: Vec<usize> = slice.positions(length)?.map(|at| at as usize).collect();
                    data = data.select(Axis(slice.axis), &picked);
                }
                Some(data)
            }
            "Transpose" => {
                let data = self.held(0)?;
                let axes = match attrs.ints("perm") {
                    Some(perm) => places(perm, data.ndim()).filter(|axes| axes.len() == data.ndim())?,
                    None => (0..data.ndim()).rev().collect(),
                };
                Some(data.permuted_axes(axes).to_owned())
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
                let data = self.held(0)?;
                let shape = self.computed_shape()?;
                data.to_shape(shape).ok().map(|data| data.into_owned())
            }
            "Expand" => {
                let data = self.held(0)?;
                let shape = self.computed_shape()?;
                Some(data.broadcast(shape)?.to_owned())
            }
            "Tile" => {
                let mut data = self.held(0)?.to_owned();
                let repeats = self.ints(1).filter(|repeats| repeats.len() == data.ndim())?;
                self.computed_shape()?;
                for (axis, repeats) in repeats.into_iter().enumerate() {
                    let length = data.shape()[axis];
                    let again: Vec<usize> = (0..repeats).flat_map(|_| 0..length).collect();
                    data = data.select(Axis(axis), &again);
                }
                Some(data)
            }
            "ConstantOfShape" => {
                let Some(Attr::Tensor(value)) = node.attrs.get("value") else { return None };
                let element = number(value.ints().filter(|ints| ints.len() == 1)?[0])?;
                Some(ArrayD::from_elem(self.computed_shape()?, element))
            }
            "Range" => {
                let [start, limit, step] = [self.scalar(0)?, self.scalar(1)?, self.scalar(2)?];
                let count = rounds_of_range(start, limit, step).filter(|&n| n <= MOST_ELEMENTS as i64)?;
                vector((0..count).map(|at| number(start + at * step)).collect::<Option<_>>()?)
            }
            _ => None,
        }
    }

    fn split_elements(&mut self) -> Option<Vec<Elements>> {
        let data = self.held(0)?;
        let axis = Axis(place(self.attrs().int("axis", 0), data.ndim())?);
        let parts: Vec<usize> =
            self.split()?.iter().map(|part| super::fixed_length(&part[axis.0])).collect::<Option<_>>()?;
        let mut rest = data;
        let mut results = Vec::new();
        for part in parts {
            if part > rest.len_of(axis) {
                return None;
            }
            let (taken, left) = rest.split_at(axis, part);
            results.push(taken.to_owned());
            rest = left;
        }
        Some(results)
    }

    /// The shape of a result that is small enough to hold elements.
    fn computed_shape(&mut self) -> Option<Vec<usize>> {
        let shape = fixed_lengths(self.shapes()?.first()?)?;
        let count = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n))?;
        (count <= MOST_ELEMENTS && shape.len() <= MOST_ELEMENTS).then_some(shape)
    }

    /// `f` of the elements of two tensors, broadcast. Numbers that stand for larger ones are not computed with.
    fn elementwise(&self, f: impl Fn(&SymExpr, &SymExpr) -> Option<SymExpr>) -> Option<Elements> {
        let [a, b] = match self.node.inputs.len() {
            2 => [self.held(0)?, self.held(1)?],
            _ => return None,
        };
        let shape = common_shape(&[a.shape(), b.shape()])?;
        let both = Zip::from(a.broadcast(shape.clone())?).and(b.broadcast(shape)?);
        sure(both.map_collect(|x, y| f(x, y).filter(|_| !is_cut(x) && !is_cut(y))))
    }

    /// A comparison, where both sides are numbers.
    fn compare(&self, holds: impl Fn(i32, i32) -> bool) -> Option<Elements> {
        self.elementwise(|x, y| match (x, y) {
            (SymExpr::Value(x), SymExpr::Value(y)) => Some(truth(holds(*x, *y))),
            _ => None,
        })
    }

    fn map(&self, f: impl Fn(&SymExpr) -> Option<SymExpr>) -> Option<Elements> {
        sure(self.held(0)?.map(|x| f(x).filter(|_| !is_cut(x))))
    }
}

fn vector(elements: Vec<SymExpr>) -> Option<Elements> {
    Some(Array1::from_vec(elements).into_dyn())
}

/// All elements, if each is known.
fn sure(elements: ArrayD<Option<SymExpr>>) -> Option<Elements> {
    let shape = elements.raw_dim();
    ArrayD::from_shape_vec(shape, elements.into_iter().collect::<Option<Vec<_>>>()?).ok()
}

/// The shape that all broadcast to, if it is a small one.
fn common_shape(shapes: &[&[usize]]) -> Option<IxDyn> {
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let length = |axis: usize| {
        // Counted from the back.
        let mut lengths = shapes.iter().filter_map(|shape| shape.len().checked_sub(axis + 1).map(|at| shape[at]));
        lengths.try_fold(1, |common, length| match (common, length) {
            (1, other) | (other, 1) => Some(other),
            (common, length) => (common == length).then_some(common),
        })
    };
    let shape: Vec<usize> = (0..rank).rev().map(length).collect::<Option<_>>()?;
    let count = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n))?;
    (count <= MOST_ELEMENTS).then(|| IxDyn(&shape))
}

fn truth(holds: bool) -> SymExpr {
    SymExpr::Value(holds.into())
}

fn extreme(
    x: &SymExpr,
    y: &SymExpr,
    of_numbers: fn(i32, i32) -> i32,
    of_others: fn(&SymExpr, &SymExpr) -> SymExpr,
) -> Option<SymExpr> {
    match (x, y) {
        (SymExpr::Value(x), SymExpr::Value(y)) => Some(SymExpr::Value(of_numbers(*x, *y))),
        _ => simplified(of_others(x, y)),
    }
}

/// How many numbers a Range has.
pub fn rounds_of_range(start: i64, limit: i64, step: i64) -> Option<i64> {
    let (apart, stride) = if step > 0 { (limit - start, step) } else { (start - limit, -step) };
    (step != 0).then(|| if apart <= 0 { 0 } else { (apart - 1) / stride + 1 })
}
