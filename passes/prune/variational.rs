//! Channels that may be noise: variational dropout (Kingma et al., 2015; Molchanov et al., 2017) with one α for each class, as
//! Neklyudov et al. (2017) have it for structures.
//!
//! Where layers read a class, it is multiplied with 1 + √α·ε, where ε ~ N(0, 1) is drawn for each sample. Weights stay as they
//! are, and log α is learned by stochastic gradients of what there is to lose, summed over all samples: the cross entropy of
//! what the model says with noise to what it says without, and the divergence of the noise from its log-uniform prior, which
//! is smaller the larger α is. So α grows where outputs do not mind.

use rayon::prelude::*;

use super::criterion::Subject;
use super::gradients::Derivatives;
use super::probe::{Samples, mask_reads};
use super::weighed::{Direction, Weighed};
use crate::analysis::channels::Lane;
use crate::data::Random;
use crate::ir::{Tensor, ValueId};
use crate::pass::PassError;
use crate::runtime::{Execution, Runner};

/// The streams of random numbers that noise is made of, and that choose the samples of a step.
const NOISE: u64 = 6 << 32;
const ORDER: u64 = 7 << 32;

/// How many steps there are, and of how many samples.
const STEPS: usize = 64;
const BATCH: usize = 16;

/// log α before the first step.
const START: f64 = -4.0;

/// log α stays between these: beyond them is nothing but noise, or none.
const RANGE: (f64, f64) = (-12.0, 6.0);

/// The size of the first steps of log α; it falls to zero in a line.
const RATE: f64 = 0.25;

fn failed(error: impl std::fmt::Display) -> PassError {
    PassError(error.to_string())
}

/// For each class log α, which is without bound for those that no group has.
pub fn noise(subject: Subject, samples: &Samples) -> Result<Vec<f64>, PassError> {
    let Subject { channels, groups, seed, .. } = subject;
    let noisy = Noisy::of(subject, samples)?;
    let epochs = (0..).flat_map(|epoch| Random::new(seed, ORDER + epoch).permutation(samples.inputs.len()));
    let order: Vec<usize> = epochs.take(STEPS * BATCH).collect();
    // The sum over all samples there are.
    let scale = samples.of as f64 / BATCH as f64;
    let mut logs = vec![START; channels.len()];
    let mut adam = Adam::new(channels.len());
    for (step, batch) in order.chunks(BATCH).enumerate() {
        let seen = batch.par_iter().enumerate().map(|(place, &sample)| {
            let mut random = Random::new(seed, NOISE + (step * BATCH + place) as u64);
            let noise: Vec<f64> = (0..channels.len()).map(|_| f64::from(random.normal())).collect();
            noisy.slopes(sample, &logs, &noise)
        });
        let seen: Vec<Vec<f64>> = seen.collect::<Result<_, _>>()?;
        let mut gradient: Vec<f64> = logs.iter().map(|&log| divergence_slope(log)).collect();
        for slopes in seen {
            gradient.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += scale * slope);
        }
        adam.step(&mut logs, &gradient, RATE * (1.0 - step as f64 / STEPS as f64));
        logs.iter_mut().for_each(|log| *log = log.clamp(RANGE.0, RANGE.1));
    }
    let mut found = vec![f64::INFINITY; channels.len()];
    groups.members.iter().flatten().for_each(|class| found[class.index()] = logs[class.index()]);
    Ok(found)
}

/// A model whose layers read classes with noise.
struct Noisy<'a> {
    subject: Subject<'a>,
    samples: &'a Samples,
    /// What the outputs are without noise, sample by sample.
    clean: Vec<Vec<Tensor>>,
    /// The lanes that are multiplied, and the shapes of what with.
    lanes: Vec<(Lane, Vec<usize>)>,
    forward: Runner,
    derivatives: Derivatives<'a>,
}

