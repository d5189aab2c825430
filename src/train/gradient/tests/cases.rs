//! A random case for each operator that has a gradient.

use super::draw::{Case, Draw, Operand, ints};
use crate::ir::{Attr, DType, Tensor};

type Make = fn(&mut Draw) -> Case;

/// In the order of the table; an operator may have several rows.
pub const CASES: &[(&str, Make)] = &[
    ("Abs", kinked),
    ("Add", binary),
    ("AveragePool", average_pool),
    ("BatchNormalization", batch_normalization),
    ("Cast", |d| smooth(d).int("to", DType::F64.code().into())),
    ("CastLike", |d| {
        let mut case = smooth(d);
        case.operands.push(Operand::Fixed(Tensor::scalar(0f64)));
        case
    }),
    // tract has Celu and Swish with an alpha of 1 only.
    ("Celu", kinked),
    ("Clip", clip),
    ("Concat", concat),
    ("Conv", |d| conv(d, 1)),
    ("Conv", |d| conv(d, 2)),
    ("ConvTranspose", conv_transpose),
    ("Cos", smooth),
    ("DepthToSpace", |d| {
        let mode = if d.coin() { "DCR" } else { "CRD" };
        Case::of(vec![d.trained(&[1, 8, 2, 1])]).int("blocksize", 2).text("mode", mode)
    }),
    ("DequantizeLinear", dequantize_linear),
    ("Div", |d| {
        let shape = d.shape(3);
        let other = d.narrower(&shape);
        Case::of(vec![d.trained(&shape), d.positive(&other)])
    }),
    ("Dropout", smooth),
    ("Einsum", einsum),
    ("Elu", |d| kinked(d).float("alpha", 0.6)),
    ("Erf", smooth),
    ("Exp", smooth),
    ("Expand", |d| {
        let shape = d.shape(3);
        let narrow = d.narrower(&shape);
        Case::of(vec![d.trained(&narrow), ints(&signed(&shape))])
    }),
    ("Flatten", |d| smooth(d).int("axis", 1)),
    ("GRU", |d| recurrent(d, 3)),
    ("Gather", gather),
    ("GatherElements", gather_elements),
    ("Gelu", smooth),
    ("Gelu", |d| smooth(d).text("approximate", "tanh")),
    ("Gemm", gemm),
    ("GlobalAveragePool", |d| Case::of(vec![d.trained(&[2, 3, 2, 4])])),
    ("GlobalMaxPool", |d| Case::of(vec![d.apart(&[2, 3, 2, 4], 1.0)]).kinked()),
    ("GroupNormalization", |d| {
        let (space, channels) = (d.int(2, 4), 4);
        Case::of(vec![d.trained(&[2, channels, space]), d.trained(&[channels]), d.trained(&[channels])])
            .int("num_groups", 2)
            .float("epsilon", 0.1)
    }),
    ("HardSigmoid", wide),
    ("HardSwish", wide),
    ("Identity", smooth),
    ("InstanceNormalization", |d| {
        let space = d.int(2, 4);
        Case::of(vec![d.trained(&[2, 3, space, 2]), d.trained(&[3]), d.trained(&[3])]).float("epsilon", 0.1)
    }),
    ("LSTM", |d| recurrent(d, 4)),
    ("LayerNormalization", layer_normalization),
    ("LeakyRelu", |d| kinked(d).float("alpha", 0.2)),
    ("Log", positive),
    ("LogSoftmax", softmax),
    ("MatMul", matmul),
    ("Max", extreme),
    ("MaxPool", max_pool),
    // tract wants operands of one rank.
    ("Mean", |d| {
        let shape = d.shape(3);
        let narrow = [shape[0], 1, shape[2]];
        Case::of(vec![d.trained(&shape), d.trained(&narrow)])
    }),
    ("Min", extreme),
    ("Mish", smooth),
    ("Mul", binary),
    ("Neg", smooth),
    ("PRelu", |d| Case::of(vec![d.apart(&[2, 3, 2], 1.0), d.trained(&[3, 1])]).kinked()),
    ("Pad", pad),
    ("Pow", |d| {
        let shape = d.shape(2);
        let other = d.narrower(&shape);
        Case::of(vec![d.positive(&shape), d.trained(&other)])
    }),
    ("Pow", |d| {
        let exponent = [2.0f32, 3.0][d.int(0, 1)];
        Case::of(vec![d.trained(&[2, 3]), Operand::Fixed(Tensor::scalar(exponent))])
    }),
    ("RMSNormalization", |d| {
        let n = d.int(2, 4);
        Case::of(vec![d.trained(&[2, 3, n]), d.trained(&[n])]).float("epsilon", 0.1)
    }),
    ("RNN", |d| recurrent(d, 1)),
    ("Reciprocal", positive),
    ("ReduceL1", |d| reduction(d, |d, shape| d.apart(shape, 1.0)).kinked()),
    ("ReduceL2", |d| reduction(d, |d, shape| d.positive(shape))),
    ("ReduceLogSum", |d| reduction(d, |d, shape| d.positive(shape))),
    ("ReduceLogSumExp", |d| reduction(d, |d, shape| d.trained(shape))),
    ("ReduceMax", |d| reduction(d, |d, shape| d.apart(shape, 1.0)).kinked()),
    ("ReduceMean", |d| reduction(d, |d, shape| d.trained(shape))),
    ("ReduceMin", |d| reduction(d, |d, shape| d.apart(shape, 1.0)).kinked()),
    ("ReduceProd", |d| reduction(d, |d, shape| d.trained(shape))),
    ("ReduceSum", |d| reduction(d, |d, shape| d.trained(shape))),
    ("ReduceSumSquare", |d| reduction(d, |d, shape| d.trained(shape))),
    ("Relu", kinked),
    ("Reshape", |d| {
        let shape = [d.int(1, 3), 4, d.int(1, 3)];
        Case::of(vec![d.trained(&shape), ints(&[2, -1, 2])])
    }),
    ("Resize", resize),
    ("Selu", kinked),
    ("Sigmoid", smooth),
    ("Sin", smooth),
    ("Slice", slice),
    ("Softmax", softmax),
    ("Softplus", smooth),
    ("Softsign", kinked),
    ("SpaceToDepth", |d| Case::of(vec![d.trained(&[1, 2, 4, 2])]).int("blocksize", 2)),
    ("Split", split),
    ("Sqrt", positive),
    ("Squeeze", |d| Case::of(vec![d.trained(&[2, 1, 3, 1]), ints(&[1, -1])])),
    ("Sub", binary),
    ("Sum", variadic),
    ("Swish", smooth),
    ("Tanh", smooth),
    ("ThresholdedRelu", |d| kinked(d).float("alpha", 0.25)),
    ("Tile", |d| {
        let shape = d.shape(3);
        Case::of(vec![d.trained(&shape), ints(&[2, 1, 3])])
    }),
    ("Transpose", |d| {
        let shape = d.shape(3);
        let case = Case::of(vec![d.trained(&shape)]);
        if d.coin() { case.ints("perm", vec![2, 0, 1]) } else { case }
    }),
    ("Unsqueeze", |d| {
        let shape = d.shape(2);
        Case::of(vec![d.trained(&shape), ints(&[0, -1])])
    }),
    ("Where", |d| {
        let shape = d.shape(3);
        let (a, b) = (d.narrower(&shape), d.narrower(&shape));
        let condition = (0..shape.iter().product()).map(|_| d.coin()).collect();
        let condition = Operand::Fixed(Tensor::from_bool(shape.clone(), condition));
        Case::of(vec![condition, d.trained(&a), d.trained(&b)])
    }),
];

