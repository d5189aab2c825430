//! Pruning: networks with fewer channels, heads, neurons and words.

mod branch;
mod criterion;
mod cut;
mod depth;
mod edit;
mod gradients;
mod gradual;
mod latency;
mod layer;
#[cfg(test)]
mod law;
#[cfg(test)]
mod mask;
mod own;
mod probe;
mod quantized;
mod reconstruct;
mod select;
mod sensitivity;
mod slice;
mod snip;
mod surgeon;
mod variational;
mod vocabulary;
mod weighed;

use std::path::PathBuf;

use globset::GlobSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::analysis::channels::{Channels, Pin};
use crate::analysis::{Cost, Shapes};
use crate::data::Dataset;
use crate::ir::{Model, Tensor};
use crate::measure::{Pairing, Watch};
use crate::pass::{Context, Effect, Needs, Pass, PassError, PassInfo, refuse_unless};
use crate::passes::names::{globs, is_named};
use crate::passes::rewind::rewound;
use crate::rewrite::Miss;
use criterion::{Criterion, Subject};
use cut::Cut;
pub(super) use gradients::{Sum, gradients};
use gradual::Progress;
use latency::Latencies;
use layer::{Layer, layers};
use own::untie;
use probe::Samples;
use quantized::in_floats;
use reconstruct::reconstruct;
use select::{Amount, Groups, Rules};
pub use sensitivity::{CutSensitivity, GroupSensitivity};
use vocabulary::{StandIn, Vocabulary};
pub(super) use weighed::Direction;

pub const INFO: PassInfo = PassInfo::of::<Prune>(
    "prune",
    "Cut channels, heads, neurons and residual branches that are missed least, and words that do not occur",
);

/// Cuts channels out of the model, whole: of convolutions and products, neurons between two products, heads of attentions, states
/// of recurrent layers, the width of a residual stream. Channels that go together are found across the whole network, and cut
/// from all weights that have them, in integers too. The result is a smaller network in ordinary operators; it is to be trained
/// afterwards (`distill`), or to be cut by little.
///
/// One of `channels`, `parameters`, `bytes`, `macs` and `latency` says how much is cut. With `vocabulary`, embedding tables lose the rows of
/// ids that do not occur in the samples, and with `depth` the network loses whole residual branches. Both come first and may
/// also stand alone; the share to cut is one of what they leave.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Prune {
    /// The share to cut of the channels that can be cut.
    channels: Option<f64>,

    /// The share of the parameters to cut.
    parameters: Option<f64>,

    /// The share of the bytes of weights to cut.
    bytes: Option<f64>,

    /// The share of the multiply-accumulates to cut.
    macs: Option<f64>,

    /// The share to cut of the time of a run, with one sample and in one thread. Nodes are timed in tract, with all channels and with
    /// three quarters, a half and a quarter of them; this takes some seconds, and is another choice each time. The table of times is
    /// in the report (`--report`), and can be given again.
    latency: Option<f64>,

    /// The file of the times, for `latency`, that were measured before: a report, or the table out of one.
    latency_table: Option<PathBuf>,

    /// How many residual branches to remove, those in which a layer lies: x + f(x) becomes x. Below 1 it is their share, from 1 on
    /// their number. The next to go is the one without which the outputs on the samples change least, those before it being
    /// gone; without samples, the one that adds least to its stream on random inputs; with `criterion=random` any.
    depth: Option<f64>,

    /// Embedding tables keep the rows of ids that occur so often in the samples, once or more; all other ids share one row, or
    /// are looked up as the most like (`others=nearest`). A map of ids goes into the model, so that its tokenizer stays as it is.
    /// The shared row learns in `distill` where its ids occur: with 2, from those that occur once, or as what hides tokens
    /// (`mask-token`).
    vocabulary: Option<u64>,

    /// What ids are looked up as that have no row of their own, with `vocabulary`.
    others: Others,

    /// The id whose row the others share ([UNK], say); if none is given, it is the mean of theirs.
    unknown: Option<usize>,

    /// When channels are cut.
    schedule: Schedule,

    /// The share of the epochs of training before the last cut, with `schedule=gradual`: 0.75 if nothing is given. In the others the
    /// network that is left learns on.
    until: Option<f64>,

    /// How it is found which channels are missed least.
    criterion: Criterion,

    /// How many samples are learned from, if any; of more, so many are chosen at random.
    samples: usize,

    /// Among which channels the least important are looked for.
    scope: Scope,

    /// Whether layers behind a cut learn from samples to give what they gave, by least squares; weights in integers do not.
    reconstruct: bool,

    /// Layers that lose channels keep a multiple of this many.
    round_to: usize,

    /// Layers keep at least so many channels.
    minimum: usize,

    /// Layers whose channels stay, and with them their branches, and tables whose rows do, by name or pattern (`/head/*`).
    keep: Vec<String>,

    /// The only layers whose channels are cut, and whose branches are removed, by name or pattern; all if none are given.
    include: Vec<String>,

    /// The file of the network before it was trained: the weights that are left are taken from it, so that they learn again from
    /// where they started (a lottery ticket).
    rewind: Option<PathBuf>,
}

