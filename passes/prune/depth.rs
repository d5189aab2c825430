//! How deep a network is: whole residual branches go, those first without which outputs change least.
//!
//! A branch with a factor 0 behind it gives the outputs that the model without the branch gives, so that one plan is enough to
//! measure all choices.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use ndarray::arr0;
use rayon::prelude::*;
use serde_json::json;

use super::Prune;
use super::branch::{Branch, branches};
use super::criterion::Criterion;
use crate::analysis::{Cost, FixedSizes, Shapes};
use crate::data::{Random, synthesize};
use crate::ir::op::Mul;
use crate::ir::{Model, NodeId, Tensor, Type, ValueId};
use crate::measure::Errors;
use crate::pass::{Context, PassError};
use crate::passes::names::{globs, is_named};
use crate::runtime::{Execution, Runner};

/// The stream of random numbers that chooses branches.
const CHOICE: u64 = 5 << 32;

/// Random inputs that branches are looked at on where there are no samples.
const MADE_UP: usize = 4;

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(format!("branches could not be measured: {error}"))
}

impl Prune {
    /// Removes as many branches as `depth` says. Returns whether any have gone.
    pub(super) fn remove_branches(&self, model: &mut Model, depth: f64, cx: &mut Context) -> Result<bool, PassError> {
        let shapes = cx.shapes(model);
        let (keep, include) = (globs(&self.keep, "keep")?, globs(&self.include, "include")?);
        let has = |branch: &Branch, is: &dyn Fn(NodeId) -> bool| is(branch.add) || branch.nodes.iter().any(|&n| is(n));
        let mut all = branches(model, &shapes, |add, why| cx.missed("residual_branch", add, why));
        all.retain(|branch| !has(branch, &|node| is_named(model, node, &keep)));
        all.retain(|branch| include.is_empty() || has(branch, &|node| is_named(model, node, &include)));
        let wanted = if depth < 1.0 { (depth * all.len() as f64).round() } else { depth } as usize;
        if all.is_empty() || wanted == 0 {
            cx.note(match all.len() {
                0 => "there is no residual branch that can be removed".to_string(),
                count => format!("of {count} residual branches less than one was asked for"),
            });
            return Ok(false);
        }
        let mut choice = Choice::new(model, &all, wanted);
        // What is told of each branch, and under which name.
        let (measured, what) = match (self.criterion, &cx.data) {
            (Criterion::Random, _) => {
                let order = Random::new(cx.seed, CHOICE).permutation(all.len());
                order.into_iter().for_each(|index| choice.take(index));
                (Vec::new(), "")
            }
            (_, Some(_)) => {
                let samples = Prune::inputs(&self.data(cx)?, model, cx)?;
                let gated = Gated::of(model, &shapes, &all, samples)?;
                (choice.take_least_missed(&gated, cx)?, "sqnr-db")
            }
            (_, None) => {
                let shares = shares_of_streams(model, &all, cx.seed)?;
                let mut order: Vec<usize> = (0..all.len()).collect();
                order.sort_by(|&a, &b| shares[a].total_cmp(&shares[b]));
                order.into_iter().for_each(|index| choice.take(index));
                (shares, "share-of-stream")
            }
        };
        for (index, branch) in all.iter().enumerate() {
            let layers: Vec<String> = branch.layers(model).map(|node| model.label(node)).collect();
            let mut entry =
                json!({ "branch": model.label(branch.add), "layers": layers, "removed": choice.gone[index] });
            if let Some(&number) = measured.get(index) {
                entry[what] = json!(number);
            }
            cx.log.push(entry);
        }
        choice.finish(model, &shapes, cx);
        Ok(true)
    }
}

/// Branches that go, and the model without them.
struct Choice<'a> {
    all: &'a [Branch],
    /// For each branch, those that lie inside of it.
    inner: Vec<Vec<usize>>,
    wanted: usize,
    small: Model,
    gone: Vec<bool>,
    /// Those that cannot go, since both ends of what would be left are seen from outside.
    held: Vec<bool>,
    names: Vec<String>,
}

