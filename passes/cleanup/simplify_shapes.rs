//! Replaces computed sizes by constants, and by what is computed already.
//!
//! Exporters compute shapes node by node: Shape, Gather, Unsqueeze, Concat, Reshape. What these hold is known as
//! expressions over the model's symbolic sizes. Where all are numbers, the value is a constant; where a Reshape target
//! has one open size, it is -1, and a size of the input in the same place is 0 (copied); values that hold the same
//! expressions are one value; and sizes that lie side by side in the shape of a graph input are read from there.

use std::collections::HashMap;

use rten_shape_inference::SymExpr;

use crate::analysis::{Shapes, shapes::fixed_length};
use crate::ir::op::{Expand, Reshape, Shape, Slice};
use crate::ir::{DType, GraphId, Model, Op, Tensor, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Rules, Site};

pub const INFO: PassInfo =
    PassInfo::of::<SimplifyShapes>("simplify-shapes", "Replace computed shapes by constants and shared values");

/// Replaces computed sizes by constants where they are known, and computes the same sizes once.
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SimplifyShapes {}

impl Pass for SimplifyShapes {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let known = replace_known(model, &cx.shapes(model));
        for (what, times) in known {
            cx.applied(what, times);
        }
        cx.apply(model, Rules::new().on(fix_reshape).on(fix_expand).on(open_slice));
        Ok(())
    }
}

/// What a value holds: where, of which type and shape, and which sizes.
type Held = (GraphId, DType, Vec<usize>, Vec<SymExpr>);

