use super::definition::{dot, finish};
use super::*;

#[derive(Clone, Debug)]
struct Case {
    shape: ConvolutionShape,
    batch: usize,
    size: [usize; 2],
    ending: Ending,
    weights: Kind,
    seed: u64,
}

/// What the weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Signed,
    /// Of 7 bits, which never saturate.
    Narrow,
    /// i8 with zero points, which need more than 8 bits.
    SignedWithZeroPoints,
    Unsigned,
    /// u8 with zero point 128.
    Flipped,
}

struct Data {
    x: Vec<u8>,
    x_zero_point: u8,
    signed: Vec<i8>,
    unsigned: Vec<u8>,
    zero_points: Vec<i32>,
    bias: Option<Vec<i32>>,
    epilogue: Epilogue,
    noise: Noise,
}

impl Case {
    fn images(&self) -> Images {
        Images { batch: self.batch, size: self.size, channels: self.shape.in_channels }
    }

    fn depth(&self) -> usize {
        self.shape.window.taps() * self.shape.in_channels / self.shape.groups
    }

    fn data(&self) -> Data {
        let mut noise = Noise::new(self.seed);
        let outputs = self.shape.out_channels;
        let count = self.depth() * outputs;
        let narrow = if self.weights == Kind::Narrow { 2 } else { 1 };
        let bias = (noise.byte() < 200).then(|| {
            let mut bias: Vec<i32> = (0..outputs).map(|_| noise.below(20000) as i32 - 10000).collect();
            bias[0] = if noise.byte() < 30 { i32::MIN + 7 } else { bias[0] };
            bias
        });
        Data {
            x: noise.bytes(self.images().len()),
            x_zero_point: noise.byte(),
            signed: noise.signed(count).into_iter().map(|w| w / narrow).collect(),
            unsigned: noise.bytes(count),
            zero_points: match self.weights {
                Kind::Signed | Kind::Narrow => vec![],
                Kind::SignedWithZeroPoints => (0..outputs).map(|_| noise.byte() as i8 as i32).collect(),
                Kind::Unsigned => (0..outputs).map(|_| i32::from(noise.byte())).collect(),
                Kind::Flipped => vec![128],
            },
            bias,
            epilogue: epilogue(&mut noise, self.ending, outputs, self.depth()),
            noise,
        }
    }

    /// Where, under saturating arithmetic, ONNX Runtime does not saturate.
    fn arithmetic(&self, asked: Arithmetic, depthwise: bool) -> Arithmetic {
        match self.weights {
            Kind::Signed | Kind::Narrow if !depthwise => asked,
            _ => Arithmetic::Exact,
        }
    }
}

impl Data {
    fn parameters(&self, kind: Kind) -> Parameters<'_> {
        let values = match kind {
            Kind::Unsigned | Kind::Flipped => Integers::U8(&self.unsigned),
            _ => Integers::I8(&self.signed),
        };
        Parameters {
            weights: Weights { values, zero_points: &self.zero_points },
            bias: self.bias.as_deref(),
            x_zero_point: self.x_zero_point,
            epilogue: self.epilogue.clone(),
        }
    }

    fn weight(&self, kind: Kind, index: usize, channel: usize) -> i32 {
        let zero_point = match self.zero_points.len() {
            0 => 0,
            1 => self.zero_points[0],
            _ => self.zero_points[channel],
        };
        let value = match kind {
            Kind::Unsigned | Kind::Flipped => i32::from(self.unsigned[index]),
            _ => i32::from(self.signed[index]),
        };
        value - zero_point
    }

    fn residual(&mut self, length: usize) -> Option<Vec<u8>> {
        self.epilogue.residual().is_some().then(|| self.noise.bytes(length))
    }
}

