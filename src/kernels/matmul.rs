//! Matrix products: with constant weights, and of two activations.

use super::epilogue::{Epilogue, Output};
use super::geometry::Rows;
use super::isa::{Arithmetic, Dispatch};
use super::kernel::Kernel;
use super::packing::{Activations, Matrix, Panels};
use super::product::{Destination, Product};
use super::rten::PackedWeights;
use super::taps::Input;
use super::terms::{Constants, InputQuantization, Parameters, Terms};
use super::widest::widest;

/// The right operand of a product: depth x columns, or columns x depth where `transposed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMulShape {
    pub depth: usize,
    pub columns: usize,
    pub transposed: bool,
}

/// A product with constant weights (MatMul, Gemm), for any number of rows.
pub struct MatMul {
    shape: MatMulShape,
    product: Product,
}

/// A product of two activations; zero points belong to the operands.
#[derive(Clone, Debug)]
pub struct ActivationMatMul {
    pub dispatch: Dispatch,
    pub shape: MatMulShape,
    pub a_zero_point: u8,
    pub b_zero_point: u8,
    /// Whether b was i8 before its signs were flipped: such a product saturates in ONNX Runtime without VNNI.
    pub b_is_signed: bool,
    /// With one multiplier or scale.
    pub epilogue: Epilogue,
}

/// Rows of bytes, `stride` elements apart.
#[derive(Clone, Copy)]
pub struct MatrixView<'a> {
    pub values: &'a [u8],
    pub rows: usize,
    pub stride: usize,
}

impl<'a> MatrixView<'a> {
    /// Rows that follow each other.
    pub fn dense(values: &'a [u8], rows: usize) -> MatrixView<'a> {
        MatrixView { values, rows, stride: values.len().checked_div(rows).unwrap_or(0) }
    }

    fn check(&self, columns: usize) {
        let needed = self.rows.checked_sub(1).map_or(0, |above| above * self.stride + columns);
        assert!(self.values.len() >= needed, "{} rows of {columns} elements, {} apart", self.rows, self.stride);
    }
}

impl MatMulShape {
    fn index(&self, k: usize, column: usize, stride: usize) -> usize {
        if self.transposed { column * stride + k } else { k * stride + column }
    }
}

impl MatMul {
    pub fn new(dispatch: Dispatch, shape: MatMulShape, parameters: &Parameters) -> MatMul {
        let MatMulShape { depth, columns, transposed } = shape;
        assert!(depth > 0, "a product without depth");
        assert_eq!(parameters.weights.len(), depth * columns, "weights");
        assert!(parameters.bias.is_none_or(|bias| bias.len() == columns), "a bias for each column");
        let stride = if transposed { depth } else { columns };
        let at = |k: usize, column: usize| parameters.weights.centered(shape.index(k, column, stride), column);
        let matrix = Matrix::new(depth, columns, at);
        let constants = Constants {
            bias: parameters.bias.map_or_else(|| vec![0; columns], <[i32]>::to_vec),
            weight_sums: matrix.column_sums(),
            epilogue: parameters.epilogue.clone(),
        };
        let input = InputQuantization::of_zero_point(parameters.x_zero_point);
        let product = Product::new(dispatch, &matrix, 1, parameters.weights.may_saturate(), constants, input);
        MatMul { shape, product }
    }

    /// `residual` has the output's shape and is given if, and only if, the epilogue adds one.
    pub fn run(&self, a: MatrixView, residual: Option<&[u8]>, output: Output) {
        self.run_quantized(None, a, residual, output);
    }

    /// With an input whose quantization is not that of the parameters; the epilogue does not requantize.
    pub fn run_dynamic(&self, quantization: InputQuantization, a: MatrixView, output: Output) {
        self.run_quantized(Some(quantization), a, None, output);
    }

