//! What channels cost in time: how long each node takes as the network is, and with fewer channels.
//!
//! All groups of channels lose the same share, and every node is timed in the networks that are left, where the runtime fuses what it
//! always would. In between, times lie on straight lines over the work of a node: its multiply-accumulates, or else the elements
//! that it reads and gives. The table of works and times is all that a choice depends on, so that it can be given again.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::cut::Cut;
use super::select::{Groups, Rules};
use super::{Prune, criterion};
use crate::analysis::channels::Channels;
use crate::analysis::shapes::fixed_length;
use crate::analysis::{Cost, FixedSizes, Shapes};
use crate::data::{required_inputs, synthesize};
use crate::ir::{Model, NodeId, Tensor, ValueId};
use crate::measure::node_times;
use crate::pass::{Context, PassError};
use crate::runtime::Runner;

/// The shares of the channels that are left where times are taken.
const LEFT: [f64; 4] = [1.0, 0.75, 0.5, 0.25];

/// How long times are taken.
const BUDGET: Duration = Duration::from_secs(4);

/// Works and times of the nodes of a model, in the order they run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The name and shape of each input that times are for.
    pub inputs: Vec<(String, Vec<usize>)>,
    pub nodes: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub node: String,
    /// For each size that was measured, what the node has to do, and for how many nanoseconds it does it.
    pub times: Vec<[u64; 2]>,
}

/// The key of a table in the log of a pass.
pub const KEY: &str = "latency-table";

fn failed(why: impl std::fmt::Display) -> PassError {
    PassError(format!("`latency-table`: {why}"))
}

impl Table {
    /// Times of `model` on `inputs`, and of what is left of it with fewer of the channels of `groups`.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn measure(
        model: &Model,
        channels: &Channels,
        groups: &Groups,
        rules: Rules,
        inputs: &[Tensor],
    ) -> Result<Table, PassError> {
        let named = required_inputs(model).zip(inputs);
        let sizes: Vec<(String, Vec<usize>)> =
            named.map(|((_, value), tensor)| (value.name.clone(), tensor.shape().to_vec())).collect();
        let shapes = Shapes::infer_with(model, &fixed_sizes(model, &sizes)?);
        let order = criterion::order(groups, &vec![0.0; channels.len()], None, true);
        let (mut models, mut works) = (Vec::new(), Vec::new());
        for left in LEFT {
            let count = ((1.0 - left) * order.len() as f64).round() as usize;
            let cut = Cut::new(channels, &shapes, &groups.first(channels, &order, count, rules));
            let mut small = model.clone();
            cut.apply(&mut small);
            works.push(works_of(model, &shapes.with_lengths(cut.changed(model))));
            models.push(small);
        }
        let measured = node_times(&models, inputs, BUDGET).map_err(unmeasured)?;
        let row = |(place, node): (usize, NodeId)| {
            let sizes = measured.iter().zip(&works);
            let time = |time: &Duration| time.as_nanos() as u64;
            let times = sizes.filter_map(|(times, works)| Some([works[place], time(times.get(&node)?)]));
            let mut times: Vec<[u64; 2]> = times.collect();
            times.sort_unstable();
            Row { node: model.label(node), times }
        };
        let nodes = model.nodes_of(model.main).enumerate().map(row).collect();
        Ok(Table { inputs: sizes, nodes })
    }

    /// The tables of a file: one, or those in a report.
    ///
    /// # Errors
    /// If there is none.
    pub fn read(file: &Path) -> Result<Vec<Table>, PassError> {
        let bytes = fs::read(file).map_err(|error| failed(format!("`{}`: {error}", file.display())))?;
        let json: Json = serde_json::from_slice(&bytes)
            .map_err(|error| failed(format!("`{}` is no JSON: {error}", file.display())))?;
        let logs = json["passes"].as_array().into_iter().flatten().filter_map(|pass| pass["log"].as_array()).flatten();
        let tables = std::iter::once(&json).chain(logs.filter_map(|entry| entry.get(KEY)));
        let tables: Vec<Table> = tables.filter_map(|table| serde_json::from_value(table.clone()).ok()).collect();
        match tables.is_empty() {
            true => Err(failed(format!("`{}` is no table, and no report with one", file.display()))),
            false => Ok(tables),
        }
    }
}

