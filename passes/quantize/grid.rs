//! The numbers that an int8 value can have: x ≈ scale·(q - zero point).

use crate::ir::{DType, Tensor};

/// A scale and a zero point for all elements of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    pub scale: f32,
    pub zero_point: i32,
    pub levels: Levels,
}

/// Signed or unsigned 8-bit levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    U8,
    I8,
}

impl Levels {
    pub fn dtype(self) -> DType {
        match self {
            Levels::U8 => DType::U8,
            Levels::I8 => DType::I8,
        }
    }

    fn lowest(self) -> i32 {
        match self {
            Levels::U8 => 0,
            Levels::I8 => -128,
        }
    }

    fn highest(self) -> i32 {
        self.lowest() + 255
    }

    /// A scalar of this type.
    pub fn tensor(self, level: i32) -> Tensor {
        match self {
            Levels::U8 => Tensor::scalar(level as u8),
            Levels::I8 => Tensor::scalar(level as i8),
        }
    }
}

/// Scales below this are those of values that are always zero.
const SMALLEST_SCALE: f32 = 1e-8;

impl Grid {
    /// The finest grid that covers `low` to `high`, and zero, which is one of its numbers.
    pub fn covering(low: f32, high: f32, levels: Levels, symmetric: bool) -> Grid {
        let (low, high) = (low.min(0.0), high.max(0.0));
        if symmetric {
            let scale = (high.max(-low) / 127.0).max(SMALLEST_SCALE);
            return Grid { scale, zero_point: levels.lowest() + 128, levels };
        }
        let scale = ((f64::from(high) - f64::from(low)) / 255.0).max(f64::from(SMALLEST_SCALE)) as f32;
        let from_lowest = (-low / scale).round_ties_even().clamp(0.0, 255.0) as i32;
        Grid { scale, zero_point: levels.lowest() + from_lowest, levels }
    }

    /// [`covering`](Grid::covering), where the least number is at most `low`.
    pub fn reaching(low: f32, high: f32, levels: Levels) -> Grid {
        let plain = Grid::covering(low, high, levels, false).scale;
        let below = |scale: f32| (-low.min(0.0) / scale - 1e-3).ceil().clamp(0.0, 254.0);
        let scale = plain.max(high / (255.0 - below(plain)));
        Grid { scale, zero_point: levels.lowest() + below(scale) as i32, levels }
    }

    /// The grid on which x lies where gain·x + shift lies on this one: the same levels under other names.
    pub fn before(self, gain: f32, shift: f32) -> Grid {
        let moved = self.zero_point + (shift / self.scale).round_ties_even() as i32;
        let zero_point = moved.clamp(self.levels.lowest(), self.levels.highest());
        Grid { scale: self.scale / gain, zero_point, ..self }
    }

    /// The level that is nearest to `x`.
    pub fn level(self, x: f32) -> i32 {
        let level = (x / self.scale).round_ties_even() + self.zero_point as f32;
        level.clamp(self.levels.lowest() as f32, self.levels.highest() as f32) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_that_starts_at_zero_saturates_there() {
        let grid = Grid::covering(0.0, 6.0, Levels::U8, false);
        assert_eq!((grid.zero_point, grid.level(-1.0), grid.level(6.0), grid.level(7.0)), (0, 0, 255, 255));
        assert_eq!(Grid::covering(0.0, 6.0, Levels::I8, false).zero_point, -128);
    }

    #[test]
    fn a_symmetric_grid_has_its_zero_in_the_middle() {
        assert_eq!(
            Grid::covering(-1.0, 12.7, Levels::I8, true),
            Grid { scale: 0.1, zero_point: 0, levels: Levels::I8 }
        );
        assert_eq!(Grid::covering(0.0, 12.7, Levels::U8, true).zero_point, 128);
    }

    #[test]
    fn a_limit_that_has_to_be_reached_is() {
        for high in [0.5f32, 3.0, 7.3, 55.0, 700.0] {
            let grid = Grid::reaching(-3.0, high, Levels::U8);
            let [least, greatest] = [0, 255].map(|level| (level - grid.zero_point) as f32 * grid.scale);
            assert!(least <= -2.999 && least > -3.0 - grid.scale, "{grid:?}");
            assert!(greatest >= high * 0.9999, "{grid:?}");
        }
    }

    #[test]
    fn a_value_that_is_always_zero_has_a_grid() {
        assert!(Grid::covering(0.0, 0.0, Levels::U8, false).scale > 0.0);
    }

    proptest! {
        #[test]
        fn numbers_within_the_range_are_off_by_a_step_at_most(low in -1e3f32..1e3, width in 1e-3f32..1e3, at in 0f32..1.0) {
            let (x, grid) = (low + width * at, Grid::covering(low, low + width, Levels::U8, false));
            let rendered = (grid.level(x) - grid.zero_point) as f32 * grid.scale;
            prop_assert!((x - rendered).abs() <= grid.scale * 1.01);
        }

        #[test]
        fn relabelled_levels_stand_for_the_mapped_number(x in -1f32..1.0, gain in 0.1f32..4.0, shift in -2f32..2.0) {
            let grid = Grid::covering(-gain + shift.min(0.0), gain + shift.max(0.0), Levels::U8, false);
            let rendered = (grid.before(gain, shift).level(x) - grid.zero_point) as f32 * grid.scale;
            prop_assert!((gain * x + shift - rendered).abs() <= grid.scale * 1.6);
        }
    }
}
