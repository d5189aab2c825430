//! Sums of products of floats over any axes, as strided matrix products of the crate gemm.

/// An axis: its length, and the elements between neighbours along it in the left operand, the right one and the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    pub length: usize,
    pub strides: [usize; 3],
}

/// c[batch, m, n] = Σ a[batch, m, k] · b[batch, k, n], where each letter stands for any number of axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StridedProduct {
    /// Axes that are walked one by one.
    outer: Vec<Axis>,
    /// Axes of the sum that are walked one by one.
    outer_k: Vec<Axis>,
    m: Axis,
    n: Axis,
    k: Axis,
}

const ONE: Axis = Axis { length: 1, strides: [0; 3] };

impl StridedProduct {
    /// Axes of each kind stand in the order of the result, or else of the left operand.
    pub fn new(batch: Vec<Axis>, m: Vec<Axis>, n: Vec<Axis>, k: Vec<Axis>) -> StridedProduct {
        let (mut m, mut n, mut k) = (merged(m), merged(n), merged(k));
        let mut outer = merged(batch);
        let [inner_m, inner_n, inner_k] = [&mut m, &mut n, &mut k].map(longest);
        outer.extend(m);
        outer.extend(n);
        StridedProduct { outer, outer_k: k, m: inner_m, n: inner_n, k: inner_k }
    }

    /// Writes all of `c`.
    pub fn run(&self, a: &[f32], b: &[f32], c: &mut [f32]) {
        for (operand, length) in [a.len(), b.len(), c.len()].into_iter().enumerate() {
            assert!(self.reach(operand) < length || self.is_empty(), "the product reaches beyond its operands");
        }
        if self.k.length == 0 || self.outer_k.iter().any(|axis| axis.length == 0) {
            return c.fill(0.0);
        }
        let [m, n, k] = [&self.m, &self.n, &self.k];
        each(&self.outer, [0; 3], &mut |[a_first, b_first, c_first]| {
            let mut is_first = true;
            each(&self.outer_k, [a_first, b_first, 0], &mut |[a_first, b_first, _]| {
                // SAFETY: the operands are as long as all axes reach.
                unsafe {
                    gemm::gemm(
                        m.length,
                        n.length,
                        k.length,
                        c.as_mut_ptr().add(c_first),
                        n.strides[2] as isize,
                        m.strides[2] as isize,
                        !is_first,
                        a.as_ptr().add(a_first),
                        k.strides[0] as isize,
                        m.strides[0] as isize,
                        b.as_ptr().add(b_first),
                        n.strides[1] as isize,
                        k.strides[1] as isize,
                        1.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
                is_first = false;
            });
        });
    }

    fn axes(&self) -> impl Iterator<Item = &Axis> {
        self.outer.iter().chain(&self.outer_k).chain([&self.m, &self.n, &self.k])
    }

    fn is_empty(&self) -> bool {
        self.axes().any(|axis| axis.length == 0)
    }

    /// The offset of the last element of an operand.
    fn reach(&self, operand: usize) -> usize {
        self.axes().map(|axis| axis.length.saturating_sub(1) * axis.strides[operand]).sum()
    }
}

/// Neighbours that are one axis, cut in two, become that axis again.
fn merged(axes: Vec<Axis>) -> Vec<Axis> {
    let mut merged: Vec<Axis> = Vec::new();
    for axis in axes.into_iter().filter(|axis| axis.length != 1) {
        match merged.last_mut() {
            Some(last) if (0..3).all(|i| last.strides[i] == axis.strides[i] * axis.length) => {
                *last = Axis { length: last.length * axis.length, strides: axis.strides };
            }
            _ => merged.push(axis),
        }
    }
    merged
}

fn longest(axes: &mut Vec<Axis>) -> Axis {
    let place = (0..axes.len()).max_by_key(|&place| axes[place].length);
    place.map_or(ONE, |place| axes.remove(place))
}

/// Visits the first element of each operand for all places along `axes`.
fn each(axes: &[Axis], first: [usize; 3], visit: &mut impl FnMut([usize; 3])) {
    let count = axes.iter().map(|axis| axis.length).product::<usize>();
    for index in 0..count {
        let (mut rest, mut place) = (index, first);
        for axis in axes.iter().rev() {
            let at = rest % axis.length;
            rest /= axis.length;
            (0..3).for_each(|i| place[i] += at * axis.strides[i]);
        }
        visit(place);
    }
}
