//! Scales that move from a value into the products that read it (Xiao et al., SmoothQuant, 2023): x/s and W·s.
//!
//! One place of the last axis that is far larger than all others takes their levels. With scales of their own, places fill
//! about the same part of the grid; what that costs is paid by the weights, whose columns grow apart. Both are foretold, and
//! scales move where the error of the products falls by far.
//!
//! Law: the float model computes the same bits. Scales are powers of two.

use std::collections::HashSet;

use indexmap::IndexMap;
use ndarray::{Array1, Array2, ArrayD, Axis};

use crate::data::Dataset;
use crate::ir::op::{LayerNormalization, Mul};
use crate::ir::{DType, Model, NodeId, Tensor, ValueId};
use crate::measure::{SurveyError, Watch, survey};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

use super::equalize::{power_of_two, replace, weights};
use super::layer::{Layer, LayerKind};
use super::place::{Placement, Role};

/// The name under which the report lists what came of it.
const OUTLIERS: &str = "migrated_outliers";

/// Products whose power is so many times that of their error are exact enough: 35 dB.
const EXACT: f64 = 3162.0;

/// The error has to fall to less than this: a product more, and other weights, for less would not be worth it.
const WORTH: f64 = 0.4;

/// So many places of a value are taken for its outliers: all shares that a power of two tells.
const LARGEST_PLACES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// sⱼ = max|xⱼ|ᵅ / max|Wⱼ|¹⁻ᵅ
const EXPONENTS: [f32; 4] = [0.25, 0.5, 0.75, 1.0];

/// What is known of the quantization that is to follow.
#[derive(Clone, Copy, Debug)]
pub struct Rendering {
    /// Whether zero is in the middle of the levels of values.
    pub symmetric: bool,
    /// The error of the products that rounded weights make, over that of rounding to the nearest level: less where they are
    /// rounded for their inputs.
    pub weight_error: f64,
}

/// Moves scales where that pays, on the samples.
pub fn migrate(
    model: &mut Model,
    placement: &Placement,
    rendering: Rendering,
    data: &Dataset,
    watch: Watch,
) -> Result<Outcome, SurveyError> {
    let mut outcome = Outcome::default();
    let mut found = Vec::new();
    for (x, layers) in products(placement) {
        let first = layers[0].node;
        match Candidate::of(model, x, &layers) {
            Ok(candidate) => found.push(candidate),
            Err(miss) => drop(outcome.missed.insert((OUTLIERS, first), miss)),
        }
    }
    outcome.applied.insert(OUTLIERS, 0);
    if found.is_empty() {
        return Ok(outcome);
    }
    let values: Vec<ValueId> = found.iter().map(|candidate| candidate.x).collect();
    let mut seen: Vec<Places> = found.iter().map(|candidate| Places::zero(candidate.weights.nrows())).collect();
    let see = |place: usize, _, x: &Tensor| Places::of(x, found[place].weights.nrows());
    survey(model, &values, data, watch, &mut seen, see, |_, all, one| all.add(&one))?;
    for (candidate, places) in found.iter().zip(&seen) {
        match candidate.scales(places, rendering) {
            Ok(scales) => {
                candidate.migrate(model, &scales);
                *outcome.applied.entry(OUTLIERS).or_default() += 1;
            }
            Err(miss) => drop(outcome.missed.insert((OUTLIERS, candidate.readers[0].node), miss)),
        }
    }
    Ok(outcome)
}

/// The products with constant matrices that read each value, where the value itself is float.
fn products(placement: &Placement) -> IndexMap<ValueId, Vec<&Layer>> {
    let made: HashSet<ValueId> = placement.units.iter().filter(|unit| unit.quantizes).map(|unit| unit.result).collect();
    let mut products: IndexMap<ValueId, Vec<&Layer>> = IndexMap::new();
    for unit in &placement.units {
        if let Role::Layer(layer) = &unit.role
            && matches!(layer.kind, LayerKind::MatMul | LayerKind::Gemm { .. })
            && !made.contains(&layer.x)
        {
            products.entry(layer.x).or_default().push(layer);
        }
    }
    products
}

