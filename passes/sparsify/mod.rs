//! Sparsification: weights that become zero one by one, or so many of each group.

mod compensate;
mod gradual;
mod score;
mod select;
mod store;
mod weight;

use std::path::PathBuf;

use globset::GlobSet;
use ndarray::{Array2, Array3};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::{Dataset, Random};
use crate::ir::{Model, NodeId, Tensor};
use crate::measure::{Reading, Watch, gzip_bytes};
use crate::onnx;
use crate::pass::{Context, Effect, Needs, Pass, PassError, PassInfo, refuse_unless};
use crate::passes::names::{globs, is_named};
use crate::passes::quantize::{Layer, is_layer};
use crate::passes::rewind::rewound;
use crate::require;
use crate::rewrite::{Match, Miss};
use crate::train::weights::separate;
use score::{Subject, scores};
use select::{Amount, Pattern, removed};
use store::store;
use weight::Weight;

pub const INFO: PassInfo =
    PassInfo::of::<Sparsify>("sparsify", "Let single weights become zero, as many as are asked for");

/// Lets weights of convolutions and products become zero: the share `sparsity` of them, or with `pattern=2:4` two of four
/// inputs side by side, for devices that skip them. The network keeps its layers and sizes, and on CPUs its speed; its file
/// compresses better, which the report tells (`gzip`).
///
/// What trains weights afterwards fills the zeros again, unless it is told to keep them, `distill(keep-zeros=true)`; `quantize` keeps
/// them but in `mode=qat`. With `schedule=gradual` weights become zero bit by bit while the `distill` behind this pass trains.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Sparsify {
    /// The share of the weights that are zero afterwards.
    sparsity: Option<f64>,

    /// Of so many inputs side by side so many keep their weights, in each output of each layer and at each place under its
    /// window: `2:4`. Layers whose inputs are no multiple stay as they are.
    pattern: Option<Pattern>,

    /// When weights become zero.
    schedule: Schedule,

    /// The share of the steps of training in which zeros become more, with `schedule=gradual`: 0.75 if nothing is given. In the
    /// others the weights that are left learn to do without.
    until: Option<f64>,

    /// How it is found which weights are missed least.
    criterion: Criterion,

    /// Among which weights the least important are looked for, without a pattern: those of one layer if nothing is given, with
    /// `criterion=wanda` those of one output.
    scope: Option<Scope>,

    /// How many samples are learned from, if any; of more, so many are chosen at random.
    samples: usize,

    /// Layers whose weights stay, by name or pattern (`/head/*`).
    keep: Vec<String>,

    /// The only layers that lose weights, by name or pattern; all if none are given.
    include: Vec<String>,

    /// The file of the network before it was trained: the weights that are left are taken from it, so that they learn again from
    /// where they started (a lottery ticket).
    rewind: Option<PathBuf>,

    /// How weights are written.
    store: Store,
}

/// When weights become zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Schedule {
    /// In this pass.
    #[default]
    Once,
    /// While `distill` trains, which has to be the next pass: their share is s·(1 - (1 - t/T)³) at step t, where T is the end of the
    /// rise, and those of them are zero that are smallest then. It keeps them zero, and the best epoch behind the rise.
    Gradual,
}

/// How it is found which weights are missed least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Criterion {
    /// Small ones.
    #[default]
    Magnitude,
    /// Those without which outputs change least, to first order; needs samples.
    Gradient,
    /// Those that are small times the norm of what they are multiplied with; needs samples.
    Wanda,
    /// Those without which the outputs of their layer change least when the other weights make up for it (SparseGPT), layer after
    /// layer; needs samples.
    Hessian,
    /// Those that matter least for the loss by labels, to first order: for networks that are not trained yet (SNIP); needs
    /// samples with labels.
    Snip,
    /// Any, chosen by the seed: what other criteria are compared with.
    Random,
}

impl Criterion {
    fn needs_samples(self) -> bool {
        matches!(self, Criterion::Gradient | Criterion::Wanda | Criterion::Hessian | Criterion::Snip)
    }

    /// Whether it looks at what layers read.
    fn reads_rows(self) -> bool {
        matches!(self, Criterion::Wanda | Criterion::Hessian)
    }
}

