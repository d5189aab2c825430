//! The ranges of values: what they hold on a data set, and how much of it is worth a code.
//!
//! Law: a range contains zero, which quantization has to render exactly.

use rayon::prelude::*;

use super::histogram::Histogram;
use super::survey::{SurveyError, Watch, survey, survey_extremes};
use crate::data::Dataset;
use crate::ir::{Model, ValueId};
use crate::kernels::Extremes;

/// How the range of a value follows from what it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeMethod {
    /// All of it.
    MinMax,
    /// Without the share of elements beyond this one (.9999) at either end.
    Percentile(f64),
    /// The clipping for which the quantized distribution tells most of the original: the least Kullback-Leibler divergence
    /// (Migacz, 8-bit inference with TensorRT, 2017).
    Entropy,
    /// The clipping for which the mean squared error of quantization is least.
    MeanSquaredError,
}

/// The codes that a range is divided into.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Codes less one: 255 for unsigned bytes, 254 for symmetric signed ones.
    pub steps: u32,
    /// Whether zero has to be the code in the middle.
    pub symmetric: bool,
}

impl Grid {
    pub const U8: Grid = Grid { steps: 255, symmetric: false };
    pub const SYMMETRIC_I8: Grid = Grid { steps: 254, symmetric: true };
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub min: f32,
    pub max: f32,
}

impl Range {
    fn scaled(self, low: f64, high: f64) -> Range {
        Range { min: (f64::from(self.min) * low) as f32, max: (f64::from(self.max) * high) as f32 }
    }

    /// The range that `grid` can have: one that is symmetric has its larger bound at both ends.
    fn on(self, grid: Grid) -> Range {
        match grid.symmetric {
            true => {
                let bound = self.max.max(-self.min);
                Range { min: -bound, max: bound }
            }
            false => self,
        }
    }
}

/// What one value holds on all samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Least and largest finite element; zero is taken for one of them.
    pub extremes: Range,
    /// Infinities and NaNs, which no range contains.
    pub non_finite: u64,
    /// None where only the extremes were asked for.
    histogram: Option<Histogram>,
}

/// What to keep of a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Detail {
    /// Enough for [`RangeMethod::MinMax`].
    Extremes,
    Histogram,
}

impl RangeMethod {
    pub fn detail(self) -> Detail {
        match self {
            RangeMethod::MinMax => Detail::Extremes,
            _ => Detail::Histogram,
        }
    }
}

/// What each of `values`, float tensors of the main graph, holds on `data`; in their order. It depends neither on the number
/// of threads nor on the order of samples or how many make a batch.
pub fn distributions(
    model: &Model,
    values: &[ValueId],
    data: &Dataset,
    detail: Detail,
    watch: Watch,
) -> Result<Vec<Distribution>, SurveyError> {
    if detail == Detail::Extremes {
        let extremes = survey_extremes(model, values, data, watch)?;
        return Ok(extremes.into_iter().map(Distribution::from).collect());
    }
    let mut states: Vec<Distribution> = values.iter().map(|_| Distribution::of(&[])).collect();
    survey(
        model,
        values,
        data,
        watch,
        &mut states,
        |_, _, tensor| Distribution::of(&tensor.floats().unwrap_or_default()),
        |_, state, seen| state.add(seen),
    )?;
    Ok(states)
}

impl From<Extremes> for Distribution {
    fn from(Extremes { min, max, non_finite }: Extremes) -> Distribution {
        Distribution { extremes: Range { min, max }, non_finite, histogram: None }
    }
}

impl Distribution {
    /// With a histogram.
    pub fn of(x: &[f32]) -> Distribution {
        let extremes = Extremes::of(x);
        Distribution { histogram: Some(Histogram::of(x, extremes.min, extremes.max)), ..extremes.into() }
    }

    pub fn add(&mut self, other: Distribution) {
        self.extremes.min = self.extremes.min.min(other.extremes.min);
        self.extremes.max = self.extremes.max.max(other.extremes.max);
        self.non_finite += other.non_finite;
        if let (Some(ours), Some(theirs)) = (&mut self.histogram, other.histogram) {
            ours.add(theirs);
        }
    }

    /// What is left if elements outside `[low, high]`, which contains zero, become the nearer bound, as an activation that a
    /// quantizer absorbs makes them.
    pub fn clamped(&self, low: f32, high: f32) -> Distribution {
        let Range { min, max } = self.extremes;
        Distribution {
            extremes: Range { min: min.max(low), max: max.min(high) },
            non_finite: self.non_finite,
            histogram: self.histogram.as_ref().map(|histogram| histogram.clamped(low, high)),
        }
    }

    /// # Panics
    /// If the method needs a histogram and the distribution was measured without.
    pub fn range(&self, method: RangeMethod, grid: Grid) -> Range {
        let all = self.extremes;
        let histogram = || self.histogram.as_ref().expect("the method's detail was measured");
        let range = match method {
            RangeMethod::MinMax => all,
            _ if all.min == all.max => all,
            RangeMethod::Percentile(share) => percentile(histogram(), all, share),
            RangeMethod::Entropy => least_divergence(histogram(), all, grid),
            RangeMethod::MeanSquaredError => least_error(histogram(), all, grid),
        };
        range.on(grid)
    }
}

