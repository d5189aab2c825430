//! What layers lose with a channel when the weights of all others make up for it: Optimal Brain Surgeon (Hassibi and Stork,
//! 1993), channel by channel.
//!
//! A layer gives W·x. Without the inputs S it gives at best what is off by E |e|² = tr Wₛ·([H⁻¹]ₛₛ)⁻¹·Wₛᵀ, where H is the
//! covariance of x: a bias makes up for means. Then W -= Wₛ·([H⁻¹]ₛₛ)⁻¹·[H⁻¹]ₛ, which is what the least squares of
//! `reconstruct` find, and H⁻¹ loses what S explains. Channels go a few at a time, so that of two that say the same one stays.

use std::collections::HashMap;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Array3, Axis};
use rayon::prelude::*;

use super::criterion::Subject;
use super::layer::{Layer, Read};
use super::probe::Samples;
use crate::analysis::channels::Class;
use crate::data::Random;
use crate::ir::{Model, Tensor, ValueId};
use crate::measure::{MomentSums, Reading};
use crate::pass::PassError;
use crate::passes::quantize::{cholesky, invert_lower};
use crate::runtime::{Execution, Runner};

/// Rows that a layer is known by, for each number of a row, and of one sample at the least.
const ROWS_FOR_EACH_INPUT: usize = 12;
const FEWEST_ROWS: usize = 32;

/// Numbers of the covariances that are taken in one run over the samples.
const MOST_NUMBERS: usize = 1 << 26;

/// What is added to the diagonal of H, over its mean: inputs that hardly vary are not left to the others.
const DAMPING: f64 = 0.01;

/// In so many steps all channels of a layer go.
const STEPS: usize = 32;

/// For each class, the sum over all layers that read it of E |e|² when it goes after those that go before it, as a share of the
/// energy of what the layer gives.
pub fn losses(subject: Subject, samples: &Samples) -> Result<Vec<f64>, PassError> {
    let Subject { model, channels, layers, groups, .. } = subject;
    let is_asked = |class: &Class| groups.group(*class).is_some();
    let reads = layers.iter().filter_map(|layer| Some((layer, layer.reads?)));
    let reads = reads.filter(|(_, read)| channels.classes_of(read.lane).iter().any(is_asked));
    let readers: Vec<Reader> = reads.map(|(layer, read)| Reader::new(model, layer, read)).collect();
    let mut scores = vec![0.0; channels.len()];
    let mut rest = &readers[..];
    while !rest.is_empty() {
        let sizes = rest.iter().scan(0, |sum, reader| {
            *sum += reader.inputs().pow(2);
            Some(*sum)
        });
        let count = sizes.take_while(|&sum| sum <= MOST_NUMBERS).count().max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        let seen = covariances(subject, now, samples)?;
        let found: Vec<Vec<(Class, f64)>> = now
            .par_iter()
            .zip(seen)
            .map(|(reader, covariance)| {
                let mut places: HashMap<Class, Vec<usize>> = HashMap::new();
                for (place, class) in channels.classes_of(reader.read.lane).iter().enumerate() {
                    let each = reader.taps * place..reader.taps * (place + 1);
                    places.entry(*class).or_default().extend(each);
                }
                let mut blocks: Vec<_> = places.into_iter().filter(|(class, _)| is_asked(class)).collect();
                blocks.sort_unstable();
                let (classes, blocks): (Vec<Class>, Vec<Vec<usize>>) = blocks.into_iter().unzip();
                let losses = losses_of(&reader.weights, covariance, &blocks);
                classes.into_iter().zip(losses).collect()
            })
            .collect();
        for (class, loss) in found.into_iter().flatten() {
            scores[class.index()] += loss;
        }
    }
    Ok(scores)
}

/// A layer as the matrix that it multiplies rows of its input with.
struct Reader {
    read: Read,
    /// How it reads, where that is more than along an axis.
    reading: Reading,
    /// Numbers of a row for each channel.
    taps: usize,
    /// `[outputs, inputs]`
    weights: Array2<f32>,
}