/// Among which weights the least important are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Scope {
    /// Those of one output, so that each loses the same share.
    Output,
    /// Those of one layer, so that all layers lose the same share.
    Local,
    /// All of them, so that some layers lose more than others.
    Global,
}

/// How weights are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Store {
    /// With their zeros.
    #[default]
    Dense,
    /// Without them, as sparse initializers, where that takes fewer bytes: above two thirds of zeros, as each place takes
    /// eight. Other passes leave such weights as they are: for the end of a pipeline.
    Sparse,
}

impl Default for Sparsify {
    fn default() -> Sparsify {
        Sparsify {
            sparsity: None,
            pattern: None,
            schedule: Schedule::default(),
            until: None,
            criterion: Criterion::default(),
            scope: None,
            samples: 128,
            keep: Vec::new(),
            include: Vec::new(),
            rewind: None,
            store: Store::default(),
        }
    }
}

/// Elements of all rows that are looked at of one layer, and rows that say enough.
const ELEMENTS: usize = 16 << 20;
const ROWS: usize = 20_000;

/// How a layer reads the rows that its weight is multiplied with.
struct ReadRows {
    reading: Reading,
    /// Elements of a row, of all groups.
    width: usize,
}

impl ReadRows {
    fn of(model: &Model, weight: &Weight) -> Match<ReadRows> {
        const UNREAD: Miss = Miss("its criterion looks at what layers read, which is not known of this one");
        let reading = Reading::of(model, weight.node).ok_or(UNREAD)?;
        let (rows, columns) = weight.dim();
        require!(rows % reading.groups() == 0, "its outputs are no multiple of its groups");
        let is_shared = model.value(weight.value).uses.len() > 1;
        require!(!is_shared, "its weight is shared, so that its criterion cannot tell what it is multiplied with");
        Ok(ReadRows { width: columns * reading.groups(), reading })
    }

    /// Rows of one of so many samples, `[groups, rows, row]`.
    fn rows(&self, x: &Tensor, samples: usize, random: &mut Random) -> Option<Array3<f32>> {
        let count = (ELEMENTS / self.width.max(1)).min(ROWS).div_ceil(samples.max(1));
        self.reading.rows(x, count, random)
    }
}

/// The weights that lose elements, and what is known of each.
#[derive(Default)]
struct Found {
    weights: Vec<Weight>,
    /// Where the criterion asks.
    reads: Vec<ReadRows>,
    /// The columns of the groups of a pattern.
    columns: Vec<Vec<usize>>,
}

impl Sparsify {
    fn amount(&self) -> Result<Amount, PassError> {
        match (self.sparsity, self.pattern) {
            (Some(share), None) => Ok(Amount::Share(share)),
            (None, Some(pattern)) => Ok(Amount::Pattern(pattern)),
            _ => Err(PassError("one of `sparsity` and `pattern` says how many weights become zero".into())),
        }
    }

    fn found(&self, model: &Model, cx: &mut Context) -> Result<Found, PassError> {
        let (keep, include) = (globs(&self.keep, "keep")?, globs(&self.include, "include")?);
        let mut found = Found::default();
        for node in model.nodes_of(model.main).filter(|&node| is_asked(model, node, &keep, &include)) {
            let Ok(layer) = Layer::read(model, node).map_err(|miss| self.tell(model, node, miss, cx)) else { continue };
            if found.weights.iter().any(|weight| weight.value == layer.weight) {
                continue;
            }
            let weight = Weight::of(model, &layer);
            if let Err(miss) = self.add(&mut found, model, weight) {
                cx.missed("weight", node, miss);
            }
        }
        Ok(found)
    }

    /// Layers only are worth a word.
    fn tell(&self, model: &Model, node: NodeId, miss: Miss, cx: &mut Context) {
        if is_layer(&model.node(node).op) {
            cx.missed("weight", node, miss);
        }
    }

    fn add(&self, found: &mut Found, model: &Model, weight: Weight) -> Match<()> {
        let columns = match self.pattern {
            Some(pattern) => {
                let columns = pattern.columns(weight.inputs(), weight.taps);
                columns.ok_or(Miss("its inputs are no multiple of the pattern"))?
            }
            None => Vec::new(),
        };
        if self.criterion.reads_rows() {
            found.reads.push(ReadRows::of(model, &weight)?);
        }
        found.columns.push(columns);
        found.weights.push(weight);
        Ok(())
    }

