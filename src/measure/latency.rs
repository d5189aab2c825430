//! How long one sample takes.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Medians over runs of both models by turns, in one thread.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub original_ms: f64,
    pub small_ms: f64,
    /// Small over original, of runs that follow each other: the median between the ends of its 95 % interval.
    pub ratio: [f64; 3],
    /// How often each model was run.
    pub runs: usize,
}

/// How long both models are run if nothing else is asked for.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(2);

const MOST_RUNS_A_SECOND: f64 = 100.0;
const LEAST_RUNS: usize = 3;

/// Runs both models for about `budget`. Both have run before, so that what is made once is not measured.
pub fn measure<E>(
    mut original: impl FnMut() -> Result<(), E>,
    mut small: impl FnMut() -> Result<(), E>,
    budget: Duration,
) -> Result<Latency, E> {
    original()?;
    small()?;
    let most = (budget.as_secs_f64() * MOST_RUNS_A_SECOND) as usize;
    let start = Instant::now();
    let mut times: Vec<(f64, f64)> = Vec::new();
    while times.len() < LEAST_RUNS || times.len() < most && start.elapsed() < budget {
        // A scheduler's slice may end with the first of each pair: both models take turns at being first.
        let pair = match times.len().is_multiple_of(2) {
            true => (time(&mut original)?, time(&mut small)?),
            false => {
                let small = time(&mut small)?;
                (time(&mut original)?, small)
            }
        };
        times.push(pair);
    }
    let sorted = |of: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = times.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let ratios = sorted(|(a, b)| b / a);
    let middle = times.len() / 2;
    let (low, high) = median_interval(times.len());
    Ok(Latency {
        original_ms: sorted(|(a, _)| *a)[middle],
        small_ms: sorted(|(_, b)| *b)[middle],
        ratio: [ratios[low], ratios[middle], ratios[high]],
        runs: times.len(),
    })
}

/// The ranks, from 0, between which the median lies with 95 % of probability, whatever the distribution.
fn median_interval(count: usize) -> (usize, usize) {
    // The number of values below the median is binomial: n/2 ± (1.96 · √n/2 + 1/2), with ½ for its being a whole number.
    let spread = 0.98 * (count as f64).sqrt() + 0.5;
    let low = (count as f64 / 2.0 - spread).floor().max(0.0) as usize;
    (low, count - 1 - low)
}

/// Milliseconds.
fn time<E>(run: &mut impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64().max(1e-9) * 1e3)
}

#[cfg(test)]
mod tests {
    use super::median_interval;

    #[test]
    fn the_interval_of_a_median_covers_it() {
        // The exact coverage: the binomial probability of `low < k < n - low` values below the median.
        for count in [9, 20, 40, 200] {
            let (low, high) = median_interval(count);
            let mut term = 0.5f64.powi(count as i32);
            let mut covered = 0.0;
            for below in 0..=count {
                covered += if below > low && below <= high { term } else { 0.0 };
                term *= (count - below) as f64 / (below + 1) as f64;
            }
            assert!(covered >= 0.945, "{count}: {low} to {high} cover {covered:.3}");
        }
        assert_eq!(median_interval(3), (0, 2));
    }
}
