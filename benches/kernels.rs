//! The int8 kernels alone, on one thread: products of the shapes that real networks have, and depthwise convolutions.
//! The throughput is one of multiplications.

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use onnxshrink::kernels::{
    ActivationMatMul, Arithmetic, Convolution, ConvolutionShape, Dispatch, Epilogue, Images, Isa, MatMul, MatMulShape,
    MatrixView, Output, Parameters, Requantize, Weights, Window,
};

/// Rows, depth, columns: a residual network, EfficientNet-Lite0, an MLP and MiniLM.
const PRODUCTS: &[(usize, usize, usize)] = &[
    (1024, 288, 32),
    (64, 1152, 128),
    (12544, 32, 16),
    (12544, 16, 96),
    (3136, 24, 144),
    (196, 480, 112),
    (49, 320, 1280),
    (32, 784, 512),
    (1, 1280, 1000),
    (1, 384, 1536),
    (128, 384, 384),
    (128, 1536, 384),
];

/// Height and width, channels, kernel, stride.
const DEPTHWISE: &[(usize, usize, usize, usize)] =
    &[(112, 32, 3, 1), (56, 144, 3, 1), (112, 96, 3, 2), (28, 240, 5, 1), (14, 480, 5, 1), (7, 1152, 5, 1)];

/// Rows, depth, columns, whether b is transposed: the attention of MiniLM for 128 tokens.
const ATTENTION: &[(usize, usize, usize, bool)] = &[(128, 32, 128, true), (128, 128, 32, false)];

fn dispatches() -> impl Iterator<Item = Dispatch> {
    let all = Isa::available().into_iter();
    all.flat_map(|isa| Arithmetic::ALL.map(|arithmetic| Dispatch { isa, arithmetic }))
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7919 % 251) as u8).collect()
}

fn weights(length: usize) -> Vec<i8> {
    (0..length).map(|i| (i * 104_729 % 255) as u8 as i8).collect()
}

fn parameters(weights: &[i8], columns: usize) -> Parameters<'_> {
    let multipliers = vec![1e-4; columns];
    let requantize = Requantize { multipliers, zero_point: 100, clamp: [0, 255], residual: None };
    let epilogue = Epilogue::Requantize(requantize);
    Parameters { weights: Weights::signed(weights), bias: None, x_zero_point: 117, epilogue }
}

fn measure(group: &mut BenchmarkGroup<WallTime>, name: &str, dispatch: Dispatch, work: usize, mut run: impl FnMut()) {
    group.throughput(Throughput::Elements(work as u64));
    let id = BenchmarkId::new(name, format!("{} {}", dispatch.isa, dispatch.arithmetic));
    group.bench_function(id, |b| b.iter(&mut run));
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("products");
    group.sample_size(10);
    for &(rows, depth, columns) in PRODUCTS {
        let (a, w, mut y) = (bytes(rows * depth), weights(depth * columns), vec![0; rows * columns]);
        for dispatch in dispatches() {
            let shape = MatMulShape { depth, columns, transposed: false };
            let product = MatMul::new(dispatch, shape, &parameters(&w, columns));
            measure(&mut group, &format!("{rows}x{depth}x{columns}"), dispatch, rows * depth * columns, || {
                product.run(MatrixView::dense(&a, rows), None, Output::U8(&mut y))
            });
        }
    }
}

fn depthwise(c: &mut Criterion) {
    let mut group = c.benchmark_group("depthwise");
    group.sample_size(10);
    for &(size, channels, kernel, stride) in DEPTHWISE {
        let window = Window { kernel: [kernel; 2], strides: [stride; 2], dilations: [1, 1], pads: [kernel / 2; 4] };
        let shape = ConvolutionShape { window, groups: channels, in_channels: channels, out_channels: channels };
        let images = Images { batch: 1, size: [size, size], channels };
        let (x, w) = (bytes(images.len()), weights(kernel * kernel * channels));
        for isa in Isa::available() {
            // Both arithmetics are one here.
            let dispatch = Dispatch { isa, arithmetic: Arithmetic::Exact };
            let convolution = Convolution::new(dispatch, shape, &parameters(&w, channels));
            let output = convolution.output(&images);
            let mut y = vec![0; output.len()];
            let name = format!("{size}x{size}x{channels} {kernel}x{kernel} by {stride}");
            measure(&mut group, &name, dispatch, output.len() * kernel * kernel, || {
                convolution.run(&images, &x, None, Output::U8(&mut y))
            });
        }
    }
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    group.sample_size(10);
    for &(rows, depth, columns, transposed) in ATTENTION {
        let (a, b, mut y) = (bytes(rows * depth), bytes(depth * columns), vec![0; rows * columns]);
        for isa in Isa::available() {
            let product = ActivationMatMul {
                dispatch: Dispatch { isa, arithmetic: Arithmetic::Exact },
                shape: MatMulShape { depth, columns, transposed },
                a_zero_point: 117,
                b_zero_point: 121,
                b_is_signed: false,
                epilogue: parameters(&[], 1).epilogue,
            };
            let b = MatrixView::dense(&b, if transposed { columns } else { depth });
            let name = format!("{rows}x{depth}x{columns}");
            measure(&mut group, &name, product.dispatch, rows * depth * columns, || {
                product.run(MatrixView::dense(&a, rows), b, Output::U8(&mut y), columns)
            });
        }
    }
}

/// Rayon's pool, which all of the above would share, has one thread.
fn single_threaded(c: &mut Criterion) {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("no pool exists yet");
    products(c);
    depthwise(c);
    attention(c);
}

criterion_group!(benches, single_threaded);
criterion_main!(benches);
