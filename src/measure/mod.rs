//! What is learned by running models: what one gives and what its values hold, and how far a small one is from the original.
//!
//! Law: results depend on models, data and seed alone. Samples run in parallel, but every sum is taken in their order.
//! Times are measured too, and reported; what is decided by them, where a user asks for that, can be given again.

mod accuracy;
mod agreement;
mod ctc;
mod errors;
mod gram;
mod histogram;
mod interval;
mod latency;
mod node_times;
mod pairing;
mod ranges;
mod run;
mod size;
mod stepwise;
mod survey;
mod window;

use std::path::PathBuf;
use std::time::Duration;

use rayon::prelude::*;
use serde::Serialize;

use crate::analysis::FixedSizes;
use crate::data::{Dataset, Source, synthesize};
use crate::ir::{Model, Tensor};
use crate::runtime::{Execution, Runner, RuntimeError, Together, samples_of_an_answer};

pub use accuracy::{Accuracy, Metric};
pub use agreement::{Closeness, OutputAgreement};
pub use errors::Errors;
pub use gram::{MomentSums, Moments, PairedMoments, sums_of_products};
pub use interval::Interval;
pub use latency::{DEFAULT_BUDGET, Latency};
pub use node_times::node_times;
pub use pairing::{Pairing, PairingError};
pub use ranges::{Detail, Distribution, Grid, Range, RangeMethod, distributions, ranges};
pub use run::{
    ElementFigures, NodeShare, OperatorShare, OutputFigures, Profile, Run, RunError, RunOptions, Score, join, run,
};
pub use size::{ModelSize, gzip_bytes, node_count};
pub use stepwise::Stepwise;
pub use survey::{SurveyError, Watch, sizes_of, survey};
pub use window::{Reading, Window};

use accuracy::{Judge, Verdicts};
use agreement::RowAgreement;

/// Both models side by side, as `--report` writes it.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub original: ModelSize,
    pub small: ModelSize,
    pub check: Check,
}

/// What came of running both models.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Check {
    Done(Box<Agreement>),
    /// The original cannot be run here, which says nothing about the small model.
    NotChecked {
        reason: String,
    },
    /// The original runs, the small model does not, or it gives outputs of other shapes: a failed check.
    Broken {
        reason: String,
    },
}

/// How far the outputs of the small model are from those of the original.
#[derive(Clone, Debug, Serialize)]
pub struct Agreement {
    pub inputs: Evidence,
    /// In the order of the original's outputs.
    pub outputs: Vec<OutputAgreement>,
    /// One for each metric that the labels allow, the main one first.
    pub accuracy: Vec<Accuracy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// What a user should know of data and labels.
    pub warnings: Vec<String>,
}

/// What the models were run on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Evidence {
    Data {
        file: PathBuf,
        samples: usize,
    },
    /// Random inputs are weak evidence: real data lies elsewhere.
    Random {
        seed: u64,
        samples: usize,
    },
}

/// Inputs to run both models on.
pub enum Inputs<'a> {
    /// Bound to the original.
    Data(&'a Dataset),
    /// Made up for the original, `count` samples of them.
    Random { sizes: &'a FixedSizes, seed: u64, count: usize },
}

/// How to compare.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// For how long to take times as well.
    pub latency: Option<Duration>,
    /// How the models are run.
    pub execution: &'a Execution,
    /// Called after each sample, from several threads, with the number of all samples.
    pub progress: &'a (dyn Fn(usize) + Sync),
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { latency: None, execution: &Execution::DEFAULT, progress: &|_| {} }
    }
}

/// So many samples are in memory in one run of the check at most.
const MOST_TOGETHER: usize = 32;

/// Fewer runs are not worth the plans that more samples in one need.
const FEWEST_RUNS: usize = 8;

/// Runs both models on the same inputs. The first float output is taken as the scores that labels judge.
///
/// # Errors
/// If the models do not take the same inputs or give the same outputs, or the data does not fit them. That a model cannot
/// be run is no error but a [`Check`].
pub fn compare(
    (original, original_bytes): (&Model, u64),
    (small, small_bytes): (&Model, u64),
    inputs: Inputs,
    options: Options,
) -> Result<Comparison, CompareError> {
    Ok(Comparison {
        original: ModelSize::of(original, original_bytes),
        small: ModelSize::of(small, small_bytes),
        check: check(original, small, inputs, options)?,
    })
}

/// Why two models cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// The data does not fit a model.
    #[error("{0}")]
    Input(RuntimeError),
}