fn signed(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&n| n as i64).collect()
}

fn smooth(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    Case::of(vec![d.trained(&shape)])
}

fn positive(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    Case::of(vec![d.positive(&shape)])
}

fn kinked(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    Case::of(vec![d.apart(&shape, 1.0)]).kinked()
}

/// Beyond the bounds of activations that are flat from 3 on.
fn wide(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    Case::of(vec![d.apart(&shape, 3.0)]).kinked()
}

fn binary(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    let other = d.narrower(&shape);
    let operands = vec![d.trained(&shape), d.trained(&other)];
    Case::of(if d.coin() { operands } else { operands.into_iter().rev().collect() })
}

fn variadic(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    let shapes = [d.narrower(&shape), shape.clone(), d.narrower(&shape)];
    Case::of(shapes.iter().map(|shape| d.trained(shape)).collect())
}

fn extreme(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    let shapes = [d.narrower(&shape), shape.clone(), d.narrower(&shape)];
    Case::of(shapes.iter().map(|shape| d.apart(shape, 1.0)).collect()).kinked()
}

fn reduction(d: &mut Draw, operand: fn(&mut Draw, &[usize]) -> Operand) -> Case {
    let shape = d.shape(3);
    let axes = d.axes(3);
    let keep = i64::from(d.coin());
    Case::of(vec![operand(d, &shape), axes]).int("keepdims", keep)
}