impl Reader {
    /// Where rows of the layer are not known, one has the channels at a place; what a kernel has in several places are outputs.
    fn new(model: &Model, layer: &Layer, read: Read) -> Reader {
        let weight = model.constant(layer.weight).expect("layers have constant weights");
        let window = Reading::of(model, layer.node).filter(|reading| reading.taps() > 1 && read.weight_axis == 1);
        let reading = window.unwrap_or(Reading::Rows);
        let taps = reading.taps();
        let mut array = weight.to_array().expect("it holds floats");
        let length = weight.shape()[read.weight_axis];
        if taps == 1 {
            // [.., length, ..] to [.., length]
            let last = array.ndim() - 1;
            let mut order: Vec<usize> = (0..=last).filter(|&axis| axis != read.weight_axis).collect();
            order.push(read.weight_axis);
            array = array.permuted_axes(order);
        }
        let rows = weight.len() / (length * taps).max(1);
        let weights = array.as_standard_layout().into_owned().into_shape_with_order((rows, length * taps));
        Reader { read, reading, taps, weights: weights.expect("it has as many elements") }
    }

    fn inputs(&self) -> usize {
        self.weights.ncols()
    }

    fn rows(&self, x: &Tensor, count: usize, random: &mut Random) -> Option<Array3<f32>> {
        if self.reading != Reading::Rows || self.read.axis + 1 == x.rank() {
            return self.reading.rows(x, count, random);
        }
        let array = x.to_array()?;
        let mut order: Vec<usize> = (0..array.ndim()).filter(|&axis| axis != self.read.axis).collect();
        order.push(self.read.axis);
        let moved = array.permuted_axes(order);
        let shape = moved.shape().to_vec();
        self.reading.rows(&Tensor::from_vec(shape, moved.iter().copied().collect()), count, random)
    }
}

/// The covariance of what each of `readers` reads.
fn covariances(subject: Subject, readers: &[Reader], samples: &Samples) -> Result<Vec<Array2<f64>>, PassError> {
    let failed = |error: &dyn std::fmt::Display| PassError(error.to_string());
    let mut values: Vec<ValueId> = readers.iter().map(|reader| reader.read.value).collect();
    values.sort_unstable();
    values.dedup();
    let runner = Runner::with(subject.model, &values, &Execution::float()).map_err(|error| failed(&error))?;
    let mut sums = vec![MomentSums::default(); readers.len()];
    let together = rayon::current_num_threads();
    for (number, few) in samples.inputs.chunks(together).enumerate() {
        let run = |inputs: &Vec<Tensor>| runner.run(inputs).map_err(|error| failed(&error));
        let seen: Vec<Vec<Tensor>> = few.par_iter().map(run).collect::<Result<_, _>>()?;
        let add = |(sums, reader): (&mut MomentSums, &Reader)| {
            let place = values.binary_search(&reader.read.value).expect("it is one of them");
            let rows = (ROWS_FOR_EACH_INPUT * reader.inputs()).div_ceil(samples.inputs.len()).max(FEWEST_ROWS);
            for (index, tensors) in seen.iter().enumerate() {
                let mut random = Random::new(subject.seed, (number * together + index) as u64);
                let rows =
                    reader.rows(&tensors[place], rows, &mut random).filter(|rows| rows.dim().2 == reader.inputs());
                sums.add(&rows.ok_or_else(|| PassError("a layer reads what is no float, or of another shape".into()))?);
            }
            Ok(())
        };
        sums.par_iter_mut().zip(readers).try_for_each(add)?;
    }
    Ok(sums.into_iter().map(|sums| sums.moments().remove(0).covariance()).collect())
}

