//! What happens to a sum of products: it becomes a byte again, a float, or stays an integer. The scalar definitions here
//! are the ones that every kernel must equal.

/// real ≈ scale · (q - zero point)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    pub scale: f32,
    pub zero_point: u8,
}

/// What a product does with its sums, which hold the bias and are free of zero points.
#[derive(Clone, Debug, PartialEq)]
pub enum Epilogue {
    Requantize(Requantize),
    Scale(Scale),
    /// i32 as it is (ConvInteger, MatMulInteger).
    Integer,
}

/// clamp(round(sum · multiplier) + zero point, low, high) as u8, halves to even; then, if asked for, a residual addition.
#[derive(Clone, Debug, PartialEq)]
pub struct Requantize {
    /// (x scale · weight scale) / y scale, one or one for each column.
    pub multipliers: Vec<f32>,
    pub zero_point: u8,
    /// The lowest and the highest result: a fused Relu or Clip.
    pub clamp: [u8; 2],
    /// Adds another tensor of the output's shape to the result, as an operand of its own.
    pub residual: Option<Addition>,
}

/// clamp(sum · scale + bias, low, high) as f32: a product whose result is dequantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// x scale · weight scale, one or one for each column.
    pub scales: Vec<f32>,
    /// None, or one for each column.
    pub bias: Vec<f32>,
    /// Infinities where there is no Relu or Clip.
    pub clamp: [f32; 2],
}

/// QLinearAdd: clamp(round(a · rₐ + (b · r_b + c)), low, high), where r = scale / y scale and c gathers the zero points.
/// Each product and sum is rounded once, as ONNX Runtime does on CPUs with FMA.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Addition {
    pub ratios: [f32; 2],
    pub offset: f32,
    pub clamp: [u8; 2],
}

