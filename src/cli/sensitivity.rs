//! `onnxshrink sensitivity`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{CliError, print_out, use_threads};
use crate::data::Dataset;
use crate::report::{self, ChannelTable, SensitivityTable};
use crate::shrink::{ShrinkError, channel_sensitivity, sensitivity};
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
    /// Rank groups of channels by what cutting some of each alone does; with options of `prune`, as `criterion=taylor`
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, default_missing_value = "", conflicts_with = "quantize")]
    prune: Option<String>,
    /// The shares of each group that are cut, with --prune
    #[arg(long, value_name = "SHARES", value_delimiter = ',', requires = "prune")]
    #[arg(default_values_t = [0.1, 0.3, 0.5])]
    shares: Vec<f64>,
    /// How many samples outputs are compared on; each runs once for every layer, or cut
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
    let count = args.samples.min(data.len());
    let text = match &args.prune {
        Some(options) => {
            if args.shares.iter().any(|share| !(0.0..1.0).contains(share) || *share == 0.0) {
                return Err(CliError::Usage("--shares: each is between 0 and 1, as `0.1,0.3,0.5`".into()));
            }
            let ranking =
                channel_sensitivity(&loaded.model, options, &cx, args.samples, &args.shares)?.map_err(failed)?;
            match args.json {
                true => report::json(&ranking),
                false => format!("{}\n", ChannelTable { ranking: &ranking, samples: count }),
            }
        }
        None => {
            let ranking = sensitivity(&loaded.model, &args.quantize, &cx, args.samples)?.map_err(failed)?;
            match args.json {
                true => report::json(&ranking),
                false => format!("{}\n", SensitivityTable { ranking: &ranking, samples: count }),
            }
        }
    };
    print_out(&text)?;
    Ok(ExitCode::SUCCESS)
}
