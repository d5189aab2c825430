//! Emulated registers of VNNI, so that tiles and depthwise convolutions for it are tested on any CPU; and the kernels of
//! AVX-VNNI with another dot product, on CPUs with AVX2. Not tested so: `vpdpbusd`, and how 512 bits become bytes.

use proptest::prelude::*;

use super::depthwise::{Interleave, Line, Part, channel_of_lane};
use super::finish::{Finish, ToBytes};
use super::tile::{Job, Place};
use super::vector::{TALLEST_256, TALLEST_512, Vector};
use super::{Block, DepthwiseLine, DepthwiseScratch, depthwise, pack_fours, square, tile};
use crate::kernels::epilogue::{Requantize, requantize};
use crate::kernels::geometry::Rows;
use crate::kernels::packing::{Matrix, Panels};
use crate::kernels::product::Destination;
use crate::kernels::taps::{Input, Taps};
use crate::kernels::terms::{Constants, InputQuantization, Terms};
use crate::kernels::tests::{Noise, Values, reference};
use crate::kernels::{
    Addition, Arithmetic, Convolution, ConvolutionShape, Epilogue, Images, Isa, MatMul, MatMulShape, MatrixView,
    Parameters, Scale, Weights, Window,
};

#[derive(Clone, Copy)]
struct Emulated<const LANES: usize>([i32; LANES]);

impl<const LANES: usize> Vector for Emulated<LANES> {
    const LANES: usize = LANES;
    const GRANULE: usize = 4;
    const TALLEST: &'static [usize] = if LANES == 16 { TALLEST_512 } else { TALLEST_256 };
    type Activation = u8;
    type Weight = i8;

    unsafe fn load(sums: *const i32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Emulated(sums.cast::<[i32; LANES]>().read()) }
    }

    unsafe fn splat(sum: i32) -> Self {
        Emulated([sum; LANES])
    }

    unsafe fn add(self, other: Self) -> Self {
        Emulated(std::array::from_fn(|lane| self.0[lane].wrapping_add(other.0[lane])))
    }

    unsafe fn broadcast(x: *const u8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Emulated([x.cast::<i32>().read_unaligned(); LANES]) }
    }

    unsafe fn weights(w: *const i8) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Emulated(w.cast::<[i32; LANES]>().read_unaligned()) }
    }

    unsafe fn dot(self, x: Self, w: Self) -> Self {
        let products = |x: i32, w: i32| -> i32 {
            x.to_le_bytes().iter().zip(w.to_le_bytes()).map(|(&x, w)| i32::from(x) * i32::from(w as i8)).sum()
        };
        Emulated(std::array::from_fn(|lane| self.0[lane].wrapping_add(products(x.0[lane], w.0[lane]))))
    }

    unsafe fn finish_bytes<const N: usize, const RESIDUAL: bool>(
        sums: [Self; N],
        to: &ToBytes<RESIDUAL>,
        column: usize,
        at: usize,
        valid: usize,
    ) {
        for i in 0..valid {
            let clamp = [to.low as u8, to.high as u8];
            // SAFETY: the caller's promise.
            unsafe {
                let multiplier = *to.multipliers.add(column + i);
                let byte = requantize(sums[i / LANES].0[i % LANES] as f32, multiplier, to.zero_point as u8, clamp);
                *to.output.add(at + i) = if RESIDUAL { to.addition.byte(byte, *to.residual.add(at + i)) } else { byte };
            }
        }
    }

    unsafe fn finish_floats(self, scales: *const f32, bias: *const f32, clamp: [f32; 2], output: *mut f32) {
        for (lane, &sum) in self.0.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let real = sum as f32 * *scales.add(lane) + *bias.add(lane);
                *output.add(lane) = real.max(clamp[0]).min(clamp[1]);
            }
        }
    }

    unsafe fn store(self, output: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { output.cast::<[i32; LANES]>().write(self.0) }
    }
}

impl<const LANES: usize> Interleave for Emulated<LANES> {
    const PARTS: usize = 4;
    const SHARING: usize = if LANES == 16 { 4 } else { 2 };

    unsafe fn interleave(rows: [*const u8; 4], valid: usize) -> [Self; 4] {
        let byte = |row: *const u8, channel: usize| match channel < valid {
            // SAFETY: the caller's promise.
            true => unsafe { *row.add(channel) },
            false => 0,
        };
        let lane = |index: usize| {
            let channel = channel_of_lane::<Self>(index);
            i32::from_le_bytes(rows.map(|row| byte(row, channel)))
        };
        std::array::from_fn(|part| Emulated(std::array::from_fn(|index| lane(part * LANES + index))))
    }

    unsafe fn in_order(sums: [Self; 4]) -> [Self; 4] {
        let mut ordered = sums;
        for index in 0..4 * LANES {
            let channel = channel_of_lane::<Self>(index);
            ordered[channel / LANES].0[channel % LANES] = sums[index / LANES].0[index % LANES];
        }
        ordered
    }
}