impl<'a> Noisy<'a> {
    fn of(subject: Subject<'a>, samples: &'a Samples) -> Result<Noisy<'a>, PassError> {
        let mut probed = subject.model.clone();
        let weighed = Weighed::of(&mut probed, &samples.inputs[0], Direction::Drawn, subject.seed)?;
        let clean = samples.inputs.par_iter().map(|inputs| weighed.answers(inputs)).collect::<Result<_, _>>()?;
        let (lanes, masks): (Vec<Lane>, Vec<ValueId>) = mask_reads(&mut probed, subject).into_iter().unzip();
        let shape = |&mask: &ValueId| probed.constant(mask).expect("it was just made").shape().to_vec();
        let lanes = lanes.into_iter().zip(masks.iter().map(shape)).collect();
        let mut open = probed.clone();
        open.make_inputs(&masks);
        let forward = Runner::with(&open, weighed.outputs(), &Execution::float()).map_err(failed)?;
        let derivatives = Derivatives::of(probed, weighed, &masks)?
            .ok_or_else(|| PassError("no output depends on a channel that can be cut".into()))?;
        Ok(Noisy { subject, samples, clean, lanes, forward, derivatives })
    }

    /// What noise on a sample does to the cross entropy, by log α of each class.
    fn slopes(&self, sample: usize, logs: &[f64], noise: &[f64]) -> Result<Vec<f64>, PassError> {
        let Subject { channels, groups, .. } = self.subject;
        let inputs = &self.samples.inputs[sample];
        let mut slopes = vec![0.0; channels.len()];
        // The same noise with both signs: what is odd in it cancels out.
        for sign in [1.0, -1.0] {
            let factor = |class: usize| sign * (logs[class] / 2.0).exp() * noise[class];
            let factors = self.lanes.iter().map(|(lane, shape)| {
                let factors = channels.classes_of(*lane).iter().map(|&class| match groups.group(class) {
                    Some(_) => (1.0 + factor(class.index())) as f32,
                    None => 1.0,
                });
                Tensor::from_vec(shape.clone(), factors.collect())
            });
            let factors: Vec<Tensor> = factors.collect();
            let said = self.forward.run(&[&inputs[..], &factors].concat()).map_err(failed)?;
            let weights: Vec<Tensor> = said.iter().zip(&self.clean[sample]).map(|(y, clean)| away(y, clean)).collect();
            let found = self.derivatives.at(inputs, &factors, &weights)?;
            for (&known, tensor) in self.derivatives.known.iter().zip(&found) {
                let floats = tensor.floats().expect("a derivative is a float");
                for (class, &g) in channels.classes_of(self.lanes[known].0).iter().zip(floats.iter()) {
                    // ∂(√α·ε) / ∂log α = √α·ε / 2, and the mean of both signs.
                    slopes[class.index()] += f64::from(g) * factor(class.index()) / 4.0;
                }
            }
        }
        Ok(slopes)
    }
}

/// The slope of the cross entropy of what is said to what is said without noise, row by row: softmax(y) - softmax(y₀); of rows
/// with one number that of half of their squared distance.
fn away(said: &Tensor, clean: &Tensor) -> Tensor {
    let [a, b] = [said, clean].map(|tensor| tensor.floats().expect("outputs of float32 were chosen"));
    let width = said.shape().last().copied().unwrap_or(1).max(1);
    let slopes = match width {
        1 => a.iter().zip(b.iter()).map(|(a, b)| a - b).collect(),
        _ => {
            let rows = a.chunks(width).zip(b.chunks(width));
            rows.flat_map(|(a, b)| softmax(a).zip(softmax(b)).map(|(a, b)| (a - b) as f32).collect::<Vec<_>>())
                .collect()
        }
    };
    Tensor::from_vec(said.shape().to_vec(), slopes)
}

fn softmax(row: &[f32]) -> impl Iterator<Item = f64> + '_ {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&x| f64::from(x - highest).exp()).sum();
    row.iter().map(move |&x| f64::from(x - highest).exp() / sum)
}

/// The slope by log α of the divergence k₁ - k₁·σ(k₂ + k₃·log α) + ½·log(1 + 1/α) (Molchanov et al., equation 14).
fn divergence_slope(log: f64) -> f64 {
    let [k1, k2, k3] = [0.63576, 1.87320, 1.48695];
    let sigmoid = 1.0 / (1.0 + (-(k2 + k3 * log)).exp());
    -k1 * k3 * sigmoid * (1.0 - sigmoid) - 0.5 / (1.0 + log.exp())
}

/// Adam (Kingma and Ba, 2015).
struct Adam {
    first: Vec<f64>,
    second: Vec<f64>,
    steps: i32,
}

impl Adam {
    const BETA: [f64; 2] = [0.9, 0.99];

    fn new(count: usize) -> Adam {
        Adam { first: vec![0.0; count], second: vec![0.0; count], steps: 0 }
    }

