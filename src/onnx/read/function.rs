//! Functions of a model, and who calls whom.

use std::collections::HashMap;

use super::error::{Problem, ReadError};
use super::graph::Reader;
use super::{order, read_domain, read_opsets};
use crate::ir::{Function, Model};
use crate::onnx::proto::FunctionProto;
use crate::onnx::tensor::read_notes;

pub(super) fn read(reader: &mut Reader, function: FunctionProto) -> Result<(), ReadError> {
    let opsets = read_opsets(function.opset_import)?;
    let default_attrs = reader.read_default_attrs(function.attribute_proto)?;
    let body = reader.read_body(function.input, function.node, function.output, function.value_info)?;
    *reader.model.graph_mut(body).notes = read_notes(function.doc_string, function.metadata_props);
    reader.model.add_function(Function {
        domain: read_domain(function.domain.unwrap_or_default()),
        name: function.name.unwrap_or_default(),
        overload: function.overload.unwrap_or_default(),
        body,
        opsets,
        required_attrs: function.attribute,
        default_attrs,
    });
    Ok(())
}

/// Functions are told apart by domain, name and overload, and none calls itself.
pub(super) fn check_calls(model: &Model) -> Result<(), ReadError> {
    let place = |index: usize| format!("function `{}`", model.functions[index].name);
    let mut known = HashMap::new();
    for (index, function) in model.functions.iter().enumerate() {
        if known.insert((&function.domain, &function.name, &function.overload), index).is_some() {
            return Err(ReadError::from(Problem::FunctionTwice).inside(|| place(index)));
        }
    }
    let bodies: HashMap<_, _> = model.functions.iter().enumerate().map(|(index, f)| (f.body, index)).collect();
    let mut calls = vec![Vec::new(); model.functions.len()];
    for node in model.all_nodes().map(|id| model.node(id)) {
        let outermost = model.scopes(node.graph).last().expect("a graph is among its scopes");
        let callee = known.get(&(&node.domain, &node.op, &node.overload));
        if let (Some(&caller), Some(&callee)) = (bodies.get(&outermost), callee) {
            calls[caller].push(callee);
        }
    }
    for callees in &mut calls {
        callees.sort_unstable();
        callees.dedup();
    }
    match order::topological(&calls) {
        Ok(_) => Ok(()),
        Err(cycle) => Err(ReadError::from(Problem::RecursiveFunction).inside(|| place(cycle[0]))),
    }
}
