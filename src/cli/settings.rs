//! Everything that can be asked for when a model is shrunk: on the command line and, by the same names, in a recipe.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::CliError;
use crate::kernels::{Arithmetic, Isa};
use crate::passes::Target;
use crate::runtime::Execution;

/// Options of the main command. A recipe is this struct in TOML; whatever the command line gives wins.
#[derive(clap::Args, Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Where to write the result [default: MODEL.small.onnx beside the model]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// A model that learns from the one to shrink, and is written in its place; it has the same inputs and outputs
    #[arg(long, value_name = "FILE")]
    pub student: Option<PathBuf>,
    /// What the pass `distill` learns from [default: the model to shrink]
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// What to do [default: `cleanup,quantize(mode=weights)`, with --data `cleanup,quantize(mode=static)`, with --student
    /// `distill,cleanup`];
    /// `onnxshrink passes` lists all; an empty text only reads and writes
    #[arg(long, value_name = "PASSES")]
    pub passes: Option<String>,
    /// The runtime that the result is for: onnxruntime, onnxruntime-vnni, tract, tensorrt, openvino, qnn, generic
    /// [default: onnxruntime]; `onnxshrink passes quantize` tells them apart
    #[arg(long, value_name = "NAME")]
    #[serde(deserialize_with = "named")]
    pub target: Option<Target>,
    /// Keep the state of training in a folder after each epoch, and go on from what is there
    #[arg(long, value_name = "FOLDER")]
    pub checkpoint_dir: Option<PathBuf>,
    /// Write the graph of one training step too: data, weights and targets in, loss and gradients out
    #[arg(long, value_name = "FILE")]
    pub emit_training_graph: Option<PathBuf>,
    /// Tell how long each node of a training step takes, and which run in kernels of ours
    #[arg(long)]
    pub profile: bool,
    /// Put large weights into a second file beside the model
    #[arg(long)]
    pub external_data: bool,
    /// Seed of whatever is chosen at random [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Threads to use [default: all]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Samples to learn from and, unless --test-data is given, to check on, .npz or .npy; a part that nothing is learned
    /// from is held back for the check [default: a check on random inputs, which are weak evidence]
    #[arg(long, value_name = "FILE", help_heading = "Check")]
    pub data: Option<PathBuf>,
    /// Samples for the check alone
    #[arg(long, value_name = "FILE", help_heading = "Check")]
    pub test_data: Option<PathBuf>,
    /// Fix the shape of an input (`x=1,3,224,224`) or a symbolic size (`batch=1`) of random inputs; can be repeated
    #[arg(long, value_name = "NAME=SIZES", help_heading = "Check")]
    pub shape: Vec<String>,
    /// Fail if accuracy falls by more points; without labels, if more of a hundred decisions change
    #[arg(long, value_name = "POINTS", help_heading = "Check")]
    pub max_drop: Option<Points>,
    /// Fail if the mean cosine of an output is lower
    #[arg(long, value_name = "SHARE", help_heading = "Check")]
    pub min_cosine: Option<Share>,
    /// Fail if a smaller share of decisions is the same
    #[arg(long, value_name = "SHARE", help_heading = "Check")]
    pub min_agreement: Option<Share>,
    /// Fail if a pass that is asked for by its name finds nothing to do
    #[arg(long, help_heading = "Check")]
    pub strict: bool,
    /// Write the result even if the check fails
    #[arg(long, help_heading = "Check")]
    pub force: bool,
    /// How int8 products are summed: `exact`, as VNNI, ARM and NPUs do, or `saturating`, as x86 without VNNI does
    /// [default: exact]
    #[arg(long, value_name = "NAME", help_heading = "Check")]
    #[serde(deserialize_with = "named")]
    pub arithmetic: Option<Arithmetic>,
    /// The instruction set of int8 kernels: portable, rten, avx2, avx-vnni, avx512-vnni [default: the best of this CPU]
    #[arg(long, value_name = "NAME", help_heading = "Check")]
    #[serde(deserialize_with = "named")]
    pub isa: Option<Isa>,
    /// Do not run the models
    #[arg(long, help_heading = "Check", conflicts_with_all = ["max_drop", "min_cosine", "min_agreement"])]
    pub no_check: bool,

    /// Write the report as JSON into a file
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long, help_heading = "Report")]
    pub json: bool,
    /// Print nothing but errors
    #[arg(short, long, help_heading = "Report")]
    pub quiet: bool,
    /// Tell for every node why a pass did not change it
    #[arg(long, help_heading = "Report")]
    pub explain: bool,
    /// Tell how long each pass took
    #[arg(long, help_heading = "Report")]
    pub time_passes: bool,

    /// Print the model to standard error after a pass; can be repeated
    #[arg(long, value_name = "PASS", help_heading = "Debugging")]
    pub print_ir_after: Vec<String>,
    /// Verify the model after every pass
    #[arg(long, help_heading = "Debugging")]
    pub verify_each: bool,
    /// Stop after so many runs of passes
    #[arg(long, value_name = "N", help_heading = "Debugging")]
    pub stop_after: Option<usize>,
}

