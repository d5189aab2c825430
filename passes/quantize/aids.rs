//! Accuracy aids: what the samples teach about the weights and biases of int8 layers.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::Dataset;
use crate::ir::{Model, NodeId, ValueId};
use crate::measure::{SurveyError, Watch};

use super::codes::Codes;
use super::grid::Grid;
use super::learn::{Task, learn};
use super::place::Placement;
use super::sequential;
use super::target::Traits;

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
    /// reads.
    #[default]
    Sequential,
}

/// What is done for accuracy.
#[derive(Clone, Copy, Debug)]
pub struct Aids {
    pub rounding: Rounding,
    pub bias_correction: BiasCorrection,
    /// Whether products of eight bits overflow on the target, so that some channels have to do with seven.
    pub saturates: bool,
    pub seed: u64,
}

/// How far the aids went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
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
        let bias = match aids.bias_correction {
            BiasCorrection::None => "",
            BiasCorrection::Analytic => ", with biases corrected for their own weights",
            BiasCorrection::Sequential => ", with biases corrected one after the other",
        };
        let mut notes = vec![format!("weights of {} layers are {rounding}{bias}", self.layers)];
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
        BiasCorrection::Sequential => {
            sequential::learn(model, placement, traits, grids, &tasks, codes, data, aids, watch)
        }
        _ if aids.rounding == Rounding::Nearest && aids.bias_correction == BiasCorrection::None && !aids.saturates => {
            Ok(Outcome::default())
        }
        _ => learn(model, &tasks, codes, data, aids, watch),
    }
}
