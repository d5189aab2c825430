//! Windows as attributes of ONNX give them.

use tract_onnx::tract_core::internal::*;

use crate::kernels::Window;

/// The attributes of a window, as ONNX has them.
pub(super) struct WindowAttrs<'a> {
    pub kernel: &'a [usize],
    pub strides: &'a [i64],
    pub dilations: &'a [i64],
    pub pads: &'a [i64],
    pub auto_pad: &'a str,
}

impl WindowAttrs<'_> {
    /// `first` is the shape of the input with channels first; its space is looked at for SAME padding only.
    pub fn window(&self, first: &[TDim]) -> TractResult<Window> {
        let rank = self.kernel.len();
        ensure!(matches!(rank, 1 | 2), "a window of {rank} axes");
        let given = |attr: &[i64], default: usize| -> TractResult<TVec<usize>> {
            match attr.len() {
                0 => Ok(tvec!(default; rank)),
                length if length == rank => attr.iter().map(|&n| Ok(usize::try_from(n)?)).collect(),
                length => bail!("{length} numbers for a window of {rank} axes"),
            }
        };
        let (strides, dilations) = (given(self.strides, 1)?, given(self.dilations, 1)?);
        ensure!(strides.iter().chain(&dilations).chain(self.kernel).all(|&n| n > 0), "a window of length 0");
        let (mut before, mut after): (TVec<usize>, TVec<usize>) = (tvec!(0; rank), tvec!(0; rank));
        match self.auto_pad {
            "SAME_UPPER" | "SAME_LOWER" => {
                for axis in 0..rank {
                    let length = first[2 + axis].to_usize()?;
                    let reach = (self.kernel[axis] - 1) * dilations[axis] + 1;
                    let needed = (length.div_ceil(strides[axis]).max(1) - 1) * strides[axis] + reach;
                    let total = needed.saturating_sub(length);
                    let (small, large) = (total / 2, total - total / 2);
                    let lower = self.auto_pad == "SAME_LOWER";
                    (before[axis], after[axis]) = if lower { (large, small) } else { (small, large) };
                }
            }
            "VALID" => {}
            _ => match self.pads.len() {
                0 => {}
                length if length == 2 * rank => {
                    for axis in 0..rank {
                        before[axis] = usize::try_from(self.pads[axis])?;
                        after[axis] = usize::try_from(self.pads[rank + axis])?;
                    }
                }
                length => bail!("{length} pads for a window of {rank} axes"),
            },
        }
        let two = |of: &[usize], default: usize| if rank == 1 { [default, of[0]] } else { [of[0], of[1]] };
        let ([top, left], [bottom, right]) = (two(&before, 0), two(&after, 0));
        Ok(Window {
            kernel: two(self.kernel, 1),
            strides: two(&strides, 1),
            dilations: two(&dilations, 1),
            pads: [top, left, bottom, right],
        })
    }
}