/// [`Distribution::range`] of many values at a time.
pub fn ranges(distributions: &[Distribution], method: RangeMethod, grid: Grid) -> Vec<Range> {
    distributions.par_iter().map(|distribution| distribution.range(method, grid)).collect()
}

fn percentile(histogram: &Histogram, all: Range, share: f64) -> Range {
    let [low, high] = [1.0 - share, share].map(|share| histogram.quantile(share) as f32);
    Range { min: low.clamp(all.min, 0.0), max: high.clamp(0.0, all.max) }
}

/// Bin by bin, Σ count·(x - quantized x)².
fn squared_error(bins: &[(f64, u64)], range: Range, grid: Grid) -> f64 {
    let Range { min, max } = range.on(grid);
    let (min, max) = (f64::from(min), f64::from(max));
    let scale = (max - min) / f64::from(grid.steps);
    if scale <= 0.0 {
        return f64::INFINITY;
    }
    let (inverse, zero) = (scale.recip(), round(-min / scale));
    let (low, high) = (-zero, f64::from(grid.steps) - zero);
    let error = |&(x, count): &(f64, u64)| {
        let error = x - round((x * inverse).max(low).min(high)) * scale;
        count as f64 * error * error
    };
    bins.iter().map(error).sum()
}

/// Ties to even. Adding 1.5·2⁵² leaves no bits for a fraction, which is faster than a call.
fn round(x: f64) -> f64 {
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    x + MAGIC - MAGIC
}

/// Searches the shares of both ends that are kept: first the same share of both, then one end after the other in finer and
/// finer steps.
fn least_error(histogram: &Histogram, all: Range, grid: Grid) -> Range {
    let bins: Vec<_> = histogram.bins().filter(|(_, count)| *count > 0).collect();
    let error = |[low, high]: [f64; 2]| squared_error(&bins, all.scaled(low, high), grid);
    let mut best = ([1.0; 2], error([1.0; 2]));
    let consider = |shares: [f64; 2], best: &mut ([f64; 2], f64)| {
        let found = error(shares);
        if found < best.1 {
            *best = (shares, found);
        }
    };
    (1..100).for_each(|step| consider([0.95f64.powi(step); 2], &mut best));
    for ratio in [0.95f64, 0.99, 0.997] {
        for end in [0, 1].into_iter().cycle().take(4) {
            let (from, _) = best;
            for step in -12..=12 {
                let mut shares = from;
                shares[end] = (shares[end] * ratio.powi(step)).min(1.0);
                consider(shares, &mut best);
            }
        }
    }
    all.scaled(best.0[0], best.0[1])
}

/// Searches how many bins are kept: what lies beyond counts in the last bin of the original distribution P, and Q spreads
/// the sum of every code evenly over its bins that are not empty.
fn least_divergence(histogram: &Histogram, all: Range, grid: Grid) -> Range {
    let codes = grid.steps as usize + 1;
    let mut best = (f64::INFINITY, all);
    for step in 0..=150 {
        let range = all.scaled(0.97f64.powi(step), 0.97f64.powi(step));
        let reach = range.on(grid);
        let kept: Vec<(f64, u64)> =
            histogram.bins().filter(|(x, _)| (f64::from(reach.min)..=f64::from(reach.max)).contains(x)).collect();
        if kept.len() < codes {
            break;
        }
        let below: u64 = histogram.bins().filter(|(x, _)| *x < f64::from(reach.min)).map(|(_, count)| count).sum();
        let above: u64 = histogram.bins().filter(|(x, _)| *x > f64::from(reach.max)).map(|(_, count)| count).sum();
        let divergence = divergence(&kept, below, above, codes);
        if divergence < best.0 {
            best = (divergence, range);
        }
    }
    best.1
}

