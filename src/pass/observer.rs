//! Watchers of the loop that runs passes.

use std::ops::ControlFlow;

use super::{PassError, Step};
use crate::ir::Model;

/// Told before and after every run of a pass.
pub trait Observer {
    /// `Break` ends the pipeline before this pass.
    fn before(&mut self, _pass: &Step, _model: &Model) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A long pass has done so many of `total` parts of its work; `text` tells what came of them.
    fn progress(&mut self, _done: usize, _total: usize, _text: &str) {}

    /// `changed` tells whether this run edited the model.
    fn after(&mut self, _pass: &Step, _changed: bool, _model: &Model) -> Result<(), PassError> {
        Ok(())
    }
}

/// Checks the invariants of the model after every pass that changed it.
pub struct Verify;

impl Observer for Verify {
    fn after(&mut self, _: &Step, changed: bool, model: &Model) -> Result<(), PassError> {
        match changed {
            true => model.verify().map_err(|error| PassError(format!("it left the model malformed: {error}"))),
            false => Ok(()),
        }
    }
}

/// Ends the pipeline after so many runs of passes; halving the number finds the one that does harm.
pub struct StopAfter(pub usize);

impl Observer for StopAfter {
    fn before(&mut self, _: &Step, _: &Model) -> ControlFlow<()> {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }
}

/// Hands the model to `print` after each run of the named passes.
pub struct PrintAfter<F: FnMut(&Step, &Model)> {
    pub passes: Vec<String>,
    pub print: F,
}

impl<F: FnMut(&Step, &Model)> Observer for PrintAfter<F> {
    fn after(&mut self, pass: &Step, _: bool, model: &Model) -> Result<(), PassError> {
        if self.passes.iter().any(|name| name == pass.name()) {
            (self.print)(pass, model);
        }
        Ok(())
    }
}
