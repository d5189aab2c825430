use super::*;
use crate::kernels::blocked::FloatIsa;
use crate::kernels::{exponential, rounded};

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
    fn rows_are_normalized(
        rows in 1usize..4, length in 1usize..70, has_bias in any::<bool>(), has_other in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut noise = Noise::new(seed);
        let mut reals = |count: usize| (0..count).map(|_| noise.real(-3.0, 3.0)).collect::<Vec<f32>>();
        let (x, scale, bias) = (reals(rows * length), reals(length), reals(length));
        let other: Option<Vec<f32>> = has_other.then(|| x.iter().map(|x| x * x).collect());
        let of = LayerNormalization { epsilon: 1e-3, scale: scale.clone(), bias: has_bias.then(|| bias.clone()) };
        let mut y = vec![f32::NAN; x.len()];
        of.run(&x, other.as_deref(), &mut y);
        let x: Vec<f32> = match other {
            Some(other) => x.iter().zip(other).map(|(x, other)| x + other).collect(),
            None => x,
        };
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
        for found in [exponential::exp_of_negative(x), rounded::exp_of_negative::<true>(x), rounded::exp_of_negative::<false>(x)] {
            prop_assert!((f64::from(found) - expected).abs() <= 2.0 * unit, "{found} {expected}");
        }
    }

    #[test]
    fn functions_are_right_to_some_units_of_the_last_place(x in -100f32..100.0, scale in -12i32..1) {
        let x = x * (f32::from(scale as i16)).exp2();
        let of = f64::from(x);
        let close = |found: f32, expected: f64, units: f64| {
            let unit = f64::from((expected.abs() as f32).next_up() - expected.abs() as f32);
            (f64::from(found) - expected).abs() <= units * unit || (found.is_infinite() && expected > f32::MAX.into())
        };
        prop_assert!(close(exponential::exp(x), of.exp(), 2.0), "exp {x}");
        prop_assert!(close(exponential::tanh(x), of.tanh(), 4.0), "tanh {x}");
        prop_assert!(close(exponential::sigmoid(x), 1.0 / (1.0 + (-of).exp()), 4.0) || x < -87.0, "sigmoid {x}");
        prop_assert!(close(exponential::erf(x), erf(of), 12.0), "erf {x} {} {}", exponential::erf(x), erf(of));
        let found = rounded::erf(x);
        prop_assert!(close(found, erf(of), 2.0), "erf {x} {found} {}", erf(of));
    }

    #[test]
    fn gelu_is_half_of_x_times_one_and_erf(x in -20f32..20.0) {
        let expected = 0.5 * f64::from(x) * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2));
        let mut found = [f32::NAN; 2];
        rounded::gelu::<true>(&[x], &mut found[..1], &mut rounded::Between::default());
        rounded::gelu::<false>(&[x], &mut found[1..], &mut rounded::Between::default());
        for found in found.into_iter().chain([exponential::gelu(x)]) {
            prop_assert!((f64::from(found) - expected).abs() < 1e-6 * f64::from(x.abs().max(1.0)), "gelu {x}");
        }
    }

    #[test]
    fn softmax_is_each_exponential_over_their_sum(rows in 0usize..4, length in 1usize..70, seed in any::<u64>()) {
        let mut noise = Noise::new(seed);
        let x: Vec<f32> = (0..rows * length).map(|_| noise.real(-9.0, 9.0)).collect();
        for softmax in [softmax, rounded_softmax] {
            let mut y = vec![f32::NAN; x.len()];
            softmax(&x, length, &mut y);
            for (x, y) in x.chunks(length).zip(y.chunks(length)) {
                let sum: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
                for (&x, &y) in x.iter().zip(y) {
                    prop_assert!((f64::from(y) - f64::from(x).exp() / sum).abs() < 1e-6, "{y}");
                }
            }
        }
    }

    /// Axes of any length, in any order, with gaps, for all three operands.
    #[test]
    fn strided_products_are_sums_of_products(
        sizes in prop::array::uniform2(prop_oneof![1usize..20, Just(1), 16usize..70]), batch in 1usize..4,
        terms in prop_oneof![1usize..40, 1usize..600],
        orders in prop::array::uniform3(Just([0usize, 1, 2]).prop_shuffle()), seed in any::<u64>(),
    ) {
        let mut noise = Noise::new(seed);
        let [m, n] = sizes;
        let lengths = [batch, m, n, terms];
        let kinds = [[0, 1, 3], [0, 3, 2], [0, 1, 2]];
        let mut strides = [[0; 3]; 4];
        let mut reach = [1; 3];
        for operand in 0..3 {
            for place in orders[operand] {
                let axis = kinds[operand][place];
                strides[axis][operand] = reach[operand];
                reach[operand] = reach[operand] * lengths[axis] + noise.below(2) as usize;
            }
        }
        let axis = |index: usize| vec![Axis { length: lengths[index], strides: strides[index] }];
        let mut reals = |count: usize| (0..count).map(|_| noise.real(-1.0, 1.0)).collect::<Vec<f32>>();
        let (a, b) = (reals(reach[0]), reals(reach[1]));
        for isa in FloatIsa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let product = StridedProduct::new(isa, axis(0), axis(1), axis(2), axis(3));
            let mut c = vec![9f32; reach[2]];
            product.run(&a, &b, &mut c);
            if let Some(packed) = product.pack(&b) {
                let mut same = vec![9f32; reach[2]];
                product.run_packed(&a, &packed, &mut same);
                prop_assert_eq!(&same, &c, "{:?} of packed", isa);
            }
            let mut is_written = vec![false; c.len()];
            for place in 0..lengths[0] * m * n {
                let at = [place / n / m, place / n % m, place % n, 0];
                let first = |operand: usize| (0..3).map(|axis| at[axis] * strides[axis][operand]).sum::<usize>();
                let term = |k: usize| {
                    let [a, b] = [a[first(0) + k * strides[3][0]], b[first(1) + k * strides[3][1]]];
                    f64::from(a) * f64::from(b)
                };
                let expected: f64 = (0..lengths[3]).map(term).sum();
                is_written[first(2)] = true;
                prop_assert!((f64::from(c[first(2)]) - expected).abs() < 1e-4, "{isa:?} {} {expected}", c[first(2)]);
            }
            let gaps = c.iter().zip(is_written).filter(|(_, is_written)| !is_written);
            prop_assert!(gaps.map(|(c, _)| *c).all(|c| c == 9.0), "{isa:?} wrote to a gap");
        }
    }
}

