//! The weights of layers as int8.

use crate::ir::{DType, Tensor};

use super::channel::PerChannel;
use super::grid::Grid;
use super::int4::packed;
use super::scale::{LEVELS, least_squares_scales};

/// A layer's weights as integers: W ≈ scale·levels, with one scale for each output channel.
#[derive(Clone, Debug)]
pub struct Codes {
    /// In the layout of the weight, int8 whatever they are stored in.
    pub levels: Tensor,
    pub scales: Vec<f32>,
    pub bias: Option<Vec<f32>>,
    pub bits: Bits,
}

/// How many bits a weight has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bits {
    #[default]
    Eight,
    Four,
}

impl Bits {
    /// The largest magnitude of a level.
    pub fn limit(self) -> f32 {
        match self {
            Bits::Eight => LEVELS,
            Bits::Four => 7.0,
        }
    }

    /// Levels, or zero points, as they are stored.
    pub fn stored(self, levels: &Tensor) -> Tensor {
        match self {
            Bits::Eight => levels.clone(),
            Bits::Four => {
                let elements = levels.elements::<i8>().expect("levels are int8");
                let bytes = packed(elements.iter().map(|&level| level as u8 & 15));
                Tensor::new(DType::I4, levels.shape().to_vec(), bytes).expect("two levels in a byte")
            }
        }
    }
}

/// Sums of products and bias stay this many times below what int32 holds.
const BIAS_BITS: f32 = 536_870_912.0; // 2²⁹

impl Codes {
    /// Every weight at its nearest level, with the scales that make the squared error least; one for all channels unless
    /// `per_channel`.
    pub fn nearest(
        weight: &Tensor,
        axis: usize,
        bias: Option<Vec<f32>>,
        input: Grid,
        per_channel: bool,
        bits: Bits,
    ) -> Codes {
        let floats = weight.floats().expect("layers have weights of floats");
        let channels = PerChannel::new(floats.clone(), weight.shape(), axis);
        let mut scales = match per_channel {
            true => least_squares_scales(&channels, bits.limit()),
            false => {
                let scale = least_squares_scales(&PerChannel::new(floats, &[1, weight.len()], 0), bits.limit())[0];
                vec![scale; channels.channels()]
            }
        };
        if let Some(bias) = &bias {
            raise_for_bias(&mut scales, bias, input);
        }
        if !per_channel {
            let common = scales.iter().copied().fold(0.0, f32::max);
            scales.fill(common);
        }
        let (levels, _) = channels.quantize(&scales, bits.limit());
        Codes { levels: Tensor::from_vec(weight.shape().to_vec(), levels), scales, bias, bits }
    }
}

/// A bias is held in steps of input scale times weight scale: those of a dead channel would be too small for it.
pub fn raise_for_bias(scales: &mut [f32], bias: &[f32], input: Grid) {
    for (scale, bias) in scales.iter_mut().zip(bias) {
        *scale = scale.max(bias.abs() / (input.scale * BIAS_BITS));
    }
}

/// Biases in steps of input scale times weight scale.
pub fn int32_bias(bias: &[f32], scales: &[f32], input: Grid) -> (Vec<i32>, Vec<f32>) {
    let steps: Vec<f32> = scales.iter().map(|scale| input.scale * scale).collect();
    let levels = bias.iter().zip(&steps).map(|(b, step)| (f64::from(*b) / f64::from(*step)).round_ties_even() as i32);
    (levels.collect(), steps)
}

#[cfg(test)]
mod tests {
    use super::super::grid::Levels;
    use super::*;

    #[test]
    fn the_bias_of_a_dead_channel_fits_int32() {
        let grid = Grid::covering(0.0, 1e-3, Levels::U8, false);
        let weight = Tensor::from_vec(vec![2, 2], vec![1e-20f32, -1e-20, 0.5, 0.25]);
        let codes = Codes::nearest(&weight, 0, Some(vec![3.0, 3.0]), grid, true, Bits::Eight);
        let (levels, steps) = int32_bias(codes.bias.as_ref().unwrap(), &codes.scales, grid);
        assert!(levels.iter().all(|level| level.unsigned_abs() <= 1 << 30));
        assert!(levels.iter().zip(&steps).all(|(&level, step)| (level as f32 * step - 3.0).abs() < 1e-5));
        assert_eq!(codes.levels.elements::<i8>().unwrap()[..2], [0, 0]);
    }

    #[test]
    fn four_bits_hold_levels_up_to_seven() {
        let grid = Grid::covering(0.0, 1.0, Levels::U8, false);
        let weight = Tensor::from_vec(vec![1, 3], vec![0.7f32, -0.7, 0.1]);
        let codes = Codes::nearest(&weight, 0, None, grid, true, Bits::Four);
        assert_eq!(codes.levels.elements::<i8>().unwrap()[..], [7, -7, 1]);
        let stored = codes.bits.stored(&codes.levels);
        assert_eq!((stored.dtype(), stored.bytes().unwrap().as_ref()), (DType::I4, &[0x97, 0x01][..]));
    }

    #[test]
    fn one_scale_for_all_channels_is_that_of_all_weights() {
        let grid = Grid::covering(0.0, 1.0, Levels::U8, false);
        let weight = Tensor::from_vec(vec![2, 2], vec![0.01f32, -0.02, 1.27, 0.5]);
        let codes = Codes::nearest(&weight, 0, None, grid, false, Bits::Eight);
        assert!(codes.scales[0] == codes.scales[1] && (codes.scales[0] - 0.01).abs() < 1e-5);
        assert_eq!(codes.levels.elements::<i8>().unwrap()[..], [1, -2, 127, 50]);
    }
}
