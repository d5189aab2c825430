//! Symmetric int8 scales: x ≈ scale · q, where q = clip(round(x / scale), -127, 127).

use rayon::prelude::*;

use super::channel::PerChannel;

/// The largest quantized magnitude. -128 stays unused, so that a weight and its negative are equally exact.
pub const LEVELS: f32 = 127.0;

/// How much of the largest magnitude may be clipped away, and in how many steps that is searched.
const SMALLEST_RANGE: f32 = 0.6;
const STEPS: usize = 16;

/// The scale of every channel that makes the sum of squared errors least, for levels up to `limit`.
pub fn least_squares_scales(weights: &PerChannel, limit: f32) -> Vec<f32> {
    let channels = (0..weights.channels()).into_par_iter();
    let scales: Vec<Option<f32>> =
        channels.map(|channel| least_squares_scale(&weights.channel(channel), limit)).collect();
    // Any scale serves a channel of zeros; one that another channel has needs no other number format.
    let any = scales.iter().flatten().copied().reduce(f32::max).unwrap_or(1.0);
    scales.into_iter().map(|scale| scale.unwrap_or(any)).collect()
}

/// Searches the clipping range, then lets q and scale settle: for a given q the best scale is ⟨x, q⟩ / ⟨q, q⟩.
/// `limit` is the largest |q|. None for a channel of zeros.
pub fn least_squares_scale(x: &[f32], limit: f32) -> Option<f32> {
    let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
    if largest < f32::MIN_POSITIVE * limit {
        return None;
    }
    let ranges = (0..=STEPS).map(|step| 1.0 - (1.0 - SMALLEST_RANGE) * step as f32 / STEPS as f32);
    let candidates = ranges.map(|range| largest * range / limit);
    let (_, mut scale) = best(x, limit, candidates, (f32::INFINITY, largest / limit));
    for _ in 0..3 {
        let start = (squared_error(x, scale, limit), scale);
        scale = best(x, limit, std::iter::once(fitted(x, scale, limit)), start).1;
    }
    Some(scale)
}

fn best(x: &[f32], limit: f32, candidates: impl Iterator<Item = f32>, start: (f32, f32)) -> (f32, f32) {
    candidates.map(|scale| (squared_error(x, scale, limit), scale)).fold(start, |a, b| if b.0 < a.0 { b } else { a })
}

fn fitted(x: &[f32], scale: f32, limit: f32) -> f32 {
    let (xq, qq) = x.iter().fold((0f32, 0f32), |(xq, qq), &x| {
        let q = level(x, scale.recip(), limit);
        (xq + x * q, qq + q * q)
    });
    if qq > 0.0 { xq / qq } else { scale }
}

fn squared_error(x: &[f32], scale: f32, limit: f32) -> f32 {
    let inverse = scale.recip();
    const LANES: usize = 8;
    let mut sums = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let error = |x: f32| {
        let e = x - level(x, inverse, limit) * scale;
        e * e
    };
    let rest: f32 = chunks.remainder().iter().map(|&x| error(x)).sum();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += error(x);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The nearest level up to `limit`, ties to even, as a float.
pub fn level(x: f32, inverse_scale: f32, limit: f32) -> f32 {
    // Adding 1.5·2²³ leaves no bits for a fraction: a rounding that vectorizes on every CPU.
    const MAGIC: f32 = 12_582_912.0;
    (x * inverse_scale).clamp(-limit, limit) + MAGIC - MAGIC
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn levels_are_recovered_from_weights_that_lie_on_them() {
        let x: Vec<f32> = [-127, -64, -3, 0, 5, 90, 127].iter().map(|&q| q as f32 * 0.037).collect();
        assert!((least_squares_scale(&x, LEVELS).unwrap() - 0.037).abs() < 1e-6);
    }

    #[test]
    fn a_channel_of_zeros_has_a_usable_scale() {
        let scales = |x: &[f32]| least_squares_scales(&PerChannel::new(Cow::Borrowed(x), &[2, 3], 0), LEVELS);
        assert_eq!(scales(&[0.0; 6]), [1.0, 1.0]);
        assert_eq!(scales(&[0.0, 0.0, 0.0, 1.27, 0.0, -0.01]), [0.01, 0.01]);
    }

    proptest! {
        #[test]
        fn the_error_is_never_above_that_of_the_maximum_scale(x in prop::collection::vec(-1e3f32..1e3, 1..80)) {
            let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
            prop_assume!(largest > 1e-6);
            for limit in [LEVELS, 63.0] {
                let [ours, plain] = [least_squares_scale(&x, limit).unwrap(), largest / limit]
                    .map(|scale| squared_error(&x, scale, limit));
                prop_assert!(ours <= plain * 1.0001, "{ours} > {plain}");
            }
        }

        #[test]
        fn rounding_is_to_even(x in -200f32..200.0) {
            prop_assert_eq!(level(x, 1.0, LEVELS), x.clamp(-127.0, 127.0).round_ties_even());
        }
    }
}