/// What is lost with each of `blocks` of inputs, as a share of the energy of W·x. Those that go first lose the least.
fn losses_of(weights: &Array2<f32>, mut covariance: Array2<f64>, blocks: &[Vec<usize>]) -> Vec<f64> {
    let mut losses = vec![0.0; blocks.len()];
    let weights = weights.mapv(f64::from);
    let energy = (&weights.dot(&covariance) * &weights).sum();
    let mean = covariance.diag().mean().unwrap_or(0.0);
    covariance.diag_mut().mapv_inplace(|x| x + DAMPING * mean);
    // Where nothing varies, nothing is lost.
    let Some(factor) = (energy > 0.0).then(|| cholesky(covariance)).flatten() else { return losses };
    let inverse = invert_lower(&factor);
    let mut state = State { inverse: inverse.t().dot(&inverse), weights: weights.t().dot(&weights) };
    // Where the inputs that are left stand in the state.
    let mut left: Vec<usize> = (0..state.inverse.nrows()).collect();
    let mut staying: Vec<usize> = (0..blocks.len()).collect();
    let each = blocks.len().div_ceil(STEPS).max(1);
    let mut least = 0.0;
    while !staying.is_empty() {
        let mut place = vec![usize::MAX; weights.ncols()];
        left.iter().enumerate().for_each(|(at, &input)| place[input] = at);
        let inputs = |block: usize| blocks[block].iter().map(|&input| place[input]).collect::<Vec<usize>>();
        let mut found: Vec<(f64, usize)> =
            staying.par_iter().map(|&block| (state.loss(&inputs(block)), block)).collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        found.truncate(each);
        let mut gone = Vec::new();
        for &(loss, block) in &found {
            // What goes later has lost no less.
            least = f64::max(least, loss / energy);
            losses[block] = least;
            gone.extend(inputs(block));
        }
        staying.retain(|block| found.iter().all(|(_, other)| other != block));
        gone.sort_unstable();
        state.remove(&gone);
        let mut at = 0;
        left.retain(|_| {
            at += 1;
            gone.binary_search(&(at - 1)).is_err()
        });
    }
    losses
}

/// A layer behind what went.
struct State {
    /// H⁻¹ of the inputs that are left.
    inverse: Array2<f64>,
    /// Wᵀ·W, of weights that make up for those that went.
    weights: Array2<f64>,
}

impl State {
    /// tr ([H⁻¹]ₛₛ)⁻¹·[WᵀW]ₛₛ
    fn loss(&self, inputs: &[usize]) -> f64 {
        if let &[only] = inputs {
            return self.weights[[only, only]] / self.inverse[[only, only]];
        }
        let part = |matrix: &Array2<f64>| matrix.select(Axis(0), inputs).select(Axis(1), inputs);
        match cholesky(part(&self.inverse)) {
            // ([H⁻¹]ₛₛ)⁻¹ = L⁻ᵀ·L⁻¹
            Some(factor) => {
                let root = invert_lower(&factor);
                (root.dot(&part(&self.weights)) * &root).sum()
            }
            None => 0.0,
        }
    }

    /// With K = ([H⁻¹]ₛₛ)⁻¹·[H⁻¹]ₛ: H⁻¹ -= [H⁻¹]ₛᵀ·K, and of W - Wₛ·K the product with itself.
    fn remove(&mut self, inputs: &[usize]) {
        let stay: Vec<usize> = (0..self.inverse.nrows()).filter(|at| inputs.binary_search(at).is_err()).collect();
        let part = |matrix: &Array2<f64>, rows: &[usize], columns: &[usize]| {
            matrix.select(Axis(0), rows).select(Axis(1), columns)
        };
        let beside = part(&self.inverse, inputs, &stay);
        let Some(factor) = cholesky(part(&self.inverse, inputs, inputs)) else { return self.keep(&stay) };
        let root = invert_lower(&factor).dot(&beside);
        let k = invert_lower(&factor).t().dot(&root);
        let (own, cross) = (part(&self.weights, inputs, inputs), part(&self.weights, inputs, &stay));
        self.keep(&stay);
        general_mat_mul(-1.0, &root.t(), &root, 1.0, &mut self.inverse);
        // (Wₜ - Wₛ·K)ᵀ(Wₜ - Wₛ·K), with the half of what is taken off on either side
        let half = cross - own.dot(&k) / 2.0;
        general_mat_mul(-1.0, &half.t(), &k, 1.0, &mut self.weights);
        general_mat_mul(-1.0, &k.t(), &half, 1.0, &mut self.weights);
    }