/// A value, and the products that read it in int8.
struct Candidate {
    x: ValueId,
    readers: Vec<Reader>,
    /// Of all readers side by side, `[inputs, outputs]`.
    weights: Array2<f32>,
    /// What computes the value, if it is a normalization with constants, and only these products read it: the scales become
    /// part of those constants.
    normalization: Option<NodeId>,
}

struct Reader {
    node: NodeId,
    weight: ValueId,
    /// The axis of the weight that counts inputs.
    axis: usize,
}

impl Candidate {
    fn of(model: &Model, x: ValueId, layers: &[&Layer]) -> Match<Candidate> {
        let mut readers = Vec::new();
        let mut matrices: Vec<Array2<f32>> = Vec::new();
        for layer in layers {
            let tensor = model.constant(layer.weight).ok_or(Miss("it is multiplied with no constant"))?;
            require!(model.value(layer.weight).uses.len() == 1, "another node reads its weight, too");
            require!(tensor.rank() == 2, "it is multiplied with no matrix");
            let axis = 1 - layer.axis;
            let matrix: ArrayD<f32> = tensor.to_array().ok_or(Miss("its weight is not of single precision"))?;
            let matrix = matrix.into_dimensionality().map_err(|_| Miss("it is multiplied with no matrix"))?;
            matrices.push(if axis == 0 { matrix } else { matrix.reversed_axes() });
            readers.push(Reader { node: layer.node, weight: layer.weight, axis });
        }
        let views: Vec<_> = matrices.iter().map(|matrix| matrix.view()).collect();
        let weights = ndarray::concatenate(Axis(1), &views).map_err(|_| Miss("its weights have other widths"))?;
        let normalization =
            (model.value(x).uses.len() == readers.len()).then(|| normalization(model, x, weights.nrows())).flatten();
        Ok(Candidate { x, readers, weights, normalization })
    }

    /// The scales that pay, one for each place of the value.
    fn scales(&self, seen: &Places, rendering: Rendering) -> Match<Vec<f32>> {
        let columns: Array1<f64> =
            self.weights.map_axis(Axis(1), |row| row.iter().map(|&w| f64::from(w).powi(2)).sum());
        let squares: Vec<f64> = seen.squares.iter().map(|sum| sum / seen.count.max(1) as f64).collect();
        let power: f64 = squares.iter().zip(&columns).map(|(square, column)| square * column).sum();
        let error = |scales: &[f32]| {
            let reach =
                |bounds: &[f32]| bounds.iter().zip(scales).map(|(x, s)| f64::from((x / s).abs())).fold(0.0, f64::max);
            let (below, above) = (reach(&seen.low), reach(&seen.high));
            let reach = if rendering.symmetric { 2.0 * below.max(above) } else { below + above };
            // R²/(12·255²)·Σⱼ sⱼ²·|Wⱼ|²
            let scaled = scales.iter().zip(&columns).map(|(&s, column)| f64::from(s).powi(2) * column);
            let of_values = (reach / 255.0).powi(2) / 12.0 * scaled.sum::<f64>();
            // Σⱼ E xⱼ²/sⱼ² · Σₖ maxⱼ(Wₖⱼ·sⱼ)²/(12·127²)
            let mut largest = vec![0f32; self.weights.ncols()];
            for (row, s) in self.weights.rows().into_iter().zip(scales) {
                largest.iter_mut().zip(row).for_each(|(largest, w)| *largest = largest.max((w * s).abs()));
            }
            let steps: f64 = largest.iter().map(|&largest| (f64::from(largest) / 127.0).powi(2) / 12.0).sum();
            let inputs: f64 = squares.iter().zip(scales).map(|(square, &s)| square / f64::from(s).powi(2)).sum();
            of_values + rendering.weight_error * inputs * steps
        };
        let plain = error(&vec![1.0; columns.len()]);
        require!(power < EXACT * plain, "its products are exact enough");
        let candidates = self.candidates(seen).into_iter().map(|scales| (error(&scales), scales));
        let best = candidates.min_by(|a, b| a.0.total_cmp(&b.0)).ok_or(Miss("it has no places"))?;
        require!(best.0 < WORTH * plain, "no scales make its products much more exact");
        Ok(best.1)
    }

