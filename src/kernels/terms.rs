//! The constants of linear operators, and what becomes of them for a given input.

use super::epilogue::Epilogue;
use super::packing::Weights;

/// Columns that bias and multipliers are filled up to: those of the widest tile.
const WIDEST: usize = 64;

/// The constants of a convolution or MatMul.
#[derive(Clone)]
pub struct Parameters<'a> {
    pub weights: Weights<'a>,
    /// None, or one for each output channel, with scale x scale · weight scale and zero point 0. Sums wrap.
    pub bias: Option<&'a [i32]>,
    pub x_zero_point: u8,
    pub epilogue: Epilogue,
}

/// The quantization of an input that is known only when it arrives (DynamicQuantizeLinear).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputQuantization {
    pub zero_point: u8,
    /// Its scale over the one that the epilogue was made for.
    pub scale_factor: f32,
}

/// What stays the same for every input, one a column.
#[derive(Clone)]
pub(super) struct Constants {
    pub(super) bias: Vec<i32>,
    /// Σ w, wrapping.
    pub(super) weight_sums: Vec<i32>,
    pub(super) epilogue: Epilogue,
}

/// What a kernel adds and does to its sums.
pub(super) struct Terms {
    pub(super) input: InputQuantization,
    /// Σ (x - z)·w + b = Σ x·w + (b - z·Σ w): the second summand, and zeros up to a multiple of the widest tile.
    pub(super) bias: Vec<i32>,
    /// Filled up likewise.
    pub(super) epilogue: Epilogue,
    constants: Constants,
}

impl InputQuantization {
    /// With the scale that the epilogue was made for.
    pub fn of_zero_point(zero_point: u8) -> InputQuantization {
        InputQuantization { zero_point, scale_factor: 1.0 }
    }
}

impl Terms {
    pub(super) fn new(constants: Constants, input: InputQuantization) -> Terms {
        let columns = constants.weight_sums.len();
        let padded = columns.next_multiple_of(WIDEST);
        let fold = |(bias, sum): (&i32, &i32)| bias.wrapping_sub(sum.wrapping_mul(i32::from(input.zero_point)));
        let mut bias: Vec<i32> = constants.bias.iter().zip(&constants.weight_sums).map(fold).collect();
        bias.resize(padded, 0);
        let epilogue = constants.epilogue.scaled(input.scale_factor).spread(columns, padded);
        Terms { input, bias, epilogue, constants }
    }

    pub(super) fn for_input(&self, input: InputQuantization) -> Terms {
        // The kernel was chosen for the multipliers that it has.
        assert!(!matches!(self.epilogue, Epilogue::Requantize(_)), "a requantization for another input");
        Terms::new(self.constants.clone(), input)
    }
}
