//! Scales that move between layers, so that channels that share a grid fill about the same part of it.
//!
//! Law: the float model computes the same bits. Scales are powers of two, and pass only through operators with
//! f(s·x) = s·f(x) for s > 0.

use ndarray::{ArrayD, Axis};

use crate::ir::op::{Conv, LeakyRelu, Relu};
use crate::ir::{Model, NodeId, Tensor, Use, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

/// The name under which the report lists what came of it.
const LAYERS: &str = "equalized_layers";

/// Scales stay between 2⁻¹⁶ and 2¹⁶.
const LARGEST_EXPONENT: f32 = 16.0;

/// Sweeps over all pairs; a chain of layers settles in a few.
const SWEEPS: usize = 40;

/// Scales between each convolution and the only one that reads it (Nagel et al., Data-free quantization through weight
/// equalization, 2019): W₁/s and W₂·s, where channel c has s = √(r₁/r₂), r being the largest magnitude of its weights on either
/// side.
pub fn equalize(model: &mut Model) -> Outcome {
    let mut outcome = Outcome::default();
    let nodes: Vec<NodeId> = model.nodes_of(model.main).collect();
    let mut pairs = Vec::new();
    for node in nodes {
        match Pair::behind(model, node) {
            Ok(Some(pair)) => pairs.push(pair),
            Ok(None) => {}
            Err(miss) => drop(outcome.missed.insert((LAYERS, node), miss)),
        }
    }
    let mut changed = vec![false; pairs.len()];
    for _ in 0..SWEEPS {
        let mut settled = true;
        for (pair, changed) in pairs.iter().zip(&mut changed) {
            let moved = pair.equalize(model);
            *changed |= moved;
            settled &= !moved;
        }
        if settled {
            break;
        }
    }
    outcome.applied.insert(LAYERS, changed.into_iter().filter(|changed| *changed).count());
    outcome
}

/// A convolution, and the only one that reads what it computes.
struct Pair {
    first: NodeId,
    second: NodeId,
}

impl Pair {
    /// The pair whose first is `node`; none if that is no convolution with constant weights.
    fn behind(model: &Model, node: NodeId) -> Match<Option<Pair>> {
        let Some(conv) = model.view::<Conv>(node).filter(|conv| model.constant(conv.w).is_some()) else {
            return Ok(None);
        };
        let constant = conv.b.is_none_or(|bias| model.constant(bias).is_some());
        require!(constant && owns_weight(model, conv.w), "its weights or bias are not its own");
        let mut value = model.node(node).outputs[0].ok_or(Miss("nobody reads it"))?;
        loop {
            let [Use::Node(reader, 0)] = model.value(value).uses.iter().copied().collect::<Vec<_>>()[..] else {
                return Err(Miss("not one node alone reads it"));
            };
            if let Some(second) = model.view::<Conv>(reader) {
                require!(model.constant(second.w).is_some(), "what reads it has no constant weights");
                require!(owns_weight(model, second.w), "the weights of what reads it are not its own");
                let groups = usize::try_from(second.group).map_err(|_| Miss("unusual groups"))?;
                let [channels, inputs] = [conv.w, second.w].map(|w| model.constant(w).expect("asked for").shape());
                require!(channels[0] == inputs[1] * groups && inputs[0] % groups == 0, "channels do not match");
                return Ok(Some(Pair { first: node, second: reader }));
            }
            let homogeneous = model.view::<Relu>(reader).is_some()
                || model.view::<LeakyRelu>(reader).is_some_and(|leaky| leaky.alpha >= 0.0);
            require!(homogeneous, "what reads it does not pass scales on");
            value = model.node(reader).outputs[0].ok_or(Miss("nobody reads it"))?;
        }
    }

    /// Moves scales, and tells whether there were any to move.
    fn equalize(&self, model: &mut Model) -> bool {
        let view = |node| model.view::<Conv>(node).expect("it is a convolution");
        let (first, second) = (view(self.first), view(self.second));
        let [mut w1, mut w2] = [first.w, second.w].map(|w| weights(model, w));
        let (inputs, rows) = (w2.shape()[1], w2.shape()[0] / second.group as usize);
        // Input channel c is column c mod inputs in the rows of group c / inputs.
        let reads = |c: usize| (c / inputs * rows..(c / inputs + 1) * rows, c % inputs);
        let scales: Vec<f32> = (0..w1.shape()[0])
            .map(|c| {
                let (rows, column) = reads(c);
                let r1 = largest(w1.index_axis(Axis(0), c).iter());
                let r2 = rows.map(|row| largest(w2.index_axis(Axis(0), row).index_axis(Axis(0), column).iter()));
                power_of_two((r1 / r2.fold(0.0, f32::max)).sqrt())
            })
            .collect();
        if scales.iter().all(|&scale| scale == 1.0) {
            return false;
        }
        let mut bias = first.b.map(|bias| weights(model, bias));
        for (c, &scale) in scales.iter().enumerate() {
            w1.index_axis_mut(Axis(0), c).mapv_inplace(|w| w / scale);
            if let Some(bias) = &mut bias {
                bias.index_axis_mut(Axis(0), c).mapv_inplace(|b| b / scale);
            }
            let (rows, column) = reads(c);
            for row in rows {
                w2.index_axis_mut(Axis(0), row).index_axis_mut(Axis(0), column).mapv_inplace(|w| w * scale);
            }
        }
        model.set_constant(first.w, w1);
        model.set_constant(second.w, w2);
        if let (Some(bias), Some(old)) = (bias, first.b) {
            replace(model, self.first, 2, old, bias);
        }
        true
    }
}

/// Whether `weight` is a constant of single precision that one node reads.
fn owns_weight(model: &Model, weight: ValueId) -> bool {
    let single = model.constant(weight).is_some_and(|tensor| tensor.dtype() == crate::ir::DType::F32);
    single && model.value(weight).uses.len() == 1
}

pub fn weights(model: &Model, constant: ValueId) -> ArrayD<f32> {
    model.constant(constant).and_then(Tensor::to_array).expect("it was looked at before")
}

/// Gives `node` numbers of its own, where others may read `old`, too.
pub fn replace(model: &mut Model, node: NodeId, index: usize, old: ValueId, numbers: ArrayD<f32>) {
    let name = model.value(old).name.clone();
    let value = model.add_constant(model.main, &name, numbers);
    model.set_input(node, index, Some(value));
}

fn largest<'a>(x: impl Iterator<Item = &'a f32>) -> f32 {
    x.fold(0f32, |max, x| max.max(x.abs()))
}

