//! What a pass would do to the outputs in one place of a model alone.

use std::ops::ControlFlow;

use serde_json::{Map, Value as Json};

use super::ShrinkError;
use crate::ir::Model;
use crate::pass::{Context, Observer, Pipeline, PipelineError, Step};
use crate::passes::{self, GroupSensitivity, Sensitivity};

pub(super) const QUANTIZE: &str = "quantize";
const PRUNE: &str = "prune";

/// Ends a pipeline where that pass would run.
struct StopBefore(&'static str);

impl Observer for StopBefore {
    fn before(&mut self, pass: &Step, _: &Model) -> ControlFlow<()> {
        if pass.name() == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The layers that `quantize` would quantize after cleanup, by what int8 in each alone does to the outputs of `model` on
/// the first `samples` of the context's data; the most sensitive first. `quantize` is written as in a pipeline.
pub fn sensitivity(
    model: &Model,
    quantize: &str,
    cx: &Context,
    samples: usize,
) -> Result<Result<Vec<Sensitivity>, PipelineError>, ShrinkError> {
    let pipeline = Pipeline::parse(&format!("cleanup,{quantize}"), passes::ALL)?;
    let pipeline = pipeline.after_implied("upgrade-opset", passes::ALL)?;
    Ok(rank(model, &pipeline, cx, samples))
}

/// The groups of channels that `prune` would cut of `model`, by what cutting each of `shares` of one alone does to the outputs
/// on the first `samples` of the context's data; the most sensitive first. `options` are those of the pass, without an amount.
pub fn channel_sensitivity(
    model: &Model,
    options: &str,
    cx: &Context,
    samples: usize,
    shares: &[f64],
) -> Result<Result<Vec<GroupSensitivity>, PipelineError>, ShrinkError> {
    let comma = if options.is_empty() { "" } else { "," };
    let pipeline = Pipeline::parse(&format!("{PRUNE}(channels=0.5{comma}{options})"), passes::ALL)?;
    let pipeline = pipeline.after_implied("upgrade-opset", passes::ALL)?;
    Ok(ranked(model, &pipeline, PRUNE, cx, |options, model, cx| {
        passes::channel_sensitivities(options, model, cx, samples, shares)
    }))
}

/// [`sensitivity`] with the passes that `pipeline` runs before the first that quantizes.
pub(super) fn rank(
    model: &Model,
    pipeline: &Pipeline,
    cx: &Context,
    samples: usize,
) -> Result<Vec<Sensitivity>, PipelineError> {
    ranked(model, pipeline, QUANTIZE, cx, |options, model, cx| passes::sensitivities(options, model, cx, samples))
}

/// What `rank` makes of the options of the first `pass` of a pipeline, and of the model that comes before it.
fn ranked<T>(
    model: &Model,
    pipeline: &Pipeline,
    pass: &'static str,
    cx: &Context,
    rank: impl Fn(Map<String, Json>, &Model, &Context) -> Result<Vec<T>, crate::pass::PassError>,
) -> Result<Vec<T>, PipelineError> {
    let Some(step) = pipeline.steps().find(|step| step.name() == pass) else { return Ok(Vec::new()) };
    let mut aside = Context {
        seed: cx.seed,
        data: cx.data.clone(),
        original: cx.original.clone(),
        teacher: cx.teacher.clone(),
        observers: vec![Box::new(StopBefore(pass))],
        cancelled: cx.cancelled.clone(),
        ..Context::default()
    };
    let mut before = model.clone();
    pipeline.run(&mut before, &mut aside)?;
    rank(step.options().clone(), &before, &aside).map_err(|error| PipelineError::Pass { pass: pass.into(), error })
}
