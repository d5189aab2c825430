//! Runs any values of a model over a data set, and folds what is seen of them.
//!
//! Law: what comes of it depends on model, values and data alone. Samples run in parallel, and are folded in their order.
//! No more is kept of a sample than what is seen of it, so that memory does not grow with the data set.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use thiserror::Error;

use crate::analysis::{FixedSizes, Shapes};
use crate::data::{Dataset, required_inputs};
use crate::ir::{DType, Model, Size, Tensor, ValueId};
use crate::kernels::Extremes;
use crate::runtime::{ExtremesRunner, Runner, RuntimeError, memory};

/// The bytes of values that one run may return. Wider models are run for some values at a time. A number that does not
/// follow from the machine, since a runtime may round otherwise where other values are asked for.
const BYTES_AT_A_TIME: usize = 256 << 20;

/// Who watches the work, and may end it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Called after each run of a sample, from several threads, with the number of all runs.
    pub progress: &'a (dyn Fn(usize) + Sync),
    pub cancelled: &'a AtomicBool,
}

impl Watch<'_> {
    fn check(&self) -> Result<(), SurveyError> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(SurveyError::Cancelled),
            false => Ok(()),
        }
    }
}

impl Default for Watch<'_> {
    fn default() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Watch { progress: &|_| {}, cancelled: &NEVER }
    }
}

