//! Operands that are repeated over the axes of a result.

/// How an operand is repeated over the axes of a result: for each axis its length, and the elements between neighbours,
/// 0 where the operand is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repeated {
    axes: Vec<[usize; 2]>,
}

impl Repeated {
    pub fn new(axes: impl IntoIterator<Item = [usize; 2]>) -> Repeated {
        let mut merged: Vec<[usize; 2]> = Vec::new();
        for [length, stride] in axes.into_iter().filter(|[length, _]| *length != 1) {
            match merged.last_mut() {
                Some(last) if last[1] == stride * length => *last = [last[0] * length, stride],
                _ => merged.push([length, stride]),
            }
        }
        if merged.is_empty() {
            merged.push([1, 0]);
        }
        Repeated { axes: merged }
    }

    /// Whether the elements of so many places are the same wherever a multiple of their number begins.
    pub(super) fn comes_again(&self, places: usize) -> bool {
        let (&[length, stride], outer) = self.axes.split_last().expect("there is an axis");
        let period = if stride == 0 { 1 } else { length };
        outer.iter().all(|&[_, stride]| stride == 0) && places.is_multiple_of(period)
    }

    /// The elements of some places from `start` on, if they lie side by side.
    pub(super) fn slice<'a>(&self, values: &'a [f32], start: usize, count: usize) -> Option<&'a [f32]> {
        let (&[length, stride], outer) = self.axes.split_last()?;
        let column = start % length;
        if stride != 1 || column + count > length {
            return None;
        }
        let first = first_of(outer, start / length) + column;
        Some(&values[first..first + count])
    }

    /// Writes the elements of the result's places from `start` on.
    pub(super) fn fill(&self, values: &[f32], start: usize, tile: &mut [f32]) {
        let (&[length, stride], outer) = self.axes.split_last().expect("there is an axis");
        // Along the next axis the same row may come again and again.
        let (rows, outer) = match outer.split_last() {
            Some((&[rows, 0], outer)) => (rows, outer),
            _ => (1, outer),
        };
        let mut done = 0;
        while done < tile.len() {
            let place = start + done;
            let within = place % (length * rows);
            let first = first_of(outer, place / (length * rows));
            let span = (length * rows - within).min(tile.len() - done);
            let to = &mut tile[done..done + span];
            if stride == 0 {
                to.fill(values[first]);
            } else {
                let period = length.min(span);
                let column = within % length;
                let (to_the_end, from_the_start) = to[..period].split_at_mut(period.min(length - column));
                copy(&values[first + column * stride..], stride, to_the_end);
                copy(&values[first..], stride, from_the_start);
                let mut known = period;
                while known < span {
                    let more = known.min(span - known);
                    to.copy_within(..more, known);
                    known += more;
                }
            }
            done += span;
        }
    }
}

/// The offset of a place along some axes.
fn first_of(axes: &[[usize; 2]], place: usize) -> usize {
    let (mut rest, mut first) = (place, 0);
    for [length, stride] in axes.iter().rev() {
        first += rest % length * stride;
        rest /= length;
    }
    first
}

/// Elements so far apart.
fn copy(values: &[f32], stride: usize, to: &mut [f32]) {
    match stride {
        1 => to.copy_from_slice(&values[..to.len()]),
        _ => to.iter_mut().zip(values.iter().step_by(stride)).for_each(|(y, x)| *y = *x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_operand_is_what_broadcasting_makes_of_it() {
        // [2, 1, 3, 1] and [1, 4, 1, 5] over [2, 4, 3, 5].
        let sizes = [2, 4, 3, 5];
        for (strides, count) in [([3, 0, 1, 0], 6), ([0, 5, 0, 1], 20), ([0, 0, 0, 1], 5), ([0, 0, 0, 0], 1)] {
            let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let repeated = Repeated::new(std::iter::zip(sizes, strides).map(|(length, stride)| [length, stride]));
            let expected: Vec<f32> = (0..120)
                .map(|place| {
                    let index = [place / 60, place / 15 % 4, place / 5 % 3, place % 5];
                    values[std::iter::zip(index, strides).map(|(index, stride)| index * stride).sum::<usize>()]
                })
                .collect();
            for (start, length) in [(0, 120), (7, 50), (59, 2), (13, 107), (61, 4)] {
                let mut tile = vec![f32::NAN; length];
                repeated.fill(&values, start, &mut tile);
                assert_eq!(tile, expected[start..start + length], "{strides:?} from {start}");
                if let Some(slice) = repeated.slice(&values, start, length) {
                    assert_eq!(slice, tile);
                }
            }
            for length in [1, 5, 12, 15, 20, 60].into_iter().filter(|&length| repeated.comes_again(length)) {
                assert!(expected.chunks(length).all(|tile| tile == &expected[..length]), "{strides:?} by {length}");
            }
            assert_eq!(repeated.comes_again(5), strides[..3] == [0; 3]);
        }
    }
}