impl<const LANES: usize> square::Requantize for Emulated<LANES> {
    unsafe fn in_lanes(ordered: [Self; 4]) -> [Self; 4] {
        let mut sums = ordered;
        for index in 0..4 * LANES {
            let channel = channel_of_lane::<Self>(index);
            sums[index / LANES].0[index % LANES] = ordered[channel / LANES].0[channel % LANES];
        }
        sums
    }

    unsafe fn finish_lanes(sums: [Self; 4], multipliers: *const f32, to: &ToBytes<false>, at: usize, valid: usize) {
        for index in 0..4 * LANES {
            let channel = channel_of_lane::<Self>(index);
            if channel < valid {
                let clamp = [to.low as u8, to.high as u8];
                let sum = sums[index / LANES].0[index % LANES] as f32;
                // SAFETY: the caller's promise.
                unsafe {
                    let byte = requantize(sum, *multipliers.add(index), to.zero_point as u8, clamp);
                    *to.output.add(at + channel) = byte;
                }
            }
        }
    }
}

struct Plain<const LANES: usize>;

impl<const LANES: usize> tile::Kernel for Plain<LANES> {
    type Vector = Emulated<LANES>;

    unsafe fn sum(job: &Job<Self::Vector>, place: Place, to: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { tile::sum(job, place, to) }
    }

    unsafe fn finish<F: Finish<Self::Vector>>(finish: &F, job: &Job<Self::Vector>, place: Place, from: *const i32) {
        // SAFETY: the caller's promise.
        unsafe { tile::finish_rows(finish, job, place, from) }
    }

    const REQUANTIZES: bool = LANES == 16;

    unsafe fn requantize(to: &ToBytes<false>, job: &Job<Self::Vector>, place: Place) {
        // SAFETY: the caller's promise.
        unsafe { tile::requantize(to, job, place) }
    }
}

impl<const LANES: usize> depthwise::Kernel for Plain<LANES> {
    type Vector = Emulated<LANES>;

    unsafe fn sum(line: &Line<Self::Vector>, part: Part) {
        // SAFETY: the caller's promise.
        unsafe { depthwise::sum::<_, 4>(line, part) }
    }

    unsafe fn finish<F: Finish<Self::Vector>>(finish: &F, line: &Line<Self::Vector>, part: Part) {
        // SAFETY: the caller's promise.
        unsafe { depthwise::finish_pixels::<_, _, 4>(finish, line, part) }
    }

    const SQUARE: bool = true;

    unsafe fn square(line: &Line<Self::Vector>, to: &ToBytes<false>) {
        // SAFETY: the caller's promise.
        unsafe { square::convolve(line, to) }
    }
}

fn epilogue(noise: &mut Noise, columns: usize) -> Epilogue {
    let mut reals = |low: f32, high: f32| -> Vec<f32> { (0..columns).map(|_| noise.real(low, high)).collect() };
    match columns % 4 {
        0 => Epilogue::Integer,
        1 => Epilogue::Scale(Scale { scales: reals(0.1, 1.0), bias: reals(-9.0, 9.0), clamp: [-900.0, 900.0] }),
        rest => {
            let addition = Addition { ratios: [0.7, 0.4], offset: -20.3, clamp: [2, 200] };
            let (multipliers, residual) = (reals(1e-4, 3e-3), (rest == 3).then_some(addition));
            Epilogue::Requantize(Requantize { multipliers, zero_point: 90, clamp: [3, 250], residual })
        }
    }
}

/// Compares a product with the reference.
fn multiply(
    run: unsafe fn(Block<u8, i8>),
    (rows, depth, columns): (usize, usize, usize),
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut noise = Noise::new(seed);
    let (a, w) = (noise.bytes(rows * depth), noise.signed(depth * columns));
    let epilogue = epilogue(&mut noise, columns);
    let weights = Weights::signed(&w);
    let parameters = Parameters { weights, bias: None, x_zero_point: noise.byte(), epilogue: epilogue.clone() };
    let shape = MatMulShape { depth, columns, transposed: false };
    let residual = epilogue.residual().is_some().then(|| noise.bytes(rows * columns));
    let residual = residual.as_deref();
    let mut expected = Values::of(&epilogue, rows * columns);
    let product = MatMul::new(reference(Arithmetic::Exact), shape, &parameters);
    product.run(MatrixView::dense(&a, rows), residual, expected.output());

    let matrix = Matrix::new(depth, columns, |k, column| w[k * columns + column].into());
    let constants = Constants { bias: vec![0; columns], weight_sums: matrix.column_sums(), epilogue: epilogue.clone() };
    let terms = Terms::new(constants, InputQuantization::of_zero_point(parameters.x_zero_point));
    let Panels::Bytes(weights) = Panels::bytes(&matrix) else { unreachable!("panels of bytes") };
    let all = Rows::Matrix { stride: depth };
    let input = Input { values: &a, words: None, offset: 0, rows: &all, count: rows, starts: None };
    let mut taps = Taps::default();
    taps.find(&input, Some(&a), 0..rows, depth, 4, parameters.x_zero_point);
    let mut values = Values::of(&epilogue, rows * columns);
    let destination = Destination { output: values.output(), residual, column: 0, stride: columns };
    let block =
        Block { taps: &taps, weights: &weights[..], pairs: None, columns, terms: &terms, starts: None, destination };
    // SAFETY: the CPU has the instruction set, and the taps point to `a` or to copies.
    unsafe { run(block) }
    prop_assert_eq!(values, expected);
    Ok(())
}

