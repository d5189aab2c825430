//! How weights follow from gradients.

use rayon::prelude::*;

use crate::kernels::widest;
use crate::runtime::Shared;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// v ← μ·v + g, w ← w - η·v; with Nesterov's momentum w ← w - η·(g + μ·v). Decay adds λ·w to g.
    Sgd { momentum: f32, nesterov: bool },
    /// Adam with decoupled decay (Loshchilov and Hutter, 2019): m ← β₁·m + (1 - β₁)·g, v ← β₂·v + (1 - β₂)·g²,
    /// w ← w - η·λ·w - η·m̂ / (√v̂ + ε), where ^ divides by 1 - βᵗ.
    AdamW { beta1: f32, beta2: f32, epsilon: f32 },
}

impl Optimizer {
    pub const ADAMW: Optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
}

/// What an optimizer remembers of one weight.
#[derive(Clone, Default)]
struct Memory {
    first: Vec<f32>,
    second: Vec<f32>,
}

/// An optimizer at work.
#[derive(Clone)]
pub struct Updates {
    optimizer: Optimizer,
    decay: f32,
    memories: Vec<Memory>,
    /// Steps that were taken.
    steps: i32,
}

impl Updates {
    pub fn new(optimizer: Optimizer, decay: f32, weights: usize) -> Updates {
        Updates { optimizer, decay, memories: vec![Memory::default(); weights], steps: 0 }
    }

    /// Goes on where another left off.
    pub(super) fn resumed(
        optimizer: Optimizer,
        decay: f32,
        first: Vec<Vec<f32>>,
        second: Vec<Vec<f32>>,
        steps: i32,
    ) -> Updates {
        let memories = first.into_iter().zip(second).map(|(first, second)| Memory { first, second }).collect();
        Updates { optimizer, decay, memories, steps }
    }

    pub(super) fn steps(&self) -> i32 {
        self.steps
    }

    /// Forgets what is known of some elements of a weight.
    pub(super) fn forget(&mut self, weight: usize, elements: &[bool]) {
        let Memory { first, second } = &mut self.memories[weight];
        for memory in [first, second] {
            memory.iter_mut().zip(elements).filter(|(_, forget)| **forget).for_each(|(x, _)| *x = 0.0);
        }
    }

    /// What is remembered of each weight.
    pub(super) fn memories(&self) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        self.memories.iter().map(|memory| (memory.first.clone(), memory.second.clone())).unzip()
    }

    /// Changes each weight by its gradient, those that decay also by themselves.
    pub fn step(&mut self, weights: &mut [Shared], decays: &[bool], gradients: &[Vec<f32>], rate: f32) {
        self.steps += 1;
        let rule = Rule { optimizer: self.optimizer, rate, steps: self.steps };
        let all = weights.par_iter_mut().zip(&mut self.memories).zip(gradients).zip(decays);
        all.for_each(|(((weight, memory), gradient), &decays)| {
            let decay = if decays { self.decay } else { 0.0 };
            let weight = weight.floats_mut().expect("weights are f32");
            memory.first.resize(weight.len(), 0.0);
            memory.second.resize(weight.len(), 0.0);
            let parts = weight.par_chunks_mut(PART).zip(gradient.par_chunks(PART));
            let memories = memory.first.par_chunks_mut(PART).zip(memory.second.par_chunks_mut(PART));
            parts.zip(memories).for_each(|((w, g), (first, second))| {
                widest(
                    #[inline(always)]
                    || rule.apply(w, g, first, second, decay),
                )
            });
        });
    }
}

/// Elements of a weight that one thread changes at a time.
pub(super) const PART: usize = 1 << 16;

/// One step.
#[derive(Clone, Copy)]
struct Rule {
    optimizer: Optimizer,
    rate: f32,
    steps: i32,
}

impl Rule {
    #[inline(always)]
    fn apply(self, w: &mut [f32], g: &[f32], first: &mut [f32], second: &mut [f32], decay: f32) {
        let rate = self.rate;
        match self.optimizer {
            Optimizer::Sgd { momentum: 0.0, .. } => {
                for (w, &g) in w.iter_mut().zip(g) {
                    *w -= rate * (g + decay * *w);
                }
            }
            Optimizer::Sgd { momentum, nesterov } => {
                for ((w, &g), v) in w.iter_mut().zip(g).zip(first) {
                    let g = g + decay * *w;
                    *v = momentum * *v + g;
                    *w -= rate * if nesterov { g + momentum * *v } else { *v };
                }
            }
            Optimizer::AdamW { beta1, beta2, epsilon } => {
                let correct = |beta: f32| (1.0 - f64::from(beta).powi(self.steps)) as f32;
                let (size, root) = (rate / correct(beta1), correct(beta2).sqrt());
                for (((w, &g), m), v) in w.iter_mut().zip(g).zip(first).zip(second) {
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    *w -= rate * decay * *w + size * *m / (v.sqrt() / root + epsilon);
                }
            }
        }
    }
}

