//! Intervals of confidence for the difference of two paired shares.

use serde::Serialize;

/// Where the true drop lies with a confidence of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
    /// How it was found.
    pub method: &'static str,
}

/// The quantile of the standard normal distribution that leaves 2.5 % above it.
const Z: f64 = 1.959_963_984_540_054;

impl Interval {
    /// Of `original - small` over pairs, where each is the share of a sample that is right. None for fewer than 2 pairs.
    pub fn of_drop(pairs: &[(f64, f64)]) -> Option<Interval> {
        let n = pairs.len() as f64;
        if pairs.len() < 2 {
            return None;
        }
        let binary = |x: f64| x == 0.0 || x == 1.0;
        if pairs.iter().all(|&(a, b)| binary(a) && binary(b)) {
            let count = |a: f64, b: f64| pairs.iter().filter(|&&pair| pair == (a, b)).count() as f64;
            return Some(bonett_price(count(1.0, 0.0), count(0.0, 1.0), n));
        }
        // The mean of paired differences ± z·s/√n.
        let mean = pairs.iter().map(|(a, b)| a - b).sum::<f64>() / n;
        let variance = pairs.iter().map(|(a, b)| (a - b - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let half = Z * (variance / n).sqrt();
        Some(Interval { low: mean - half, high: mean + half, method: "paired normal" })
    }
}

/// The adjusted Wald interval of Bonett and Price (2012): it keeps its width where no pair differs.
fn bonett_price(lost: f64, won: f64, n: f64) -> Interval {
    // p₁₂ = (lost + 1)/(n + 2), p₂₁ = (won + 1)/(n + 2): p₁₂ - p₂₁ ± z·√((p₁₂ + p₂₁ - (p₁₂ - p₂₁)²)/(n + 2))
    let (lost, won, n) = ((lost + 1.0) / (n + 2.0), (won + 1.0) / (n + 2.0), n + 2.0);
    let drop = lost - won;
    let half = Z * ((lost + won - drop * drop) / n).sqrt();
    Interval { low: (drop - half).max(-1.0), high: (drop + half).min(1.0), method: "Bonett-Price" }
}
