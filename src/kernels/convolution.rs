//! Convolutions and transposed convolutions over channels-last images.

use super::depthwise::Depthwise;
use super::epilogue::Output;
use super::geometry::{Images, Rows, Window, Windows};
use super::isa::Dispatch;
use super::packing::Matrix;
use super::product::{Destination, Product};
use super::taps::Input;
use super::terms::{Constants, InputQuantization, Parameters};
use super::widest::widest;

/// What a convolution maps to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvolutionShape {
    pub window: Window,
    pub groups: usize,
    pub in_channels: usize,
    pub out_channels: usize,
}

/// A convolution with its weights packed, for images of any size.
pub struct Convolution {
    shape: ConvolutionShape,
    body: Body,
}

/// A transposed convolution with its weights packed, for images of any size.
pub struct TransposedConvolution {
    shape: ConvolutionShape,
    /// One a group.
    products: Vec<Product>,
}

enum Body {
    Depthwise(Box<Depthwise>),
    /// One a group.
    Products(Vec<Product>),
}

impl ConvolutionShape {
    fn check(&self, parameters: &Parameters) {
        let ConvolutionShape { window, groups, in_channels, out_channels } = *self;
        assert!(groups > 0 && in_channels % groups == 0 && out_channels % groups == 0, "channels in {groups} groups");
        assert!(window.taps() > 0 && in_channels > 0, "a window without elements");
        assert_eq!(parameters.weights.len(), window.taps() * in_channels / groups * out_channels, "weights");
        assert!(parameters.bias.is_none_or(|bias| bias.len() == out_channels), "a bias for each output channel");
    }

    /// The products of the groups, where `index` finds the weight of (output channel, input channel of its group, tap).
    fn products(
        &self,
        dispatch: Dispatch,
        parameters: &Parameters,
        index: impl Fn(usize, usize, usize) -> usize,
    ) -> Vec<Product> {
        let (inputs, outputs) = (self.in_channels / self.groups, self.out_channels / self.groups);
        let product = |group: usize| {
            let first = group * outputs;
            let matrix = Matrix::new(self.window.taps() * inputs, outputs, |k, column| {
                let channel = first + column;
                parameters.weights.centered(index(channel, k % inputs, k / inputs), channel)
            });
            let constants = Constants {
                bias: parameters.bias.map_or_else(|| vec![0; outputs], |bias| bias[first..first + outputs].to_vec()),
                weight_sums: matrix.column_sums(),
                epilogue: parameters.epilogue.columns(first, outputs),
            };
            let input = InputQuantization::of_zero_point(parameters.x_zero_point);
            Product::new(dispatch, &matrix, self.window.taps(), parameters.weights.may_saturate(), constants, input)
        };
        (0..self.groups).map(product).collect()
    }

    fn run(
        &self,
        products: &[Product],
        quantization: Option<InputQuantization>,
        (input, rows, count): (&[u8], &Rows, usize),
        residual: Option<&[u8]>,
        mut output: Output,
    ) {
        let (inputs, outputs) = (self.in_channels / self.groups, self.out_channels / self.groups);
        let widen = || {
            widest(
                #[inline(always)]
                || input.iter().map(|&x| x.into()).collect::<Vec<i16>>(),
            )
        };
        let widened = products[0].reads_words(rows.taps()).then(widen);
        for (group, product) in products.iter().enumerate() {
            let terms = quantization.map(|quantization| product.terms().for_input(quantization));
            let input =
                Input { values: input, words: widened.as_deref(), offset: group * inputs, rows, count, starts: None };
            let output = output.reborrow();
            let destination = Destination { output, residual, column: group * outputs, stride: self.out_channels };
            product.run(terms.as_ref().unwrap_or(product.terms()), &input, destination);
        }
    }
}

impl Convolution {
    /// Weights are [out channels, in channels / groups, kernel height, kernel width].
    pub fn new(dispatch: Dispatch, shape: ConvolutionShape, parameters: &Parameters) -> Convolution {
        shape.check(parameters);
        let (inputs, taps) = (shape.in_channels / shape.groups, shape.window.taps());
        let depthwise = shape.groups > 1 && shape.groups == shape.in_channels && shape.groups == shape.out_channels;
        let body = match depthwise {
            true => Body::Depthwise(Box::new(Depthwise::new(dispatch, shape.window, shape.groups, parameters))),
            false => Body::Products(
                shape.products(dispatch, parameters, |output, input, tap| (output * inputs + input) * taps + tap),
            ),
        };
        Convolution { shape, body }
    }

    /// The sizes of the result.
    pub fn output(&self, images: &Images) -> Images {
        let size = self.shape.window.output_size(images.size);
        Images { batch: images.batch, size, channels: self.shape.out_channels }
    }

    /// `residual` has the output's shape and is given if, and only if, the epilogue adds one.
    pub fn run(&self, images: &Images, x: &[u8], residual: Option<&[u8]>, output: Output) {
        self.run_quantized(None, images, x, residual, output);
    }

    /// With an input whose quantization is not that of the parameters; the epilogue does not requantize.
    pub fn run_dynamic(&self, quantization: InputQuantization, images: &Images, x: &[u8], output: Output) {
        self.run_quantized(Some(quantization), images, x, None, output);
    }

    fn run_quantized(
        &self,
        quantization: Option<InputQuantization>,
        images: &Images,
        x: &[u8],
        residual: Option<&[u8]>,
        output: Output,
    ) {
        let result = self.output(images);
        assert_eq!(images.channels, self.shape.in_channels, "channels of the input");
        check_lengths(images, x, &result, residual, &output);
        match &self.body {
            Body::Depthwise(depthwise) => {
                let terms = quantization.map(|quantization| depthwise.terms().for_input(quantization));
                depthwise.run(terms.as_ref().unwrap_or(depthwise.terms()), images, x, residual, output);
            }
            Body::Products(products) => {
                let rows = Windows::rows(&self.shape.window, images, result.size);
                self.shape.run(products, quantization, (x, &rows, result.pixels()), residual, output);
            }
        }
    }
}

impl TransposedConvolution {
    /// Weights are [in channels, out channels / groups, kernel height, kernel width].
    pub fn new(dispatch: Dispatch, shape: ConvolutionShape, parameters: &Parameters) -> TransposedConvolution {
        shape.check(parameters);
        let (inputs, outputs) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
        let taps = shape.window.taps();
        let products = shape.products(dispatch, parameters, |output, input, tap| {
            ((output / outputs * inputs + input) * outputs + output % outputs) * taps + tap
        });
        TransposedConvolution { shape, products }
    }

    /// Writes an image of any `size`: the natural one ([`Window::transposed_size`]), or one with output padding.
    pub fn run(&self, images: &Images, size: [usize; 2], x: &[u8], residual: Option<&[u8]>, output: Output) {
        let result = Images { batch: images.batch, size, channels: self.shape.out_channels };
        assert_eq!(images.channels, self.shape.in_channels, "channels of the input");
        check_lengths(images, x, &result, residual, &output);
        let rows = Rows::Windows(Windows::transposed(&self.shape.window, images, size));
        self.shape.run(&self.products, None, (x, &rows, result.pixels()), residual, output);
    }
}

fn check_lengths(images: &Images, x: &[u8], result: &Images, residual: Option<&[u8]>, output: &Output) {
    assert_eq!(x.len(), images.len(), "elements of the input");
    assert_eq!(output.len(), result.len(), "elements of the output");
    assert!(residual.is_none_or(|residual| residual.len() == result.len()), "elements of the residual");
}
