//! Products that overflow: x86 without VNNI multiplies u8 by i8 in pairs (`vpmaddubsw`), and adds both products in 16 bits.
//!
//! Neighbours along the inner dimension make a pair; its order in a convolution is that of the packed weight: the window's axes,
//! then channels. A channel whose levels need no more than 7 bits never overflows: 2·255·63 < 2¹⁵.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// The largest |q| of weights in 7 bits.
pub const SEVEN_BITS: f32 = 63.0;

/// Inputs that are not among the samples may be larger: each level counts as so many hundredths of itself.
const REACH: i16 = 105;

/// For each channel of `levels`, `[channels, inputs]`, whether a pair overflows for a row of `inputs`, `[rows, inputs]` of
/// unsigned levels, or would if the row were a little larger. Both have their inputs as convolution weights do: channels, then
/// the window's axes, which has `taps` places.
pub fn overflowing(inputs: ArrayView2<u8>, levels: ArrayView2<i8>, taps: usize) -> Vec<bool> {
    let inputs = packed(inputs, taps).mapv(|x| ((x * REACH + 99) / 100).min(255));
    let levels = packed(levels, taps);
    (0..levels.nrows())
        .into_par_iter()
        .map(|channel| {
            let weights = levels.row(channel).to_slice().expect("rows are contiguous");
            inputs.outer_iter().any(|row| {
                let (least, greatest) = reach(row.to_slice().expect("rows are contiguous"), weights);
                least < i32::from(i16::MIN) || greatest > i32::from(i16::MAX)
            })
        })
        .collect()
}

/// The least and the greatest sum of a pair.
fn reach(inputs: &[i16], weights: &[i16]) -> (i32, i32) {
    let pairs = inputs.chunks_exact(2).zip(weights.chunks_exact(2));
    let sums = pairs.map(|(x, w)| i32::from(x[0]) * i32::from(w[0]) + i32::from(x[1]) * i32::from(w[1]));
    sums.fold((0, 0), |(least, greatest), sum| (least.min(sum), greatest.max(sum)))
}

/// In the order of packed weights, with an even number of inputs.
fn packed<T: Copy + Into<i16>>(matrix: ArrayView2<T>, taps: usize) -> Array2<i16> {
    let (rows, width) = matrix.dim();
    let channels = width / taps.max(1);
    let mut packed = Array2::zeros((rows, width.next_multiple_of(2)));
    for (mut to, from) in packed.outer_iter_mut().zip(matrix.outer_iter()) {
        for tap in 0..taps {
            for channel in 0..channels {
                to[tap * channels + channel] = from[channel * taps + tap].into();
            }
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_are_neighbours_in_the_packed_order() {
        // Two channels under a window of two places: packed, channels of one place are neighbours.
        let levels = arr2(&[[127i8, 0, 127, 0], [127, 127, 0, 0]]);
        let inputs = arr2(&[[255u8, 255, 255, 255]]);
        assert_eq!(overflowing(inputs.view(), levels.view(), 2), [true, false]);
        assert_eq!(overflowing(inputs.view(), levels.view(), 1), [false, true]);
    }

    #[test]
    fn an_overflow_takes_the_inputs_that_cause_it() {
        let levels = arr2(&[[127i8, 127, 1], [-127, -127, 0], [127, -127, 127]]);
        assert_eq!(overflowing(arr2(&[[255u8, 255, 255]]).view(), levels.view(), 1), [true, true, false]);
        assert_eq!(overflowing(arr2(&[[200u8, 20, 255]]).view(), levels.view(), 1), [false; 3]);
        // Two of 127·125 stay below 2¹⁵, two of 127·132 do not.
        let near = arr2(&[[125u8, 125, 0]]);
        assert_eq!(overflowing(near.view(), levels.view(), 1), [true, true, false]);
    }

    proptest! {
        #[test]
        fn seven_bits_never_overflow(
            x in prop::collection::vec(any::<u8>(), 18), q in prop::collection::vec(-63i8..=63, 18), taps in prop::sample::select(vec![1usize, 2, 9]),
        ) {
            let x = Array2::from_shape_vec((1, 18), x).unwrap();
            let q = Array2::from_shape_vec((1, 18), q).unwrap();
            prop_assert_eq!(overflowing(x.view(), q.view(), taps), [false]);
        }
    }
}
