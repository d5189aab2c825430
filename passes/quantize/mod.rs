//! Quantization: numbers in fewer bits.

mod aids;
mod bias;
mod channel;
mod cholesky;
mod codes;
mod cost;
mod dynamic;
mod equalize;
mod float16;
mod grid;
mod int4;
mod layer;
mod learn;
mod migrate;
mod place;
mod qat;
mod qdq;
mod rewrites;
mod rounding;
mod saturation;
mod scale;
mod scope;
mod sensitivity;
mod sequential;
mod sweep;
mod tail;
mod target;
mod weights;
mod write;

use globset::GlobSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::ir::Model;
use crate::measure::RangeMethod;
use crate::pass::{Context, Effect, Needs, Pass, PassError, PassInfo, refuse_unless};
use crate::passes::cleanup::keep_sums_apart::keep_sums_apart;
use crate::passes::names::globs;
use crate::passes::teach::augment::Changes;
use crate::passes::teach::{Judged, Objective, Recipe};
use crate::rewrite::Outcome;
use crate::train::{self, Optimizer, Schedule};
use aids::{BiasCorrection, Rounding};
pub(super) use bias::refitted_where_better;
pub(super) use cholesky::{cholesky, invert_lower};
use codes::Bits;
use grid::Levels;
pub(super) use layer::{Layer, is_layer};
pub use sensitivity::Sensitivity;
pub(super) use sweep::{Change, Sweep};
pub use target::Target;

pub const INFO: PassInfo =
    PassInfo::of::<Quantize>("quantize", "Compute in int8 or float16, or store weights in int8 or int4");

/// With `mode=static`, lets layers and what lies between them compute in int8: values get a scale from the samples that are
/// given with `--data`, weights one for each output channel, and QuantizeLinear and DequantizeLinear stand where the target
/// fuses them.
///
/// With `mode=qat`, the graph that `mode=static` writes is trained: weights and scales learn from the original, and from labels,
/// what makes up for their rounding. It takes much longer, and pays where bits are few: `weights=i4`.
///
/// With `mode=weights`, and for what stays float, stores the large weights of convolutions, matrix products and embedding
/// tables as int8, with one scale for each output channel (each column of an embedding table) that makes the squared error
/// least. The arithmetic stays in float: a Cast and a Mul, which runtimes fold when they load the model, so that it is four
/// times smaller and as fast.
///
/// With `mode=dynamic`, products compute in int8 too, but scales of activations are found while the model runs, so that no
/// data is needed. With `mode=float16`, weights and arithmetic are float16, where float16 holds the numbers: for devices
/// that have such arithmetic, which x86 CPUs have not.
///
/// For ONNX Runtime, an Add of two like values before a LayerNormalization becomes a Sum, in all other modes: of an Add it
/// makes one operator with the normalization, which takes longer on CPUs.
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

    /// The runtime that the file is for.
    #[serde(default)]
    target: Target,

    /// The type of int8 values; the target's own if none is given.
    #[serde(default)]
    activations: Option<Activations>,

    /// Whether the zero point of int8 values and int4 weights is in the middle. If not given, it is for int4 weights, and
    /// for int8 values as the target wants it.
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

    /// The type of weights: in the mode `weights` of matrices that products read, in `static` and `qat` of all layers.
    #[serde(default)]
    weights: WeightType,

    /// How many int4 weights share a scale.
    #[serde(default = "Quantize::default_block_size")]
    block_size: usize,

    /// Whether inputs and outputs of the model keep their types, in the mode `float16`.
    #[serde(default = "Quantize::default_keep_io_types")]
    keep_io_types: bool,

    /// Whether scales move between convolutions first, so that their channels are of like size, in the static mode.
    #[serde(default)]
    equalize: bool,

    /// Whether scales move from values with a few large places into the products that read them first, where that makes the
    /// products much more exact, in the static mode. It costs a Mul where something else reads the value, too.
    #[serde(default = "Quantize::default_migrate")]
    migrate: bool,

    /// How many samples the static mode learns from; of more, so many are chosen at random.
    #[serde(default = "Quantize::default_samples")]
    samples: usize,

    /// Whether weights have a scale for each output channel, or one for all, in the static mode.
    #[serde(default = "Quantize::default_per_channel")]
    per_channel: bool,

    /// How many of the first layers stay float, in the static mode.
    #[serde(default)]
    keep_first: usize,

    /// How many of the last layers stay float, in the static mode.
    #[serde(default)]
    keep_last: usize,

    /// How often all samples are learned from, in the mode `qat`.
    #[serde(default = "Quantize::default_epochs")]
    epochs: usize,

    /// Samples of one step.
    #[serde(default = "Quantize::default_batch_size")]
    batch_size: usize,

    /// The size of the first steps; it falls to zero along half a cosine.
    #[serde(default = "Quantize::default_learning_rate")]
    learning_rate: f64,

    /// How much the teacher counts: the original, or `--teacher`.
    #[serde(default = "Quantize::default_alpha")]
    alpha: f64,

    /// How much labels count; nothing where there are none.
    #[serde(default = "Quantize::default_beta")]
    beta: f64,

    /// The temperature at which teacher and quantized model are compared.
    #[serde(default = "Quantize::default_temperature")]
    temperature: f64,

    /// The share of samples that is held back to judge epochs; with 0 the last weights are kept.
    #[serde(default = "Quantize::default_validation")]
    validation: f64,
}