fn softmax(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    let axis = d.int(0, 2) as i64;
    Case::of(vec![d.trained(&shape)]).int("axis", if d.coin() { axis } else { axis - 3 })
}

fn clip(d: &mut Draw) -> Case {
    let shape = d.shape(3);
    let mut bound = |x: f32| if d.coin() { Operand::Fixed(Tensor::scalar(x)) } else { Operand::Missing };
    let bounds = [bound(-0.5), bound(0.75)];
    let mut operands = vec![d.apart(&shape, 1.0)];
    operands.extend(bounds);
    Case::of(operands).kinked()
}

fn concat(d: &mut Draw) -> Case {
    let (shape, axis) = (d.shape(3), d.int(0, 2));
    let part = |d: &mut Draw| {
        let mut shape = shape.clone();
        shape[axis] = d.int(1, 3);
        d.trained(&shape)
    };
    Case::of(vec![part(d), part(d), part(d)]).int("axis", axis as i64 - 3)
}

fn split(d: &mut Draw) -> Case {
    let axis = d.int(0, 2);
    let mut shape = d.shape(3);
    shape[axis] = 5;
    let mut case = Case::of(vec![d.trained(&shape), ints(&[2, 1, 2])]).int("axis", axis as i64);
    case.results = 3;
    // What only some parts are used of has zeros for the rest.
    case.judged = d.int(1, 3);
    case
}

fn slice(d: &mut Draw) -> Case {
    let x = d.trained(&[5, 2, 6]);
    let bounds = match d.int(0, 3) {
        0 => [ints(&[1, -4]), ints(&[i64::from(i32::MAX), -1]), ints(&[0, 2]), ints(&[2, 1])],
        1 => [ints(&[-1]), ints(&[-6]), ints(&[0]), ints(&[-1])],
        2 => [ints(&[5]), ints(&[0]), ints(&[-1]), ints(&[-2])],
        _ => [ints(&[0, 0, 1]), ints(&[3, 2, 6]), Operand::Missing, ints(&[2, 1, 3])],
    };
    let mut operands = vec![x];
    operands.extend(bounds);
    Case::of(operands)
}

fn pad(d: &mut Draw) -> Case {
    let shape = d.shape(2);
    let pads: Vec<i64> = (0..4).map(|_| d.int(0, 2) as i64).collect();
    Case::of(vec![d.trained(&shape), ints(&pads), Operand::Fixed(Tensor::scalar(0.3f32))])
}

fn gather(d: &mut Draw) -> Case {
    let shape = [3, 4, 2];
    let axis = d.int(0, 2);
    let indices = match d.int(0, 2) {
        0 => Tensor::scalar(-1i64),
        1 => Tensor::from_vec(vec![2, 2], vec![0i64, 1, -1, 1]),
        _ => Tensor::from_vec(vec![3], vec![1i32, 1, 0]),
    };
    Case::of(vec![d.trained(&shape), Operand::Fixed(indices)]).int("axis", axis as i64)
}

fn gather_elements(d: &mut Draw) -> Case {
    let (shape, axis) = ([3, 4], d.int(0, 1));
    let indices: Vec<i64> = (0..6).map(|_| d.int(0, 2) as i64 - i64::from(d.coin())).collect();
    let indices = Operand::Fixed(Tensor::from_vec(vec![2, 3], indices));
    Case::of(vec![d.trained(&shape), indices]).int("axis", axis as i64)
}