/// What ids are looked up as that have no row of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Others {
    /// All as one row.
    #[default]
    Share,
    /// Each as the id that is left whose row has the direction most like its own (cosine): words as words of their meaning. Tables
    /// that were trained on more than these samples lose the least so.
    Nearest,
}

/// When channels are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Schedule {
    /// In this pass.
    #[default]
    Once,
    /// While `distill` trains, which has to be the next pass: before some of its epochs, six at the most. Behind the k-th of n cuts
    /// the share s·(1 - (1 - k/n)³) is gone, and each time the criterion looks at the network as it is then. Not with `latency`,
    /// `depth`, `vocabulary`, `reconstruct`, `rewind` and `criterion=obs`.
    Gradual,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Scope {
    /// All of them, so that some layers lose more than others: the next to go is the one that loses the least for what it
    /// saves of what is to be cut, and counts for more the less its layer has left.
    #[default]
    Global,
    /// Those of one layer, so that all layers lose the same share.
    Local,
}

impl Default for Prune {
    fn default() -> Prune {
        Prune {
            channels: None,
            parameters: None,
            bytes: None,
            macs: None,
            latency: None,
            latency_table: None,
            depth: None,
            vocabulary: None,
            others: Others::default(),
            unknown: None,
            schedule: Schedule::default(),
            until: None,
            criterion: Criterion::default(),
            samples: 64,
            scope: Scope::default(),
            reconstruct: false,
            round_to: 1,
            minimum: 1,
            keep: Vec::new(),
            include: Vec::new(),
            rewind: None,
        }
    }
}

