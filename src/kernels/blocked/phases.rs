//! The gradient of the input as convolutions of the output's gradient.
//!
//! Input x meets output y through tap k where x = y · stride + k · dilation - pad. Inputs of one remainder by the stride meet
//! the same taps: they are a phase, and within it an input's step is an output's step.

use super::frame::Frame;
use crate::kernels::geometry::Window;

/// The taps of each phase, as numbers within the window, row by row and column by column.
pub(super) struct Phases;

/// One phase along one axis.
pub(super) struct AxisPhase {
    /// The first input.
    pub(super) first: usize,
    /// Inputs, a stride apart.
    pub(super) count: usize,
    /// Which output each tap meets at the first input; it may lie outside.
    pub(super) outputs: Vec<isize>,
}

impl Phases {
    pub(super) fn of(window: &Window) -> Vec<Vec<usize>> {
        let [rows, columns] = [0, 1].map(|axis| all(window, axis));
        let mut phases = Vec::new();
        for row in &rows {
            for column in &columns {
                let taps = row.iter().flat_map(|(y, _)| column.iter().map(move |(x, _)| y * window.kernel[1] + x));
                phases.push(taps.collect());
            }
        }
        phases
    }

    /// The phases of an axis with so many inputs.
    pub(super) fn along(window: &Window, axis: usize, inputs: usize) -> Vec<AxisPhase> {
        let phase = |(first, taps): (usize, Vec<(usize, isize)>)| AxisPhase {
            first,
            count: inputs.saturating_sub(first).div_ceil(window.strides[axis]),
            outputs: taps.into_iter().map(|(_, output)| output).collect(),
        };
        all(window, axis).into_iter().enumerate().map(phase).collect()
    }

    /// The frame of the output's gradient in which every tap of every phase lies.
    pub(super) fn frame(phases: &[Vec<AxisPhase>; 2], size: [usize; 2]) -> Frame {
        let mut margins = [0; 4];
        for axis in 0..2 {
            for phase in phases[axis].iter().filter(|phase| phase.count > 0) {
                for &output in &phase.outputs {
                    let last = output + phase.count as isize - 1;
                    let behind = last - (size[axis] as isize - 1);
                    margins[axis] = margins[axis].max(usize::try_from(-output).unwrap_or(0));
                    margins[axis + 2] = margins[axis + 2].max(usize::try_from(behind).unwrap_or(0));
                }
            }
        }
        Frame { size, margins }
    }
}

/// For every remainder by the stride the taps that meet it, and the output that each meets at the first input.
fn all(window: &Window, axis: usize) -> Vec<Vec<(usize, isize)>> {
    let (stride, pad) = (window.strides[axis] as isize, window.pads[axis] as isize);
    let of_remainder = |first: isize| {
        let meets = |tap: usize| {
            let distance = first + pad - (tap * window.dilations[axis]) as isize;
            (distance.rem_euclid(stride) == 0).then_some((tap, distance.div_euclid(stride)))
        };
        (0..window.kernel[axis]).filter_map(meets).collect()
    };
    (0..stride).map(of_remainder).collect()
}