    /// The matrices of all weights behind the pass.
    fn sparse(&self, found: &Found, model: &Model, cx: &Context) -> Result<Vec<Array2<f32>>, PassError> {
        let amount = self.amount()?;
        let data: Option<Dataset> = match self.criterion.needs_samples() {
            true => cx.data.as_ref().map(|data| data.some(cx.seed, self.samples)),
            false => None,
        };
        let watch = Watch { cancelled: &cx.cancelled, ..Watch::default() };
        let (weights, reads) = (&found.weights[..], &found.reads[..]);
        let subject = Subject { model, weights, reads, data: data.as_ref(), seed: cx.seed, watch };
        if self.criterion == Criterion::Hessian {
            return compensate::sparsified(subject, amount, &found.columns, subject.data()?);
        }
        let scores = scores(self.criterion, subject)?;
        let removed = removed(self.compared(), amount, &scores, &found.columns);
        let mut matrices = subject.matrices();
        matrices.par_iter_mut().zip(removed).for_each(|(matrix, removed)| {
            matrix.iter_mut().zip(removed).filter(|(_, removed)| *removed).for_each(|(w, _)| *w = 0.0);
        });
        Ok(matrices)
    }

    /// Among which weights a share goes.
    fn compared(&self) -> Scope {
        let by_criterion = if self.criterion == Criterion::Wanda { Scope::Output } else { Scope::Local };
        self.scope.unwrap_or(by_criterion)
    }

    fn apply(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let mut sparse = model.clone();
        separate(&mut sparse);
        let found = self.found(&sparse, cx)?;
        if found.weights.is_empty() {
            cx.note("no layer has weights that can become zero");
            return Ok(());
        }
        let before = zeros_of(&sparse, &found.weights);
        if self.schedule == Schedule::Gradual {
            let zeros = before.iter().sum();
            *model = sparse;
            return self.leave(found, zeros, cx);
        }
        let start = self.rewind.as_deref().map(|file| rewound(&sparse, file)).transpose()?;
        let mut matrices = self.sparse(&found, &sparse, cx)?;
        if let Some((start, rewound)) = start {
            sparse = start;
            cx.applied("rewound_constant", rewound);
            for (weight, matrix) in found.weights.iter().zip(&mut matrices) {
                let first = weight.matrix(sparse.constant(weight.value).expect("weights are constants"));
                matrix.zip_mut_with(&first, |w, &first| *w = if *w == 0.0 { 0.0 } else { first });
            }
        }
        for (weight, matrix) in found.weights.iter().zip(&matrices) {
            sparse.set_constant(weight.value, weight.tensor(matrix));
        }
        let after = zeros_of(&sparse, &found.weights);
        let old = model.clone();
        *model = sparse;
        cx.inferred = None;
        let [zeros_before, zeros_after] = [&before, &after].map(|zeros| zeros.iter().sum::<usize>());
        cx.applied("weight", zeros_after.saturating_sub(zeros_before));
        self.report(model, &found, &after, zeros_before, cx);
        if self.store == Store::Sparse {
            let stored = store(model, &found.weights);
            cx.applied("sparse_initializer", stored);
            if stored < found.weights.len() {
                let others = found.weights.len() - stored;
                cx.note(format!("{others} weights are stored with their zeros, which takes fewer bytes"));
            }
        }
        let size = |model: &Model| onnx::encode(model).map(|bytes| gzip_bytes(&bytes)).map_err(failed);
        cx.note(format!("gzip: {} -> {} bytes", size(&old)?, size(model)?));
        Ok(())
    }