impl Prune {
    /// The times that are given, or else those that are measured now, which the report then has.
    pub(super) fn latencies(
        &self,
        model: &Model,
        channels: &Channels,
        groups: &Groups,
        rules: Rules,
        cx: &mut Context,
    ) -> Result<Latencies, PassError> {
        if let Some(file) = &self.latency_table {
            let mut found: Vec<_> = Table::read(file)?.iter().map(|table| Latencies::of(model, table)).collect();
            // A report has one for each pass that measured.
            let fits = found.iter().position(Result::is_ok).unwrap_or(0);
            return found.swap_remove(fits);
        }
        let sample = match &cx.data {
            Some(data) => Prune::inputs(&data.first(1), model, cx)?.remove(0),
            None => {
                let runner = Runner::new(model).map_err(unmeasured)?;
                let run = |sample: &[Tensor]| runner.run(sample).map(drop).map_err(|error| error.to_string());
                synthesize(model, &FixedSizes::default(), cx.seed, 1, run).map_err(unmeasured)?.sample(0)
            }
        };
        let table = Table::measure(model, channels, groups, rules, &sample)?;
        let latencies = Latencies::of(model, &table)?;
        cx.log.push(json!({ KEY: table }));
        Ok(latencies)
    }
}

fn unmeasured(error: impl std::fmt::Display) -> PassError {
    PassError(format!("latency could not be measured: {error}"))
}

/// How long a model takes, by a table.
pub struct Latencies {
    /// For the inputs of the table.
    shapes: Shapes,
    /// For each node its works, in order, and its times in milliseconds.
    lines: Vec<Vec<[f64; 2]>>,
}

impl Latencies {
    /// # Errors
    /// If the table is not of this model.
    pub fn of(model: &Model, table: &Table) -> Result<Latencies, PassError> {
        let labels: Vec<String> = model.nodes_of(model.main).map(|node| model.label(node)).collect();
        if labels.len() != table.nodes.len() {
            let (ours, theirs) = (labels.len(), table.nodes.len());
            return Err(failed(format!("it is of another model: that has {theirs} nodes, this one {ours}")));
        }
        if let Some((ours, row)) = labels.iter().zip(&table.nodes).find(|(label, row)| **label != row.node) {
            return Err(failed(format!("it is of another model: it has {} where this one has {ours}", row.node)));
        }
        let shapes = Shapes::infer_with(model, &fixed_sizes(model, &table.inputs)?);
        Ok(Latencies { shapes, lines: table.nodes.iter().map(|row| line(&row.times)).collect() })
    }

    /// The milliseconds of `model`, of which the table is, behind a cut.
    pub fn ms(&self, model: &Model, cut: &Cut) -> f64 {
        let works = works_of(model, &self.shapes.with_lengths(cut.changed(model)));
        self.lines.iter().zip(works).map(|(line, work)| on_line(line, work as f64)).sum()
    }
}

fn fixed_sizes(model: &Model, inputs: &[(String, Vec<usize>)]) -> Result<FixedSizes, PassError> {
    let shape = |(name, shape): &(String, Vec<usize>)| {
        let found = required_inputs(model).find(|(_, value)| value.name == *name);
        let (input, _) = found.ok_or_else(|| failed(format!("the model has no input `{name}`")))?;
        Ok((input, shape.clone()))
    };
    Ok(FixedSizes { inputs: inputs.iter().map(shape).collect::<Result<_, _>>()?, ..FixedSizes::default() })
}

/// What each node of the main graph has to do, in the order they run.
fn works_of(model: &Model, shapes: &Shapes) -> Vec<u64> {
    let macs: HashMap<NodeId, u64> =
        Cost::of(model, shapes).layers.iter().filter_map(|layer| Some((layer.node, layer.macs?))).collect();
    let elements = |value: ValueId| {
        let lengths = shapes.lengths(value)?;
        lengths.iter().try_fold(1u64, |product, length| product.checked_mul(fixed_length(length)? as u64))
    };
    let work = |node: NodeId| match macs.get(&node) {
        Some(&macs) if macs > 0 => macs,
        _ => {
            let of = model.node(node);
            let values = of.inputs.iter().chain(&of.outputs).flatten();
            values.filter_map(|&value| elements(value)).fold(0, u64::saturating_add)
        }
    };
    model.nodes_of(model.main).map(work).collect()
}

