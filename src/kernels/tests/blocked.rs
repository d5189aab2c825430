use super::*;
use crate::kernels::blocked::{
    BLOCK, BlockedConvolution, Finish, FloatIsa, Given, Gradients, OPEN, blocked_length, from_blocks, to_blocks,
};

#[derive(Clone, Debug)]
struct Case {
    window: Window,
    images: Images,
    out_channels: usize,
    groups: usize,
    clamp: [f32; 2],
    has_bias: bool,
    has_residual: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let pair = |range: std::ops::Range<usize>| [range.clone(), range];
    let window = (pair(1..4), pair(1..4), pair(1..3), [0usize..3, 0usize..3, 0usize..3, 0usize..3]);
    let sizes = (1usize..3, pair(1..12), 1usize..40, 1usize..40, any::<bool>());
    let clamps = prop::sample::select(vec![OPEN, [0.0, f32::INFINITY], [0.0, 0.5]]);
    (window, sizes, clamps, any::<[bool; 2]>(), any::<u64>()).prop_filter_map(
        "an output without pixels",
        |((kernel, strides, dilations, pads), sizes, clamp, [has_bias, has_residual], seed)| {
            let (batch, size, channels, out_channels, is_depthwise) = sizes;
            let window = Window { kernel, strides, dilations, pads };
            let images = Images { batch, size, channels };
            let is_depthwise = is_depthwise && channels > 1;
            let (out_channels, groups) = if is_depthwise { (channels, channels) } else { (out_channels, 1) };
            let case = Case { window, images, out_channels, groups, clamp, has_bias, has_residual, seed };
            window.output_size(size).iter().all(|&n| n > 0).then_some(case)
        },
    )
}

/// All there is of a case, as ONNX orders it.
struct Tensors {
    x: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
    dy: Vec<f32>,
    gradient: Vec<f32>,
}

impl Case {
    fn output(&self) -> Images {
        Images { size: self.window.output_size(self.images.size), channels: self.out_channels, ..self.images }
    }

    fn tensors(&self) -> Tensors {
        let mut noise = Noise::new(self.seed);
        let mut reals = |count: usize| (0..count).map(|_| noise.real(-1.0, 1.0)).collect::<Vec<f32>>();
        let inputs = self.images.channels / self.groups;
        Tensors {
            x: reals(self.images.len()),
            weights: reals(self.out_channels * inputs * self.window.taps()),
            bias: reals(self.out_channels),
            residual: reals(self.output().len()),
            dy: reals(self.output().len()),
            gradient: reals(self.images.len()),
        }
    }

    /// Visits what is multiplied: the index of an output, of an input, and of a weight.
    fn each_product(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let (x, y) = (self.images, self.output());
        let inputs = x.channels / self.groups;
        let outputs = self.out_channels / self.groups;
        for index in 0..y.len() {
            let [column, row] = [index % y.size[1], index / y.size[1] % y.size[0]];
            let plane = index / y.size[1] / y.size[0];
            let (output, image) = (plane % y.channels, plane / y.channels);
            for input in 0..inputs {
                for tap in 0..self.window.taps() {
                    let place = |axis: usize, at: usize, tap: usize| {
                        let padded = at * self.window.strides[axis] + tap * self.window.dilations[axis];
                        padded.checked_sub(self.window.pads[axis]).filter(|&at| at < x.size[axis])
                    };
                    let width = self.window.kernel[1];
                    let (Some(row), Some(column)) = (place(0, row, tap / width), place(1, column, tap % width)) else {
                        continue;
                    };
                    let channel = output / outputs * inputs + input;
                    let from = ((image * x.channels + channel) * x.size[0] + row) * x.size[1] + column;
                    visit(index, from, (output * inputs + input) * self.window.taps() + tap);
                }
            }
        }
    }

    fn channel(&self, index: usize) -> usize {
        let y = self.output();
        index / y.size[0] / y.size[1] % y.channels
    }
}

fn blocks_of(images: &Images, x: &[f32]) -> Vec<f32> {
    let mut blocked = vec![0.0; blocked_length(images)];
    to_blocks(images, x, &mut blocked);
    blocked
}

fn image_of(images: &Images, blocked: &[f32]) -> Vec<f32> {
    let mut x = vec![f32::NAN; images.len()];
    from_blocks(images, blocked, &mut x);
    x
}

