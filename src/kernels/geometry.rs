//! Where the elements that a product reads lie: windows over channels-last images, and rows of matrices.

use std::ops::Range;

/// How a window moves over an image. A 1-D convolution has height 1 everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub kernel: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    /// Top, left, bottom, right, as ONNX orders them.
    pub pads: [usize; 4],
}

/// The sizes of images in channels-last order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    pub batch: usize,
    /// Height and width.
    pub size: [usize; 2],
    pub channels: usize,
}

impl Window {
    /// A window of one pixel.
    pub const POINT: Window = Window { kernel: [1, 1], strides: [1, 1], dilations: [1, 1], pads: [0; 4] };

    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Height and width of the result of a convolution or pooling that rounds down.
    pub fn output_size(&self, size: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = size[axis] + self.pads[axis] + self.pads[axis + 2];
            padded.checked_sub(self.reach(axis)).map_or(0, |left| left / self.strides[axis] + 1)
        })
    }

    /// Height and width of the result of a transposed convolution without output padding.
    pub fn transposed_size(&self, size: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let full = (size[axis].max(1) - 1) * self.strides[axis] + self.reach(axis);
            full.saturating_sub(self.pads[axis] + self.pads[axis + 2])
        })
    }

    /// The pixels from the first tap to the last one.
    fn reach(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    fn is_point(&self) -> bool {
        *self == Window::POINT
    }
}

impl Images {
    pub fn pixels(&self) -> usize {
        self.batch * self.size[0] * self.size[1]
    }