impl Prune {
    /// How much is cut of the channels; none where only the vocabulary is.
    fn amount<'l>(&self, latencies: Option<&'l Latencies>) -> Result<Option<Amount<'l>>, PassError> {
        let given = [
            self.channels.map(Amount::Channels),
            self.parameters.map(Amount::Parameters),
            self.bytes.map(Amount::Bytes),
            self.macs.map(Amount::Macs),
            self.latency.map(|share| Amount::Latency(share, latencies)),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(amount), None) => Ok(Some(amount)),
            (None, None) if self.vocabulary.is_some() || self.depth.is_some() => Ok(None),
            _ => Err(PassError(
                "one of `channels`, `parameters`, `bytes`, `macs` and `latency` says how much to cut".into(),
            )),
        }
    }

    /// Scores by what is lost when others make up for it are for weights that do.
    fn reconstructs(&self) -> bool {
        self.reconstruct || self.criterion == Criterion::Obs
    }

    /// For each class, whether the user holds it: a layer that is to be kept, or none that is included, gives it.
    fn held(&self, model: &Model, channels: &Channels, layers: &[Layer]) -> Result<Vec<bool>, PassError> {
        let (keep, include) = (globs(&self.keep, "keep")?, globs(&self.include, "include")?);
        let is_named = |set: &GlobSet, layer: &Layer| is_named(model, layer.node, set);
        let mut held = vec![!self.include.is_empty(); channels.len()];
        let mut hold = |layer: &Layer, holds: bool| {
            let classes = layer.gives.into_iter().flat_map(|lane| channels.classes_of(lane));
            classes.for_each(|class| held[class.index()] = holds);
        };
        layers.iter().filter(|layer| is_named(&include, layer)).for_each(|layer| hold(layer, false));
        layers.iter().filter(|layer| is_named(&keep, layer)).for_each(|layer| hold(layer, true));
        Ok(held)
    }

    fn all_data(cx: &Context) -> Result<&Dataset, PassError> {
        cx.data.as_ref().ok_or_else(|| PassError("it needs samples; give a file with `--data`".into()))
    }

    /// The samples that are learned from; of many, some at random.
    fn data(&self, cx: &Context) -> Result<Dataset, PassError> {
        Ok(Prune::all_data(cx)?.some(cx.seed, self.samples))
    }

    /// Samples in the order of the model's inputs.
    fn inputs(data: &Dataset, model: &Model, cx: &Context) -> Result<Vec<Vec<Tensor>>, PassError> {
        let original = cx.original.as_deref().unwrap_or(model);
        let pairing = Pairing::of(original, model)
            .map_err(|error| PassError(format!("the model does not fit the original: {error}")))?;
        Ok((0..data.len()).map(|index| pairing.inputs(&data.sample(index))).collect())
    }

    /// What the criterion looks at, if it looks at samples.
    fn learned_from(&self, model: &Model, cx: &Context) -> Result<Option<Samples>, PassError> {
        if !self.criterion.needs_samples() {
            return Ok(None);
        }
        let data = self.data(cx)?;
        let of = Prune::all_data(cx)?.len();
        Ok(Some(Samples { inputs: Prune::inputs(&data, model, cx)?, labels: data.classes(), of }))
    }

    fn share_rows(&self, model: &mut Model, least: u64, cx: &mut Context) -> Result<(), PassError> {
        let samples = Prune::inputs(Prune::all_data(cx)?, model, cx)?;
        let keep = globs(&self.keep, "keep")?;
        let others = match (self.others, self.unknown) {
            (Others::Nearest, _) => StandIn::Nearest,
            (Others::Share, None) => StandIn::Mean,
            (Others::Share, Some(unknown)) => StandIn::Row(unknown),
        };
        let vocabulary = Vocabulary { least, others };
        vocabulary.apply(model, &samples, |model, lookup| is_named(model, lookup, &keep), cx)
    }

    /// The channels of a model that may go.
    fn find(&self, model: &Model) -> Result<Found, PassError> {
        let mut model = model.clone();
        untie(&mut model);
        let shapes = Shapes::infer(&model);
        let channels = Channels::of(&model, &shapes);
        let floats = in_floats(&model);
        let layers = layers(&floats, &channels);
        let held = self.held(&model, &channels, &layers)?;
        let groups = Groups::new(&model, &channels, &layers, |class| !held[class.index()]);
        Ok(Found { model, floats, shapes, channels, layers, groups })
    }

    /// Cuts as much as was asked for, or, of a cut in several steps, what is missing behind this one. Returns whether anything was.
    fn cut(&self, model: &mut Model, progress: Option<Progress>, cx: &mut Context) -> Result<bool, PassError> {
        let found = self.find(model)?;
        let start = self.rewind.as_deref().map(|file| rewound(&found.model, file)).transpose()?;
        if progress.is_none() {
            found.tell(cx);
        }
        if found.groups.members.is_empty() {
            return Ok(false);
        }
        let samples = self.learned_from(&found.model, cx)?;
        let scores = criterion::scores(self.criterion, found.subject(cx.seed), samples.as_ref())?;
        let none = found.none();
        let Found { model: mut small, shapes, channels, groups, .. } = found;
        let rules = Rules { minimum: self.minimum, multiple: self.round_to };
        let latencies = match self.latency {
            Some(_) => Some(self.latencies(&small, &channels, &groups, rules, cx)?),
            None => None,
        };
        let mut amount = self.amount(latencies.as_ref())?.expect("a share was given");
        if let Some(progress) = progress {
            let now = groups.left(&small, &channels, &shapes, amount, &none);
            amount = amount.with_share(progress.next(amount.share(), now));
        }
        let savings = groups.savings(&small, &channels, &shapes, amount);
        let weighed = self.criterion.is_loss().then_some(&savings[..]);
        let mut order = criterion::order(&groups, &scores, weighed, self.scope == Scope::Local);
        if latencies.is_some() {
            // What no cut makes faster stays.
            order.retain(|class| savings[class.index()] > 0.0);
        }
        let removed = groups.select(&small, &channels, &shapes, &order, amount, rules);
        let count = removed.iter().filter(|&&removed| removed).count();
        if count == 0 {
            cx.note("nothing is cut: the layers are at their minimum, or less than one channel was asked for");
            return Ok(false);
        }
        if latencies.is_some() {
            let [all, left] = [&none, &removed].map(|removed| groups.left(&small, &channels, &shapes, amount, removed));
            cx.note(format!("latency by the table {all:.2} -> {left:.2} ms, in tract, of a sample, in one thread"));
            if left > (1.0 - amount.share() + 1e-9) * all {
                cx.note("no more can be cut: what is left of the time does not depend on channels that can go");
            }
        }
        if let Some((start, rewound)) = start {
            small = start;
            cx.applied("rewound_constant", rewound);
        }
        let before = Cost::of(&small, &shapes);
        let cut = Cut::new(&channels, &shapes, &removed);
        let [parameters, _, macs] = cut.cost(&small);
        let whole = small.clone();
        cut.apply(&mut small);
        if self.reconstructs() {
            let data = self.data(cx)?;
            let watch = Watch { cancelled: &cx.cancelled, ..Watch::default() };
            let learned = reconstruct(&whole, &mut small, &cut, &data, cx.seed, watch);
            let learned = learned.map_err(|error| PassError(error.to_string()))?;
            cx.applied("layer reconstructed", learned);
        }
        cx.applied("channel", groups.width_of(&removed));
        cx.note(format!(
            "parameters {} -> {}, multiply-accumulates {} -> {}",
            before.parameters, parameters, before.macs, macs
        ));
        *model = small;
        cx.inferred = None;
        Ok(true)
    }

    /// Lets a model without some of its branches start again from the weights before training.
    fn rewind(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let Some(file) = &self.rewind else { return Ok(()) };
        untie(model);
        let (start, rewound) = rewound(model, file)?;
        cx.applied("rewound_constant", rewound);
        *model = start;
        cx.inferred = None;
        Ok(())
    }
}

