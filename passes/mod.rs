//! The passes, one file each. To add one, write its file and list it here.

mod cleanup;
mod distill;
mod least_squares;
mod names;
mod prune;
mod quantize;
mod rewind;
mod sparsify;
mod teach;
mod until;

use crate::pass::PassInfo;

pub use prune::{CutSensitivity, GroupSensitivity, channel_sensitivities};
pub use quantize::{Sensitivity, Target, sensitivities};

/// Every pass, in the order `onnxshrink passes` lists them.
pub const ALL: &[PassInfo] = &[
    cleanup::upgrade_opset::INFO,
    cleanup::fix_sizes::INFO,
    PassInfo::group("cleanup", "Everything that keeps what the model computes, until nothing changes", CLEANUP),
    cleanup::keep_sums_apart::INFO,
    prune::INFO,
    sparsify::INFO,
    distill::INFO,
    quantize::INFO,
];

/// The passes of `cleanup`, in the order they run.
const CLEANUP: &[PassInfo] = &[
    cleanup::constants_to_initializers::INFO,
    cleanup::inline_functions::INFO,
    cleanup::fold_constants::INFO,
    cleanup::inline_branches::INFO,
    cleanup::merge_initializers::INFO,
    cleanup::eliminate_common_subexpressions::INFO,
    cleanup::eliminate_identity::INFO,
    cleanup::simplify_shapes::INFO,
    cleanup::eliminate_noops::INFO,
    cleanup::merge_reshapes::INFO,
    cleanup::merge_consecutive::INFO,
    cleanup::fuse_transposes::INFO,
    cleanup::recognize_gelu::INFO,
    cleanup::recognize_hard_swish::INFO,
    cleanup::recognize_layer_normalization::INFO,
    cleanup::fuse_batchnorm::INFO,
    cleanup::fuse_scale::INFO,
    cleanup::fuse_matmul_add::INFO,
    cleanup::fuse_pad::INFO,
    cleanup::fuse_clip::INFO,
    cleanup::narrow_constants::INFO,
    cleanup::eliminate_dead_nodes::INFO,
    cleanup::eliminate_unused_initializers::INFO,
];
