//! Layers that learn from what they read in the float model, each for itself.

use std::collections::HashMap;

use ndarray::{Array2, Array3, Axis, concatenate, s};
use rayon::prelude::*;

use crate::data::{Dataset, Random};
use crate::ir::{Element, Model, NodeId, Tensor, ValueId};
use crate::measure::{MomentSums, Moments, Reading, SurveyError, Watch, survey};

use super::aids::{Aids, BiasCorrection, Outcome, Rounding};
use super::bias;
use super::channel::PerChannel;
use super::codes::Codes;
use super::grid::{Grid, Levels};
use super::layer::{Layer, LayerKind};
use super::place::{Placement, Role, Unit};
use super::rewrites::bias_behind;
use super::rounding::{Weights, dequantized, gptq, nearest};
use super::saturation::{SEVEN_BITS, overflowing};
use super::scale::least_squares_scale;

/// Elements of all rows that are looked at of one layer.
const ELEMENTS: usize = 16 << 20;

/// Rows of one layer that say enough.
const ROWS: usize = 20_000;

/// Rows that are searched for overflows.
const SEARCHED: usize = 1000;

/// Bytes of moments that are summed in one run over the samples.
const BYTES_AT_A_TIME: usize = 256 << 20;

/// A layer whose weights and bias are to be learned.
pub struct Task<'p> {
    pub layer: &'p Layer,
    pub reading: Reading,
    /// As they are to be rendered, `[channels, inputs of a group]`.
    pub weights: Array2<f32>,
    pub grid: Grid,
    /// Whether the layer has a bias to correct, or can get one; a product has that of the sum behind it.
    pub biased: bool,
}

/// Rows that a layer reads, on the grid of its input, `[groups, rows, row]` for each sample; none where no product can
/// overflow.
pub type Searched = Vec<Array3<u8>>;

