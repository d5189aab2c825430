//! `onnxshrink run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::progress::Line;
use super::settings::execution;
use super::{CliError, print_out, use_threads};
use crate::analysis::FixedSizes;
use crate::data::{DEFAULT_COUNT, Dataset, write_npz};
use crate::ir::{Model, Tensor};
use crate::kernels::{Arithmetic, Isa};
use crate::measure::{self, Inputs, RunOptions};
use crate::onnx;
use crate::report::{self, RunTable};
use crate::shrink::{Progress, ShrinkError};

#[derive(clap::Args)]
pub struct RunArgs {
    /// The model to run
    model: PathBuf,
    /// Samples to run it on, .npz or .npy [default: random inputs]
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
    /// Tell how long each node takes, and which ran in int8
    #[arg(long)]
    profile: bool,
    /// Write the outputs as an .npz file, with an axis for samples in front
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: RunArgs) -> Result<ExitCode, CliError> {
    use_threads(args.threads)?;
    let execution = execution(args.isa, args.arithmetic)?;
    if let Some(file) = &args.output {
        check_folder(file)?;
    }
    let loaded = onnx::read(&args.model)?;
    let data = args.data.as_ref().map(|file| Dataset::open(file, &loaded.model)).transpose();
    let data = data.map_err(ShrinkError::from)?;
    let sizes = FixedSizes::parse(&loaded.model, &args.shape).map_err(ShrinkError::from)?;
    let inputs = match &data {
        Some(data) => Inputs::Data(data),
        None => Inputs::Random { sizes: &sizes, seed: args.seed, count: DEFAULT_COUNT },
    };
    let line = Line::new(args.quiet);
    let options = RunOptions {
        profile: args.profile,
        execution: &execution,
        keep_outputs: args.output.is_some(),
        progress: &|total| line.sample(total),
    };
    let ran = measure::run(&loaded.model, inputs, options);
    line.finish();
    let (run, outputs) = ran.map_err(|error| CliError::Run { model: args.model.clone(), error })?;

    if let Some(file) = &args.output {
        let batch = data.as_ref().map_or(1, Dataset::batch);
        let arrays = arrays(&loaded.model, outputs, batch)?;
        let written = write_npz(file, &arrays);
        written.map_err(|error| CliError::Arrays { file: file.clone(), error })?;
    }
    match (args.json, args.quiet) {
        (true, _) => print_out(&report::json(&run))?,
        (false, false) => print_out(&format!("{}\n", RunTable(&run)))?,
        (false, true) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether there is a place to write to, found out before the work.
fn check_folder(file: &Path) -> Result<(), CliError> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            let error = std::io::Error::other(format!("there is no folder `{}`; make it first", folder.display()));
            Err(CliError::Arrays { file: file.into(), error })
        }
        _ => Ok(()),
    }
}

/// Each output over all samples: joined along its first axis where that counts the rows of a batch, else along a new one.
fn arrays(model: &Model, samples: Vec<Vec<Tensor>>, batch: usize) -> Result<Vec<(String, Tensor)>, CliError> {
    let names = model.graph(model.main).outputs.iter().map(|&output| model.value(output).name.clone());
    let joined = names.enumerate().map(|(index, name)| {
        let parts: Vec<&Tensor> = samples.iter().map(|outputs| &outputs[index]).collect();
        match measure::join(&parts, batch) {
            Some(array) => Ok((name, array)),
            None => Err(CliError::Usage(format!(
                "--output: output `{name}` is not of one shape for all samples, so that it fills no array"
            ))),
        }
    });
    joined.collect()
}
