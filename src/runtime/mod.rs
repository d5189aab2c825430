//! Runs models in tract: the one runtime that constant folding, calibration, the check and training share.
//!
//! - [`encode`] turns a model into tract's protobuf types, without bytes in between and without the constants: those are
//!   copied once into tract's memory and shared by all plans.
//! - [`dequantize`] decodes constants that tract has no type for.
//! - [`support`] knows what tract cannot run, so that it is said before any work, with the node's name.
//! - [`runner`] makes plans for concrete input shapes and runs them.
//! - [`together`] runs several samples in one, which [`stack`] puts together.
//! - [`extremes`] runs a model for what its values reach over.
//! - [`shared`] keeps inputs between runs, and lets them be changed.
//! - [`int8`] computes quantized models in integers.
//! - [`blocked`] computes convolutions of floats, and their gradients, with kernels of our own.
//! - [`chains`] are elementwise operators of floats in one, [`products`] matrix products of floats, and [`sums`] sums over
//!   axes, for training; [`reshapes`] before them are passed over, [`spare`] are the tensors that their results are
//!   written to, and [`recomputation`] spares those that chains write for each other.
//! - [`memory`] says when freed memory goes back to the system.
//! - [`execute`] makes tract know operators of ours, and [`window`] reads what convolutions and pools have in common.
//! - [`duplicates`] merges equal nodes.
//! - [`profile`] takes the time of each node.
//! - [`quantize`] and [`dequantize_linear`] are operators that tract has otherwise than ONNX defines them.
//! - [`foldable`] lists the operators whose results in tract are trusted in a written file.

pub(crate) mod blocked;
mod chains;
mod dequantize;
mod dequantize_linear;
mod duplicates;
mod encode;
mod error;
mod execute;
mod extremes;
mod foldable;
mod int8;
pub mod memory;
mod products;
mod profile;
mod quantize;
mod recomputation;
mod reshapes;
mod runner;
mod shared;
mod softmax;
mod spare;
pub mod stack;
mod sums;
mod support;
mod tensor;
mod together;
#[cfg(test)]
mod tests;
mod window;

pub use dequantize::dequantized;
pub use error::RuntimeError;
pub use extremes::ExtremesRunner;
pub use int8::{Execution, in_integers, is_quantized};
pub use profile::NodeTime;
pub use runner::Runner;
pub use shared::Shared;
pub use together::{Together, samples_of_a_run, samples_of_an_answer};

/// Whether constants may be folded through the operator: what tract computes is what ONNX defines.
pub fn is_foldable(domain: &str, op: &str) -> bool {
    let name = if domain.is_empty() { op.to_string() } else { format!("{domain}:{op}") };
    foldable::FOLDABLE.binary_search(&name.as_str()).is_ok()
}