/// Σ P·ln(P/Q), where bins that Q leaves empty count as if they held a ten-thousandth of an element.
fn divergence(kept: &[(f64, u64)], below: u64, above: u64, codes: usize) -> f64 {
    let total: u64 = kept.iter().map(|(_, count)| count).sum();
    let all = (total + below + above) as f64;
    if total == 0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for code in 0..codes {
        let (start, end) = (code * kept.len() / codes, (code + 1) * kept.len() / codes);
        let bins = &kept[start..end];
        let held: u64 = bins.iter().map(|(_, count)| count).sum();
        let filled = bins.iter().filter(|(_, count)| *count > 0).count();
        let q = held as f64 / filled.max(1) as f64 / total as f64;
        for (index, &(_, count)) in bins.iter().enumerate() {
            let outliers = match start + index {
                0 if kept.len() == 1 => below + above,
                0 => below,
                place if place + 1 == kept.len() => above,
                _ => 0,
            };
            let p = (count + outliers) as f64 / all;
            if p > 0.0 {
                let q = if count > 0 { q } else { 1e-4 / total as f64 };
                sum += p * (p / q).ln();
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn distribution(x: &[f32]) -> Distribution {
        Distribution::of(x)
    }

    /// Elements of a distribution with tails, the same in every run.
    fn bell(n: usize, spread: f32) -> Vec<f32> {
        let mut random = crate::data::Random::new(0, 0);
        (0..n).map(|_| random.normal() * spread).collect()
    }

    /// Over the elements themselves.
    fn true_error(x: &[f32], range: Range, grid: Grid) -> f64 {
        let elements: Vec<_> = x.iter().map(|&x| (f64::from(x), 1)).collect();
        squared_error(&elements, range, grid)
    }

    #[test]
    fn a_histogram_counts_what_is_finite() {
        let mut x = vec![2.0; 40];
        (x[3], x[20], x[38]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let distribution = distribution(&x);
        assert_eq!((distribution.histogram.unwrap().total(), distribution.non_finite), (37, 3));
    }

    #[test]
    fn percentiles_leave_out_the_rare() {
        let mut x = bell(100_000, 1.0);
        x[0] = 1000.0;
        let range = distribution(&x).range(RangeMethod::Percentile(0.999), Grid::U8);
        assert!((range.max - 3.09).abs() < 0.3 && (range.min + 3.09).abs() < 0.3, "{range:?}");
        assert_eq!(distribution(&x).range(RangeMethod::MinMax, Grid::U8).max, 1000.0);
    }

    #[test]
    fn entropy_clips_outliers_and_keeps_a_flat_distribution() {
        let mut x = bell(100_000, 1.0);
        x[0] = 60.0;
        let range = distribution(&x).range(RangeMethod::Entropy, Grid::SYMMETRIC_I8);
        assert!(range.max < 12.0 && range.max > 2.5 && range.min == -range.max, "{range:?}");
        let flat: Vec<f32> = (0..100_000).map(|i| i as f32 / 1e5).collect();
        assert!(distribution(&flat).range(RangeMethod::Entropy, Grid::U8).max > 0.95);
    }

    #[test]
    fn the_range_of_least_error_is_as_good_as_a_search_over_the_elements() {
        let mut tailed = bell(20_000, 1.0);
        tailed.iter_mut().step_by(1000).for_each(|x| *x *= 20.0);
        let mut one_sided: Vec<f32> = tailed.iter().map(|x| x.max(0.0)).collect();
        one_sided[5] = 90.0;
        for x in [tailed, one_sided, bell(5000, 1e-3)] {
            for grid in [Grid::U8, Grid::SYMMETRIC_I8] {
                let distribution = distribution(&x);
                let all = distribution.extremes;
                let shares = || (1..=100).map(|step| f64::from(step) / 100.0);
                let best = shares()
                    .flat_map(|low| shares().step_by(3).map(move |high| [low, high]))
                    .map(|[low, high]| {
                        let bins: Vec<_> = distribution.histogram.as_ref().unwrap().bins().collect();
                        (squared_error(&bins, all.scaled(low, high), grid), [low, high])
                    })
                    .min_by(|a, b| a.0.total_cmp(&b.0))
                    .unwrap();
                let best = true_error(&x, all.scaled(best.1[0], best.1[1]), grid);
                let found = true_error(&x, distribution.range(RangeMethod::MeanSquaredError, grid), grid);
                let plain = true_error(&x, all, grid);
                assert!(found <= best * 1.02 && found <= plain, "{found} for {best}, all of it {plain}");
            }
        }
    }

    #[test]
    fn what_a_bound_clamps_has_no_error() {
        let x = bell(10_000, 5.0);
        let clamped = distribution(&x).clamped(0.0, 6.0);
        for method in [RangeMethod::MinMax, RangeMethod::MeanSquaredError, RangeMethod::Percentile(0.9999)] {
            let range = clamped.range(method, Grid::U8);
            assert_eq!(range.min, 0.0, "{method:?}");
            assert!((range.max - 6.0).abs() < 0.05, "{method:?} {range:?}");
        }
    }

    #[test]
    fn constants_and_nothing_at_all_have_ranges() {
        for x in [&[][..], &[0.0; 4], &[3.0; 4], &[-1e-40; 4], &[f32::MAX, f32::MIN]] {
            for method in [
                RangeMethod::MinMax,
                RangeMethod::Percentile(0.99),
                RangeMethod::Entropy,
                RangeMethod::MeanSquaredError,
            ] {
                for grid in [Grid::U8, Grid::SYMMETRIC_I8] {
                    let range = distribution(x).range(method, grid);
                    assert!(range.min <= 0.0 && range.max >= 0.0, "{method:?} of {x:?}: {range:?}");
                    assert!(!grid.symmetric || range.min == -range.max);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_method_stays_within_the_extremes(x in prop::collection::vec(-1e3f32..1e3, 1..400)) {
            let distribution = distribution(&x);
            let all = distribution.extremes;
            for method in [RangeMethod::Percentile(0.9), RangeMethod::Entropy, RangeMethod::MeanSquaredError] {
                let range = distribution.range(method, Grid::U8);
                prop_assert!(all.min <= range.min && range.min <= 0.0 && 0.0 <= range.max && range.max <= all.max);
            }
        }
    }
}
