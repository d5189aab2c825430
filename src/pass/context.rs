//! What a pass may use besides the model, and what it tells.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value as Json;

use super::{Cuts, Observer};
use crate::analysis::Shapes;
use crate::data::Dataset;
use crate::ir::{Model, NodeId};
use crate::measure::Profile;
use crate::rewrite::{Miss, Outcome, Rules};
use crate::train::Ramp;

/// What a pass may use besides the model.
#[derive(Default)]
pub struct Context {
    pub seed: u64,
    /// Samples that passes may learn from; those that judge are not among them.
    pub data: Option<Dataset>,
    /// What the user gave to shrink; samples are in the order of its inputs.
    pub original: Option<Arc<Model>>,
    /// What the pipeline's model learns from, where it is not the original.
    pub teacher: Option<Arc<Model>>,
    /// Keep the name of every node where a rule did not apply, not only one for each reason.
    pub explain: bool,
    /// What the running pass has told so far.
    pub outcomes: Vec<Outcome>,
    /// Sentences of the running pass for the user.
    pub notes: Vec<String>,
    /// The last training step that a pass made, as a model of its own, where the user wants it.
    pub training_graph: Option<Model>,
    pub wants_training_graph: bool,
    /// The same of the time of its nodes.
    pub training_step: Option<Profile>,
    pub wants_profile: bool,
    /// Weights that are to become zero in the training behind the pass that left this.
    pub ramp: Option<Ramp>,
    /// Cuts that are to be made in that training.
    pub cuts: Option<Cuts>,
    /// What the running pass tells step by step, for the report: one entry an epoch, say.
    pub log: Vec<Json>,
    /// What came of each pass of the pipeline, in the order they first ran.
    pub reports: Vec<PassReport>,
    /// Told before and after every pass.
    pub observers: Vec<Box<dyn Observer>>,
    /// Set from outside to end the pipeline before its next pass.
    pub cancelled: Arc<AtomicBool>,
    /// A folder where passes that train can go on after the program was killed.
    pub checkpoints: Option<PathBuf>,
    /// Set from outside to end the running pass with what it has, where it can.
    pub finish: Arc<AtomicBool>,
    /// The last inference, and the revision of the model that it saw.
    pub inferred: Option<(u64, Rc<Shapes>)>,
}

impl Context {
    /// Types and shapes of the pipeline's model, inferred again only where it has changed.
    pub fn shapes(&mut self, model: &Model) -> Rc<Shapes> {
        let fresh = self.inferred.take().filter(|(revision, _)| *revision == model.revision());
        let (_, shapes) = fresh.unwrap_or_else(|| (model.revision(), Rc::new(Shapes::infer(model))));
        self.inferred = Some((model.revision(), shapes.clone()));
        shapes
    }

    pub fn report(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Applies `rules` and reports what came of it.
    pub fn apply(&mut self, model: &mut Model, rules: Rules) {
        let known = self.inferred.take().filter(|(revision, _)| *revision == model.revision());
        let (revision, shapes) = (model.revision(), OnceCell::new());
        let _ = known.map(|(_, known)| shapes.set(known));
        let outcome = rules.apply(model, &shapes);
        self.inferred = shapes.into_inner().map(|shapes| (revision, shapes));
        self.report(outcome);
    }

    /// Reports that a pass without rules did `what` so many times.
    pub fn applied(&mut self, what: &'static str, times: usize) {
        self.report(Outcome { applied: BTreeMap::from([(what, times)]), ..Outcome::default() });
    }

    /// Reports that a pass without rules did not do `what` at `node`.
    pub fn missed(&mut self, what: &'static str, node: NodeId, why: Miss) {
        self.report(Outcome { missed: BTreeMap::from([((what, node), why)]), ..Outcome::default() });
    }

    /// Tells the user something about this run of the pass.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Tells observers how far the running pass is.
    pub fn progress(&mut self, done: usize, total: usize, text: &str) {
        self.observers.iter_mut().for_each(|observer| observer.progress(done, total, text));
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// What came of one pass, over all its runs.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PassReport {
    /// The pass as the pipeline has it, with the options that are not at their defaults.
    pub pass: String,
    /// What the pass is there for.
    pub summary: String,
    /// Whether nobody asked for it by its name: it belongs to a group, or the flow put it in front.
    pub implied: bool,
    pub runs: usize,
    /// Whether any run changed the model.
    pub changed: bool,
    /// How often each rule applied.
    pub applied: BTreeMap<String, usize>,
    /// Where rules did not apply, as the last run left it.
    pub missed: Vec<Missed>,
    pub notes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<Json>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
}

/// Nodes where a rule did not apply, for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missed {
    pub rule: String,
    pub reason: String,
    pub count: usize,
    /// The nodes' labels: one of them, or all under [`Context::explain`].
    pub nodes: Vec<String>,
}

fn seconds<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}

impl PassReport {
    pub(super) fn add_run(&mut self, outcomes: Vec<Outcome>, notes: Vec<String>, model: &Model, explain: bool) {
        self.runs += 1;
        let mut missed: BTreeMap<(&str, &str), Missed> = BTreeMap::new();
        for outcome in outcomes {
            for (rule, times) in outcome.applied.into_iter().filter(|(_, times)| *times > 0) {
                *self.applied.entry(rule.into()).or_default() += times;
            }
            for ((rule, node), miss) in outcome.missed.into_iter().filter(|((_, node), _)| model.is_live(*node)) {
                let entry = missed.entry((rule, miss.0)).or_insert_with(|| Missed {
                    rule: rule.into(),
                    reason: miss.0.into(),
                    count: 0,
                    nodes: Vec::new(),
                });
                entry.count += 1;
                if explain || entry.nodes.is_empty() {
                    entry.nodes.push(model.label(node));
                }
            }
        }
        self.missed = missed.into_values().collect();
        for note in notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
    }
}
