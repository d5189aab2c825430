//! Runs models in tract: the one runtime that constant folding, calibration, the check and training share.
//!
//! - [`encode`] turns a model into tract's protobuf types, without bytes in between and without the constants: those are
//!   copied once into tract's memory and shared by all plans.
//! - [`support`] knows what tract cannot run, so that it is said before any work, with the node's name.
//! - [`runner`] makes plans for concrete input shapes and runs them.

mod encode;
mod error;
mod runner;
mod support;
mod tensor;

pub use error::RuntimeError;
pub use runner::Runner;
