//! Histograms that widen as needed.
//!
//! Law: a histogram is a function of the elements that it counts, in whatever order and portions they come. Bins are
//! `[i·2ᵉ, (i + 1)·2ᵉ)`, where e is the smallest for which no more than [`BINS`] of them reach from the least element, or
//! zero, to the largest. As the range grows e does, and pairs of bins become one: ⌊⌊x/2ᵉ⌋/2⌋ = ⌊x/2ᵉ⁺¹⌋.

/// Bins at most; at least half as many reach over the range.
const BINS: i64 = 4096;

/// No float is finer.
const FINEST: i32 = -149;

/// How many elements lie where.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    exponent: i32,
    /// The index of the first bin; the one of index 0 is always there.
    first: i64,
    counts: Vec<u64>,
}

impl Histogram {
    /// Counts the finite elements of `x`, all of which lie between `min` and `max`.
    pub fn of(x: &[f32], min: f32, max: f32) -> Histogram {
        let (min, max) = (f64::from(min.min(0.0)), f64::from(max.max(0.0)));
        let mut exponent = FINEST;
        // 2ᵉ is about (max - min) / BINS, so few steps are left to try.
        if max > min {
            exponent = FINEST.max(((max - min) / BINS as f64).log2().floor() as i32 - 1);
        }
        while index(max, exponent) - index(min, exponent) >= BINS {
            exponent += 1;
        }
        let first = index(min, exponent);
        let mut counts = vec![0; (index(max, exponent) - first + 1) as usize];
        let unit = (-f64::from(exponent)).exp2();
        for &x in x.iter().filter(|x| x.is_finite()) {
            let scaled = f64::from(x) * unit;
            let towards_zero = scaled as i32;
            let below = towards_zero - i32::from(scaled < f64::from(towards_zero));
            counts[(i64::from(below) - first) as usize] += 1;
        }
        Histogram { exponent, first, counts }
    }

    pub fn add(&mut self, mut other: Histogram) {
        let exponent = self.exponent.max(other.exponent);
        let (mut first, mut last);
        let mut common = exponent;
        loop {
            self.coarsen(common);
            other.coarsen(common);
            first = self.first.min(other.first);
            last = self.last().max(other.last());
            if last - first < BINS {
                break;
            }
            common += 1;
        }
        let mut counts = vec![0; (last - first + 1) as usize];
        for histogram in [&*self, &other] {
            let start = (histogram.first - first) as usize;
            counts[start..].iter_mut().zip(&histogram.counts).for_each(|(sum, count)| *sum += count);
        }
        *self = Histogram { exponent: common, first, counts };
    }

    fn last(&self) -> i64 {
        self.first + self.counts.len() as i64 - 1
    }

    fn coarsen(&mut self, exponent: i32) {
        let shift = (exponent - self.exponent).min(63);
        if shift == 0 {
            return;
        }
        let first = self.first >> shift;
        let mut counts = vec![0; ((self.last() >> shift) - first + 1) as usize];
        for (index, count) in (self.first..).zip(&self.counts) {
            counts[((index >> shift) - first) as usize] += count;
        }
        *self = Histogram { exponent, first, counts };
    }

    /// How wide a bin is.
    pub fn width(&self) -> f64 {
        f64::from(self.exponent).exp2()
    }

    /// The number of elements.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Middle and count of each bin, the lowest first.
    pub fn bins(&self) -> impl DoubleEndedIterator<Item = (f64, u64)> + Clone {
        let (width, first) = (self.width(), self.first);
        self.counts.iter().enumerate().map(move |(i, &count)| ((first as f64 + i as f64 + 0.5) * width, count))
    }

    /// What is left if elements outside `[low, high]` become the nearer bound.
    pub fn clamped(&self, low: f32, high: f32) -> Histogram {
        let bins = [low, high].map(|bound| index(f64::from(bound), self.exponent).clamp(self.first, self.last()));
        // The bin of zero is always there.
        let first = bins[0].min(0);
        let mut counts = vec![0; (bins[1].max(0) - first + 1) as usize];
        for (index, count) in (self.first..).zip(&self.counts) {
            counts[(index.clamp(bins[0], bins[1]) - first) as usize] += count;
        }
        Histogram { first, counts, exponent: self.exponent }
    }

