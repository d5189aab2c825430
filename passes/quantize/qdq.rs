//! The static mode: ranges from samples, then a graph of Q/DQ pairs.

use std::collections::{HashMap, HashSet};

use globset::GlobSet;
use rayon::prelude::*;

use crate::analysis::Shapes;
use crate::data::Dataset;
use crate::ir::{Model, Node, NodeId, ValueId};
use crate::measure::{self, Distribution, RangeMethod, Watch};
use crate::pass::{Context, PassError};
use crate::passes::cleanup::upgrade_opset;
use crate::passes::teach::Recipe;
use crate::rewrite::Outcome;

use super::aids::{self, Aids, BiasCorrection, Rounding};
use super::codes::{Bits, Codes};
use super::equalize::equalize;
use super::grid::{Grid, Levels};
use super::int4;
use super::layer::Layer;
use super::migrate::{Rendering, migrate};
use super::place::{Limits, Placement, Role};
use super::qat;
use super::rewrites::keep_biases_apart;
use super::saturation::SEVEN_BITS;
use super::sensitivity::{Candidate, Sensitivity, rank};
use super::target::Traits;
use super::write::write;

/// What rounding for the inputs leaves of the error of rounding to the nearest level, on transformers about.
const GPTQ_ERROR: f64 = 0.25;

/// What the static mode needs to know.
pub struct Settings {
    pub traits: Traits,
    /// Whether the cost table decides where int8 pays.
    pub costs: bool,
    pub method: RangeMethod,
    pub kept: GlobSet,
    pub rounding: Rounding,
    pub bias_correction: BiasCorrection,
    /// Whether products of eight bits overflow on the target.
    pub saturates: bool,
    pub equalize: bool,
    pub migrate: bool,
    /// How many samples are learned from.
    pub samples: usize,
    /// The bits of the weights of layers.
    pub bits: Bits,
    /// How many layers stay float, of the first and the last ones.
    pub keep_ends: [usize; 2],
}

/// Quantizes what pays, and reports it. With a recipe, the quantized graph is trained, instead of learning layer by layer.
pub fn quantize(
    model: &mut Model,
    cx: &mut Context,
    settings: &Settings,
    recipe: Option<&Recipe>,
) -> Result<(), PassError> {
    let traits = &settings.traits;
    if settings.bits == Bits::Four {
        upgrade_opset::raise(model, int4::OPSET)?;
    }
    let given = given_samples(cx)?;
    let (all, data) = (given.len(), given.some(cx.seed, settings.samples));
    let (placement, outcomes) = place(model, &data, cx, settings)?;
    outcomes.into_iter().for_each(|outcome| cx.report(outcome));
    if placement.units.is_empty() {
        cx.note("nothing runs in int8; large weights are stored in it");
        return Ok(());
    }
    if data.len() < all {
        let some = data.len();
        cx.note(format!("{some} of {all} samples, chosen at random, give the ranges: `samples` tells how many"));
    }
    let grids = grids(model, &placement, &data, cx, settings)?;
    let mut codes = codes(model, &placement, &grids, settings);
    let saturates = settings.saturates && traits.levels == Levels::U8;
    if recipe.is_none() {
        let aids = Aids {
            rounding: settings.rounding,
            bias_correction: settings.bias_correction,
            saturates,
            per_channel: traits.per_channel,
            bits: settings.bits,
            seed: cx.seed,
        };
        let watch = Watch { cancelled: &cx.cancelled, ..Watch::default() };
        let learned = aids::apply(model, &placement, traits, &grids, &mut codes, &data, &aids, watch)
            .map_err(|error| PassError(format!("weights could not be learned: {error}")))?;
        if learned.layers > 0 {
            learned.notes(&aids).into_iter().for_each(|note| cx.note(note));
        }
    }
    let layers = codes.len();
    if traits.merges_sums {
        let declared = cx.shapes(model);
        keep_biases_apart(model, &placement, &declared);
    }
    match recipe {
        None => drop(write(model, &placement, traits, &grids, &codes)),
        Some(recipe) => {
            let limit = if saturates { settings.bits.limit().min(SEVEN_BITS) } else { settings.bits.limit() };
            let float = model.clone();
            let written = write(model, &placement, traits, &grids, &codes);
            qat::train(
                model,
                float,
                &qat::Quantized { placement: &placement, codes: &codes, written, limit },
                recipe,
                cx,
            )?;
        }
    }
    cx.note(format!(
        "{layers} layers and {} other operators run in int8, {} values are stored in it",
        placement.units.len() - layers,
        placement.values.len()
    ));
    Ok(())
}

/// What runs in int8, after what the settings want to be moved before; and what came of both.
fn place(
    model: &mut Model,
    data: &Dataset,
    cx: &Context,
    settings: &Settings,
) -> Result<(Placement, Vec<Outcome>), PassError> {
    let mut outcomes = Vec::new();
    if settings.equalize {
        outcomes.push(equalize(model));
    }
    let (mut placement, mut placed) = placement(model, data, settings);
    if settings.migrate {
        let rendering = Rendering {
            symmetric: settings.traits.symmetric,
            weight_error: if settings.rounding == Rounding::Gptq { GPTQ_ERROR } else { 1.0 },
        };
        let watch = Watch { cancelled: &cx.cancelled, ..Watch::default() };
        let outcome = migrate(model, &placement, rendering, data, watch)
            .map_err(|error| PassError(format!("outliers could not be measured: {error}")))?;
        if outcome.applied.values().any(|&count| count > 0) {
            (placement, placed) = self::placement(model, data, settings);
        }
        outcomes.push(outcome);
    }
    outcomes.push(placed);
    Ok((placement, outcomes))
}

