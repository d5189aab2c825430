//! How close two outputs are.

use serde::Serialize;

use crate::ir::Tensor;

/// One output over all rows of all samples.
#[derive(Clone, Debug, Serialize)]
pub struct OutputAgreement {
    pub output: String,
    #[serde(flatten)]
    pub closeness: Closeness,
}

/// In each of these, a value that is finite in one model only makes the row the worst there can be: cosine 0, an error
/// without bounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "compared", rename_all = "kebab-case")]
pub enum Closeness {
    Floats {
        /// The mean cosine of the angle between both outputs of a row.
        cosine: f64,
        cosine_min: f64,
        /// Power of the original over power of the difference, over all rows. Equal outputs have no power of noise,
        /// which counts as 1e-30.
        sqnr_db: f64,
        /// The largest difference over the range of the original's values.
        max_error: f64,
        /// The share of positions with their largest value in the same place of the last axis; none where that axis has
        /// one place only.
        #[serde(skip_serializing_if = "Option::is_none")]
        agreement: Option<f64>,
        /// Whether all elements are equal.
        identical: bool,
    },
    /// Integers, booleans and strings.
    Exactly {
        /// The share of equal elements.
        equal: f64,
        differing: usize,
        identical: bool,
    },
}

impl Closeness {
    pub fn identical(&self) -> bool {
        match *self {
            Closeness::Floats { identical, .. } | Closeness::Exactly { identical, .. } => identical,
        }
    }
}

/// One row of one output.
#[derive(Clone, Debug)]
pub enum RowAgreement {
    Floats(FloatRow),
    Exactly { equal: usize, elements: usize },
}

#[derive(Clone, Debug)]
pub struct FloatRow {
    dot: f64,
    original: f64,
    small: f64,
    difference: f64,
    largest: f64,
    min: f64,
    max: f64,
    agreement: Option<f64>,
    /// Whether a value is finite in one model only.
    broken: bool,
}

/// Compares outputs of the same shape row by row: the first axis counts rows where it is as long as the batch.
pub fn compare_rows(original: &Tensor, small: &Tensor, batch: usize) -> Vec<RowAgreement> {
    let (rows, row_shape) = split_rows(original.shape(), batch);
    match (original.floats(), small.floats()) {
        (Some(a), Some(b)) => {
            let width = (a.len() / rows).max(1);
            let rows = a.chunks(width).zip(b.chunks(width));
            rows.map(|(a, b)| RowAgreement::Floats(FloatRow::of(a, b, row_shape.last().copied()))).collect()
        }
        _ => {
            let (equal, elements) = (count_equal(original, small), original.len());
            vec![RowAgreement::Exactly { equal, elements }]
        }
    }
}

/// The number of rows in an output of this shape, and the shape of each.
pub fn split_rows(shape: &[usize], batch: usize) -> (usize, &[usize]) {
    match shape {
        [first, rest @ ..] if *first == batch => (batch, rest),
        _ => (1, shape),
    }
}

fn count_equal(a: &Tensor, b: &Tensor) -> usize {
    let size = (a.dtype().bits() / 8).max(1);
    match (a.bytes(), b.bytes()) {
        (Some(a), Some(b)) => a.chunks(size).zip(b.chunks(size)).filter(|(a, b)| a == b).count(),
        _ => std::iter::zip(a.strings().unwrap_or_default(), b.strings().unwrap_or_default())
            .filter(|(a, b)| a == b)
            .count(),
    }
}

impl FloatRow {
    fn of(a: &[f32], b: &[f32], last_axis: Option<usize>) -> FloatRow {
        let mut row = FloatRow {
            dot: 0.0,
            original: 0.0,
            small: 0.0,
            difference: 0.0,
            largest: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            agreement: None,
            broken: false,
        };
        for (&x, &y) in std::iter::zip(a, b) {
            if !(x.is_finite() && y.is_finite()) {
                row.broken |= !(x == y || x.is_nan() && y.is_nan());
                continue;
            }
            let (x, y) = (f64::from(x), f64::from(y));
            row.dot += x * y;
            row.original += x * x;
            row.small += y * y;
            row.difference += (x - y) * (x - y);
            row.largest = row.largest.max((x - y).abs());
            row.min = row.min.min(x);
            row.max = row.max.max(x);
        }
        row.agreement = last_axis.filter(|&n| n > 1).map(|n| {
            let same = a.chunks(n).zip(b.chunks(n)).filter(|(a, b)| argmax(a) == argmax(b)).count();
            same as f64 / (a.len() / n).max(1) as f64
        });
        row
    }

    fn cosine(&self) -> f64 {
        match () {
            () if self.broken => 0.0,
            () if self.original == 0.0 && self.small == 0.0 => 1.0,
            () => self.dot / (self.original.sqrt() * self.small.sqrt() + 1e-30),
        }
    }
}

/// The place of the largest element, the first of equals; NaN is larger than all.
pub fn argmax(x: &[f32]) -> usize {
    let larger = |best: usize, i: usize| x[i] > x[best] || x[i].is_nan() && !x[best].is_nan();
    (1..x.len()).fold(0, |best, i| if larger(best, i) { i } else { best })
}

impl OutputAgreement {
    pub(super) fn of(output: &str, rows: &[RowAgreement]) -> OutputAgreement {
        let floats: Vec<&FloatRow> =
            rows.iter().filter_map(|row| if let RowAgreement::Floats(row) = row { Some(row) } else { None }).collect();
        let closeness = if floats.is_empty() { exactly(rows) } else { close(&floats) };
        OutputAgreement { output: output.into(), closeness }
    }
}

fn exactly(rows: &[RowAgreement]) -> Closeness {
    let (mut equal, mut all) = (0, 0);
    for row in rows {
        if let RowAgreement::Exactly { equal: n, elements } = row {
            (equal, all) = (equal + n, all + elements);
        }
    }
    Closeness::Exactly { equal: equal as f64 / all.max(1) as f64, differing: all - equal, identical: equal == all }
}

fn close(rows: &[&FloatRow]) -> Closeness {
    let n = rows.len() as f64;
    let sum = |of: fn(&FloatRow) -> f64| rows.iter().map(|row| of(row)).sum::<f64>();
    let most = |of: fn(&FloatRow) -> f64| rows.iter().map(|row| of(row)).fold(f64::NEG_INFINITY, f64::max);
    let broken = rows.iter().any(|row| row.broken);
    let (signal, noise) = (sum(|row| row.original), sum(|row| row.difference));
    let (range, largest) = (most(|row| row.max) + most(|row| -row.min), most(|row| row.largest));
    let agreements: Option<Vec<f64>> = rows.iter().map(|row| row.agreement).collect();
    Closeness::Floats {
        cosine: sum(FloatRow::cosine) / n,
        cosine_min: -most(|row| -row.cosine()),
        sqnr_db: if broken { f64::NEG_INFINITY } else { 10.0 * (signal / noise.max(1e-30)).log10() },
        max_error: match largest {
            _ if broken => f64::INFINITY,
            0.0 => 0.0,
            _ => largest / if range > 0.0 { range } else { most(|row| row.max.abs()) },
        },
        agreement: agreements.map(|all| all.iter().sum::<f64>() / n),
        identical: noise == 0.0 && !broken,
    }
}
