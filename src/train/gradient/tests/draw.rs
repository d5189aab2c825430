//! Random operands of an operator.

use crate::data::Random;
use crate::ir::{Attr, Tensor};

/// One node: its operands, attributes and how many results it has.
#[derive(Debug)]
pub struct Case {
    pub operands: Vec<Operand>,
    pub attrs: Vec<(&'static str, Attr)>,
    pub results: usize,
    /// The first results, that the loss depends on.
    pub judged: usize,
    pub opset: i64,
    /// The step of differences.
    pub step: f32,
    /// Whether the node is a recurrent layer that tract does not read as it is meant.
    pub written_out: bool,
}

#[derive(Debug)]
pub enum Operand {
    Trained(Tensor),
    Fixed(Tensor),
    Missing,
}

impl Case {
    pub fn of(operands: Vec<Operand>) -> Case {
        Case { operands, attrs: vec![], results: 1, judged: 1, opset: 24, step: 0.02, written_out: false }
    }

    pub fn attr(mut self, name: &'static str, attr: Attr) -> Case {
        self.attrs.push((name, attr));
        self
    }

    pub fn ints(self, name: &'static str, ints: Vec<i64>) -> Case {
        self.attr(name, Attr::Ints(ints))
    }

    pub fn int(self, name: &'static str, int: i64) -> Case {
        self.attr(name, Attr::Int(int))
    }

    pub fn float(self, name: &'static str, float: f32) -> Case {
        self.attr(name, Attr::Float(float))
    }

    pub fn text(self, name: &'static str, text: &'static str) -> Case {
        self.attr(name, Attr::Str(text.into()))
    }

    /// For functions with kinks, whose operands come of [`Draw::apart`].
    pub fn kinked(self) -> Case {
        Case { step: 0.005, ..self }
    }
}

pub struct Draw {
    random: Random,
    /// Places on a grid that are not taken yet.
    grid: Vec<usize>,
}

/// Half the number of places on the grid.
const GRID: usize = 100;

/// The distance of neighbours on the grid; none lies on a multiple of it.
const SPACING: f32 = 0.025;

impl Draw {
    pub fn new(seed: u64) -> Draw {
        let mut random = Random::new(seed, 1);
        let grid = random.permutation(2 * GRID);
        Draw { random, grid }
    }

    /// An integer in `low..=high`.
    pub fn int(&mut self, low: usize, high: usize) -> usize {
        low + self.random.below((high - low + 1) as u64) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.int(0, 1) == 1
    }

    pub fn shape(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| self.int(1, 3)).collect()
    }

    /// A shape that is broadcast to `shape`.
    pub fn narrower(&mut self, shape: &[usize]) -> Vec<usize> {
        let skipped = self.int(0, shape.len());
        shape[skipped..].iter().map(|&n| if self.int(0, 2) == 0 { 1 } else { n }).collect()
    }

    pub fn tensor(&mut self, shape: &[usize], low: f32, high: f32) -> Tensor {
        let count: usize = shape.iter().product();
        let element = |_| low + (high - low) * self.random.below(1 << 20) as f32 / (1 << 20) as f32;
        Tensor::from_vec(shape.to_vec(), (0..count).map(element).collect::<Vec<f32>>())
    }

    pub fn trained(&mut self, shape: &[usize]) -> Operand {
        Operand::Trained(self.tensor(shape, -1.2, 1.2))
    }

    pub fn positive(&mut self, shape: &[usize]) -> Operand {
        Operand::Trained(self.tensor(shape, 0.5, 2.0))
    }

    /// Elements that are no closer to each other, nor to multiples of it, than half of [`SPACING`] times `scale`.
    pub fn apart(&mut self, shape: &[usize], scale: f32) -> Operand {
        let count: usize = shape.iter().product();
        let places = self.grid.split_off(self.grid.len() - count);
        let element = |place: usize| (place as f32 - GRID as f32 + 0.5) * SPACING * scale;
        Operand::Trained(Tensor::from_vec(shape.to_vec(), places.into_iter().map(element).collect::<Vec<f32>>()))
    }

    /// Some of the axes of this rank, or none, which means all.
    pub fn axes(&mut self, rank: usize) -> Operand {
        let negative = self.coin();
        let named: Vec<i64> = (0..rank)
            .filter(|_| self.coin())
            .map(|axis| if negative { axis as i64 - rank as i64 } else { axis as i64 })
            .collect();
        if named.is_empty() { Operand::Missing } else { ints(&named) }
    }
}

pub fn ints(ints: &[i64]) -> Operand {
    Operand::Fixed(Tensor::from_ints(ints))
}
