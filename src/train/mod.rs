//! Trains models on their own graph.
//!
//! - [`gradient`] appends the backward direction to a model.
//! - [`weights`] tells which constants are trained.
//! - [`loss`] writes what is made small, and [`joint`] the graph of a whole step, which runs in the one runtime.
//! - [`batch`] lets a model take any number of samples.
//! - [`lessons`] are samples with what is wanted of them, labels or what a teacher says, its [`answers`]; [`augment`] changes
//!   them at random.
//! - [`optimizer`] and [`schedule`] turn gradients into steps; [`fit`] takes one, and [`course`] epochs of them, from a
//!   [`checkpoint`] if need be; a [`ramp`] makes more and more weights zero on the way.
//!
//! Law: samples go to threads in small groups whose number does not depend on the threads, and sums are taken in a fixed
//! order, so that the same seed gives the same weights everywhere.

pub mod answers;
pub mod augment;
pub mod batch;
pub mod checkpoint;
pub mod course;
pub mod fit;
pub mod gradient;
pub mod joint;
pub mod lessons;
pub mod loss;
pub mod optimizer;
pub mod ramp;
pub mod schedule;
pub mod weights;

pub use answers::Answers;
pub use augment::Augmentation;
pub use batch::open_batch;
pub use checkpoint::Checkpoint;
pub use course::{Course, Epoch, Settings, Watch, train};
pub use fit::Fit;
pub use gradient::{GradientError, gradient};
pub use joint::{Joint, Plan};
pub use lessons::{Lessons, Target};
pub use loss::{Goal, Loss};
pub use optimizer::Optimizer;
pub use ramp::Ramp;
pub use schedule::Schedule;
pub use weights::Weight;

use crate::runtime::RuntimeError;

/// Why a model cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Gradient(#[from] GradientError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("output `{output}` cannot be judged: {why}")]
    Output { output: String, why: &'static str },
    #[error("the model has no output that can be judged")]
    NoOutput,
    #[error("there is nothing to train: no float32 weight reaches the outputs")]
    NoWeights,
    #[error("input `{0}` has a default, or more inputs than samples have; make it a constant, or leave it out")]
    Default(String),
    #[error("what the teacher says finds no place on disk: {0}")]
    Answers(std::io::Error),
    #[error("checkpoint `{}`: {why}", file.display())]
    Checkpoint { file: std::path::PathBuf, why: String },
    #[error(
        "the loss left the numbers {times} times, at last in epoch {epoch}; try a lower learning rate than {rate:.1e}"
    )]
    Diverged { times: usize, epoch: usize, rate: f64 },
}
