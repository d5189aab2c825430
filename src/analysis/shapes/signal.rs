//! Shapes of transforms of signals and images by their frequencies, and of images as columns.

use rten_shape_inference::SymExpr;

use super::call::{Call, Lengths, place, places};
use super::expression::{difference, number, product, quotient, sum};
use super::window::Window;

impl Call<'_> {
    /// A Fourier transform along one axis; complex numbers are pairs on the last.
    pub fn fourier(&mut self) -> Option<Lengths> {
        let attrs = self.attrs();
        let mut x = self.lengths(0)?.to_vec();
        let (onesided, inverse) = (attrs.flag("onesided", false), attrs.flag("inverse", false));
        let axis = match self.opset {
            ..20 => Some(attrs.int("axis", 1)),
            _ if self.is_given(2, "axis") => self.scalar(2),
            _ => Some(-2),
        };
        let Some(axis) = axis else { return Some(self.open_shape(x.len())) };
        let axis = place(axis, x.len()).filter(|&axis| axis + 1 < x.len())?;
        let given = self.is_given(1, "dft_length").then(|| self.only(1).cloned());
        let length = match (onesided, inverse, given) {
            (true, true, None) => difference(&x[axis], &number(1)?).and_then(|n| product([&n, &number(2)?])),
            (true, false, given) => given.unwrap_or_else(|| Some(x[axis].clone())).and_then(|n| half(&n)),
            (_, _, given) => given.unwrap_or_else(|| Some(x[axis].clone())),
        };
        x[axis] = self.or_open(length);
        *x.last_mut()? = number(if onesided && inverse { 1 } else { 2 })?;
        Some(x)
    }

    /// Transforms of frames of a signal.
    pub fn short_time_fourier(&mut self) -> Option<Lengths> {
        let signal = self.lengths(0)?;
        let (batch, length) = (signal.first()?, signal.get(1)?);
        let frame = match self.only(3) {
            Some(length) => Some(length.clone()),
            None => self.lengths(2).and_then(|window| window.first().cloned()),
        };
        let frames = frame.as_ref().zip(self.only(1)).and_then(|(frame, step)| {
            // ⌊(length - frame) / step⌋ + 1
            sum(&quotient(&difference(length, frame)?, step)?, &number(1)?)
        });
        let bins = if self.attrs().flag("onesided", true) { frame.as_ref().and_then(half) } else { frame };
        let [frames, bins] = [frames, bins].map(|length| self.or_open(length));
        Some(vec![batch.clone(), frames, bins, number(2)?])
    }

    pub fn mel_weights(&mut self) -> Option<Lengths> {
        let bins = self.only(1).and_then(half);
        Some(vec![self.or_open(bins), self.or_open(self.only(0).cloned())])
    }

    /// Columns become an image: each holds the channels of one block.
    pub fn image_of_columns(&mut self) -> Option<Lengths> {
        let x = self.lengths(0)?;
        let [samples, columns, _] = x else { return None };
        let channels = self.vector(2).and_then(|block| quotient(columns, &product(block)?));
        let rank = self.count(1)?;
        let image = self.vector(1).map(<[SymExpr]>::to_vec).unwrap_or_else(|| self.open_shape(rank));
        Some([vec![samples.clone(), self.or_open(channels)], image].concat())
    }

    /// A grid of coordinates for each pixel of an image, or of a volume, of the given size.
    pub fn affine_grid(&mut self) -> Option<Lengths> {
        let rank = self.count(1).filter(|rank| matches!(rank, 4 | 5))?;
        let size = self.vector(1).map(<[SymExpr]>::to_vec).unwrap_or_else(|| self.open_shape(rank));
        Some([&size[..1], &size[2..], &[number(rank as i64 - 2)?]].concat())
    }

    pub fn cropped_or_padded(&mut self) -> Option<Lengths> {
        let mut x = self.lengths(0)?.to_vec();
        let axes = match self.attrs().ints("axes") {
            Some(axes) => places(axes, x.len())?,
            None => (0..x.len()).collect(),
        };
        let target = self.vector(1).filter(|target| target.len() == axes.len());
        for (at, axis) in axes.into_iter().enumerate() {
            x[axis] = self.or_open(target.map(|target| target[at].clone()));
        }
        Some(x)
    }

    /// What pooling made smaller, in its old size.
    pub fn unpooled(&mut self) -> Option<Lengths> {
        let (x, attrs) = (self.lengths(0)?, self.attrs());
        if self.is_given(2, "output_shape") {
            let given = self.vector(2).filter(|shape| shape.len() == x.len());
            return Some(given.map(<[SymExpr]>::to_vec).unwrap_or_else(|| self.open_shape(x.len())));
        }
        let kernel = attrs.ints("kernel_shape")?.iter().map(|&n| number(n)).collect::<Option<Vec<_>>>()?;
        if x.len() != kernel.len() + 2 {
            return None;
        }
        let window = Window::read(&attrs, kernel)?;
        let spatial = self.all_or_open(x[2..].iter().enumerate().map(|(axis, x)| window.spread(axis, x, 0)));
        Some([&x[..2], &spatial].concat())
    }
}

/// ⌊n / 2⌋ + 1: the frequencies of `n` real numbers.
fn half(n: &SymExpr) -> Option<SymExpr> {
    sum(&quotient(n, &number(2)?)?, &number(1)?)
}