/// Why values could not be looked at.
#[derive(Debug, Error)]
pub enum SurveyError {
    #[error("`{value}` is {found}, and only tensors of floats have a range")]
    NotFloat { value: String, found: String },
    #[error("`{value}` is a value of graph `{graph}`: only those of the main graph can be looked at")]
    Inner { value: String, graph: String },
    #[error("there are no samples to learn from")]
    NoSamples,
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Runs `model` on every sample of `data`. Of each of `values` (by its place among them, which may name a value more
/// than once) and each sample, `see` keeps what is needed, and `add` folds that into the value's state, sample by sample in
/// their order.
///
/// # Errors
/// Before anything runs, if a value is known to be no float tensor, lies in a body or a function, or cannot be computed
/// here.
pub fn survey<State: Send, Seen: Send>(
    model: &Model,
    values: &[ValueId],
    data: &Dataset,
    watch: Watch,
    states: &mut [State],
    see: impl Fn(usize, usize, &Tensor) -> Seen + Sync,
    add: impl Fn(usize, &mut State, Seen) + Sync,
) -> Result<(), SurveyError> {
    assert_eq!(values.len(), states.len());
    let shapes = accepted(model, values, data)?;
    let groups = groups(model, &shapes, values);
    let runs = groups.len() * data.len();
    for group in groups {
        let outputs: Vec<_> = group.iter().map(|&place| values[place]).collect();
        let runner = Runner::with_outputs(model, &outputs)?;
        let look = |sample: usize| -> Result<Vec<Seen>, SurveyError> {
            watch.check()?;
            let tensors = runner.run(&data.sample(sample))?;
            let seen = std::iter::zip(&group, tensors).map(|(&place, tensor)| {
                accept(model, values[place], Some(tensor.dtype()))?;
                Ok(see(place, sample, &tensor))
            });
            let seen = seen.collect();
            (watch.progress)(runs);
            seen
        };
        // In the order in which the runner gives their values.
        let mut states_of: HashMap<usize, &mut State> = states.iter_mut().enumerate().collect();
        let mut folded: Vec<(usize, &mut State)> =
            group.iter().filter_map(|&place| Some((place, states_of.remove(&place)?))).collect();
        let at_a_time = 2 * rayon::current_num_threads();
        for first in (0..data.len()).step_by(at_a_time) {
            let samples = first..data.len().min(first + at_a_time);
            let seen = samples.into_par_iter().map(look).collect::<Result<Vec<_>, _>>()?;
            let mut by_value: Vec<Vec<Seen>> = group.iter().map(|_| Vec::with_capacity(seen.len())).collect();
            for sample in seen {
                by_value.iter_mut().zip(sample).for_each(|(all, seen)| all.push(seen));
            }
            folded.par_iter_mut().zip(by_value).for_each(|((place, state), seen)| {
                seen.into_iter().for_each(|seen| add(*place, state, seen));
            });
        }
    }
    Ok(())
}

/// What each of `values` reaches over on all samples, as [`survey`] would find it but for the order of sums in the model, in
/// less time and memory.
///
/// # Errors
/// As [`survey`].
pub fn survey_extremes(
    model: &Model,
    values: &[ValueId],
    data: &Dataset,
    watch: Watch,
) -> Result<Vec<Extremes>, SurveyError> {
    let shapes = accepted(model, values, data)?;
    if values.iter().all(|&value| shapes.dtype(value) == Some(DType::F32)) {
        match extremes_in_place(model, values, data, watch) {
            // What kernels of training do not run, others may.
            Err(SurveyError::Runtime(_)) => {}
            found => return found,
        }
    }
    let mut all = vec![Extremes::default(); values.len()];
    let see = |_, _, tensor: &Tensor| Extremes::of(&tensor.floats().unwrap_or_default());
    survey(model, values, data, watch, &mut all, see, |_, all, one| *all = all.with(one))?;
    Ok(all)
}

fn extremes_in_place(
    model: &Model,
    values: &[ValueId],
    data: &Dataset,
    watch: Watch,
) -> Result<Vec<Extremes>, SurveyError> {
    let runner = ExtremesRunner::new(model, values, &data.sample(0))?;
    let look = |sample: usize| -> Result<Vec<Extremes>, SurveyError> {
        watch.check()?;
        let found = runner.run(&data.sample(sample))?;
        (watch.progress)(data.len());
        Ok(found)
    };
    let join = |mut all: Vec<Extremes>, found: Vec<Extremes>| {
        all.iter_mut().zip(found).for_each(|(all, one)| *all = all.with(one));
        Ok(all)
    };
    let none = || vec![Extremes::default(); values.len()];
    let found = (0..data.len()).into_par_iter().map(look).try_reduce(none, join);
    drop(runner);
    memory::return_freed();
    found
}

/// The shapes of `model` on the first sample, where it has all of `values` and they can be looked at.
fn accepted(model: &Model, values: &[ValueId], data: &Dataset) -> Result<Shapes, SurveyError> {
    if data.is_empty() {
        return Err(SurveyError::NoSamples);
    }
    let shapes = Shapes::infer_with(model, &sizes_of(model, &data.sample(0)));
    values.iter().try_for_each(|&value| accept(model, value, shapes.dtype(value)))?;
    Ok(shapes)
}

fn accept(model: &Model, value: ValueId, dtype: Option<DType>) -> Result<(), SurveyError> {
    let name = || model.value(value).name.clone();
    let graph = model.value(value).graph;
    if graph != model.main {
        return Err(SurveyError::Inner { value: name(), graph: model.graph(graph).name.clone() });
    }
    let float = [DType::F32, DType::F64, DType::F16, DType::Bf16];
    match dtype.filter(|dtype| !float.contains(dtype)) {
        Some(dtype) => Err(SurveyError::NotFloat { value: name(), found: dtype.to_string() }),
        None => Ok(()),
    }
}

/// The sizes of the inputs of `model` that a sample has, and what its symbols stand for.
pub fn sizes_of(model: &Model, sample: &[Tensor]) -> FixedSizes {
    let mut sizes = FixedSizes::default();
    for ((input, value), tensor) in required_inputs(model).zip(sample) {
        let declared = value.ty.as_ref().and_then(|ty| ty.as_tensor()?.shape.as_ref());
        for (dim, &length) in declared.into_iter().flatten().zip(tensor.shape()) {
            if let Size::Symbol(symbol) = &dim.size {
                sizes.symbols.insert(symbol.clone(), length);
            }
        }
        sizes.inputs.insert(input, tensor.shape().to_vec());
    }
    sizes
}

/// The places of values that are computed in one run, group by group. Where a size is unknown, the largest known is
/// assumed.
fn groups(model: &Model, shapes: &Shapes, values: &[ValueId]) -> Vec<Vec<usize>> {
    let known = |value: &ValueId| Some(4 * shapes.fixed(*value)?.iter().product::<usize>());
    let largest = values.iter().filter_map(known).max().unwrap_or(0);
    let order: HashMap<_, _> =
        model.nodes_of(model.main).enumerate().map(|(position, node)| (node, position)).collect();
    let mut places: Vec<usize> = (0..values.len()).collect();
    // Values that are near in the graph need the same nodes.
    places.sort_by_key(|&place| model.producer(values[place]).map(|node| order[&node]));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for place in places {
        let size = known(&values[place]).unwrap_or(largest);
        if groups.is_empty() || bytes + size > BYTES_AT_A_TIME {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        groups.last_mut().expect("one was pushed").push(place);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::{Detail, MomentSums, Moments, Reading, distributions};
    use super::*;
    use crate::data::{Random, synthesize};

    const NETWORK: &str = r#"
        <ir_version: 8, opset_import: ["": 18]>
        network (float[1,2,6,5] x, int64[1,3] ids) => (float[1,3,3,2] y, int64[1,3] next)
        <float[3,2,3,3] w = {1,-1,2,0,3,-2,1,1,-1, 2,0,1,-1,1,2,-3,1,0, 1,1,1,0,0,0,2,2,-2, 1,0,-1,2,0,1,-1,1,0, 3,1,0,1,2,0,1,0,-1, 0,0,1,1,-1,0,2,1,1}>
        {
            r = Relu (x)
            y = Conv <strides = [2, 2], pads = [1, 1, 0, 0]> (r, w)
            next = Add (ids, ids)
        }"#;

    fn network() -> Model {
        Model::parse(NETWORK).expect("the text is a model")
    }

    fn samples(model: &Model, count: usize) -> Dataset {
        synthesize(model, &FixedSizes::default(), 0, count, |_| Ok(())).expect("inputs can be made up")
    }

    fn value(model: &Model, name: &str) -> ValueId {
        model.all_values().find(|(_, value)| value.name == name).expect("the model has the value").0
    }

    fn watched<T>(threads: usize, look: impl FnOnce() -> T + Send) -> T
    where
        T: Send,
    {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start").install(look)
    }

    #[test]
    fn the_number_of_threads_makes_no_difference() {
        let model = network();
        let data = samples(&model, 23);
        let values = ["x", "r", "y"].map(|name| value(&model, name));
        let found = [1, 2, 4].map(|threads| {
            watched(threads, || distributions(&model, &values, &data, Detail::Histogram, Watch::default()).unwrap())
        });
        assert!(found[1] == found[0] && found[2] == found[0]);
        assert!(found[0][1].extremes.min == 0.0 && found[0][1].extremes.max == found[0][0].extremes.max);
        let reading = Reading::of(&model, model.producer(values[2]).unwrap()).unwrap();
        let moments = || -> Vec<Moments> {
            let mut sums = vec![MomentSums::default()];
            let see = |_, sample: usize, x: &Tensor| reading.rows(x, 4, &mut Random::new(7, sample as u64)).unwrap();
            let add = |_, sums: &mut MomentSums, rows| sums.add(&rows);
            survey(&model, &values[1..2], &data, Watch::default(), &mut sums, see, add).unwrap();
            sums.remove(0).moments()
        };
        let found = [1, 2, 4].map(|threads| watched(threads, moments));
        assert!(found[1] == found[0] && found[2] == found[0]);
        assert_eq!((found[0].len(), found[0][0].count), (1, 23 * 4));
    }

    #[test]
    fn values_may_be_asked_for_in_any_order() {
        let model = network();
        let data = samples(&model, 5);
        let look = |names: [&str; 3]| {
            let values = names.map(|name| value(&model, name));
            distributions(&model, &values, &data, Detail::Extremes, Watch::default()).unwrap()
        };
        let (forwards, mut backwards) = (look(["x", "r", "y"]), look(["y", "r", "x"]));
        backwards.reverse();
        assert!(forwards == backwards && forwards[0] != forwards[2]);
    }

    #[test]
    fn samples_may_come_in_any_order_and_portions() {
        let model = network();
        let data = samples(&model, 9);
        let look = |data: &Dataset| {
            let values = [value(&model, "y")];
            distributions(&model, &values, data, Detail::Histogram, Watch::default()).unwrap().remove(0)
        };
        let (one, other) = data.split(3, 0.4);
        let mut joined = look(&other);
        joined.add(look(&one));
        assert_eq!(joined, look(&data));
    }

    #[test]
    fn values_without_a_range_are_refused_by_name() {
        let model = network();
        let data = samples(&model, 2);
        let look = |name: &str, data: &Dataset, watch: Watch| {
            let found = distributions(&model, &[value(&model, name)], data, Detail::Extremes, watch);
            found.unwrap_err().to_string()
        };
        let why = look("next", &data, Watch::default());
        assert_eq!(why, "`next` is int64, and only tensors of floats have a range");
        assert_eq!(look("y", &data.first(0), Watch::default()), "there are no samples to learn from");
        let cancelled = AtomicBool::new(true);
        assert_eq!(look("y", &data, Watch { cancelled: &cancelled, ..Watch::default() }), "cancelled");
    }

    #[test]
    fn values_of_bodies_are_refused_by_name() {
        let mut model = network();
        let body = model.add_graph("branch");
        let inner = model.add_input(body, "inner");
        let why = distributions(&model, &[inner], &samples(&network(), 1), Detail::Extremes, Watch::default());
        let why = why.unwrap_err().to_string();
        assert_eq!(why, "`inner` is a value of graph `branch`: only those of the main graph can be looked at");
    }

    #[test]
    fn extremes_are_those_of_the_values() {
        let model = network();
        let data = samples(&model, 7);
        let values = ["y", "x", "r", "y"].map(|name| value(&model, name));
        let look = |detail| distributions(&model, &values, &data, detail, Watch::default()).unwrap();
        for (found, expected) in std::iter::zip(look(Detail::Extremes), look(Detail::Histogram)) {
            let (found, expected) = (found.extremes, expected.extremes);
            let range = expected.max - expected.min;
            assert!((found.min - expected.min).abs() <= 1e-5 * range, "{found:?}, not {expected:?}");
            assert!((found.max - expected.max).abs() <= 1e-5 * range, "{found:?}, not {expected:?}");
        }
    }

    #[test]
    fn progress_counts_every_run() {
        let model = network();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let progress = |total: usize| {
            assert_eq!(total, 5);
            count.fetch_add(1, Ordering::Relaxed);
        };
        let watch = Watch { progress: &progress, ..Watch::default() };
        distributions(&model, &[value(&model, "r")], &samples(&model, 5), Detail::Extremes, watch).unwrap();
        assert_eq!(count.into_inner(), 5);
    }

    #[test]
    fn wide_models_are_run_for_some_values_at_a_time() {
        let text = r#"
            <ir_version: 8, opset_import: ["": 18]>
            wide (float[1,30000000] x) => (float[1,30000000] c) { a = Relu (x) b = Relu (a) c = Relu (b) }"#;
        let model = Model::parse(text).unwrap();
        let values = ["c", "a", "x", "b"].map(|name| value(&model, name));
        let groups = groups(&model, &Shapes::infer(&model), &values);
        assert_eq!(groups, [vec![2, 1], vec![3, 0]]);
    }
}