/// Times that never fall where the work grows, in milliseconds: where they do, since measuring is not exact, they are averaged. The
/// works are in order.
fn line(times: &[[u64; 2]]) -> Vec<[f64; 2]> {
    struct Block {
        works: Vec<u64>,
        sum: f64,
        count: usize,
    }
    let mean = |block: &Block| block.sum / block.count as f64;
    let mut blocks: Vec<Block> = Vec::new();
    for same in times.chunk_by(|a, b| a[0] == b[0]) {
        let sum = same.iter().map(|[_, ns]| *ns as f64 / 1e6).sum();
        let mut block = Block { works: vec![same[0][0]], sum, count: same.len() };
        while let Some(before) = blocks.pop_if(|before| mean(before) > mean(&block)) {
            let works = [before.works, block.works].concat();
            block = Block { works, sum: before.sum + block.sum, count: before.count + block.count };
        }
        blocks.push(block);
    }
    blocks.iter().flat_map(|block| block.works.iter().map(|&work| [work as f64, mean(block)])).collect()
}

/// The time for a work on the straight lines between points; below the first and above the last as steep as there, and never
/// below 0.
fn on_line(line: &[[f64; 2]], work: f64) -> f64 {
    if line.len() < 2 {
        return line.first().map_or(0.0, |[_, time]| *time);
    }
    let end = line.partition_point(|[at, _]| *at < work).clamp(1, line.len() - 1);
    let ([a, from], [b, to]) = (line[end - 1], line[end]);
    (from + (to - from) * (work - a) / (b - a)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::Pipeline;
    use crate::passes;

    #[test]
    fn times_lie_on_lines_that_never_fall() {
        let line = line(&[[25, 1_000_000], [50, 3_000_000], [75, 2_000_000], [100, 6_000_000]]);
        assert_eq!(line, [[25.0, 1.0], [50.0, 2.5], [75.0, 2.5], [100.0, 6.0]]);
        for (work, ms) in [(100.0, 6.0), (90.0, 4.6), (60.0, 2.5), (37.5, 1.75), (20.0, 0.7), (1.0, 0.0)] {
            assert!((on_line(&line, work) - ms).abs() < 1e-9, "{work}: {}", on_line(&line, work));
        }
        assert_eq!(on_line(&super::line(&[[8, 500_000], [8, 700_000]]), 4.0), 0.6);
        assert_eq!(on_line(&[], 4.0), 0.0);
    }

    /// Two pairs of layers that cost the same multiply-accumulates, and have the same weights.
    fn network() -> Model {
        let matrix = |rows: usize, columns: usize, step: usize| {
            let numbers: Vec<String> = (0..rows * columns).map(|i| format!("{}", (i * step) % 7 + 1)).collect();
            format!("{{{}}}", numbers.join(","))
        };
        let text = format!(
            r#"<ir_version: 10, opset_import: ["": 21]>
            net (float[N,4] x) => (float[N,4] y)
            <float[4,8] a = {0}, float[8,4] b = {1}, float[4,8] c = {0}, float[8,4] d = {1}>
            {{
                [one] p = MatMul (x, a)
                q = Relu (p)
                [two] r = MatMul (q, b)
                s = Softmax (r)
                [three] t = MatMul (s, c)
                u = Relu (t)
                [four] y = MatMul (u, d)
            }}"#,
            matrix(4, 8, 3),
            matrix(8, 4, 3)
        );
        Model::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What each node takes with half of its neurons, and with all.
    fn table(times: [[u64; 2]; 7]) -> Table {
        let model = network();
        let works = [[16, 32], [8, 16], [16, 32], [8, 8], [16, 32], [8, 16], [16, 32]];
        let row = |(node, (works, times)): (NodeId, ([u64; 2], [u64; 2]))| Row {
            node: model.label(node),
            times: std::iter::zip(works, times).map(|(work, ns)| [work, ns]).collect(),
        };
        let nodes = model.nodes_of(model.main).zip(std::iter::zip(works, times)).map(row).collect();
        Table { inputs: vec![("x".into(), vec![1, 4])], nodes }
    }

    fn pruned(options: &str) -> Result<(Model, Context), String> {
        let (mut model, mut cx) = (network(), Context::default());
        let pipeline = Pipeline::parse(&format!("prune({options})"), passes::ALL).map_err(|error| error.to_string())?;
        pipeline.run(&mut model, &mut cx).map_err(|error| error.to_string())?;
        model.verify().unwrap();
        Ok((model, cx))
    }

    /// The neurons that are left of either pair.
    fn neurons(model: &Model) -> [usize; 2] {
        let constants = model.initializers_of(model.main).filter_map(|value| model.constant(value));
        let widths: Vec<usize> = constants.filter(|tensor| tensor.shape()[0] == 4).map(|t| t.shape()[1]).collect();
        [widths[0], widths[1]]
    }

    #[test]
    fn channels_go_where_they_cost_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table.json");
        let cut = |times: [[u64; 2]; 7], share: f64| {
            fs::write(&file, serde_json::to_vec(&table(times)).unwrap()).unwrap();
            pruned(&format!("latency={share},latency-table=\"{}\"", file.display())).unwrap()
        };
        // The second pair costs ten times as much, and nothing is gained by cutting the first one below a half.
        let (steep, flat) = ([500, 1000], [50, 100]);
        let (model, cx) = cut([flat, [1, 1], flat, [1, 1], steep, [1, 1], steep], 0.3);
        let [first, second] = neurons(&model);
        assert!(first > second, "{first} and {second}");
        let notes = &cx.reports[0].notes;
        assert!(notes.iter().any(|note| note.starts_with("latency by the table ")), "{notes:?}");
        assert!(cx.reports[0].log.iter().all(|entry| entry.get(KEY).is_none()), "it is not measured again");
        let (model, _) = cut([steep, [1, 1], steep, [1, 1], flat, [1, 1], flat], 0.3);
        let [first, second] = neurons(&model);
        assert!(first < second, "{first} and {second}");
        // What no cut makes faster stays, and that as much cannot be had is told.
        let (model, cx) = cut([[100, 100], [1, 1], [100, 100], [1, 1], flat, [1, 1], flat], 0.9);
        assert_eq!(neurons(&model), [8, 1]);
        let notes = &cx.reports[0].notes;
        assert!(notes.iter().any(|note| note.contains("no more can be cut")), "{notes:?}");
    }

    #[test]
    fn the_table_of_a_report_gives_the_same_choice_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        let (first, cx) = pruned("latency=0.3").unwrap();
        let log = &cx.reports[0].log;
        assert!(log.iter().any(|entry| entry.get(KEY).is_some()));
        fs::write(&file, serde_json::json!({ "passes": [{ "log": [{ "other": 1 }] }, { "log": log }] }).to_string())
            .unwrap();
        let (second, _) = pruned(&format!("latency=0.3,latency-table=\"{}\"", file.display())).unwrap();
        assert_eq!(crate::onnx::encode(&first).unwrap(), crate::onnx::encode(&second).unwrap());
    }

    #[test]
    fn tables_of_other_models_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("table.json");
        let refused = |text: String| {
            fs::write(&file, text).unwrap();
            pruned(&format!("latency=0.3,latency-table=\"{}\"", file.display())).err().unwrap()
        };
        assert!(refused("{".into()).contains("is no JSON"));
        assert!(refused("{}".into()).contains("is no table, and no report with one"));
        let mut other = table([[1, 2]; 7]);
        other.nodes[3].node = "Tanh `s`".into();
        let error = refused(serde_json::to_string(&other).unwrap());
        assert!(error.contains("it has Tanh `s` where this one has Softmax of `s`"), "{error}");
        other.nodes.pop();
        let error = refused(serde_json::to_string(&other).unwrap());
        assert!(error.contains("that has 6 nodes, this one 7"), "{error}");
        for options in ["latency=1", "latency=0.5,macs=0.5", "macs=0.5,latency-table=x.json"] {
            assert!(pruned(options).is_err(), "{options}");
        }
    }
}
