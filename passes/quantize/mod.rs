//! Quantization: numbers in fewer bits.

mod channel;
mod dynamic;
mod float16;
mod int4;
mod scale;
mod scope;
mod weights;

use globset::{Glob, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ir::Model;
use crate::pass::{Context, Effect, Needs, Pass, PassError, PassInfo};
use crate::rewrite::Outcome;

pub const INFO: PassInfo = PassInfo::of::<Quantize>("quantize", "Store weights as int8 with a scale for each channel");

/// Stores the large weights of convolutions, matrix products and embedding tables as int8, with one scale for each
/// output channel (each column of an embedding table) that makes the squared error least. The arithmetic stays in float:
/// a Cast and a Mul, which runtimes fold when they load the model, so that it is four times smaller and as fast.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Quantize {
    /// What is quantized.
    mode: Mode,

    /// Weights with fewer elements stay as they are.
    #[serde(default = "Quantize::default_min_elements")]
    min_elements: usize,

    /// Weights that int8 would render with a lower ratio of signal to noise, in decibels, stay as they are.
    #[serde(default = "Quantize::default_min_sqnr")]
    min_sqnr: f64,

    /// Nodes whose weights stay as they are, by name or pattern (`/head/*`).
    #[serde(default)]
    keep: Vec<String>,

    /// The type of weights, in the mode `weights`.
    #[serde(default)]
    weights: WeightType,

    /// How many int4 weights share a scale.
    #[serde(default = "Quantize::default_block_size")]
    block_size: usize,

    /// Whether inputs and outputs of the model keep their types, in the mode `float16`.
    #[serde(default = "Quantize::default_keep_io_types")]
    keep_io_types: bool,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Weights only; needs no data.
    Weights,
    /// Products of activations and weights in int8, with scales of activations that are found while the model runs; needs
    /// no data. Other weights as in the mode `weights`.
    Dynamic,
    /// Weights and arithmetic in float16, with float32 where a number would leave its range: without data as far as the
    /// constants tell.
    Float16,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum WeightType {
    /// 8 bits, with a scale for each output channel.
    #[default]
    I8,
    /// 4 bits for matrices that products read, with a scale for each block; 8 bits for all other weights. Raises the model
    /// to opset 21, the first that has them.
    I4,
}

/// Which weights stay as they are.
struct Limits {
    kept: GlobSet,
    min_elements: usize,
    /// In decibels.
    min_sqnr: f64,
}

impl Quantize {
    fn default_min_elements() -> usize {
        1024
    }

    fn default_min_sqnr() -> f64 {
        20.0
    }

    fn default_block_size() -> usize {
        32
    }

    fn default_keep_io_types() -> bool {
        true
    }

    fn kept_nodes(&self) -> Result<GlobSet, PassError> {
        let mut set = GlobSetBuilder::new();
        for pattern in &self.keep {
            set.add(Glob::new(pattern).map_err(|e| PassError(format!("`keep`: {e}")))?);
        }
        set.build().map_err(|e| PassError(format!("`keep`: {e}")))
    }
}

impl Quantize {
    /// Stores the weights of what computes in float.
    fn store_weights(&self, model: &mut Model, cx: &mut Context, limits: &Limits) {
        let (outcome, worst) = weights::quantize(model, limits);
        cx.report(outcome);
        note_worst(cx, worst);
    }

    fn store_int4(&self, model: &mut Model, cx: &mut Context, limits: &Limits) -> Result<(), PassError> {
        if self.block_size < 16 || !self.block_size.is_power_of_two() {
            return Err(PassError(format!(
                "`block-size` is {}: runtimes want a power of two from 16 on",
                self.block_size
            )));
        }
        let settings = int4::Settings { limits, block_size: self.block_size, symmetric: true, contributed: false };
        let int4::Stored { outcome, sums, worst } = int4::quantize(model, &settings)?;
        let found = outcome.applied.values().any(|&times| times > 0);
        cx.report(outcome);
        if found {
            cx.note(format!("int4 weights: {:.1} dB over all", int4::decibels(sums)));
        }
        note_worst(cx, worst);
        Ok(())
    }

    fn convert_to_float16(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let settings = float16::Settings { kept: self.kept_nodes()?, keep_io_types: self.keep_io_types };
        let shapes = cx.shapes(model);
        let measured = cx.data.as_ref().map(|data| float16::measure(model, &shapes, data)).transpose();
        let magnitudes = match measured {
            Ok(magnitudes) => magnitudes,
            Err(why) => {
                cx.note(format!("the ranges of values are not known: {why}"));
                None
            }
        };
        if cx.data.is_none() {
            cx.note("the ranges of values are not known: with `--data`, those that leave float16 stay in float32");
        }
        let outcome: Outcome = float16::convert(model, &shapes, magnitudes.as_ref(), &settings);
        cx.report(outcome);
        Ok(())
    }
}

fn note_worst(cx: &mut Context, worst: Option<(String, f64)>) {
    if let Some((weight, sqnr)) = worst {
        cx.note(format!("least exact: `{weight}` with {sqnr:.1} dB"));
    }
}

impl Pass for Quantize {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let limits = Limits { kept: self.kept_nodes()?, min_elements: self.min_elements, min_sqnr: self.min_sqnr };
        match self.mode {
            Mode::Weights => {
                if self.weights == WeightType::I4 {
                    self.store_int4(model, cx, &limits)?;
                }
                self.store_weights(model, cx, &limits);
            }
            Mode::Dynamic => {
                let (outcome, worst) = dynamic::quantize(model, &cx.shapes(model), &limits);
                cx.report(outcome);
                note_worst(cx, worst);
                self.store_weights(model, cx, &limits);
            }
            Mode::Float16 => self.convert_to_float16(model, cx)?,
        }
        Ok(())
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn needs(&self) -> Needs {
        match self.mode {
            Mode::Float16 => Needs::InputsIfAny,
            Mode::Weights | Mode::Dynamic => Needs::Nothing,
        }
    }
}
