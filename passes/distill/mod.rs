//! Distillation: a model learns from another one, and from labels.

use std::sync::atomic::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::{Cost, Shapes};
use crate::ir::{Model, ValueId};
use crate::pass::{Context, Cuts, Effect, Needs, Pass, PassError, PassInfo, refuse_unless};
use crate::passes::teach::augment::Changes;
use crate::passes::teach::hints::Hint;
use crate::passes::teach::{Judged, Objective, Recipe, frozen, teach};
use crate::train::weights::{separate, weights};
use crate::train::{Optimizer, Schedule, Settings};

pub const INFO: PassInfo =
    PassInfo::of::<Distill>("distill", "Train on samples: learn from the original, and from labels");

/// Trains the weights of the model on the samples that are given with `--data`. It learns what the original says of them, or
/// the model that is given with `--teacher`, and their labels, if they have any. With `--student` it is another model that
/// learns from the original. With `alpha=0` it learns from labels alone.
///
/// Classes are learned as `alpha * T^2 * CE(softmax(teacher / T), softmax(student / T)) + beta * CE(labels, softmax(student))`,
/// where CE is the cross entropy and T the temperature; other outputs by their mean square error. A part of the samples is
/// held back, and the weights of the epoch that was best on them are kept. `hints` and `attention` also teach what lies inside
/// of the teacher. Samples may be changed at random each time; what the teacher says of them is what it says of the unchanged
/// ones, but for `copies`.
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

    /// How much each output counts, in the order of the original; 1 where nothing is said.
    output_weights: Vec<f64>,

    /// Values that are to be like the teacher's: `name`, which both models have, or `student=teacher`. Where only one is named,
    /// as in `student=`, `=teacher`, or by a name that one model has, the other is the only value of equal shape, or the only
    /// one of them of the same operator. Where widths differ, a projection is learned with the values; at first it is the one
    /// that fits best.
    hints: Vec<String>,

    /// How much each hint counts.
    hint_weight: f64,

    /// Images, `[N, C, H, W]`, that are to be large where the teacher's are, named like hints; their channels may differ.
    attention: Vec<String>,

    /// How much each of them counts.
    attention_weight: f64,

    /// How much of an average of the weights stays in a step, 0.999 say: the average is judged and kept. With 0 there is none.
    average: f64,

    /// The most that images are moved along each axis, in pixels.
    shift: usize,

    /// The least share of each side that a cut out part of an image has, which is drawn out to the whole.
    crop: f64,

    /// Whether half of the images are mirrored, left to right.
    flip: bool,

    /// The side of a square in images that becomes zeros, in pixels.
    cutout: usize,

    /// The share of tokens that are hidden from the student.
    mask_tokens: f64,

    /// What stands for hidden tokens: in vocabularies of BERT, [MASK] is 103.
    mask_token: Option<i64>,

    /// The share of samples that go on as another one, from some place in their sequence on; only with `copies`.
    splice_tokens: f64,

    /// How many changed copies of each sample are learned from besides it. What the teacher says of each is what it says of the
    /// changed one, and they are the same in all epochs. With 0, samples are changed anew in each epoch.
    copies: usize,

    /// Mixes each sample with another one, in shares of the distribution Beta(mixup, mixup); with 0 none.
    mixup: f64,

    /// The share of samples that is held back to judge epochs; with 0 the last weights are kept.
    validation: f64,

    /// Training ends after so many epochs that were no better; with 0 never before the last.
    patience: usize,

    /// Weights that stay as they are, by name or pattern (`head.*`).
    freeze: Vec<String>,

    /// Whether single weights of matrices and kernels that are zero stay so: those that `sparsify` left. Those of a `sparsify` with
    /// `schedule=gradual` before it do in any case.
    keep_zeros: bool,

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
            output_weights: Vec::new(),
            hints: Vec::new(),
            hint_weight: 1.0,
            attention: Vec::new(),
            // As its authors have it.
            attention_weight: 1000.0,
            average: 0.0,
            shift: Changes::NONE.shift,
            crop: Changes::NONE.crop,
            flip: Changes::NONE.flip,
            cutout: Changes::NONE.cutout,
            mask_tokens: Changes::NONE.mask_tokens,
            mask_token: Changes::NONE.mask_token,
            splice_tokens: Changes::NONE.splice_tokens,
            copies: 0,
            mixup: Changes::NONE.mixup,
            validation: 0.1,
            patience: 0,
            freeze: Vec::new(),
            keep_zeros: false,
            normalization: Normalization::Frozen,
        }
    }
}

