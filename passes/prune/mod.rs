//! Pruning: networks with fewer channels, heads and neurons.

mod criterion;
mod cut;
mod edit;
mod layer;
#[cfg(test)]
mod law;
#[cfg(test)]
mod mask;
mod own;
mod probe;
mod reconstruct;
mod select;
mod slice;

use globset::{Glob, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::analysis::channels::{Channels, Pin};
use crate::analysis::{Cost, Shapes};
use crate::data::Dataset;
use crate::ir::Model;
use crate::measure::{Pairing, Watch};
use crate::pass::{Context, Effect, Needs, Pass, PassError, PassInfo};
use crate::rewrite::Miss;
use criterion::{Criterion, Subject};
use cut::Cut;
use layer::{Layer, layers};
use own::own_vectors;
use probe::Samples;
use reconstruct::reconstruct;
use select::{Amount, Groups, Rules};

pub const INFO: PassInfo = PassInfo::of::<Prune>("prune", "Cut channels, heads and neurons that are missed least");

/// Cuts channels out of the model, whole: of convolutions and products, neurons between two products, heads of attentions, the
/// width of a residual stream. Channels that go together are found across the whole network, and cut from all weights that
/// have them. The result is a smaller network in ordinary operators; it is to be trained afterwards (`distill`), or to be cut
/// by little.
///
/// One of `channels`, `parameters`, `bytes` and `macs` says how much is cut.
#[derive(Serialize, Deserialize, JsonSchema)]
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

    /// How it is found which channels are missed least.
    criterion: Criterion,

    /// How many samples are learned from, if any; of more, so many are chosen at random.
    samples: usize,

    /// Among which channels the least important are looked for.
    scope: Scope,

    /// Whether layers behind a cut learn from samples to give what they gave.
    reconstruct: bool,

    /// Layers that lose channels keep a multiple of this many.
    round_to: usize,

    /// Layers keep at least so many channels.
    minimum: usize,

    /// Layers whose channels stay, by name or pattern (`/head/*`).
    keep: Vec<String>,

    /// The only layers whose channels are cut, by name or pattern; all if none are given.
    include: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Scope {
    /// All of them, so that some layers lose more than others.
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
            criterion: Criterion::default(),
            samples: 64,
            scope: Scope::default(),
            reconstruct: false,
            round_to: 1,
            minimum: 1,
            keep: Vec::new(),
            include: Vec::new(),
        }
    }
}

impl Prune {
    fn amount(&self) -> Result<Amount, PassError> {
        let given = [
            self.channels.map(Amount::Channels),
            self.parameters.map(Amount::Parameters),
            self.bytes.map(Amount::Bytes),
            self.macs.map(Amount::Macs),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(amount), None) => Ok(amount),
            _ => Err(PassError("one of `channels`, `parameters`, `bytes` and `macs` says how much to cut".into())),
        }
    }

    /// For each class, whether the user holds it: a layer that is to be kept, or none that is included, gives it.
    fn held(&self, model: &Model, channels: &Channels, layers: &[Layer]) -> Result<Vec<bool>, PassError> {
        let (keep, include) = (Prune::globs(&self.keep, "keep")?, Prune::globs(&self.include, "include")?);
        let is_named = |set: &GlobSet, layer: &Layer| {
            let node = model.node(layer.node);
            set.is_match(&node.name) || node.outputs.iter().flatten().any(|&y| set.is_match(&model.value(y).name))
        };
        let mut held = vec![!self.include.is_empty(); channels.len()];
        let mut hold = |layer: &Layer, holds: bool| {
            let lane = layer.gives.map(|(_, lane)| lane);
            let classes = lane.into_iter().flat_map(|lane| channels.classes_of(lane));
            classes.for_each(|class| held[class.index()] = holds);
        };
        layers.iter().filter(|layer| is_named(&include, layer)).for_each(|layer| hold(layer, false));
        layers.iter().filter(|layer| is_named(&keep, layer)).for_each(|layer| hold(layer, true));
        Ok(held)
    }

    fn data(&self, cx: &Context) -> Result<Dataset, PassError> {
        let data = cx.data.as_ref().ok_or_else(|| PassError("it needs samples; give a file with `--data`".into()))?;
        Ok(data.some(cx.seed, self.samples))
    }

    /// Samples in the order of the model's inputs; of many, some at random.
    fn samples(&self, model: &Model, cx: &Context) -> Result<Samples, PassError> {
        let data = self.data(cx)?;
        let original = cx.original.as_deref().unwrap_or(model);
        let pairing = Pairing::of(original, model)
            .map_err(|error| PassError(format!("the model does not fit the original: {error}")))?;
        Ok(Samples { inputs: (0..data.len()).map(|index| pairing.inputs(&data.sample(index))).collect() })
    }

    fn globs(patterns: &[String], option: &str) -> Result<GlobSet, PassError> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern).map_err(|error| PassError(format!("`{option}`: {error}")))?);
        }
        set.build().map_err(|error| PassError(format!("`{option}`: {error}")))
    }
}

impl Pass for Prune {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let amount = self.amount()?;
        let mut small = model.clone();
        own_vectors(&mut small);
        let shapes = Shapes::infer(&small);
        let channels = Channels::of(&small, &shapes);
        let layers = layers(&small, &channels);
        let held = self.held(&small, &channels, &layers)?;
        let groups = Groups::new(&small, &channels, &layers, |class| !held[class.index()]);
        Reach::of(&channels, &layers).tell(&small, cx);
        if groups.members.is_empty() {
            return Ok(());
        }
        let samples = if self.criterion.needs_samples() { Some(self.samples(&small, cx)?) } else { None };
        let subject = Subject { model: &small, channels: &channels, layers: &layers, groups: &groups, seed: cx.seed };
        let scores = criterion::scores(self.criterion, subject, samples.as_ref())?;
        let order = criterion::order(&groups, &scores, self.scope == Scope::Local);
        let rules = Rules { minimum: self.minimum, multiple: self.round_to };
        let removed = groups.select(&small, &channels, &shapes, &order, amount, rules);
        let count = removed.iter().filter(|&&removed| removed).count();
        if count == 0 {
            cx.note("nothing is cut: the layers are at their minimum, or less than one channel was asked for");
            return Ok(());
        }
        let before = Cost::of(&small, &shapes);
        let cut = Cut::new(&channels, &shapes, &removed);
        let [parameters, _, macs] = cut.cost(&small);
        let whole = small.clone();
        cut.apply(&mut small);
        if self.reconstruct {
            let data = self.data(cx)?;
            let watch = Watch { cancelled: &cx.cancelled, ..Watch::default() };
            let learned = reconstruct(&whole, &mut small, &cut, &layers, &data, cx.seed, watch);
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
        Ok(())
    }

    fn check(&self) -> Result<(), PassError> {
        let not = |holds: bool, what: &str| if holds { Ok(()) } else { Err(PassError(what.into())) };
        let (Amount::Channels(share) | Amount::Parameters(share) | Amount::Bytes(share) | Amount::Macs(share)) =
            self.amount()?;
        not(share > 0.0 && share < 1.0, "what is cut is a share between 0 and 1")?;
        not(self.samples > 0, "`samples` is 0")?;
        not(self.round_to > 0, "`round-to` is 0")?;
        not(self.minimum > 0, "`minimum` is 0: a layer without channels is none")
    }

    fn needs(&self) -> Needs {
        if self.criterion.needs_samples() || self.reconstruct { Needs::Inputs } else { Needs::Nothing }
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
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
        let lanes = || layers.iter().filter_map(|layer| layer.gives).map(|(_, lane)| lane);
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
