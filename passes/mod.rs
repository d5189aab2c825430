//! The passes, one file each. To add one, write its file and list it here.

mod cleanup;
mod quantize;

use crate::pass::PassInfo;

/// Every pass, in the order `onnxshrink passes` lists them.
pub const ALL: &[PassInfo] =
    &[cleanup::eliminate_identity::INFO, cleanup::fuse_batchnorm::INFO, cleanup::upgrade_opset::INFO, quantize::INFO];
