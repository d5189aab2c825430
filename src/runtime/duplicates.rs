//! Nodes that compute the same from the same.
//!
//! tract merges them as well, but two nodes of two operands, if the operands name their readers in different orders, each
//! into the other, so that neither is left. What is merged before never comes there.

use std::collections::HashMap;

use tract_onnx::tract_core::internal::*;

/// Lets the first of equal nodes compute for all.
pub(super) fn merge(model: &mut TypedModel) -> TractResult<()> {
    let mut patch = TypedModelPatch::default();
    let mut first_of: HashMap<usize, usize> = HashMap::new();
    let mut known: HashMap<(StaticName, TVec<OutletId>), Vec<usize>> = HashMap::new();
    let is_output = |node: usize| model.outputs.iter().any(|output| output.node == node);
    for id in model.eval_order()? {
        let node = model.node(id);
        if node.inputs.is_empty() {
            continue;
        }
        let merged = |input: &OutletId| OutletId::new(*first_of.get(&input.node).unwrap_or(&input.node), input.slot);
        let alike = known.entry((node.op.name(), node.inputs.iter().map(merged).collect())).or_default();
        let first = alike.iter().copied().find(|&first| model.node(first).op().dyn_eq(node.op()));
        match first {
            // Two outputs stay two.
            Some(first) if !is_output(first) || !is_output(id) => {
                for slot in 0..node.outputs.len() {
                    let tap = patch.tap_model(model, OutletId::new(first, slot))?;
                    patch.shunt_outside(model, OutletId::new(id, slot), tap)?;
                }
                first_of.insert(id, first);
            }
            _ => alike.push(id),
        }
    }
    if first_of.is_empty() {
        return Ok(());
    }
    patch.apply(model)?;
    model.compact()
}