/// The options that say something in some modes only.
const OPTIONS: &[(&str, &[Mode])] = {
    use Mode::*;
    &[
        ("min-elements", &[Static, Qat, Weights, Dynamic]),
        ("min-sqnr", &[Static, Qat, Weights, Dynamic]),
        ("target", &[Static, Qat, Weights, Dynamic]),
        ("activations", &[Static, Qat]),
        ("symmetric", &[Static, Qat, Weights]),
        ("calibration", &[Static, Qat]),
        ("arithmetic", &[Static, Qat]),
        ("rounding", &[Static]),
        ("bias-correction", &[Static]),
        ("weights", &[Static, Qat, Weights]),
        ("block-size", &[Weights]),
        ("keep-io-types", &[Float16]),
        ("equalize", &[Static, Qat]),
        ("migrate", &[Static, Qat]),
        ("samples", &[Static, Qat]),
        ("per-channel", &[Static, Qat]),
        ("keep-first", &[Static, Qat]),
        ("keep-last", &[Static, Qat]),
        ("epochs", &[Qat]),
        ("batch-size", &[Qat]),
        ("learning-rate", &[Qat]),
        ("alpha", &[Qat]),
        ("beta", &[Qat]),
        ("temperature", &[Qat]),
        ("validation", &[Qat]),
    ]
};

/// The options that say something of int4 weights only.
const INT4_OPTIONS: &[&str] = &["block-size", "symmetric"];

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum WeightType {
    /// 8 bits, with a scale for each output channel.
    #[default]
    I8,
    /// In the mode `weights`, 4 bits for matrices that products read, with a scale for each block; 8 bits for all other
    /// weights. For ONNX Runtime as its operator MatMulNBits; for other targets as DequantizeLinear, which raises the model to
    /// opset 21. In the modes `static` and `qat`, 4 bits for the weights of all layers, with a scale for each output channel,
    /// as DequantizeLinear (opset 21): ONNX Runtime computes such layers in float.
    I4,
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

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Values and weights, the arithmetic too; needs samples.
    Static,
    /// The same, trained with quantization in the loop: quantization-aware training.
    Qat,
    /// Weights only; needs no data.
    Weights,
    /// Products of activations and weights in int8, with scales of activations that are found while the model runs; needs
    /// no data. Other weights as in the mode `weights`.
    Dynamic,
    /// Weights and arithmetic in float16, with float32 where a number would leave its range: without data as far as the
    /// constants tell.
    Float16,
}

/// Which weights stay as they are.
struct Limits {
    kept: GlobSet,
    min_elements: usize,
    /// In decibels.
    min_sqnr: f64,
    /// Whether rows of a table are scaled by DequantizeLinear, as the rest of the model is, not by a product.
    dequantizes: bool,
}

impl Quantize {
    fn default_min_sqnr() -> f64 {
        20.0
    }

    fn default_block_size() -> usize {
        32
    }

    fn default_keep_io_types() -> bool {
        true
    }

    fn default_migrate() -> bool {
        true
    }

    fn default_samples() -> usize {
        128
    }

    fn default_per_channel() -> bool {
        true
    }

    fn default_epochs() -> usize {
        5
    }

    fn default_batch_size() -> usize {
        32
    }

    fn default_learning_rate() -> f64 {
        1e-3
    }

    fn default_alpha() -> f64 {
        0.9
    }

    fn default_beta() -> f64 {
        0.1
    }

    fn default_temperature() -> f64 {
        4.0
    }

    fn default_validation() -> f64 {
        0.1
    }

    /// The options that are not what they are by default.
    fn changed(&self) -> Result<Vec<String>, serde_json::Error> {
        let Json::Object(ours) = serde_json::to_value(self)? else { return Ok(Vec::new()) };
        let plain: Quantize = serde_json::from_value(serde_json::json!({ "mode": self.mode }))?;
        let plain = serde_json::to_value(plain)?;
        Ok(ours.into_iter().filter(|(name, value)| plain[name] != *value).map(|(name, _)| name).collect())
    }

    fn kept_nodes(&self) -> Result<GlobSet, PassError> {
        globs(&self.keep, "keep")
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
        traits.per_channel = self.per_channel;
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
            samples: self.samples,
            bits: self.bits(),
            keep_ends: [self.keep_first, self.keep_last],
        })
    }

    /// Of the weights of layers.
    fn bits(&self) -> Bits {
        match self.weights {
            WeightType::I8 => Bits::Eight,
            WeightType::I4 => Bits::Four,
        }
    }

    /// How the quantized graph is trained.
    fn recipe(&self, seed: u64) -> Recipe {
        Recipe {
            settings: train::Settings {
                epochs: self.epochs,
                before: 0,
                behind: 0,
                batch: self.batch_size,
                optimizer: Optimizer::ADAMW,
                rate: self.learning_rate,
                decay: 0.0,
                schedule: Schedule::Cosine,
                warmup: 0.0,
                clip: None,
                average: None,
                patience: 0,
                seed,
            },
            objective: self.objective(),
            hints: Vec::new(),
            changes: Changes::NONE,
            copies: 0,
            validation: self.validation,
            batch_statistics: false,
            keeps_zeros: false,
            options: serde_json::to_string(self).expect("options are plain data"),
            ramp: None,
        }
    }

    fn objective(&self) -> Objective {
        Objective {
            judged: Judged::Auto,
            alpha: self.alpha,
            beta: self.beta,
            temperature: self.temperature,
            label_smoothing: 0.0,
            output_weights: Vec::new(),
        }
    }
}