/// What cutting `shares` of each group of channels alone does to the outputs, on the first `samples` of the context: the channels
/// that a pass with these options would cut first. The most sensitive group first.
pub fn channel_sensitivities(
    options: Map<String, Json>,
    model: &Model,
    cx: &Context,
    samples: usize,
    shares: &[f64],
) -> Result<Vec<GroupSensitivity>, PassError> {
    let pass: Prune = serde_json::from_value(Json::Object(options)).map_err(|error| PassError(error.to_string()))?;
    sensitivity::rank(&pass, model, cx, samples, shares)
}

impl Pass for Prune {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        if let Some(least) = self.vocabulary {
            self.share_rows(model, least, cx)?;
        }
        let fewer = match self.depth {
            Some(depth) => self.remove_branches(model, depth, cx)?,
            None => false,
        };
        let narrower = match self.amount(None)? {
            Some(_) if self.schedule == Schedule::Gradual => {
                self.leave(model, cx)?;
                false
            }
            Some(_) => self.cut(model, None, cx)?,
            None => false,
        };
        if fewer && !narrower { self.rewind(model, cx) } else { Ok(()) }
    }

    fn check(&self) -> Result<(), PassError> {
        let is_share = |amount: Amount| amount.share() > 0.0 && amount.share() < 1.0;
        refuse_unless(self.amount(None)?.is_none_or(is_share), "what is cut is a share between 0 and 1")?;
        refuse_unless(self.latency.is_some() || self.latency_table.is_none(), "`latency-table` is for `latency`")?;
        let is_depth = |depth: f64| depth > 0.0 && (depth < 1.0 || depth.fract() == 0.0 && depth.is_finite());
        refuse_unless(
            self.depth.is_none_or(is_depth),
            "`depth` is a share of the branches below 1, or a whole number of them",
        )?;
        refuse_unless(self.vocabulary != Some(0), "`vocabulary` is 0: ids that occur are counted from 1")?;
        refuse_unless(
            self.unknown.is_none() || self.vocabulary.is_some(),
            "`unknown` is for a `vocabulary` that is pruned",
        )?;
        refuse_unless(
            self.others == Others::Share || self.vocabulary.is_some() && self.unknown.is_none(),
            "`others=nearest` is for a `vocabulary` that is pruned, and instead of `unknown`",
        )?;
        refuse_unless(self.samples > 0, "`samples` is 0")?;
        refuse_unless(
            self.rewind.is_none() || !self.reconstructs() && self.vocabulary.is_none(),
            "`rewind` takes weights from before training: `reconstruct`, `criterion=obs` and `vocabulary` are for trained ones",
        )?;
        refuse_unless(self.round_to > 0, "`round-to` is 0")?;
        refuse_unless(self.minimum > 0, "`minimum` is 0: a layer without channels is none")?;
        self.check_schedule()
    }

    fn leads_to(&self) -> Option<(&'static str, &'static str)> {
        (self.schedule == Schedule::Gradual).then_some(("distill", "schedule=gradual"))
    }

    fn needs(&self) -> Needs {
        if self.criterion == Criterion::Snip {
            Needs::Labels
        } else if self.criterion.needs_samples() || self.reconstruct || self.vocabulary.is_some() {
            Needs::Inputs
        } else if self.depth.is_some() || self.latency.is_some() {
            Needs::InputsIfAny
        } else {
            Needs::Nothing
        }
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }
}