/// Compares a depthwise convolution with the reference.
fn convolve<const LANES: usize>(
    run: unsafe fn(DepthwiseLine<i8>),
    window: Window,
    (width, channels): (usize, usize),
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut noise = Noise::new(seed);
    // One line of output: all rows of the window lie in the image, or above it.
    let images = Images { batch: 1, size: [window.kernel[0] - window.pads[0], width], channels };
    let (x, w) = (noise.bytes(images.len()), noise.signed(window.taps() * channels));
    let epilogue = epilogue(&mut noise, channels);
    let weights = Weights::signed(&w);
    let parameters = Parameters { weights, bias: None, x_zero_point: noise.byte(), epilogue: epilogue.clone() };
    let shape = ConvolutionShape { window, groups: channels, in_channels: channels, out_channels: channels };
    let convolution = Convolution::new(reference(Arithmetic::Exact), shape, &parameters);
    let length = convolution.output(&images).len();
    let mut expected = Values::of(&epilogue, length);
    let residual = epilogue.residual().is_some().then(|| noise.bytes(length));
    let residual = residual.as_deref();
    convolution.run(&images, &x, residual, expected.output());

    let matrix = Matrix::new(window.taps(), channels, |tap, channel| w[channel * window.taps() + tap].into());
    let constants =
        Constants { bias: vec![0; channels], weight_sums: matrix.column_sums(), epilogue: epilogue.clone() };
    let terms = Terms::new(constants, InputQuantization::of_zero_point(parameters.x_zero_point));
    let packed = pack_fours::<Emulated<LANES>>(&matrix, 0..channels, &window, &epilogue);
    let mut rows = vec![None; window.pads[0]];
    rows.extend(x.chunks(width * channels).map(Some));
    let mut values = Values::of(&epilogue, length);
    let line = DepthwiseLine {
        rows: &rows,
        window: &window,
        pitch: channels,
        channels: 0..channels,
        padding: &vec![parameters.x_zero_point; channels],
        weights: &packed[..],
        terms: &terms,
        residual,
        output: values.output(),
        scratch: &mut DepthwiseScratch::default(),
    };
    // SAFETY: the CPU has the instruction set.
    unsafe { run(line) }
    prop_assert_eq!(values, expected);
    Ok(())
}

unsafe fn multiply_emulated<const LANES: usize>(block: Block<u8, i8>) {
    // SAFETY: emulated registers need no instruction set.
    unsafe { block.run::<Plain<LANES>, Emulated<LANES>>() }
}

unsafe fn convolve_emulated<const LANES: usize>(line: DepthwiseLine<i8>) {
    // SAFETY: as above.
    unsafe { line.run::<Plain<LANES>, Emulated<LANES>>() }
}

fn kernels() -> Vec<unsafe fn(Block<u8, i8>)> {
    let mut kernels: Vec<unsafe fn(Block<u8, i8>)> = vec![multiply_emulated::<8>, multiply_emulated::<16>];
    if Isa::Avx2.is_available() {
        kernels.push(super::multiply_without_vnni);
    }
    kernels
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn tiles_for_vnni_are_sums_of_products(
        rows in 1usize..30, depth in 1usize..40, columns in 1usize..270, seed in any::<u64>(),
    ) {
        for run in kernels() {
            multiply(run, (rows, depth, columns), seed)?;
        }
    }

    #[test]
    fn depthwise_convolutions_for_vnni_are_sums_of_products(
        kernel in prop::sample::select(vec![[3usize, 3], [5, 5], [1, 3], [4, 2], [6, 7]]), stride in 1usize..4,
        dilation in 1usize..3, pads in [0usize..3, 0usize..3], above in any::<bool>(),
        width in 14usize..80, channels in 2usize..140, seed in any::<u64>(),
    ) {
        let pads = [usize::from(above && kernel[0] > 1), pads[0], 0, pads[1]];
        let window = Window { kernel, strides: [1, stride], dilations: [1, dilation], pads };
        convolve::<8>(convolve_emulated::<8>, window, (width, channels), seed)?;
        convolve::<16>(convolve_emulated::<16>, window, (width, channels), seed)?;
        if Isa::Avx2.is_available() {
            convolve::<8>(super::depthwise_without_vnni, window, (width, channels), seed)?;
        }
    }
}
