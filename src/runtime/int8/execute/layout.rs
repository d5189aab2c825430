//! Images: tensors with a batch, channels, and one or two axes of space, in either order.

use std::borrow::Cow;

use tract_onnx::tract_core::internal::*;

use crate::kernels::{self, Images, Window};

/// The order of axes.
pub(super) struct Layout;

impl Layout {
    /// [batch, channels, space..] to [batch, space.., channels].
    pub fn channels_last<D: Clone>(shape: &[D]) -> TVec<D> {
        let mut shape: TVec<D> = shape.into();
        shape[1..].rotate_left(1);
        shape
    }

    /// [batch, space.., channels] to [batch, channels, space..].
    pub fn channels_first<D: Clone>(shape: &[D]) -> TVec<D> {
        let mut shape: TVec<D> = shape.into();
        shape[1..].rotate_right(1);
        shape
    }

    /// [batch, channels, space..], whichever order `shape` has.
    pub fn first<D: Clone>(shape: &[D], channels_last: bool) -> TVec<D> {
        if channels_last { Layout::channels_first(shape) } else { shape.into() }
    }

    /// In the order that is asked for, of [batch, channels, space..].
    pub fn ordered<D: Clone>(first: &[D], channels_last: bool) -> TVec<D> {
        if channels_last { Layout::channels_last(first) } else { first.into() }
    }
}

/// The sizes of a tensor of images; one axis of space is one of width.
pub(super) fn images(shape: &[usize], channels_last: bool) -> TractResult<Images> {
    match *Layout::first(shape, channels_last) {
        [batch, channels, width] => Ok(Images { batch, size: [1, width], channels }),
        [batch, channels, height, width] => Ok(Images { batch, size: [height, width], channels }),
        _ => bail!("images of shape {shape:?}"),
    }
}

/// The shape of images like those of shape `like`, in the same order of axes.
pub(super) fn shape_of(images: &Images, rank: usize, channels_last: bool) -> TVec<usize> {
    let first: TVec<usize> = match rank {
        3 => tvec!(images.batch, images.channels, images.size[1]),
        _ => tvec!(images.batch, images.channels, images.size[0], images.size[1]),
    };
    Layout::ordered(&first, channels_last)
}

/// The elements of images with channels last, copied where they are in the other order.
pub(super) fn pixels<'x, T: Copy + Default>(x: &'x [T], images: &Images, channels_last: bool) -> Cow<'x, [T]> {
    let area = images.size[0] * images.size[1];
    if channels_last || area == 1 || images.channels == 1 {
        return Cow::Borrowed(x);
    }
    let mut last = vec![T::default(); x.len()];
    kernels::transpose(x, images.channels, area, &mut last);
    Cow::Owned(last)
}

/// Lets `fill` write images with channels last, and puts them into `y` in the order that it has.
pub(super) fn write_pixels<T: Copy + Default>(
    y: &mut [T],
    images: &Images,
    channels_last: bool,
    fill: impl FnOnce(&mut [T]),
) {
    let area = images.size[0] * images.size[1];
    if channels_last || area == 1 || images.channels == 1 {
        return fill(y);
    }
    let mut last = vec![T::default(); y.len()];
    fill(&mut last);
    kernels::transpose(&last, area, images.channels, y);
}

/// How long space is behind a window, for lengths that may be symbolic.
pub(super) fn outputs(window: &Window, first: &[TDim], ceil: bool) -> TractResult<TVec<TDim>> {
    let rank = first.len() - 2;
    (0..rank)
        .map(|axis| {
            let place = axis + 2 - rank;
            let reach = (window.kernel[place] - 1) * window.dilations[place] + 1;
            let (before, after) = (window.pads[place], window.pads[place + 2]);
            let stride = window.strides[place];
            if let Ok(length) = first[2 + axis].to_usize() {
                let padded = length + before + after;
                let left = padded.checked_sub(reach).with_context(|| format!("a window of {reach} over {padded}"))?;
                let mut count = if ceil { left.div_ceil(stride) } else { left / stride } + 1;
                // A window must not start behind the input and its padding in front.
                if ceil && (count - 1) * stride >= length + before {
                    count -= 1;
                }
                return Ok(count.to_dim());
            }
            ensure!(!ceil, "lengths that are not known, rounded up");
            Ok((first[2 + axis].clone() + before + after - reach) / stride + 1)
        })
        .collect()
}
