//! Removes Transposes by choosing for each region of the graph in which layout its values are stored.
//!
//! Exporters of other layouts put Transposes around each operator that has only one: two thirds of the nodes of a network
//! exported from channels-last may be these. What lies between can nearly always compute in the other layout as well:
//! [`form`] says how, for each operator, and [`region`] which of them should, so that the fewest Transposes are left. Each
//! rewrite leaves fewer than there were, or as many that move fewer elements, so it ends.

mod cut;
mod form;
mod known;
mod layout;
mod region;

use std::cell::OnceCell;
use std::collections::HashSet;
use std::rc::Rc;

use crate::analysis::Shapes;
use crate::ir::op::{Gemm, MatMul, Reshape, Transpose};
use crate::ir::{DType, Model, NodeId, Tensor, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome, Rewrite, Rules, Site};

use super::simplify_shapes::reshape_target;
use known::Known;
use layout::Layout;
use region::{Region, transposed};
use rten_shape_inference::SymExpr;

pub const INFO: PassInfo =
    PassInfo::of::<FuseTransposes>("fuse-transposes", "Store values in the layouts that leave the fewest Transposes");

/// Moves Transposes through the graph to where they cancel, merges those of matrices into Gemm, and turns those that move
/// only axes of length 1 into Reshape.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FuseTransposes {}

impl Pass for FuseTransposes {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        if !model.all_nodes().any(|node| model.view::<Transpose>(node).is_some()) {
            return Ok(());
        }
        let matrices = || Rules::new().on(into_gemm).on(product_into_gemm).on(gemm_turned).on(product_turned);
        let merged = matrices().apply(model, &OnceCell::from(cx.shapes(model))).applied;
        let outcome = choose_layouts(model, cx.shapes(model));
        cx.report(outcome);
        cx.report(Outcome { applied: merged, ..Outcome::default() });
        cx.apply(model, matrices().on(into_reshape));
        Ok(())
    }
}

const REGION: &str = "layout";

fn choose_layouts(model: &mut Model, shapes: Rc<Shapes>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut work: Vec<NodeId> = model.all_nodes().filter(|&node| model.view::<Transpose>(node).is_some()).collect();
    work.reverse();
    let mut known = Known::new(model, shapes);
    // What was looked at in vain.
    let mut seen: HashSet<(ValueId, Layout)> = HashSet::new();
    'search: while let Some(node) = work.pop() {
        for side in [Side::Behind, Side::Before] {
            let Some((value, layout)) = side.of(model, &known, node).filter(|start| !seen.contains(start)) else {
                continue;
            };
            let region = Region::around(model, &known, value, layout);
            match region.choose(model, &known) {
                Ok(choice) => {
                    let mut around: HashSet<NodeId> = region.transposes(model).collect();
                    let before = total_cost(model, &known, &around);
                    let made = region.apply(model, &mut known, &choice);
                    *outcome.applied.entry(REGION).or_default() += 1;
                    around.extend(&made);
                    if total_cost(model, &known, &around) >= before {
                        // The cut takes Transposes for gone that stay, as those that nothing reads: with no gain to count
                        // on, another choice could lead back here.
                        break 'search;
                    }
                    work.extend(made);
                }
                Err(miss) => {
                    outcome.missed.insert((REGION, node), miss);
                    seen.extend(region.values);
                }
            }
        }
    }
    outcome.missed.retain(|(_, node), _| model.is_live(*node));
    outcome
}

/// What those of `nodes` cost that are Transposes.
fn total_cost(model: &Model, known: &Known, nodes: &HashSet<NodeId>) -> u64 {
    let transposes = nodes.iter().filter(|&&node| model.is_live(node)).filter_map(|&node| {
        let transpose: Transpose = model.view(node)?;
        let layout = Layout::of(&transpose, known.rank(model, transpose.x))?;
        Some(known.cost(model, transpose.x, &layout))
    });
    transposes.fold(0, u64::saturating_add)
}

/// Where a region may begin.
#[derive(Clone, Copy)]
enum Side {
    Behind,
    Before,
}

impl Side {
    /// A value beside `node`, and the layout that makes the Transpose needless.
    fn of(self, model: &Model, known: &Known, node: NodeId) -> Option<(ValueId, Layout)> {
        let transpose: Transpose = model.is_live(node).then(|| model.view(node)).flatten()?;
        let (_, layout) = transposed(model, node, Layout::of(&transpose, known.rank(model, transpose.x))?.rank())?;
        let moves = !layout.is_natural();
        let is_here = model.value(transpose.x).graph == model.node(node).graph;
        match self {
            Side::Behind => model.node(node).outputs[0].filter(|_| moves).map(|result| (result, layout.inverse())),
            Side::Before => {
                (moves && is_here && model.constant(transpose.x).is_none()).then_some((transpose.x, layout))
            }
        }
    }
}

