//! What a layer reads: its input as the rows of the matrix product that the layer is.

use ndarray::{Array2, Array3};

use crate::data::Random;
use crate::ir::op::{Conv, Gemm, MatMul};
use crate::ir::{Model, NodeId, Tensor};

/// How a layer reads its input.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// Row by row along the last axis, as products do.
    Rows,
    /// Under a window that moves over all axes but the first two.
    Window(Window),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// For each axis.
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
    groups: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Padding {
    /// In front of each axis and behind it.
    Explicit(Vec<[usize; 2]>),
    /// As much as makes ⌈length / stride⌉ places; an odd one in front or behind.
    Same { odd_in_front: bool },
}

impl Reading {
    /// How `node` reads operand 0, if it is a layer with a constant weight: a convolution, or a product with a matrix.
    pub fn of(model: &Model, node: NodeId) -> Option<Reading> {
        if let Some(conv) = model.view::<Conv>(node) {
            return Some(Reading::Window(Window::of(&conv, model.constant(conv.w)?.shape())?));
        }
        let weight = match (model.view::<MatMul>(node), model.view::<Gemm>(node)) {
            (Some(product), _) => product.b,
            (_, Some(product)) if !product.transA => product.b,
            _ => return None,
        };
        (model.constant(weight)?.rank() == 2).then_some(Reading::Rows)
    }

    /// The number of places that the window has; 1 without one.
    pub fn taps(&self) -> usize {
        match self {
            Reading::Rows => 1,
            Reading::Window(window) => window.kernel.iter().product(),
        }
    }

    /// The axis of channels in what the layer gives, of so many axes.
    pub fn channel_axis(&self, rank: usize) -> Option<usize> {
        match self {
            Reading::Rows => rank.checked_sub(1),
            Reading::Window(_) => Some(1),
        }
    }

    pub fn groups(&self) -> usize {
        match self {
            Reading::Rows => 1,
            Reading::Window(window) => window.groups,
        }
    }

    /// Up to `count` of the rows that the layer reads in `x`: `[groups, rows, row]`, where a row has channel, then the
    /// window's axes, as convolution weights do. The places are random, spread evenly. None if `x` has another shape than
    /// the layer takes.
    pub fn rows(&self, x: &Tensor, count: usize, random: &mut Random) -> Option<Array3<f32>> {
        let floats = x.floats()?;
        match self {
            Reading::Rows => {
                let &width = x.shape().last()?;
                let places = spread(floats.len() / width.max(1), count, random);
                let rows = places.iter().flat_map(|&row| &floats[row * width..][..width]).copied().collect();
                Array3::from_shape_vec((1, places.len(), width), rows).ok()
            }
            Reading::Window(window) => window.rows(&floats, x.shape(), count, random),
        }
    }

    /// What stands at the places of [`rows`](Self::rows) in `y`, which has the `shape` of what the layer gives or is broadcast
    /// to it: `[rows, channels]`. The places are the same where `count` and the state of `random` are.
    pub fn results(&self, y: &Tensor, shape: &[usize], count: usize, random: &mut Random) -> Option<Array2<f32>> {
        let floats = y.floats()?;
        let channel_axis = self.channel_axis(shape.len())?;
        let (&channels, first) = (shape.get(channel_axis)?, shape.len().checked_sub(y.rank())?);
        let mut strides = vec![0; shape.len()];
        let mut step = 1;
        for (axis, &length) in y.shape().iter().enumerate().rev() {
            if length != 1 && length != shape[first + axis] {
                return None;
            }
            strides[first + axis] = if length == 1 { 0 } else { step };
            step *= length;
        }
        let places = spread(shape.iter().product::<usize>() / channels.max(1), count, random);
        let start = |mut place: usize| {
            let mut offset = 0;
            for axis in (0..shape.len()).rev().filter(|&axis| axis != channel_axis) {
                offset += place % shape[axis] * strides[axis];
                place /= shape[axis];
            }
            offset
        };
        let starts: Vec<usize> = places.into_iter().map(start).collect();
        let stride = strides[channel_axis];
        Some(Array2::from_shape_fn((starts.len(), channels), |(row, channel)| floats[starts[row] + channel * stride]))
    }
}

