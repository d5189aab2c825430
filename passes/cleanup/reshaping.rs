//! The operators that give a value another shape and do nothing else.

use crate::ir::op::{Flatten, Reshape, Squeeze, Unsqueeze};
use crate::ir::{Model, NodeId, Op, ValueId};

macro_rules! reshaping {
    ($($op:ident),*) => {
        /// Their names.
        pub const RESHAPING: &[&str] = &[$($op::NAME),*];

        /// What `node` gives another shape, where it is one of them.
        pub fn reshaped(model: &Model, node: NodeId) -> Option<ValueId> {
            $(if let Some($op { x, .. }) = model.view(node) {
                return Some(x);
            })*
            None
        }
    };
}
reshaping! { Flatten, Reshape, Squeeze, Unsqueeze }
