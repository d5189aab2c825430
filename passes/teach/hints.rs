//! Hints: what lies inside of the teacher is learned, too.
//!
//! A value of the student comes near to one of the teacher (FitNets: Romero and others, 2015), through a learned projection
//! where their widths differ; or the places that both attend to are alike (Zagoruyko and Komodakis, 2017).

use super::matching::{Pair, pairs};
use super::projection::Projection;
use crate::ir::op::{Add, Div, Flatten, Mul, ReduceSum, Sqrt};
use crate::ir::{Model, Tensor, ValueId};
use crate::pass::PassError;
use crate::train::lessons::Answer;
use crate::train::{Goal, Loss, Weight};

/// Two values that are to be alike.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::passes) struct Hint {
    /// In the student and in the teacher; none where the shape of the other tells.
    pub names: [Option<String>; 2],
    /// Whether one name is given for both, of which one may lack it.
    pub is_shared: bool,
    pub weight: f64,
    /// Whether only where the values are large counts, summed over channels.
    pub attention: bool,
}

impl Hint {
    /// `student=teacher`, of which one may be left out, or a name that both models have, or one of them.
    pub fn parse(text: &str, weight: f64, attention: bool) -> Hint {
        let (student, teacher) = text.split_once('=').unwrap_or((text, text));
        let name = |text: &str| Some(text.trim().to_string()).filter(|name| !name.is_empty());
        Hint { names: [name(student), name(teacher)], is_shared: !text.contains('='), weight, attention }
    }
}

/// What keeps the norm of a map of zeros from dividing by zero.
const NORM: f32 = 1e-12;

/// What is added to a student while it learns: values that nothing reads, computed for hints alone.
#[derive(Default)]
pub(super) struct Scaffold {
    values: Vec<ValueId>,
    /// They are trained.
    projections: Vec<Projection>,
    /// What was matched with what by shape.
    pub notes: Vec<String>,
}

impl Scaffold {
    /// Adds to both models what their values are compared by. Returns what is judged, and the teacher's value for it.
    pub fn build(
        hints: &[Hint],
        student: &mut Model,
        teacher: &mut Model,
        samples: &[Vec<Tensor>; 2],
    ) -> Result<(Scaffold, Vec<(Goal, ValueId)>), PassError> {
        let (mut scaffold, mut goals) = (Scaffold::default(), Vec::new());
        if hints.is_empty() {
            return Ok((scaffold, goals));
        }
        let pairs = pairs(hints, [student, teacher], samples)?;
        for (place, (hint, Pair { values: [value, wanted], shapes: [from, to], note })) in
            hints.iter().zip(&pairs).enumerate()
        {
            let (value, wanted) = (*value, *wanted);
            let names = [&student.value(value).name, &teacher.value(wanted).name].map(String::clone);
            let unlike = |why: &str| {
                let [student, teacher] = &names;
                PassError(format!("`{student}` {from:?} cannot be like the teacher's `{teacher}` {to:?}: {why}"))
            };
            scaffold.notes.extend(note.clone());
            let (value, wanted) = if hint.attention {
                if from.len() != 4 || to.len() != 4 || from[2..] != to[2..] {
                    return Err(unlike("attention is compared between images of one size, [N, C, H, W]"));
                }
                (scaffold.attention(student, value), Scaffold::default().attention(teacher, wanted))
            } else if from == to {
                (value, wanted)
            } else {
                let axis = if from.len() == 4 { 1 } else { from.len().saturating_sub(1) };
                let others = |shape: &[usize]| [&shape[..axis], &shape[axis + 1..]].concat();
                if from.len() < 2 || from.len() != to.len() || others(from) != others(to) {
                    return Err(unlike("they differ in more than their width"));
                }
                (scaffold.projected(student, value, axis, [from, to], place), wanted)
            };
            goals.push((Goal { value, loss: Loss::MeanSquare, weight: hint.weight as f32 }, wanted));
        }
        Ok((scaffold, goals))
    }

    /// The sum of squares over channels, `[N, H·W]`, of the norm 1.
    fn attention(&mut self, model: &mut Model, x: ValueId) -> ValueId {
        let main = model.main;
        let axes = model.add_constant(main, "hint.channels", Tensor::from_ints(&[1]));
        let tiny = model.add_constant(main, "hint.tiny", Tensor::scalar(NORM));
        let sum = |x: ValueId, keepdims: i64| ReduceSum { x, axes: Some(axes), keepdims, noop_with_empty_axes: 0 };
        let squares = model.append(main, "hint.squares", Mul { a: x, b: x });
        let map = model.append(main, "hint.map", sum(squares, 0));
        let map = model.append(main, "hint.row", Flatten { x: map, axis: 1 });
        let squares = model.append(main, "hint.squares", Mul { a: map, b: map });
        let norm = model.append(main, "hint.norm", sum(squares, 1));
        let norm = model.append(main, "hint.norm", Add { a: norm, b: tiny });
        let norm = model.append(main, "hint.norm", Sqrt { x: norm });
        let value = model.append(main, "hint.attention", Div { a: map, b: norm });
        self.values.push(value);
        value
    }

    /// From one shape to the other, which differ along `axis`.
    fn projected(&mut self, model: &mut Model, x: ValueId, axis: usize, shapes: [&[usize]; 2], hint: usize) -> ValueId {
        let is_image = shapes[0].len() == 4;
        let (projection, value) = Projection::append(model, x, axis, shapes.map(|shape| shape[axis]), is_image, hint);
        self.projections.push(projection);
        self.values.push(value);
        value
    }

    /// Lets projections start where they fit best to what is `wanted` of each hint, sample after sample.
    pub fn fit(
        &self,
        model: &mut Model,
        inputs: &[Vec<Tensor>],
        learned: &[usize],
        wanted: &[Answer],
    ) -> Result<(), PassError> {
        Projection::fit(&self.projections, model, inputs, learned, wanted)
    }

    pub fn weights(&self) -> impl Iterator<Item = Weight> {
        self.projections.iter().flat_map(Projection::weights)
    }

    /// Takes it off again, with the constants that nothing else reads.
    pub fn remove(self, model: &mut Model) {
        for value in self.values {
            model.sweep(model.producer(value).expect("it was added as a node"));
        }
    }
}
