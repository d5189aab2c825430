//! Random networks of quantized layers: in integers they give what they give in reals, by definition.

use onnxshrink::ir::op::{
    Add, AveragePool, Clip, Concat, Conv, ConvTranspose, DequantizeLinear, Gemm, GlobalAveragePool, HardSwish, MatMul,
    MaxPool, Mul, QuantizeLinear, Relu, Reshape, Sigmoid, Transpose,
};
use onnxshrink::ir::{DType, Model, Size, Tensor, Type, ValueId};
use onnxshrink::kernels::Isa;
use onnxshrink::runtime::{Execution, Runner};
use proptest::prelude::*;

/// A float value that a DequantizeLinear makes, and its shape.
#[derive(Clone)]
struct Real {
    value: ValueId,
    shape: Vec<usize>,
    scale: f32,
}

struct Network {
    model: Model,
    seed: u32,
    reals: Vec<Real>,
    signed: bool,
    largest_scale: f32,
}

impl Network {
    fn new(seed: u32, signed: bool, shape: &[usize]) -> Network {
        let mut model = Model::new("random");
        model.opsets.0.insert(String::new(), 21);
        let main = model.main;
        let x = model.add_input(main, "x");
        let lengths = shape.iter().map(|&length| Size::Fixed(length as i64));
        model.set_type(x, Some(Type::tensor(DType::F32, lengths)));
        let mut network = Network { model, seed, reals: vec![], signed, largest_scale: 0.0 };
        network.quantized(x, shape.to_vec(), 0.03);
        network
    }

    fn next(&mut self) -> usize {
        self.seed = self.seed.wrapping_mul(1664525).wrapping_add(1013904223);
        (self.seed >> 16) as usize
    }

    fn pick(&mut self, choices: &[usize]) -> usize {
        choices[self.next() % choices.len()]
    }

    fn unit(&mut self) -> f32 {
        self.next() as f32 / 65536.0
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.model.add_constant(self.model.main, "constant", tensor)
    }

    /// Quantizes `x`, and dequantizes it for whoever reads it.
    fn quantized(&mut self, x: ValueId, shape: Vec<usize>, scale: f32) {
        let scale = scale * (0.8 + 0.4 * self.unit());
        let zero = self.next() as u8;
        let scale_value = self.constant(Tensor::scalar(scale));
        let zero_point = match self.signed {
            true => Tensor::scalar((zero ^ 0x80) as i8),
            false => Tensor::scalar(zero),
        };
        let zero_point = Some(self.constant(zero_point));
        let main = self.model.main;
        let (scale_of, axis) = (scale_value, 1);
        let q = QuantizeLinear {
            x,
            scale: scale_of,
            zero_point,
            axis,
            block_size: 0,
            output_dtype: 0,
            precision: 0,
            saturate: 1,
        };
        let q = self.model.append(main, "q", q);
        let d = DequantizeLinear { x: q, scale: scale_of, zero_point, axis, block_size: 0, output_dtype: 0 };
        let value = self.model.append(main, "d", d);
        self.largest_scale = self.largest_scale.max(scale);
        self.reals.push(Real { value, shape, scale });
    }

    /// Weights with one scale, or one for each index of `axis`.
    fn weights(&mut self, shape: &[usize], axis: usize) -> (ValueId, Vec<f32>) {
        let count = shape.iter().product();
        let unsigned = self.next().is_multiple_of(4);
        let w: Vec<u8> = (0..count).map(|_| self.next() as u8).collect();
        let w = match unsigned {
            true => Tensor::from_vec(shape.to_vec(), w),
            false => Tensor::from_vec(shape.to_vec(), w.into_iter().map(|w| w as i8).collect()),
        };
        let scales = if self.next().is_multiple_of(2) { 1 } else { shape[axis] };
        let values: Vec<f32> = (0..scales).map(|_| 0.005 + 0.01 * self.unit()).collect();
        let lengths = if scales == 1 { vec![] } else { vec![scales] };
        let zero_point = match unsigned {
            true => Some(Tensor::from_vec(lengths.clone(), vec![128u8 + (self.next() % 9) as u8; scales])),
            false => None,
        };
        let (w, scale) = (self.constant(w), self.constant(Tensor::from_vec(lengths, values.clone())));
        let zero_point = zero_point.map(|zero_point| self.constant(zero_point));
        let dequantize =
            DequantizeLinear { x: w, scale, zero_point, axis: axis as i64, block_size: 0, output_dtype: 0 };
        (self.model.append(self.model.main, "w", dequantize), values)
    }

