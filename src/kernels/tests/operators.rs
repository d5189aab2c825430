use super::definition::add;
use super::*;

fn quantizations() -> impl Strategy<Value = Quantization> {
    (0.001f32..2.0, any::<u8>()).prop_map(|(scale, zero_point)| Quantization { scale, zero_point })
}

/// An operand as long as another, as long as its last axis, or a scalar.
fn operand(noise: &mut Noise, kind: usize, length: usize, last: usize) -> Vec<u8> {
    noise.bytes([length, last, 1][kind])
}

proptest! {
    #[test]
    fn a_table_is_looked_up_for_every_byte(length in 0usize..100, seed in any::<u64>()) {
        let mut noise = Noise::new(seed);
        let table = Table(std::array::from_fn(|_| noise.byte()));
        let x = noise.bytes(length);
        let mut y = vec![0; length];
        table.run(&x, &mut y);
        let expected: Vec<u8> = x.iter().map(|&x| table.0[usize::from(x)]).collect();
        prop_assert_eq!(y, expected);
    }

    #[test]
    fn addition_and_multiplication_work_in_bytes(
        [a, b, y] in [quantizations(), quantizations(), quantizations()],
        kinds in prop::sample::select(vec![[0usize, 0], [0, 1], [0, 2], [1, 0], [2, 0], [1, 2]]),
        (outer, last) in (1usize..5, 1usize..70), seed in any::<u64>(),
    ) {
        let mut noise = Noise::new(seed);
        let length = outer * last;
        let [left, right] = kinds.map(|kind| operand(&mut noise, kind, length, last));
        let addition = Addition { clamp: [noise.byte() / 8, 255], ..Addition::new(a, b, y) };
        let mut sums = vec![0; length];
        addition.run(&left, &right, &mut sums);
        let multiplication = Multiplication::new(a, b, y);
        let mut products = vec![0; length];
        multiplication.run(&left, &right, &mut products);
        for i in 0..length {
            let (p, q) = (left[i % left.len()], right[i % right.len()]);
            prop_assert_eq!(sums[i], add(&addition, p, q));
            let real = f64::from(a.dequantize(p)) * f64::from(b.dequantize(q)) / f64::from(y.scale);
            let real = (real + f64::from(y.zero_point)).clamp(0.0, 255.0);
            prop_assert!((f64::from(products[i]) - real).abs() <= 0.501, "{} {real}", products[i]);
            // ONNX Runtime adds the zero point before it rounds, which moves ties.
            let product = (i32::from(p) - i32::from(a.zero_point)) * (i32::from(q) - i32::from(b.zero_point));
            let exact = product as f32 * multiplication.ratio + f32::from(y.zero_point);
            prop_assert_eq!(products[i], exact.round_ties_even() as u8);
        }
    }

    #[test]
    fn pooling_takes_the_taps_inside_the_image(
        kernel in [1usize..4, 1usize..4], strides in [1usize..4, 1usize..4], dilations in [1usize..3, 1usize..3],
        pads in [0usize..2, 0usize..2, 0usize..2, 0usize..2], size in [1usize..9, 1usize..9], channels in 1usize..70,
        ceil in any::<bool>(), count_include_pad in any::<bool>(), x_scale in 0.01f32..1.0, zero_points in any::<[u8; 2]>(), seed in any::<u64>(),
    ) {
        let window = Window { kernel, strides, dilations, pads };
        let mut out = window.output_size(size);
        prop_assume!(out.iter().all(|&n| n > 0));
        for axis in 0..2 {
            // One more window, if it begins in the image or its first padding.
            let starts = out[axis] * strides[axis] < size[axis] + pads[axis];
            out[axis] += usize::from(ceil && starts);
        }
        let images = Images { batch: 2, size, channels };
        let x = Noise::new(seed).bytes(images.len());
        let (from, to) = (Quantization { scale: x_scale, zero_point: zero_points[0] }, Quantization { scale: 0.1, zero_point: zero_points[1] });
        let (mut largest, mut means) = (vec![0; 2 * out[0] * out[1] * channels], vec![0; 2 * out[0] * out[1] * channels]);
        max_pool(&window, &images, out, &x, &mut largest);
        AveragePool { window, count_include_pad, x: from, y: to }.run(&images, out, &x, &mut means);
        for i in 0..largest.len() {
            let (c, ox, oy, n) = (i % channels, i / channels % out[1], i / channels / out[1] % out[0], i / channels / out[1] / out[0]);
            let (mut inside, mut counted) = (vec![], 0);
            for ky in 0..kernel[0] {
                for kx in 0..kernel[1] {
                    let (y, x_) = (oy * strides[0] + ky * dilations[0], ox * strides[1] + kx * dilations[1]);
                    counted += usize::from(y < size[0] + pads[0] + pads[2] && x_ < size[1] + pads[1] + pads[3]);
                    if y >= pads[0] && x_ >= pads[1] && y - pads[0] < size[0] && x_ - pads[1] < size[1] {
                        inside.push(x[((n * size[0] + y - pads[0]) * size[1] + x_ - pads[1]) * channels + c]);
                    }
                }
            }
            if inside.is_empty() {
                continue;
            }
            prop_assert_eq!(largest[i], *inside.iter().max().unwrap());
            let counted = if count_include_pad { counted } else { inside.len() };
            let mean = inside.iter().map(|&q| f64::from(from.dequantize(q))).sum::<f64>() / counted as f64;
            let real = (mean / 0.1 + f64::from(to.zero_point)).clamp(0.0, 255.0);
            prop_assert!((f64::from(means[i]) - real).abs() <= 0.501, "{} {real}", means[i]);
        }
    }

    #[test]
    fn the_global_mean_is_the_mean(q in quantizations(), size in [1usize..20, 1usize..20], channels in 1usize..100, seed in any::<u64>()) {
        let images = Images { batch: 2, size, channels };
        let x = Noise::new(seed).bytes(images.len());
        let mut means = vec![0; 2 * channels];
        AveragePool::global(q, q, &images, &x, &mut means);
        for (i, &mean) in means.iter().enumerate() {
            let pixels = x[i / channels * size[0] * size[1] * channels..].iter().skip(i % channels).step_by(channels);
            let real = pixels.take(size[0] * size[1]).map(|&q| f64::from(q)).sum::<f64>() / (size[0] * size[1]) as f64;
            prop_assert!((f64::from(mean) - real).abs() <= 0.501);
        }
    }

    #[test]
    fn quantizing_rounds_to_the_nearest_step(q in quantizations(), x in prop::collection::vec(-400f32..400.0, 1..200)) {
        let mut bytes = vec![0; x.len()];
        q.quantize_all(&x, &mut bytes);
        let mut back = vec![0.0; x.len()];
        q.dequantize_all(&bytes, &mut back);
        let (low, high) = (q.dequantize(0), q.dequantize(255));
        for ((&x, &byte), &y) in x.iter().zip(&bytes).zip(&back) {
            prop_assert_eq!(byte, ((x / q.scale).round_ties_even() as i32 + i32::from(q.zero_point)).clamp(0, 255) as u8);
            prop_assert!((x.clamp(low, high) - y).abs() <= q.scale * 0.501);
        }
    }

    #[test]
    fn layouts_change_while_quantizing(
        q in quantizations(), channels in 1usize..40, extra in 0usize..3, pixels in 1usize..40, seed in any::<u64>(),
    ) {
        let mut noise = Noise::new(seed);
        let x: Vec<f32> = (0..2 * channels * pixels).map(|_| noise.real(-90.0, 90.0)).collect();
        let padded = channels + extra;
        let mut bytes = vec![0; 2 * padded * pixels];
        q.quantize_channels_last(&x, channels, pixels, padded, &mut bytes);
        for (i, &byte) in bytes.iter().enumerate() {
            let (channel, pixel, image) = (i % padded, i / padded % pixels, i / padded / pixels);
            let expected = match channel < channels {
                true => q.quantize(x[(image * channels + channel) * pixels + pixel]),
                false => q.zero_point,
            };
            prop_assert_eq!(byte, expected);
        }
        let mut bytes = vec![0; x.len()];
        q.quantize_channels_last(&x, channels, pixels, channels, &mut bytes);
        let (mut first, mut floats) = (vec![0; x.len()], vec![0.0; x.len()]);
        transpose(&bytes, pixels, channels, &mut first);
        q.dequantize_channels_first(&bytes, channels, pixels, &mut floats);
        let (mut expected, mut reals) = (vec![0; x.len()], vec![0.0; x.len()]);
        q.quantize_all(&x, &mut expected);
        q.dequantize_all(&expected, &mut reals);
        prop_assert_eq!(first, expected);
        prop_assert_eq!(floats, reals);
    }

    #[test]
    fn linear_resizing_stays_between_its_neighbours(q in quantizations(), size in [2usize..6, 2usize..6], channels in 1usize..9, weight in 0f32..1.0, seed in any::<u64>()) {
        let images = Images { batch: 2, size, channels };
        let x = Noise::new(seed).bytes(images.len());
        let rows: Vec<Blend> = (1..size[0]).map(|y| Blend { first: y - 1, second: y, weight }).collect();
        let columns: Vec<Blend> = (0..size[1]).map(|x| Blend { first: x, second: x, weight: 0.0 }).collect();
        let mut output = vec![0; 2 * rows.len() * size[1] * channels];
        LinearResize { rows: &rows, columns: &columns, x: q, y: q }.run(&images, &x, &mut output);
        let line = size[1] * channels;
        for (i, &y) in output.iter().enumerate() {
            let (image, row) = (i / line / rows.len(), i / line % rows.len());
            let at = (image * size[0] + row) * line + i % line;
            let (a, b) = (f32::from(x[at]), f32::from(x[at + line]));
            prop_assert!((f32::from(y) - (a * (1.0 - weight) + b * weight)).abs() <= 0.51);
        }
    }
}

