//! Layers behind a cut learn to give what they gave: each from what it reads in both models, one after the other.
//!
//! With x what a layer read and x̂ what is left of it, behind layers that have learned already, W' = E W·x·x̂ᵀ·(E x̂·x̂ᵀ + λ)⁻¹,
//! and the bias takes back what is left of the mean.

use std::collections::HashSet;

use ndarray::{Array2, Array3};
use rayon::prelude::*;

use super::cut::Cut;
use super::layer::Layer;
use super::slice::sliced;
use crate::data::{Dataset, Random};
use crate::ir::op::Add;
use crate::ir::{DType, Model, Tensor, ValueId};
use crate::measure::{PairedMoments, Reading, Stepwise, SurveyError, Watch};
use crate::passes::quantize::{added_error, refitted};

/// Rows that a layer learns from, for each number of a row.
const ROWS_FOR_EACH_INPUT: usize = 12;

/// Rows of one sample, at the least.
const FEWEST_ROWS: usize = 16;

/// What may be added to the diagonal of E x̂·x̂ᵀ, over its mean.
const RIDGES: [f64; 3] = [0.0005, 0.005, 0.05];

/// One of so many samples tells whether fitted weights are better; weights are fitted to the others.
const HELD_OUT: usize = 4;

/// Lets layers of `small`, which `cut` has made of `model`, learn from `data`. Returns how many have.
pub fn reconstruct(
    model: &Model,
    small: &mut Model,
    cut: &Cut,
    layers: &[Layer],
    data: &Dataset,
    seed: u64,
    watch: Watch,
) -> Result<usize, SurveyError> {
    let [mut exact, mut draft] = [(); 2].map(|()| Stepwise::new(data));
    let nothing = HashSet::new();
    let mut learned = 0;
    for layer in layers {
        let Some((read, kept)) = layer.reads.and_then(|read| Some((read, cut.kept(read.lane)?))) else { continue };
        let is_own = model.value(layer.weight).uses.len() == 1 && small.is_live(layer.node) && read.index == 0;
        let (Some(reading), true) = (Reading::of(model, layer.node), is_own) else { continue };
        let Some(weight) = model.constant(layer.weight).filter(|weight| weight.dtype() == DType::F32) else { continue };
        let Some(of_small) = Reading::of(small, layer.node).filter(|_| reading.groups() == 1) else { continue };
        exact.advance(model, layer.node, &nothing, watch)?;
        draft.advance(small, layer.node, &nothing, watch)?;

        let (taps, channels) = (reading.taps(), cut.channels.classes_of(read.lane).len());
        let count = (ROWS_FOR_EACH_INPUT * channels * taps).div_ceil(data.len()).max(FEWEST_ROWS);
        let x_small = small.node(layer.node).inputs[0].expect("a layer reads a value");
        let pairs = (0..data.len()).into_par_iter().map(|sample| {
            let random = || Random::new(seed, sample as u64);
            let x = reading.rows(&exact.tensor(model, sample, read.value)?, count, &mut random())?;
            let left = of_small.rows(&draft.tensor(small, sample, x_small)?, count, &mut random())?;
            let left = scattered(&left, kept, channels, taps);
            (x.dim() == left.dim()).then_some([x, left])
        });
        let Some(pairs) = pairs.collect::<Option<Vec<_>>>() else { continue };

        let is_row = layer.gives.is_none_or(|(axis, _)| axis == 0);
        let mut outputs = vec![None; weight.rank()];
        if let Some((axis, lane)) = layer.gives {
            outputs[axis] = cut.kept(lane);
        }
        let rows = matrix(&sliced(weight, &outputs), is_row);
        let (fitted, shift) = fit(&rows, pairs);
        let mut shape = small.constant(layer.weight).expect("it is one").shape().to_vec();
        let columns = kept.iter().flat_map(|&channel| channel * taps..(channel + 1) * taps).collect::<Vec<_>>();
        let fitted = fitted.select(ndarray::Axis(1), &columns);
        let fitted = if is_row { fitted } else { fitted.reversed_axes().as_standard_layout().into_owned() };
        if shape.is_empty() {
            shape = fitted.shape().to_vec();
        }
        small.set_constant(layer.weight, Tensor::from_vec(shape, fitted.into_iter().collect()));
        shift_by(small, layer, &shift);
        learned += 1;
    }
    Ok(learned)
}

