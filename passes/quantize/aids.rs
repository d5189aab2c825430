//! Accuracy aids: what the samples teach about the weights and biases of int8 layers.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::ir::{Model, NodeId, ValueId};
use crate::measure::{SurveyError, Watch};

use super::codes::{Bits, Codes};
use super::grid::Grid;
use super::learn::{Task, learn};
use super::place::Placement;
use super::sensitivity::distance;
use super::sequential;
use super::target::Traits;
use super::write::write;

/// How weights are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// Each to its nearest level.
    Nearest,
    /// One input after the other, so that the inputs still to be rounded make up for the error of the outputs.
    #[default]
    Gptq,
}

/// How biases make up for what rounding does to the mean of a layer's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BiasCorrection {
    None,
    /// For the rounding of the layer's own weights.
    Analytic,
    /// Layer after layer, for the rounding of all layers before, too; with `gptq`, weights are fitted to what the layer then
    /// reads, where that holds on samples that they were not fitted to.
    #[default]
    Sequential,
    /// Analytic or sequential: whichever brings the outputs nearer to those of the float model, on samples held back. It
    /// takes as long as both.
    Auto,
}

/// What is done for accuracy.
#[derive(Clone, Copy, Debug)]
pub struct Aids {
    pub rounding: Rounding,
    pub bias_correction: BiasCorrection,
    /// Whether products of eight bits overflow on the target, so that some channels have to do with seven.
    pub saturates: bool,
    /// Whether every channel has a scale of its own, so that it can have seven bits for itself.
    pub per_channel: bool,
    pub bits: Bits,
    pub seed: u64,
}

/// How far the aids went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// How biases were corrected, and what that was chosen by: decibels of the analytic and the sequential way.
    pub chosen: Option<(BiasCorrection, [f64; 2])>,
    pub layers: usize,
    pub channels: usize,
    pub seven_bit_layers: usize,
    pub seven_bit_channels: usize,
}

impl Outcome {
    pub fn count(&mut self, channels: usize, seven_bits: usize) {
        self.layers += 1;
        self.channels += channels;
        self.seven_bit_layers += usize::from(seven_bits > 0);
        self.seven_bit_channels += seven_bits;
    }

    /// Sentences for the user.
    pub fn notes(&self, aids: &Aids) -> Vec<String> {
        let rounding = match aids.rounding {
            Rounding::Nearest => "rounded to the nearest",
            Rounding::Gptq => "rounded for their inputs (GPTQ)",
        };
        let bias = match self.chosen.map_or(aids.bias_correction, |(chosen, _)| chosen) {
            BiasCorrection::None => "",
            BiasCorrection::Analytic => ", with biases corrected for their own weights",
            BiasCorrection::Sequential | BiasCorrection::Auto => ", with biases corrected one after the other",
        };
        let mut notes = vec![format!("weights of {} layers are {rounding}{bias}", self.layers)];
        if let Some((_, [analytic, sequential])) = self.chosen {
            notes.push(format!(
                "on samples held back, outputs are {analytic:.1} dB from the float model's with biases corrected for their own \
                 weights, {sequential:.1} dB one after the other"
            ));
        }
        if aids.saturates {
            notes.push(format!(
                "{} of {} channels, in {} of {} layers, have weights of 7 bits: with 8, pairs of products overflow 16 bits \
                 on CPUs without VNNI, as the samples show",
                self.seven_bit_channels, self.channels, self.seven_bit_layers, self.layers
            ));
        }
        notes
    }
}

/// What is held back to choose by, and the most of it that is looked at.
const JUDGING: f64 = 0.2;
const MOST_TO_JUDGE: usize = 32;

/// Of fewer samples none can be spared to choose by.
const FEWEST_TO_CHOOSE: usize = 20;

/// Makes `codes`, in which every weight is at its nearest level, better.
#[allow(clippy::too_many_arguments, reason = "the network as placed, and what is known of it")]
pub fn apply(
    model: &Model,
    placement: &Placement,
    traits: &Traits,
    grids: &HashMap<ValueId, Grid>,
    codes: &mut HashMap<NodeId, Codes>,
    data: &Dataset,
    aids: &Aids,
    watch: Watch,
) -> Result<Outcome, SurveyError> {
    let tasks = Task::of(model, placement, grids);
    match aids.bias_correction {
        BiasCorrection::Auto if data.len() >= FEWEST_TO_CHOOSE => {
            let (learning, judging) = data.split(aids.seed, JUDGING);
            let judging = judging.some(aids.seed, MOST_TO_JUDGE);
            let mut ways = Vec::new();
            for bias_correction in [BiasCorrection::Analytic, BiasCorrection::Sequential] {
                let (mut codes, aids) = (codes.clone(), Aids { bias_correction, ..*aids });
                let outcome = apply(model, placement, traits, grids, &mut codes, &learning, &aids, watch)?;
                let mut draft = model.clone();
                write(&mut draft, placement, traits, grids, &codes);
                ways.push((distance(model, &draft, &judging)?, bias_correction, codes, outcome));
            }
            let decibels = [ways[0].0, ways[1].0];
            let (_, chosen, learned, outcome) = ways.swap_remove(usize::from(decibels[1] > decibels[0]));
            *codes = learned;
            Ok(Outcome { chosen: Some((chosen, decibels)), ..outcome })
        }
        BiasCorrection::Sequential | BiasCorrection::Auto => {
            sequential::learn(model, placement, traits, grids, &tasks, codes, data, aids, watch)
        }
        _ if aids.rounding == Rounding::Nearest && aids.bias_correction == BiasCorrection::None && !aids.saturates => {
            Ok(Outcome::default())
        }
        _ => learn(model, &tasks, codes, data, aids, watch),
    }
}