    fn run_quantized(
        &self,
        quantization: Option<InputQuantization>,
        a: MatrixView,
        residual: Option<&[u8]>,
        output: Output,
    ) {
        let MatMulShape { depth, columns, .. } = self.shape;
        a.check(depth);
        assert_eq!(output.len(), a.rows * columns, "elements of the output");
        assert!(residual.is_none_or(|residual| residual.len() == output.len()), "elements of the residual");
        let rows = Rows::Matrix { stride: a.stride };
        let terms = quantization.map(|quantization| self.product.terms().for_input(quantization));
        let input = Input { values: a.values, words: None, offset: 0, rows: &rows, count: a.rows, starts: None };
        let destination = Destination { output, residual, column: 0, stride: columns };
        self.product.run(terms.as_ref().unwrap_or(self.product.terms()), &input, destination);
    }
}

impl ActivationMatMul {
    /// Writes rows `output_stride` elements apart; what lies between them stays.
    pub fn run(&self, a: MatrixView, b: MatrixView, output: Output, output_stride: usize) {
        let MatMulShape { depth, columns, transposed } = self.shape;
        assert!(depth > 0, "a product without depth");
        a.check(depth);
        b.check(if transposed { depth } else { columns });
        assert_eq!(b.rows, if transposed { columns } else { depth }, "rows of b");
        assert!(output_stride >= columns, "rows of the output overlap");
        let needed = a.rows.checked_sub(1).map_or(0, |above| above * output_stride + columns);
        assert!(output.len() >= needed, "elements of the output");
        let (product, starts) = self.pack(a, b);
        let rows = Rows::Matrix { stride: a.stride };
        let starts = starts.as_deref();
        let input = Input { values: a.values, words: None, offset: 0, rows: &rows, count: a.rows, starts };
        let destination = Destination { output, residual: None, column: 0, stride: output_stride };
        product.run(product.terms(), &input, destination);
    }

    /// The product with b packed, and what the sums of each row start with.
    fn pack(&self, a: MatrixView, b: MatrixView) -> (Product, Option<Vec<i32>>) {
        let MatMulShape { depth, columns, transposed } = self.shape;
        let saturating =
            self.dispatch.arithmetic == Arithmetic::Saturating && self.b_is_signed && self.b_zero_point == 128;
        // Σ |a|·|b| with both below 2⁸.
        let largest = depth as f64 * 65536.0 * 2.0;
        let bounded = match &self.epilogue {
            Epilogue::Requantize(requantize) => {
                requantize.multipliers.iter().all(|&m| m.abs() <= 0.99 || f64::from(m.abs()) * largest < 2e9)
            }
            _ => true,
        };
        let kernel = Kernel::of_activations(self.dispatch.isa, depth, saturating, bounded);
        let b = Activations { values: b.values, stride: b.stride, depth, columns, transposed };
        let zero_point = self.b_zero_point;
        // Where bytes are b - 128, z_b - 128 is still to be taken off.
        let moved = i32::from(zero_point) - 128;
        let (panels, sums, moved) = match kernel.granule() {
            1 => {
                let bytes = b.columns();
                let sum = |column: &[i8]| column.iter().map(|&x| i32::from(x)).sum();
                let sums = bytes.chunks_exact(depth).map(sum).collect();
                (Panels::Rten(PackedWeights::of(&bytes, depth, columns)), sums, moved)
            }
            2 => {
                let (panels, sums) = widest(
                    #[inline(always)]
                    || b.pack::<i16, 2>(|x| i16::from(x) - i16::from(zero_point)),
                );
                (Panels::Words(panels), sums, 0)
            }
            _ => {
                let (panels, sums) = widest(
                    #[inline(always)]
                    || b.pack::<i8, 4>(|x| (x ^ 0x80) as i8),
                );
                (Panels::Bytes(panels), sums, moved)
            }
        };
        // Σ (a - z_a)·(b' - m) = Σ a·b' - z_a·(Σ b' - depth·m) - m·Σ a, where b' is what is packed and m is `moved`.
        let constants = Constants {
            bias: vec![0; columns],
            weight_sums: sums.iter().map(|sum| sum - depth as i32 * moved).collect(),
            epilogue: self.epilogue.clone(),
        };
        let terms = Terms::new(constants, InputQuantization::of_zero_point(self.a_zero_point));
        let starts = (moved != 0).then(|| {
            let sum = |row: usize| a.values[row * a.stride..][..depth].iter().map(|&x| i32::from(x)).sum::<i32>();
            widest(
                #[inline(always)]
                || (0..a.rows).map(|row| -moved * sum(row)).collect(),
            )
        });
        (Product::packed(kernel, depth, columns, panels, terms), starts)
    }
}
