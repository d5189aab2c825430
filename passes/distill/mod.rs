//! Distillation: a model learns from another one, and from labels.

mod lessons;
mod run;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ir::Model;
use crate::pass::{Context, Effect, Needs, Pass, PassError, PassInfo};
use crate::train::{Loss, Optimizer, Schedule, Settings};

pub const INFO: PassInfo =
    PassInfo::of::<Distill>("distill", "Train on samples: learn from the original, and from labels");

/// Trains the weights of the model on the samples that are given with `--data`. It learns what the original says of them, or
/// the model that is given with `--teacher`, and their labels, if they have any. With `--student` it is another model that
/// learns from the original. With `alpha=0` it learns from labels alone.
///
/// Classes are learned as `alpha * T^2 * CE(softmax(teacher / T), softmax(student / T)) + beta * CE(labels, softmax(student))`,
/// where CE is the cross entropy and T the temperature; other outputs by their mean square error. A part of the samples is
/// held back, and the weights of the epoch that was best on them are kept.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Distill {
    /// How often all samples are learned from.
    epochs: usize,

    /// Samples of one step.
    batch_size: usize,

    /// How weights follow from gradients.
    optimizer: Rule,

    /// The size of steps.
    learning_rate: f64,

    /// How the learning rate changes over all steps.
    schedule: Schedule,

    /// The share of all steps over which the learning rate rises from zero.
    warmup: f64,

    /// How much of itself a matrix or kernel loses in a step, times the learning rate. Biases and normalizations do not.
    weight_decay: f64,

    /// The momentum of `sgd`.
    momentum: f64,

    /// The greatest norm of all gradients together; larger ones are scaled down.
    clip: Option<f64>,

    /// What is learned.
    loss: Judged,

    /// How much the teacher counts.
    alpha: f64,

    /// How much labels count; nothing where there are none.
    beta: f64,

    /// The temperature at which teacher and student are compared.
    temperature: f64,

    /// The share of probability that labels leave to all classes alike.
    label_smoothing: f64,

    /// The share of samples that is held back to judge epochs; with 0 the last weights are kept.
    validation: f64,

    /// Training ends after so many epochs that were no better; with 0 never before the last.
    patience: usize,

    /// Weights that stay as they are, by name or pattern (`head.*`).
    freeze: Vec<String>,

    /// By which mean and variance BatchNormalization works while it is trained.
    normalization: Normalization,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Rule {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// The same with Nesterov's momentum.
    Nesterov,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Judged {
    /// Classes where there are labels, or where the teacher's output is a Softmax; else the mean square error.
    #[default]
    Auto,
    /// The output is a score for each class along its last axis.
    Classes,
    /// The output is a value, or several, to be met.
    MeanSquare,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Normalization {
    /// Those it has: for models that are trained already.
    #[default]
    Frozen,
    /// Those of the samples of a step, of which running ones are kept: for models that are not.
    Batch,
}

impl Default for Distill {
    fn default() -> Distill {
        Distill {
            epochs: 10,
            batch_size: 32,
            optimizer: Rule::Adamw,
            learning_rate: 1e-3,
            schedule: Schedule::Cosine,
            warmup: 0.05,
            weight_decay: 0.01,
            momentum: 0.9,
            clip: Some(1.0),
            loss: Judged::Auto,
            alpha: 0.9,
            beta: 0.1,
            temperature: 4.0,
            label_smoothing: 0.0,
            validation: 0.1,
            patience: 0,
            freeze: Vec::new(),
            normalization: Normalization::Frozen,
        }
    }
}

impl Distill {
    /// Refuses options that mean nothing.
    fn check(&self) -> Result<(), PassError> {
        let not = |holds: bool, what: &str| if holds { Ok(()) } else { Err(PassError(what.into())) };
        not(self.epochs > 0, "`epochs` is 0: there is nothing to do")?;
        not(self.batch_size > 0, "`batch-size` is 0: a step needs samples")?;
        not(self.learning_rate > 0.0, "`learning-rate` is not above 0")?;
        not(self.temperature > 0.0, "`temperature` is not above 0")?;
        not(self.alpha >= 0.0 && self.beta >= 0.0, "`alpha` and `beta` are not below 0")?;
        not(self.alpha + self.beta > 0.0, "`alpha` and `beta` are both 0: there is nothing to learn")?;
        not((0.0..1.0).contains(&self.validation), "`validation` is a share below 1")?;
        not((0.0..1.0).contains(&self.warmup), "`warmup` is a share below 1")?;
        not((0.0..1.0).contains(&self.label_smoothing), "`label-smoothing` is a share below 1")?;
        not(self.clip.is_none_or(|limit| limit > 0.0), "`clip` is not above 0")
    }

    fn settings(&self, seed: u64) -> Settings {
        let momentum = self.momentum as f32;
        Settings {
            epochs: self.epochs,
            batch: self.batch_size,
            optimizer: match self.optimizer {
                Rule::Adamw => Optimizer::ADAMW,
                Rule::Sgd => Optimizer::Sgd { momentum, nesterov: false },
                Rule::Nesterov => Optimizer::Sgd { momentum, nesterov: true },
            },
            rate: self.learning_rate,
            decay: self.weight_decay,
            schedule: self.schedule,
            warmup: self.warmup,
            clip: self.clip,
            patience: self.patience,
            seed,
        }
    }

    fn classes(&self, has_labels: bool) -> Loss {
        let beta = if has_labels { self.beta } else { 0.0 };
        Loss::Classes { alpha: self.alpha as f32, beta: beta as f32, temperature: self.temperature as f32 }
    }
}

impl Pass for Distill {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        self.check()?;
        run::run(self, model, cx)
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn needs(&self) -> Needs {
        if self.alpha == 0.0 { Needs::Labels } else { Needs::Inputs }
    }
}