impl Window {
    fn of(conv: &Conv, weight: &[usize]) -> Option<Window> {
        let rank = weight.len().checked_sub(2).filter(|&rank| rank > 0)?;
        let all = |given: &[i64], default: usize, count: usize| -> Option<Vec<usize>> {
            let given: Vec<usize> = given.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<_>>()?;
            if given.is_empty() { Some(vec![default; count]) } else { (given.len() == count).then_some(given) }
        };
        let padding = match conv.auto_pad.as_str() {
            "NOTSET" | "" => {
                let pads = all(&conv.pads, 0, 2 * rank)?;
                Padding::Explicit((0..rank).map(|axis| [pads[axis], pads[rank + axis]]).collect())
            }
            "VALID" => Padding::Explicit(vec![[0, 0]; rank]),
            "SAME_UPPER" => Padding::Same { odd_in_front: false },
            "SAME_LOWER" => Padding::Same { odd_in_front: true },
            _ => return None,
        };
        let window = Window {
            kernel: weight[2..].to_vec(),
            strides: all(&conv.strides, 1, rank)?,
            dilations: all(&conv.dilations, 1, rank)?,
            padding,
            groups: usize::try_from(conv.group).ok().filter(|&groups| groups > 0)?,
        };
        (!window.strides.contains(&0)).then_some(window)
    }

    /// The places that the window takes along `axis` of the given length, and the padding in front.
    fn places(&self, axis: usize, length: usize) -> Option<(usize, usize)> {
        let (stride, extent) = (self.strides[axis], (self.kernel[axis].checked_sub(1)?) * self.dilations[axis] + 1);
        match &self.padding {
            Padding::Explicit(pads) => {
                let [before, after] = pads[axis];
                Some(((length + before + after).checked_sub(extent)? / stride + 1, before))
            }
            Padding::Same { odd_in_front } => {
                let places = length.div_ceil(stride);
                let padding = (places.checked_sub(1)? * stride + extent).saturating_sub(length);
                Some((places, if *odd_in_front { padding.div_ceil(2) } else { padding / 2 }))
            }
        }
    }

    fn rows(&self, x: &[f32], shape: &[usize], count: usize, random: &mut Random) -> Option<Array3<f32>> {
        let [batch, channels, lengths @ ..] = shape else { return None };
        if lengths.len() != self.kernel.len() || channels % self.groups != 0 {
            return None;
        }
        let axes: Vec<(usize, usize)> =
            (0..lengths.len()).map(|axis| self.places(axis, lengths[axis])).collect::<Option<_>>()?;
        let (image, taps): (usize, usize) = (lengths.iter().product(), self.kernel.iter().product());
        let each: usize = axes.iter().map(|(places, _)| places).product();
        let chosen = spread(batch * each, count, random);
        let mut rows = Array3::zeros((self.groups, chosen.len(), channels / self.groups * taps));
        let in_group = channels / self.groups;
        let mut offsets = vec![None; taps];
        for (row, &place) in chosen.iter().enumerate() {
            for (tap, offset) in offsets.iter_mut().enumerate() {
                *offset = self.offset(place % each, tap, lengths, &axes);
            }
            let sample = &x[place / each * channels * image..][..channels * image];
            for (channel, channel_data) in sample.chunks_exact(image.max(1)).enumerate() {
                let (group, first) = (channel / in_group, channel % in_group * taps);
                for (tap, offset) in offsets.iter().enumerate() {
                    rows[[group, row, first + tap]] = offset.map_or(0.0, |offset: usize| channel_data[offset]);
                }
            }
        }
        Some(rows)
    }

    /// Where in a channel a tap of the window lies at a place; none in the padding. Places and taps count with the last
    /// axis first.
    fn offset(&self, mut place: usize, mut tap: usize, lengths: &[usize], axes: &[(usize, usize)]) -> Option<usize> {
        let (mut offset, mut step) = (0, 1);
        for axis in (0..lengths.len()).rev() {
            let (places, before) = axes[axis];
            let (kernel, length) = (self.kernel[axis], lengths[axis]);
            let at = (place % places * self.strides[axis] + tap % kernel * self.dilations[axis]).checked_sub(before)?;
            if at >= length {
                return None;
            }
            offset += at * step;
            step *= length;
            place /= places;
            tap /= kernel;
        }
        Some(offset)
    }
}

