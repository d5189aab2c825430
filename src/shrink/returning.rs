//! Layers that go back to float, the most sensitive first, until accuracy holds.

use serde_json::Value as Json;

use super::sensitivity::{QUANTIZE, rank};
use crate::ir::Model;
use crate::pass::{Context, Pipeline, PipelineError};

/// Samples that layers are ranked on.
const SAMPLES: usize = 16;

/// Whether layers of the pipeline's result compute in int8 with scales from samples.
pub fn is_static(pipeline: &Pipeline) -> bool {
    pipeline.steps().any(|step| step.name() == QUANTIZE && step.options().get("mode") == Some(&Json::from("static")))
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
