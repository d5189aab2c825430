//! Bytes in the order in which AVX2 multiplies most of them at once.
//!
//! There `vpmaddubsw` adds the products of two neighbours as a word, and `vpmaddwd` widens the words of a granule, which is
//! as much work again. Two granules whose words stay words when they are added share the second product. Which two is free,
//! since the left operand is read where it is: in each panel pairs come first, then the granules that are left, and a list
//! tells where in the depth each of them lies.
//!
//! A granule of which a word could overflow alone does so, as in ONNX Runtime without VNNI; where sums are to be exact, it
//! is split into two halves that follow each other as granules of the same place.

use rayon::prelude::*;

use super::aligned::Aligned;
use super::packing::{Matrix, PANEL};

/// Elements of the depth that are packed together.
const GRANULE: usize = 4;

/// Weights of a granule of a panel.
const LENGTH: usize = PANEL * GRANULE;

/// The most that positive, or negative, weights of a word may add up to: 128 · 255 < 2¹⁵.
const MOST: u8 = 128;

/// Granules that are looked at for the other half of a pair.
const TRIES: usize = 128;

pub(super) struct PairedPanels {
    pub(super) weights: Aligned<i8>,
    /// Where in the depth the granules of `weights` lie.
    pub(super) places: Vec<u32>,
    pub(super) panels: Vec<PairedPanel>,
    /// Of the matrix, in whole granules.
    pub(super) depth: usize,
}

/// The first of its granules, and how many there are: two for each pair, then those that are alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PairedPanel {
    pub(super) first: usize,
    pub(super) pairs: usize,
    pub(super) singles: usize,
}

#[derive(Clone)]
struct Granule {
    place: u32,
    weights: [i8; LENGTH],
    /// For each word what its positive, and what its negative weights add up to.
    reach: [u8; LENGTH],
}

impl PairedPanels {
    /// Of a matrix of bytes. If `exact`, no word overflows.
    pub(super) fn new(matrix: &Matrix, exact: bool) -> PairedPanels {
        let panels: Vec<(usize, Vec<Granule>)> = (0..matrix.columns.div_ceil(PANEL))
            .into_par_iter()
            .map(|panel| in_pairs(granules(matrix, panel, exact)))
            .collect();
        let count = panels.iter().map(|(_, granules)| granules.len()).sum::<usize>();
        let mut paired = PairedPanels {
            weights: Aligned::zeros(count * LENGTH),
            places: Vec::with_capacity(count),
            panels: Vec::with_capacity(panels.len()),
            depth: matrix.depth.next_multiple_of(GRANULE),
        };
        for (pairs, granules) in panels {
            let first = paired.places.len();
            paired.panels.push(PairedPanel { first, pairs, singles: granules.len() - 2 * pairs });
            for (index, granule) in granules.iter().enumerate() {
                paired.weights[(first + index) * LENGTH..][..LENGTH].copy_from_slice(&granule.weights);
                paired.places.push(granule.place);
            }
        }
        paired
    }

    /// Whether some granule had to be split.
    pub(super) fn has_halves(&self) -> bool {
        self.places.len() > self.panels.len() * self.depth / GRANULE
    }

    /// The share of the granules that are in pairs.
    pub(super) fn share(&self) -> f64 {
        let paired: usize = self.panels.iter().map(|panel| 2 * panel.pairs).sum();
        paired as f64 / self.places.len().max(1) as f64
    }
}

/// The granules of a panel in the order of the depth.
fn granules(matrix: &Matrix, panel: usize, exact: bool) -> Vec<Granule> {
    let columns = panel * PANEL..matrix.columns.min((panel + 1) * PANEL);
    let mut granules = Vec::with_capacity(matrix.depth.div_ceil(GRANULE));
    for place in (0..matrix.depth).step_by(GRANULE) {
        let mut weights = [0i8; LENGTH];
        for (column, to) in columns.clone().zip(weights.as_chunks_mut::<GRANULE>().0) {
            for (to, &weight) in to.iter_mut().zip(&matrix.column(column)[place..]) {
                *to = weight as i8;
            }
        }
        let granule = Granule::new(place as u32, weights);
        if exact && granule.largest() > MOST {
            let half = weights.map(|weight| weight / 2);
            let rest = std::array::from_fn(|at| weights[at] - half[at]);
            granules.extend([half, rest].map(|weights| Granule::new(place as u32, weights)));
        } else {
            granules.push(granule);
        }
    }
    granules
}

impl Granule {
    fn new(place: u32, weights: [i8; LENGTH]) -> Granule {
        let mut reach = [0; LENGTH];
        for (reach, word) in reach.as_chunks_mut::<2>().0.iter_mut().zip(weights.as_chunks::<2>().0) {
            let of_sign = |sign: i16| word.iter().map(|&weight| (i16::from(weight) * sign).max(0)).sum::<i16>();
            *reach = [1, -1].map(|sign| of_sign(sign).min(255) as u8);
        }
        Granule { place, weights, reach }
    }

