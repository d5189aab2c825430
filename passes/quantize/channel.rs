//! A weight seen channel by channel.

use std::borrow::Cow;

use rayon::prelude::*;

use super::scale::level;

/// A dense float tensor whose axis `axis` counts channels: `[outer, channels, inner]`.
pub struct PerChannel<'t> {
    data: Cow<'t, [f32]>,
    channels: usize,
    inner: usize,
}

impl<'t> PerChannel<'t> {
    /// # Panics
    /// If `shape` has no `axis`, or another number of elements than `data`.
    pub fn new(data: Cow<'t, [f32]>, shape: &[usize], axis: usize) -> PerChannel<'t> {
        assert_eq!(data.len(), shape.iter().product::<usize>());
        PerChannel { data, channels: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    pub fn channel(&self, channel: usize) -> Vec<f32> {
        let row = self.channels * self.inner;
        let start = channel * self.inner;
        self.data.chunks_exact(row.max(1)).flat_map(|row| &row[start..start + self.inner]).copied().collect()
    }

    /// Rounds every weight to its level, of at most `limit`, and returns levels and the sums Σx² and Σ(x - scale·q)².
    pub fn quantize(&self, scales: &[f32], limit: f32) -> (Vec<i8>, [f64; 2]) {
        let inverse: Vec<f32> = scales.iter().map(|scale| scale.recip()).collect();
        let mut levels = vec![0i8; self.data.len()];
        let (inner, row) = (self.inner.max(1), (self.channels * self.inner).max(1));
        let stretch = if self.data.len() > row { row } else { inner };
        let round = |first: usize, levels: &mut [i8], data: &[f32]| {
            let mut sums = [0f64; 2];
            for (index, (levels, data)) in levels.chunks_mut(inner).zip(data.chunks(inner)).enumerate() {
                let channel = (first + index) % self.channels;
                for (to, &x) in levels.iter_mut().zip(data) {
                    let q = level(x, inverse[channel], limit);
                    *to = q as i8;
                    let error = x - q * scales[channel];
                    sums = [sums[0] + f64::from(x * x), sums[1] + f64::from(error * error)];
                }
            }
            sums
        };
        let sums: Vec<[f64; 2]> = levels
            .par_chunks_mut(stretch)
            .zip(self.data.par_chunks(stretch))
            .enumerate()
            .map(|(index, (levels, data))| round(index * (stretch / inner), levels, data))
            .collect();
        (levels, sums.iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_axis_can_count_channels() {
        let shape = [2, 3, 4];
        let data: Vec<f32> = (0..24).map(|x| x as f32).collect();
        for axis in 0..3 {
            let view = PerChannel::new(Cow::Borrowed(&data), &shape, axis);
            let scales: Vec<f32> = (0..shape[axis]).map(|channel| 1.0 + channel as f32).collect();
            let (levels, [signal, error]) = view.quantize(&scales, 127.0);
            for (index, &x) in data.iter().enumerate() {
                let position = [index / 12, index / 4 % 3, index % 4];
                let level = (x / scales[position[axis]]).round_ties_even();
                assert_eq!(f32::from(levels[index]), level, "axis {axis}, element {index}");
                assert!(view.channel(position[axis]).contains(&x));
            }
            assert_eq!(signal, data.iter().map(|&x| f64::from(x * x)).sum::<f64>());
            assert!(error < signal / 10.0);
        }
    }
}