impl Settings {
    /// Reads a recipe. Paths in it are relative to its folder.
    pub fn read(file: &Path) -> Result<Settings, CliError> {
        let problem = |problem: String| CliError::Recipe { file: file.into(), problem };
        let text = fs::read_to_string(file).map_err(|error| problem(format!("the recipe cannot be read: {error}")))?;
        let mut recipe: Settings = toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let Settings { output, student, teacher, checkpoint_dir, emit_training_graph, data, test_data, report, .. } =
            &mut recipe;
        for path in [output, student, teacher, checkpoint_dir, emit_training_graph, data, test_data, report] {
            *path = path.take().map(|path| folder.join(path));
        }
        Ok(recipe)
    }

    /// These settings, and those of `recipe` where these say nothing.
    pub fn over(self, recipe: Settings) -> Settings {
        let either = |mine: Vec<String>, theirs: Vec<String>| if mine.is_empty() { theirs } else { mine };
        Settings {
            output: self.output.or(recipe.output),
            student: self.student.or(recipe.student),
            teacher: self.teacher.or(recipe.teacher),
            passes: self.passes.or(recipe.passes),
            target: self.target.or(recipe.target),
            checkpoint_dir: self.checkpoint_dir.or(recipe.checkpoint_dir),
            emit_training_graph: self.emit_training_graph.or(recipe.emit_training_graph),
            profile: self.profile || recipe.profile,
            external_data: self.external_data || recipe.external_data,
            seed: self.seed.or(recipe.seed),
            threads: self.threads.or(recipe.threads),
            data: self.data.or(recipe.data),
            test_data: self.test_data.or(recipe.test_data),
            shape: if self.shape.is_empty() { recipe.shape } else { self.shape },
            max_drop: self.max_drop.or(recipe.max_drop),
            min_cosine: self.min_cosine.or(recipe.min_cosine),
            min_agreement: self.min_agreement.or(recipe.min_agreement),
            strict: self.strict || recipe.strict,
            force: self.force || recipe.force,
            arithmetic: self.arithmetic.or(recipe.arithmetic),
            isa: self.isa.or(recipe.isa),
            no_check: self.no_check || recipe.no_check,
            report: self.report.or(recipe.report),
            json: self.json || recipe.json,
            quiet: self.quiet || recipe.quiet,
            explain: self.explain || recipe.explain,
            time_passes: self.time_passes || recipe.time_passes,
            print_ir_after: either(self.print_ir_after, recipe.print_ir_after),
            verify_each: self.verify_each || recipe.verify_each,
            stop_after: self.stop_after.or(recipe.stop_after),
        }
    }
}

/// Points of accuracy, from 0 to 100, also written with a percent sign.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Written")]
pub struct Points(pub f64);

impl Points {
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl TryFrom<Written> for Points {
    type Error = String;

    fn try_from(written: Written) -> Result<Points, String> {
        written.text().parse()
    }
}

impl FromStr for Points {
    type Err = String;

    fn from_str(text: &str) -> Result<Points, String> {
        match text.strip_suffix('%').unwrap_or(text).trim().parse() {
            Ok(points) if (0.0..=100.0).contains(&points) => Ok(Points(points)),
            _ => Err("it is a number of points from 0 to 100, like 0.5".into()),
        }
    }
}

/// A length of time, in seconds.
#[derive(Clone, Copy)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seconds, String> {
        let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        seconds.map(Seconds).ok_or_else(|| "it is a number of seconds, like 0.5".into())
    }
}

/// How models are run, for what `--isa` and `--arithmetic` say.
pub fn execution(isa: Option<Isa>, arithmetic: Option<Arithmetic>) -> Result<Execution, CliError> {
    if let Some(isa) = isa.filter(|isa| !isa.is_available()) {
        let available: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        let available = available.join(", ");
        return Err(CliError::Usage(format!("--isa: this CPU does not have {isa}; it has {available}")));
    }
    Ok(Execution { isa, arithmetic: arithmetic.unwrap_or_default(), ..Execution::DEFAULT })
}

/// A value that is written as its name.
fn named<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(from: D) -> Result<Option<T>, D::Error> {
    let name = Option::<String>::deserialize(from)?;
    name.map(|name| name.parse().map_err(serde::de::Error::custom)).transpose()
}

/// A number from 0 to 1, also written as a percentage.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Written")]
pub struct Share(pub f64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(f64),
    Text(String),
}

impl Written {
    fn text(self) -> String {
        match self {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        }
    }
}

impl TryFrom<Written> for Share {
    type Error = String;

    fn try_from(written: Written) -> Result<Share, String> {
        written.text().parse()
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
            None => text.parse(),
        };
        match share {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Share(share)),
            _ => Err("it is a number from 0 to 1, or a percentage like 1%".into()),
        }
    }
}