    fn candidates(&self, seen: &Places) -> Vec<Vec<f32>> {
        let reach: Vec<f32> = seen.low.iter().zip(&seen.high).map(|(low, high)| high.max(-low)).collect();
        let mut sorted = reach.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let Some(&largest) = sorted.first() else { return Vec::new() };
        // A place that is all but never used gets no scale of its own.
        let reach: Vec<f32> = reach.into_iter().map(|x| x.max(largest / 1024.0)).collect();
        let beyond = LARGEST_PLACES.iter().filter_map(|&count| sorted.get(count)).filter(|&&limit| limit > 0.0);
        let clipped = beyond.map(|limit| reach.iter().map(|x| power_of_two((x / limit).max(1.0))).collect());
        let shared = EXPONENTS.iter().map(|&exponent| {
            let scale = |(x, weights): (&f32, ndarray::ArrayView1<f32>)| {
                let weight = weights.iter().fold(0f32, |max, w| max.max(w.abs()));
                power_of_two(x.powf(exponent) / weight.powf(1.0 - exponent))
            };
            reach.iter().zip(self.weights.rows()).map(scale).collect()
        });
        clipped.chain(shared).collect()
    }

    fn migrate(&self, model: &mut Model, scales: &[f32]) {
        for reader in &self.readers {
            let mut matrix = weights(model, reader.weight);
            for (mut row, scale) in matrix.axis_iter_mut(Axis(reader.axis)).zip(scales) {
                row.mapv_inplace(|w| w * scale);
            }
            model.set_constant(reader.weight, matrix);
        }
        let Some(node) = self.normalization else {
            let name = model.value(self.x).name.clone();
            let factors: Vec<f32> = scales.iter().map(|scale| scale.recip()).collect();
            let factors = Tensor::from_vec(vec![factors.len()], factors);
            let factors = model.add_constant(model.main, &format!("{name}.factors"), factors);
            let product = Mul { a: self.x, b: factors };
            let scaled = model.insert_before(self.readers[0].node, product, &format!("{name}.scaled"));
            self.readers.iter().for_each(|reader| model.set_input(reader.node, 0, Some(scaled)));
            return;
        };
        let norm = model.view::<LayerNormalization>(node).expect("it is a normalization");
        for (index, constant) in [(1, Some(norm.scale)), (2, norm.bias)] {
            let Some(constant) = constant else { continue };
            let mut numbers = weights(model, constant);
            numbers.iter_mut().zip(scales).for_each(|(x, scale)| *x /= scale);
            replace(model, node, index, constant, numbers);
        }
    }
}

/// The normalization that computes `x` with constants for each of `width` places.
fn normalization(model: &Model, x: ValueId, width: usize) -> Option<NodeId> {
    let node = model.producer(x)?;
    let norm = model.view::<LayerNormalization>(node)?;
    let for_each = |value: ValueId| {
        model.constant(value).is_some_and(|tensor| tensor.shape() == [width] && tensor.dtype() == DType::F32)
    };
    let alone = model.node(node).outputs.len() == 1;
    (alone && for_each(norm.scale) && norm.bias.is_none_or(for_each)).then_some(node)
}

/// What each place of the last axis holds.
struct Places {
    low: Vec<f32>,
    high: Vec<f32>,
    /// The number of rows.
    count: u64,
    /// Σ x²
    squares: Vec<f64>,
}

impl Places {
    fn zero(width: usize) -> Places {
        Places { low: vec![0.0; width], high: vec![0.0; width], count: 0, squares: vec![0.0; width] }
    }

    fn of(x: &Tensor, width: usize) -> Places {
        let mut places = Places::zero(width);
        let floats = x.floats().unwrap_or_default();
        for row in floats.chunks_exact(width.max(1)).filter(|row| row.iter().all(|x| x.is_finite())) {
            places.count += 1;
            for (place, &x) in row.iter().enumerate() {
                places.low[place] = places.low[place].min(x);
                places.high[place] = places.high[place].max(x);
                places.squares[place] += f64::from(x).powi(2);
            }
        }
        places
    }