    /// Integers at the scale of the accumulators: a bias of floats is rounded to them, which is no rounding of the layer.
    fn bias(&mut self, channels: usize, x_scale: f32, w_scales: &[f32]) -> Option<ValueId> {
        if self.next().is_multiple_of(2) {
            return None;
        }
        let bias = (0..channels).map(|_| self.next() as i32 / 8 - 4096).collect();
        let scales: Vec<f32> = w_scales.iter().map(|w_scale| x_scale * w_scale).collect();
        let lengths = if scales.len() == 1 { vec![] } else { vec![channels] };
        let (x, scale) =
            (self.constant(Tensor::from_vec::<i32>(vec![channels], bias)), Tensor::from_vec(lengths, scales));
        let scale = self.constant(scale);
        let bias = DequantizeLinear { x, scale, zero_point: None, axis: 0, block_size: 0, output_dtype: 0 };
        Some(self.model.append(self.model.main, "b", bias))
    }

    fn real(&mut self, fits: impl Fn(&Real) -> bool) -> Option<Real> {
        let fitting: Vec<Real> = self.reals.iter().filter(|real| fits(real)).cloned().collect();
        (!fitting.is_empty()).then(|| fitting[self.next() % fitting.len()].clone())
    }

    fn layer(&mut self) {
        let main = self.model.main;
        let kind = self.next() % 14;
        let image = |real: &Real| real.shape.len() == 4 && real.shape[2] >= 3 && real.shape[3] >= 3;
        match kind {
            0..=2 => {
                let Some(x) = self.real(image) else { return };
                let channels = x.shape[1];
                let group = match kind {
                    0 => 1,
                    1 => channels,
                    _ => {
                        if channels % 2 == 0 {
                            2
                        } else {
                            1
                        }
                    }
                };
                let out = if kind == 1 { channels } else { group * self.pick(&[1, 3, 9, 18]) };
                let kernel = [self.pick(&[1, 2, 3]), self.pick(&[1, 3])];
                let (strides, pads) = ([self.pick(&[1, 2]), 1], [self.next() % 2, self.next() % 2, 0, self.next() % 2]);
                let (w, w_scales) = self.weights(&[out, channels / group, kernel[0], kernel[1]], 0);
                let b = self.bias(out, x.scale, &w_scales);
                let length =
                    |axis: usize| (x.shape[2 + axis] + pads[axis] + pads[2 + axis] - kernel[axis]) / strides[axis] + 1;
                let shape = vec![x.shape[0], out, length(0), length(1)];
                let ints = |of: &[usize]| of.iter().map(|&n| n as i64).collect::<Vec<_>>();
                let conv = Conv {
                    x: x.value,
                    w,
                    b,
                    auto_pad: "NOTSET".into(),
                    dilations: vec![],
                    group: group as i64,
                    kernel_shape: ints(&kernel),
                    pads: ints(&pads),
                    strides: ints(&strides),
                };
                let y = self.model.append(main, "conv", conv);
                let terms = (channels / group * kernel[0] * kernel[1]) as f32;
                self.limited(y, shape, x.scale * 0.01 * 70.0 * terms.sqrt());
            }
            3 => {
                let Some(x) = self.real(image) else { return };
                let out = self.pick(&[1, 5]);
                let (w, w_scales) = self.weights(&[x.shape[1], out, 2, 3], 1);
                let b = self.bias(out, x.scale, &w_scales);
                let conv = ConvTranspose {
                    x: x.value,
                    w,
                    b,
                    auto_pad: "NOTSET".into(),
                    dilations: vec![],
                    group: 1,
                    kernel_shape: vec![],
                    output_padding: vec![1, 0],
                    output_shape: vec![],
                    pads: vec![0, 1, 1, 0],
                    strides: vec![2, 1],
                };
                let y = self.model.append(main, "conv", conv);
                let shape = vec![x.shape[0], out, (x.shape[2] - 1) * 2 + 2, x.shape[3] + 1];
                let terms = (x.shape[1] * 3) as f32;
                self.limited(y, shape, x.scale * 0.01 * 70.0 * terms.sqrt());
            }
            4 => {
                let Some(a) = self.real(|real| real.shape.len() >= 2) else { return };
                let depth = a.shape[a.shape.len() - 1];
                let columns = self.pick(&[1, 4, 17]);
                let (b, _) = self.weights(&[depth, columns], 1);
                let y = self.model.append(main, "matmul", MatMul { a: a.value, b });
                let shape = [&a.shape[..a.shape.len() - 1], &[columns]].concat();
                self.limited(y, shape, a.scale * 0.01 * 70.0 * (depth as f32).sqrt());
            }
            5 => {
                let Some(x) = self.real(|real| real.shape.len() >= 2) else { return };
                let (rows, depth) = (x.shape[0], x.shape[1..].iter().product::<usize>());
                let target = self.constant(Tensor::from_ints(&[rows as i64, depth as i64]));
                let a = self.model.append(main, "flat", Reshape { x: x.value, shape: target, allowzero: 0 });
                let (b, w_scales) = self.weights(&[7, depth], 0);
                let c = self.bias(7, x.scale, &w_scales);
                let gemm = Gemm { a, b, c, alpha: 1.0, beta: 1.0, transA: false, transB: true };
                let y = self.model.append(main, "gemm", gemm);
                self.limited(y, vec![rows, 7], x.scale * 0.01 * 70.0 * (depth as f32).sqrt());
            }
            6 | 7 => {
                let Some(a) = self.real(|_| true) else { return };
                let shape = a.shape.clone();
                let Some(b) = self.real(|real| real.shape == shape) else { return };
                let (y, scale) = match kind {
                    6 => (self.model.append(main, "sum", Add { a: a.value, b: b.value }), a.scale + b.scale),
                    _ => (self.model.append(main, "product", Mul { a: a.value, b: b.value }), a.scale * b.scale * 90.0),
                };
                self.limited(y, shape, scale);
            }
            8 => {
                let Some(x) = self.real(image) else { return };
                let average = self.next().is_multiple_of(2);
                let (kernel_shape, strides, pads) = (vec![3, 2], vec![2, 1], vec![1, 0, 1, 1]);
                let shape = vec![x.shape[0], x.shape[1], (x.shape[2] - 1) / 2 + 1, x.shape[3]];
                let (auto_pad, ceil_mode, dilations) = (String::from("NOTSET"), 0, vec![]);
                let y = match average {
                    true => {
                        let count_include_pad = (self.next() % 2) as i64;
                        let x = x.value;
                        let pool = AveragePool {
                            x,
                            auto_pad,
                            ceil_mode,
                            count_include_pad,
                            dilations,
                            kernel_shape,
                            pads,
                            strides,
                        };
                        self.model.append(main, "pool", pool)
                    }
                    false => {
                        let (x, storage_order) = (x.value, 0);
                        let pool =
                            MaxPool { x, auto_pad, ceil_mode, dilations, kernel_shape, pads, storage_order, strides };
                        self.model.append(main, "pool", pool)
                    }
                };
                self.quantized(y, shape, x.scale);
            }
            9 => {
                let Some(x) = self.real(image) else { return };
                let y = self.model.append(main, "pool", GlobalAveragePool { x: x.value });
                self.quantized(y, vec![x.shape[0], x.shape[1], 1, 1], x.scale);
            }
            10 => {
                let Some(a) = self.real(|real| real.shape.len() == 4) else { return };
                let [n, _, h, w] = a.shape[..] else { return };
                let fits =
                    |real: &Real| real.shape.len() == 4 && [real.shape[0], real.shape[2], real.shape[3]] == [n, h, w];
                let Some(b) = self.real(fits) else { return };
                let y = self.model.append(main, "joined", Concat { xs: vec![a.value, b.value], axis: -3 });
                self.quantized(y, vec![n, a.shape[1] + b.shape[1], h, w], a.scale.max(b.scale));
            }
            11 => {
                let Some(x) = self.real(|real| real.shape.len() >= 2) else { return };
                let rank = x.shape.len();
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.swap(rank - 1, self.next() % rank);
                let shape = perm.iter().map(|&axis| x.shape[axis]).collect();
                let perm = perm.into_iter().map(|axis| axis as i64).collect();
                let y = self.model.append(main, "turned", Transpose { x: x.value, perm });
                self.quantized(y, shape, x.scale);
            }
            _ => {
                let Some(x) = self.real(|_| true) else { return };
                let y = match kind {
                    12 => self.model.append(main, "gate", Sigmoid { x: x.value }),
                    _ => self.model.append(main, "swish", HardSwish { x: x.value }),
                };
                self.quantized(y, x.shape, if kind == 12 { 0.005 } else { x.scale });
            }
        }
    }

