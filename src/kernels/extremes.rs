//! What floats reach over.

use super::blocked::{BLOCK, blocked_length};
use super::geometry::Images;
use super::widest::widest;

/// Least and largest finite element; zero is taken for one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extremes {
    pub min: f32,
    pub max: f32,
    /// Infinities and NaNs.
    pub non_finite: u64,
}

impl Extremes {
    pub fn of(x: &[f32]) -> Extremes {
        let (chunks, rest) = x.as_chunks::<BLOCK>();
        of_lanes(chunks, BLOCK).with(one_by_one(rest.iter()))
    }

    /// Of images in blocks of channels, without what fills up the last block.
    pub fn of_blocks(images: &Images, x: &[f32]) -> Extremes {
        assert_eq!(x.len(), blocked_length(images), "elements of the images");
        let pixels = images.size[0] * images.size[1];
        let whole = images.channels / BLOCK * pixels;
        let (lanes, rest) = x.as_chunks::<BLOCK>();
        assert!(rest.is_empty(), "elements are in blocks");
        let of_image = |image: &[[f32; BLOCK]]| {
            let (whole, last) = image.split_at(whole);
            of_lanes(whole, BLOCK).with(of_lanes(last, images.channels % BLOCK))
        };
        let images = lanes.chunks(images.channels.div_ceil(BLOCK).max(1) * pixels.max(1));
        images.map(of_image).fold(Extremes::default(), Extremes::with)
    }

    /// Of the elements of both.
    pub fn with(self, other: Extremes) -> Extremes {
        Extremes {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            non_finite: self.non_finite + other.non_finite,
        }
    }
}

/// Of the first lanes alone.
#[allow(clippy::eq_op, reason = "x - x is NaN where x is not finite")]
fn of_lanes(chunks: &[[f32; BLOCK]], count: usize) -> Extremes {
    let (low, high, zero) = widest(
        #[inline(always)]
        || {
            let (mut low, mut high, mut zero) = ([0f32; BLOCK], [0f32; BLOCK], [0f32; BLOCK]);
            for chunk in chunks {
                for (lane, &x) in chunk.iter().enumerate() {
                    low[lane] = if x < low[lane] { x } else { low[lane] };
                    high[lane] = if x > high[lane] { x } else { high[lane] };
                    zero[lane] += x - x;
                }
            }
            (low, high, zero)
        },
    );
    if zero[..count].iter().any(|zero| zero.is_nan()) {
        return one_by_one(chunks.iter().flat_map(|chunk| &chunk[..count]));
    }
    let min = low[..count].iter().fold(0f32, |min, &x| min.min(x));
    let max = high[..count].iter().fold(0f32, |max, &x| max.max(x));
    Extremes { min, max, non_finite: 0 }
}

fn one_by_one<'x>(x: impl Iterator<Item = &'x f32>) -> Extremes {
    x.fold(Extremes::default(), |all, &x| match x.is_finite() {
        true => Extremes { min: all.min.min(x), max: all.max.max(x), ..all },
        false => Extremes { non_finite: all.non_finite + 1, ..all },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::blocked::to_blocks;

    fn extremes(min: f32, max: f32, non_finite: u64) -> Extremes {
        Extremes { min, max, non_finite }
    }

    #[test]
    fn extremes_contain_zero_and_leave_out_what_is_not_finite() {
        let mut x = vec![2.0; 40];
        assert_eq!(Extremes::of(&x), extremes(0.0, 2.0, 0));
        x[7] = -3.0;
        x[39] = 5.0;
        assert_eq!(Extremes::of(&x), extremes(-3.0, 5.0, 0));
        (x[3], x[20], x[38]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        assert_eq!(Extremes::of(&x), extremes(-3.0, 5.0, 3));
        assert_eq!(Extremes::of(&[]), Extremes::default());
    }

    #[test]
    fn what_fills_up_blocks_is_no_element() {
        for channels in [0, 1, 5, 16, 35] {
            let images = Images { batch: 2, size: [3, 2], channels };
            let x: Vec<f32> = (0..images.len()).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
            let mut blocks = vec![0.0; blocked_length(&images)];
            to_blocks(&images, &x, &mut blocks);
            assert_eq!(Extremes::of_blocks(&images, &blocks), Extremes::of(&x), "{channels}");
            for filler in [1e9, f32::NAN] {
                let mut filled = blocks.clone();
                let per_image = filled.len() / 2;
                for (place, x) in filled.iter_mut().enumerate() {
                    let channel = place % per_image.max(1) / (6 * BLOCK) * BLOCK + place % BLOCK;
                    if channel >= channels {
                        *x = filler;
                    }
                }
                assert_eq!(Extremes::of_blocks(&images, &filled), Extremes::of(&x), "{channels}");
            }
            if let Some(last) = x.len().checked_sub(1) {
                let mut x = x;
                x[last] = f32::INFINITY;
                to_blocks(&images, &x, &mut blocks);
                assert_eq!(Extremes::of_blocks(&images, &blocks), Extremes::of(&x), "{channels}");
            }
        }
    }
}
