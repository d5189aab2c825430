//! `onnxshrink sensitivity`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{CliError, print_out, use_threads};
use crate::data::Dataset;
use crate::report::{self, SensitivityTable};
use crate::shrink::{ShrinkError, sensitivity};
use crate::{onnx, pass};

#[derive(clap::Args)]
pub struct SensitivityArgs {
    /// The model to look at
    model: PathBuf,
    /// Samples: they give the ranges of values, and the outputs that are compared
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What the model is quantized with after cleanup: the options of `quantize`, as `quantize(mode=static,target=tract)`
    #[arg(long, value_name = "PASS", default_value = "quantize(mode=static)")]
    quantize: String,
    /// How many samples outputs are compared on; each runs once for every layer
    #[arg(long, value_name = "N", default_value_t = 16)]
    samples: usize,
    /// Threads to use [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &SensitivityArgs) -> Result<ExitCode, CliError> {
    use_threads(args.threads)?;
    if args.samples == 0 {
        return Err(CliError::Usage("--samples: at least one sample is needed".into()));
    }
    let loaded = onnx::read(&args.model)?;
    let data = Dataset::open(&args.data, &loaded.model).map_err(ShrinkError::from)?;
    let failed = |error| ShrinkError::Pipeline { model: args.model.clone(), error };
    let cx = pass::Context { data: Some(data.clone()), ..pass::Context::default() };
    let ranking = sensitivity(&loaded.model, &args.quantize, &cx, args.samples)?.map_err(failed)?;
    print_out(&match args.json {
        true => report::json(&ranking),
        false => format!("{}\n", SensitivityTable { ranking: &ranking, samples: args.samples.min(data.len()) }),
    })?;
    Ok(ExitCode::SUCCESS)
}