    fn keep(&mut self, stay: &[usize]) {
        for matrix in [&mut self.inverse, &mut self.weights] {
            *matrix = matrix.select(Axis(0), stay).select(Axis(1), stay);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array1;

    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        let mut random = Random::new(seed, 0);
        Array2::from_shape_fn((rows, columns), |_| f64::from(random.normal()))
    }

    /// The least of E |W·x - V·x|² over all V that do not read `gone`, found by its normal equations.
    fn least(weights: &Array2<f64>, covariance: &Array2<f64>, gone: &[usize]) -> f64 {
        let stay: Vec<usize> = (0..covariance.nrows()).filter(|at| !gone.contains(at)).collect();
        let energy = (&weights.dot(covariance) * weights).sum();
        if stay.is_empty() {
            return energy;
        }
        let cross = weights.dot(&covariance.select(Axis(1), &stay));
        let inverse = invert_lower(&cholesky(covariance.select(Axis(0), &stay).select(Axis(1), &stay)).unwrap());
        energy - cross.dot(&inverse.t()).mapv(|x| x * x).sum()
    }

    fn damped(covariance: &Array2<f64>) -> Array2<f64> {
        let damping = DAMPING * covariance.diag().mean().unwrap();
        covariance + &Array2::from_diag(&Array1::from_elem(covariance.nrows(), damping))
    }

    #[test]
    fn losses_are_those_of_the_best_weights_without_what_went() {
        let mixed = random(40, 6, 1).dot(&random(6, 6, 2));
        let (covariance, weights) = (mixed.t().dot(&mixed) / 40.0, random(3, 6, 3));
        let blocks = [vec![0, 3], vec![1], vec![2, 5], vec![4]];
        let found = losses_of(&weights.mapv(|x| x as f32), covariance.clone(), &blocks);
        let energy = (&weights.dot(&covariance) * &weights).sum();
        // In the order in which they go, losses add up.
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by(|&a, &b| found[a].total_cmp(&found[b]));
        let (mut gone, mut before) = (Vec::new(), least(&weights, &damped(&covariance), &[]));
        assert!(before.abs() < 1e-6 * energy);
        for block in order {
            gone.extend(&blocks[block]);
            let lost = least(&weights, &damped(&covariance), &gone);
            let (wanted, found) = ((lost - before) / energy, found[block]);
            assert!((wanted - found).abs() < 1e-5 || wanted < found, "{found} for {wanted}");
            before = lost;
        }
        let first = found.iter().copied().fold(f64::INFINITY, f64::min);
        let alone = blocks.iter().map(|block| least(&weights, &damped(&covariance), block) / energy);
        assert!((alone.fold(f64::INFINITY, f64::min) - first).abs() < 1e-5);
    }

    #[test]
    fn of_two_that_say_the_same_one_stays() {
        let mut mixed = random(64, 4, 5);
        let copy = mixed.column(1).to_owned();
        mixed.column_mut(3).assign(&copy);
        let covariance = mixed.t().dot(&mixed) / 64.0;
        let weights = Array2::from_elem((1, 4), 1f32);
        let found = losses_of(&weights, covariance, &[vec![0], vec![1], vec![2], vec![3]]);
        let [low, high] = [found[1].min(found[3]), found[1].max(found[3])];
        // Damping apart, the first costs nothing.
        assert!(low < 0.02 && high > 0.2, "{found:?}");
    }

    #[test]
    fn what_does_not_vary_costs_nothing() {
        let found = losses_of(&Array2::ones((2, 3)), Array2::zeros((3, 3)), &[vec![0], vec![1, 2]]);
        assert_eq!(found, [0.0, 0.0]);
    }
}