/// The series of erf up to 3, and what is left of 1 beyond that, by a continued fraction.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let mut term = x;
        let mut sum = x;
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let size = x.abs();
    let fraction = (1..60).rev().fold(size, |below, n| size + f64::from(n) / 2.0 / below);
    (1.0 - (-size * size).exp() / fraction / std::f64::consts::PI.sqrt()).copysign(x)
}

#[test]
fn functions_have_their_limits() {
    assert_eq!(exponential::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exponential::exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(exponential::exp(0.0), 1.0);
    assert_eq!((exponential::tanh(f32::INFINITY), exponential::tanh(f32::NEG_INFINITY)), (1.0, -1.0));
    assert_eq!((exponential::erf(f32::INFINITY), exponential::erf(f32::NEG_INFINITY)), (1.0, -1.0));
    assert_eq!((exponential::sigmoid(f32::INFINITY), exponential::sigmoid(f32::NEG_INFINITY)), (1.0, 0.0));
    for function in [exponential::exp, exponential::tanh, exponential::erf, exponential::sigmoid] {
        assert!(function(f32::NAN).is_nan());
    }
}

#[test]
fn exp_has_its_limits() {
    for exp in [exponential::exp_of_negative, rounded::exp_of_negative::<true>, rounded::exp_of_negative::<false>] {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
