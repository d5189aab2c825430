//! Channels that go while the model is trained, some at a time: what is left for the training behind the pass. Each time it is
//! looked at anew which are missed least.

use super::{Prune, Schedule};
use crate::ir::Model;
use crate::pass::{Context, Cuts, PassError};
use crate::passes::until::{UNTIL, check_until};

/// What there was of all that a cut is counted in before the first of several, and how much of the cut is made behind this one.
#[derive(Clone, Copy)]
pub struct Progress {
    pub whole: f64,
    pub share: f64,
}

impl Progress {
    /// The share to cut of what there is `now`, where `all` is the share of the whole that goes in the end.
    pub fn next(self, all: f64, now: f64) -> f64 {
        1.0 - (1.0 - self.share * all) * self.whole / now
    }
}

impl Prune {
    /// Refuses what does not go together with the schedule.
    pub(super) fn check_schedule(&self) -> Result<(), PassError> {
        check_until(self.until, self.schedule == Schedule::Gradual)?;
        if self.schedule == Schedule::Once {
            return Ok(());
        }
        let others = [
            (self.latency.is_some(), "`latency`"),
            (self.depth.is_some(), "`depth`"),
            (self.vocabulary.is_some(), "`vocabulary`"),
            (self.rewind.is_some(), "`rewind`"),
            (self.reconstruct, "`reconstruct`"),
            (self.reconstructs(), "`criterion=obs`"),
        ];
        match others.into_iter().find(|(given, _)| *given) {
            None => Ok(()),
            Some((_, what)) => Err(PassError(format!(
                "{what} is for a cut at once, and not for `schedule=gradual`, which cuts channels while `distill` trains"
            ))),
        }
    }

    /// Leaves it to the training behind this pass to cut.
    pub(super) fn leave(&self, model: &Model, cx: &mut Context) -> Result<(), PassError> {
        let found = self.find(model)?;
        found.tell(cx);
        if found.groups.members.is_empty() {
            return Ok(());
        }
        let amount = self.amount(None)?.expect("a share was given");
        let whole = found.left(amount, &found.none());
        cx.note("they are cut step by step while `distill` trains");
        let pass = self.clone();
        cx.cuts = Some(Cuts {
            until: self.until.unwrap_or(UNTIL),
            cut: Box::new(move |model, share, cx| pass.cut(model, Some(Progress { whole, share }), cx).map(|_| ())),
        });
        Ok(())
    }
}