    fn largest(&self) -> u8 {
        self.reach.iter().copied().max().unwrap_or(0)
    }

    fn fits(&self, other: &Granule) -> bool {
        let beyond = |(a, b): (&u8, &u8)| u8::from(a.saturating_add(*b) > MOST);
        self.reach.iter().zip(&other.reach).map(beyond).fold(0, |any, beyond| any | beyond) == 0
    }
}

/// How many pairs were found, and all granules with those of pairs in front. What reaches far is paired first, with what
/// reaches as far as it may.
fn in_pairs(granules: Vec<Granule>) -> (usize, Vec<Granule>) {
    let mut order: Vec<usize> = (0..granules.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(granules[index].largest()), index));
    let mut is_taken = vec![false; granules.len()];
    let (mut pairs, mut singles) = (Vec::new(), Vec::new());
    for (at, &index) in order.iter().enumerate() {
        if std::mem::replace(&mut is_taken[index], true) {
            continue;
        }
        let free = order[at + 1..].iter().filter(|&&other| !is_taken[other]).take(TRIES);
        let other = free.copied().find(|&other| granules[index].fits(&granules[other]));
        match other.filter(|_| granules[index].largest() <= MOST) {
            Some(other) => {
                is_taken[other] = true;
                pairs.extend([index, other]);
            }
            None => singles.push(index),
        }
    }
    // In the order of the depth, as far as that is free: the left operand is read forwards.
    let mut twos = pairs.as_chunks::<2>().0.to_vec();
    twos.iter_mut().for_each(|two| two.sort());
    twos.sort();
    singles.sort();
    let order = twos.iter().flatten().chain(&singles);
    (twos.len(), order.map(|&index| granules[index].clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::Noise;

    /// Weights of a bell: sums of four numbers.
    fn bell(depth: usize, columns: usize, width: i16) -> Matrix {
        let mut noise = Noise::new(3);
        let weights: Vec<i16> = (0..depth * columns)
            .map(|_| (0..4).map(|_| noise.below(2 * width as u64 + 1) as i16 - width).sum::<i16>().clamp(-127, 127))
            .collect();
        Matrix::new(depth, columns, |k, column| weights[k * columns + column])
    }

    fn sums_of(panels: &PairedPanels, matrix: &Matrix, x: &[u8], panel: usize) -> [i32; PANEL] {
        let PairedPanel { first, pairs, singles } = panels.panels[panel];
        let mut sums = [0; PANEL];
        for granule in first..first + 2 * pairs + singles {
            let place = panels.places[granule] as usize;
            for (column, sum) in sums.iter_mut().enumerate() {
                for k in 0..GRANULE.min(matrix.depth - place) {
                    let weight = panels.weights[(granule * PANEL + column) * GRANULE + k];
                    *sum += i32::from(x[place + k]) * i32::from(weight);
                }
            }
        }
        sums
    }

    #[test]
    fn every_weight_is_there_once_or_in_two_halves() {
        for exact in [false, true] {
            let matrix = bell(90, 20, 45);
            let panels = PairedPanels::new(&matrix, exact);
            let x = Noise::new(8).bytes(matrix.depth);
            for column in 0..matrix.columns {
                let expected = x.iter().zip(matrix.column(column)).map(|(&x, &w)| i32::from(x) * i32::from(w));
                let found = sums_of(&panels, &matrix, &x, column / PANEL)[column % PANEL];
                assert_eq!(found, expected.sum::<i32>(), "column {column}");
            }
            let granules = panels.places.len();
            assert_eq!(granules > 3 * matrix.depth.div_ceil(GRANULE), exact, "{granules} granules");
        }
    }

    #[test]
    fn words_of_pairs_stay_words() {
        let panels = PairedPanels::new(&bell(384, 48, 20), false);
        assert!(panels.share() > 0.8, "{}", panels.share());
        for panel in &panels.panels {
            for pair in 0..panel.pairs {
                let weights = &panels.weights[(panel.first + 2 * pair) * LENGTH..][..2 * LENGTH];
                for word in 0..LENGTH / 2 {
                    let four = [2 * word, 2 * word + 1].map(|at| [weights[at], weights[LENGTH + at]]);
                    for sign in [1, -1] {
                        let sum: i32 = four.iter().flatten().map(|&w| (i32::from(w) * sign).max(0) * 255).sum();
                        assert!(sum <= i32::from(i16::MAX));
                    }
                }
            }
        }
    }

    #[test]
    fn weights_that_fill_their_bits_have_no_pairs() {
        let panels = PairedPanels::new(&Matrix::new(64, 16, |_, _| 127), false);
        assert_eq!((panels.share(), panels.places.len()), (0.0, 16));
        // Halves of 63 and 64 neither: two of them go beyond.
        let halves = PairedPanels::new(&Matrix::new(64, 16, |_, _| 127), true);
        assert_eq!((halves.share(), halves.places.len()), (0.0, 32));
    }
}
