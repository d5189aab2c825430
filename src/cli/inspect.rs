//! `onnxshrink inspect`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{CliError, print_out};
use crate::analysis::{FixedSizes, Shapes};
use crate::onnx;
use crate::report::Inspection;

#[derive(Args)]
pub struct InspectArgs {
    /// The model to look at
    model: PathBuf,
    /// Fix the shape of an input (`x=1,3,224,224`) or a symbolic size (`batch=1`); may be given several times
    #[arg(long, value_name = "NAME=SIZES")]
    shape: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &InspectArgs) -> Result<ExitCode, CliError> {
    let loaded = onnx::read(&args.model)?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let model = &loaded.model;
    let sizes = FixedSizes::parse(model, &args.shape).map_err(|error| CliError::Usage(format!("--shape: {error}")))?;
    let inspection = Inspection::of(model, &Shapes::infer_with(model, &sizes));
    let text = match args.json {
        true => serde_json::to_string_pretty(&inspection).expect("an inspection is plain data"),
        false => inspection.to_string(),
    };
    print_out(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}
