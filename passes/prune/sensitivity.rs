//! What cutting channels of one group alone does to the outputs: which layers bear a cut, and how much of one.

use rayon::prelude::*;
use serde::Serialize;

use super::criterion;
use super::cut::Cut;
use super::layer::Layer;
use super::select::Rules;
use super::{Found, Prune};
use crate::analysis::channels::{Channels, Class};
use crate::ir::{Model, Tensor};
use crate::measure::Errors;
use crate::pass::{Context, PassError};
use crate::runtime::{Runner, RuntimeError};

/// A group of channels, and what cutting some of it does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupSensitivity {
    /// The layers that give the channels, in the order they run.
    pub layers: Vec<String>,
    /// Sets of channels that go together: neurons, heads, places of a residual stream.
    pub channels: usize,
    /// In the order of the shares that were asked for.
    pub cuts: Vec<CutSensitivity>,
}

/// What a cut of one group alone does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CutSensitivity {
    /// The share of the group that was to go, and how many have gone.
    pub share: f64,
    pub removed: usize,
    /// The shares of the model's parameters and multiply-accumulates that go with them.
    pub parameters: f64,
    pub macs: f64,
    /// How far outputs move, as [`Errors`] tells it.
    pub sqnr_db: f64,
    pub changed: f64,
}

/// For each group of channels, what cutting `shares` of it does to the outputs on the first `samples`; the most sensitive first.
pub fn rank(
    pass: &Prune,
    model: &Model,
    cx: &Context,
    samples: usize,
    shares: &[f64],
) -> Result<Vec<GroupSensitivity>, PassError> {
    let found = pass.find(model)?;
    if found.groups.members.is_empty() {
        return Ok(Vec::new());
    }
    let learned_from = pass.learned_from(&found.model, cx)?;
    let scores = criterion::scores(pass.criterion, found.subject(cx.seed), learned_from.as_ref())?;
    let Found { model: whole, shapes, channels, layers, groups, .. } = found;
    let order = criterion::order(&groups, &scores, None, true);

    let inputs = Prune::inputs(&Prune::all_data(cx)?.first(samples), &whole, cx)?;
    let exact = outputs(&whole, &inputs).map_err(failed)?;
    let [parameters, _, macs] = Cut::new(&channels, &shapes, &vec![false; channels.len()]).cost(&whole);
    let rules = Rules { minimum: pass.minimum, multiple: pass.round_to };
    let cut = |(group, share): (usize, f64)| -> Result<CutSensitivity, RuntimeError> {
        let members: Vec<Class> = order.iter().copied().filter(|&class| groups.group(class) == Some(group)).collect();
        let count = ((share * members.len() as f64).round() as usize).max(1);
        let gone = groups.first(&channels, &members, count.min(members.len()), rules);
        let cut = Cut::new(&channels, &shapes, &gone);
        let mut small = whole.clone();
        cut.apply(&mut small);
        let [left_parameters, _, left_macs] = cut.cost(&whole);
        let mut errors = Errors::default();
        exact.iter().zip(outputs(&small, &inputs)?).for_each(|(exact, found)| errors.add(&Errors::of(exact, &found)));
        let lost = |left: u64, all: u64| 1.0 - left as f64 / all.max(1) as f64;
        Ok(CutSensitivity {
            share,
            removed: gone.iter().filter(|&&gone| gone).count(),
            parameters: lost(left_parameters, parameters),
            macs: lost(left_macs, macs),
            sqnr_db: errors.sqnr_db(),
            changed: errors.changed(),
        })
    };
    let numbers: Vec<usize> = (0..groups.members.len()).filter(|&group| groups.members[group].len() > 1).collect();
    let cuts: Vec<(usize, f64)> =
        numbers.iter().flat_map(|&group| shares.iter().map(move |&share| (group, share))).collect();
    let measured: Vec<CutSensitivity> = cuts.into_par_iter().map(cut).collect::<Result<_, _>>().map_err(failed)?;
    let ranked = numbers.into_iter().zip(measured.chunks(shares.len().max(1))).map(|(group, cuts)| GroupSensitivity {
        layers: givers(&whole, &channels, &layers, groups.members[group][0]),
        channels: groups.members[group].len(),
        cuts: cuts.to_vec(),
    });
    let mut ranked: Vec<GroupSensitivity> = ranked.collect();
    let worst = |group: &GroupSensitivity| group.cuts.iter().map(|cut| cut.sqnr_db).fold(f64::INFINITY, f64::min);
    ranked.sort_by(|a, b| worst(a).total_cmp(&worst(b)));
    Ok(ranked)
}

