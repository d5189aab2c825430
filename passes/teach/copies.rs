//! Samples to learn from: those that are given, and changed copies of them.

use rayon::prelude::*;

use super::augment::Changes;
use crate::data::Dataset;
use crate::ir::{Model, Tensor};
use crate::pass::PassError;
use crate::train::augment::Drawn;

pub(super) struct Samples {
    /// In the order of the model's inputs: all that are given, and behind them the copies.
    pub inputs: Vec<Vec<Tensor>>,
    /// The classes of each; negative where they are not known.
    pub labels: Option<Vec<Vec<i64>>>,
}

impl Samples {
    /// The samples of `data`, which are for `model`, with so many changed copies of each that is `learned` from.
    pub fn new(
        data: &Dataset,
        model: &Model,
        changes: &Changes,
        copies: usize,
        learned: &[usize],
        seed: u64,
    ) -> Result<Samples, PassError> {
        let mut inputs: Vec<Vec<Tensor>> = (0..data.len()).map(|index| data.sample(index)).collect();
        let mut labels = data.classes();
        let augmentation = match copies {
            0 => None,
            _ => changes.augmentation(model, &inputs[0], learned, seed)?,
        };
        let Some(augmentation) = augmentation else { return Ok(Samples { inputs, labels }) };
        for copy in 0..copies {
            let draw = |&index: &usize| augmentation.draw(copy, index, |index| &inputs[index]);
            let drawn: Vec<Drawn> = learned.par_iter().map(draw).collect();
            if let Some(labels) = &mut labels {
                let of = |(&index, drawn): (&usize, &Drawn)| match drawn.is_spliced {
                    true => vec![-1; labels[index].len()],
                    false => labels[index].clone(),
                };
                let copied: Vec<Vec<i64>> = learned.iter().zip(&drawn).map(of).collect();
                labels.extend(copied);
            }
            inputs.extend(drawn.into_iter().map(|drawn| drawn.inputs));
        }
        Ok(Samples { inputs, labels })
    }
}