    /// Quantizes `y`, some times behind a Relu or Clip.
    fn limited(&mut self, y: ValueId, shape: Vec<usize>, scale: f32) {
        let scale = scale / 60.0;
        let main = self.model.main;
        let y = match self.next() % 4 {
            0 => self.model.append(main, "relu", Relu { x: y }),
            1 => {
                let bounds = [-20.0, 50.5].map(|bound| Some(self.constant(Tensor::scalar(bound * scale))));
                self.model.append(main, "clip", Clip { x: y, min: bounds[0], max: bounds[1] })
            }
            _ => y,
        };
        self.quantized(y, shape, scale);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_networks_give_in_integers_what_they_give_in_reals(
        seed in any::<u32>(), layers in 1usize..5, signed in any::<bool>(),
        [batch, channels] in [1usize..3, 1usize..12], space in [3usize..8, 3usize..8],
    ) {
        let mut network = Network::new(seed, signed, &[batch, channels, space[0], space[1]]);
        (0..layers).for_each(|_| network.layer());
        let count = batch * channels * space[0] * space[1];
        let x = (0..count).map(|_| (network.unit() - 0.5) * 8.0).collect();
        let x = Tensor::from_vec::<f32>(vec![batch, channels, space[0], space[1]], x);
        let Network { mut model, reals, .. } = network;
        // Each layer alone: a step of an early layer is many of a later one.
        for real in &reals {
            model.add_output(model.main, real.value);
        }
        let outputs: Vec<ValueId> = reals.iter().map(|real| real.value).collect();
        let expected = Runner::with(&model, &outputs, &Execution::float()).unwrap().run(std::slice::from_ref(&x)).unwrap();
        let mut first: Option<Vec<Tensor>> = None;
        for isa in Isa::available() {
            let execution = Execution { isa: Some(isa), ..Execution::DEFAULT };
            let found = Runner::with(&model, &outputs, &execution).unwrap().run(std::slice::from_ref(&x)).unwrap();
            // All kernels agree to the bit.
            if let Some(first) = &first {
                prop_assert!(found.iter().zip(first).all(|(found, first)| found.same_data(first)), "{}", isa);
            }
            let (mut elements, mut apart) = (0, 0);
            for ((found, expected), real) in found.iter().zip(&expected).zip(&reals) {
                prop_assert_eq!(found.shape(), &real.shape[..]);
                let (found, expected) = (found.floats().unwrap(), expected.floats().unwrap());
                for (found, expected) in found.iter().zip(expected.iter()) {
                    let steps = ((found - expected) / real.scale).abs();
                    prop_assert!(steps <= 24.0, "{steps} steps apart in {real_shape:?}", real_shape = real.shape);
                    elements += 1;
                    apart += usize::from(steps > 0.5);
                }
            }
            let layers: Vec<String> = model.all_nodes().map(|node| model.node(node).op.clone()).collect();
            prop_assert!(apart * 50 <= elements + 200, "{apart} of {elements} are apart: {layers:?}");
            first = first.or(Some(found));
        }
    }
}