/// The nearest power of two; 1 for what is no positive number.
pub fn power_of_two(x: f32) -> f32 {
    match x > 0.0 && x.is_finite() {
        true => x.log2().round().clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp2(),
        false => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::FixedSizes;
    use crate::data::{Dataset, Random, synthesize};
    use crate::runtime::Runner;

    fn parse(text: &str) -> Model {
        Model::parse(text).expect("the text is a model")
    }

    fn value(model: &Model, name: &str) -> ValueId {
        model.all_values().find(|(_, value)| value.name == name).expect("the model has the value").0
    }

    /// Puts random numbers into a constant, those of each place of an axis larger by a factor of its own.
    fn fill(model: &mut Model, name: &str, seed: u64, axis: usize) {
        let (constant, mut random) = (value(model, name), Random::new(seed, 0));
        let mut numbers = weights(model, constant).mapv(|_| random.normal());
        for mut place in numbers.axis_iter_mut(Axis(axis)) {
            let factor = (2.0 * random.normal()).exp();
            place.mapv_inplace(|x| x * factor);
        }
        model.set_constant(constant, numbers);
    }

    fn samples(model: &Model) -> Dataset {
        synthesize(model, &FixedSizes::default(), 0, 4, |_| Ok(())).expect("inputs can be made up")
    }

    fn outputs(model: &Model) -> Vec<Vec<Tensor>> {
        let (runner, data) = (Runner::new(model).unwrap(), samples(model));
        (0..data.len()).map(|sample| runner.run(&data.sample(sample)).unwrap()).collect()
    }

    /// How unlike the weights of two layers are, that have a channel in each place of their first axis: the larger magnitude
    /// over the smaller one, of the worst channel.
    fn unlikeness(model: &Model, first: &str, second: &str) -> f32 {
        let [first, second] = [first, second].map(|name| weights(model, value(model, name)));
        let places = first.axis_iter(Axis(0)).zip(second.axis_iter(Axis(0)));
        let ratios = places.map(|(a, b)| largest(a.iter()) / largest(b.iter()));
        ratios.fold(1.0, |worst, ratio| worst.max(ratio).max(ratio.recip()))
    }

    const CONVOLUTIONS: &str = r#"
        <ir_version: 8, opset_import: ["": 18]>
        network (float[1,2,5,5] x) => (float[1,4,5,5] y)
        <float[4,2,1,1] u = {1,1,1,1,1,1,1,1}, float[4] b = {1,-1,2,0.5}, float[4,1,3,3] d = {
            1,1,1,1,1,1,1,1,1, 1,1,1,1,1,1,1,1,1, 1,1,1,1,1,1,1,1,1, 1,1,1,1,1,1,1,1,1},
         float[4,2,1,1] v = {1,1,1,1,1,1,1,1}>
        {
            first = Conv (x, u, b)
            r = Relu (first)
            depthwise = Conv <group = 4, pads = [1, 1, 1, 1]> (r, d, b)
            l = LeakyRelu <alpha = 0.25> (depthwise)
            y = Conv <group = 2> (l, v)
        }"#;

    #[test]
    fn convolutions_compute_the_same_bits_with_weights_of_like_size() {
        let mut model = parse(CONVOLUTIONS);
        for (seed, name, axis) in [(0, "u", 0), (1, "d", 0), (2, "v", 0)] {
            fill(&mut model, name, seed, axis);
        }
        let (expected, before) = (outputs(&model), unlikeness(&model, "u", "d"));
        let outcome = equalize(&mut model);
        assert_eq!(outcome.applied[LAYERS], 2);
        // Powers of two come as near as √2 to the scale that makes both magnitudes equal.
        let after = unlikeness(&model, "u", "d");
        assert!(before > 5.0 && after < 2.01, "{after} of {before}");
        model.verify().unwrap();
        assert_eq!(outputs(&model), expected);
        let again = equalize(&mut model);
        assert_eq!(again.applied[LAYERS], 0);
    }

    #[test]
    fn scales_do_not_pass_what_has_several_readers_or_limits() {
        let limited = CONVOLUTIONS.replace("r = Relu (first)", "r = Sigmoid (first)");
        let shared = CONVOLUTIONS.replace("=> (float[1,4,5,5] y)", "=> (float[1,4,5,5] y, float[1,4,5,5] r)");
        for text in [limited, shared] {
            let mut model = parse(&text);
            fill(&mut model, "u", 0, 0);
            let before = weights(&model, value(&model, "u"));
            let outcome = equalize(&mut model);
            assert_eq!(weights(&model, value(&model, "u")), before);
            assert!(outcome.missed.len() >= 2, "the first pair and the last layer");
        }
    }
}