impl Distill {
    /// Refuses options that mean nothing.
    fn refuse_nonsense(&self) -> Result<(), PassError> {
        refuse_unless(self.epochs > 0, "`epochs` is 0: there is nothing to do")?;
        refuse_unless(self.batch_size > 0, "`batch-size` is 0: a step needs samples")?;
        refuse_unless(self.learning_rate > 0.0, "`learning-rate` is not above 0")?;
        refuse_unless((0.0..1.0).contains(&self.validation), "`validation` is a share below 1")?;
        refuse_unless((0.0..1.0).contains(&self.warmup), "`warmup` is a share below 1")?;
        refuse_unless((0.0..1.0).contains(&self.average), "`average` is a share below 1")?;
        refuse_unless(self.hint_weight > 0.0, "`hint-weight` is not above 0")?;
        refuse_unless(self.attention_weight > 0.0, "`attention-weight` is not above 0")?;
        refuse_unless(self.clip.is_none_or(|limit| limit > 0.0), "`clip` is not above 0")?;
        self.objective().check()?;
        refuse_unless(
            self.copies == 0 || self.changes() != Changes::NONE,
            "`copies` wants changes: `shift`, `crop`, `flip`, `cutout`, `mask-tokens` or `splice-tokens`",
        )?;
        refuse_unless(self.copies == 0 || self.mixup == 0.0, "`mixup` mixes anew in each epoch: it has no `copies`")?;
        refuse_unless(
            self.copies > 0 || self.splice_tokens == 0.0,
            "`splice-tokens` wants `copies`: the teacher is asked what becomes of samples",
        )?;
        self.changes().check()
    }

    fn objective(&self) -> Objective {
        Objective {
            judged: self.loss,
            alpha: self.alpha,
            beta: self.beta,
            temperature: self.temperature,
            label_smoothing: self.label_smoothing,
            output_weights: self.output_weights.clone(),
        }
    }

    fn changes(&self) -> Changes {
        Changes {
            shift: self.shift,
            crop: self.crop,
            flip: self.flip,
            cutout: self.cutout,
            mask_tokens: self.mask_tokens,
            mask_token: self.mask_token,
            splice_tokens: self.splice_tokens,
            mixup: self.mixup,
        }
    }

    fn recipe(&self, seed: u64) -> Recipe {
        let hints = self.hints.iter().map(|text| Hint::parse(text, self.hint_weight, false));
        let attention = self.attention.iter().map(|text| Hint::parse(text, self.attention_weight, true));
        Recipe {
            settings: self.settings(seed),
            objective: self.objective(),
            hints: hints.chain(attention).collect(),
            changes: self.changes(),
            copies: self.copies,
            validation: self.validation,
            keeps_zeros: self.keep_zeros,
            batch_statistics: self.normalization == Normalization::Batch,
            options: serde_json::to_string(self).expect("options are plain data"),
            ramp: None,
        }
    }

    /// Trains in parts, each behind a cut. What the optimizer remembers and the average of the weights start anew in each.
    fn train_between(&self, cuts: &Cuts, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let whole = Cost::of(model, &Shapes::infer(model));
        let mut epochs: Vec<String> = Vec::new();
        for part in cuts.parts(self.epochs) {
            epochs.push((part.before + 1).to_string());
            cut_silently(cuts, model, part.share, cx)?;
            separate(model);
            let trained = weights(model, &frozen(&self.freeze)?);
            teach(model, trained, &self.recipe(cx.seed).part(part, self.epochs), cx)?;
            if part.share < 1.0 && cx.finish.load(Ordering::Relaxed) {
                cut_silently(cuts, model, 1.0, cx)?;
                cx.note("training ended too early: what was left to cut was cut at once");
                break;
            }
        }
        let small = Cost::of(model, &Shapes::infer(model));
        cx.note(format!(
            "cut before epochs {}: parameters {} -> {}, multiply-accumulates {} -> {}",
            epochs.join(", "),
            whole.parameters,
            small.parameters,
            whole.macs,
            small.macs
        ));
        Ok(())
    }

    fn settings(&self, seed: u64) -> Settings {
        let momentum = self.momentum as f32;
        Settings {
            epochs: self.epochs,
            before: 0,
            behind: 0,
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
            average: (self.average > 0.0).then_some(self.average),
            patience: self.patience,
            seed,
        }
    }
}

/// Lets the pass that left them cut, without what it says of each.
fn cut_silently(cuts: &Cuts, model: &mut Model, share: f64, cx: &mut Context) -> Result<(), PassError> {
    let told = cx.notes.len();
    (cuts.cut)(model, share, cx)?;
    cx.notes.truncate(told);
    Ok(())
}

impl Pass for Distill {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        if let Some(cuts) = cx.cuts.take() {
            return self.train_between(&cuts, model, cx);
        }
        separate(model);
        let trained = weights(model, &frozen(&self.freeze)?);
        let ramp = cx.ramp.take();
        let is_trained = |value: &ValueId| trained.iter().any(|weight| weight.value == *value);
        if let Some(&value) = ramp.iter().flat_map(|ramp| &ramp.values).find(|value| !is_trained(value)) {
            let name = &model.value(value).name;
            return Err(PassError(format!(
                "`{name}` is to become zero, bit by bit, and is not trained; let `sparsify` keep its layer, or do not freeze it"
            )));
        }
        let recipe = Recipe { ramp, ..self.recipe(cx.seed) };
        teach(model, trained, &recipe, cx)
    }

    fn check(&self) -> Result<(), PassError> {
        self.refuse_nonsense()
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }

    fn needs(&self) -> Needs {
        if self.alpha == 0.0 { Needs::Labels } else { Needs::Inputs }
    }
}
