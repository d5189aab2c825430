//! What the check must reach for a result to be written.

use crate::measure::{Agreement, Check, Closeness, Evidence};
use crate::pass::Effect;

/// What the check must reach; each is a share of 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gates {
    /// The most that accuracy may fall; without labels, the largest share of decisions that may change.
    pub max_drop: Option<f64>,
    /// The least mean cosine of every float output.
    pub min_cosine: Option<f64>,
    /// The least share of equal decisions in every output: largest scores in the same place, equal integers.
    pub min_agreement: Option<f64>,
}

/// Exact passes round differently; more than this over the range of an output is a mistake.
const EXACT: f64 = 1e-3;

impl Gates {
    fn are_open(&self) -> bool {
        self.max_drop.is_none() && self.min_cosine.is_none() && self.min_agreement.is_none()
    }

    /// What is wrong, one sentence each; nothing if the check is passed.
    pub fn failures(&self, check: &Check, effect: Effect) -> Vec<String> {
        match check {
            Check::Broken { reason } => vec![format!("the result does not run, the original does: {reason}")],
            Check::NotChecked { .. } if self.are_open() => Vec::new(),
            Check::NotChecked { reason } => vec![format!("not checked, so no gate is passed: {reason}")],
            Check::Done(agreement) => {
                let inexact = inexact(agreement).filter(|_| effect == Effect::Exact);
                let failures =
                    [self.of_accuracy(agreement), self.of_cosine(agreement), self.of_agreement(agreement), inexact];
                failures.into_iter().flatten().collect()
            }
        }
    }

    /// Whether accuracy was measured and falls by more than it may.
    pub(super) fn fails_in_accuracy(&self, check: &Check) -> bool {
        let Check::Done(agreement) = check else { return false };
        let measured = !agreement.accuracy.is_empty() || lowest(agreement, decisions).is_some();
        measured && self.of_accuracy(agreement).is_some()
    }

    fn of_accuracy(&self, agreement: &Agreement) -> Option<String> {
        // Differences of shares are not exact: 0.975 - 0.97 > 0.005.
        let (asked, most) = (self.max_drop?, self.max_drop? + 1e-9);
        let allowed = |what: String, drop: f64| {
            format!("{what} by {:.2} points, more than `--max-drop {}` allows", 100.0 * drop, 100.0 * asked)
        };
        if let Some(accuracy) = agreement.accuracy.first() {
            let falls = accuracy.drop.is_nan() || accuracy.drop > most;
            return falls.then(|| allowed(format!("{} drops", accuracy.metric), accuracy.drop));
        }
        if let Evidence::Random { .. } = agreement.inputs {
            return Some("`--max-drop` needs samples: give a file with `--data`".into());
        }
        match lowest(agreement, decisions) {
            None => {
                Some("`--max-drop` needs labels in the data (`y`, `y_any` or `text`) or an output of scores".into())
            }
            Some((_, worst)) if 1.0 - worst <= most => None,
            Some((output, worst)) => Some(allowed(format!("agreement of output `{output}` drops"), 1.0 - worst)),
        }
    }

    fn of_cosine(&self, agreement: &Agreement) -> Option<String> {
        let least = self.min_cosine?;
        let lowest = lowest(agreement, |closeness| match closeness {
            Closeness::Floats { cosine, .. } => Some(*cosine),
            Closeness::Exactly { .. } => None,
        });
        match lowest {
            None => Some("`--min-cosine` needs an output of floats".into()),
            Some((_, worst)) if worst >= least => None,
            Some((output, worst)) => {
                Some(format!("cosine of output `{output}` is {worst:.5}, below `--min-cosine {least}`"))
            }
        }
    }

    fn of_agreement(&self, agreement: &Agreement) -> Option<String> {
        let least = self.min_agreement?;
        match lowest(agreement, decisions) {
            None => Some("`--min-agreement` needs an output of several scores".into()),
            Some((_, worst)) if worst >= least => None,
            Some((output, worst)) => {
                Some(format!("agreement of output `{output}` is {worst:.4}, below `--min-agreement {least}`"))
            }
        }
    }
}

/// The share of equal decisions, where an output has any.
fn decisions(closeness: &Closeness) -> Option<f64> {
    match closeness {
        Closeness::Floats { agreement, .. } => *agreement,
        Closeness::Exactly { equal, .. } => Some(*equal),
    }
}

/// The output with the lowest value of `measure`, of those that have one. NaN is lower than any number.
fn lowest(agreement: &Agreement, measure: impl Fn(&Closeness) -> Option<f64>) -> Option<(&str, f64)> {
    let measured = agreement.outputs.iter().filter_map(|output| Some((&*output.output, measure(&output.closeness)?)));
    measured.min_by(|a, b| if a.1.is_nan() { std::cmp::Ordering::Less } else { a.1.total_cmp(&b.1) })
}

fn inexact(agreement: &Agreement) -> Option<String> {
    let (output, error) = lowest(agreement, |closeness| match closeness {
        Closeness::Floats { max_error, .. } => Some(-*max_error),
        Closeness::Exactly { .. } => None,
    })?;
    let error = -error;
    (error.is_nan() || error > EXACT).then(|| {
        format!(
            "output `{output}` is off by {error:.1e} of its range, which exact passes never should: please report it"
        )
    })
}
