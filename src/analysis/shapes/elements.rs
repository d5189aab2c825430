//! Elements of results, as exporters compute sizes: one arm for operators that share a rule.

use rten_shape_inference::{SymExpr, SymTensor};

use super::MOST_ELEMENTS;
use super::call::{Attributes, Call, Range, positions, steps};
use super::expression::{difference, equal, is_cut, number, product, quotient, simplified, sum};
use crate::ir::Attr;

impl Call<'_> {
    /// The result where its elements are known.
    pub(super) fn computed(&mut self) -> Option<SymTensor> {
        let attrs = Attributes(self.node);
        let node = self.node;
        match node.op.as_str() {
            "Identity" | "Dropout" => self.held(0).cloned(),
            "Cast" => {
                let to = attrs.int("to", 0);
                let kept = |x: &SymExpr| match to {
                    6 | 7 => !is_cut(x),
                    9 => matches!(x, SymExpr::Value(0 | 1)),
                    _ => false,
                };
                self.held(0).filter(|held| held.values().is_some_and(|xs| xs.iter().all(kept))).cloned()
            }
            "Constant" => match (node.attrs.first()?, node.attrs.len()) {
                ((_, Attr::Int(n)), 1) => Some(SymTensor::from_scalar(number(*n)?)),
                ((_, Attr::Ints(all)), 1) if all.len() <= MOST_ELEMENTS => {
                    Some(SymTensor::from_vec(all.iter().map(|&n| number(n)).collect::<Option<_>>()?))
                }
                ((_, Attr::Tensor(tensor)), 1) => Some(super::constant(tensor)),
                _ => None,
            },
            "Shape" => {
                let lengths = self.lengths(0)?;
                let rank = lengths.len() as i64;
                let place = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
                let (start, end) = (place(attrs.int("start", 0)), place(attrs.int("end", rank)));
                Some(SymTensor::from_vec(lengths.get(start..end).unwrap_or_default().to_vec()))
            }
            "Size" => Some(SymTensor::from_scalar(product(&self.lengths(0)?)?)),

            "Add" => self.elementwise(sum),
            "Sub" => self.elementwise(difference),
            "Mul" => self.elementwise(|x, y| product([x, y])),
            "Div" => self.elementwise(quotient),
            "Equal" => self.elementwise(|x, y| equal(x, y).map(|same| SymExpr::Value(same.into()))),
            "Neg" => self.map(|x| difference(&SymExpr::Value(0), x)),
            "Max" => self.elementwise(|x, y| extreme(x, y, i32::max, |x, y| x.max(y))),
            "Min" => self.elementwise(|x, y| extreme(x, y, i32::min, |x, y| x.min(y))),
            "Where" => {
                let (condition, [x, y]) = (self.held(0)?, [self.held(1)?, self.held(2)?]);
                let all = [condition, x, y].map(|held| held.values().unwrap_or_default());
                let rank = [condition, x, y].into_iter().filter_map(SymTensor::ndim).max()?;
                let count = all.iter().map(|values| values.len()).max()?;
                let at = |values: &[SymExpr], index: usize| match values.len() {
                    1 => values.first().cloned(),
                    n if n == count => values.get(index).cloned(),
                    _ => None,
                };
                let chosen = (0..count).map(|index| match at(all[0], index)? {
                    SymExpr::Value(0) => at(all[2], index),
                    SymExpr::Value(_) => at(all[1], index),
                    _ => at(all[1], index).filter(|x| at(all[2], index).as_ref() == Some(x)),
                });
                held(chosen.collect::<Option<_>>()?, rank)
            }

            "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => {
                let (values, keep) = (self.held(0)?.as_vector()?, attrs.int("keepdims", 1) != 0);
                let all = matches!(self.reduced_axes()?.as_slice(), [0]);
                let mut values = values.iter();
                let first = values.next()?.clone();
                let reduced = values.try_fold(first, |so_far, x| match node.op.as_str() {
                    "ReduceProd" => product([&so_far, x]),
                    "ReduceSum" => sum(&so_far, x),
                    "ReduceMax" => extreme(&so_far, x, i32::max, |x, y| x.max(y)),
                    _ => extreme(&so_far, x, i32::min, |x, y| x.min(y)),
                })?;
                all.then(|| held(vec![reduced], keep.into())).flatten()
            }

            "Concat" => {
                let parts = (0..node.inputs.len()).map(|index| self.held(index)?.as_vector());
                let all = parts.collect::<Option<Vec<_>>>()?.concat();
                (all.len() <= MOST_ELEMENTS).then(|| SymTensor::from_vec(all))
            }
            "Gather" => {
                let data = self.held(0)?.as_vector()?;
                let index = self.held(1)?;
                let picked = index.values()?.iter().map(|at| match at {
                    SymExpr::Value(at) if *at < 0 => data.get(data.len().checked_add_signed(*at as isize)?).cloned(),
                    SymExpr::Value(at) => data.get(*at as usize).cloned(),
                    _ => None,
                });
                held(picked.collect::<Option<_>>()?, index.ndim()?)
            }
            "Slice" => {
                let data = self.held(0)?.as_vector()?;
                let [Range { axis: 0, start, end, step }] = self.slices()?[..] else { return None };
                let (start, end) = (start?, end?);
                let picked = positions(data.len() as i64, start, end, step)?;
                Some(SymTensor::from_vec(picked.map(|at| data[at as usize].clone()).collect()))
            }
            "Squeeze" => {
                let data = self.held(0)?;
                let [only] = data.values()? else { return None };
                let axes = self.axes(1, "axes");
                let axes = if self.is_given(1, "axes") { axes? } else { (0..data.ndim()? as i64).collect() };
                match (data.ndim()?, axes.as_slice()) {
                    (1, [0 | -1]) => Some(SymTensor::from_scalar(only.clone())),
                    (_, []) => Some(data.clone()),
                    _ => None,
                }
            }
            "Unsqueeze" => match (self.held(0)?.as_scalar()?, self.axes(1, "axes")?.as_slice()) {
                (only, [0 | -1]) => Some(SymTensor::from_vec(vec![only.clone()])),
                _ => None,
            },
            "Reshape" | "Flatten" | "Expand" | "Tile" => {
                let values = self.held(0)?.values()?.to_vec();
                let shape = self.shapes()?.into_iter().next()?;
                let same = match shape.as_slice() {
                    [] => values.len() == 1,
                    [SymExpr::Value(n)] => usize::try_from(*n).is_ok_and(|n| n == values.len()),
                    _ => false,
                };
                match (shape.as_slice(), &values[..]) {
                    _ if same => held(values, shape.len()),
                    ([SymExpr::Value(n)], [x]) if (1..=MOST_ELEMENTS as i32).contains(n) => {
                        Some(SymTensor::from_vec(vec![x.clone(); *n as usize]))
                    }
                    _ => None,
                }
            }
            "ConstantOfShape" => {
                let Some(Attr::Tensor(value)) = node.attrs.get("value") else { return None };
                let element = number(value.ints().filter(|ints| ints.len() == 1)?[0])?;
                match self.held(0)?.as_vector()? {
                    [] => Some(SymTensor::from_scalar(element)),
                    [SymExpr::Value(n)] if (0..=MOST_ELEMENTS as i32).contains(n) => {
                        Some(SymTensor::from_vec(vec![element; *n as usize]))
                    }
                    _ => None,
                }
            }
            "Range" => {
                let ends: [i64; 3] = [self.scalar(0)?, self.scalar(1)?, self.scalar(2)?];
                let count = steps(ends)?;
                let elements = (0..count.min(MOST_ELEMENTS as i64 + 1)).map(|at| number(ends[0] + at * ends[2]));
                let elements: Vec<_> = elements.collect::<Option<_>>()?;
                (elements.len() <= MOST_ELEMENTS).then(|| SymTensor::from_vec(elements))
            }
            _ => None,
        }
    }

    /// `f` of the elements of two tensors, one of which may be a single element.
    fn elementwise(&self, f: impl Fn(&SymExpr, &SymExpr) -> Option<SymExpr>) -> Option<SymTensor> {
        let [a, b] = match self.operands.len() {
            2 => [self.held(0)?, self.held(1)?],
            _ => return None,
        };
        let (xs, ys) = (a.values()?, b.values()?);
        let rank = a.ndim()?.max(b.ndim()?);
        let results: Option<Vec<SymExpr>> = match (xs, ys) {
            ([x], ys) => ys.iter().map(|y| f(x, y)).collect(),
            (xs, [y]) => xs.iter().map(|x| f(x, y)).collect(),
            _ if xs.len() == ys.len() => xs.iter().zip(ys).map(|(x, y)| f(x, y)).collect(),
            _ => None,
        };
        // Numbers that stand for larger ones are not computed with.
        let cut = xs.iter().chain(ys).any(is_cut);
        held(results.filter(|_| !cut)?, rank)
    }

    fn map(&self, f: impl Fn(&SymExpr) -> Option<SymExpr>) -> Option<SymTensor> {
        let x = self.held(0)?;
        let results = x.values()?.iter().map(|x| f(x).filter(|_| !is_cut(x)));
        held(results.collect::<Option<_>>()?, x.ndim()?)
    }
}

fn held(mut elements: Vec<SymExpr>, rank: usize) -> Option<SymTensor> {
    match (rank, elements.len()) {
        (0, 1) => elements.pop().map(SymTensor::from_scalar),
        (1, _) => Some(SymTensor::from_vec(elements)),
        _ => None,
    }
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
