//! The command line.
//!
//! Exit codes: 0 done, 1 the check failed, 2 unusable input or arguments.

mod compare;
mod inspect;
mod passes;
mod print;
mod progress;
mod run;
mod sensitivity;
mod settings;
mod shrink;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::measure::RunError;
use crate::onnx::ReadError;
use crate::shrink::ShrinkError;
use settings::Settings;

/// Make an ONNX model small and fast, and tell what it cost
///
/// Cleans the graph without changing what it computes, stores large weights in int8 and, with samples to learn from, lets
/// layers compute in int8; runs the original and the result, and writes the result. Without options it writes
/// MODEL.small.onnx beside MODEL.onnx.
#[derive(Parser)]
#[command(name = "onnxshrink", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(max_term_width = 100, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    shrink: ShrinkArgs,
}

const EXAMPLES: &str = "\
Examples:
  onnxshrink model.onnx -o small.onnx                        the default: clean up, int8 weights
  onnxshrink model.onnx -o small.onnx --data samples.npz     compute in int8 as well, checked on held-back samples
  onnxshrink model.onnx -o clean.onnx --passes cleanup       exact: only what changes no result
  onnxshrink model.onnx -o small.onnx --data samples.npz --max-drop 1
                                                             write only if accuracy holds
  onnxshrink ./print                                         a model called like a command

Samples are arrays called like the model's inputs (numpy.savez), with labels `y` if there are any.
Exit code: 0 done, 1 the check failed, 2 unusable input or arguments.";

#[derive(Subcommand)]
enum Command {
    /// Compare two models on the same inputs
    Compare(compare::CompareArgs),
    /// Show the layers of a model, what they cost, and its inputs and outputs
    Inspect(inspect::InspectArgs),
    /// List the passes, or explain one with all its options
    Passes {
        /// The pass to explain
        name: Option<String>,
    },
    /// Print a model in ONNX's textual syntax
    Print {
        /// The model to print
        model: PathBuf,
        /// Write out every weight, however large
        #[arg(long)]
        weights: bool,
    },
    /// Run a model on samples and tell what it gives, and with --profile how long each node takes
    Run(run::RunArgs),
    /// Rank the layers of a model by what int8 in each alone does to its outputs, or with --prune its channels
    Sensitivity(sensitivity::SensitivityArgs),
}

#[derive(Args)]
struct ShrinkArgs {
    /// The model to shrink
    #[arg(required = true)]
    model: Option<PathBuf>,
    /// Read settings from a TOML file: `passes` and any option below by its name; options given here win
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// What ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Shrink(#[from] ShrinkError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{}: {problem}", file.display())]
    Recipe { file: PathBuf, problem: String },
    #[error("{0}")]
    Usage(String),
    #[error("cannot write the report `{}`: {error}", file.display())]
    Report { file: PathBuf, error: io::Error },
    #[error("{}: {error}", model.display())]
    Run { model: PathBuf, error: RunError },
    #[error("cannot write the arrays `{}`: {error}", file.display())]
    Arrays { file: PathBuf, error: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Does what the arguments of the process ask for.
pub fn run() -> Result<ExitCode, CliError> {
    let CommandLine { command, shrink } = CommandLine::parse();
    match command {
        None => shrink::run(shrink),
        Some(Command::Compare(args)) => compare::run(args),
        Some(Command::Inspect(args)) => inspect::run(&args),
        Some(Command::Passes { name }) => passes::run(name.as_deref()),
        Some(Command::Print { model, weights }) => print::run(&model, weights),
        Some(Command::Run(args)) => run::run(args),
        Some(Command::Sensitivity(args)) => sensitivity::run(&args),
    }
}

/// Lets samples, channels and weights be worked on by so many threads; results do not depend on how many.
fn use_threads(threads: Option<usize>) -> Result<(), CliError> {
    let Some(threads) = threads else { return Ok(()) };
    if threads == 0 {
        return Err(CliError::Usage("--threads: at least one thread is needed".into()));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| CliError::Usage(format!("--threads: {error}")))
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
fn print_out(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::Output(error)),
        _ => Ok(()),
    }
}
