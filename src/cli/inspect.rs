//! `onnxshrink inspect`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{CliError, print_out};
use crate::analysis::{FixedSizes, Shapes};
use crate::ir::Model;
use crate::pass::{Context, Pipeline, PipelineError};
use crate::report::{self, Inspection, function_names};
use crate::{onnx, passes};

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
    let mut model = loaded.model;
    let sizes = FixedSizes::parse(&model, &args.shape).map_err(|error| CliError::Usage(format!("--shape: {error}")))?;
    let functions = function_names(&model);
    if !functions.is_empty() {
        match inlined(&model) {
            Ok(inlined) => model = inlined,
            Err(error) => eprintln!("warning: what calls of functions cost is not known: {error}"),
        }
    }
    let inspection = Inspection { functions, ..Inspection::of(&model, &Shapes::infer_with(&model, &sizes)) };
    print_out(&if args.json { report::json(&inspection) } else { format!("{inspection}\n") })?;
    Ok(ExitCode::SUCCESS)
}

/// The model with bodies of functions in the place of calls, where it is seen what they cost.
fn inlined(model: &Model) -> Result<Model, PipelineError> {
    let pipeline = Pipeline::parse("inline-functions", passes::ALL).expect("there is such a pass");
    let mut model = model.clone();
    pipeline.run(&mut model, &mut Context::default())?;
    Ok(model)
}
