//! How a kernel moves over its input.

use super::Refusal;
use crate::kernels;

/// The geometry of a convolution or pool, axis by axis of space.
pub(super) struct Window {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// Padding before the first element.
    pub before: Vec<usize>,
    /// Padding after the last element, as far as the kernel reaches.
    pub after: Vec<usize>,
    /// Padding after the last element, as it is asked for.
    pub declared_after: Vec<usize>,
    pub input: Vec<usize>,
    pub output: Vec<usize>,
}

/// The attributes that convolutions and pools have in common.
pub(super) struct Attributes<'a> {
    pub auto_pad: &'a str,
    pub pads: &'a [i64],
    pub strides: &'a [i64],
    pub dilations: &'a [i64],
}

impl Window {
    /// A kernel of lengths `kernel` that moves over `input`, and gives `output`.
    pub fn of(attributes: Attributes, kernel: &[usize], input: &[usize], output: &[usize]) -> Result<Window, Refusal> {
        let rank = kernel.len();
        let all = |given: &[i64], default: i64, count: usize| -> Result<Vec<usize>, Refusal> {
            let given = if given.is_empty() { vec![default; count] } else { given.to_vec() };
            let sizes: Option<Vec<usize>> = given.iter().map(|&n| usize::try_from(n).ok()).collect();
            sizes.filter(|sizes| sizes.len() == count).ok_or(Refusal("its padding is negative"))
        };
        let (strides, dilations) = (all(attributes.strides, 1, rank)?, all(attributes.dilations, 1, rank)?);
        let reach: Vec<usize> =
            (0..rank).map(|i| (output[i].max(1) - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1).collect();
        let missing = |i: usize| reach[i].saturating_sub(input[i]);
        let (before, declared_after): (Vec<usize>, Vec<usize>) = match attributes.auto_pad {
            "NOTSET" | "" => {
                let pads = all(attributes.pads, 0, 2 * rank)?;
                (pads[..rank].to_vec(), pads[rank..].to_vec())
            }
            "VALID" => (vec![0; rank], vec![0; rank]),
            "SAME_UPPER" => (0..rank).map(|i| (missing(i) / 2, missing(i).div_ceil(2))).unzip(),
            "SAME_LOWER" => (0..rank).map(|i| (missing(i).div_ceil(2), missing(i) / 2)).unzip(),
            _ => return Err(Refusal("its padding is of an unknown kind")),
        };
        let after = (0..rank).map(|i| reach[i].saturating_sub(before[i] + input[i])).collect();
        Ok(Window {
            kernel: kernel.to_vec(),
            strides,
            dilations,
            before,
            after,
            declared_after,
            input: input.to_vec(),
            output: output.to_vec(),
        })
    }

    /// The places of a kernel's elements, row by row, as offsets in the padded input.
    pub fn taps(&self) -> Vec<Vec<usize>> {
        let mut taps = vec![vec![]];
        for (&n, &dilation) in self.kernel.iter().zip(&self.dilations) {
            let longer = |tap: &Vec<usize>| {
                let tap = tap.clone();
                (0..n).map(move |i| [tap.clone(), vec![i * dilation]].concat())
            };
            taps = taps.iter().flat_map(longer).collect();
        }
        taps
    }

    /// The same over height and width, where there are one or two axes of space.
    pub fn two_axes(&self) -> Option<kernels::Window> {
        let two = |of: &[usize], missing: usize| match *of {
            [right] => Some([missing, right]),
            [down, right] => Some([down, right]),
            _ => None,
        };
        let ([top, left], [bottom, right]) = (two(&self.before, 0)?, two(&self.after, 0)?);
        Some(kernels::Window {
            kernel: two(&self.kernel, 1)?,
            strides: two(&self.strides, 1)?,
            dilations: two(&self.dilations, 1)?,
            pads: [top, left, bottom, right],
        })
    }

    /// Whether every element of the output comes of the element of the input at the same place.
    pub fn is_pointwise(&self) -> bool {
        let plain = |n: &usize| *n == 1;
        self.kernel.iter().all(plain) && self.strides.iter().all(plain) && self.input == self.output
    }
}

/// Lengths of batch and channel axes, and then those of space.
pub(super) fn image(batch: usize, channels: usize, space: &[usize]) -> Vec<usize> {
    [&[batch, channels], space].concat()
}