    fn report(&self, model: &Model, found: &Found, zeros: &[usize], before: usize, cx: &mut Context) {
        let sizes: Vec<usize> = found.weights.iter().map(|weight| weight.dim().0 * weight.dim().1).collect();
        let (all, sum) = (sizes.iter().sum::<usize>(), zeros.iter().sum::<usize>());
        let share = |zeros: usize, of: usize| 100.0 * zeros as f64 / of.max(1) as f64;
        let names: Vec<String> = found.weights.iter().map(|weight| model.label(weight.node)).collect();
        for ((layer, &weights), &zeros) in names.iter().zip(&sizes).zip(zeros) {
            cx.log.push(json!({ "layer": layer, "weights": weights, "zeros": zeros }));
        }
        cx.note(format!(
            "{sum} of {all} weights of {} layers are zero: {:.1} %, before {:.1} %",
            sizes.len(),
            share(sum, all),
            share(before, all)
        ));
        let shares: Vec<f64> = zeros.iter().zip(&sizes).map(|(&zeros, &of)| share(zeros, of)).collect();
        let order = |a: &usize, b: &usize| shares[*a].total_cmp(&shares[*b]);
        let ends = (0..shares.len()).min_by(order).zip((0..shares.len()).max_by(order));
        if let Some((low, high)) = ends.filter(|&(low, high)| shares[high] - shares[low] >= 1.0) {
            let [low, high] = [low, high].map(|place| format!("{:.1} % in {}", shares[place], names[place]));
            cx.note(format!("from {low} to {high}"));
        }
        for (layer, _) in names.iter().zip(&shares).filter(|(_, share)| **share == 100.0) {
            cx.note(format!("{layer} has no weights left"));
        }
    }
}

fn is_asked(model: &Model, node: NodeId, keep: &GlobSet, include: &GlobSet) -> bool {
    !is_named(model, node, keep) && (include.is_empty() || is_named(model, node, include))
}

/// The zeros of each weight.
fn zeros_of(model: &Model, weights: &[Weight]) -> Vec<usize> {
    let zeros = |weight: &Weight| {
        let tensor = model.constant(weight.value).expect("weights are constants");
        tensor.floats().map_or(0, |floats| floats.iter().filter(|x| **x == 0.0).count())
    };
    weights.par_iter().map(zeros).collect()
}

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(error.to_string())
}

