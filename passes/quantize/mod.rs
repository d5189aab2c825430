//! Quantization: numbers in fewer bits.

mod channel;
mod scale;
mod weights;

use globset::{Glob, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ir::Model;
use crate::pass::{Context, Effect, Pass, PassError, PassInfo};

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
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
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
    fn default_min_elements() -> usize {
        1024
    }

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

impl Pass for Quantize {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let limits = Limits { kept: self.kept_nodes()?, min_elements: self.min_elements, min_sqnr: self.min_sqnr };
        match self.mode {
            Mode::Weights => {
                let (outcome, worst) = weights::quantize(model, &limits);
                cx.report(outcome);
                if let Some((weight, sqnr)) = worst {
                    cx.note(format!("least exact: `{weight}` with {sqnr:.1} dB"));
                }
            }
        }
        Ok(())
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }
}
