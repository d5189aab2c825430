//! Random networks of layers and what is fused into them, all of whose shapes are fixed.
//!
//! The runtime that compares them has faults of its own, which are kept out: it does not end where a Conv has axes of length
//! 1, subtracts wrongly from a number what a Conv gives, and has no Gemm of halves with factors. Values have several readers, and some of those in the middle are outputs. Weights are small, so that no result is the
//! difference of large numbers.

use ndarray::{ArrayD, IxDyn};
use onnxshrink::ir::op::{
    Add, AveragePool, BatchNormalization, Clip, Concat, Conv, Div, Gemm, MatMul, MaxPool, Mul, Pad, ReduceMean, Relu,
    Reshape, Sigmoid, Softmax, Sub, Transpose,
};
use onnxshrink::ir::{DType, Model, Size, Tensor, Type, ValueId};
use proptest::prelude::*;

/// Which layer, which of the values before it, and how.
type Choice = (u8, usize, u32);

/// More elements than this no value has.
const LARGEST: usize = 2048;

pub fn models(dtype: DType) -> impl Strategy<Value = Model> {
    let image = prop::array::uniform4(1usize..5);
    let layers = prop::collection::vec(any::<Choice>(), 1..20);
    let outputs = prop::collection::vec(any::<usize>(), 1..4);
    (image, layers, outputs).prop_map(move |(image, layers, outputs)| {
        let mut network = Network::new(dtype);
        let [batch, channels, height, width] = image;
        network.input("image", vec![batch.min(2), channels, height + 2, width + 2]);
        network.input("matrix", vec![height, width]);
        layers.into_iter().for_each(|choice| network.layer(choice));
        network.finish(&outputs)
    })
}

struct Network {
    model: Model,
    dtype: DType,
    values: Vec<(ValueId, Vec<usize>)>,
    seed: u32,
}

impl Network {
    fn new(dtype: DType) -> Network {
        let mut model = Model::new("network");
        model.opsets.0.insert(String::new(), 18);
        model.header.ir_version = 8;
        Network { model, dtype, values: Vec::new(), seed: 1 }
    }

    fn input(&mut self, name: &str, shape: Vec<usize>) {
        let input = self.model.add_input(self.model.main, name);
        self.declare(input, &shape);
        self.values.push((input, shape));
    }

    fn declare(&mut self, value: ValueId, shape: &[usize]) {
        let sizes = shape.iter().map(|&length| Size::Fixed(length as i64));
        self.model.set_type(value, Some(Type::tensor(self.dtype, sizes)));
    }

    fn finish(mut self, outputs: &[usize]) -> Model {
        let last = self.values.len() - 1;
        for index in outputs.iter().map(|output| output % (last + 1)).chain([last]) {
            let (value, shape) = self.values[index].clone();
            if self.model.producer(value).is_some() && !self.model.is_output(value) {
                self.declare(value, &shape);
                self.model.add_output(self.model.main, value);
            }
        }
        if self.model.graph(self.model.main).outputs.is_empty() {
            let (x, shape) = self.values[last].clone();
            let y = self.model.append(self.model.main, "y", Relu { x });
            self.declare(y, &shape);
            self.model.add_output(self.model.main, y);
        }
        self.model
    }