#[test]
fn two_scalars_fill_the_output() {
    let q = Quantization { scale: 0.5, zero_point: 0 };
    let (mut sums, mut products) = ([0; 3], [0; 3]);
    Addition::new(q, q, q).run(&[3], &[4], &mut sums);
    Multiplication::new(q, q, q).run(&[3], &[4], &mut products);
    assert_eq!((sums, products), ([7; 3], [6; 3]));
}

#[test]
fn nearest_resizing_copies_pixels() {
    let images = Images { batch: 2, size: [2, 2], channels: 2 };
    let x: Vec<u8> = (0..16).collect();
    let mut output = vec![0; 2 * 3 * 2 * 2];
    resize_nearest(&images, &[0, 0, 1], &[1, 0], &x, &mut output);
    assert_eq!(output[..12], [2, 3, 0, 1, 2, 3, 0, 1, 6, 7, 4, 5]);
    assert_eq!(output[12..16], [10, 11, 8, 9]);
}

#[test]
fn parts_are_joined_and_requantized() {
    let (fine, coarse) = (Quantization { scale: 1.0, zero_point: 0 }, Quantization { scale: 2.0, zero_point: 10 });
    let table = Table::requantization(fine, coarse);
    let mut output = [0; 6];
    let parts = [
        Part { values: &[1, 2, 3, 4], width: 2, table: None },
        Part { values: &[3, 5], width: 1, table: Some(&table) },
    ];
    concat(&parts, &mut output);
    // 1.5 and 2.5 steps round to 2.
    assert_eq!(output, [1, 2, 12, 3, 4, 12]);
}

