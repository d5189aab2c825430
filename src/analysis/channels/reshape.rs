//! Channels of what is reshaped.
//!
//! Elements stay in their order, so that runs of axes become runs of axes with as many elements. Where one axis becomes
//! several, as with the heads of an attention, channels can be cut along one of them: what shares an index on it is tied.

use std::collections::HashSet;
use std::ops::Range;

use rten_shape_inference::SymExpr;

use super::classes::Pin;
use super::rules::{operand, result};
use super::walk::{Axes, LONGEST, Walk};
use crate::analysis::shapes::fixed_length;
use crate::ir::{NodeId, ValueId};

/// Axes of the operand that become axes of the result.
struct Run {
    from: Range<usize>,
    to: Range<usize>,
}

/// How axes become others; what is in no run is not followed.
fn runs(x: &[SymExpr], y: &[SymExpr]) -> Vec<Run> {
    let (mut from, mut to) = (0..x.len(), 0..y.len());
    let mut found = Vec::new();
    while let Some(run) = last_run(&x[from.clone()], &y[to.clone()]) {
        let (i, j) = (from.end - run.0, to.end - run.1);
        found.push(Run { from: i..from.end, to: j..to.end });
        (from.end, to.end) = (i, j);
    }
    while let Some(run) = first_run(&x[from.clone()], &y[to.clone()]) {
        let (i, j) = (from.start + run.0, to.start + run.1);
        found.push(Run { from: from.start..i, to: to.start..j });
        (from.start, to.start) = (i, j);
    }
    found
}

/// How many axes at the end of each have the same number of elements.
fn last_run(x: &[SymExpr], y: &[SymExpr]) -> Option<(usize, usize)> {
    shortest(&x.iter().rev().collect::<Vec<_>>(), &y.iter().rev().collect::<Vec<_>>())
}

fn first_run(x: &[SymExpr], y: &[SymExpr]) -> Option<(usize, usize)> {
    shortest(&x.iter().collect::<Vec<_>>(), &y.iter().collect::<Vec<_>>())
}

fn shortest(x: &[&SymExpr], y: &[&SymExpr]) -> Option<(usize, usize)> {
    let is_one = |length: &&SymExpr| **length == SymExpr::Value(1);
    let long = |length: &SymExpr| fixed_length(length).filter(|&n| n > 0);
    match (x.first(), y.first()) {
        (Some(a), Some(b)) if a == b => return Some((1, 1)),
        // Axes of length 1 come and go.
        (Some(a), _) if is_one(a) => return Some((1, 0)),
        (_, Some(b)) if is_one(b) => return Some((0, 1)),
        (Some(_), Some(_)) => {}
        _ => return None,
    }
    let (mut i, mut j, mut of_x, mut of_y) = (1, 1, long(x[0])?, long(y[0])?);
    while of_x != of_y {
        if of_x < of_y {
            of_x = of_x.checked_mul(long(x.get(i)?)?)?;
            i += 1;
        } else {
            of_y = of_y.checked_mul(long(y.get(j)?)?)?;
            j += 1;
        }
    }
    Some((i, j))
}

