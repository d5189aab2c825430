//! Exact passes: the model computes what it computed before.

pub mod eliminate_identity;
pub mod fuse_batchnorm;
pub mod upgrade_opset;