fn outputs(model: &Model, inputs: &[Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, RuntimeError> {
    let runner = Runner::new(model)?;
    inputs.iter().map(|sample| runner.run(sample)).collect()
}

/// The layers that give channels of `class`.
fn givers(model: &Model, channels: &Channels, layers: &[Layer], class: Class) -> Vec<String> {
    let gives = |layer: &&Layer| layer.gives.is_some_and(|lane| channels.classes_of(lane).contains(&class));
    let name = |layer: &Layer| {
        let node = model.node(layer.node);
        match (node.name.is_empty(), node.outputs.first()) {
            (true, Some(&Some(result))) => model.value(result).name.clone(),
            _ => node.name.clone(),
        }
    };
    layers.iter().filter(gives).map(name).collect()
}

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(format!("sensitivities could not be measured: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value as Json};

    use super::*;
    use crate::analysis::FixedSizes;
    use crate::data::{Dataset, Random, synthesize};
    use crate::pass::Pipeline;
    use crate::passes;

    /// Two layers of eight neurons, of which the second ones are worth little.
    fn network() -> Model {
        let mut random = Random::new(2, 0);
        let mut numbers = |count: usize, size: f32| -> String {
            let numbers: Vec<String> = (0..count).map(|_| format!("{:.3}", size * random.normal())).collect();
            numbers.join(",")
        };
        let text = format!(
            r#"<ir_version: 10, opset_import: ["": 21]>
            network (float[N,4] x) => (float[N,3] y)
            <
                float[4,8] a = {{{}}}, float[8,8] b = {{{}}}, float[8,3] c = {{{}}}, float[8,3] d = {{{}}}
            >
            {{
                ["first"] p = MatMul (x, a)
                q = Tanh (p)
                ["second"] r = MatMul (q, b)
                s = Tanh (r)
                t = MatMul (s, c)
                u = MatMul (q, d)
                y = Add (t, u)
            }}"#,
            numbers(32, 1.0),
            numbers(64, 1.0),
            numbers(24, 0.05),
            numbers(24, 1.0),
        );
        Model::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn context(model: &Model) -> (Context, Dataset) {
        let data = synthesize(model, &FixedSizes::default(), 4, 12, |_| Ok(())).expect("inputs can be made up");
        (Context { data: Some(data.clone()), ..Context::default() }, data)
    }

    fn ranking(options: Json, shares: &[f64]) -> Vec<GroupSensitivity> {
        let Json::Object(options) = options else { return Vec::new() };
        let model = network();
        passes::channel_sensitivities(Map::from_iter(options), &model, &context(&model).0, 12, shares).unwrap()
    }

    #[test]
    fn groups_are_ranked_by_what_their_cuts_do_to_the_outputs() {
        let found = ranking(serde_json::json!({ "criterion": "l2" }), &[0.25, 0.5]);
        let names: Vec<&[String]> = found.iter().map(|group| &group.layers[..]).collect();
        assert_eq!(names, [["first"], ["second"]]);
        for group in &found {
            assert_eq!(group.channels, 8);
            assert_eq!(group.cuts.iter().map(|cut| cut.removed).collect::<Vec<_>>(), [2, 4]);
            assert!(group.cuts[1].sqnr_db < group.cuts[0].sqnr_db);
            assert!(group.cuts.iter().all(|cut| cut.parameters > 0.0 && cut.macs > 0.0 && cut.macs < 1.0));
        }
        assert!(found[1].cuts[1].sqnr_db > found[0].cuts[0].sqnr_db);
    }

    #[test]
    fn a_cut_does_what_pruning_that_group_alone_does() {
        let (mut small, original) = (network(), network());
        let (mut cx, data) = context(&original);
        let pipeline = Pipeline::parse("prune(channels=0.5,criterion=l1,include=[first])", passes::ALL).unwrap();
        pipeline.run(&mut small, &mut cx).unwrap();
        let inputs: Vec<Vec<Tensor>> = (0..data.len()).map(|index| data.sample(index)).collect();
        let [exact, found] = [&original, &small].map(|model| outputs(model, &inputs).unwrap());
        let mut errors = Errors::default();
        exact.iter().zip(&found).for_each(|(exact, found)| errors.add(&Errors::of(exact, found)));
        let ranked = ranking(serde_json::json!({ "criterion": "l1", "include": ["first"] }), &[0.5]);
        assert_eq!((ranked.len(), &ranked[0].layers[..]), (1, &["first".to_string()][..]));
        assert_eq!((ranked[0].cuts[0].sqnr_db, ranked[0].cuts[0].changed), (errors.sqnr_db(), errors.changed()));
    }
}
