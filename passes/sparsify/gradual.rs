//! Weights that become zero bit by bit while the model is trained: what is left for the training behind the pass.

use ndarray::Array2;
use rayon::prelude::*;

use super::select::{Amount, removed};
use super::weight::Weight;
use super::{Criterion, Found, Schedule, Sparsify, Store};
use crate::pass::{Context, PassError, refuse_unless};
use crate::passes::until::{UNTIL, check_until};
use crate::train::Ramp;

impl Sparsify {
    /// Refuses what does not go together with the schedule.
    pub(super) fn check_schedule(&self) -> Result<(), PassError> {
        check_until(self.until, self.schedule == Schedule::Gradual)?;
        if self.schedule == Schedule::Once {
            return Ok(());
        }
        refuse_unless(
            self.criterion == Criterion::Magnitude,
            "`schedule=gradual` looks at weights while they change: it is for `criterion=magnitude`",
        )?;
        refuse_unless(self.rewind.is_none(), "`rewind` is for weights that become zero at once")?;
        refuse_unless(
            self.store == Store::Dense,
            "`store=sparse` is for weights that become zero at once: store them in a pass behind",
        )
    }

    /// Leaves it to the training behind this pass to let weights become zero, of which `zeros` are already.
    pub(super) fn leave(&self, found: Found, zeros: usize, cx: &mut Context) -> Result<(), PassError> {
        let all: usize = found.weights.iter().map(|weight| weight.dim().0 * weight.dim().1).sum();
        let (amount, scope) = (self.amount()?, self.compared());
        let from = zeros as f64 / all.max(1) as f64;
        let to = match amount {
            Amount::Share(share) => share,
            Amount::Pattern(pattern) => 1.0 - pattern.stay as f64 / pattern.of as f64,
        };
        cx.note(format!(
            "{:.1} % of {all} weights of {} layers become zero while `distill` trains; {:.1} % are",
            100.0 * to,
            found.weights.len(),
            100.0 * from
        ));
        cx.ramp = Some(Ramp {
            values: found.weights.iter().map(|weight| weight.value).collect(),
            from,
            to,
            until: self.until.unwrap_or(UNTIL),
            identity: serde_json::to_string(self).expect("options are plain data"),
            removed: Box::new(move |weights, share| {
                let sizes = |(weight, floats): (&Weight, &&[f32])| weight.rows(floats).mapv_into(f32::abs);
                let sizes: Vec<Array2<f32>> = found.weights.par_iter().zip(weights).map(sizes).collect();
                let chosen = match amount {
                    Amount::Share(_) => removed(scope, Amount::Share(share), &sizes, &found.columns),
                    Amount::Pattern(_) => first_of_pattern(amount, share, sizes, &found.columns),
                };
                let lying = |(weight, chosen): (&Weight, Vec<bool>)| {
                    weight.elements(&Array2::from_shape_vec(weight.dim(), chosen).expect("it has as many elements"))
                };
                found.weights.par_iter().zip(chosen).map(lying).collect()
            }),
        });
        Ok(())
    }
}

/// Of the weights of each matrix that go by the pattern the smallest, as many as are a share of all.
fn first_of_pattern(pattern: Amount, share: f64, sizes: Vec<Array2<f32>>, columns: &[Vec<usize>]) -> Vec<Vec<bool>> {
    let first = |(mut sizes, columns): (Array2<f32>, &Vec<usize>)| {
        let goes = pattern.removed(&sizes, columns);
        sizes.zip_mut_with(&goes, |size, &goes| *size = if goes { *size } else { f32::INFINITY });
        Amount::Share(share).removed(&sizes, columns).into_iter().collect()
    };
    sizes.into_par_iter().zip(columns).map(first).collect()
}