/// Scales gradients down to a common norm of at most `limit`, and returns the norm they had.
pub fn clip(gradients: &mut [Vec<f32>], limit: Option<f64>) -> f64 {
    // The sums of weights are added in their order, so that the result is the same on any number of threads.
    let squares: Vec<f64> = gradients
        .par_iter()
        .map(|gradient| {
            widest(
                #[inline(always)]
                || sum_of_squares(gradient),
            )
        })
        .collect();
    let norm = squares.iter().sum::<f64>().sqrt();
    if let Some(limit) = limit.filter(|&limit| norm > limit && norm.is_finite()) {
        let factor = (limit / norm) as f32;
        gradients.par_iter_mut().for_each(|gradient| gradient.iter_mut().for_each(|g| *g *= factor));
    }
    norm
}

/// Lanes that are summed side by side.
const LANES: usize = 16;

#[inline(always)]
fn sum_of_squares(elements: &[f32]) -> f64 {
    let (whole, rest) = elements.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in whole {
        for lane in 0..LANES {
            sums[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Tensor;

    fn run(optimizer: Optimizer, decay: f32) -> Vec<f32> {
        let mut weights = [Shared::of(&Tensor::from_vec(vec![2], vec![1.0f32, -2.0])).unwrap()];
        let mut updates = Updates::new(optimizer, decay, 1);
        for gradient in [[0.5, 1.0], [0.25, -1.0], [1.0, 0.5]] {
            updates.step(&mut weights, &[true], &[gradient.to_vec()], 0.1);
        }
        weights[0].floats().unwrap().to_vec()
    }

    fn assert_near(found: &[f32], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6), "{found:?} {expected:?}");
    }

    /// The equations in f64, written down once more.
    #[test]
    fn adamw_follows_its_equations() {
        let mut expected = [1.0f64, -2.0];
        let (mut m, mut v) = ([0.0f64; 2], [0.0f64; 2]);
        for (t, gradient) in [[0.5, 1.0], [0.25, -1.0], [1.0, 0.5]].iter().enumerate() {
            for i in 0..2 {
                m[i] = 0.9 * m[i] + 0.1 * gradient[i];
                v[i] = 0.999 * v[i] + 0.001 * gradient[i] * gradient[i];
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(t as i32 + 1)), v[i] / (1.0 - 0.999f64.powi(t as i32 + 1)));
                expected[i] -= 0.1 * 0.01 * expected[i];
                expected[i] -= 0.1 * mh / (vh.sqrt() + 1e-8);
            }
        }
        assert_near(&run(Optimizer::ADAMW, 0.01), &expected);
    }

    #[test]
    fn sgd_follows_its_equations() {
        // By hand: v = .5, .7, 1.63; with decay 0 and momentum .9.
        assert_near(&run(Optimizer::Sgd { momentum: 0.0, nesterov: false }, 0.0), &[0.825, -2.05]);
        let v: [[f64; 3]; 2] = [[0.5, 0.7, 1.63], [1.0, -0.1, 0.41]];
        let plain = |start: f64, v: [f64; 3]| start - 0.1 * v.iter().sum::<f64>();
        assert_near(
            &run(Optimizer::Sgd { momentum: 0.9, nesterov: false }, 0.0),
            &[plain(1.0, v[0]), plain(-2.0, v[1])],
        );
        let g = [[0.5, 0.25, 1.0], [1.0, -1.0, 0.5]];
        let ahead =
            |start: f64, g: [f64; 3], v: [f64; 3]| start - 0.1 * g.iter().zip(v).map(|(g, v)| g + 0.9 * v).sum::<f64>();
        let expected = [ahead(1.0, g[0], v[0]), ahead(-2.0, g[1], v[1])];
        assert_near(&run(Optimizer::Sgd { momentum: 0.9, nesterov: true }, 0.0), &expected);
    }

    #[test]
    fn clipping_keeps_the_direction() {
        let mut gradients = [vec![3.0f32], vec![0.0, 4.0]];
        assert_eq!(clip(&mut gradients, Some(10.0)), 5.0);
        assert_eq!(gradients[0], [3.0]);
        assert_eq!(clip(&mut gradients, Some(1.0)), 5.0);
        assert_near(&[gradients[0][0], gradients[1][0], gradients[1][1]], &[0.6, 0.0, 0.8]);
    }
}