impl Walk<'_> {
    pub fn reshaped(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let (x, y) = (operand(node, 0)?, result(node)?);
        let lanes = self.axes_of(x);
        let lengths = self.shapes.lengths(y)?;
        let mut axes = vec![None; lengths.len()];
        let is_known = node.op != "Reshape" || self.shapes.elements(operand(node, 1)?).is_some();
        let runs = if is_known { runs(self.lengths(x), lengths) } else { Vec::new() };
        let mut is_followed = vec![false; lanes.len()];
        for run in runs {
            is_followed[run.from.clone()].fill(true);
            self.run(id, x, &lanes, &run, &mut axes);
        }
        let lost: Vec<_> =
            lanes.iter().zip(is_followed).filter(|(_, followed)| !followed).map(|(lane, _)| *lane).collect();
        self.pin_some(&lost, Pin::Node(id, "it mixes them with lengths that are not fixed"));
        Some(axes)
    }

    fn run(&mut self, id: NodeId, x: ValueId, lanes: &Axes, run: &Run, axes: &mut Axes) {
        let followed: Vec<usize> = run.from.clone().filter(|&axis| lanes[axis].is_some()).collect();
        let y = result(self.model.node(id)).expect("it is reshaped");
        let long = |walk: &Self, value: ValueId, run: &Range<usize>| -> Vec<usize> {
            run.clone().filter(|&axis| walk.length(value, axis) != Some(1)).collect()
        };
        let (from, to) = (long(self, x, &run.from), long(self, y, &run.to));
        let Some(&along) = followed.iter().max_by_key(|&&axis| {
            let lane = lanes[axis].expect("it is followed");
            (!self.is_pinned(lane), std::cmp::Reverse(axis))
        }) else {
            return;
        };
        let lane = lanes[along].expect("it is followed");
        if let ([_], [only]) = (&from[..], &to[..]) {
            axes[*only] = Some(lane);
            return;
        }
        let pin = Pin::Node(id, "it merges them with others");
        followed.iter().filter(|&&axis| axis != along).for_each(|&axis| self.pin_some(&lanes[axis..=axis], pin));
        let length = |walk: &Self, value: ValueId, axes: &[usize]| -> Option<usize> {
            axes.iter().try_fold(1usize, |n, &axis| n.checked_mul(walk.length(value, axis)?))
        };
        let inner = from.iter().copied().filter(|&axis| axis > along).collect::<Vec<_>>();
        let (Some(all), Some(inner)) = (length(self, x, &from), length(self, x, &inner)) else {
            self.pin(lane, pin);
            return;
        };
        if all > LONGEST {
            self.pin(lane, Pin::Node(id, "too many elements are merged with them"));
            return;
        }
        let channels = self.channels(lane).to_vec();
        let flat: Vec<u32> = (0..all).map(|index| channels[index / inner % channels.len()]).collect();
        if let [only] = to[..] {
            axes[only] = Some(self.lane(flat));
            return;
        }
        let (axis, inner) = self.carrier(y, &to, &flat);
        let length = self.length(y, axis).expect("it is in a run of fixed lengths");
        let place = |index: usize| index / inner % length;
        let mut first = vec![None; length];
        for (index, &channel) in flat.iter().enumerate() {
            match first[place(index)] {
                None => first[place(index)] = Some(channel),
                Some(first) => self.sets.unite(first, channel),
            }
        }
        axes[axis] = Some(self.lane(first.into_iter().flatten().collect()));
    }

    /// Of the axes that one becomes, the one along which channels are cut, with the elements behind each of its places: the
    /// heads of an attention, else the one that leaves the most classes, and of equal ones the last.
    fn carrier(&mut self, y: ValueId, to: &[usize], flat: &[u32]) -> (usize, usize) {
        let mut behind = flat.len();
        let mut candidates = Vec::new();
        for &axis in to {
            let length = self.length(y, axis).expect("it is in a run of fixed lengths");
            behind /= length;
            candidates.push((axis, behind, length));
        }
        let heads = candidates.iter().find(|(axis, ..)| self.is_batch_of_product(y, *axis)).copied();
        let (axis, behind, _) = heads.unwrap_or_else(|| {
            let score =
                |walk: &mut Self, (_, behind, length): (usize, usize, usize)| walk.classes_left(flat, behind, length);
            let mut best = (candidates[0], score(self, candidates[0]));
            for &candidate in &candidates[1..] {
                let left = score(self, candidate);
                if left >= best.1 {
                    best = (candidate, left);
                }
            }
            best.0
        });
        (axis, behind)
    }

    /// How many classes are left if all that share a place on an axis are united, pinned ones not counted.
    fn classes_left(&mut self, flat: &[u32], behind: usize, length: usize) -> usize {
        // Places are tied where they share a set: a union-find over places.
        let mut above: Vec<usize> = (0..length).collect();
        fn root(above: &mut [usize], mut place: usize) -> usize {
            while above[place] != place {
                above[place] = above[above[place]];
                place = above[place];
            }
            place
        }
        let mut owner = std::collections::HashMap::new();
        let mut pinned = vec![false; length];
        for (index, &channel) in flat.iter().enumerate() {
            let (place, set) = (index / behind % length, self.sets.find(channel));
            pinned[place] |= self.sets.pin_of(set).is_some();
            let known = *owner.entry(set).or_insert(place);
            let (a, b) = (root(&mut above, known), root(&mut above, place));
            above[a.max(b)] = a.min(b);
        }
        let held: HashSet<usize> = (0..length).filter(|&place| pinned[place]).map(|p| root(&mut above, p)).collect();
        (0..length).filter(|&place| root(&mut above, place) == place && !held.contains(&place)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(x: &[SymExpr], y: &[SymExpr]) -> Vec<(Range<usize>, Range<usize>)> {
        let mut all: Vec<_> = runs(x, y).into_iter().map(|run| (run.from, run.to)).collect();
        all.sort_by_key(|(from, to)| (from.start, to.start));
        all
    }

    #[test]
    fn runs_have_equal_numbers_of_elements() {
        let n = SymExpr::pos_var("N");
        let v = |n: i32| SymExpr::Value(n);
        let heads = told(&[n.clone(), v(768)], &[n.clone(), v(12), v(64)]);
        assert_eq!(heads, [(0..1, 0..1), (1..2, 1..3)]);
        let ones = told(&[n.clone(), v(8), v(1), v(1)], &[n.clone(), v(8)]);
        assert_eq!(ones, [(0..1, 0..1), (1..2, 1..2), (2..3, 2..2), (3..4, 2..2)]);
        let flat = told(&[n.clone(), v(4), v(3), v(2)], &[n.clone(), v(24)]);
        assert_eq!(flat, [(0..1, 0..1), (1..4, 1..2)]);
        let shuffle = told(&[n.clone(), v(6), v(5), v(5)], &[n.clone(), v(2), v(3), v(5), v(5)]);
        assert_eq!(shuffle, [(0..1, 0..1), (1..2, 1..3), (2..3, 3..4), (3..4, 4..5)]);
        let mixed = told(&[n.clone(), v(3), v(8)], &[(n.clone() * v(3)).simplify(), v(8)]);
        assert_eq!(mixed, [(2..3, 1..2)]);
        let grouped = told(&[n.clone(), v(6), v(4)], &[n, v(2), v(12)]);
        assert_eq!(grouped, [(0..1, 0..1), (1..3, 1..3)]);
    }
}
