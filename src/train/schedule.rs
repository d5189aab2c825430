//! How the learning rate changes while a model is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The same all the time.
    Constant,
    /// Along half a cosine to zero.
    #[default]
    Cosine,
    /// In a straight line to zero.
    Linear,
    /// Along a cosine up to the rate in the first three tenths, from a twenty-fifth of it, and then along another to almost zero.
    OneCycle,
}

impl Schedule {
    /// The factor of the learning rate at step `step` of `total`, of which the first `warmup` lead up to it in a line.
    pub fn factor(self, step: usize, total: usize, warmup: usize) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / (total - warmup).max(1) as f64;
        let between =
            |from: f64, to: f64, done: f64| to + (from - to) * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0;
        match self {
            Schedule::Constant => 1.0,
            Schedule::Cosine => between(1.0, 0.0, done),
            Schedule::Linear => 1.0 - done,
            Schedule::OneCycle if done < 0.3 => between(1.0 / 25.0, 1.0, done / 0.3),
            Schedule::OneCycle => between(1.0, 1e-4, (done - 0.3) / 0.7),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_begin_and_end_where_they_should() {
        for (schedule, first, middle, last) in [
            (Schedule::Constant, 1.0, 1.0, 1.0),
            (Schedule::Cosine, 1.0, 0.5, 0.0),
            (Schedule::Linear, 1.0, 0.5, 0.0),
            (Schedule::OneCycle, 0.04, 0.8118, 0.0001),
        ] {
            for (step, expected) in [(0, first), (500, middle), (999, last)] {
                let factor = schedule.factor(step, 1000, 0);
                assert!((factor - expected).abs() < 2e-3, "{schedule:?} at {step}: {factor}");
            }
        }
    }

    #[test]
    fn a_warm_up_leads_to_the_rate() {
        let factors: Vec<f64> = (0..5).map(|step| Schedule::Linear.factor(step, 8, 4)).collect();
        assert_eq!(factors, [0.25, 0.5, 0.75, 1.0, 1.0]);
    }
}
