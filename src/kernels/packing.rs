//! Weights, and the order in which kernels read them.
//!
//! A panel holds 16 columns. Inside of it the depth goes in granules: four bytes for the kernels that multiply bytes
//! (`[panel][depth / 4][16][4]`), two words for those that multiply 16-bit words (`[panel][depth / 2][16][2]`). Depth and
//! columns are filled up with zeros.

use super::aligned::{Aligned, Plain};
#[cfg(target_arch = "x86_64")]
use super::pairs::PairedPanels;
use super::rten::PackedWeights;

/// Columns of a panel.
pub(super) const PANEL: usize = 16;

/// The constant operand of a product, as ONNX stores it.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    pub values: Integers<'a>,
    /// None, one, or one for each output channel.
    pub zero_points: &'a [i32],
}

#[derive(Clone, Copy)]
pub enum Integers<'a> {
    I8(&'a [i8]),
    U8(&'a [u8]),
}

impl<'a> Weights<'a> {
    pub fn signed(values: &'a [i8]) -> Weights<'a> {
        Weights { values: Integers::I8(values), zero_points: &[] }
    }

    pub fn len(&self) -> usize {
        match self.values {
            Integers::I8(values) => values.len(),
            Integers::U8(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The weight less the zero point of its output channel: at least -255, at most 255.
    pub(super) fn centered(&self, index: usize, channel: usize) -> i16 {
        let zero_point = match *self.zero_points {
            [] => 0,
            [zero_point] => zero_point,
            ref zero_points => zero_points[channel],
        };
        let value = match self.values {
            Integers::I8(values) => i32::from(values[index]),
            Integers::U8(values) => i32::from(values[index]),
        };
        (value - zero_point) as i16
    }

    /// Whether ONNX Runtime multiplies these by `vpmaddubsw`.
    pub(super) fn may_saturate(&self) -> bool {
        matches!(self.values, Integers::I8(_)) && self.zero_points.iter().all(|&zero_point| zero_point == 0)
    }
}

/// Depth x columns, free of zero points, before it is packed.
pub(super) struct Matrix {
    pub(super) depth: usize,
    pub(super) columns: usize,
    /// Column by column.
    values: Vec<i16>,
}

impl Matrix {
    pub(super) fn new(depth: usize, columns: usize, at: impl Fn(usize, usize) -> i16) -> Matrix {
        let values = (0..columns).flat_map(|column| (0..depth).map(move |k| (k, column)));
        Matrix { depth, columns, values: values.map(|(k, column)| at(k, column)).collect() }
    }

    pub(super) fn column(&self, column: usize) -> &[i16] {
        &self.values[column * self.depth..][..self.depth]
    }

    /// Whether every weight is a byte.
    pub(super) fn fits_bytes(&self) -> bool {
        self.values.iter().all(|&w| i8::try_from(w).is_ok())
    }

    /// Whether some pair of neighbours can leave the range of i16 when it is multiplied by u8.
    pub(super) fn can_saturate(&self) -> bool {
        let overflows = |pair: &[i16]| {
            let of_sign = |sign: i32| pair.iter().map(|&w| (i32::from(w) * sign).max(0) * 255).sum::<i32>();
            of_sign(1) > i32::from(i16::MAX) || of_sign(-1) > -i32::from(i16::MIN)
        };
        (0..self.columns).any(|column| self.column(column).chunks(2).any(overflows))
    }

    /// The sum of every column, wrapping.
    pub(super) fn column_sums(&self) -> Vec<i32> {
        let sum = |column: usize| self.column(column).iter().map(|&w| i32::from(w)).sum();
        (0..self.columns).map(sum).collect()
    }

    /// The largest absolute value that a column's sum of products with u8 can have, bias included.
    pub(super) fn largest_sum(&self, column: usize, bias: i32) -> f64 {
        let magnitudes: f64 = self.column(column).iter().map(|&w| f64::from(w).abs()).sum();
        magnitudes * 255.0 + f64::from(bias).abs()
    }
}

/// A packed matrix.
pub(super) enum Panels {
    Bytes(Aligned<i8>),
    #[cfg(target_arch = "x86_64")]
    Pairs(PairedPanels),
    Words(Aligned<i16>),
    /// In an order of its own.
    Rten(PackedWeights),
}

impl Panels {
    pub(super) fn bytes(matrix: &Matrix) -> Panels {
        Panels::Bytes(pack::<i8, 4>(matrix, |w| w as i8))
    }

    pub(super) fn words(matrix: &Matrix) -> Panels {
        Panels::Words(pack::<i16, 2>(matrix, |w| w))
    }
}

/// Elements of a packed matrix.
pub(super) fn packed_length(depth: usize, columns: usize, granule: usize) -> usize {
    depth.next_multiple_of(granule) * columns.next_multiple_of(PANEL)
}

fn pack<T: Plain, const GRANULE: usize>(matrix: &Matrix, narrow: impl Fn(i16) -> T) -> Aligned<T> {
    let depth = matrix.depth.next_multiple_of(GRANULE);
    let mut packed = Aligned::zeros(packed_length(matrix.depth, matrix.columns, GRANULE));
    for column in 0..matrix.columns {
        let panel = &mut packed[column / PANEL * depth * PANEL..][..depth * PANEL];
        let granules = panel.chunks_exact_mut(PANEL * GRANULE);
        for (granule, weights) in granules.zip(matrix.column(column).chunks(GRANULE)) {
            for (to, &weight) in granule[column % PANEL * GRANULE..].iter_mut().zip(weights) {
                *to = narrow(weight);
            }
        }
    }
    packed
}

/// The right operand of a product of activations: depth x columns, or columns x depth where `transposed`, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Activations<'a> {
    pub(super) values: &'a [u8],
    pub(super) stride: usize,
    pub(super) depth: usize,
    pub(super) columns: usize,
    pub(super) transposed: bool,
}

impl Activations<'_> {
    /// b - 128, column by column.
    pub(super) fn columns(&self) -> Vec<i8> {
        let at = |(column, k): (usize, usize)| match self.transposed {
            true => self.values[column * self.stride + k],
            false => self.values[k * self.stride + column],
        };
        let places = (0..self.columns).flat_map(|column| (0..self.depth).map(move |k| (column, k)));
        places.map(|place| (at(place) ^ 0x80) as i8).collect()
    }

    /// Packs what `narrow` makes of each byte, and sums it by column.
    #[inline(always)]
    pub(super) fn pack<T: Plain + Default + Into<i32>, const GRANULE: usize>(
        &self,
        narrow: impl Fn(u8) -> T + Copy,
    ) -> (Aligned<T>, Vec<i32>) {
        let depth = self.depth.next_multiple_of(GRANULE);
        let mut packed = Aligned::zeros(packed_length(self.depth, self.columns, GRANULE));
        let mut sums = vec![0i32; self.columns];
        let panels = packed.chunks_exact_mut(depth * PANEL).zip(sums.chunks_mut(PANEL));
        for (index, (panel, sums)) in panels.enumerate() {
            match self.transposed {
                true => self.pack_rows::<T, GRANULE>(index * PANEL, panel, sums, narrow),
                false => self.pack_columns::<T, GRANULE>(index * PANEL, panel, sums, narrow),
            }
        }
        (packed, sums)
    }

    /// A panel of b transposed: each of its rows is a column.
    #[inline(always)]
    fn pack_rows<T: Plain + Into<i32>, const GRANULE: usize>(
        &self,
        first: usize,
        panel: &mut [T],
        sums: &mut [i32],
        narrow: impl Fn(u8) -> T + Copy,
    ) {
        for (column, sum) in sums.iter_mut().enumerate() {
            let row = &self.values[(first + column) * self.stride..][..self.depth];
            *sum = row.iter().map(|&x| narrow(x).into()).sum();
            let (whole, rest) = row.as_chunks::<GRANULE>();
            let mut granules = panel.chunks_exact_mut(PANEL * GRANULE);
            for (x, granule) in whole.iter().zip(&mut granules) {
                granule[column * GRANULE..][..GRANULE].copy_from_slice(&x.map(narrow));
            }
            for (granule, &x) in granules.flat_map(|granule| &mut granule[column * GRANULE..][..GRANULE]).zip(rest) {
                *granule = narrow(x);
            }
        }
    }

    /// A panel of b as it is: its rows are interleaved.
    #[inline(always)]
    fn pack_columns<T: Plain + Default + Into<i32>, const GRANULE: usize>(
        &self,
        first: usize,
        panel: &mut [T],
        sums: &mut [i32],
        narrow: impl Fn(u8) -> T + Copy,
    ) {
        let row = |k: usize| &self.values[k * self.stride + first..][..sums.len()];
        let mut all = [0i32; PANEL];
        for (group, granule) in panel.chunks_exact_mut(PANEL * GRANULE).enumerate() {
            let mut rows = [[T::default(); PANEL]; GRANULE];
            for (k, to) in (group * GRANULE..self.depth).zip(&mut rows) {
                match row(k).first_chunk::<PANEL>() {
                    Some(row) => *to = row.map(narrow),
                    None => to.iter_mut().zip(row(k)).for_each(|(to, &x)| *to = narrow(x)),
                }
                for (sum, &x) in all.iter_mut().zip(&*to) {
                    *sum += x.into();
                }
            }
            for (column, granule) in granule.as_chunks_mut::<GRANULE>().0.iter_mut().enumerate() {
                *granule = std::array::from_fn(|k| rows[k][column]);
            }
        }
        sums.copy_from_slice(&all[..sums.len()]);
    }
}
