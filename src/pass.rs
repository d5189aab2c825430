//! Passes, and the pipelines that run them.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use crate::ir::Model;
use crate::rewrite::{Outcome, Rules};

/// A transformation of a whole model. Its fields are its options.
pub trait Pass {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError>;

    fn effect(&self) -> Effect {
        Effect::Exact
    }
}

/// Whether a pass keeps what the model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Exact,
    Lossy,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PassError(pub String);

/// An entry of the pass table: how a pass is named, explained and made from its options.
pub struct PassInfo {
    pub name: &'static str,
    pub summary: &'static str,
    pub make: MakePass,
    pub schema: fn() -> schemars::Schema,
}

type MakePass = fn(Map<String, Json>) -> serde_json::Result<Box<dyn Pass>>;

impl PassInfo {
    pub const fn of<P>(name: &'static str, summary: &'static str) -> PassInfo
    where
        P: Pass + DeserializeOwned + Serialize + JsonSchema + 'static,
    {
        PassInfo {
            name,
            summary,
            make: |options| Ok(Box::new(serde_json::from_value::<P>(Json::Object(options))?)),
            schema: || schemars::schema_for!(P),
        }
    }
}

/// What a pass may use besides the model.
#[derive(Default)]
pub struct Context {
    pub seed: u64,
    pub outcomes: Vec<Outcome>,
}

impl Context {
    pub fn report(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Applies `rules` and reports what came of it.
    pub fn apply(&mut self, model: &mut Model, rules: Rules) {
        let outcome = rules.apply(model);
        self.report(outcome);
    }
}