fn matmul(d: &mut Draw) -> Case {
    let (m, k, n) = (d.int(1, 3), d.int(1, 4), d.int(1, 3));
    let shapes: [Vec<usize>; 2] = match d.int(0, 6) {
        0 => [vec![m, k], vec![k, n]],
        1 => [vec![2, 3, m, k], vec![k, n]],
        2 => [vec![2, 2, m, k], vec![2, 2, k, n]],
        3 => [vec![2, 1, m, k], vec![3, k, n]],
        4 => [vec![k], vec![2, k, n]],
        5 => [vec![2, m, k], vec![k]],
        _ => [vec![m, k], vec![2, k, n]],
    };
    Case::of(shapes.iter().map(|shape| d.trained(shape)).collect())
}

fn gemm(d: &mut Draw) -> Case {
    let (m, k, n) = (d.int(1, 3), d.int(1, 3), d.int(1, 3));
    let (turned_a, turned_b) = (d.coin(), d.coin());
    let a = if turned_a { [k, m] } else { [m, k] };
    let b = if turned_b { [n, k] } else { [k, n] };
    let c = d.narrower(&[m, n]);
    let c = if d.int(0, 3) == 0 { Operand::Missing } else { d.trained(&c) };
    Case::of(vec![d.trained(&a), d.trained(&b), c])
        .float("alpha", 0.7)
        .float("beta", 1.4)
        .int("transA", turned_a.into())
        .int("transB", turned_b.into())
}

fn einsum(d: &mut Draw) -> Case {
    let (equation, shapes): (_, &[&[usize]]) = match d.int(0, 4) {
        0 => ("bij,bjk->bik", &[&[2, 3, 2], &[2, 2, 3]]),
        1 => ("ij,j->i", &[&[3, 2], &[2]]),
        2 => ("ij -> ji", &[&[3, 2]]),
        3 => ("bhid,bhjd->bhij", &[&[2, 1, 3, 2], &[2, 1, 2, 2]]),
        _ => ("ij,ik", &[&[2, 3], &[2, 2]]),
    };
    Case::of(shapes.iter().map(|shape| d.trained(shape)).collect()).text("equation", equation)
}

fn conv(d: &mut Draw, rank: usize) -> Case {
    // Groups, and channels of each.
    let (group, inputs, outputs) = [(1, 2, 3), (1, 3, 1), (3, 1, 1), (2, 1, 2), (2, 2, 2), (1, 1, 4)][d.int(0, 5)];
    let batch = [1, 2, 5][d.int(0, 2)];
    let kernel: Vec<usize> = (0..rank).map(|_| d.int(1, 3)).collect();
    let strides: Vec<usize> = (0..rank).map(|_| d.int(1, 3)).collect();
    let dilations: Vec<usize> = (0..rank).map(|_| d.int(1, 2)).collect();
    let space: Vec<usize> = (0..rank).map(|i| dilations[i] * (kernel[i] - 1) + 1 + d.int(0, 3)).collect();
    let x = d.trained(&[&[batch, group * inputs], &space[..]].concat());
    let w = d.trained(&[&[group * outputs, inputs], &kernel[..]].concat());
    let b = if d.coin() { d.trained(&[group * outputs]) } else { Operand::Missing };
    let case = Case::of(vec![x, w, b])
        .int("group", group as i64)
        .ints("strides", signed(&strides))
        .ints("dilations", signed(&dilations));
    match d.int(0, 3) {
        0 => case.text("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"][d.int(0, 2)]),
        _ => {
            let pads: Vec<usize> = (0..2 * rank).map(|_| d.int(0, 2)).collect();
            // tract writes beyond its memory where an element of a kernel sees nothing but padding.
            let sees = |i: usize| {
                let padded = space[i] + pads[i] + pads[i + rank];
                let places = (padded - dilations[i] * (kernel[i] - 1) - 1) / strides[i] + 1;
                (0..kernel[i]).all(|tap| {
                    let mut read = (0..places).map(|place| place * strides[i] + tap * dilations[i]);
                    read.any(|read| (pads[i]..pads[i] + space[i]).contains(&read))
                })
            };
            if (0..rank).all(sees) { case.ints("pads", signed(&pads)) } else { case }
        }
    }
}

