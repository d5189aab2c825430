//! Passes, and the pipelines that run them.
//!
//! A pass is a struct whose fields are its options; [`PassInfo`] is its line in the table of passes. [`Pipeline`] is the
//! one loop that runs passes; whatever else is wanted (printing, verifying, progress) is an [`Observer`] of that loop.

mod context;
mod cuts;
mod notation;
mod observer;
mod pipeline;
mod table;

pub use context::{Context, Missed, PassReport};
pub use cuts::{Cuts, Cutting, Part};
pub use notation::NotationError;
pub use observer::{Observer, PrintAfter, StopAfter, Verify};
pub use pipeline::{Pipeline, PipelineError, Step, find};
pub use table::{PassInfo, PassKind, PassOption, passes};

use crate::ir::Model;

/// A transformation of a whole model. Its fields are its options.
pub trait Pass {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError>;

    /// Whether the options go together, asked before anything runs.
    fn check(&self) -> Result<(), PassError> {
        Ok(())
    }

    fn effect(&self) -> Effect {
        Effect::Exact
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    /// The pass that has to stand right behind this one, which leaves it something to do, and the option that says so.
    fn leads_to(&self) -> Option<(&'static str, &'static str)> {
        None
    }
}

/// Whether a pass keeps what the model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Exact,
    Lossy,
}

/// The data that a pass cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    Nothing,
    /// Inputs, if there are any.
    InputsIfAny,
    Inputs,
    Labels,
}

/// Why a pass could not do its work at all.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PassError(pub String);

/// The refusal of options that mean nothing.
pub fn refuse_unless(holds: bool, why: &str) -> Result<(), PassError> {
    if holds { Ok(()) } else { Err(PassError(why.into())) }
}
