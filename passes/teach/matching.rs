//! Which values of student and teacher a hint means: by their names, or by equal shape where only one is named.

use super::failed;
use super::hints::Hint;
use crate::analysis::Shapes;
use crate::ir::{DType, Model, Tensor, ValueId};
use crate::pass::PassError;
use crate::runtime::Runner;

/// The values that a hint compares, with their shapes for one sample, in the student and in the teacher.
pub(super) struct Pair {
    pub values: [ValueId; 2],
    pub shapes: [Vec<usize>; 2],
    /// What it was matched with, where only one of them was named.
    pub note: Option<String>,
}

/// A value that could be meant, and its shape for one sample.
type Candidate = (ValueId, Vec<usize>);

/// So many candidates are told.
const TOLD: usize = 8;

const SIDES: [&str; 2] = ["student", "teacher"];

/// The values of each hint. `models` and `samples` are those of student and teacher.
pub(super) fn pairs(hints: &[Hint], models: [&Model; 2], samples: &[Vec<Tensor>; 2]) -> Result<Vec<Pair>, PassError> {
    // Every value that could be meant, where it has to be looked for.
    let mut all: [Option<Vec<Candidate>>; 2] = [None, None];
    let pair = |hint: &Hint| {
        let found = named(hint, models)?;
        let mut note = None;
        let mut shapes: [Vec<usize>; 2] = Default::default();
        for side in 0..2 {
            if let Some(value) = found[side] {
                shapes[side] = shapes_of(models[side], &[value], &samples[side])?.remove(0);
            }
        }
        let mut values = found;
        if let Some(missing) = found.iter().position(Option::is_none) {
            let given = 1 - missing;
            if all[missing].is_none() {
                let values = floats(models[missing]);
                let shapes = shapes_of(models[missing], &values, &samples[missing])?;
                all[missing] = Some(values.into_iter().zip(shapes).collect());
            }
            let candidates = all[missing].as_deref().unwrap_or_default();
            let value = found[given].expect("one of them is named");
            let like = Like { model: models[given], value, shape: &shapes[given] };
            let (matched, shape) = like.only(models[missing], candidates, missing, hint)?;
            let name = |side: usize, value: ValueId| &models[side].value(value).name;
            note = Some(format!(
                "`{}` of the {} is matched with `{}` of the {} by its shape",
                name(given, value),
                SIDES[given],
                name(missing, matched),
                SIDES[missing]
            ));
            (values[missing], shapes[missing]) = (Some(matched), shape);
        }
        Ok(Pair { values: values.map(|value| value.expect("both are known")), shapes, note })
    };
    hints.iter().map(pair).collect()
}

/// The values that the hint names; none where it names none, or one that the other model alone has.
fn named(hint: &Hint, models: [&Model; 2]) -> Result<[Option<ValueId>; 2], PassError> {
    let find = |side: usize| hint.names[side].as_deref().and_then(|name| computed(models[side], name));
    let found = [find(0), find(1)];
    if hint.names == [None, None] {
        return Err(PassError("a hint names no value".into()));
    }
    let unknown = |side: usize| {
        let name = hint.names[side].as_deref().unwrap_or_default();
        PassError(format!("the {} computes no value `{name}` to give hints by", SIDES[side]))
    };
    let is_missing = |side: usize| hint.names[side].is_some() && found[side].is_none();
    match (0..2).find(|&side| is_missing(side)) {
        Some(side) if !hint.is_shared || found == [None, None] => Err(unknown(side)),
        _ => Ok(found),
    }
}

fn computed(model: &Model, name: &str) -> Option<ValueId> {
    let mut values = model.all_values().filter(|(_, value)| value.graph == model.main && value.name == name);
    values.find(|(id, _)| model.producer(*id).is_some()).map(|(id, _)| id)
}

/// Everything of floats that the main graph computes from what it is given.
fn floats(model: &Model) -> Vec<ValueId> {
    let shapes = Shapes::infer(model);
    let results = model.nodes_of(model.main).flat_map(|node| model.node(node).outputs.iter().flatten().copied());
    let is_read = |value: &ValueId| !model.value(*value).uses.is_empty();
    results.filter(is_read).filter(|&value| shapes.dtype(value) == Some(DType::F32)).collect()
}

fn shapes_of(model: &Model, values: &[ValueId], sample: &[Tensor]) -> Result<Vec<Vec<usize>>, PassError> {
    let results = Runner::with_outputs(model, values).and_then(|runner| runner.run(sample)).map_err(failed)?;
    Ok(results.iter().map(|result| result.shape().to_vec()).collect())
}

/// A value that another model is to have a like of.
struct Like<'a> {
    model: &'a Model,
    value: ValueId,
    shape: &'a [usize],
}

impl Like<'_> {
    /// The only candidate of this shape, or the only one of them that the same operator computes.
    fn only(&self, other: &Model, candidates: &[Candidate], side: usize, hint: &Hint) -> Result<Candidate, PassError> {
        let alike = |shape: &[usize]| match (hint.attention, shape, self.shape) {
            // Channels may differ.
            (true, [n, _, space @ ..], [m, _, like @ ..]) => n == m && space == like && space.len() == 2,
            (_, shape, like) => shape == like,
        };
        let alike: Vec<&Candidate> = candidates.iter().filter(|(_, shape)| alike(shape)).collect();
        let operator = |model: &Model, value: ValueId| {
            model.producer(value).map_or(String::new(), |node| model.node(node).op.clone())
        };
        let own = operator(self.model, self.value);
        let of_same: Vec<_> = alike.iter().copied().filter(|(value, _)| operator(other, *value) == own).collect();
        let (name, shape, whose) = (&self.model.value(self.value).name, self.shape, SIDES[side]);
        match (&alike[..], &of_same[..]) {
            ([only], _) | (_, [only]) => Ok((*only).clone()),
            ([], _) => Err(PassError(format!("no value of the {whose} has the shape of `{name}`, {shape:?}"))),
            (alike, of_same) => {
                let candidates = if of_same.is_empty() { alike } else { of_same };
                let tell =
                    |(value, _): &&Candidate| format!("`{}` ({})", other.value(*value).name, operator(other, *value));
                let told: Vec<String> = candidates.iter().take(TOLD).map(tell).collect();
                let more = match candidates.len().saturating_sub(TOLD) {
                    0 => String::new(),
                    more => format!(", and {more} more"),
                };
                Err(PassError(format!(
                    "`{name}` {shape:?} could be like several values of the {whose}: {}{more}; name one, as in `student=teacher`",
                    told.join(", ")
                )))
            }
        }
    }
}