fn conv_transpose(d: &mut Draw) -> Case {
    let (group, inputs, outputs) = [(1, 2, 3), (3, 1, 1), (2, 2, 1)][d.int(0, 2)];
    let batch = [1, 2][d.int(0, 1)];
    let kernel: Vec<usize> = (0..2).map(|_| d.int(2, 3)).collect();
    let strides: Vec<usize> = (0..2).map(|_| d.int(1, 2)).collect();
    let space: Vec<usize> = (0..2).map(|_| d.int(2, 3)).collect();
    let x = d.trained(&[&[batch, group * inputs], &space[..]].concat());
    let w = d.trained(&[&[group * inputs, outputs], &kernel[..]].concat());
    let b = if d.coin() { d.trained(&[group * outputs]) } else { Operand::Missing };
    let more: Vec<usize> = strides.iter().map(|&stride| d.int(0, stride - 1)).collect();
    Case::of(vec![x, w, b])
        .int("group", group as i64)
        .ints("strides", signed(&strides))
        .ints("output_padding", signed(&more))
        .ints("pads", (0..4).map(|_| d.int(0, 1) as i64).collect())
}

fn average_pool(d: &mut Draw) -> Case {
    let kernel: Vec<usize> = (0..2).map(|_| d.int(1, 3)).collect();
    let space: Vec<usize> = kernel.iter().map(|&n| n + d.int(0, 2)).collect();
    let pads = (0..4).map(|i| d.int(0, kernel[i % 2] - 1) as i64).collect();
    let strides = vec![d.int(1, 2) as i64, d.int(1, 2) as i64];
    Case::of(vec![d.trained(&[&[2, 2], &space[..]].concat())])
        .ints("kernel_shape", signed(&kernel))
        .ints("strides", strides)
        .ints("pads", pads)
        .int("count_include_pad", i64::from(d.coin()))
}

fn max_pool(d: &mut Draw) -> Case {
    let kernel: Vec<usize> = (0..2).map(|_| d.int(1, 3)).collect();
    let space: Vec<usize> = kernel.iter().map(|&n| n + d.int(0, 2)).collect();
    let pads = (0..4).map(|i| d.int(0, kernel[i % 2] - 1) as i64).collect();
    let strides = vec![d.int(1, 2) as i64, d.int(1, 2) as i64];
    Case::of(vec![d.apart(&[&[2, 2], &space[..]].concat(), 1.0)])
        .ints("kernel_shape", signed(&kernel))
        .ints("strides", strides)
        .ints("pads", pads)
        .kinked()
}

fn dequantize_linear(d: &mut Draw) -> Case {
    let shape = [2, d.int(2, 4), d.int(1, 3)];
    let levels = (0..shape.iter().product()).map(|_| d.int(0, 255) as u8).collect();
    let levels = Operand::Fixed(Tensor::from_vec::<u8>(shape.to_vec(), levels));
    let (axis, zero_point) = (d.int(0, 2), d.int(0, 255) as u8);
    match d.coin() {
        true => Case::of(vec![levels, d.positive(&[]), Operand::Fixed(Tensor::scalar(zero_point))]),
        false => {
            let zero_points = (0..shape[axis]).map(|channel| zero_point / (1 + channel as u8)).collect();
            let zero_points = Operand::Fixed(Tensor::from_vec::<u8>(vec![shape[axis]], zero_points));
            Case::of(vec![levels, d.positive(&[shape[axis]]), zero_points]).int("axis", axis as i64 - 3)
        }
    }
}

fn layer_normalization(d: &mut Draw) -> Case {
    let shape = [2, d.int(1, 3), d.int(2, 4)];
    let axis = d.int(1, 2);
    let mut operands = vec![d.trained(&shape), d.trained(&shape[axis..])];
    if d.coin() {
        operands.push(d.trained(&shape[axis..]));
    }
    Case::of(operands).int("axis", axis as i64 - 3).float("epsilon", 0.1)
}

