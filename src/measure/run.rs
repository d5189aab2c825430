//! What one model gives: its outputs in figures, how long a sample takes, and where that time goes.

use std::time::{Duration, Instant};

use indexmap::IndexMap;
use rayon::prelude::*;
use serde::Serialize;

use super::accuracy::{Accuracy, Judge, Metric, Verdicts};
use super::agreement::split_rows;
use super::{Evidence, Inputs};
use crate::data::{Source, SynthesisError, synthesize};
use crate::ir::{DType, Model, Tensor};
use crate::runtime::{Execution, NodeTime, Runner, RuntimeError};

/// One model over all samples.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub inputs: Evidence,
    pub outputs: Vec<OutputFigures>,
    /// One for each metric that the labels allow, the main one first.
    pub accuracy: Vec<Score>,
    /// The median time of a sample in milliseconds, while `threads` samples ran at a time.
    pub median_ms: f64,
    pub threads: usize,
    /// What a user should know of data and labels.
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// One output over all samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputFigures {
    pub output: String,
    #[serde(rename = "type", serialize_with = "by_name")]
    pub dtype: DType,
    /// Of one sample; an axis whose length varies is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<Option<usize>>>,
    /// Over all finite elements; none for strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elements: Option<ElementFigures>,
    /// Elements that are NaN or infinite.
    pub not_finite: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ElementFigures {
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    pub standard_deviation: f64,
}

/// The share of right answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    pub metric: Metric,
    pub share: f64,
    pub samples: usize,
}

/// Where the time goes, the most expensive first.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    pub nodes: Vec<NodeShare>,
    pub operators: Vec<OperatorShare>,
    /// The time of all nodes, in milliseconds a sample.
    pub total_ms: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct NodeShare {
    pub node: String,
    pub operator: String,
    /// Whether it computed with 8-bit integers.
    pub int8: bool,
    /// Whether it ran in an operator of ours.
    pub ours: bool,
    /// Milliseconds a sample.
    pub ms: f64,
    /// Of the time of all nodes.
    pub share: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct OperatorShare {
    pub operator: String,
    pub nodes: usize,
    /// Those of them that computed with 8-bit integers.
    pub int8: usize,
    /// Nodes that ran in operators of ours.
    pub ours: usize,
    /// Milliseconds a sample.
    pub ms: f64,
    pub share: f64,
}

/// What to do besides running.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    pub profile: bool,
    pub execution: &'a Execution,
    /// Whether to hand the outputs themselves back.
    pub keep_outputs: bool,
    /// Called after each sample, from several threads, with the number of all samples.
    pub progress: &'a (dyn Fn(usize) + Sync),
}

/// Why a model was not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Synthesis(#[from] SynthesisError),
}

/// What one sample gives.
struct Sample {
    outputs: Vec<Tensor>,
    figures: Vec<(OutputFigures, Sums)>,
    verdicts: Verdicts,
    time: Duration,
    nodes: Vec<NodeTime>,
}

/// Runs `model` on each sample. The first float output is taken as the scores that labels judge. The second result holds
/// the outputs, sample by sample, if they are to be kept.
pub fn run(model: &Model, inputs: Inputs, options: RunOptions) -> Result<(Run, Vec<Vec<Tensor>>), RunError> {
    let runner = Runner::with(model, &model.graph(model.main).outputs, options.execution)?;
    let random;
    let data = match inputs {
        Inputs::Data(data) => data,
        Inputs::Random { sizes, seed, count } => {
            let run = |sample: &[Tensor]| runner.run(sample).map(drop).map_err(|error| error.to_string());
            random = synthesize(model, sizes, seed, count, run)?;
            &random
        }
    };
    let judge = Judge::of(model, data.labels());
    let names = model.graph(model.main).outputs.iter().map(|&output| model.value(output).name.as_str());
    let names: Vec<&str> = names.collect();
    let samples = (0..data.len()).into_par_iter().map(|index| {
        let sample = data.sample(index);
        runner.prepare(&sample)?;
        let start = Instant::now();
        let (outputs, nodes) = match options.profile {
            true => runner.profile(&sample)?,
            false => (runner.run(&sample)?, Vec::new()),
        };
        let time = start.elapsed();
        let scores = outputs.iter().find(|output| output.dtype().is_float());
        let verdicts = scores.map(|scores| judge.verdicts(scores, scores, data.label_rows(index)));
        let figures = names.iter().zip(&outputs).map(|(name, output)| OutputFigures::of(name, output)).collect();
        (options.progress)(data.len());
        let outputs = if options.keep_outputs { outputs } else { Vec::new() };
        Ok(Sample { outputs, figures, verdicts: verdicts.unwrap_or_default(), time, nodes })
    });
    let samples: Vec<Sample> = samples.collect::<Result<_, RuntimeError>>()?;

    let mut times: Vec<Duration> = samples.iter().map(|sample| sample.time).collect();
    times.sort();
    let profile = options.profile.then(|| Profile::of(samples.iter().map(|sample| &sample.nodes[..])));
    let (mut figures, mut verdicts, mut kept) = (Vec::new(), Verdicts::default(), Vec::new());
    for sample in samples {
        match figures.is_empty() {
            true => figures = sample.figures,
            false => figures.iter_mut().zip(&sample.figures).for_each(|(all, one)| merge(all, one)),
        }
        verdicts.extend(sample.verdicts);
        kept.push(sample.outputs);
    }
    let warnings = data.warnings().iter().cloned().chain(judge.warnings(&verdicts)).collect();
    let run = Run {
        inputs: match data.source() {
            Source::File(file) => Evidence::Data { file: file.clone(), samples: data.len() },
            Source::Random { seed } => Evidence::Random { seed: *seed, samples: data.len() },
        },
        outputs: figures.into_iter().map(|(figures, sums)| figures.with(&sums)).collect(),
        accuracy: verdicts.accuracy().into_iter().map(Score::of).collect(),
        median_ms: times.get(times.len() / 2).map_or(0.0, |time| milliseconds(*time)),
        threads: rayon::current_num_threads().min(data.len().max(1)),
        warnings,
        profile,
    };
    Ok((run, if options.keep_outputs { kept } else { Vec::new() }))
}