#[test]
fn broadcasting_repeats_axes_of_length_one() {
    assert_eq!(broadcast(&[1, 2], &[2, 1], &[2, 2, 3]), [1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2]);
    assert_eq!(broadcast(&[5], &[], &[2]), [5, 5]);
}

#[test]
fn tables_hold_functions_of_real_numbers() {
    let (x, y) = (Quantization { scale: 0.1, zero_point: 100 }, Quantization { scale: 1.0 / 256.0, zero_point: 0 });
    let table = Table::new(x, y, |x| 1.0 / (1.0 + (-x).exp()));
    assert_eq!([table.0[0], table.0[100], table.0[255]], [0, 128, 255]);
}

#[test]
fn signed_bytes_become_unsigned_and_back() {
    let mut bytes = [-128i8, -1, 0, 127].map(|q| q as u8);
    flip_signs(&mut bytes);
    assert_eq!(bytes, [0, 127, 128, 255]);
    flip_signs(&mut bytes);
    assert_eq!(bytes.map(|q| q as i8), [-128, -1, 0, 127]);
}

#[test]
fn dynamic_quantization_has_zero_in_its_range() {
    // The example of ONNX's DynamicQuantizeLinear.
    let q = dynamic_quantization(&[0.0, 2.0, -3.0, -2.5, 1.34, 0.5]);
    assert!((q.scale - 0.019_607_844).abs() < 1e-9);
    assert_eq!(q.zero_point, 153);
    assert_eq!(dynamic_quantization(&[1.0, 2.1, 1.3, 2.5, 3.34, 4.0]).zero_point, 0);
}
