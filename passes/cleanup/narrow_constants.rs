//! Stores constants in a narrower type where nothing can tell: behind a cast to that type, and as indices.

use crate::ir::op::Cast;
use crate::ir::{DType, Model, NodeId, Tensor, Use, ValueId};
use crate::pass::{Context, Pass, PassError, PassInfo};
use crate::require;
use crate::rewrite::{Match, Miss, Outcome};

pub const INFO: PassInfo = PassInfo::of::<NarrowConstants>(
    "narrow-constants",
    "Store constants in a narrower type: where they are cast to it, and 64-bit indices that fit 32 bits",
);

#[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct NarrowConstants {}

/// Indices in fewer elements are not worth another type.
const MIN_INDICES: usize = 64;

/// Operators and their operand of indices, which may be of 32 or 64 bits independently of all other operands.
const INDICES: &[(&str, usize)] = &[("Gather", 1), ("GatherElements", 1), ("ScatterElements", 1)];

impl Pass for NarrowConstants {
    fn run(&self, model: &mut Model, cx: &mut Context) -> Result<(), PassError> {
        let mut outcome = Outcome::default();
        let wide = |model: &Model, value| {
            model.constant(value).is_some_and(|tensor| matches!(tensor.dtype(), DType::F64 | DType::I64))
        };
        let constants: Vec<ValueId> =
            model.all_values().map(|(value, _)| value).filter(|&value| wide(model, value)).collect();
        for value in constants {
            let reader = readers(model, value).first().map(|&(node, _)| node);
            for (name, narrow) in [("cast", behind_casts as Narrow), ("indices", indices)] {
                match narrow(model, value) {
                    Ok(()) => {
                        *outcome.applied.entry(name).or_default() += 1;
                        break;
                    }
                    Err(miss) => drop(reader.and_then(|reader| outcome.missed.insert((name, reader), miss))),
                }
            }
        }
        outcome.missed.retain(|(_, node), _| model.is_live(*node));
        cx.report(outcome);
        Ok(())
    }
}

type Narrow = fn(&mut Model, ValueId) -> Match<()>;

fn readers(model: &Model, value: ValueId) -> Vec<(NodeId, usize)> {
    let places = model.value(value).uses.iter().filter_map(|place| match *place {
        Use::Node(node, index) => Some((node, index)),
        Use::Output(..) => None,
    });
    places.collect()
}

/// Cast(constant) = the constant in that type, rounded as the cast rounds: to nearest, ties to even.
fn behind_casts(model: &mut Model, value: ValueId) -> Match<()> {
    require!(!model.is_output(value), "it is an output of a graph");
    let readers = readers(model, value);
    let casts: Option<Vec<Cast>> = readers.iter().map(|&(node, _)| model.view(node)).collect();
    let casts = casts.filter(|casts| !casts.is_empty()).ok_or(Miss("not only casts read it"))?;
    let to = casts[0].to;
    require!(casts.iter().all(|cast| cast.to == to), "it is cast to several types");
    let tensor = model.constant(value).ok_or(Miss("not a constant"))?;
    let narrow = match DType::from_code(i32::try_from(to).unwrap_or_default()) {
        Some(DType::F32) if tensor.dtype() == DType::F64 => {
            Tensor::from_vec(tensor.shape().to_vec(), tensor.floats().ok_or(Miss("not floats"))?.into_owned())
        }
        Some(DType::I32) if tensor.dtype() == DType::I64 => narrow_integers(tensor)?,
        _ => return Err(Miss("it is not cast to 32 bits of its kind")),
    };
    for (node, _) in &readers {
        let result = model.node(*node).outputs.first().copied().flatten().ok_or(Miss("its cast has no result"))?;
        require!(!model.is_output(result), "its cast is an output of a graph");
    }
    model.set_constant(value, narrow);
    for (node, _) in readers {
        if let Some(&Some(result)) = model.node(node).outputs.first() {
            model.unify(result, value);
        }
    }
    Ok(())
}

fn indices(model: &mut Model, value: ValueId) -> Match<()> {
    require!(!model.is_output(value), "it is an output of a graph");
    let tensor = model.constant(value).ok_or(Miss("not a constant"))?;
    require!(tensor.len() >= MIN_INDICES, "it is small");
    let is_index = |&(node, index): &(NodeId, usize)| {
        let node = model.node(node);
        node.domain.is_empty() && INDICES.contains(&(node.op.as_str(), index))
    };
    let readers = readers(model, value);
    require!(!readers.is_empty() && readers.iter().all(is_index), "not only indices are read from it");
    let narrow = narrow_integers(tensor)?;
    model.set_constant(value, narrow);
    Ok(())
}

fn narrow_integers(tensor: &Tensor) -> Match<Tensor> {
    let wide = tensor.elements::<i64>().ok_or(Miss("not 64-bit integers"))?;
    let narrow: Option<Vec<i32>> = wide.iter().map(|&x| i32::try_from(x).ok()).collect();
    Ok(Tensor::from_vec(tensor.shape().to_vec(), narrow.ok_or(Miss("an element does not fit 32 bits"))?))
}
