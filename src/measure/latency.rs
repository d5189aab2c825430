//! How long one sample takes.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Medians over runs of both models by turns, in one thread.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub original_ms: f64,
    pub small_ms: f64,
    /// Small over original, of runs that follow each other: smallest, median and largest.
    pub ratio: [f64; 3],
    /// How often each model was run.
    pub runs: usize,
}

const MOST_RUNS: usize = 40;
const LEAST_RUNS: usize = 3;
const BUDGET: Duration = Duration::from_secs(1);

/// Both models have run before, so that what is made once is not measured.
pub fn measure<E>(
    mut original: impl FnMut() -> Result<(), E>,
    mut small: impl FnMut() -> Result<(), E>,
) -> Result<Latency, E> {
    original()?;
    small()?;
    let start = Instant::now();
    let mut times: Vec<(f64, f64)> = Vec::new();
    while times.len() < LEAST_RUNS || times.len() < MOST_RUNS && start.elapsed() < BUDGET {
        times.push((time(&mut original)?, time(&mut small)?));
    }
    let sorted = |of: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = times.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let ratios = sorted(|(a, b)| b / a);
    let middle = times.len() / 2;
    Ok(Latency {
        original_ms: sorted(|(a, _)| *a)[middle],
        small_ms: sorted(|(_, b)| *b)[middle],
        ratio: [ratios[0], ratios[middle], ratios[ratios.len() - 1]],
        runs: times.len(),
    })
}

/// Milliseconds.
fn time<E>(run: &mut impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64().max(1e-9) * 1e3)
}