impl<'a> Choice<'a> {
    fn new(model: &Model, all: &'a [Branch], wanted: usize) -> Choice<'a> {
        let places: HashMap<NodeId, usize> =
            all.iter().enumerate().map(|(index, branch)| (branch.add, index)).collect();
        let inner = |branch: &Branch| branch.nodes.iter().filter_map(|node| places.get(node).copied()).collect();
        Choice {
            all,
            inner: all.iter().map(inner).collect(),
            wanted,
            small: model.clone(),
            gone: vec![false; all.len()],
            held: vec![false; all.len()],
            names: Vec::new(),
        }
    }

    fn count(&self) -> usize {
        self.gone.iter().filter(|&&gone| gone).count()
    }

    /// Whether a branch is left, and no more go with it than were asked for.
    fn fits(&self, index: usize) -> bool {
        let with = self.inner[index].iter().filter(|&&inner| !self.gone[inner]).count();
        !self.gone[index] && !self.held[index] && self.count() + 1 + with <= self.wanted
    }

    /// Removes a branch, where it fits.
    fn take(&mut self, index: usize) {
        if !self.fits(index) {
            return;
        }
        let name = self.small.label(self.all[index].add);
        if !self.all[index].remove(&mut self.small) {
            self.held[index] = true;
            return;
        }
        self.names.push(name);
        self.gone[index] = true;
        self.inner[index].iter().for_each(|&inner| self.gone[inner] = true);
    }

    /// Removes one after the other that without which outputs change least. A branch is missed more the fewer others are left, so
    /// that only those are measured again that would be next. Returns what each alone leaves of the outputs, in decibels.
    fn take_least_missed(&mut self, gated: &Gated, cx: &mut Context) -> Result<Vec<f64>, PassError> {
        let measure = |gone: &[bool], index: usize, cx: &Context| {
            if cx.is_cancelled() || cx.finish.load(Ordering::Relaxed) {
                return Err(PassError("cancelled".into()));
            }
            let mut gone = gone.to_vec();
            gone[index] = true;
            gated.sqnr_db(&gone)
        };
        let mut alone = Vec::new();
        for index in 0..self.all.len() {
            cx.progress(index, self.all.len(), "without one residual branch");
            alone.push(measure(&self.gone, index, cx)?);
        }
        // With how many others gone it was measured.
        let mut known: Vec<(f64, usize)> = alone.iter().map(|&sqnr| (sqnr, 0)).collect();
        let best = |choice: &Choice, known: &[(f64, usize)]| {
            let left = (0..known.len()).filter(|&index| choice.fits(index));
            left.rev().max_by(|&a, &b| known[a].0.total_cmp(&known[b].0))
        };
        while let Some(next) = best(self, &known) {
            let count = self.count();
            if known[next].1 == count {
                self.take(next);
                cx.progress(self.count(), self.wanted, "residual branches removed");
            } else {
                known[next] = (measure(&self.gone, next, cx)?, count);
            }
        }
        let left = gated.sqnr_db(&self.gone)?;
        cx.note(format!(
            "without them outputs keep {left:.1} dB of signal over noise on {} samples",
            gated.samples.len()
        ));
        Ok(alone)
    }

    fn finish(self, model: &mut Model, shapes: &Shapes, cx: &mut Context) {
        let (before, after) = (Cost::of(model, shapes), Cost::of(&self.small, shapes));
        let (count, all) = (self.count(), self.all.len());
        cx.applied("residual_branch", count);
        cx.notes.insert(0, format!("{count} of {all} residual branches are removed: {}", self.names.join(", ")));
        cx.note(format!(
            "parameters {} -> {}, multiply-accumulates {} -> {}",
            before.parameters, after.parameters, before.macs, after.macs
        ));
        *model = self.small;
        cx.inferred = None;
    }
}

/// The model with a factor behind each branch, and what it gives with all of them at 1.
struct Gated {
    runner: Runner,
    samples: Vec<Vec<Tensor>>,
    exact: Vec<Vec<Tensor>>,
    /// 0 and 1 for each branch, in its type.
    factors: Vec<[Tensor; 2]>,
}

impl Gated {
    fn of(model: &Model, shapes: &Shapes, all: &[Branch], samples: Vec<Vec<Tensor>>) -> Result<Gated, PassError> {
        let mut gated = model.clone();
        let mut factors = Vec::new();
        for branch in all {
            let result = branch.result(model);
            let dtype = shapes.dtype(result).expect("a branch adds floats");
            let number = |x: f64| Tensor::from_reals(&arr0(x).into_dyn(), dtype).expect("a branch adds floats");
            factors.push([number(0.0), number(1.0)]);
            let factor = gated.add_input(gated.main, "factor");
            gated.set_type(factor, Some(Type::tensor(dtype, [])));
            let product = gated.insert_before(branch.add, Mul { a: result, b: factor }, "gated");
            gated.set_input(branch.add, branch.place, Some(product));
        }
        let outputs = &gated.graph(gated.main).outputs;
        let runner = Runner::with(&gated, outputs, &Execution::float()).map_err(failed)?;
        let mut gated = Gated { runner, samples, exact: Vec::new(), factors };
        gated.exact = gated.outputs(&vec![false; all.len()])?;
        Ok(gated)
    }