    fn step(&mut self, x: &mut [f64], gradient: &[f64], rate: f64) {
        self.steps += 1;
        let [beta1, beta2] = Adam::BETA;
        let correct = |beta: f64| 1.0 - beta.powi(self.steps);
        for (((x, g), m), v) in x.iter_mut().zip(gradient).zip(&mut self.first).zip(&mut self.second) {
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *x -= rate * (*m / correct(beta1)) / ((*v / correct(beta2)).sqrt() + 1e-8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::channels::Channels;
    use crate::analysis::{FixedSizes, Shapes};
    use crate::data::synthesize;
    use crate::ir::Model;
    use crate::passes::prune::layer::layers;
    use crate::passes::prune::select::Groups;

    /// The second of four neurons is not read, however large it is, and the fourth is hardly read.
    const NETWORK: &str = r#"
        <ir_version: 10, opset_import: ["": 21]>
        network (float[N,2] x) => (float[N,2] y)
        <
            float[2,4] a = {1, 3, -0.5, 0.25, 0.5, -2, 1, -0.75},
            float[4,2] b = {2, -4, 0, 0, 4, 1, -0.05, 0.1}
        >
        {
            h = MatMul (x, a)
            r = Tanh (h)
            y = MatMul (r, b)
        }"#;

    /// log α of the four.
    fn found(seed: u64) -> Vec<f64> {
        let model = Model::parse(NETWORK).unwrap_or_else(|error| panic!("{error}"));
        let data = synthesize(&model, &FixedSizes::default(), 5, 24, |_| Ok(())).unwrap();
        let samples =
            Samples { inputs: (0..24).map(|index| data.sample(index)).collect(), labels: None, of: data.len() };
        let channels = Channels::of(&model, &Shapes::infer(&model));
        let layers = layers(&model, &channels);
        let groups = Groups::new(&model, &channels, &layers, |_| true);
        let subject = Subject { model: &model, channels: &channels, layers: &layers, groups: &groups, seed };
        let logs = noise(subject, &samples).unwrap();
        assert_eq!(groups.members.len(), 1);
        groups.members[0].iter().map(|class| logs[class.index()]).collect()
    }

    #[test]
    fn a_channel_that_the_output_does_not_depend_on_gets_the_most_noise() {
        let logs = found(0);
        assert!(logs[1] > logs[3] && logs[3] > logs[0].max(logs[2]) + 1.0, "{logs:?}");
        // It is more noise than anything else.
        assert!(logs[1] > 1.0, "{logs:?}");
    }

    #[test]
    fn noise_depends_on_the_seed_and_not_on_threads() {
        let on = |threads: usize, seed: u64| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| found(seed)).into_iter().map(f64::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(on(1, 3), on(2, 3));
        assert_ne!(on(1, 3), on(1, 4));
    }

    #[test]
    fn the_slope_is_that_of_the_divergence() {
        let divergence = |log: f64| {
            let sigmoid = 1.0 / (1.0 + (-(1.87320 + 1.48695 * log)).exp());
            0.63576 - 0.63576 * sigmoid + 0.5 * (-log).exp().ln_1p()
        };
        for log in [-8.0, -2.0, -0.5, 0.0, 1.5, 4.0] {
            let slope = (divergence(log + 1e-5) - divergence(log - 1e-5)) / 2e-5;
            assert!((divergence_slope(log) - slope).abs() < 1e-6 && slope < 0.0, "{log}");
        }
    }

    #[test]
    fn slopes_are_away_from_what_is_said_without_noise() {
        let rows = |x: [f32; 4]| Tensor::from_vec(vec![2, 2], x.to_vec());
        let slopes = away(&rows([0.0, 0.0, 1.0, 3.0]), &rows([0.0, 3f32.ln(), 2.0, 4.0]));
        let slopes = slopes.floats().unwrap().into_owned();
        assert!((slopes[0] - 0.25).abs() < 1e-6 && (slopes[1] + 0.25).abs() < 1e-6, "{slopes:?}");
        assert!(slopes[2].abs() < 1e-6 && slopes[3].abs() < 1e-6, "{slopes:?}");
        let one = |x: f32| Tensor::from_vec(vec![1, 1], vec![x]);
        assert_eq!(*away(&one(2.0), &one(0.5)).floats().unwrap(), [1.5]);
    }
}
