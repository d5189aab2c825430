//! Exact passes: the model computes what it computed before.

mod affine;
pub mod constants_to_initializers;
pub mod eliminate_common_subexpressions;
pub mod eliminate_dead_nodes;
pub mod eliminate_identity;
pub mod eliminate_noops;
pub mod eliminate_unused_initializers;
pub mod fix_sizes;
pub mod fold_constants;
pub mod fuse_batchnorm;
pub mod fuse_clip;
pub mod fuse_matmul_add;
pub mod fuse_pad;
pub mod fuse_scale;
mod gelu;
pub mod inline_branches;
pub mod inline_functions;
mod layer;
pub mod merge_consecutive;
pub mod merge_initializers;
pub mod merge_reshapes;
pub mod narrow_constants;
pub mod recognize_gelu;
pub mod recognize_hard_swish;
pub mod recognize_layer_normalization;
pub mod simplify_shapes;
pub mod upgrade_opset;
