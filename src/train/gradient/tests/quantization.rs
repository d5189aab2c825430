//! Fake quantization against its definition, since differences tell nothing of a function with steps.

use proptest::prelude::*;

use super::super::gradient;
use crate::ir::op::{DequantizeLinear, Mul, QuantizeLinear, ReduceSum};
use crate::ir::{DType, Model, Size, Tensor, Type, ValueId};
use crate::runtime::Runner;

/// The gradients by x, `[2, 3, 2]`, and by the scales of Σ factor·fake(x).
fn gradients(x: &[f32], scales: &[f32], zero_point: Tensor, axis: i64, factor: &[f32]) -> Vec<Vec<f32>> {
    let mut model = Model::new("fake");
    model.opsets.0.insert(String::new(), 21);
    let main = model.main;
    let x = Tensor::from_vec(vec![2, 3, 2], x.to_vec());
    let shape = if scales.len() == 1 { vec![] } else { vec![scales.len()] };
    let scales = Tensor::from_vec(shape, scales.to_vec());
    let mut input = |name: &str, tensor: &Tensor| -> ValueId {
        let input = model.add_input(main, name);
        let shape = tensor.shape().iter().map(|&n| Size::Fixed(n as i64));
        model.set_type(input, Some(Type::tensor(DType::F32, shape)));
        input
    };
    let trained = [input("x", &x), input("scale", &scales)];
    let zero_point = Some(model.add_constant(main, "zero_point", zero_point));
    let quantize = QuantizeLinear {
        x: trained[0],
        scale: trained[1],
        zero_point,
        axis,
        block_size: 0,
        output_dtype: 0,
        precision: 0,
        saturate: 1,
    };
    let levels = model.append(main, "levels", quantize);
    let dequantize =
        DequantizeLinear { x: levels, scale: trained[1], zero_point, axis, block_size: 0, output_dtype: 0 };
    let y = model.append(main, "y", dequantize);
    let factor = model.add_constant(main, "factor", Tensor::from_vec(vec![2, 3, 2], factor.to_vec()));
    let product = model.append(main, "product", Mul { a: y, b: factor });
    let sum = ReduceSum { x: product, axes: None, keepdims: 0, noop_with_empty_axes: 0 };
    let loss = model.append(main, "loss", sum);
    let gradients: Vec<ValueId> = gradient(&mut model, loss, &trained).unwrap().into_iter().flatten().collect();
    model.verify().unwrap();
    let results = Runner::with_outputs(&model, &gradients).unwrap().run(&[x, scales]).unwrap();
    results.iter().map(|result| result.floats().unwrap().into_owned()).collect()
}

/// dx = dy inside the range, else 0; ds = dy·(round(x/s) - x/s) inside, else dy·(last level - zero point).
fn defined(x: &[f32], scale: impl Fn(usize) -> (usize, f32, f32), range: [f32; 2], dy: &[f32]) -> [Vec<f32>; 2] {
    let (mut dx, mut dscale) = (vec![0.0; x.len()], vec![0.0; 3]);
    for (index, (&x, &dy)) in x.iter().zip(dy).enumerate() {
        let (channel, scale, zero_point) = scale(index);
        let level = (x / scale).round_ties_even() + zero_point;
        let inside = (range[0]..=range[1]).contains(&level);
        dx[index] = if inside { dy } else { 0.0 };
        let last = level.clamp(range[0], range[1]) - zero_point;
        dscale[channel] += dy * if inside { last - x / scale } else { last };
    }
    [dx, dscale]
}

fn assert_near(found: &[f32], expected: &[f32]) -> Result<(), TestCaseError> {
    let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-3 * (1.0 + b.abs()));
    prop_assert!(found.len() == expected.len() && near, "{:?}, but the definition gives {:?}", found, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_scale_learns_from_all_elements(
        x in prop::collection::vec(-3f32..3.0, 12),
        dy in prop::collection::vec(-1f32..1.0, 12),
        scale in 0.005f32..0.05,
        zero_point in 0u8..=255,
    ) {
        let found = gradients(&x, &[scale], Tensor::scalar(zero_point), 1, &dy);
        let [dx, dscale] = defined(&x, |_| (0, scale, f32::from(zero_point)), [0.0, 255.0], &dy);
        assert_near(&found[0], &dx)?;
        assert_near(&found[1], &dscale[..1])?;
    }

    #[test]
    fn a_channels_scale_learns_from_its_elements(
        x in prop::collection::vec(-3f32..3.0, 12),
        dy in prop::collection::vec(-1f32..1.0, 12),
        scales in prop::collection::vec(0.005f32..0.05, 3),
        zero_points in prop::collection::vec(-128i8..=127, 3),
    ) {
        let tensor = Tensor::from_vec(vec![3], zero_points.clone());
        let found = gradients(&x, &scales, tensor, -2, &dy);
        let channel = |index: usize| index / 2 % 3;
        let of = |index: usize| (channel(index), scales[channel(index)], f32::from(zero_points[channel(index)]));
        let [dx, dscale] = defined(&x, of, [-128.0, 127.0], &dy);
        assert_near(&found[0], &dx)?;
        assert_near(&found[1], &dscale)?;
    }
}