/// What runs in int8, with the sizes that the samples have.
fn placement(model: &Model, data: &Dataset, settings: &Settings) -> (Placement, Outcome) {
    let sizes = measure::sizes_of(model, &data.sample(0));
    let shapes = Shapes::infer_with(model, &sizes);
    let layers: Vec<NodeId> = model.nodes_of(model.main).filter(|&node| Layer::read(model, node).is_ok()).collect();
    let [first, last] = settings.keep_ends;
    let ends: HashSet<NodeId> = layers.iter().take(first).chain(layers.iter().rev().take(last)).copied().collect();
    let kept = |node: NodeId| {
        let Node { name, op, outputs, .. } = model.node(node);
        // A node without a name goes by that of its result, as everywhere.
        let result = outputs.iter().flatten().next().map_or("", |&result| &model.value(result).name);
        let name = if name.is_empty() { result } else { name };
        settings.kept.is_match(name) || settings.kept.is_match(op) || ends.contains(&node)
    };
    Placement::of(model, &shapes, &settings.traits, settings.costs, kept)
}

/// What quantizing each layer alone does to the outputs, on the first `count` samples.
pub fn sensitivities(
    model: &Model,
    cx: &Context,
    settings: &Settings,
    count: usize,
) -> Result<Vec<Sensitivity>, PassError> {
    let (mut model, given) = (model.clone(), given_samples(cx)?);
    let data = given.some(cx.seed, settings.samples);
    let (placement, _) = place(&mut model, &data, cx, settings)?;
    if placement.units.is_empty() {
        return Ok(Vec::new());
    }
    let grids = grids(&model, &placement, &data, cx, settings)?;
    let layers = placement.units.iter().filter_map(|unit| match &unit.role {
        Role::Layer(layer) => Some(Candidate { layer, grid: grids[&layer.x], bits: settings.bits }),
        _ => None,
    });
    let candidates: Vec<Candidate> = layers.collect();
    rank(&model, &candidates, &given.first(count))
        .map_err(|error| PassError(format!("sensitivities could not be measured: {error}")))
}

fn given_samples(cx: &Context) -> Result<&Dataset, PassError> {
    cx.data.as_ref().filter(|data| !data.is_empty()).ok_or_else(|| PassError("the static mode needs samples".into()))
}

/// A grid for every int8 value, by the samples.
fn grids(
    model: &Model,
    placement: &Placement,
    data: &Dataset,
    cx: &Context,
    settings: &Settings,
) -> Result<HashMap<ValueId, Grid>, PassError> {
    let measured = placement.measured(model);
    let values: Vec<ValueId> = measured.iter().map(|(value, _)| *value).collect();
    let watch = Watch { cancelled: &cx.cancelled, ..Watch::default() };
    let found = measure::distributions(model, &values, data, settings.method.detail(), watch)
        .map_err(|error| PassError(format!("ranges could not be measured: {error}")))?;

    let Traits { levels, symmetric, .. } = settings.traits;
    let steps = measure::Grid { steps: if symmetric { 254 } else { 255 }, symmetric };
    let shifts: HashMap<ValueId, f32> = placement.shifts().collect();
    let ranges: Vec<[f32; 2]> = found
        .par_iter()
        .zip(&measured)
        .map(|(distribution, &(value, Limits { low, high, .. }))| {
            let range = Distribution::clamped(distribution, low, high).range(settings.method, steps);
            // The number that the zero of the unshifted value becomes has to lie on the grid.
            let shift = shifts.get(&value).copied().unwrap_or(0.0);
            [range.min.min(shift), range.max.max(shift)]
        })
        .collect();
    let mut common: HashMap<ValueId, [f32; 2]> = HashMap::new();
    let reached: HashSet<ValueId> =
        measured.iter().filter(|(_, limits)| limits.reached).map(|(value, _)| placement.values[value]).collect();
    for (value, [low, high]) in values.iter().zip(ranges) {
        let all = common.entry(placement.values[value]).or_insert([0.0; 2]);
        *all = [all[0].min(low), all[1].max(high)];
    }
    let grid = |value: &ValueId| {
        let [low, high] = common[value];
        match reached.contains(value) && !symmetric {
            true => Grid::reaching(low, high, levels),
            false => Grid::covering(low, high, levels, symmetric),
        }
    };
    Ok(placement.values.iter().map(|(&value, grid_of)| (value, grid(grid_of))).collect())
}

fn codes(
    model: &Model,
    placement: &Placement,
    grids: &HashMap<ValueId, Grid>,
    settings: &Settings,
) -> HashMap<NodeId, Codes> {
    let (per_channel, bits) = (settings.traits.per_channel, settings.bits);
    let layers = placement.units.par_iter().filter_map(|unit| match &unit.role {
        Role::Layer(layer) => Some((layer, &unit.tail)),
        _ => None,
    });
    let code = |(layer, tail): (&Layer, &super::tail::Tail)| {
        let weight = layer.weights(model, tail.gain);
        let bias = layer.biases(model, tail.gain, tail.shift);
        (layer.node, Codes::nearest(&weight, layer.axis, bias, grids[&layer.x], per_channel, bits))
    };
    layers.map(code).collect()
}
