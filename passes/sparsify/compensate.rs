//! Weights that go one input after the other, while the others of their outputs make up for it: SparseGPT (Frantar and
//! Alistarh, 2023), layer after layer.
//!
//! The model and its sparse draft run side by side, a stretch of nodes at a time. A layer is first fitted to what it reads
//! behind sparse layers; then its weights go, those first whose loss w² / (Uₖₖ)² does the least to its outputs.

use std::collections::HashSet;
use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

use super::failed;
use super::score::Subject;
use super::select::{Amount, Pattern, least};
use crate::data::{Dataset, Random};
use crate::ir::{Model, Tensor};
use crate::measure::{Moments, Stepwise, SurveyError};
use crate::pass::PassError;
use crate::passes::quantize::{Change, Sweep, refitted_where_better};

/// Bytes of values that are kept of all samples together, in one of the models; of more samples, some are taken.
const BYTES_KEPT: usize = 384 << 20;

/// So many samples are taken in any case.
const FEWEST: usize = 16;

/// Columns among which a share of the weights goes.
const BLOCK: usize = 128;

/// The sparse matrices of all weights. `columns` are those of the groups of a pattern, of each weight.
pub fn sparsified(
    subject: Subject,
    amount: Amount,
    columns: &[Vec<usize>],
    data: &Dataset,
) -> Result<Vec<Array2<f32>>, PassError> {
    let Subject { model, weights, reads, seed, watch, .. } = subject;
    if data.is_empty() {
        return Err(failed(SurveyError::NoSamples));
    }
    let count = (BYTES_KEPT / Stepwise::bytes_kept(model, &data.sample(0)).max(1)).max(FEWEST);
    let data = &data.some(seed, count);
    let mut draft: Model = model.clone();
    let [mut exact, mut sparse] = [(); 2].map(|()| Stepwise::new(data));
    let nothing = HashSet::new();
    let mut made = Vec::new();
    for (index, weight) in weights.iter().enumerate() {
        exact.advance(model, weight.node, &nothing, watch).map_err(failed)?;
        sparse.advance(&draft, weight.node, &nothing, watch).map_err(failed)?;
        let pairs = (0..data.len()).into_par_iter().map(|sample| {
            let rows =
                |tensor: Option<Tensor>| reads[index].rows(&tensor?, data.len(), &mut Random::new(seed, sample as u64));
            let x = rows(exact.tensor(model, sample, weight.x))?;
            let left = rows(sparse.tensor(&draft, sample, weight.x))?;
            (x.dim() == left.dim()).then_some([x, left])
        });
        let unseen = || PassError(format!("nothing is known of what {} reads", model.label(weight.node)));
        let pairs: Vec<_> = pairs.collect::<Option<_>>().ok_or_else(unseen)?;
        let matrix = weight.matrix(model.constant(weight.value).expect("weights are constants"));
        let (moments, fitted) = refitted_where_better(&matrix, pairs, false);
        let each = fitted.nrows() / moments.len().max(1);
        let parts = moments.par_iter().enumerate().map(|(group, moments)| {
            let rows = fitted.slice(s![group * each..(group + 1) * each, ..]);
            compensated(rows, &moments.rows, amount, &columns[index])
        });
        let parts: Vec<Array2<f32>> = parts.collect();
        let parts: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let matrix = concatenate(Axis(0), &parts).map_err(failed)?;
        draft.set_constant(weight.value, weight.tensor(&matrix));
        made.push(matrix);
    }
    Ok(made)
}

/// Weights of which some went, for inputs with these moments. Where nothing is known of the inputs, small ones go.
fn compensated(weights: ArrayView2<f32>, inputs: &Moments, amount: Amount, columns: &[usize]) -> Array2<f32> {
    let sweep = match amount {
        Amount::Share(_) => Sweep::new(&inputs.gram, (0..weights.ncols()).collect(), BLOCK),
        // Groups do not lie across the end of a block.
        Amount::Pattern(pattern) => Sweep::new(&inputs.gram, columns.to_vec(), BLOCK / pattern.of * pattern.of),
    };
    match (sweep, amount) {
        (Some(sweep), Amount::Share(share)) => sweep.run(weights, &mut Unstructured::new(share)),
        (Some(sweep), Amount::Pattern(pattern)) => sweep.run(weights, &mut Grouped(pattern)),
        (None, _) => {
            let removed = amount.removed(&weights.mapv(f32::abs), columns);
            Array2::from_shape_fn(weights.dim(), |at| if removed[at] { 0.0 } else { weights[at] })
        }
    }
}

/// A share of the weights of each block.
struct Unstructured {
    share: f64,
    /// The block: its first column, how many it has, and which of its weights go.
    first: usize,
    width: usize,
    removed: Vec<bool>,
}

impl Unstructured {
    fn new(share: f64) -> Unstructured {
        Unstructured { share, first: 0, width: 0, removed: Vec::new() }
    }
}

impl Change for Unstructured {
    type Row = ();

    fn begin(&mut self, block: Range<usize>, weights: ArrayView2<f32>, roots: &[f32]) {
        let losses: Vec<f32> = weights.indexed_iter().map(|((_, k), &w)| loss(w, roots[k])).collect();
        (self.first, self.width) = (block.start, block.len());
        self.removed = least(&[&losses], self.share).remove(0);
    }

    fn change(&self, row: usize, column: usize, ahead: &[f32], _: &[f32], _: &mut ()) -> f32 {
        if self.removed[row * self.width + column - self.first] { 0.0 } else { ahead[0] }
    }
}

/// Some of each group of columns.
struct Grouped(Pattern);

impl Change for Grouped {
    /// Which weights of the group stay.
    type Row = u64;

    fn change(&self, _: usize, column: usize, ahead: &[f32], roots: &[f32], staying: &mut u64) -> f32 {
        let place = column % self.0.of;
        if place == 0 {
            let losses = ahead.iter().zip(roots).take(self.0.of).map(|(&w, &u)| loss(w, u));
            *staying = self.0.staying(&losses.collect::<Vec<f32>>());
        }
        if *staying & 1 << place == 0 { 0.0 } else { ahead[0] }
    }
}

/// What the outputs lose with a weight: w² / Uₖₖ².
fn loss(w: f32, u: f32) -> f32 {
    (w / u).powi(2)
}
