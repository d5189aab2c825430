//! Pruning: networks with fewer channels, heads, neurons and words.

mod criterion;
mod cut;
mod edit;
mod fit;
mod gradients;
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
use crate::pass::{Context, Effect, Needs, Pass, PassError, PassInfo};
use crate::passes::names::{globs, is_named};
use crate::passes::rewind::rewound;
use crate::rewrite::Miss;
use criterion::{Criterion, Subject};
use cut::Cut;
pub(super) use gradients::{Sum, gradients};
use layer::{Layer, layers};
use own::untie;
use probe::Samples;
use quantized::in_floats;
use reconstruct::reconstruct;
use select::{Amount, Groups, Rules};
pub use sensitivity::{CutSensitivity, GroupSensitivity};
use vocabulary::Vocabulary;
pub(super) use weighed::Direction;

pub const INFO: PassInfo = PassInfo::of::<Prune>(
    "prune",
    "Cut channels, heads and neurons that are missed least, and words that do not occur",
);

/// Cuts channels out of the model, whole: of convolutions and products, neurons between two products, heads of attentions, states
/// of recurrent layers, the width of a residual stream. Channels that go together are found across the whole network, and cut
/// from all weights that have them, in integers too. The result is a smaller network in ordinary operators; it is to be trained
/// afterwards (`distill`), or to be cut by little.
///
/// One of `channels`, `parameters`, `bytes` and `macs` says how much is cut. With `vocabulary`, which may also stand alone,
/// embedding tables lose the rows of ids that do not occur in the samples; the share to cut is one of what that leaves.
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

    /// Embedding tables keep the rows of ids that occur so often in the samples, once or more; all other ids share one row. A
    /// map of ids goes into the model, so that its tokenizer stays as it is. The shared row learns in `distill` where its ids
    /// occur: with 2, from those that occur once, or as what hides tokens (`mask-token`).
    vocabulary: Option<u64>,

    /// The id whose row the others share ([UNK], say); if none is given, it is the mean of theirs.
    unknown: Option<usize>,

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

    /// Layers whose channels stay, and tables whose rows do, by name or pattern (`/head/*`).
    keep: Vec<String>,

    /// The only layers whose channels are cut, by name or pattern; all if none are given.
    include: Vec<String>,

    /// The file of the network before it was trained: the weights that are left are taken from it, so that they learn again from
    /// where they started (a lottery ticket).
    rewind: Option<PathBuf>,
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
            vocabulary: None,
            unknown: None,
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
    fn amount(&self) -> Result<Option<Amount>, PassError> {
        let given = [
            self.channels.map(Amount::Channels),
            self.parameters.map(Amount::Parameters),
            self.bytes.map(Amount::Bytes),
            self.macs.map(Amount::Macs),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(amount), None) => Ok(Some(amount)),
            (None, None) if self.vocabulary.is_some() => Ok(None),
            _ => Err(PassError("one of `channels`, `parameters`, `bytes` and `macs` says how much to cut".into())),
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
        Ok(Some(Samples { inputs: Prune::inputs(&data, model, cx)?, labels: data.classes() }))
    }

    fn share_rows(&self, model: &mut Model, least: u64, cx: &mut Context) -> Result<(), PassError> {
        let samples = Prune::inputs(Prune::all_data(cx)?, model, cx)?;
        let keep = globs(&self.keep, "keep")?;
        let vocabulary = Vocabulary { least, unknown: self.unknown };
        vocabulary.apply(model, &samples, |model, lookup| is_named(model, lookup, &keep), cx)
    }

    fn cut(&self, model: &mut Model, amount: Amount, cx: &mut Context) -> Result<(), PassError> {
        let mut small = model.clone();
        untie(&mut small);
        let start = self.rewind.as_deref().map(|file| rewound(&small, file)).transpose()?;
        let shapes = Shapes::infer(&small);
        let channels = Channels::of(&small, &shapes);
        let floats = in_floats(&small);
        let layers = layers(&floats, &channels);
        let held = self.held(&small, &channels, &layers)?;
        let groups = Groups::new(&small, &channels, &layers, |class| !held[class.index()]);
        Reach::of(&channels, &layers).tell(&small, cx);
        if groups.members.is_empty() {
            return Ok(());
        }
        let samples = self.learned_from(&small, cx)?;
        let subject = Subject { model: &floats, channels: &channels, layers: &layers, groups: &groups, seed: cx.seed };
        let scores = criterion::scores(self.criterion, subject, samples.as_ref())?;
        let savings = self.criterion.is_loss().then(|| groups.savings(&small, &channels, &shapes, amount));
        let order = criterion::order(&groups, &scores, savings.as_deref(), self.scope == Scope::Local);
        let rules = Rules { minimum: self.minimum, multiple: self.round_to };
        let removed = groups.select(&small, &channels, &shapes, &order, amount, rules);
        let count = removed.iter().filter(|&&removed| removed).count();
        if count == 0 {
            cx.note("nothing is cut: the layers are at their minimum, or less than one channel was asked for");
            return Ok(());
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
        match self.amount()? {
            Some(amount) => self.cut(model, amount, cx),
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<(), PassError> {
        let not = |holds: bool, what: &str| if holds { Ok(()) } else { Err(PassError(what.into())) };
        if let Some(Amount::Channels(share) | Amount::Parameters(share) | Amount::Bytes(share) | Amount::Macs(share)) =
            self.amount()?
        {
            not(share > 0.0 && share < 1.0, "what is cut is a share between 0 and 1")?;
        }
        not(self.vocabulary != Some(0), "`vocabulary` is 0: ids that occur are counted from 1")?;
        not(self.unknown.is_none() || self.vocabulary.is_some(), "`unknown` is for a `vocabulary` that is pruned")?;
        not(self.samples > 0, "`samples` is 0")?;
        not(
            self.rewind.is_none() || !self.reconstructs() && self.vocabulary.is_none(),
            "`rewind` takes weights from before training: `reconstruct`, `criterion=obs` and `vocabulary` are for trained ones",
        )?;
        not(self.round_to > 0, "`round-to` is 0")?;
        not(self.minimum > 0, "`minimum` is 0: a layer without channels is none")
    }

    fn needs(&self) -> Needs {
        if self.criterion == Criterion::Snip {
            Needs::Labels
        } else if self.criterion.needs_samples() || self.reconstruct || self.vocabulary.is_some() {
            Needs::Inputs
        } else {
            Needs::Nothing
        }
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
mod tests {
    use super::*;
    use crate::analysis::FixedSizes;
    use crate::data::synthesize;
    use crate::pass::Pipeline;
    use crate::passes;
    use crate::runtime::Runner;

    /// Channels 1 and 3 of five are small wherever they are looked at.
    const NETWORK: &str = r#"
        <ir_version: 10, opset_import: ["": 21]>
        network (float[N,2,3,3] x) => (float[N,2] y)
        <
            float[5,2,1,1] a = {1, 2, 0.01, 0.02, -2, 1, 0.01, -0.01, 1.5, -1},
            float[5] scale = {1, 0.1, 1.5, 0.1, 2},
            float[5] bias = {0.1, 0.01, -0.1, 0.01, 0.2},
            float[5] mean = {0, 0, 0, 0, 0},
            float[5] var = {1, 1, 1, 1, 1},
            float[5,2] b = {1, -1, 0.01, 0.02, 2, 1, 0.01, 0.02, -1, 2}
        >
        {
            p = Conv (x, a)
            n = BatchNormalization (p, scale, bias, mean, var)
            r = Sigmoid (n)
            g = GlobalAveragePool (r)
            f = Flatten (g)
            y = MatMul (f, b)
        }"#;

    fn pruned(text: &str, options: &str) -> (Model, Context) {
        let mut model = Model::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let data = synthesize(&model, &FixedSizes::default(), 5, 24, |_| Ok(())).expect("inputs can be made up");
        let mut cx = Context { data: Some(data), ..Context::default() };
        let pipeline =
            Pipeline::parse(&format!("prune({options})"), passes::ALL).unwrap_or_else(|error| panic!("{error}"));
        pipeline.run(&mut model, &mut cx).unwrap_or_else(|error| panic!("{error}"));
        model.verify().unwrap();
        (model, cx)
    }

    fn constant<'m>(model: &'m Model, name: &str) -> &'m Tensor {
        let (value, _) = model.all_values().find(|(_, value)| value.name == name).expect("there is such a value");
        model.constant(value).expect("it is a constant")
    }

    #[test]
    fn criteria_find_channels_that_do_little() {
        for criterion in ["l1", "l2", "batchnorm", "activation", "taylor", "fisher", "obs"] {
            let (model, _) = pruned(NETWORK, &format!("channels=0.4,criterion={criterion}"));
            assert_eq!(*constant(&model, "scale").floats().unwrap(), [1.0, 1.5, 2.0], "{criterion}");
        }
    }

    #[test]
    fn the_median_finds_channels_that_others_can_stand_for() {
        let text = NETWORK.replace("0.01, 0.02, -2, 1, 0.01, -0.01, 1.5, -1", "1, 2, -2, 1, 1, 1.9, 1.5, -1");
        let (model, _) = pruned(&text, "channels=0.2,criterion=median");
        assert_eq!(constant(&model, "scale").len(), 4);
        assert!(constant(&model, "scale").floats().unwrap().contains(&2.0));
    }

    #[test]
    fn random_channels_depend_on_the_seed_alone() {
        let cut = |seed: u64| {
            let mut model = Model::parse(NETWORK).unwrap();
            let mut cx = Context { seed, ..Context::default() };
            let pipeline = Pipeline::parse("prune(channels=0.4,criterion=random)", passes::ALL).unwrap();
            pipeline.run(&mut model, &mut cx).unwrap();
            constant(&model, "scale").floats().unwrap().into_owned()
        };
        assert_eq!(cut(1), cut(1));
        assert!((2..9).any(|seed| cut(seed) != cut(1)));
    }

    #[test]
    fn what_a_layer_lost_is_made_up_for_where_another_channel_says_the_same() {
        // Channel 3 is channel 0 again; rounding apart, nothing is lost with it.
        let text = NETWORK
            .replace("0.01, -0.01, 1.5, -1", "1, 2, 1.5, -1")
            .replace("{1, 0.1, 1.5, 0.1, 2}", "{1, 0.1, 1.5, 1, 2}")
            .replace("{0.1, 0.01, -0.1, 0.01, 0.2}", "{0.1, 0.01, -0.1, 0.1, 0.2}")
            .replace("0.01, 0.02, -1, 2}", "0.5, 0.5, -1, 2}");
        let plain = error(&text, "channels=0.4,criterion=batchnorm");
        let learned = error(&text, "channels=0.4,criterion=batchnorm,reconstruct=true");
        assert!(learned < 0.2 * plain, "{learned} for {plain}");
    }

    /// How far the outputs of a pruned network are from those of the original: the sum of squares over all samples.
    fn error(text: &str, options: &str) -> f64 {
        let original = Model::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let data = synthesize(&original, &FixedSizes::default(), 9, 24, |_| Ok(())).unwrap();
        let (small, _) = pruned(text, options);
        let [exact, small] = [&original, &small].map(|model| Runner::new(model).unwrap());
        let error = |index: usize| {
            let sample = data.sample(index);
            let [a, b] = [&exact, &small].map(|runner| runner.run(&sample).unwrap().remove(0));
            let pairs = a.floats().unwrap().into_owned().into_iter().zip(b.floats().unwrap().into_owned());
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        (0..data.len()).map(error).sum()
    }

    #[test]
    fn a_depthwise_layer_makes_up_for_what_is_lost_before_it() {
        // Nothing else learns here: the transposed convolution that reads the cut channel stays as it is.
        let text = r#"
            <ir_version: 10, opset_import: ["": 21]>
            network (float[N,2,3,3] x) => (float[N,3,2,2] y)
            <
                float[4,2,1,1] a = {1, 2, 1, 1.8, -2, 1, 1.5, -1},
                float[4,3,1,1] b = {1, -1, 0.5, 0.5, 0.4, 0.3, 2, 1, -1, 1, 2, -1},
                float[3,1,2,2] depthwise = {1, 0.5, -0.5, 1, 1, 1, 0.5, 1, -1, 1, 1, 0.5}
            >
            {
                [first] p = Conv (x, a)
                s = Sigmoid (p)
                t = ConvTranspose (s, b)
                y = Conv <group = 3> (t, depthwise)
            }"#;
        let options = "channels=0.2,criterion=activation";
        let (plain, learned) = (error(text, options), error(text, &format!("{options},reconstruct=true")));
        assert!(learned < 0.5 * plain, "{learned} for {plain}");
        let (_, cx) = pruned(text, &format!("{options},reconstruct=true"));
        assert!(cx.reports[0].applied.contains_key("layer reconstructed"));
    }

    #[test]
    fn a_block_makes_up_for_what_its_residual_stream_has_lost() {
        // Two layers share `b`, so that neither learns: what `h` lost is missing in `u`.
        let text = r#"
            <ir_version: 10, opset_import: ["": 21]>
            network (float[N,3] x) => (float[N,2] y, float[N,2] z)
            <
                float[3,4] a = {1, -1, 0.4, 0.3, 0.5, 2, 0.3, 0.4, -1, 1, 0.4, 0.2},
                float[4,2] b = {1, 0.5, -1, 1, 0.7, -0.6, 0.5, 0.9},
                float[2,2] c = {1, -0.5, 0.5, 1},
                float[2] bias = {0.1, 0.2}
            >
            {
                p = MatMul (x, a)
                h = Tanh (p)
                u = MatMul (h, b)
                square = Mul (h, h)
                z = MatMul (square, b)
                w = MatMul (u, c)
                v = Add (w, bias)
                y = Add (u, v)
            }"#;
        let options = "channels=0.25";
        let (plain, learned) = (error(text, options), error(text, &format!("{options},reconstruct=true")));
        assert!(learned < 0.85 * plain, "{learned} for {plain}");
    }

    #[test]
    fn what_a_channel_saves_counts() {
        // All weights are alike: a neuron of the last pair saves 9 parameters, one of the first 4.
        let text = r#"
            <ir_version: 10, opset_import: ["": 21]>
            network (float[N,2] x) => (float[N,8] y)
            <float[2,6] a = ?1, float[6,2] b = ?2, float[2,6] c = ?3, float[6,8] d = ?4>
            { p = MatMul (x, a) q = Relu (p) r = MatMul (q, b) s = Softmax (r) t = MatMul (s, c) u = Relu (t) y = MatMul (u, d) }"#;
        let ones = |count: usize| format!("{{{}}}", vec!["1"; count].join(","));
        let text = [("?1", 12), ("?2", 12), ("?3", 12), ("?4", 48)]
            .into_iter()
            .fold(text.to_string(), |text, (mark, count)| text.replace(mark, &ones(count)));
        let (model, _) = pruned(&text, "parameters=0.2");
        assert_eq!((constant(&model, "a").len(), constant(&model, "c").len()), (12, 8));
        // But the less a layer has left, the more it loses.
        let (model, _) = pruned(&text, "parameters=0.55");
        assert!(constant(&model, "a").len() < 12 && constant(&model, "c").len() > 2);
    }

    #[test]
    fn weights_are_seen_as_large_as_their_normalization_makes_them() {
        // The channel of the smallest weights is scaled up most.
        let text = NETWORK
            .replace("0.01, 0.02, -2, 1, 0.01, -0.01, 1.5, -1", "0.1, 0.2, -2, 1, 1, 1, 1.5, -1")
            .replace("{1, 0.1, 1.5, 0.1, 2}", "{1, 20, 1.5, 0.01, 2}")
            .replace("0.01, 0.02, 2, 1, 0.01, 0.02, -1, 2}", "1, 1, 2, 1, 1, 1, -1, 2}");
        let (model, _) = pruned(&text, "channels=0.2");
        assert_eq!(*constant(&model, "scale").floats().unwrap(), [1.0, 20.0, 1.5, 2.0]);
    }

    #[test]
    fn amounts_are_shares_and_one_is_given() {
        let refused =
            |options: &str| Pipeline::parse(&format!("prune({options})"), passes::ALL).err().map(|e| e.to_string());
        for options in
            ["", "channels=0.3,macs=0.5", "channels=0", "macs=1", "channels=0.3,minimum=0", "channels=0.3,round-to=0"]
        {
            assert!(refused(options).is_some(), "{options}");
        }
        assert_eq!(refused("bytes=0.5,criterion=fisher,samples=8"), None);
    }

    #[test]
    fn as_much_is_cut_as_is_asked_for() {
        let before = Cost::of(&Model::parse(NETWORK).unwrap(), &Shapes::infer(&Model::parse(NETWORK).unwrap()));
        let after = |options: &str| {
            let (model, _) = pruned(NETWORK, options);
            Cost::of(&model, &Shapes::infer(&model))
        };
        assert!(after("macs=0.5").macs * 2 <= before.macs);
        assert!(after("parameters=0.3").parameters as f64 <= 0.7 * before.parameters as f64);
        assert!(after("bytes=0.3").weight_bytes as f64 <= 0.7 * before.weight_bytes as f64);
        let rounded = after("channels=0.5,round-to=2");
        assert_eq!(rounded.parameters, 2 * 2 + 4 * 2 + 2 * 2);
    }
}