    pub fn len(&self) -> usize {
        self.pixels() * self.channels
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The rows of the left operand of a product: each is a sequence of taps, and each tap a run of elements or padding.
pub(super) enum Rows {
    /// One run a row, so far apart.
    Matrix {
        stride: usize,
    },
    Windows(Windows),
}

/// The windows over images: the offset of a tap is the sum of one from its row and one from its column.
pub(super) struct Windows {
    axes: [Axis; 2],
    /// Elements of one image.
    image: usize,
}

/// For every output coordinate the input offset of each tap along one axis.
pub(super) struct Axis {
    taps: usize,
    outputs: usize,
    offsets: Vec<usize>,
    /// Whether all taps of an output coordinate lie in the image.
    inside: Vec<bool>,
}

/// The offset of what lies outside of the image.
pub(super) const OUTSIDE: usize = usize::MAX;

impl Axis {
    /// `source` gives the input coordinate that a tap of an output coordinate reads; `pitch` is the distance of inputs.
    fn new(outputs: usize, taps: usize, pitch: usize, source: impl Fn(usize, usize) -> Option<usize>) -> Axis {
        let offset = |index: usize| source(index / taps, index % taps).map_or(OUTSIDE, |input| input * pitch);
        let offsets: Vec<usize> = (0..outputs * taps).map(offset).collect();
        let inside = offsets.chunks(taps).map(|taps| !taps.contains(&OUTSIDE)).collect();
        Axis { taps, outputs, offsets, inside }
    }

    fn of(&self, output: usize) -> &[usize] {
        &self.offsets[output * self.taps..][..self.taps]
    }
}

impl Windows {
    /// Of a convolution or pooling with an output of `output` pixels.
    pub(super) fn forward(window: &Window, images: &Images, output: [usize; 2]) -> Windows {
        Windows::new(window, images, output, |axis, output, tap| {
            let padded = output * window.strides[axis] + tap * window.dilations[axis];
            padded.checked_sub(window.pads[axis]).filter(|&input| input < images.size[axis])
        })
    }

    /// Of a transposed convolution: input y, tap k meets output y · stride + k · dilation - pad.
    pub(super) fn transposed(window: &Window, images: &Images, output: [usize; 2]) -> Windows {
        Windows::new(window, images, output, |axis, output, tap| {
            let strided = (output + window.pads[axis]).checked_sub(tap * window.dilations[axis])?;
            let input = strided / window.strides[axis];
            (strided % window.strides[axis] == 0 && input < images.size[axis]).then_some(input)
        })
    }

    fn new(
        window: &Window,
        images: &Images,
        output: [usize; 2],
        source: impl Fn(usize, usize, usize) -> Option<usize>,
    ) -> Windows {
        let pitch = [images.size[1] * images.channels, images.channels];
        let axes = [0, 1].map(|axis| {
            Axis::new(output[axis], window.kernel[axis], pitch[axis], |output, tap| source(axis, output, tap))
        });
        Windows { axes, image: images.size[0] * images.size[1] * images.channels }
    }

    /// Rows for a window, or those of a matrix where a window is but one pixel.
    pub(super) fn rows(window: &Window, images: &Images, output: [usize; 2]) -> Rows {
        match window.is_point() {
            true => Rows::Matrix { stride: images.channels },
            false => Rows::Windows(Windows::forward(window, images, output)),
        }
    }

    fn taps(&self) -> usize {
        self.axes[0].taps * self.axes[1].taps
    }

    /// The image's first element and the output coordinates of a row.
    fn locate(&self, row: usize) -> (usize, [usize; 2]) {
        let [height, width] = [self.axes[0].outputs, self.axes[1].outputs];
        (row / (height * width) * self.image, [row / width % height, row % width])
    }

    fn fill<P: Copy>(&self, rows: Range<usize>, at: impl Fn(usize) -> P, padding: P, table: &mut Vec<P>) {
        let [vertical, horizontal] = &self.axes;
        table.resize(rows.len() * self.taps(), padding);
        let (mut image, [mut y, mut x]) = self.locate(rows.start);
        for slots in table.chunks_exact_mut(self.taps()) {
            let columns = horizontal.of(x);
            if vertical.inside[y] && horizontal.inside[x] {
                let at = |row: usize, column: usize| at(image + row + column);
                match columns.len() {
                    1 => fill_inside::<P, 1>(slots, vertical.of(y), columns, at),
                    3 => fill_inside::<P, 3>(slots, vertical.of(y), columns, at),
                    5 => fill_inside::<P, 5>(slots, vertical.of(y), columns, at),
                    width => {
                        for (slots, &row) in slots.chunks_exact_mut(width).zip(vertical.of(y)) {
                            for (slot, &column) in slots.iter_mut().zip(columns) {
                                *slot = at(row, column);
                            }
                        }
                    }
                }
            } else {
                for (slots, &row) in slots.chunks_exact_mut(columns.len()).zip(vertical.of(y)) {
                    for (slot, &column) in slots.iter_mut().zip(columns) {
                        let outside = row == OUTSIDE || column == OUTSIDE;
                        *slot = if outside { padding } else { at(image + row + column) };
                    }
                }
            }
            x += 1;
            if x == horizontal.outputs {
                (x, y) = (0, y + 1);
            }
            if y == vertical.outputs {
                (y, image) = (0, image + self.image);
            }
        }
    }
}

/// The taps of a window that lies in the image, `WIDTH` in each of its rows.
#[inline(always)]
fn fill_inside<P, const WIDTH: usize>(
    slots: &mut [P],
    rows: &[usize],
    columns: &[usize],
    at: impl Fn(usize, usize) -> P,
) {
    let columns: &[usize; WIDTH] = columns.try_into().expect("as many columns as the window has");
    for (slots, &row) in slots.as_chunks_mut::<WIDTH>().0.iter_mut().zip(rows) {
        *slots = std::array::from_fn(|index| at(row, columns[index]));
    }
}

impl Rows {
    /// Taps in each row.
    pub(super) fn taps(&self) -> usize {
        match self {
            Rows::Matrix { .. } => 1,
            Rows::Windows(windows) => windows.taps(),
        }
    }

    /// Makes `table` what `at` gives for the offset of every tap of the rows, and `padding` for taps outside.
    pub(super) fn fill<P: Copy>(&self, rows: Range<usize>, at: impl Fn(usize) -> P, padding: P, table: &mut Vec<P>) {
        match self {
            Rows::Matrix { stride } => {
                table.clear();
                table.extend(rows.map(|row| at(row * stride)));
            }
            Rows::Windows(windows) => windows.fill(rows, at, padding, table),
        }
    }
}