    /// Adds the layer that is chosen, where it can read the value that is chosen.
    fn layer(&mut self, (kind, first, how): Choice) {
        let (x, shape) = self.values[first % self.values.len()].clone();
        let (main, rank) = (self.model.main, shape.len());
        let name = format!("layer{}", self.values.len());
        let way = how as usize;
        let made = match kind % 20 {
            0 | 1 if rank == 4 && shape[2..].iter().all(|&length| length > 1) => {
                let kernel = if way.is_multiple_of(2) { 1 } else { 3 };
                let pads = if way.is_multiple_of(3) { vec![] } else { vec![i64::from(kernel == 3); 4] };
                let (group, out) = if way.is_multiple_of(5) { (shape[1], shape[1]) } else { (1, 1 + way % 4) };
                let lost = if pads.is_empty() { kernel - 1 } else { 0 };
                if shape[2] <= lost + 1 || shape[3] <= lost + 1 {
                    return;
                }
                let w = self.weight(&[out, shape[1] / group, kernel, kernel]);
                let b = (way % 7 < 4).then(|| self.weight(&[out]));
                let (group, strides) = (group as i64, vec![]);
                let conv = Conv {
                    x,
                    w,
                    b,
                    auto_pad: "NOTSET".into(),
                    dilations: vec![],
                    group,
                    kernel_shape: vec![],
                    pads,
                    strides,
                };
                let y = self.model.append(main, &name, conv);
                (y, vec![shape[0], out, shape[2] - lost, shape[3] - lost])
            }
            2 if rank >= 2 => {
                let columns = 1 + way % 5;
                let b = self.weight(&[shape[rank - 1], columns]);
                (self.model.append(main, &name, MatMul { a: x, b }), [&shape[..rank - 1], &[columns]].concat())
            }
            3 if rank == 2 => {
                let (columns, trans_b, trans_a) = (1 + way % 5, way.is_multiple_of(2), way.is_multiple_of(3));
                let (rows, inner) = if trans_a { (shape[1], shape[0]) } else { (shape[0], shape[1]) };
                let b = self.weight(&if trans_b { [columns, inner] } else { [inner, columns] });
                let c = (way % 5 < 3).then(|| self.weight(&[columns]));
                let halves = self.dtype == DType::F16;
                let gemm = Gemm {
                    a: x,
                    b,
                    c,
                    alpha: if halves { 1.0 } else { 0.5 },
                    beta: if way.is_multiple_of(7) && !halves { 2.0 } else { 1.0 },
                    transA: trans_a,
                    transB: trans_b,
                };
                (self.model.append(main, &name, gemm), vec![rows, columns])
            }
            4 => {
                let b = self.factor(&shape, way, 0.0);
                (self.model.append(main, &name, Mul { a: x, b }), shape)
            }
            5 => {
                let a = self.factor(&shape, way, 0.0);
                (self.model.append(main, &name, Add { a, b: x }), shape)
            }
            6 => {
                let other = self.factor(&shape, way / 2, 0.0);
                let (a, b) = if way.is_multiple_of(2) || rank == 4 { (x, other) } else { (other, x) };
                (self.model.append(main, &name, Sub { a, b }), shape)
            }
            7 => {
                let b = self.factor(&shape, way, 1.5);
                (self.model.append(main, &name, Div { a: x, b }), shape)
            }
            8 if rank >= 2 => {
                let channels = [shape[1]];
                let [scale, bias, mean] = [(); 3].map(|()| self.weight(&channels));
                let var = self.constant(&channels, 1.0);
                let norm = BatchNormalization {
                    x,
                    scale,
                    bias,
                    mean,
                    var,
                    epsilon: 1e-3,
                    momentum: 0.9,
                    training_mode: false,
                };
                (self.model.append(main, &name, norm), shape)
            }
            9 => {
                let [min, max] = [-0.25, 0.5].map(|bound| self.number(bound));
                let (min, max) = ((!way.is_multiple_of(3)).then_some(min), (way % 3 != 1).then_some(max));
                (self.model.append(main, &name, Clip { x, min, max }), shape)
            }
            10 => (self.model.append(main, &name, Relu { x }), shape),
            11 if rank >= 2 => {
                let amounts: Vec<usize> = (0..2 * rank).map(|index| way >> index & 1).collect();
                let padded = (0..rank).map(|axis| shape[axis] + amounts[axis] + amounts[rank + axis]).collect();
                let pads: Vec<i64> = amounts.iter().map(|&amount| amount as i64).collect();
                let pads = self.model.add_constant(main, "pads", Tensor::from_ints(&pads));
                let value = way.is_multiple_of(3).then(|| self.number(0.25));
                let mode = if way.is_multiple_of(5) { "edge" } else { "constant" };
                let value = value.filter(|_| mode == "constant");
                (self.model.append(main, &name, Pad { x, pads, value, axes: None, mode: mode.into() }), padded)
            }
            12..=14 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                (1..rank).for_each(|end| perm.swap(end, (way / end) % (end + 1)));
                let moved = perm.iter().map(|&axis| shape[axis]).collect();
                let perm = perm.into_iter().map(|axis| axis as i64).collect();
                (self.model.append(main, &name, Transpose { x, perm }), moved)
            }
            15 => {
                let count = shape.iter().product::<usize>();
                let to = match way % 3 {
                    0 => vec![shape[0], count / shape[0]],
                    1 => vec![1, count / shape[rank - 1], shape[rank - 1]],
                    _ => vec![shape[0], count / shape[0], 1, 1],
                };
                let target = Tensor::from_ints(&to.iter().map(|&length| length as i64).collect::<Vec<_>>());
                let target = self.model.add_constant(main, "shape", target);
                (self.model.append(main, &name, Reshape { x, shape: target, allowzero: 0 }), to)
            }
            16 => {
                let alike = self.values.iter().filter(|(_, other)| *other == shape).map(|(value, _)| *value);
                let alike: Vec<ValueId> = alike.collect();
                let b = alike[way % alike.len()];
                (self.model.append(main, &name, Add { a: x, b }), shape)
            }
            17 => {
                let axis = way % rank;
                let alike = self.values.iter().filter(|(_, other)| *other == shape).map(|(value, _)| *value);
                let xs: Vec<ValueId> = [x].into_iter().chain(alike.skip(way % 2).take(1)).collect();
                let mut joined = shape.clone();
                joined[axis] *= xs.len();
                (self.model.append(main, &name, Concat { xs, axis: axis as i64 }), joined)
            }
            18 => match way % 4 {
                0 => (self.model.append(main, &name, Sigmoid { x }), shape),
                1 => (self.model.append(main, &name, Softmax { x, axis: (way / 4 % rank) as i64 }), shape),
                _ => {
                    let (axis, keepdims) = (way / 4 % rank, i64::from(way % 4 == 2 || rank <= 2));
                    let axes = self.model.add_constant(main, "axes", Tensor::from_ints(&[axis as i64]));
                    let mean = ReduceMean { x, axes: Some(axes), keepdims, noop_with_empty_axes: 0 };
                    let mut left = shape.clone();
                    match keepdims {
                        1 => left[axis] = 1,
                        _ => drop(left.remove(axis)),
                    }
                    (self.model.append(main, &name, mean), left)
                }
            },
            19 if rank == 4 && shape[2] >= 2 && shape[3] >= 2 => {
                let (auto_pad, kernel_shape) = (String::from("NOTSET"), vec![2, 2]);
                let (dilations, pads, strides) = (vec![], vec![], vec![]);
                let (ceil_mode, count_include_pad, storage_order) = (0, 0, 0);
                let pooled = vec![shape[0], shape[1], shape[2] - 1, shape[3] - 1];
                match way % 2 {
                    0 => {
                        let pool =
                            MaxPool { x, auto_pad, ceil_mode, dilations, kernel_shape, pads, storage_order, strides };
                        (self.model.append(main, &name, pool), pooled)
                    }
                    _ => {
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
                        (self.model.append(main, &name, pool), pooled)
                    }
                }
            }
            _ => return,
        };
        if made.1.iter().product::<usize>() <= LARGEST {
            self.values.push(made);
        }
    }

    fn number(&mut self, number: f32) -> ValueId {
        let tensor = Tensor::from_floats(ndarray::arr0(number).into_dyn(), self.dtype).expect("a float type");
        self.model.add_constant(self.model.main, "number", tensor)
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        self.constant(shape, 0.0)
    }

    /// A constant that broadcasts to `shape`: a number, one for each index of an axis, or a whole tensor.
    fn factor(&mut self, shape: &[usize], way: usize, around: f32) -> ValueId {
        let rank = shape.len();
        match way % 5 {
            0 => self.constant(&[], around),
            1 => self.constant(&[1], around),
            2 => self.constant(&shape[rank - 1..], around),
            3 if rank >= 3 => {
                let mut lengths = vec![1; rank - 1];
                lengths[0] = shape[1];
                self.constant(&lengths, around)
            }
            _ => self.constant(shape, around),
        }
    }

    /// Numbers within a half of `around`.
    fn constant(&mut self, shape: &[usize], around: f32) -> ValueId {
        let count = shape.iter().product::<usize>();
        let elements = (0..count).map(|_| {
            self.seed = self.seed.wrapping_mul(1664525).wrapping_add(1013904223);
            (self.seed >> 16) as f32 / 65536.0 - 0.5 + around
        });
        let array = ArrayD::from_shape_vec(IxDyn(shape), elements.collect()).expect("as many as the shape holds");
        let tensor = Tensor::from_floats(array, self.dtype).expect("a float type");
        self.model.add_constant(self.model.main, "weight", tensor)
    }
}
