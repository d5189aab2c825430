//! The flow: read, run the pipeline, check against the original, write.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use serde::Serialize;

use crate::analysis::{FixedSizes, SizeError};
use crate::data::{DEFAULT_COUNT, DataError, Dataset};
use crate::ir::{Model, VerifierError};
use crate::measure::{self, Check, CompareError, Comparison, ModelSize, Profile};
use crate::onnx::{self, Names, ReadError, WriteError, WriteOptions, Written};
use crate::pass::{Context, Needs, NotationError, PassReport, Pipeline, PipelineError};
use crate::passes::{self, Target};
use crate::runtime::{Execution, Runner};

mod arithmetics;
mod gates;
mod returning;
mod sensitivity;

pub use arithmetics::Rendition;
pub use gates::Gates;
pub use sensitivity::{channel_sensitivity, sensitivity};

/// What `onnxshrink model.onnx` runs.
pub const DEFAULT_PIPELINE: &str = "cleanup,quantize(mode=weights)";

/// What it runs with samples to learn from, `--data`.
pub const DEFAULT_PIPELINE_WITH_DATA: &str = "cleanup,quantize(mode=static)";

/// What it runs on a student: normalizations are folded after training, which needs them.
pub const DEFAULT_PIPELINE_OF_STUDENT: &str = "distill,cleanup";

/// The part of the data that is held back for the check where passes use the rest.
const HELD_BACK: f64 = 0.2;

/// What to do with a model.
#[derive(Default)]
pub struct Job {
    pub model: PathBuf,
    pub output: PathBuf,
    /// A model that learns from the one to shrink, and is what passes work on.
    pub student: Option<PathBuf>,
    /// What passes that train learn from; the model to shrink if there is none.
    pub teacher: Option<PathBuf>,
    /// A folder where training can go on after the program was killed.
    pub checkpoint_dir: Option<PathBuf>,
    /// Where to write the graph of a training step.
    pub emit_training_graph: Option<PathBuf>,
    /// Take the time of each node of a training step.
    pub profile: bool,
    /// The text of a pipeline; the default one if there is none.
    pub passes: Option<String>,
    /// What the result is for, where the pass that quantizes does not say.
    pub target: Option<Target>,
    /// Samples for passes that need them, and for the check.
    pub data: Option<PathBuf>,
    /// Samples for the check alone.
    pub test_data: Option<PathBuf>,
    /// Sizes of random inputs, as [`FixedSizes::parse`] reads them.
    pub sizes: Vec<String>,
    pub write: WriteOptions,
    pub seed: u64,
    pub gates: Gates,
    /// Write also what failed the check.
    pub force: bool,
    pub skip_check: bool,
    /// How both models are run.
    pub execution: Execution,
    /// Measure how fast both models are.
    pub latency: bool,
}

/// What came of a [`Job`].
#[derive(Debug, Serialize)]
pub struct Shrunk {
    pub version: &'static str,
    pub model: PathBuf,
    pub seed: u64,
    /// The pipeline that ran, with all options.
    pub pipeline: String,
    pub passes: Vec<PassReport>,
    #[serde(flatten)]
    pub comparison: Comparison,
    /// Why the check failed; empty if it did not.
    pub failures: Vec<String>,
    /// What a user should know though the work was done.
    pub warnings: Vec<String>,
    /// Layers that stay float because accuracy fell too much with them in int8, the most sensitive first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub returned: Vec<String>,
    /// The result in every arithmetic, over a few samples, where they differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arithmetics: Vec<Rendition>,
    /// Where the time of one run of the last training step went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training_step: Option<Profile>,
    /// Whether the result was no smaller, so that the original stands in its place.
    pub kept_original: bool,
    /// The file that was written, none where the check failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
}