/// The outputs of all samples in one tensor: joined along the first axis where it counts the rows of a batch, else along
/// a new one. None where they are not of one type and shape.
pub fn join(parts: &[&Tensor], batch: usize) -> Option<Tensor> {
    let first = parts.first()?;
    let (rows, row_shape) = split_rows(first.shape(), batch);
    if parts.iter().any(|part| (part.dtype(), part.shape()) != (first.dtype(), first.shape())) {
        return None;
    }
    let shape: Vec<usize> = std::iter::once(rows * parts.len()).chain(row_shape.iter().copied()).collect();
    match first.bytes() {
        Some(_) => {
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.bytes()).flatten().copied().collect();
            Tensor::new(first.dtype(), shape, bytes.into()).ok()
        }
        None => {
            let strings = parts.iter().flat_map(|part| part.strings()).flatten().cloned();
            Tensor::from_strings(shape, strings.collect()).ok()
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn by_name<S: serde::Serializer>(dtype: &DType, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(dtype.name())
}

/// What figures of elements are computed from.
#[derive(Clone, Copy)]
struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Sums {
    fn of(elements: impl Iterator<Item = f64>) -> Sums {
        let mut sums = Sums { count: 0.0, sum: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
        for x in elements {
            sums.count += 1.0;
            sums.sum += x;
            sums.squares += x * x;
            sums.min = sums.min.min(x);
            sums.max = sums.max.max(x);
        }
        sums
    }

    fn figures(&self) -> Option<ElementFigures> {
        let mean = self.sum / self.count;
        let variance = (self.squares / self.count - mean * mean).max(0.0);
        (self.count > 0.0).then(|| ElementFigures {
            min: self.min,
            max: self.max,
            mean,
            standard_deviation: variance.sqrt(),
        })
    }
}

impl OutputFigures {
    fn of(name: &str, output: &Tensor) -> (OutputFigures, Sums) {
        let (mut not_finite, none) = (0, std::iter::empty());
        let sums = match (output.elements::<f64>(), output.floats(), output.ints()) {
            (Some(doubles), ..) => {
                not_finite = doubles.iter().filter(|x| !x.is_finite()).count();
                Sums::of(doubles.iter().copied().filter(|x| x.is_finite()))
            }
            (None, Some(floats), _) => {
                not_finite = floats.iter().filter(|x| !x.is_finite()).count();
                Sums::of(floats.iter().copied().filter(|x| x.is_finite()).map(f64::from))
            }
            (None, None, Some(ints)) => Sums::of(ints.iter().map(|&x| x as f64)),
            (None, None, None) => Sums::of(none),
        };
        let shape = Some(output.shape().iter().map(|&n| Some(n)).collect());
        (OutputFigures { output: name.into(), dtype: output.dtype(), shape, elements: None, not_finite }, sums)
    }

    fn with(self, sums: &Sums) -> OutputFigures {
        OutputFigures { elements: sums.figures(), ..self }
    }
}

fn merge((all, sums): &mut (OutputFigures, Sums), (one, more): &(OutputFigures, Sums)) {
    all.not_finite += one.not_finite;
    all.shape = match (all.shape.take(), &one.shape) {
        (Some(mut shape), Some(other)) if shape.len() == other.len() => {
            shape.iter_mut().zip(other).for_each(|(a, b)| *a = a.filter(|_| a == b));
            Some(shape)
        }
        _ => None,
    };
    *sums = Sums {
        count: sums.count + more.count,
        sum: sums.sum + more.sum,
        squares: sums.squares + more.squares,
        min: sums.min.min(more.min),
        max: sums.max.max(more.max),
    };
}

impl Score {
    fn of(accuracy: Accuracy) -> Score {
        Score { metric: accuracy.metric, share: accuracy.original, samples: accuracy.samples }
    }
}

impl Profile {
    /// Of the nodes of each run.
    pub fn of<'n>(runs: impl ExactSizeIterator<Item = &'n [NodeTime]>) -> Profile {
        let count = runs.len().max(1);
        let mut nodes: IndexMap<&str, (&NodeTime, Duration, bool)> = IndexMap::new();
        for node in runs.flatten() {
            let (_, time, int8) = nodes.entry(&node.id).or_insert((node, Duration::ZERO, false));
            (*time, *int8) = (*time + node.time, *int8 | node.int8);
        }
        let total: Duration = nodes.values().map(|(_, time, _)| *time).sum();
        let ms = |time: Duration| milliseconds(time) / count as f64;
        let share = |time: Duration| time.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);

        let mut operators: IndexMap<&str, (usize, usize, usize, Duration)> = IndexMap::new();
        for (node, time, int8) in nodes.values() {
            let (count, in_int8, ours, sum) = operators.entry(&node.op).or_default();
            (*count, *in_int8, *sum) = (*count + 1, *in_int8 + usize::from(*int8), *sum + *time);
            *ours += usize::from(node.ours);
        }
        operators.sort_by(|_, a, _, b| b.3.cmp(&a.3));
        nodes.sort_by(|_, a, _, b| b.1.cmp(&a.1));
        let operators = operators.into_iter().map(|(operator, (nodes, int8, ours, time))| OperatorShare {
            operator: operator.into(),
            nodes,
            int8,
            ours,
            ms: ms(time),
            share: share(time),
        });
        let nodes = nodes.into_values().map(|(node, time, int8)| NodeShare {
            node: node.name.clone(),
            operator: node.op.clone(),
            int8,
            ours: node.ours,
            ms: ms(time),
            share: share(time),
        });
        Profile { nodes: nodes.collect(), operators: operators.collect(), total_ms: ms(total) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_samples_are_those_of_all_their_elements() {
        let tensor = |shape: &[usize], x: &[f32]| Tensor::from_vec(shape.to_vec(), x.to_vec());
        let mut all = OutputFigures::of("y", &tensor(&[1, 2], &[1.0, f32::NAN]));
        merge(&mut all, &OutputFigures::of("y", &tensor(&[1, 3], &[2.0, 3.0, 6.0])));
        let figures = all.0.with(&all.1);
        assert_eq!((figures.shape, figures.not_finite), (Some(vec![Some(1), None]), 1));
        let expected = ElementFigures { min: 1.0, max: 6.0, mean: 3.0, standard_deviation: 3.5f64.sqrt() };
        assert_eq!(figures.elements, Some(expected));
    }

    #[test]
    fn a_profile_adds_up_nodes_and_operators() {
        let node = |id: &str, op: &str, ms, int8| NodeTime {
            id: id.into(),
            name: id.into(),
            op: op.into(),
            time: Duration::from_millis(ms),
            int8,
            ours: int8,
        };
        let runs = [
            vec![node("a", "Conv", 1, true), node("b", "Relu", 4, false), node("c", "Conv", 2, false)],
            vec![node("a", "Conv", 5, true), node("b", "Relu", 8, false)],
        ];
        let profile = Profile::of(runs.iter().map(|nodes| &nodes[..]));
        let nodes: Vec<_> = profile.nodes.iter().map(|node| (&*node.node, node.int8, node.ms, node.share)).collect();
        assert_eq!(nodes, [("b", false, 6.0, 0.6), ("a", true, 3.0, 0.3), ("c", false, 1.0, 0.1)]);
        let operators: Vec<_> = profile.operators.iter().map(|op| (&*op.operator, op.nodes, op.int8, op.ms)).collect();
        assert_eq!(operators, [("Relu", 1, 0, 6.0), ("Conv", 2, 1, 4.0)]);
        assert_eq!(profile.total_ms, 10.0);
    }
}