    /// The least x with a share of at least `share` of all elements below it, as if they were spread evenly in each bin.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.total() as f64;
        let (mut below, half) = (0.0, self.width() / 2.0);
        for (middle, count) in self.bins().filter(|(_, count)| *count > 0) {
            let count = count as f64;
            if below + count >= wanted {
                return middle - half + 2.0 * half * (wanted - below) / count;
            }
            below += count;
        }
        (self.last() + 1) as f64 * self.width()
    }
}

fn index(x: f64, exponent: i32) -> i64 {
    (x * (-f64::from(exponent)).exp2()).floor() as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(x: &[f32]) -> Histogram {
        let (min, max) = x.iter().fold((0f32, 0f32), |(min, max), &x| (min.min(x), max.max(x)));
        Histogram::of(x, min, max)
    }

    #[test]
    fn elements_are_counted_where_they_lie() {
        let found = histogram(&[0.0, 1.0, -1.0, 0.3, -0.3, 0.3]);
        assert_eq!((found.width(), found.total()), (2f64.powi(-10), 6));
        let bins: Vec<_> = found.bins().filter(|(_, count)| *count > 0).collect();
        let near = [-1.0, -0.3, 0.0, 0.3, 1.0];
        assert_eq!(bins.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 1, 1, 2, 1]);
        assert!(bins.iter().zip(near).all(|((middle, _), x)| (middle - x).abs() <= found.width()));
    }

    #[test]
    fn extremes_of_the_format_have_bins() {
        for x in [vec![0.0; 3], vec![f32::MAX, f32::MIN], vec![1e-45, -1e-45], vec![f32::MIN_POSITIVE, 3e38], vec![]] {
            let found = histogram(&x);
            assert_eq!(found.total(), x.len() as u64);
            assert!(found.bins().count() <= BINS as usize);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_elements() {
        let x: Vec<f32> = (0..1000).map(|i| i as f32 / 1000.0).collect();
        let found = histogram(&x);
        for share in [0.01, 0.5, 0.999, 1.0] {
            assert!((found.quantile(share) - share).abs() < 2.0 * found.width() + 1e-3, "{share}");
        }
    }

    #[test]
    fn clamped_elements_are_in_the_bins_of_the_bounds() {
        let x: Vec<f32> = (-500..500).map(|i| i as f32 / 100.0).collect();
        let found = histogram(&x).clamped(-3.0, 2.0);
        let bins: Vec<_> = found.bins().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found.total(), 1000);
        assert!((bins[0].0 + 3.0).abs() <= found.width() && bins[0].1 >= 200);
        assert!((bins.last().unwrap().0 - 2.0).abs() <= found.width() && bins.last().unwrap().1 >= 300);
        assert_eq!(histogram(&[4.0, 5.0]).clamped(0.0, 1.0).total(), 2);
    }

    proptest! {
        #[test]
        fn portions_and_order_make_no_difference(
            x in prop::collection::vec(prop_oneof![-1f32..1.0, -1e6f32..1e6, any::<f32>()], 0..200),
            cuts in prop::collection::vec(0usize..200, 0..5),
        ) {
            let x: Vec<f32> = x.into_iter().filter(|x| x.is_finite()).collect();
            let whole = histogram(&x);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(x.len())).chain([0, x.len()]).collect();
            cuts.sort_unstable();
            let portions = cuts.windows(2).map(|cut| histogram(&x[cut[0]..cut[1]]));
            let mut forwards = histogram(&[]);
            portions.clone().for_each(|portion| forwards.add(portion));
            let mut backwards = histogram(&[]);
            portions.rev().for_each(|portion| backwards.add(portion));
            prop_assert_eq!(&forwards, &whole);
            prop_assert_eq!(&backwards, &whole);
            prop_assert_eq!(whole.total(), x.len() as u64);
        }
    }
}