/// `count` of the integers `0..n`, ascending, one at random from each of `count` stretches; all of them if there are no more.
fn spread(n: usize, count: usize, random: &mut Random) -> Vec<usize> {
    if n <= count {
        return (0..n).collect();
    }
    let start = |stretch: usize| stretch * n / count;
    (0..count).map(|i| start(i) + random.below((start(i + 1) - start(i)) as u64) as usize).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(kernel: &[usize], strides: &[usize], dilations: &[usize], padding: Padding, groups: usize) -> Window {
        let [kernel, strides, dilations] = [kernel, strides, dilations].map(<[usize]>::to_vec);
        Window { kernel, strides, dilations, padding, groups }
    }

    #[test]
    fn a_row_is_what_lies_under_the_window() {
        let x = Tensor::from_vec(vec![1, 1, 3, 3], (1..=9).map(|x| x as f32).collect());
        let padding = Padding::Explicit(vec![[1, 0], [1, 0]]);
        let reading = Reading::Window(window(&[2, 2], &[1, 1], &[1, 1], padding, 1));
        let rows = reading.rows(&x, 100, &mut Random::new(0, 0)).unwrap();
        assert_eq!(rows.shape(), [1, 9, 4]);
        let row = |i: usize| rows.index_axis(ndarray::Axis(1), i).iter().copied().collect::<Vec<_>>();
        assert_eq!(row(0), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(row(5), [2.0, 3.0, 5.0, 6.0]);
        let x = Tensor::from_vec(vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]);
        let rows = Reading::Rows.rows(&x, 9, &mut Random::new(0, 0)).unwrap();
        assert_eq!(rows.into_iter().collect::<Vec<_>>(), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn groups_read_their_own_channels() {
        let x = Tensor::from_vec(vec![1, 4, 2], (0..8).map(|x| x as f32).collect());
        let reading = Reading::Window(window(&[1], &[1], &[1], Padding::Explicit(vec![[0, 0]]), 2));
        let rows = reading.rows(&x, 9, &mut Random::new(0, 0)).unwrap();
        assert_eq!(rows.into_iter().collect::<Vec<_>>(), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }

    #[test]
    fn results_stand_where_rows_are_read() {
        // A pointwise kernel reads what stands at its place; strides skip some.
        let x = Tensor::from_vec(vec![2, 3, 4, 5], (0..120).map(|x| x as f32).collect());
        let reading = Reading::Window(window(&[1, 1], &[1, 1], &[1, 1], Padding::Explicit(vec![[0, 0]; 2]), 1));
        let rows = reading.rows(&x, 7, &mut Random::new(4, 0)).unwrap();
        let results = reading.results(&x, x.shape(), 7, &mut Random::new(4, 0)).unwrap();
        assert_eq!(rows.index_axis(ndarray::Axis(0), 0), results);
        let rows = Reading::Rows.rows(&x, 7, &mut Random::new(4, 0)).unwrap();
        let results = Reading::Rows.results(&x, x.shape(), 7, &mut Random::new(4, 0)).unwrap();
        assert_eq!(rows.index_axis(ndarray::Axis(0), 0), results);
    }

    #[test]
    fn results_that_are_broadcast_stand_at_every_place() {
        let bias = Tensor::from_vec(vec![3, 1, 1], vec![1.0, 2.0, 3.0]);
        let reading = Reading::Window(window(&[1, 1], &[1, 1], &[1, 1], Padding::Explicit(vec![[0, 0]; 2]), 1));
        let results = reading.results(&bias, &[2, 3, 1, 2], 9, &mut Random::new(0, 0)).unwrap();
        assert_eq!(results, ndarray::arr2(&[[1.0, 2.0, 3.0]; 4]));
        assert!(reading.results(&bias, &[2, 4, 1, 2], 9, &mut Random::new(0, 0)).is_none());
    }

    #[test]
    fn same_padding_covers_every_place() {
        for (odd_in_front, expected) in [(false, [1.0, 2.0]), (true, [0.0, 1.0])] {
            let x = Tensor::from_vec(vec![1, 1, 3], vec![1.0, 2.0, 3.0]);
            let reading = Reading::Window(window(&[2], &[1], &[1], Padding::Same { odd_in_front }, 1));
            let rows = reading.rows(&x, 9, &mut Random::new(0, 0)).unwrap();
            assert_eq!(rows.shape(), [1, 3, 2]);
            assert_eq!([rows[[0, 0, 0]], rows[[0, 0, 1]]], expected);
        }
    }

    #[test]
    fn an_input_of_another_shape_is_refused() {
        let reading = Reading::Window(window(&[3, 3], &[1, 1], &[1, 1], Padding::Explicit(vec![[0, 0]; 2]), 2));
        for shape in [vec![1, 2, 2, 2], vec![1, 3, 5, 5], vec![4], vec![1, 2, 5]] {
            let x = Tensor::from_vec(shape.clone(), vec![0.0; shape.iter().product()]);
            assert!(reading.rows(&x, 4, &mut Random::new(0, 0)).is_none(), "{shape:?}");
        }
    }

    proptest! {
        #[test]
        fn chosen_places_differ_and_ascend(n in 0usize..500, count in 1usize..100, seed in any::<u64>()) {
            let chosen = spread(n, count, &mut Random::new(seed, 0));
            prop_assert_eq!(chosen.len(), n.min(count));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen.iter().all(|&i| i < n));
        }
    }
}
