//! Sums of floats over neighbouring axes, in an order that does not depend on the CPU.

use super::exponential::{LANES, sum};
use super::widest::widest;

/// y[outer, inner] = Σ x[outer, length, inner] over length; as many of `outer` as there are elements.
pub fn sum_axis(x: &[f32], length: usize, inner: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len() * length, "elements of the operand");
    if y.is_empty() || length == 0 {
        return y.fill(0.0);
    }
    widest(
        #[inline(always)]
        || match inner {
            1 => {
                for (y, row) in y.iter_mut().zip(x.chunks_exact(length)) {
                    *y = sum_row(row);
                }
            }
            _ => {
                for (y, rows) in y.chunks_exact_mut(inner).zip(x.chunks_exact(length * inner)) {
                    let (first, rest) = rows.split_at(inner);
                    y.copy_from_slice(first);
                    for row in rest.chunks_exact(inner) {
                        for (y, x) in y.iter_mut().zip(row) {
                            *y += x;
                        }
                    }
                }
            }
        },
    );
}

#[inline(always)]
fn sum_row(row: &[f32]) -> f32 {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in whole {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x;
    }
    sum(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_over_an_axis_is_what_its_definition_gives() {
        for (outer, length, inner) in [(3, 37, 1), (1, 1, 1), (2, 5, 7), (1, 300, 40), (4, 16, 1), (2, 0, 3)] {
            let x: Vec<f32> = (0..outer * length * inner).map(|i| (i * 37 % 101) as f32 / 16.0 - 3.0).collect();
            let mut y = vec![f32::NAN; outer * inner];
            sum_axis(&x, length, inner, &mut y);
            for (place, &y) in y.iter().enumerate() {
                let first = place / inner * length * inner + place % inner;
                let expected: f32 = (0..length).map(|i| x[first + i * inner]).sum();
                assert_eq!(y, expected, "sixteenths are summed without rounding");
            }
        }
    }
}