fn batch_normalization(d: &mut Draw) -> Case {
    let shape: &[usize] = [&[2, 3, 2, 2][..], &[2, 3]][d.int(0, 1)];
    let mean = Operand::Fixed(d.tensor(&[3], -1.0, 1.0));
    let variance = Operand::Fixed(d.tensor(&[3], 0.5, 2.0));
    Case::of(vec![d.trained(shape), d.trained(&[3]), d.trained(&[3]), mean, variance])
}

/// A recurrent layer with so many gates; every other one as tract reads it.
fn recurrent(d: &mut Draw, gates: usize) -> Case {
    let (steps, batch, input, hidden) = (d.int(1, 4), d.int(1, 2), d.int(1, 2), d.int(1, 3));
    let (is_lstm, written_out) = (gates == 4, d.coin());
    let (layout, direction) = match written_out {
        true => (d.coin(), ["forward", "reverse", "bidirectional"][d.int(0, 2)]),
        false => (false, ["forward", "bidirectional"][d.int(0, 1)]),
    };
    let (directions, rows) = (1 + usize::from(direction == "bidirectional"), gates * hidden);
    let x = if layout { [batch, steps, input] } else { [steps, batch, input] };
    let state = if layout { [batch, directions, hidden] } else { [directions, batch, hidden] };
    let mut operands =
        vec![d.trained(&x), d.trained(&[directions, rows, input]), d.trained(&[directions, rows, hidden])];
    operands.push(if d.coin() { d.trained(&[directions, 2 * rows]) } else { Operand::Missing });
    let lengths: Vec<i32> = (0..batch).map(|_| d.int(1, steps) as i32).collect();
    let lengths = Operand::Fixed(Tensor::from_vec(vec![batch], lengths));
    operands.push(if written_out && d.coin() { lengths } else { Operand::Missing });
    // tract mixes up the two states of an LSTM where none are given.
    let has_states = d.coin() || is_lstm && !written_out;
    operands.push(if has_states { d.trained(&state) } else { Operand::Missing });
    if is_lstm {
        operands.push(if has_states || d.coin() { d.trained(&state) } else { Operand::Missing });
        operands.push(if d.coin() { d.trained(&[directions, 3 * hidden]) } else { Operand::Missing });
    }
    let mut case = Case::of(operands).int("hidden_size", hidden as i64).text("direction", direction);
    case.results = if is_lstm { 3 } else { 2 };
    case.judged = d.int(1, case.results);
    if gates == 3 {
        case = case.int("linear_before_reset", i64::from(d.coin()));
    }
    if !written_out {
        return case;
    }
    if is_lstm {
        case = case.int("input_forget", i64::from(d.coin()));
    }
    if d.coin() {
        // Differences tell nothing beside a kink: all of them are smooth.
        let names = ["Softplus", "Sigmoid", "Tanh"].into_iter().cycle();
        let count = directions * [1, 2, 3][usize::from(gates > 1) + usize::from(is_lstm)];
        case = case.attr("activations", Attr::Strs(names.take(count).map(Into::into).collect()));
    }
    Case { written_out, ..case.int("layout", layout.into()) }
}

fn resize(d: &mut Draw) -> Case {
    let input = [d.int(1, 2), 2, d.int(2, 4), d.int(2, 4)];
    let x = d.trained(&input);
    let mode = ["nearest", "linear"][d.int(0, 1)];
    let coordinates = ["half_pixel", "align_corners", "asymmetric"][d.int(0, 2)];
    let sizes = [input[0], 2, d.int(2, 7), d.int(2, 7)];
    let (scales, sizes) = match d.coin() {
        true => (Operand::Missing, ints(&signed(&sizes))),
        false => (Operand::Fixed(Tensor::from_vec(vec![4], vec![1f32, 1.0, 2.0, 1.5])), Operand::Missing),
    };
    Case::of(vec![x, Operand::Missing, scales, sizes])
        .text("mode", mode)
        .text("coordinate_transformation_mode", coordinates)
        .text("nearest_mode", "floor")
}
