use super::*;
use crate::kernels::exponential;

/// A matrix with gaps, or transposed, and its elements.
struct Operand {
    values: Vec<f32>,
    size: [usize; 2],
    strides: [usize; 2],
}

impl Operand {
    fn random(noise: &mut Noise, size: [usize; 2], reach: f32) -> Operand {
        let gap = noise.below(3) as usize;
        let strides = match noise.below(3) {
            0 => [size[1] + gap, 1],
            1 => [1, size[0] + gap],
            _ => [2 * size[1] + gap, 2],
        };
        let length = size[0] * strides[0] + size[1] * strides[1];
        Operand { values: (0..length).map(|_| noise.real(-reach, reach)).collect(), size, strides }
    }

    fn view(&self) -> FloatMatrix<'_> {
        FloatMatrix { values: &self.values, size: self.size, strides: self.strides }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.strides[0] + column * self.strides[1]].into()
    }
}

proptest! {
    #[test]
    fn attention_is_the_softmax_of_products_times_values(
        (rows, keys) in (1usize..60, 1usize..50), (depth, width) in (1usize..40, 1usize..40),
        is_masked in any::<bool>(), scale in prop::sample::select(vec![1.0f32, 0.3]), seed in any::<u64>(),
    ) {
        let mut noise = Noise::new(seed);
        let q = Operand::random(&mut noise, [rows, depth], 1.0);
        let k = Operand::random(&mut noise, [depth, keys], 1.0);
        let v = Operand::random(&mut noise, [keys, width], 1.0);
        let mask = Operand::random(&mut noise, [rows, keys], 5.0);
        let stride = width + 3;
        let mut y = vec![9.0; rows * stride];
        let mask = is_masked.then_some(mask);
        let attention = Attention {
            q: q.view(), k: k.view(), v: v.view(), mask: mask.as_ref().map(Operand::view), scale,
        };
        attention.run(&mut y, stride);
        for row in 0..rows {
            let score = |key: usize| {
                let product: f64 = (0..depth).map(|at| q.at(row, at) * k.at(at, key)).sum();
                product * f64::from(scale) + mask.as_ref().map_or(0.0, |mask| mask.at(row, key))
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            for column in 0..width {
                let expected: f64 = (0..keys).map(|key| (scores[key] - max).exp() / sum * v.at(key, column)).sum();
                prop_assert!((f64::from(y[row * stride + column]) - expected).abs() < 1e-5);
            }
            prop_assert!(y[row * stride + width..][..3].iter().all(|&y| y == 9.0), "a gap was written to");
        }
    }

    #[test]
    fn rows_are_normalized(rows in 1usize..4, length in 1usize..70, has_bias in any::<bool>(), seed in any::<u64>()) {
        let mut noise = Noise::new(seed);
        let mut reals = |count: usize| (0..count).map(|_| noise.real(-3.0, 3.0)).collect::<Vec<f32>>();
        let (x, scale, bias) = (reals(rows * length), reals(length), reals(length));
        let mut y = x.clone();
        layer_normalization(&mut y, 1e-3, &scale, has_bias.then_some(&*bias));
        for (x, y) in x.chunks(length).zip(y.chunks(length)) {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / length as f64;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / length as f64;
            for at in 0..length {
                let normal = (f64::from(x[at]) - mean) / (variance + 1e-3).sqrt();
                let expected = normal * f64::from(scale[at]) + if has_bias { f64::from(bias[at]) } else { 0.0 };
                prop_assert!((f64::from(y[at]) - expected).abs() < 1e-4, "{} {expected}", y[at]);
            }
        }
    }

    #[test]
    fn exp_is_right_to_two_units_of_the_last_place(x in -87.3f32..0.0) {
        let expected = f64::from(x).exp();
        let unit = f64::from((expected as f32).next_up() - expected as f32);
        for found in [exponential::exp_of_negative::<true>(x), exponential::exp_of_negative::<false>(x)] {
            prop_assert!((f64::from(found) - expected).abs() <= 2.0 * unit, "{found} {expected}");
        }
    }
}

#[test]
fn exp_has_its_limits() {
    assert_eq!(exponential::exp_of_negative::<true>(f32::NEG_INFINITY), 0.0);
    assert_eq!(exponential::exp_of_negative::<true>(-1e30), 0.0);
    assert_eq!(exponential::exp_of_negative::<true>(0.0), 1.0);
    assert!(exponential::exp_of_negative::<true>(f32::NAN).is_nan());
}