#[derive(Debug, Serialize)]
pub struct Output {
    pub file: PathBuf,
    pub bytes: u64,
    /// The file with the weights, under external data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ShrinkError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Notation(#[from] NotationError),
    #[error("{}: {error}", model.display())]
    Pipeline { model: PathBuf, error: PipelineError },
    #[error("the pipeline left the model malformed, which is a mistake in a pass; `--verify-each` tells which: {0}")]
    Malformed(#[from] VerifierError),
    #[error("the pass `{pass}` needs {what}; give a file with `--data`")]
    NoData { pass: &'static str, what: &'static str },
    #[error("--shape: {0}")]
    Sizes(#[from] SizeError),
    #[error(transparent)]
    Compare(#[from] CompareError),
    #[error("cannot write `{}`: {problem}", file.display())]
    Output { file: PathBuf, problem: String },
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What came of one pipeline.
struct Attempt {
    small: Model,
    kept_original: bool,
    check: Check,
    reports: Vec<PassReport>,
}

/// Told what the work has come to, for a progress bar.
pub trait Progress: Sync {
    /// One of `total` samples was run on both models.
    fn sample(&self, _total: usize) {}

    /// The output is about to be written; what interrupts now should wait.
    fn writing(&self) {}
}

impl Progress for () {}

/// Reads a model, runs the pipeline on it, checks the result against the original and writes it.
pub fn shrink(job: &Job, cx: &mut Context, progress: &dyn Progress) -> Result<Shrunk, ShrinkError> {
    let mut pipeline = job.pipeline(job.default_pipeline())?;
    job.check_output()?;
    let original = onnx::read(&job.model)?;
    let mut warnings = original.warnings.clone();
    if job.passes.is_none() && job.student.is_none() && job.data.is_some() {
        // What a model computes can be learned only by running it.
        if let Some(why) = Runner::new(&original.model).err() {
            warnings
                .push(format!("only weights are stored in int8, since the model cannot be run on the samples: {why}"));
            pipeline = job.pipeline(DEFAULT_PIPELINE)?;
        }
    }
    let student = job.student.as_ref().map(onnx::read).transpose()?;
    warnings.extend(student.iter().flat_map(|student| student.warnings.clone()));
    let start = student.as_ref().map_or(&original.model, |student| &student.model);
    cx.checkpoints = job.checkpoint_dir.clone();
    cx.wants_profile = job.profile;
    cx.wants_training_graph = job.emit_training_graph.is_some();
    cx.original = Some(Arc::new(original.model.clone()));
    cx.teacher = job.teacher.as_ref().map(|file| onnx::read(file).map(|read| Arc::new(read.model))).transpose()?;
    let sizes = FixedSizes::parse(&original.model, &job.sizes)?;
    let judge = job.samples(&original.model, &pipeline, cx)?;

    if !pipeline.is_empty() && !original.model.header.training_info.is_empty() {
        warnings.push("the training information is left out: it names weights and nodes that passes change".into());
    }
    let run = |pipeline: &Pipeline, cx: &mut Context| -> Result<Attempt, ShrinkError> {
        let mut small = without_training_info(start, pipeline);
        cx.reports.clear();
        let failed = |error| ShrinkError::Pipeline { model: job.model.clone(), error };
        pipeline.run(&mut small, cx).map_err(failed)?;
        small.verify()?;
        note_pipeline(&mut small, pipeline, job.seed);
        let kept_original = job.passes.is_none() && job.student.is_none() && encoded_bytes(&small)? >= original.bytes;
        if kept_original {
            small = original.model.clone();
        }
        let check = job.check(&original.model, &small, judge.as_ref(), &sizes, progress)?;
        Ok(Attempt { small, kept_original, check, reports: std::mem::take(&mut cx.reports) })
    };
    let mut attempt = run(&pipeline, cx)?;
    let mut returned = Vec::new();
    if job.gates.fails_in_accuracy(&attempt.check) && returning::is_static(&pipeline) {
        let failed = |error| ShrinkError::Pipeline { model: job.model.clone(), error };
        let start = without_training_info(start, &pipeline);
        let (layers, pipelines): (Vec<String>, Vec<Pipeline>) =
            returning::returning(&start, &pipeline, cx).map_err(failed)?.into_iter().unzip();
        let mut search = returning::Search::new(layers.len());
        while let Some(count) = search.next_count() {
            let found = run(&pipelines[count - 1], cx)?;
            let holds = !job.gates.fails_in_accuracy(&found.check);
            if search.tell(count, holds) {
                (attempt, returned) = (found, layers[..count].to_vec());
            }
        }
        if search.found() {
            let count = returned.len();
            warnings.push(format!(
                "layers that stay float for accuracy: {count}, chosen on the samples that judge, so that the drop is a bit \
                 larger on others"
            ));
        }
        if let Some(last) = returned.len().checked_sub(1) {
            pipeline = pipelines.into_iter().nth(last).expect("each layer has one");
        }
    }
    let Attempt { small, kept_original, check, reports } = attempt;
    let arithmetics = match (&judge, &check) {
        (Some(judge), Check::Done(_)) => arithmetics::renditions(&original.model, &small, judge, &job.execution)?,
        _ => Vec::new(),
    };
    warnings.extend(arithmetics::warnings(&arithmetics));

    if let Some(file) = &job.emit_training_graph {
        match &cx.training_graph {
            Some(graph) => onnx::write(graph, file, &job.write).map(drop)?,
            None => warnings.push(format!("`{}` is not written: no pass trains", file.display())),
        }
    }
    let training_step = cx.training_step.take();
    if job.profile && training_step.is_none() {
        warnings.push("there is no profile of a training step: no pass trains".into());
    }
    let failures = job.gates.failures(&check, pipeline.effect());
    let (written, small_bytes) = match failures.is_empty() || job.force {
        true => {
            progress.writing();
            let written = onnx::write(&small, &job.output, &job.write)?;
            let bytes = written.bytes + written.external.as_ref().map_or(0, |(_, bytes)| *bytes);
            (Some(written), bytes)
        }
        false => (None, encoded_bytes(&small)?),
    };

    warnings.extend(written.as_ref().and_then(|written| written.note.clone()));
    Ok(Shrunk {
        version: env!("CARGO_PKG_VERSION"),
        model: job.model.clone(),
        seed: job.seed,
        pipeline: pipeline.to_string(),
        passes: reports,
        comparison: Comparison {
            original: ModelSize::of(&original.model, original.bytes),
            small: ModelSize::of(&small, small_bytes),
            check,
        },
        failures,
        warnings,
        returned,
        arithmetics,
        training_step,
        kept_original,
        output: written.map(|written| Output::of(&job.output, written)),
    })
}

impl Job {
    fn default_pipeline(&self) -> &'static str {
        match (&self.student, &self.data) {
            (Some(_), _) => DEFAULT_PIPELINE_OF_STUDENT,
            (None, Some(_)) => DEFAULT_PIPELINE_WITH_DATA,
            (None, None) => DEFAULT_PIPELINE,
        }
    }

    /// The pipeline with the pass in front that raises older models to the opset that the passes know, and the one behind that
    /// keeps ONNX Runtime from what it would do, slower, with the shapes that cleanup brings to light.
    fn pipeline(&self, default: &str) -> Result<Pipeline, NotationError> {
        let mut asked = Pipeline::parse(self.passes.as_deref().unwrap_or(default), passes::ALL)?;
        if let Some(target) = self.target {
            if !asked.contains(sensitivity::QUANTIZE) {
                let what = "`--target` says what it writes for, but it is not among the passes".into();
                return Err(NotationError::BadOption { pass: sensitivity::QUANTIZE.into(), what });
            }
            asked = asked.with_option(sensitivity::QUANTIZE, "target", target.to_string().into());
        }
        if asked.contains("simplify-shapes")
            && !asked.contains(sensitivity::QUANTIZE)
            && !asked.contains("keep-sums-apart")
        {
            asked = asked.before_implied("keep-sums-apart", passes::ALL)?;
        }
        match asked.is_empty() || asked.contains("upgrade-opset") {
            true => Ok(asked),
            false => asked.after_implied("upgrade-opset", passes::ALL),
        }
    }

    /// Whether there is a place to write to, found out before the work.
    fn check_output(&self) -> Result<(), ShrinkError> {
        let problem = |problem| Err(ShrinkError::Output { file: self.output.clone(), problem });
        if self.output.is_dir() {
            return problem("it is a directory; name a file in it".into());
        }
        match self.output.parent() {
            Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
                problem(format!("there is no folder `{}`; make it first", folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// The samples that judge; those that passes may use go into the context.
    fn samples(&self, model: &Model, pipeline: &Pipeline, cx: &mut Context) -> Result<Option<Dataset>, ShrinkError> {
        let data = self.data.as_ref().map(|file| Dataset::open(file, model)).transpose()?;
        let test = self.test_data.as_ref().map(|file| Dataset::open(file, model)).transpose()?;
        let (needs, step) = pipeline.needs();
        if let (Needs::Inputs | Needs::Labels, Some(step), None) = (needs, step, &data) {
            let what = if needs == Needs::Labels { "samples with labels" } else { "samples" };
            return Err(ShrinkError::NoData { pass: step.name(), what });
        }
        let (used, judge) = match (data, test) {
            (Some(data), None) if needs == Needs::Nothing => (None, Some(data)),
            // Nothing judges, so that nothing needs to be held back.
            (Some(data), None) if self.skip_check => (Some(data), None),
            (Some(data), None) => {
                let (used, judge) = data.split(self.seed, HELD_BACK);
                (Some(used), Some(judge))
            }
            (data, test) => (data, test),
        };
        cx.data = used;
        Ok(judge)
    }

    fn check(
        &self,
        original: &Model,
        small: &Model,
        judge: Option<&Dataset>,
        sizes: &FixedSizes,
        progress: &dyn Progress,
    ) -> Result<Check, CompareError> {
        if self.skip_check {
            return Ok(Check::NotChecked { reason: "skipped on request".into() });
        }
        let inputs = match judge {
            Some(data) => measure::Inputs::Data(data),
            None => measure::Inputs::Random { sizes, seed: self.seed, count: DEFAULT_COUNT },
        };
        let options = measure::Options {
            latency: self.latency.then_some(measure::DEFAULT_BUDGET),
            execution: &self.execution,
            progress: &|total| progress.sample(total),
        };
        measure::check(original, small, inputs, options)
    }
}

impl Output {
    fn of(file: &Path, written: Written) -> Output {
        Output { file: file.into(), bytes: written.bytes, external: written.external.map(|(file, _)| file) }
    }
}

/// What the pipeline starts from: passes may change what training information names.
fn without_training_info(original: &Model, pipeline: &Pipeline) -> Model {
    let mut model = original.clone();
    if !pipeline.is_empty() {
        model.header.training_info.clear();
    }
    model
}

/// Writes down in the model itself how it was made.
fn note_pipeline(model: &mut Model, pipeline: &Pipeline, seed: u64) {
    if pipeline.is_empty() {
        return;
    }
    let notes = [
        ("onnxshrink.pipeline", pipeline.to_string()),
        ("onnxshrink.version", env!("CARGO_PKG_VERSION").into()),
        ("onnxshrink.seed", seed.to_string()),
    ];
    let metadata = &mut model.header.notes.metadata;
    metadata.retain(|(key, _)| notes.iter().all(|(note, _)| note != key));
    metadata.extend(notes.map(|(key, text)| (key.to_string(), text)));
}

/// The size of the file that `model` would make.
fn encoded_bytes(model: &Model) -> Result<u64, WriteError> {
    Ok(onnx::to_proto(model, &Names::of(model))?.encoded_len() as u64)
}