    fn outputs(&self, gone: &[bool]) -> Result<Vec<Vec<Tensor>>, PassError> {
        let factors = self.factors.iter().zip(gone).map(|([zero, one], &gone)| if gone { zero } else { one }.clone());
        let factors: Vec<Tensor> = factors.collect();
        let run = |sample: &Vec<Tensor>| self.runner.run(&[&sample[..], &factors].concat()).map_err(failed);
        self.samples.par_iter().map(run).collect()
    }

    /// What the outputs keep, in decibels, of several the worst.
    fn sqnr_db(&self, gone: &[bool]) -> Result<f64, PassError> {
        let mut errors = Errors::default();
        let found = self.outputs(gone)?;
        self.exact.iter().zip(&found).for_each(|(exact, found)| errors.add(&Errors::of(exact, found)));
        Ok(errors.sqnr_db())
    }
}

/// How large what each branch adds is, over what it adds to, on random inputs: √(Σf² / Σx²).
fn shares_of_streams(model: &Model, all: &[Branch], seed: u64) -> Result<Vec<f64>, PassError> {
    let ends = |branch: &Branch| [branch.result(model), branch.shortcut(model)];
    let values: Vec<ValueId> = all.iter().flat_map(ends).collect();
    let runner = Runner::with(model, &values, &Execution::float()).map_err(failed)?;
    let run = |sample: &[Tensor]| runner.run(sample).map(drop).map_err(|error| error.to_string());
    let data = synthesize(model, &FixedSizes::default(), seed, MADE_UP, run).map_err(failed)?;
    let squares = |sample: usize| -> Result<Vec<f64>, PassError> {
        let square =
            |tensor: &Tensor| tensor.floats().map_or(0.0, |all| all.iter().map(|&x| f64::from(x).powi(2)).sum());
        Ok(runner.run(&data.sample(sample)).map_err(failed)?.iter().map(square).collect())
    };
    let seen: Vec<Vec<f64>> = (0..data.len()).into_par_iter().map(squares).collect::<Result<_, _>>()?;
    let sum = |place: usize| seen.iter().map(|squares| squares[place]).sum::<f64>();
    Ok((0..all.len()).map(|index| (sum(2 * index) / sum(2 * index + 1).max(f64::MIN_POSITIVE)).sqrt()).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::{Dataset, write_npz};
    use crate::onnx;
    use crate::pass::{Pipeline, Verify};
    use crate::passes;

    /// Two blocks in front of a normalization, one of which does little, and one behind it with another inside.
    fn network() -> Model {
        let mut random = Random::new(11, 0);
        let mut weights = |name: &str, rows: usize, columns: usize, scale: f32| -> String {
            let numbers: Vec<String> = (0..rows * columns).map(|_| format!("{:.4}", scale * random.normal())).collect();
            format!("float[{rows},{columns}] {name} = {{{}}}", numbers.join(","))
        };
        let weights = [
            weights("w0", 3, 4, 0.7),
            weights("a", 4, 6, 0.5),
            weights("b", 6, 4, 0.5),
            weights("c", 4, 6, 0.1),
            weights("d", 6, 4, 0.1),
            weights("e", 4, 4, 0.6),
            weights("f", 4, 4, 0.4),
            weights("h", 4, 2, 0.8),
        ];
        let text = format!(
            r#"<ir_version: 10, opset_import: ["": 21]>
            net (float[N,S,3] given) => (float[N,S,2] y)
            <{}, float[4] scale = {{1, 1, 1, 1}}>
            {{
                [first] x = MatMul (given, w0)
                [up] p = MatMul (x, a)
                q = Tanh (p)
                [down] r = MatMul (q, b)
                [large] s = Add (x, r)
                t = MatMul (s, c)
                u = Relu (t)
                v = MatMul (u, d)
                [small] w = Add (v, s)
                n = LayerNormalization (w, scale)
                i = MatMul (n, e)
                j = MatMul (i, f)
                [inside] k = Add (i, j)
                [outside] o = Add (k, n)
                m = Relu (o)
                [head] y = MatMul (m, h)
            }}"#,
            weights.join(",\n")
        );
        Model::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn samples(model: &Model) -> Dataset {
        let mut random = Random::new(4, 0);
        let x = Tensor::from_vec(vec![12, 5, 3], (0..12 * 15).map(|_| random.normal()).collect());
        let folder = tempfile::tempdir().unwrap();
        write_npz(&folder.path().join("x.npz"), &[("given".into(), x)]).unwrap();
        Dataset::open(&folder.path().join("x.npz"), model).unwrap()
    }

    fn pruned(model: &Model, options: &str, data: Option<Dataset>) -> (Model, Context) {
        let mut small = model.clone();
        let mut cx = Context { seed: 1, data, observers: vec![Box::new(Verify)], ..Context::default() };
        let pipeline = Pipeline::parse(&format!("prune({options})"), passes::ALL);
        pipeline.unwrap_or_else(|error| panic!("{error}")).run(&mut small, &mut cx).unwrap();
        (small, cx)
    }

    /// The nodes whose names are left of those given.
    fn left<'n>(model: &Model, names: &[&'n str]) -> Vec<&'n str> {
        let is_left = |name: &&&str| model.nodes_of(model.main).any(|node| model.node(node).name == **name);
        names.iter().filter(is_left).copied().collect()
    }