/// [`compare`] without sizes: what to gate a written model on.
pub fn check(original: &Model, small: &Model, inputs: Inputs, options: Options) -> Result<Check, CompareError> {
    let pairing = Pairing::of(original, small)?;
    let runner = |model: &Model| Runner::with(model, &model.graph(model.main).outputs, options.execution);
    let reference = match runner(original) {
        Ok(runner) => runner,
        Err(error) => return Ok(Check::NotChecked { reason: error.to_string() }),
    };
    let candidate = match runner(small) {
        Ok(runner) => runner,
        Err(error) => return Ok(Check::Broken { reason: error.to_string() }),
    };
    let random;
    let data = match inputs {
        Inputs::Data(data) => data,
        Inputs::Random { sizes, seed, count } => {
            let run = |sample: &[Tensor]| reference.run(sample).map(drop).map_err(|error| error.to_string());
            match synthesize(original, sizes, seed, count, run) {
                Ok(dataset) => random = dataset,
                Err(error) => return Ok(Check::NotChecked { reason: error.to_string() }),
            }
            &random
        }
    };

    let count = samples_together(original, data);
    let first: Vec<Vec<Tensor>> = (0..count.min(data.len())).map(|index| data.sample(index)).collect();
    let together = |model: &Model, alone: Runner, first: &[Vec<Tensor>]| {
        Together::new(model, &model.graph(model.main).outputs, alone, first)
    };
    let reference = match together(original, reference, &first) {
        Ok(reference) => reference,
        Err(error) => return stopped(Stop::Original(error)),
    };
    let paired: Vec<Vec<Tensor>> = first.iter().map(|sample| pairing.inputs(sample)).collect();
    let candidate = match together(small, candidate, &paired) {
        Ok(candidate) => candidate,
        Err(error) => return stopped(Stop::Small(error)),
    };
    let judge = Judge::of(original, data.labels());
    let runs: Vec<usize> = (0..data.len()).step_by(count).collect();
    let look = |&start: &usize| -> Result<Vec<SampleAgreement>, Stop> {
        let indices = start..data.len().min(start + count);
        let samples: Vec<Vec<Tensor>> = indices.clone().map(|index| data.sample(index)).collect();
        let paired: Vec<Vec<Tensor>> = samples.iter().map(|sample| pairing.inputs(sample)).collect();
        let expected = reference.run(&samples).map_err(Stop::Original)?;
        let found = candidate.run(&paired).map_err(Stop::Small)?;
        let pairs = expected.iter().zip(found);
        let outcomes = indices.zip(pairs).map(|(index, (expected, found))| {
            (options.progress)(data.len());
            SampleAgreement::of(&pairing, &judge, data, index, expected, &pairing.outputs(found)).map_err(Stop::Shape)
        });
        outcomes.collect()
    };
    let runs: Vec<Result<Vec<SampleAgreement>, Stop>> = runs.par_iter().map(look).collect();
    let mut outputs: Vec<Vec<RowAgreement>> = vec![Vec::new(); pairing.output_names.len()];
    let mut verdicts = Verdicts::default();
    for run in runs {
        let samples = match run {
            Ok(samples) => samples,
            Err(stop) => return stopped(stop),
        };
        for sample in samples {
            outputs.iter_mut().zip(sample.outputs).for_each(|(all, rows)| all.extend(rows));
            verdicts.extend(sample.verdicts);
        }
    }

    let latency = options.latency.filter(|_| !data.is_empty()).and_then(|budget| {
        let sample = data.sample(0);
        let paired = pairing.inputs(&sample);
        let original = reference.alone_or(|| runner(original)).ok()?;
        let small = candidate.alone_or(|| runner(small)).ok()?;
        latency::measure(|| original.run(&sample).map(drop), || small.run(&paired).map(drop), budget).ok()
    });
    Ok(Check::Done(Box::new(Agreement {
        inputs: match data.source() {
            Source::File(file) => Evidence::Data { file: file.clone(), samples: data.len() },
            Source::Random { seed } => Evidence::Random { seed: *seed, samples: data.len() },
        },
        outputs: std::iter::zip(&pairing.output_names, &outputs)
            .map(|(name, rows)| OutputAgreement::of(name, rows))
            .collect(),
        accuracy: verdicts.accuracy(),
        latency,
        warnings: data.warnings().iter().cloned().chain(judge.warnings(&verdicts)).collect(),
    })))
}

/// How many samples the check asks `model` of in one run.
fn samples_together(model: &Model, data: &Dataset) -> usize {
    let most = MOST_TOGETHER.min(data.len() / FEWEST_RUNS);
    if most < 2 { 1 } else { samples_of_an_answer(model, &data.sample(0)).min(most) }
}

/// What one sample says.
struct SampleAgreement {
    /// For each output, its rows.
    outputs: Vec<Vec<RowAgreement>>,
    verdicts: Verdicts,
}

enum Stop {
    Original(RuntimeError),
    Small(RuntimeError),
    Shape(String),
}

/// What a check comes to that could not be done.
fn stopped(stop: Stop) -> Result<Check, CompareError> {
    match stop {
        Stop::Original(error @ RuntimeError::Input(_)) => Err(CompareError::Input(error)),
        Stop::Original(error) => Ok(Check::NotChecked { reason: error.to_string() }),
        Stop::Small(error) => Ok(Check::Broken { reason: error.to_string() }),
        Stop::Shape(reason) => Ok(Check::Broken { reason }),
    }
}

impl SampleAgreement {
    fn of(
        pairing: &Pairing,
        judge: &Judge,
        data: &Dataset,
        index: usize,
        expected: &[Tensor],
        found: &[Tensor],
    ) -> Result<SampleAgreement, String> {
        for (name, (a, b)) in pairing.output_names.iter().zip(expected.iter().zip(found)) {
            if a.shape() != b.shape() {
                let (a, b) = (a.shape(), b.shape());
                return Err(format!("output `{name}` has shape {b:?}, where the original has {a:?}"));
            }
            if a.dtype() != b.dtype() && !(a.dtype().is_float() && b.dtype().is_float()) {
                let (a, b) = (a.dtype(), b.dtype());
                return Err(format!("output `{name}` is of type {b}, where the original has {a}"));
            }
        }
        let batch = data.batch();
        let outputs = std::iter::zip(expected, found).map(|(a, b)| agreement::compare_rows(a, b, batch)).collect();
        let mut verdicts = Verdicts::default();
        if let Some(scores) = expected.iter().position(|output| output.dtype().is_float()) {
            verdicts = judge.verdicts(&expected[scores], &found[scores], data.label_rows(index));
        }
        Ok(SampleAgreement { outputs, verdicts })
    }
}

#[cfg(test)]
mod tests;
