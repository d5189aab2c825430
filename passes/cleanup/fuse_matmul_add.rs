//! Turns the product of two matrices and what is added to it into a Gemm.

use crate::ir::op::{Add, Gemm, MatMul};
use crate::ir::{DType, Model};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

pub const INFO: PassInfo =
    PassInfo::of::<FuseMatmulAdd>("fuse-matmul-add", "Turn MatMul and Add of matrices into Gemm");

/// Turns a MatMul of two matrices, and the bias that is added to it, into a Gemm. Stacks of matrices stay: the reshapes
/// that Gemm would need cost more than the Add.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FuseMatmulAdd {}

impl Pass for FuseMatmulAdd {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        cx.apply(model, Rules::new().on(into_gemm));
        Ok(())
    }
}

/// a·b + c = Gemm(a, b, c), where c has a number for each column.
fn into_gemm(at: &Site, sum: Add) -> Match<Rewrite> {
    let (MatMul { a, b }, c) = match at.feeder(sum.a) {
        Ok(product) => (product, sum.b),
        Err(_) => (at.feeder(sum.b)?, sum.a),
    };
    require!(at.rank(a)? == 2, "the product is of a stack of matrices");
    let &[_, columns] = at.fixed_shape(b)?.as_slice() else {
        return Err(Miss("the product is of a stack of matrices"));
    };
    let bias = at.fixed_shape(c)?;
    let by_column = bias == [columns] || bias == [1, columns];
    require!(by_column, "what is added is no bias");
    let dtype = at.dtype(b)?;
    require!(matches!(dtype, DType::F32 | DType::F64 | DType::F16), "runtimes have no Gemm for this type");
    at.rewrite().replace_root(Gemm { a, b, c: Some(c), alpha: 1.0, beta: 1.0, transA: false, transB: false })
}