/// y[n, oy, ox, co] = b + Σ x·w - z Σ w, padding being z; where a saturating product multiplies x itself.
fn define(
    case: &Case,
    data: &Data,
    residual: Option<&[u8]>,
    arithmetic: Arithmetic,
    transposed: Option<[usize; 2]>,
) -> Values {
    let ConvolutionShape { window, groups, in_channels, out_channels } = case.shape;
    let [height, width] = case.size;
    let out = transposed.unwrap_or_else(|| window.output_size(case.size));
    let (inputs, outputs) = (in_channels / groups, out_channels / groups);
    let mut values = Values::of(&data.epilogue, case.batch * out[0] * out[1] * out_channels);
    for n in 0..case.batch {
        for oy in 0..out[0] {
            for ox in 0..out[1] {
                for co in 0..out_channels {
                    let mut products = vec![];
                    let mut weight_sum = 0i32;
                    for ky in 0..window.kernel[0] {
                        for kx in 0..window.kernel[1] {
                            let source = |o: usize, k: usize, axis: usize| -> Option<usize> {
                                let (o, k) = (o as i64, k as i64);
                                let [stride, dilation, pad] =
                                    [window.strides[axis], window.dilations[axis], window.pads[axis]].map(|v| v as i64);
                                let input = match transposed {
                                    None => o * stride + k * dilation - pad,
                                    Some(_) => {
                                        let strided = o + pad - k * dilation;
                                        if strided % stride != 0 {
                                            return None;
                                        }
                                        strided / stride
                                    }
                                };
                                (input >= 0 && input < [height, width][axis] as i64).then_some(input as usize)
                            };
                            let place = source(oy, ky, 0).zip(source(ox, kx, 1));
                            for c in 0..inputs {
                                let channel = co / outputs * inputs + c;
                                let tap = ky * window.kernel[1] + kx;
                                let index = match transposed {
                                    None => (co * inputs + c) * window.taps() + tap,
                                    Some(_) => (channel * outputs + co % outputs) * window.taps() + tap,
                                };
                                let w = data.weight(case.weights, index, co);
                                let x = place.map_or(data.x_zero_point, |(y, x)| {
                                    data.x[((n * height + y) * width + x) * in_channels + channel]
                                });
                                products.push(i32::from(x) * w);
                                weight_sum = weight_sum.wrapping_add(w);
                            }
                        }
                    }
                    let zeros = weight_sum.wrapping_mul(data.x_zero_point.into());
                    let bias = data.bias.as_ref().map_or(0, |bias| bias[co]);
                    let sum = dot(&products, arithmetic).wrapping_add(bias.wrapping_sub(zeros));
                    let at = ((n * out[0] + oy) * out[1] + ox) * out_channels + co;
                    finish(&data.epilogue, co, sum, residual.map(|residual| residual[at]), &mut values, at);
                }
            }
        }
    }
    values
}

fn run(case: &Case, data: &Data, residual: Option<&[u8]>, dispatch: Dispatch) -> Values {
    let convolution = Convolution::new(dispatch, case.shape, &data.parameters(case.weights));
    let mut values = Values::of(&data.epilogue, convolution.output(&case.images()).len());
    convolution.run(&case.images(), &data.x, residual, values.output());
    values
}

