//! Matrix products of dequantized operands.

use super::conv::computing;
use super::scale::{Integers, Target, Weights, integers};
use crate::ir::op::{Add, Gemm, MatMul, QuantizeLinear};
use crate::ir::{DType, ValueId};
use crate::require;
use crate::rewrite::{Draft, Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators as int8;

/// Q(limits(MatMul(DQ(a), DQ(b)))) in integers.
pub(super) fn quantized_matmul(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let product: MatMul = at.feeder(target.value)?;
    multiply(at, product, &computing(at, target.value)?.name, Some(&target))
}

/// MatMul(DQ(a), DQ(b)) with integer sums.
pub(super) fn float_matmul(at: &Site, product: MatMul) -> Match<Rewrite> {
    multiply(at, product, &at.node().name, None)
}

pub(super) fn quantized_gemm(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let gemm: Gemm = at.feeder(target.value)?;
    gemm_in_integers(at, gemm, &computing(at, target.value)?.name, Some(&target))
}

pub(super) fn float_gemm(at: &Site, gemm: Gemm) -> Match<Rewrite> {
    gemm_in_integers(at, gemm, &at.node().name, None)
}

/// MatMul + bias, where the product is float: as one operator.
pub(super) fn biased(at: &Site, Add { a, b }: Add) -> Match<Rewrite> {
    let (product, bias) = if at.model.constant(b).is_some() { (a, b) } else { (b, a) };
    let matmul: int8::MatMul = at.feeder(product)?;
    require!(matmul.y_scale.is_none() && matmul.bias.is_none(), "the product has a bias, or is of integers");
    let tensor = at.tensor(bias)?;
    let columns = *at.tensor(matmul.b)?.shape().get(usize::from(!matmul.transpose_b)).ok_or(Miss("no matrix"))?;
    require!(tensor.dtype() == DType::F32 && tensor.shape() == [columns], "no bias of one number a column");
    let name = &computing(at, product)?.name;
    Ok(at.rewrite().replace_root(int8::MatMul { bias: Some(bias), ..matmul })?.named(name))
}

fn gemm_in_integers(at: &Site, gemm: Gemm, name: &str, target: Option<&Target>) -> Match<Rewrite> {
    require!(!gemm.transA, "a left operand that is transposed");
    require!(gemm.alpha == 1.0 && (gemm.beta == 1.0 || gemm.c.is_none()), "scaled by alpha or beta");
    let mut new = at.rewrite();
    let a = integers(at, &mut new, gemm.a)?;
    let b = Weights::of(at, gemm.b, usize::from(!gemm.transB))?;
    product_with(at, new, a, b, gemm.c, gemm.transB, name, target)
}

fn multiply(at: &Site, product: MatMul, name: &str, target: Option<&Target>) -> Match<Rewrite> {
    let mut new = at.rewrite();
    let a = integers(at, &mut new, product.a)?;
    match Weights::of(at, product.b, 1) {
        Ok(b) if at.tensor(b.value)?.rank() == 2 => product_with(at, new, a, b, None, false, name, target),
        _ => {
            let are_matrices = at.rank(product.a)? >= 2 && at.rank(product.b)? >= 2;
            require!(are_matrices, "a product of vectors");
            let b = integers(at, &mut new, product.b)?;
            let operation = int8::BatchMatMul {
                a: a.value,
                b: b.value,
                a_scale: a.scale,
                a_zero_point: a.zero_point,
                b_scale: b.scale,
                b_zero_point: b.zero_point,
                y_scale: target.map(|target| target.to.scale),
                y_zero_point: target.map_or(0, |target| target.to.zero_point),
                low: target.map_or(0, |target| target.low),
                high: target.map_or(255, |target| target.high),
                isa: String::new(),
                arithmetic: "exact".into(),
            };
            match target {
                Some(target) => target.end(new, operation, name),
                None => new.replace_root(operation),
            }
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "what Gemm and MatMul have in common")]
fn product_with(
    at: &Site,
    mut new: Draft,
    a: Integers,
    b: Weights,
    bias: Option<ValueId>,
    transpose_b: bool,
    name: &str,
    target: Option<&Target>,
) -> Match<Rewrite> {
    let bias = b.bias(at, &mut new, bias, a.scale, target.is_none())?;
    let operation = int8::MatMul {
        a: a.value,
        b: b.value,
        b_scale: b.scale,
        b_zero_point: b.zero_point,
        bias,
        a_scale: a.scale,
        a_zero_point: a.zero_point,
        transpose_b,
        y_scale: target.map(|target| target.to.scale),
        y_zero_point: target.map_or(0, |target| target.to.zero_point),
        low: target.map_or(0, |target| target.low),
        high: target.map_or(255, |target| target.high),
        isa: String::new(),
        arithmetic: "exact".into(),
    };
    match target {
        Some(target) => target.end(new, operation, name),
        None => new.replace_root(operation),
    }
}
