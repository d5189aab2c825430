//! `onnxshrink compare`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use super::progress::Line;
use super::settings::{Points, Seconds, Share, execution};
use super::{CliError, print_out, use_threads};
use crate::analysis::FixedSizes;
use crate::data::{DEFAULT_COUNT, Dataset};
use crate::kernels::{Arithmetic, Isa};
use crate::measure::{self, Inputs, Options};
use crate::onnx;
use crate::pass::Effect;
use crate::report::{self, ComparisonTable};
use crate::shrink::{Gates, Progress, ShrinkError};

#[derive(clap::Args)]
pub struct CompareArgs {
    /// The model that is taken for right
    original: PathBuf,
    /// The model to compare with it
    small: PathBuf,
    /// Samples to run both on, .npz or .npy [default: random inputs, which are weak evidence]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Fix the shape of an input (`x=1,3,224,224`) or a symbolic size (`batch=1`) of random inputs; can be repeated
    #[arg(long, value_name = "NAME=SIZES")]
    shape: Vec<String>,
    /// Seed of random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How int8 products are summed: `exact`, as VNNI, ARM and NPUs do, or `saturating`, as x86 without VNNI does
    /// [default: exact]
    #[arg(long, value_name = "NAME")]
    arithmetic: Option<Arithmetic>,
    /// The instruction set of int8 kernels: portable, rten, avx2, avx-vnni, avx512-vnni [default: the best of this CPU]
    #[arg(long, value_name = "NAME")]
    isa: Option<Isa>,
    /// Threads to use, each for a sample at a time [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// For how long to run both models by turns to take their times
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    latency_budget: Seconds,
    /// Fail if accuracy falls by more points; without labels, if more of a hundred decisions change
    #[arg(long, value_name = "POINTS")]
    max_drop: Option<Points>,
    /// Fail if the mean cosine of an output is lower
    #[arg(long, value_name = "SHARE")]
    min_cosine: Option<Share>,
    /// Fail if a smaller share of decisions is the same
    #[arg(long, value_name = "SHARE")]
    min_agreement: Option<Share>,
    /// Write the report as JSON into a file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: CompareArgs) -> Result<ExitCode, CliError> {
    use_threads(args.threads)?;
    let execution = execution(args.isa, args.arithmetic)?;
    let (original, small) = (onnx::read(&args.original)?, onnx::read(&args.small)?);
    let data = args.data.as_ref().map(|file| Dataset::open(file, &original.model)).transpose();
    let data = data.map_err(ShrinkError::from)?;
    let sizes = FixedSizes::parse(&original.model, &args.shape).map_err(ShrinkError::from)?;
    let inputs = match &data {
        Some(data) => Inputs::Data(data),
        None => Inputs::Random { sizes: &sizes, seed: args.seed, count: DEFAULT_COUNT },
    };
    let line = Line::new(false);
    let options =
        Options { latency: Some(args.latency_budget.0), execution: &execution, progress: &|total| line.sample(total) };
    let compared = measure::compare((&original.model, original.bytes), (&small.model, small.bytes), inputs, options);
    line.finish();
    let comparison = compared.map_err(ShrinkError::from)?;

    if let Some(file) = &args.report {
        let written = fs::write(file, report::json(&comparison));
        written.map_err(|error| CliError::Report { file: file.clone(), error })?;
    }
    print_out(&match args.json {
        true => report::json(&comparison),
        false => format!("{}\n", ComparisonTable(&comparison)),
    })?;
    let share = |share: Option<Share>| share.map(|share| share.0);
    let gates = Gates {
        max_drop: args.max_drop.map(Points::share),
        min_cosine: share(args.min_cosine),
        min_agreement: share(args.min_agreement),
    };
    let failures = gates.failures(&comparison.check, Effect::Lossy);
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("the check failed: {}", failures.join("; "));
    Ok(ExitCode::from(1))
}