/// What quantizing each layer alone, as a pass with these options would, does to the outputs, most sensitive first. The
/// samples of the context give the ranges, and the first `samples` of them the outputs.
pub fn sensitivities(
    options: Map<String, Json>,
    model: &Model,
    cx: &Context,
    samples: usize,
) -> Result<Vec<Sensitivity>, PassError> {
    let pass: Quantize = serde_json::from_value(Json::Object(options)).map_err(|error| PassError(error.to_string()))?;
    if !matches!(pass.mode, Mode::Static) {
        return Err(PassError("layers have sensitivities in `mode=static` only".into()));
    }
    qdq::sensitivities(model, cx, &pass.static_settings()?, samples)
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
            let size = self.block_size;
            return Err(PassError(format!("`block-size` is {size}: runtimes want a power of two from 16 on")));
        }
        let contributed = matches!(self.target, Target::Onnxruntime | Target::OnnxruntimeVnni);
        let symmetric = self.symmetric.unwrap_or(true);
        let settings = int4::Settings { limits, block_size: self.block_size, symmetric, contributed };
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
        let min_elements = self.min_elements.unwrap_or(match self.mode {
            Mode::Static | Mode::Qat => 256,
            Mode::Weights | Mode::Dynamic | Mode::Float16 => 1024,
        });
        let dequantizes = matches!(self.mode, Mode::Static | Mode::Qat);
        let limits = Limits { kept: self.kept_nodes()?, min_elements, min_sqnr: self.min_sqnr, dequantizes };
        match self.mode {
            Mode::Static => {
                qdq::quantize(model, cx, &self.static_settings()?, None)?;
                self.store_weights(model, cx, &limits);
            }
            Mode::Qat => {
                let recipe = self.recipe(cx.seed);
                qdq::quantize(model, cx, &self.static_settings()?, Some(&recipe))?;
                self.store_weights(model, cx, &limits);
            }
            Mode::Weights => {
                if self.weights == WeightType::I4 {
                    self.store_int4(model, cx, &limits)?;
                }
                self.store_weights(model, cx, &limits);
            }
            Mode::Dynamic => {
                let (outcome, worst) = dynamic::quantize(model, &cx.shapes(model), &limits, self.target.saturates());
                cx.report(outcome);
                note_worst(cx, worst);
                self.store_weights(model, cx, &limits);
            }
            Mode::Float16 => self.convert_to_float16(model, cx)?,
        }
        if self.mode != Mode::Float16 && self.target.traits().merges_sums {
            let outcome = keep_sums_apart(model, &cx.shapes(model));
            if !outcome.applied.is_empty() {
                cx.report(outcome);
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), PassError> {
        let name = |mode: &Mode| serde_json::to_value(mode).ok().and_then(|name| Some(name.as_str()?.to_string()));
        let changed = self.changed().map_err(|error| PassError(error.to_string()))?;
        for (option, modes) in OPTIONS.iter().filter(|(option, _)| changed.iter().any(|name| name == option)) {
            if !modes.contains(&self.mode) {
                let of: Vec<String> = modes.iter().filter_map(name).map(|mode| format!("`mode={mode}`")).collect();
                let (mode, of) = (name(&self.mode).unwrap_or_default(), of.join(", "));
                return Err(PassError(format!("`{option}` says nothing in `mode={mode}`, only in {of}; leave it out")));
            }
            if self.mode == Mode::Weights && self.weights == WeightType::I8 && INT4_OPTIONS.contains(option) {
                return Err(PassError(format!("`{option}` says nothing without `weights=i4`; leave it out")));
            }
        }
        if self.samples == 0 {
            return Err(PassError("`samples` is 0, and the static mode needs some".into()));
        }
        refuse_unless(self.epochs > 0, "`epochs` is 0: `mode=static` is what is not trained")?;
        refuse_unless(self.batch_size > 0, "`batch-size` is 0: a step needs samples")?;
        refuse_unless(self.learning_rate > 0.0, "`learning-rate` is not above 0")?;
        refuse_unless((0.0..1.0).contains(&self.validation), "`validation` is a share below 1")?;
        self.objective().check()
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn needs(&self) -> Needs {
        match self.mode {
            Mode::Qat if self.alpha == 0.0 => Needs::Labels,
            Mode::Static | Mode::Qat => Needs::Inputs,
            Mode::Float16 => Needs::InputsIfAny,
            Mode::Weights | Mode::Dynamic => Needs::Nothing,
        }
    }
}
