//! What samples tell of classes: how large the channels are that layers read, and how outputs change with them.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use super::criterion::{Subject, shares, sums_along};
use super::gradients::Derivatives;
use super::weighed::{Direction, Weighed};
use crate::analysis::channels::Lane;
use crate::ir::op::Mul;
use crate::ir::{Model, Tensor, ValueId};
use crate::pass::PassError;
use crate::runtime::{Execution, Runner};

/// Samples of the inputs of a model, in its order.
pub struct Samples {
    pub inputs: Vec<Vec<Tensor>>,
    /// The classes of each, if they are known.
    pub labels: Option<Vec<Vec<i64>>>,
    /// Of how many they were chosen.
    pub of: usize,
}

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(error.to_string())
}

/// For each class, the sum over all layers that read it of its share of Σ E x²·‖W‖², where W are the weights that it is
/// multiplied with.
pub fn activations(subject: Subject, samples: &Samples) -> Result<Vec<f64>, PassError> {
    let Subject { model, channels, layers, groups, .. } = subject;
    let reads: Vec<_> = layers.iter().filter_map(|layer| Some((layer, layer.reads?))).collect();
    let reads: Vec<_> = reads
        .into_iter()
        .filter(|(_, read)| channels.classes_of(read.lane).iter().any(|&class| groups.group(class).is_some()))
        .collect();
    let mut places: BTreeMap<(ValueId, usize), usize> = BTreeMap::new();
    for (_, read) in &reads {
        let next = places.len();
        places.entry((read.value, read.axis)).or_insert(next);
    }
    let mut read: Vec<(ValueId, usize)> = vec![(model.graph(model.main).inputs[0], 0); places.len()];
    places.iter().for_each(|(&which, &place)| read[place] = which);
    let values: Vec<ValueId> = read.iter().map(|(value, _)| *value).collect();
    let runner = Runner::with(model, &values, &Execution::float()).map_err(failed)?;
    let seen = samples.inputs.par_iter().map(|inputs| {
        let tensors = runner.run(inputs).map_err(failed)?;
        let means = tensors.iter().zip(&read).map(|(tensor, &(_, axis))| {
            let floats = tensor.floats().ok_or_else(|| PassError("a layer reads what is no float".into()))?;
            let (length, inner) = (tensor.shape()[axis], tensor.shape()[axis + 1..].iter().product::<usize>());
            let mut sums = vec![0.0; length];
            for (index, block) in floats.chunks(inner.max(1)).enumerate() {
                sums[index % length] += block.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            }
            let count = (floats.len() / length.max(1)).max(1) as f64;
            Ok(sums.into_iter().map(|sum| sum / count).collect::<Vec<f64>>())
        });
        means.collect::<Result<Vec<_>, PassError>>()
    });
    let seen: Vec<Vec<Vec<f64>>> = seen.collect::<Result<_, _>>()?;
    let mut sizes: Vec<Vec<f64>> = vec![Vec::new(); values.len()];
    for sample in seen {
        for (sum, one) in sizes.iter_mut().zip(sample) {
            sum.resize(one.len(), 0.0);
            sum.iter_mut().zip(one).for_each(|(sum, x)| *sum += x);
        }
    }
    let mut scores = vec![0.0; channels.len()];
    for (layer, read) in reads {
        let weight = model.constant(layer.weight).expect("layers have constant weights");
        let energies = sums_along(weight, read.weight_axis, |w| w * w);
        let sizes = &sizes[places[&(read.value, read.axis)]];
        let parts = shares(energies.iter().zip(sizes).map(|(energy, size)| energy * size).collect());
        for (class, share) in channels.classes_of(read.lane).iter().zip(parts) {
            scores[class.index()] += share;
        }
    }
    Ok(scores)
}

/// For each class and sample, by how much r·y changes to first order when every layer reads zeros in its place: Σ x·∂(r·y)/∂x,
/// where y are the outputs and r their weights. `add` takes in one such number.
pub fn changes(
    subject: Subject,
    samples: &Samples,
    direction: Direction,
    mut add: impl FnMut(usize, f64),
) -> Result<(), PassError> {
    let Subject { model, channels, seed, .. } = subject;
    let mut probed = model.clone();
    let weighed = Weighed::of(&mut probed, &samples.inputs[0], direction, seed)?;

    let (lanes, masks): (Vec<Lane>, Vec<ValueId>) = mask_reads(&mut probed, subject).into_iter().unzip();
    let derivatives = Derivatives::of(probed, weighed, &masks)?
        .ok_or_else(|| PassError("no output depends on a channel that can be cut".into()))?;

    let run = |(index, inputs): (usize, &Vec<Tensor>)| -> Result<Vec<f64>, PassError> {
        let results = derivatives.on(index, inputs)?;
        let mut of_classes = vec![0.0; channels.len()];
        for (&known, tensor) in derivatives.known.iter().zip(&results) {
            let floats = tensor.floats().expect("a derivative is a float");
            for (class, &x) in channels.classes_of(lanes[known]).iter().zip(floats.iter()) {
                of_classes[class.index()] += f64::from(x);
            }
        }
        Ok(of_classes)
    };
    let seen: Vec<Vec<f64>> = samples.inputs.par_iter().enumerate().map(run).collect::<Result<_, _>>()?;
    for sample in seen {
        sample.into_iter().enumerate().for_each(|(class, change)| add(class, change));
    }
    Ok(())
}

/// Lets layers read what groups have through masks of ones, and returns the masks and the lanes that they are for.
pub fn mask_reads(probed: &mut Model, subject: Subject) -> Vec<(Lane, ValueId)> {
    let Subject { channels, layers, groups, .. } = subject;
    let mut masks: HashMap<(Lane, usize), ValueId> = HashMap::new();
    let mut lanes: Vec<(Lane, ValueId)> = Vec::new();
    for layer in layers {
        let Some(read) = layer.reads else { continue };
        if !channels.classes_of(read.lane).iter().any(|&class| groups.group(class).is_some()) {
            continue;
        }
        let behind = channels.axes(read.value).len() - read.axis - 1;
        let mask = *masks.entry((read.lane, behind)).or_insert_with(|| {
            let mut shape = vec![1; behind + 1];
            shape[0] = channels.classes_of(read.lane).len();
            let ones = Tensor::from_vec(shape.clone(), vec![1f32; shape[0]]);
            let mask = probed.add_constant(probed.main, "mask", ones);
            lanes.push((read.lane, mask));
            mask
        });
        let operand = probed.node(layer.node).inputs[read.index].expect("it is read");
        let masked = probed.insert_before(layer.node, Mul { a: operand, b: mask }, "masked");
        probed.set_input(layer.node, read.index, Some(masked));
    }
    lanes
}