/// Where the results of a product go: of the type that its epilogue makes.
pub enum Output<'a> {
    U8(&'a mut [u8]),
    F32(&'a mut [f32]),
    I32(&'a mut [i32]),
}

impl Requantize {
    /// As ONNX Runtime computes the multipliers, without clamp or residual.
    pub fn new(x_scale: f32, weight_scales: &[f32], y: Quantization) -> Requantize {
        let multipliers = weight_scales.iter().map(|weight_scale| (x_scale * weight_scale) / y.scale).collect();
        Requantize { multipliers, zero_point: y.zero_point, clamp: [0, 255], residual: None }
    }

    pub(super) fn byte(&self, sum: i32, column: usize) -> u8 {
        requantize(sum as f32, self.multipliers[column], self.zero_point, self.clamp)
    }
}

/// The byte of a sum: clamping before the rounding gives the same, and never leaves the range of i32.
#[inline(always)]
pub(super) fn requantize(sum: f32, multiplier: f32, zero_point: u8, [low, high]: [u8; 2]) -> u8 {
    let zero_point = i32::from(zero_point);
    let (low, high) = (i32::from(low) - zero_point, i32::from(high) - zero_point);
    (round(sum * multiplier, low as f32, high as f32) + zero_point) as u8
}

/// Rounds what is clamped to `low..=high`, integers within ±2²⁴; what is not a number becomes `low`.
#[inline(always)]
pub(super) fn round(x: f32, low: f32, high: f32) -> i32 {
    let clamped = if x > low { x } else { low };
    let clamped = if clamped < high { clamped } else { high };
    // SAFETY: a number within the bounds fits.
    unsafe { clamped.round_ties_even().to_int_unchecked() }
}

impl Scale {
    pub(super) fn float(&self, sum: i32, column: usize) -> f32 {
        (sum as f32 * self.scales[column] + self.bias[column]).max(self.clamp[0]).min(self.clamp[1])
    }
}

impl Addition {
    /// As ONNX Runtime computes the constants.
    pub fn new(a: Quantization, b: Quantization, y: Quantization) -> Addition {
        let ratios = [a.scale / y.scale, b.scale / y.scale];
        let zeros = [a, b].map(|operand| f32::from(operand.zero_point));
        // Also this product is fused with its sum there.
        let offset = f32::from(y.zero_point) - ratios[0].mul_add(zeros[0], ratios[1] * zeros[1]);
        Addition { ratios, offset, clamp: [0, 255] }
    }

    #[inline(always)]
    pub(super) fn byte(&self, a: u8, b: u8) -> u8 {
        let sum = f32::from(a).mul_add(self.ratios[0], f32::from(b).mul_add(self.ratios[1], self.offset));
        round(sum, self.clamp[0].into(), self.clamp[1].into()) as u8
    }
}

impl Epilogue {
    /// The same with one multiplier, scale and bias for each column, and zeros behind them up to `padded`.
    pub(super) fn spread(&self, columns: usize, padded: usize) -> Epilogue {
        let spread = |values: &[f32]| {
            assert!(values.len() == 1 || values.len() == columns, "{} values for {columns} columns", values.len());
            let mut spread = if values.len() == 1 { vec![values[0]; columns] } else { values.to_vec() };
            spread.resize(padded, 0.0);
            spread
        };
        match self {
            Epilogue::Requantize(requantize) => {
                Epilogue::Requantize(Requantize { multipliers: spread(&requantize.multipliers), ..requantize.clone() })
            }
            Epilogue::Scale(scale) => Epilogue::Scale(Scale {
                scales: spread(&scale.scales),
                bias: spread(if scale.bias.is_empty() { &[0.0] } else { &scale.bias }),
                clamp: scale.clamp,
            }),
            Epilogue::Integer => Epilogue::Integer,
        }
    }

    /// The columns of one group out of several.
    pub(super) fn columns(&self, from: usize, count: usize) -> Epilogue {
        let part =
            |values: &[f32]| if values.len() > 1 { values[from..from + count].to_vec() } else { values.to_vec() };
        match self {
            Epilogue::Requantize(requantize) => {
                Epilogue::Requantize(Requantize { multipliers: part(&requantize.multipliers), ..requantize.clone() })
            }
            Epilogue::Scale(scale) => {
                Epilogue::Scale(Scale { scales: part(&scale.scales), bias: part(&scale.bias), clamp: scale.clamp })
            }
            Epilogue::Integer => Epilogue::Integer,
        }
    }

    /// For an input whose scale is `factor` times the one that the epilogue was made for.
    pub(super) fn scaled(&self, factor: f32) -> Epilogue {
        let scaled = |values: &[f32]| values.iter().map(|value| value * factor).collect();
        match self {
            Epilogue::Requantize(requantize) => {
                Epilogue::Requantize(Requantize { multipliers: scaled(&requantize.multipliers), ..requantize.clone() })
            }
            Epilogue::Scale(scale) => Epilogue::Scale(Scale { scales: scaled(&scale.scales), ..scale.clone() }),
            Epilogue::Integer => Epilogue::Integer,
        }
    }

    /// Finishes the sums of columns from `column` on, and writes them from `start` on; a residual is read there too.
    pub(super) fn store(
        &self,
        sums: impl Iterator<Item = i32>,
        column: usize,
        residual: Option<&[u8]>,
        output: &mut Output,
        start: usize,
    ) {
        match (self, output) {
            (Epilogue::Requantize(requantize), Output::U8(output)) => {
                for (i, sum) in sums.enumerate() {
                    let byte = requantize.byte(sum, column + i);
                    output[start + i] = match (&requantize.residual, residual) {
                        (Some(addition), Some(residual)) => addition.byte(byte, residual[start + i]),
                        _ => byte,
                    };
                }
            }
            (Epilogue::Scale(scale), Output::F32(output)) => {
                for (i, sum) in sums.enumerate() {
                    output[start + i] = scale.float(sum, column + i);
                }
            }
            (Epilogue::Integer, Output::I32(output)) => {
                for (i, sum) in sums.enumerate() {
                    output[start + i] = sum;
                }
            }
            _ => panic!("the output is not of the type that the epilogue makes"),
        }
    }

    pub(super) fn residual(&self) -> Option<&Addition> {
        match self {
            Epilogue::Requantize(requantize) => requantize.residual.as_ref(),
            _ => None,
        }
    }
}

impl<'a> Output<'a> {
    pub fn len(&self) -> usize {
        match self {
            Output::U8(values) => values.len(),
            Output::F32(values) => values.len(),
            Output::I32(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A shorter borrow.
    pub(super) fn reborrow(&mut self) -> Output<'_> {
        match self {
            Output::U8(values) => Output::U8(values),
            Output::F32(values) => Output::F32(values),
            Output::I32(values) => Output::I32(values),
        }
    }

    /// Parts of `length` elements; the last may be shorter.
    pub(super) fn chunks(self, length: usize) -> Vec<Output<'a>> {
        match self {
            Output::U8(values) => values.chunks_mut(length).map(Output::U8).collect(),
            Output::F32(values) => values.chunks_mut(length).map(Output::F32).collect(),
            Output::I32(values) => values.chunks_mut(length).map(Output::I32).collect(),
        }
    }

    pub(super) fn skip(self, elements: usize) -> Output<'a> {
        match self {
            Output::U8(values) => Output::U8(&mut values[elements..]),
            Output::F32(values) => Output::F32(&mut values[elements..]),
            Output::I32(values) => Output::I32(&mut values[elements..]),
        }
    }
}