    const SUMS: [&str; 4] = ["large", "small", "inside", "outside"];

    #[test]
    fn the_branch_that_does_least_goes_first_on_samples_and_without() {
        let model = network();
        for data in [Some(samples(&model)), None] {
            let (small, cx) = pruned(&model, "depth=0.25", data);
            assert_eq!(left(&small, &SUMS), ["large", "inside", "outside"]);
            let report = &cx.reports[0];
            assert_eq!(report.notes[0], "1 of 4 residual branches are removed: Add `small`");
            assert_eq!(
                report.log.iter().map(|entry| &entry["removed"]).collect::<Vec<_>>(),
                [false, true, false, false]
            );
        }
    }

    #[test]
    fn a_branch_takes_those_inside_of_it_along_and_never_more_go_than_were_asked_for() {
        let model = network();
        for seed in 0..8 {
            let mut small = model.clone();
            let mut cx = Context { seed, observers: vec![Box::new(Verify)], ..Context::default() };
            let pipeline = Pipeline::parse("prune(depth=1,criterion=random)", passes::ALL).unwrap();
            pipeline.run(&mut small, &mut cx).unwrap();
            assert_eq!(left(&small, &SUMS).len(), 3);
        }
        let (small, _) = pruned(&model, "depth=4", Some(samples(&model)));
        assert_eq!(left(&small, &SUMS), [""; 0]);
        assert_eq!(small.nodes_of(small.main).count(), 4);
    }

    #[test]
    fn names_hold_branches_or_choose_them() {
        let model = network();
        let (small, _) = pruned(&model, "depth=9,keep=[down,inside]", None);
        assert_eq!(left(&small, &SUMS), ["large", "inside", "outside"]);
        let (small, _) = pruned(&model, "depth=0.9,include=[up]", None);
        assert_eq!(left(&small, &SUMS), ["small", "inside", "outside"]);
        let (small, cx) = pruned(&model, "depth=0.3,include=[up]", None);
        assert_eq!(left(&small, &SUMS).len(), 4);
        assert_eq!(cx.reports[0].notes, ["of 1 residual branches less than one was asked for"]);
    }