impl<'p> Task<'p> {
    /// The layers of which more can be learned, in execution order: those that read rows, and whose weight no other layer
    /// shares.
    pub fn of(model: &Model, placement: &'p Placement, grids: &HashMap<ValueId, Grid>) -> Vec<Task<'p>> {
        let layers = placement.units.iter().filter_map(|unit| match &unit.role {
            Role::Layer(layer) => Some((layer, unit)),
            _ => None,
        });
        let task = |(layer, unit): (&'p Layer, &Unit)| {
            let reading = Reading::of(model, layer.node).filter(|_| model.value(layer.weight).uses.len() == 1)?;
            let tensor = layer.weights(model, unit.tail.gain);
            let channels = PerChannel::new(tensor.floats()?, tensor.shape(), layer.axis);
            let rows: Vec<f32> = (0..channels.channels()).flat_map(|channel| channels.channel(channel)).collect();
            let weights = Array2::from_shape_vec((channels.channels(), rows.len() / channels.channels()), rows).ok()?;
            let biased = match layer.kind {
                LayerKind::MatMul => !unit.quantizes && bias_behind(model, unit.result, weights.nrows()).is_some(),
                _ => true,
            };
            (weights.nrows() % reading.groups() == 0).then(|| Task {
                layer,
                reading,
                weights,
                grid: grids[&layer.x],
                biased,
            })
        };
        layers.filter_map(task).collect()
    }

    /// Rows that are looked at on each of so many samples.
    pub fn rows_each(&self, samples: usize) -> usize {
        let width = self.weights.ncols() * self.reading.groups();
        (ELEMENTS / width.max(1)).min(ROWS).div_ceil(samples.max(1))
    }

    /// Whether a depthwise kernel computes the layer, which adds its products one by one. A convolution of one channel is
    /// none.
    fn is_depthwise(&self) -> bool {
        let groups = self.reading.groups();
        groups > 1 && self.weights.dim() == (groups, self.reading.taps())
    }

    /// Some of `rows` of one of so many samples, on the grid of the input; none where no product can overflow.
    pub fn searched(&self, rows: &Array3<f32>, samples: usize, aids: &Aids) -> Option<Array3<u8>> {
        if !aids.saturates || self.grid.levels != Levels::U8 || self.is_depthwise() {
            return None;
        }
        let step = (rows.dim().1 / SEARCHED.div_ceil(samples.max(1))).max(1);
        Some(rows.slice(s![.., ..;step, ..]).mapv(|x| self.grid.level(x) as u8))
    }

    /// Whether what rounding does to the mean of the outputs is left to the bias.
    pub fn corrects(&self, aids: &Aids) -> bool {
        self.biased && aids.bias_correction != BiasCorrection::None
    }

    /// Rounds `target`, the weights or what was fitted to rounded inputs, for inputs with these moments. Also returns the
    /// scales, and how many channels have to do with seven bits.
    pub fn round(
        &self,
        target: &Array2<f32>,
        scales: &[f32],
        moments: &[Moments],
        searched: &Searched,
        aids: &Aids,
    ) -> (Array2<i8>, Vec<f32>, usize) {
        let centered: Vec<Moments>;
        let moments = match self.corrects(aids) {
            true => {
                centered = moments.iter().map(Moments::about_the_mean).collect();
                &centered
            }
            false => moments,
        };
        let round = |scales: &[f32], limits: &[f32]| {
            let weights = Weights { matrix: target.view(), scales, limits };
            match aids.rounding {
                Rounding::Nearest => nearest(weights),
                Rounding::Gptq => gptq(weights, moments),
            }
        };
        let (mut scales, mut limits) = (scales.to_vec(), vec![aids.bits.limit(); scales.len()]);
        let levels = round(&scales, &limits);
        let overflows = self.overflows(&levels, searched);
        let seven_bits: Vec<usize> = (0..overflows.len()).filter(|&channel| overflows[channel]).collect();
        if seven_bits.is_empty() {
            return (levels, scales, 0);
        }
        if !aids.per_channel {
            let all: Vec<f32> = self.weights.iter().copied().collect();
            let scale = least_squares_scale(&all, SEVEN_BITS).unwrap_or_default();
            scales.iter_mut().for_each(|old| *old = old.max(scale));
            limits.fill(SEVEN_BITS);
            let levels = round(&scales, &limits);
            return (levels, scales, limits.len());
        }
        for &channel in &seven_bits {
            let scale = least_squares_scale(&self.weights.row(channel).to_vec(), SEVEN_BITS).unwrap_or_default();
            scales[channel] = scales[channel].max(scale);
            limits[channel] = SEVEN_BITS;
        }
        // Every channel is rounded for itself: those that do not overflow come out as they were.
        (round(&scales, &limits), scales, seven_bits.len())
    }

    /// Which channels overflow on the rows that were seen.
    fn overflows(&self, levels: &Array2<i8>, searched: &Searched) -> Vec<bool> {
        let channels = levels.nrows() / self.reading.groups();
        let group = |group: usize| {
            let seen: Vec<_> = searched.iter().map(|rows| rows.index_axis(Axis(0), group)).collect();
            let levels = levels.slice(s![group * channels..(group + 1) * channels, ..]);
            match concatenate(Axis(0), &seen) {
                Ok(rows) => overflowing(rows.view(), levels, self.reading.taps()),
                Err(_) => vec![false; channels],
            }
        };
        (0..self.reading.groups()).flat_map(group).collect()
    }

    /// The codes for these levels, with the bias of `old` moved by `shift`.
    pub fn codes(&self, levels: Array2<i8>, scales: Vec<f32>, old: &Codes, shift: Option<Vec<f32>>) -> Codes {
        let bias = match (&old.bias, shift) {
            (Some(bias), Some(shift)) => Some(std::iter::zip(bias, shift).map(|(b, shift)| b + shift).collect()),
            (None, shift) => shift,
            (bias, None) => bias.clone(),
        };
        Codes { levels: self.laid_out(levels, old.levels.shape()), scales, bias, bits: old.bits }
    }

    /// A matrix `[channels, inputs]` in the layout of the layer's weight.
    pub fn laid_out<T: Element>(&self, matrix: Array2<T>, shape: &[usize]) -> Tensor {
        let matrix = if self.layer.axis == 0 { matrix } else { matrix.reversed_axes() };
        Tensor::from_vec(shape.to_vec(), matrix.iter().copied().collect())
    }
}

/// Learns from one run of the float model over the samples, or a few where moments take much memory.
pub fn learn(
    model: &Model,
    tasks: &[Task],
    codes: &mut HashMap<NodeId, Codes>,
    data: &Dataset,
    aids: &Aids,
    watch: Watch,
) -> Result<Outcome, SurveyError> {
    let mut outcome = Outcome::default();
    for tasks in portions(tasks) {
        let values: Vec<ValueId> = tasks.iter().map(|task| task.layer.x).collect();
        let mut seen = vec![(MomentSums::default(), Searched::new()); tasks.len()];
        survey(
            model,
            &values,
            data,
            watch,
            &mut seen,
            |place, sample, x| {
                let task = &tasks[place];
                let mut random = Random::new(aids.seed, sample as u64);
                let rows = task.reading.rows(x, task.rows_each(data.len()), &mut random)?;
                let searched = task.searched(&rows, data.len(), aids);
                Some((rows, searched))
            },
            |_, (sums, all), rows| {
                if let Some((rows, searched)) = rows {
                    sums.add(&rows);
                    all.extend(searched);
                }
            },
        )?;
        let learned: Vec<(Codes, usize)> = tasks
            .par_iter()
            .zip(seen)
            .map(|(task, (sums, searched))| {
                let (old, moments) = (&codes[&task.layer.node], sums.moments());
                let (levels, scales, seven_bits) = task.round(&task.weights, &old.scales, &moments, &searched, aids);
                let rounded = dequantized(&levels, &scales);
                let shift = task.corrects(aids).then(|| bias::shift(task.weights.view(), rounded.view(), &moments));
                (task.codes(levels, scales, old, shift.filter(|shift| !shift.is_empty())), seven_bits)
            })
            .collect();
        for (task, (learned, seven_bits)) in tasks.iter().zip(learned) {
            outcome.count(learned.scales.len(), seven_bits);
            codes.insert(task.layer.node, learned);
        }
    }
    Ok(outcome)
}

/// Stretches of tasks whose moments fit into memory together.
fn portions<'t, 'p>(tasks: &'t [Task<'p>]) -> Vec<&'t [Task<'p>]> {
    let mut portions = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, task) in tasks.iter().enumerate() {
        let size = 8 * task.reading.groups() * task.weights.ncols().pow(2);
        if index > start && bytes + size > BYTES_AT_A_TIME {
            portions.push(&tasks[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    portions.push(&tasks[start..]);
    portions.retain(|portion| !portion.is_empty());
    portions
}