fn windows(kernel: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Window> {
    let pair = |range: std::ops::RangeInclusive<usize>| [range.clone(), range];
    (pair(kernel), pair(1..=3), pair(1..=2), [0usize..3, 0usize..3, 0usize..3, 0usize..3])
        .prop_map(|(kernel, strides, dilations, pads)| Window { kernel, strides, dilations, pads })
}

fn kinds() -> impl Strategy<Value = Kind> {
    use Kind::*;
    prop::sample::select(vec![Signed, Signed, Narrow, SignedWithZeroPoints, Unsigned, Flipped])
}

fn cases(
    kernel: std::ops::RangeInclusive<usize>,
    channels: impl Strategy<Value = (usize, usize, usize)>,
    size: std::ops::RangeInclusive<usize>,
) -> impl Strategy<Value = Case> {
    (windows(kernel), channels, 1usize..3, [size.clone(), size], endings(), kinds(), any::<u64>()).prop_filter_map(
        "the window does not fit",
        |(window, (groups, inputs, outputs), batch, size, ending, weights, seed)| {
            let shape =
                ConvolutionShape { window, groups, in_channels: groups * inputs, out_channels: groups * outputs };
            let fits = window.output_size(size).iter().all(|&n| n > 0);
            fits.then_some(Case { shape, batch, size, ending, weights, seed })
        },
    )
}

fn same(case: &Case, dispatches: &[Dispatch]) -> Result<(), TestCaseError> {
    let mut data = case.data();
    let length =
        case.batch * case.shape.window.output_size(case.size).iter().product::<usize>() * case.shape.out_channels;
    let residual = data.residual(length);
    let residual = residual.as_deref();
    for &dispatch in dispatches {
        let expected = run(case, &data, residual, reference(dispatch.arithmetic));
        prop_assert_eq!(run(case, &data, residual, dispatch), expected, "{:?}", dispatch);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_reference_computes_what_onnx_defines(case in cases(1..=3, (1usize..4, 1usize..6, 1usize..20), 1..=6)) {
        let mut data = case.data();
        let depthwise = case.shape.groups > 1 && case.depth() == case.shape.window.taps()
            && case.shape.out_channels == case.shape.groups;
        let length = case.batch * case.shape.window.output_size(case.size).iter().product::<usize>()
            * case.shape.out_channels;
        let residual = data.residual(length);
        for arithmetic in Arithmetic::ALL {
            let expected = define(&case, &data, residual.as_deref(), case.arithmetic(arithmetic, depthwise), None);
            prop_assert_eq!(run(&case, &data, residual.as_deref(), reference(arithmetic)), expected);
        }
    }

    #[test]
    fn a_transposed_convolution_is_what_onnx_defines(
        case in cases(1..=3, (1usize..3, 1usize..6, 1usize..20), 1..=5), padding in [0usize..2, 0usize..2],
    ) {
        let size = case.shape.window.transposed_size(case.size);
        let size = [size[0] + padding[0], size[1] + padding[1]];
        let mut data = case.data();
        let length = case.batch * size[0] * size[1] * case.shape.out_channels;
        let residual = data.residual(length);
        let images = case.images();
        for dispatch in Arithmetic::ALL.map(reference).into_iter().chain(dispatches()) {
            let arithmetic = case.arithmetic(dispatch.arithmetic, false);
            let expected = define(&case, &data, residual.as_deref(), arithmetic, Some(size));
            let convolution = TransposedConvolution::new(dispatch, case.shape, &data.parameters(case.weights));
            let mut values = Values::of(&data.epilogue, length);
            convolution.run(&images, size, &data.x, residual.as_deref(), values.output());
            prop_assert_eq!(values, expected, "{:?}", dispatch);
        }
    }

    #[test]
    fn every_kernel_computes_convolutions_like_the_reference(
        case in cases(1..=3, (1usize..3, 1usize..20, 1usize..150), 1..=14),
    ) {
        same(&case, &dispatches())?;
    }

    #[test]
    fn every_kernel_computes_points_like_the_reference(
        case in cases(1..=1, (Just(1usize), 1usize..70, 1usize..200), 1..=16),
    ) {
        same(&case, &dispatches())?;
    }

    #[test]
    fn every_kernel_computes_depthwise_convolutions_like_the_reference(
        case in cases(1..=6, (2usize..150, Just(1usize), Just(1usize)), 1..=14),
    ) {
        same(&case, &dispatches())?;
    }

    #[test]
    fn every_kernel_computes_the_usual_depthwise_windows_like_the_reference(
        kernel in prop::sample::select(vec![3usize, 5]), stride in 1usize..=2, pads in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        channels in 2usize..150, size in [5usize..14, 5usize..14], ending in endings(), weights in kinds(), seed in any::<u64>(),
    ) {
        let window = Window { kernel: [kernel; 2], strides: [stride; 2], dilations: [1, 1], pads };
        let shape = ConvolutionShape { window, groups: channels, in_channels: channels, out_channels: channels };
        same(&Case { shape, batch: 2, size, ending, weights, seed }, &dispatches())?;
    }
}

#[test]
fn threads_do_not_change_a_result() {
    let window = Window { kernel: [3, 3], strides: [1, 1], dilations: [1, 1], pads: [1; 4] };
    for (groups, inputs, outputs) in [(1, 20, 70), (2, 16, 24), (96, 1, 1)] {
        let shape = ConvolutionShape { window, groups, in_channels: groups * inputs, out_channels: groups * outputs };
        for ending in [Ending::Residual, Ending::Scale, Ending::Integer] {
            let case = Case { shape, batch: 2, size: [31, 33], ending, weights: Kind::Signed, seed: 5 };
            let mut data = case.data();
            let residual = data.residual(2 * 31 * 33 * shape.out_channels);
            for dispatch in dispatches().into_iter().chain(Arithmetic::ALL.map(reference)) {
                let on = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| run(&case, &data, residual.as_deref(), dispatch))
                };
                assert_eq!(on(1), on(3), "{dispatch:?}");
            }
        }
    }
}

#[test]
fn an_input_may_bring_its_own_quantization() {
    let window = Window { kernel: [3, 3], strides: [1, 1], dilations: [1, 1], pads: [1; 4] };
    for (groups, inputs, outputs) in [(1, 6, 20), (24, 1, 1)] {
        let shape = ConvolutionShape { window, groups, in_channels: groups * inputs, out_channels: groups * outputs };
        let case = Case { shape, batch: 1, size: [6, 6], ending: Ending::Scale, weights: Kind::Signed, seed: 9 };
        let mut data = case.data();
        let dynamic = InputQuantization { zero_point: 61, scale_factor: 0.5 };
        for dispatch in dispatches().into_iter().chain(Arithmetic::ALL.map(reference)) {
            let convolution = Convolution::new(dispatch, shape, &data.parameters(case.weights));
            let mut values = Values::of(&data.epilogue, 36 * shape.out_channels);
            convolution.run_dynamic(dynamic, &case.images(), &data.x, values.output());
            let usual = (data.x_zero_point, data.epilogue.clone());
            (data.x_zero_point, data.epilogue) = (dynamic.zero_point, data.epilogue.scaled(0.5));
            assert_eq!(values, run(&case, &data, None, dispatch));
            (data.x_zero_point, data.epilogue) = usual;
        }
    }
}
