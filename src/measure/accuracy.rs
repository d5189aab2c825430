//! Which answers are right.

use std::ops::Range;

use serde::Serialize;

use super::agreement::{argmax, split_rows};
use super::ctc::{Charset, edit_distance};
use super::interval::Interval;
use crate::data::Labels;
use crate::ir::{Model, Tensor};

/// The share of right answers of both models.
#[derive(Clone, Debug, Serialize)]
pub struct Accuracy {
    pub metric: Metric,
    pub original: f64,
    pub small: f64,
    /// What is lost: original minus small.
    pub drop: f64,
    /// Where the drop lies with a confidence of 95 %, as far as the samples tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    pub samples: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The largest score is that of the right class, or of one of the accepted.
    Top1,
    /// The share of positions with the right class.
    Positions,
    /// Whole texts that are read without a mistake.
    ExactText,
    /// One minus mistakes over characters.
    Characters,
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Metric::Top1 => "top-1 accuracy",
            Metric::Positions => "accuracy by position",
            Metric::ExactText => "exact texts",
            Metric::Characters => "right characters",
        })
    }
}

/// The labels in use, the most telling kind first: text, accepted classes, classes.
pub struct Judge<'a> {
    labels: &'a Labels,
    charset: Option<Charset>,
}

/// What was right, sample by sample: of the original and of the small model.
#[derive(Default)]
pub struct Verdicts {
    metric: Option<Metric>,
    right: Vec<(f64, f64)>,
    /// Mistakes in characters of both, and the characters there are.
    characters: Vec<(usize, usize, usize)>,
}

impl<'a> Judge<'a> {
    pub fn of(original: &Model, labels: &'a Labels) -> Judge<'a> {
        Judge { labels, charset: Charset::of(original).filter(|_| labels.text.is_some()) }
    }

    /// Judges the rows of one sample. `labels` are the rows of the labels that belong to it.
    pub fn verdicts(&self, original: &Tensor, small: &Tensor, labels: Range<usize>) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let (rows, row_shape) = split_rows(original.shape(), labels.len());
        let (Some(a), Some(b)) = (original.floats(), small.floats()) else { return verdicts };
        if rows != labels.len() || row_shape.iter().product::<usize>() < 2 {
            return verdicts;
        }
        let width = a.len() / rows;
        for (index, (a, b)) in labels.zip(a.chunks(width).zip(b.chunks(width))) {
            verdicts.add(self.row([a, b], row_shape, index));
        }
        verdicts
    }

    fn row(&self, scores: [&[f32]; 2], shape: &[usize], index: usize) -> Option<(Metric, [f64; 2], Option<Mistakes>)> {
        let Labels { classes, accepted, text } = self.labels;
        let share = |right: bool| f64::from(u8::from(right));
        if let (Some(text), Some(charset), [_, classes]) = (text, &self.charset, shape) {
            let wanted = text.row(index)[0].trim();
            let read = scores.map(|scores| charset.decode(scores, *classes));
            let mistakes = read.each_ref().map(|read| edit_distance(read, wanted));
            let right = read.map(|read| share(read == wanted));
            return Some((Metric::ExactText, right, Some((mistakes, wanted.chars().count()))));
        }
        let best = scores.map(|scores| argmax(scores) as i64);
        if let Some(accepted) = accepted {
            return Some((Metric::Top1, best.map(|best| share(accepted.row(index).contains(&best))), None));
        }
        let wanted = classes.as_ref()?.row(index);
        if let [class] = wanted {
            return Some((Metric::Top1, best.map(|best| share(best == *class)), None));
        }
        let classes = positions(shape, wanted.len())?;
        Some((Metric::Positions, scores.map(|scores| right_positions(scores, classes, wanted)), None))
    }

    /// Labels that could not be used, and why.
    pub fn warnings(&self, verdicts: &Verdicts) -> Option<String> {
        let unused = verdicts.metric.is_none() && !self.labels.is_empty();
        let text = self.labels.text.is_some() && self.charset.is_none();
        let reason = match (unused, text) {
            (_, true) => "`text` is not used: the model has no characters in its metadata key `character`",
            (true, _) => "the labels do not fit the model's first float output and are not used",
            _ => return None,
        };
        Some(reason.into())
    }
}

type Mistakes = ([usize; 2], usize);

/// Where the classes of one position lie.
#[derive(Clone, Copy)]
enum Classes {
    /// Next to each other, so many a position.
    Last(usize),
    /// One position after the other for each class.
    First,
}

/// How a row of this shape holds scores for so many positions.
fn positions(shape: &[usize], count: usize) -> Option<Classes> {
    let elements: usize = shape.iter().product();
    let classes = elements / count.max(1);
    match shape {
        _ if classes * count != elements => None,
        [.., last] if *last == classes => Some(Classes::Last(classes)),
        [first, ..] if *first == classes => Some(Classes::First),
        _ => None,
    }
}

/// The share of positions where the largest score is that of the wanted class; negative classes do not count.
fn right_positions(scores: &[f32], classes: Classes, wanted: &[i64]) -> f64 {
    let best = |position: usize| match classes {
        Classes::Last(n) => argmax(&scores[position * n..][..n]),
        Classes::First => argmax(&scores.iter().skip(position).step_by(wanted.len()).copied().collect::<Vec<_>>()),
    };
    let counted = wanted.iter().enumerate().filter(|(_, class)| **class >= 0);
    let (all, right) = counted.fold((0, 0), |(all, right), (position, &class)| {
        (all + 1, right + usize::from(best(position) as i64 == class))
    });
    right as f64 / f64::from(all.max(1))
}

impl Verdicts {
    fn add(&mut self, verdict: Option<(Metric, [f64; 2], Option<Mistakes>)>) {
        let Some((metric, [original, small], mistakes)) = verdict else { return };
        self.metric = Some(metric);
        self.right.push((original, small));
        self.characters.extend(mistakes.map(|([a, b], characters)| (a, b, characters)));
    }

    pub fn extend(&mut self, other: Verdicts) {
        self.metric = self.metric.or(other.metric);
        self.right.extend(other.right);
        self.characters.extend(other.characters);
    }

    pub fn accuracy(&self) -> Vec<Accuracy> {
        let Some(metric) = self.metric else { return Vec::new() };
        let n = self.right.len() as f64;
        let original = self.right.iter().map(|pair| pair.0).sum::<f64>() / n;
        let small = self.right.iter().map(|pair| pair.1).sum::<f64>() / n;
        let interval = Interval::of_drop(&self.right);
        let samples = self.right.len();
        let mut all = vec![Accuracy { metric, original, small, drop: original - small, interval, samples }];
        let characters: usize = self.characters.iter().map(|(_, _, n)| n).sum();
        if characters > 0 {
            let share = |mistakes: usize| 1.0 - mistakes as f64 / characters as f64;
            let original = share(self.characters.iter().map(|(a, _, _)| a).sum());
            let small = share(self.characters.iter().map(|(_, b, _)| b).sum());
            let (metric, drop) = (Metric::Characters, original - small);
            all.push(Accuracy { metric, original, small, drop, interval: None, samples });
        }
        all
    }
}