/// The channels of a model that may go.
struct Found {
    /// The model, whose layers share nothing by chance, and the same in floats.
    model: Model,
    floats: Model,
    shapes: Shapes,
    channels: Channels,
    layers: Vec<Layer>,
    groups: Groups,
}

impl Found {
    fn subject(&self, seed: u64) -> Subject<'_> {
        let Found { floats, channels, layers, groups, .. } = self;
        Subject { model: floats, channels, layers, groups, seed }
    }

    /// Of each class, that it stays.
    fn none(&self) -> Vec<bool> {
        vec![false; self.channels.len()]
    }

    fn left(&self, amount: Amount, removed: &[bool]) -> f64 {
        self.groups.left(&self.model, &self.channels, &self.shapes, amount, removed)
    }

    fn tell(&self, cx: &mut Context) {
        Reach::of(&self.channels, &self.layers).tell(&self.model, cx);
    }
}

/// How many of the channels that layers give can be cut, and what holds the others.
struct Reach {
    channels: usize,
    free: usize,
    /// Those of the inputs and outputs of the model.
    outer: usize,
    pins: Vec<(Pin, usize)>,
}

impl Reach {
    fn of(channels: &Channels, layers: &[Layer]) -> Reach {
        let lanes = || layers.iter().filter_map(|layer| layer.gives);
        let all = lanes().map(|lane| channels.classes_of(lane).len()).sum();
        let pins = channels.pinned(lanes());
        let pinned: usize = pins.iter().map(|(_, count)| count).sum();
        let is_outer = |pin: &Pin| matches!(pin, Pin::Input(_) | Pin::Output(_));
        let outer = pins.iter().filter(|(pin, _)| is_outer(pin)).map(|(_, count)| count).sum();
        Reach { channels: all, free: all - pinned, outer, pins }
    }

    fn tell(&self, model: &Model, cx: &mut Context) {
        let name = |value| model.value(value).name.clone();
        for (pin, count) in &self.pins {
            if let Pin::Node(node, why) = *pin {
                cx.missed("cut", node, Miss(why));
                if self.free == 0 {
                    cx.note(format!("{count} channels are held by {}: {why}", model.label(node)));
                }
            }
            match *pin {
                Pin::Input(value) if self.free == 0 => {
                    cx.note(format!("{count} channels are those of the input `{}`", name(value)))
                }
                Pin::Output(value) if self.free == 0 => {
                    cx.note(format!("{count} channels are those of the output `{}`", name(value)))
                }
                _ => {}
            }
        }
        let inner = self.channels - self.outer;
        if self.free > 0 {
            cx.note(format!(
                "{} of {inner} channels can be cut, besides {} of inputs and outputs",
                self.free, self.outer
            ));
        } else {
            cx.note("nothing can be cut");
        }
    }
}

#[cfg(test)]
mod tests;