/// Gemm transposes by itself.
fn into_gemm(at: &Site, gemm: Gemm) -> Match<Rewrite> {
    let (a, b) = (matrix(at, gemm.a), matrix(at, gemm.b));
    let first = a.or(b);
    require!(first.is_ok(), "no operand is transposed for it alone");
    let gemm = Gemm {
        a: a.unwrap_or(gemm.a),
        transA: gemm.transA != a.is_ok(),
        b: b.unwrap_or(gemm.b),
        transB: gemm.transB != b.is_ok(),
        ..gemm
    };
    at.rewrite().replace_root(gemm)
}

/// The product of two matrices, of which at least one is transposed.
#[allow(non_snake_case, reason = "attributes keep their ONNX names")]
fn product_into_gemm(at: &Site, MatMul { a, b }: MatMul) -> Match<Rewrite> {
    let (first, second) = (matrix(at, a), matrix(at, b));
    require!(first.is_ok() || second.is_ok(), "no operand is transposed for it alone");
    let gemm = as_gemm(at, a, b)?;
    let (transA, transB) = (first.is_ok(), second.is_ok());
    at.rewrite().replace_root(Gemm { a: first.unwrap_or(a), b: second.unwrap_or(b), transA, transB, ..gemm })
}

/// (α·A·B)ᵀ = α·Bᵀ·Aᵀ
fn gemm_turned(at: &Site, transpose: Transpose) -> Match<Rewrite> {
    let gemm: Gemm = at.feeder(transpose.x)?;
    require!(gemm.c.is_none(), "what is added would have to be transposed, too");
    turned(at, gemm)
}

/// (A·B)ᵀ = Bᵀ·Aᵀ
fn product_turned(at: &Site, transpose: Transpose) -> Match<Rewrite> {
    let MatMul { a, b } = at.feeder(transpose.x)?;
    turned(at, as_gemm(at, a, b)?)
}

fn turned(at: &Site, gemm: Gemm) -> Match<Rewrite> {
    let constant = [gemm.a, gemm.b].iter().any(|&x| at.model.constant(x).is_some());
    require!(!constant, "a weight stays on its side of the product");
    let moves = at.model.view(at.root).is_some_and(|root: Transpose| root.perm.is_empty() || root.perm == [1, 0]);
    require!(moves, "it is no matrix");
    at.rewrite().replace_root(Gemm { a: gemm.b, b: gemm.a, transA: !gemm.transB, transB: !gemm.transA, ..gemm })
}

/// a·b as Gemm.
fn as_gemm(at: &Site, a: ValueId, b: ValueId) -> Match<Gemm> {
    require!(at.rank(a)? == 2 && at.rank(b)? == 2, "the product is of a stack of matrices");
    let dtype = at.dtype(b)?;
    require!(matches!(dtype, DType::F32 | DType::F64 | DType::F16), "runtimes have no Gemm for this type");
    Ok(Gemm { a, b, c: None, alpha: 1.0, beta: 1.0, transA: false, transB: false })
}

/// The matrix whose transpose is `value`, which the root alone reads.
fn matrix(at: &Site, value: ValueId) -> Match<ValueId> {
    let transpose: Transpose = at.feeder(value)?;
    let swaps = transpose.perm == [1, 0] || transpose.perm.is_empty() && at.rank(value)? == 2;
    require!(swaps, "it is no matrix");
    Ok(transpose.x)
}

/// A Transpose that moves only axes of length 1 is a Reshape.
fn into_reshape(at: &Site, transpose: Transpose) -> Match<Rewrite> {
    let lengths = at.shapes().lengths(transpose.x).ok_or(Miss("its rank is not known"))?;
    let layout = Layout::of(&transpose, Some(lengths.len())).ok_or(Miss("not a permutation"))?;
    require!(layout.rank() == lengths.len(), "not a permutation");
    require!(!layout.is_natural(), "it moves nothing");
    require!(layout.is_view(|axis| lengths[axis] == SymExpr::Value(1)), "it moves axes that are longer than 1");
    let target = reshape_target(&layout.stored(lengths), Some(lengths))?;
    let mut new = at.rewrite();
    let shape = new.constant("shape", Tensor::from_ints(&target));
    new.replace_root(Reshape { x: transpose.x, shape, allowzero: 0 })
}
