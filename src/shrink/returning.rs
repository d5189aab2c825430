//! Layers that go back to float, the most sensitive first, until accuracy holds.

use std::ops::ControlFlow;

use serde_json::Value as Json;

use super::ShrinkError;
use crate::ir::Model;
use crate::pass::{Context, Observer, Pipeline, PipelineError, Step};
use crate::passes::{self, Sensitivity};

/// The pass whose layers are returned.
const QUANTIZE: &str = "quantize";

/// Samples that layers are ranked on.
const SAMPLES: usize = 16;

/// Ends a pipeline where that pass would run.
struct StopBefore(&'static str);

impl Observer for StopBefore {
    fn before(&mut self, pass: &Step, _: &Model) -> ControlFlow<()> {
        if pass.name() == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Whether layers of the pipeline's result compute in int8 with scales from samples.
pub fn is_static(pipeline: &Pipeline) -> bool {
    pipeline.steps().any(|step| step.name() == QUANTIZE && step.options().get("mode") == Some(&Json::from("static")))
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

/// [`sensitivity`] with the passes that `pipeline` runs before the first that quantizes.
fn rank(model: &Model, pipeline: &Pipeline, cx: &Context, samples: usize) -> Result<Vec<Sensitivity>, PipelineError> {
    let Some(step) = pipeline.steps().find(|step| step.name() == QUANTIZE) else { return Ok(Vec::new()) };
    let mut aside = Context {
        seed: cx.seed,
        data: cx.data.clone(),
        original: cx.original.clone(),
        teacher: cx.teacher.clone(),
        observers: vec![Box::new(StopBefore(QUANTIZE))],
        cancelled: cx.cancelled.clone(),
        ..Context::default()
    };
    let mut float = model.clone();
    pipeline.run(&mut float, &mut aside)?;
    let ranking = passes::sensitivities(step.options().clone(), &float, &aside, samples);
    ranking.map_err(|error| PipelineError::Pass { pass: QUANTIZE.into(), error })
}

/// Finds how many layers have to return, the most sensitive first, in few attempts: more and more of them, twice as many each
/// time, until the gate holds; then halfway between what failed and what held. It takes for granted that what holds with
/// some layers in float holds with more.
pub struct Search {
    layers: usize,
    /// The most that are known to be too few.
    fails: usize,
    /// The fewest that are known to be enough.
    holds: Option<usize>,
}

impl Search {
    pub fn new(layers: usize) -> Search {
        Search { layers, fails: 0, holds: None }
    }

    /// How many to return next; none where the fewest are found, or all are too few.
    pub fn next_count(&self) -> Option<usize> {
        let next = match self.holds {
            Some(holds) => self.fails.midpoint(holds),
            None => (2 * self.fails).clamp(1, self.layers.max(1)),
        };
        (next > self.fails && next <= self.layers).then_some(next)
    }

    /// Takes in whether the gate holds with so many, and tells whether that is the best attempt so far.
    pub fn tell(&mut self, count: usize, holds: bool) -> bool {
        let best = holds || self.holds.is_none();
        match holds {
            true => self.holds = Some(count),
            false => self.fails = count,
        }
        best
    }

    /// Whether some number was enough.
    pub fn found(&self) -> bool {
        self.holds.is_some()
    }
}

/// Pipelines that keep one layer more in float each, in the order of their sensitivity, with that layer's name.
pub fn returning(model: &Model, pipeline: &Pipeline, cx: &Context) -> Result<Vec<(String, Pipeline)>, PipelineError> {
    let ranking = rank(model, pipeline, cx, SAMPLES)?;
    let layers: Vec<String> = ranking.into_iter().map(|sensitivity| sensitivity.layer).collect();
    let patterns: Vec<Json> = layers.iter().map(|layer| Json::from(globset::escape(layer))).collect();
    let keeping = |count: usize| pipeline.extended(QUANTIZE, "keep", &patterns[..=count]);
    Ok(layers.into_iter().enumerate().map(|(count, layer)| (layer, keeping(count))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_layers_are_found_in_few_attempts() {
        for layers in [0usize, 1, 2, 5, 64, 100] {
            for enough in 1..=layers + 1 {
                let (mut search, mut attempts, mut best) = (Search::new(layers), 0, None);
                while let Some(count) = search.next_count() {
                    attempts += 1;
                    if search.tell(count, count >= enough) {
                        best = Some(count);
                    }
                }
                assert_eq!(search.found(), enough <= layers);
                assert_eq!(best, (layers > 0).then_some(enough.min(layers)), "{enough} of {layers}");
                assert!(attempts <= 2 * (layers.max(1).ilog2() as usize + 1), "{attempts} for {enough} of {layers}");
            }
        }
    }
}