fn in_blocks(values: &[f32]) -> Vec<f32> {
    let mut padded = values.to_vec();
    padded.resize(values.len().next_multiple_of(BLOCK), 0.0);
    padded
}

fn close(found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    let range = expected.iter().fold(1f64, |range, x| range.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        prop_assert!((f64::from(*found) - expected).abs() < 2e-5 * range, "{} {}", found, expected);
    }
    Ok(())
}

proptest! {
    #[test]
    fn convolutions_in_blocks_and_their_gradients_are_the_definition(case in cases(), adds_x in any::<bool>()) {
        let tensors = case.tensors();
        let output = case.output();
        let mut sums: Vec<f64> = (0..output.len())
            .map(|index| {
                let bias = if case.has_bias { tensors.bias[case.channel(index)] } else { 0.0 };
                f64::from(bias) + if case.has_residual { f64::from(tensors.residual[index]) } else { 0.0 }
            })
            .collect();
        case.each_product(|y, x, w| sums[y] += f64::from(tensors.x[x]) * f64::from(tensors.weights[w]));
        let clamp = case.clamp.map(f64::from);
        // Where a sum is so near a limit that rounding decides, the gradient is not tested.
        let near = |sum: f64| clamp.iter().any(|limit| (sum - limit).abs() < 1e-4);
        let masked: Vec<f64> = (0..output.len())
            .map(|y| if sums[y] > clamp[0] && sums[y] < clamp[1] && !near(sums[y]) { tensors.dy[y].into() } else { 0.0 })
            .collect();
        let dy: Vec<f32> = (0..output.len()).map(|y| if near(sums[y]) { 0.0 } else { tensors.dy[y] }).collect();
        let mut of_x: Vec<f64> =
            tensors.gradient.iter().map(|&x| if adds_x { x.into() } else { 0.0 }).collect();
        let (mut of_weights, mut of_bias) = (vec![0f64; tensors.weights.len()], vec![0f64; case.out_channels]);
        case.each_product(|y, x, w| {
            of_x[x] += masked[y] * f64::from(tensors.weights[w]);
            of_weights[w] += masked[y] * f64::from(tensors.x[x]);
        });
        (0..output.len()).for_each(|y| of_bias[case.channel(y)] += masked[y]);
        let expected: Vec<f64> = sums.iter().map(|sum| sum.clamp(clamp[0], clamp[1])).collect();

        for isa in FloatIsa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let convolution =
                BlockedConvolution::new(isa, case.window, case.groups, case.images.channels, case.out_channels).unwrap();
            let x = blocks_of(&case.images, &tensors.x);
            let (bias, residual) = (in_blocks(&tensors.bias), blocks_of(&output, &tensors.residual));
            let finish = Finish {
                bias: case.has_bias.then_some(&*bias),
                residual: case.has_residual.then_some(&*residual),
                clamp: case.clamp,
            };
            let mut y = vec![f32::NAN; blocked_length(&output)];
            convolution.forward(&case.images, &x, &convolution.pack_forward(&tensors.weights), &finish, &mut y);
            close(&image_of(&output, &y), &expected)?;

            let dy = blocks_of(&output, &dy);
            let packed = convolution.pack_backward(&tensors.weights);
            let given = Given { x: &x, y: &y, clamp: case.clamp, dy: &dy, weights: &packed };
            let mut gradient = blocks_of(&case.images, &tensors.gradient);
            let mut summed = vec![0.0; convolution.gradient_length()];
            let (mut bias, mut residual) = (vec![0.0; bias.len()], vec![f32::NAN; dy.len()]);
            convolution.backward(&case.images, &given, &mut Gradients {
                x: Some(&mut gradient),
                adds_x,
                weights: &mut summed,
                bias: &mut bias,
                residual: Some(&mut residual),
            });
            close(&image_of(&case.images, &gradient), &of_x)?;
            let mut weights = vec![f32::NAN; tensors.weights.len()];
            convolution.weight_gradient(&summed, &mut weights);
            close(&weights, &of_weights)?;
            close(&bias[..case.out_channels], &of_bias)?;
            close(&image_of(&output, &residual), &masked)?;
        }
    }
}

#[test]
fn groups_that_are_neither_one_nor_all_are_refused() {
    let new = |groups| BlockedConvolution::new(FloatIsa::Portable, Window::POINT, groups, 4, 4);
    assert!(new(1).is_some() && new(4).is_some() && new(2).is_none());
}