    #[test]
    fn channels_are_cut_of_what_is_left() {
        let model = network();
        let (small, cx) = pruned(&model, "depth=1,channels=0.3", Some(samples(&model)));
        let notes = &cx.reports[0].notes;
        assert_eq!(left(&small, &SUMS).len(), 3);
        assert!(notes.iter().any(|note| note.starts_with("without them outputs keep ")), "{notes:?}");
        assert_eq!(notes.iter().filter(|note| note.starts_with("parameters ")).count(), 2, "{notes:?}");
        assert!(cx.reports[0].applied["channel"] > 0);
    }

    /// The law: a model without branches gives what the model gives with their results at zero.
    fn hold(model: &Model, samples: &[Vec<Tensor>], selections: usize) -> usize {
        let shapes = Shapes::infer(model);
        let all = branches(model, &shapes, |_, _| {});
        if all.is_empty() {
            return 0;
        }
        let gated = Gated::of(model, &shapes, &all, samples.to_vec()).unwrap_or_else(|error| panic!("{error}"));
        for seed in 0..selections as u64 {
            let mut random = Random::new(seed, 0);
            let wanted = 1 + random.below(all.len() as u64) as usize;
            let mut choice = Choice::new(model, &all, wanted);
            random.permutation(all.len()).into_iter().for_each(|index| choice.take(index));
            choice.small.verify().unwrap_or_else(|error| panic!("{error}"));
            let small = &choice.small;
            let runner = Runner::with(small, &small.graph(small.main).outputs, &Execution::float()).unwrap();
            let wanted = gated.outputs(&choice.gone).unwrap();
            for (sample, wanted) in samples.iter().zip(&wanted) {
                for (wanted, found) in wanted.iter().zip(runner.run(sample).unwrap()) {
                    assert_eq!(wanted.shape(), found.shape());
                    let (Some(a), Some(b)) = (wanted.floats(), found.floats()) else { continue };
                    let [low, high] = a.iter().fold([0f32; 2], |[low, high], &x| [low.min(x), high.max(x)]);
                    let error = a.iter().zip(b.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(error <= 1e-4 * (high - low), "off by {error:e} of {low} to {high}");
                }
            }
        }
        all.len()
    }

    #[test]
    fn without_branches_a_model_gives_what_it_gives_with_their_results_at_zero() {
        let model = network();
        let data = samples(&model);
        let inputs: Vec<Vec<Tensor>> = (0..data.len()).map(|index| data.sample(index)).collect();
        assert_eq!(hold(&model, &inputs, 20), 4);
    }

    #[test]
    fn zoo_models_without_branches_keep_the_law() {
        let zoo = std::env::var("ONNXSHRINK_ZOO").unwrap_or_else(|_| "../shared/zoo".into());
        let architectures = std::env::var("ONNXSHRINK_ARCHITECTURES").ok();
        let only = std::env::var("ONNXSHRINK_ONLY").unwrap_or_default();
        let names = ["models/mnist_resdw", "models/spam_tf", "models/efficientnet_lite0", "models/minilm_spam"];
        let mut files: Vec<_> = names.iter().map(|name| Path::new(&zoo).join(format!("{name}.onnx"))).collect();
        files.extend(architectures.iter().flat_map(std::fs::read_dir).flatten().flatten().map(|entry| entry.path()));
        for file in files.into_iter().filter(|file| file.to_string_lossy().contains(&only)) {
            if !file.exists() {
                println!("skipped: there is no `{}`; ONNXSHRINK_ZOO names the folder of the zoo", file.display());
                continue;
            }
            let mut model = onnx::read(&file).unwrap_or_else(|error| panic!("{error}")).model;
            let upgrade = Pipeline::parse("upgrade-opset", passes::ALL).unwrap();
            upgrade.run(&mut model, &mut Context::default()).unwrap();
            let runner = Runner::new(&model).unwrap();
            let run = |sample: &[Tensor]| runner.run(sample).map(drop).map_err(|error| error.to_string());
            let data = synthesize(&model, &FixedSizes::default(), 7, 1, run).unwrap_or_else(|error| panic!("{error}"));
            println!("{}: {} branches", file.display(), hold(&model, &[data.sample(0)], 3));
        }
    }
}