impl Pass for Sparsify {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        self.apply(model, cx)
    }

    fn check(&self) -> Result<(), PassError> {
        if let Amount::Share(share) = self.amount()? {
            refuse_unless(share > 0.0 && share < 1.0, "`sparsity` is a share between 0 and 1")?;
        }
        let has_scope = self.pattern.is_none() && self.criterion != Criterion::Hessian;
        refuse_unless(
            self.scope.is_none() || has_scope,
            "`scope` says nothing with `pattern`, which looks at each group, and with `criterion=hessian`, which looks at each \
             layer; leave it out",
        )?;
        refuse_unless(self.samples > 0, "`samples` is 0")?;
        self.check_schedule()
    }

    fn leads_to(&self) -> Option<(&'static str, &'static str)> {
        (self.schedule == Schedule::Gradual).then_some(("distill", "schedule=gradual"))
    }

    fn needs(&self) -> Needs {
        match self.criterion {
            Criterion::Snip => Needs::Labels,
            criterion if criterion.needs_samples() => Needs::Inputs,
            _ => Needs::Nothing,
        }
    }

    fn effect(&self) -> Effect {
        Effect::Lossy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::write_npz;
    use crate::pass::{Pipeline, Verify};
    use crate::passes;
    use crate::runtime::Runner;

    const CRITERIA: [&str; 6] = ["magnitude", "gradient", "wanda", "hessian", "snip", "random"];

    /// A convolution of two groups, a depthwise one and a product, and a Gemm that reads what goes together: of each channel
    /// there are two that differ by little.
    fn network() -> Model {
        let mut random = Random::new(5, 0);
        let mut numbers = |count: usize| -> String {
            let numbers: Vec<String> = (0..count).map(|_| format!("{:.3}", random.normal())).collect();
            numbers.join(",")
        };
        let text = format!(
            r#"<ir_version: 10, opset_import: ["": 21]>
            net (float[1,8,6,6] x) => (float[1,4] y)
            <
                float[8,4,3,3] a = {{{}}}, float[8,1,3,3] d = {{{}}}, float[8,12] m = {{{}}}, float[4,12] g = {{{}}},
                float[8] b = {{{}}}
            >
            {{
                p = Conv <group = 2, pads = [1, 1, 1, 1]> (x, a, b)
                r = Relu (p)
                q = Conv <group = 8> (r, d)
                s = GlobalAveragePool (q)
                f = Flatten (s)
                n = MatMul (f, m)
                t = Tanh (n)
                y = Gemm <transB = 1, alpha = 0.5> (t, g)
            }}"#,
            numbers(8 * 4 * 9),
            numbers(8 * 9),
            numbers(8 * 12),
            numbers(4 * 12),
            numbers(8),
        );
        Model::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn samples(model: &Model) -> Dataset {
        let mut random = Random::new(3, 0);
        let x = Tensor::from_vec(vec![24, 8, 6, 6], (0..24 * 8 * 36).map(|_| random.normal()).collect());
        let y = Tensor::from_vec(vec![24], (0..24).map(|_| random.below(4) as i64).collect());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.npz");
        write_npz(&file, &[("x".into(), x), ("y".into(), y)]).unwrap();
        Dataset::open(&file, model).unwrap()
    }

    fn sparsified(model: &Model, options: &str) -> (Model, Context) {
        let mut sparse = model.clone();
        let observers = vec![Box::new(Verify) as Box<_>];
        let mut cx = Context { data: Some(samples(model)), observers, ..Context::default() };
        let pipeline = Pipeline::parse(&format!("sparsify({options})"), passes::ALL);
        pipeline.unwrap_or_else(|error| panic!("{error}")).run(&mut sparse, &mut cx).unwrap();
        (sparse, cx)
    }

    fn constant(model: &Model, name: &str) -> Tensor {
        let found = model.all_values().find(|(_, value)| value.name == name).map(|(value, _)| value);
        model.constant(found.unwrap()).unwrap().clone()
    }

    fn zeros(model: &Model, name: &str) -> usize {
        constant(model, name).floats().unwrap().iter().filter(|x| **x == 0.0).count()
    }

    fn error(original: &Model, sparse: &Model) -> f64 {
        let data = samples(original);
        let [exact, sparse] = [original, sparse].map(|model| Runner::new(model).unwrap());
        let error = |index: usize| {
            let sample = data.sample(index);
            let [a, b] = [&exact, &sparse].map(|runner| runner.run(&sample).unwrap().remove(0));
            let pairs = a.floats().unwrap().into_owned().into_iter().zip(b.floats().unwrap().into_owned());
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        (0..data.len()).map(error).sum()
    }

    #[test]
    fn every_layer_loses_the_share_that_is_asked_for() {
        let model = network();
        for criterion in CRITERIA {
            let (sparse, _) = sparsified(&model, &format!("sparsity=0.5,criterion={criterion}"));
            for (name, size) in [("a", 288), ("m", 96), ("g", 48)] {
                assert_eq!(2 * zeros(&sparse, name), size, "{name} by {criterion}");
            }
            // Nine weights of a channel cannot be halved.
            assert!(zeros(&sparse, "d").abs_diff(36) <= 4, "{criterion}");
            assert_eq!(zeros(&sparse, "b"), 0);
        }
        let (sparse, _) = sparsified(&model, "sparsity=0.5,scope=global");
        assert_eq!(["a", "d", "m", "g"].iter().map(|name| zeros(&sparse, name)).sum::<usize>(), 252);
        let (sparse, _) = sparsified(&model, "sparsity=0.25,scope=output");
        let rows = constant(&sparse, "g");
        assert!(rows.floats().unwrap().chunks(12).all(|row| row.iter().filter(|w| **w == 0.0).count() == 3));
    }

    #[test]
    fn every_group_of_a_pattern_keeps_its_number() {
        for (criterion, pattern, [stay, of]) in
            CRITERIA.iter().flat_map(|criterion| [(criterion, "2:4", [2, 4]), (criterion, "1:2", [1, 2])])
        {
            let (sparse, cx) = sparsified(&network(), &format!("pattern={pattern},criterion={criterion}"));
            let (a, m, g) = (constant(&sparse, "a"), constant(&sparse, "m"), constant(&sparse, "g"));
            let [a, m, g] = [&a, &m, &g].map(|tensor| tensor.floats().unwrap());
            let left = |w: &[f32]| w.iter().filter(|w| **w != 0.0).count();
            for row in a.chunks(36) {
                for (tap, group) in (0..9).flat_map(|tap| (0..4 / of).map(move |group| (tap, group))) {
                    let group: Vec<f32> = (0..of).map(|i| row[(group * of + i) * 9 + tap]).collect();
                    assert_eq!(left(&group), stay, "{criterion}");
                }
            }
            for (column, group) in (0..12).flat_map(|column| (0..8 / of).map(move |group| (column, group))) {
                let group: Vec<f32> = (0..of).map(|i| m[(group * of + i) * 12 + column]).collect();
                assert_eq!(left(&group), stay, "{criterion}");
            }
            assert!(g.chunks(of).all(|group| left(group) == stay), "{criterion}");
            assert_eq!(zeros(&sparse, "d"), 0);
            let missed: Vec<&str> = cx.reports[0].missed.iter().map(|missed| missed.reason.as_str()).collect();
            assert_eq!(missed, ["its inputs are no multiple of the pattern"]);
        }
    }

    #[test]
    fn weights_that_make_up_for_others_keep_the_outputs_nearer() {
        let model = network();
        for amount in ["sparsity=0.5", "pattern=2:4"] {
            let error =
                |criterion: &str| error(&model, &sparsified(&model, &format!("{amount},criterion={criterion}")).0);
            let [hessian, others @ ..] = ["hessian", "magnitude", "gradient", "wanda", "snip", "random"].map(error);
            assert!(others.iter().all(|other| hessian < *other), "{hessian} of {others:?}");
        }
    }

    #[test]
    fn the_number_of_threads_makes_no_difference() {
        for criterion in CRITERIA {
            let constants = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let options = format!("sparsity=0.4,criterion={criterion}");
                let sparse = pool.install(|| sparsified(&network(), &options).0);
                ["a", "d", "m", "g"].map(|name| constant(&sparse, name))
            };
            let found = [1, 2, 4].map(constants);
            assert!(found[1] == found[0] && found[2] == found[0], "{criterion}");
        }
    }

    #[test]
    fn what_is_zero_already_counts_and_stays() {
        let model = network();
        let (half, _) = sparsified(&model, "sparsity=0.5,criterion=random");
        for criterion in CRITERIA {
            let (more, _) = sparsified(&half, &format!("sparsity=0.6,criterion={criterion}"));
            let [before, after] = [&half, &more].map(|model| constant(model, "a"));
            let pairs = before.floats().unwrap().into_owned().into_iter().zip(after.floats().unwrap().into_owned());
            assert!(pairs.filter(|(before, _)| *before == 0.0).all(|(_, after)| after == 0.0), "{criterion}");
            assert!(zeros(&more, "a").abs_diff(173) <= 4, "{criterion}: {}", zeros(&more, "a"));
        }
    }

    #[test]
    fn sparse_initializers_are_smaller_and_mean_the_same() {
        let model = network();
        let [dense, sparse] = ["", ",store=sparse"].map(|store| {
            let (model, _) = sparsified(&model, &format!("sparsity=0.9{store}"));
            let bytes = onnx::encode(&model).unwrap();
            (onnx::decode(bytes.clone().into(), None).unwrap().model, bytes.len())
        });
        assert!(sparse.1 < dense.1);
        assert_eq!(error(&dense.0, &sparse.0), 0.0);
        let (half, cx) = sparsified(&model, "sparsity=0.5,store=sparse");
        assert!(half.all_values().all(|(_, value)| !matches!(value.def, crate::ir::ValueDef::Sparse(_))));
        let note = "4 weights are stored with their zeros, which takes fewer bytes";
        assert!(cx.reports[0].notes.iter().any(|text| text == note));
    }

    #[test]
    fn options_that_mean_nothing_are_refused() {
        let refused =
            |options: &str| Pipeline::parse(&format!("sparsify({options})"), passes::ALL).err().map(|e| e.to_string());
        for options in [
            "",
            "sparsity=0",
            "sparsity=1",
            "sparsity=0.5,pattern=2:4",
            "pattern=4:2",
            "pattern=2:4,scope=global",
            "sparsity=0.5,criterion=hessian,scope=global",
            "sparsity=0.5,samples=0",
        ] {
            assert!(refused(options).is_some(), "{options}");
        }
        assert!(refused("pattern=3:2").unwrap().contains("`3:2` is no pattern"));
        assert_eq!(refused("pattern=2:4,criterion=wanda,samples=8"), None);
    }
}
