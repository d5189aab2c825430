//! Quantization: numbers in fewer bits.

mod aids;
mod bias;
mod channel;
mod cholesky;
mod codes;
mod cost;
mod equalize;
mod grid;
mod layer;
mod learn;
mod place;
mod qdq;
mod rounding;
mod saturation;
mod scale;
mod sequential;
mod tail;
mod target;
mod weights;
mod write;

use globset::{Glob, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ir::Model;
use crate::measure::RangeMethod;
use crate::pass::{Context, Effect, Needs, Pass, PassError, PassInfo};
use aids::{BiasCorrection, Rounding};
use grid::Levels;
use target::Target;

pub const INFO: PassInfo = PassInfo::of::<Quantize>("quantize", "Compute in int8, or store weights in it");

/// With `mode=static`, lets layers and what lies between them compute in int8: values get a scale from the samples that are
/// given with `--data`, weights one for each output channel, and QuantizeLinear and DequantizeLinear stand where the target
/// fuses them.
///
/// With `mode=weights`, and for what stays float, stores the large weights of convolutions, matrix products and embedding
/// tables as int8, with one scale for each output channel (each column of an embedding table) that makes the squared error
/// least. The arithmetic stays in float: a Cast and a Mul, which runtimes fold when they load the model, so that it is four
/// times smaller and as fast.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Quantize {
    /// What is quantized.
    mode: Mode,

    /// Weights of float layers with fewer elements stay as they are: 1024, or 256 in the static mode, if not given.
    #[serde(default)]
    min_elements: Option<usize>,

    /// Weights that int8 would render with a lower ratio of signal to noise, in decibels, stay as they are.
    #[serde(default = "Quantize::default_min_sqnr")]
    min_sqnr: f64,

    /// Nodes that stay as they are, by name or pattern (`/head/*`); in the static mode also by operator (`Add`).
    #[serde(default)]
    keep: Vec<String>,

    /// The runtime that the file is for, in the static mode.
    #[serde(default)]
    target: Target,

    /// The type of int8 values; the target's own if none is given.
    #[serde(default)]
    activations: Option<Activations>,

    /// Whether the zero point of int8 values is in the middle; as the target wants it if not given.
    #[serde(default)]
    symmetric: Option<bool>,

    /// How ranges follow from the samples.
    #[serde(default)]
    calibration: Calibration,

    /// Where int8 arithmetic is used, in the static mode.
    #[serde(default)]
    arithmetic: Arithmetic,

    /// How weights are rounded, in the static mode.
    #[serde(default)]
    rounding: Rounding,

    /// How biases make up for what rounding does to the mean of a layer's outputs, in the static mode.
    #[serde(default)]
    bias_correction: BiasCorrection,

    /// Whether scales move between convolutions first, so that their channels are of like size, in the static mode.
    #[serde(default)]
    equalize: bool,

    /// Whether scales move from what a normalization computes into the products that read it first, so that few large
    /// values do not take the levels of all others, in the static mode.
    #[serde(default)]
    migrate: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Arithmetic {
    /// Where it is faster on the target, by a table of costs.
    #[default]
    Auto,
    /// Wherever the target has it.
    Int8,
}

#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Activations {
    U8,
    I8,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Calibration {
    /// All that was seen.
    #[default]
    Minmax,
    /// All but the outermost 0.01 % at either end.
    Percentile,
    /// The clipping that keeps most of the distribution (Kullback-Leibler).
    Entropy,
    /// The clipping with the least squared error.
    Mse,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Values and weights, the arithmetic too; needs samples.
    Static,
    /// Weights only; needs no data.
    Weights,
}

/// Which weights stay as they are.
struct Limits {
    kept: GlobSet,
    min_elements: usize,
    /// In decibels.
    min_sqnr: f64,
}

impl Quantize {
    fn default_min_sqnr() -> f64 {
        20.0
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
    fn static_settings(&self) -> Result<qdq::Settings, PassError> {
        let mut traits = self.target.traits();
        if let Some(activations) = self.activations {
            traits.levels = match activations {
                Activations::U8 => Levels::U8,
                Activations::I8 => Levels::I8,
            };
        }
        traits.symmetric = self.symmetric.unwrap_or(traits.symmetric);
        // Only where zero is the lowest level does saturation cut off what is below.
        traits.absorbs &= !traits.symmetric;
        let method = match self.calibration {
            Calibration::Minmax => RangeMethod::MinMax,
            Calibration::Percentile => RangeMethod::Percentile(0.9999),
            Calibration::Entropy => RangeMethod::Entropy,
            Calibration::Mse => RangeMethod::MeanSquaredError,
        };
        let costs = traits.costs && self.arithmetic == Arithmetic::Auto;
        Ok(qdq::Settings {
            traits,
            costs,
            method,
            kept: self.kept_nodes()?,
            rounding: self.rounding,
            bias_correction: self.bias_correction,
            saturates: self.target.saturates(),
            equalize: self.equalize,
            migrate: self.migrate,
        })
    }
}

impl Pass for Quantize {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let min_elements = self.min_elements.unwrap_or(match self.mode {
            Mode::Static => 256,
            Mode::Weights => 1024,
        });
        let limits = Limits { kept: self.kept_nodes()?, min_elements, min_sqnr: self.min_sqnr };
        if let Mode::Static = self.mode {
            qdq::quantize(model, cx, &self.static_settings()?)?;
        }
        let (outcome, worst) = weights::quantize(model, &limits);
        cx.report(outcome);
        if let Some((weight, sqnr)) = worst {
            cx.note(format!("least exact: `{weight}` with {sqnr:.1} dB"));
        }
        Ok(())
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn needs(&self) -> Needs {
        match self.mode {
            Mode::Static => Needs::Inputs,
            Mode::Weights => Needs::Nothing,
        }
    }
}