/// Rows of what is left, with zeros where channels are cut.
fn scattered(rows: &Array3<f32>, kept: &[usize], channels: usize, taps: usize) -> Array3<f32> {
    let (groups, count, _) = rows.dim();
    let mut wide = Array3::zeros((groups, count, channels * taps));
    for ((group, row, column), &x) in rows.indexed_iter() {
        wide[[group, row, kept[column / taps] * taps + column % taps]] = x;
    }
    wide
}

/// A weight as a matrix with a row for each output.
fn matrix(weight: &Tensor, is_row: bool) -> Array2<f32> {
    let floats = weight.floats().expect("it is of float32").into_owned();
    let (first, rest) = (weight.shape()[0], weight.shape()[1..].iter().product());
    let array = Array2::from_shape_vec((first, rest), floats).expect("it has as many elements");
    if is_row { array } else { array.reversed_axes().as_standard_layout().into_owned() }
}

/// The weights that come nearest on samples that they were not fitted to, and what is to be added to the outputs then.
fn fit(weights: &Array2<f32>, pairs: Vec<[Array3<f32>; 2]>) -> (Array2<f32>, Vec<f32>) {
    let (held, rest): (Vec<_>, Vec<_>) = pairs.into_iter().enumerate().partition(|(sample, _)| sample % HELD_OUT == 0);
    let [held, rest] = [held, rest].map(|pairs| {
        let pairs: Vec<_> = pairs.into_iter().map(|(_, pair)| pair).collect();
        PairedMoments::of(&pairs)
    });
    if rest.is_empty() {
        return (weights.clone(), vec![0.0; weights.nrows()]);
    }
    let added = |ridge: f64| {
        let fitted = refitted(weights.view(), &rest, true, ridge);
        (ridge, added_error(weights.view(), fitted.view(), &held, true))
    };
    let all: Vec<PairedMoments> = rest.iter().zip(&held).map(|(rest, held)| rest.joined(held)).collect();
    let best = RIDGES.map(added).into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).filter(|&(_, added)| added < 0.0);
    let fitted = best.map_or_else(|| weights.clone(), |(ridge, _)| refitted(weights.view(), &all, true, ridge));
    // E W·x - W'·x̂
    let moments = &all[0];
    let before = &moments.rows.mean + &moments.difference;
    let shift = (0..weights.nrows()).map(|row| {
        let dot = |weights: &Array2<f32>, x: &ndarray::Array1<f64>| -> f64 {
            weights.row(row).iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()
        };
        (dot(weights, &before) - dot(&fitted, &moments.rows.mean)) as f32
    });
    let shift = shift.collect();
    (fitted, shift)
}

/// Adds `shift` to the outputs of a layer: to its bias, or behind it.
fn shift_by(small: &mut Model, layer: &Layer, shift: &[f32]) {
    let node = small.node(layer.node);
    let y = node.outputs[0].expect("a layer has a result");
    let name = small.value(y).name.clone();
    let bias: Option<ValueId> = node.inputs.get(2).copied().flatten();
    let plain = node.op == "Conv";
    let known = bias.and_then(|bias| small.constant(bias)?.elements::<f32>().map(|floats| floats.into_owned()));
    match (plain, bias, known) {
        (true, None, _) => {
            let bias = small.add_constant(
                small.main,
                &format!("{name}.bias"),
                Tensor::from_vec(vec![shift.len()], shift.to_vec()),
            );
            small.set_input(layer.node, 2, Some(bias));
        }
        (true, Some(_), Some(known)) if known.len() == shift.len() => {
            let sum = known.iter().zip(shift).map(|(a, b)| a + b).collect();
            let bias =
                small.add_constant(small.main, &format!("{name}.bias"), Tensor::from_vec(vec![shift.len()], sum));
            small.set_input(layer.node, 2, Some(bias));
        }
        _ => {
            let mut shape = vec![shift.len()];
            if plain {
                shape.resize(small.constant(layer.weight).map_or(1, Tensor::rank) - 1, 1);
            }
            let again = small.node(layer.node).with_operands(&[]);
            let a = small.insert_before(layer.node, again, &format!("{name}.product"));
            let b = small.add_constant(small.main, &format!("{name}.shift"), Tensor::from_vec(shape, shift.to_vec()));
            small.redefine(y, Add { a, b });
        }
    }
}