fn replace_known(model: &mut Model, shapes: &Shapes) -> [(&'static str, usize); 3] {
    let mut counts = [("constant_sizes", 0), ("shared_sizes", 0), ("sizes_of_input", 0)];
    let sources = input_shapes(model, shapes);
    let mut seen: HashMap<Held, ValueId> = HashMap::new();
    for node in model.all_nodes().collect::<Vec<_>>() {
        if !model.is_live(node) {
            continue;
        }
        let [Some(value)] = model.node(node).outputs[..] else { continue };
        let Some((dtype, shape, elements)) = sizes(shapes, value) else { continue };
        if model.value(value).uses.is_empty() {
            continue;
        }
        if let Some(tensor) = constant(dtype, &shape, elements) {
            model.define_constant(value, tensor);
            counts[0].1 += 1;
            continue;
        }
        let graph = model.node(node).graph;
        let is_vector = shape.len() == 1;
        let held = (graph, dtype, shape, elements.to_vec());
        if let Some(&earlier) = seen.get(&held).filter(|&&earlier| model.is_value_live(earlier))
            && !model.is_output(value)
        {
            model.replace_uses(value, earlier);
            model.sweep(node);
            counts[1].1 += 1;
            continue;
        }
        let is_shape = model.node(node).op == Shape::NAME;
        if let Some(shape) = (is_vector && dtype == DType::I64 && !is_shape && graph == model.main)
            .then(|| sources.iter().find_map(|source| source.slice(elements)))
            .flatten()
        {
            model.redefine(value, shape);
            counts[2].1 += 1;
        }
        seen.insert(held, value);
    }
    counts
}

/// Type, shape and elements of a value that holds sizes.
fn sizes(shapes: &Shapes, value: ValueId) -> Option<(DType, Vec<usize>, &[SymExpr])> {
    let dtype = shapes.dtype(value).filter(|dtype| matches!(dtype, DType::I64 | DType::I32 | DType::Bool))?;
    let elements = shapes.elements(value)?;
    Some((dtype, shapes.fixed(value)?, elements))
}

fn constant(dtype: DType, shape: &[usize], elements: &[SymExpr]) -> Option<Tensor> {
    // The largest number stands for "as far as it goes" in the analysis: it is not what the model holds.
    let number = |element: &SymExpr| match element {
        SymExpr::Value(n) if n.unsigned_abs() < i32::MAX as u32 => Some(*n),
        _ => None,
    };
    let numbers: Vec<i32> = elements.iter().map(number).collect::<Option<_>>()?;
    let shape = shape.to_vec();
    Some(match dtype {
        DType::I64 => Tensor::from_vec(shape, numbers.into_iter().map(i64::from).collect()),
        DType::I32 => Tensor::from_vec(shape, numbers),
        _ => Tensor::from_bool(shape, numbers.into_iter().map(|n| n != 0).collect()),
    })
}

/// The shape of a graph input, from which sizes can be read at once.
struct Source {
    input: ValueId,
    lengths: Vec<SymExpr>,
}

fn input_shapes(model: &Model, shapes: &Shapes) -> Vec<Source> {
    let inputs = &model.graph(model.main).inputs;
    inputs.iter().filter_map(|&input| Some(Source { input, lengths: shapes.lengths(input)?.to_vec() })).collect()
}

impl Source {
    fn slice(&self, elements: &[SymExpr]) -> Option<Shape> {
        let start = self.lengths.windows(elements.len().max(1)).position(|window| window == elements)?;
        let end = start + elements.len();
        Some(Shape { x: self.input, start: start as i64, end: (end < self.lengths.len()).then_some(end as i64) })
    }
}

/// Reshape(x, computed) = Reshape(x, constant) with at most one -1, and 0 for sizes of x in their place. A target that
/// holds a 0 is left alone: it means an empty axis or a copied one.
fn fix_reshape(at: &Site, reshape: Reshape) -> Match<Rewrite> {
    require!(at.tensor(reshape.shape).is_err(), "its target is a constant");
    let elements = at.shapes().elements(reshape.shape).ok_or(Miss("its target is not known"))?;
    let target = reshape_target(elements, at.shapes().lengths(reshape.x))?;
    let mut new = at.rewrite();
    let shape = new.constant("shape", Tensor::from_ints(&target));
    new.replace_root(Reshape { shape, allowzero: 0, ..reshape })
}

/// The constant that reshapes a value of `lengths` to `sizes`.
pub fn reshape_target(sizes: &[SymExpr], lengths: Option<&[SymExpr]>) -> Match<Vec<i64>> {
    let mut target = Vec::new();
    for (axis, size) in sizes.iter().enumerate() {
        let copied = lengths.is_some_and(|lengths| lengths.get(axis) == Some(size));
        target.push(match size {
            SymExpr::Value(-1) => -1,
            SymExpr::Value(n) if *n > 0 => i64::from(*n),
            SymExpr::Value(_) => return Err(Miss("an axis of its target is empty")),
            _ if copied => 0,
            _ => -1,
        });
    }
    require!(target.iter().filter(|&&size| size == -1).count() <= 1, "several sizes of its target are open");
    Ok(target)
}

/// Expand(x, computed) = Expand(x, constant), where an open size is that of x: 1 keeps it.
fn fix_expand(at: &Site, expand: Expand) -> Match<Rewrite> {
    require!(at.tensor(expand.shape).is_err(), "its target is a constant");
    let elements = at.shapes().elements(expand.shape).ok_or(Miss("its target is not known"))?;
    let lengths = at.shapes().lengths(expand.x).ok_or(Miss("its rank is not known"))?;
    let behind = elements.iter().rev().zip(lengths.iter().rev().map(Some).chain(std::iter::repeat(None)));
    let mut target = Vec::new();
    for (size, length) in behind {
        target.push(match size {
            SymExpr::Value(n) if *n > 0 => i64::from(*n),
            _ if length == Some(size) => 1,
            _ => return Err(Miss("an open size of its target is not that of its input")),
        });
    }
    target.reverse();
    let mut new = at.rewrite();
    let shape = new.constant("shape", Tensor::from_ints(&target));
    new.replace_root(Expand { shape, ..expand })
}

/// A slice that ends at the length of its axis ends where the axis does.
fn open_slice(at: &Site, slice: Slice) -> Match<Rewrite> {
    require!(at.tensor(slice.ends).is_err(), "its ends are constants");
    let ends = at.shapes().elements(slice.ends).ok_or(Miss("its ends are not known"))?;
    let lengths = at.shapes().lengths(slice.x).ok_or(Miss("its rank is not known"))?;
    let axes = slice.axes.map_or_else(|| Ok((0..ends.len() as i64).collect()), |axes| at.ints(axes))?;
    let steps = slice.steps.map_or_else(|| Ok(vec![1; ends.len()]), |steps| at.ints(steps))?;
    require!(steps.iter().all(|&step| step > 0), "it runs backwards");
    require!(axes.len() == ends.len(), "its axes and ends differ in number");
    let rank = lengths.len() as i64;
    let mut open = Vec::new();
    for (end, axis) in ends.iter().zip(axes) {
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).map_err(|_| Miss("no such axis"))?;
        open.push(match (end, fixed_length(end)) {
            (_, Some(end)) => end as i64,
            _ if lengths.get(axis) == Some(end) => i64::MAX,
            _ => return Err(Miss("an end is neither a number nor the length of its axis")),
        });
    }
    let mut new = at.rewrite();
    let ends = new.constant("ends", Tensor::from_ints(&open));
    new.replace_root(Slice { ends, ..slice })
}