    fn add(&mut self, other: &Places) {
        self.low.iter_mut().zip(&other.low).for_each(|(a, b)| *a = a.min(*b));
        self.high.iter_mut().zip(&other.high).for_each(|(a, b)| *a = a.max(*b));
        self.squares.iter_mut().zip(&other.squares).for_each(|(a, b)| *a += b);
        self.count += other.count;
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::Target;
    use super::*;
    use crate::analysis::{FixedSizes, Shapes};
    use crate::data::synthesize;
    use crate::runtime::Runner;

    const PRODUCTS: &str = r#"
        <ir_version: 8, opset_import: ["": 18]>
        network (float[1,3,4] x) => (float[1,3,2] p, float[1,3,2] q)
        <float[4] g = {1,60,1,-1}, float[4] b = {0.5,-20,0,1}, float[4,2] u = {1,2,0.0625,-0.03125,-1,-2,0.5,1}, float[4,2] v = {1,3,0.03125,-0.125,3,1,-2,1}>
        {
            n = LayerNormalization (x, g, b)
            p = MatMul (n, u)
            q = MatMul (n, v)
        }"#;

    const RENDERING: Rendering = Rendering { symmetric: false, weight_error: 1.0 };

    fn samples(model: &Model) -> Dataset {
        synthesize(model, &FixedSizes::default(), 0, 4, |_| Ok(())).expect("inputs can be made up")
    }

    fn outputs(model: &Model) -> Vec<Vec<Tensor>> {
        let (runner, data) = (Runner::new(model).unwrap(), samples(model));
        (0..data.len()).map(|sample| runner.run(&data.sample(sample)).unwrap()).collect()
    }

    fn migrated(text: &str) -> (Model, Outcome) {
        let mut model = Model::parse(text).expect("the text is a model");
        let traits = Target::Tract.traits();
        let (placement, _) = Placement::of(&model, &Shapes::infer(&model), &traits, false, |_| false);
        let data = samples(&model);
        let outcome = migrate(&mut model, &placement, RENDERING, &data, Watch::default()).unwrap();
        model.verify().unwrap();
        (model, outcome)
    }

    fn operators(model: &Model) -> Vec<&str> {
        model.nodes_of(model.main).map(|node| model.node(node).op.as_str()).collect()
    }

    #[test]
    fn a_normalization_takes_the_scales_where_only_products_read_it() {
        let (model, outcome) = migrated(PRODUCTS);
        assert_eq!(outcome.applied[OUTLIERS], 1);
        assert_eq!(outputs(&model), outputs(&Model::parse(PRODUCTS).unwrap()));
        assert_eq!(operators(&model), ["LayerNormalization", "MatMul", "MatMul"]);
        let scale = model.node(model.nodes_of(model.main).next().unwrap()).inputs[1].unwrap();
        assert!(weights(&model, scale).iter().all(|x| x.abs() < 20.0));
    }

    #[test]
    fn a_product_stands_before_the_readers_where_others_read_the_value() {
        let text =
            PRODUCTS.replace("q = MatMul (n, v)", "w = MatMul (n, v) s = ReduceSum <keepdims = 1> (n) q = Add (w, s)");
        let (model, outcome) = migrated(&text);
        assert_eq!(outcome.applied[OUTLIERS], 1);
        assert_eq!(outputs(&model), outputs(&Model::parse(&text).unwrap()));
        assert_eq!(operators(&model)[..3], ["LayerNormalization", "Mul", "MatMul"]);
    }

    #[test]
    fn values_whose_places_are_alike_stay() {
        let (model, outcome) = migrated(&PRODUCTS.replace("{1,60,1,-1}", "{1,1,1,-1}").replace("-20", "1"));
        assert_eq!((outcome.applied[OUTLIERS], outcome.missed.len()), (0, 1));
        assert_eq!(operators(&model), ["LayerNormalization", "MatMul", "MatMul"]);
    }

    #[test]
    fn scales_that_pay_are_those_of_the_outlier() {
        let (model, _) = migrated(PRODUCTS);
        let (plain, scaled) = (Model::parse(PRODUCTS).unwrap(), model);
        let gamma = |model: &Model| {
            let node = model.nodes_of(model.main).next().unwrap();
            weights(model, model.node(node).inputs[1].unwrap()).iter().copied().collect::<Vec<f32>>()
        };
        let factors: Vec<f32> = gamma(&plain).iter().zip(gamma(&scaled)).map(|(a, b)| a / b).collect();
        assert!(factors.iter().all(|factor| factor.log2().fract() == 0.0), "{factors:?} are powers of two");
        assert!(factors.iter().all(|&factor| factor <= factors[1]) && factors[1] > factors[0], "{factors:?}");
    }
}
