//! How large a model is.

use std::collections::HashMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use rayon::prelude::*;
use serde::Serialize;

use crate::ir::{Attr, GraphId, Model, NodeId, ValueDef};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSize {
    /// Of the file, with its external data.
    pub bytes: u64,
    /// Elements of all constants, of sparse ones those that are stored.
    pub parameters: u64,
    /// See [`node_count`].
    pub nodes: usize,
}

impl ModelSize {
    pub fn of(model: &Model, bytes: u64) -> ModelSize {
        let constants = model.all_values().filter_map(|(_, value)| match &value.def {
            ValueDef::Constant(tensor) => Some(tensor),
            ValueDef::Sparse(sparse) => Some(&sparse.values),
            _ => None,
        });
        let nodes = model.all_nodes().filter(|&id| model.node(id).op == "Constant");
        let in_nodes = nodes.filter_map(|id| match model.node(id).attrs.get("value") {
            Some(Attr::Tensor(tensor)) => Some(tensor),
            _ => None,
        });
        let parameters = constants.chain(in_nodes).map(|tensor| tensor.len() as u64).sum();
        ModelSize { bytes, parameters, nodes: node_count(model) }
    }
}

/// The bytes of a stretch that is compressed by itself, so that others can be at the same time.
const STRETCH: usize = 1 << 20;

/// What gzip's header and checksum take.
const GZIP_BYTES: u64 = 18;

/// The bytes that gzip makes of a file, within a thousandth: it would also find what one stretch of the file has in common with the
/// one before.
pub fn gzip_bytes(file: &[u8]) -> u64 {
    let compressed = |stretch: &[u8]| {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        let written = encoder.write_all(stretch).and_then(|()| encoder.finish());
        written.expect("memory takes what is written").len() as u64
    };
    GZIP_BYTES + file.par_chunks(STRETCH).map(compressed).sum::<u64>()
}

/// The nodes of the main graph and its bodies once functions are inlined, without constants.
pub fn node_count(model: &Model) -> usize {
    let functions: HashMap<_, _> =
        model.functions.iter().map(|f| ((&*f.domain, &*f.name, &*f.overload), f.body)).collect();
    let callee = |id: NodeId| {
        let node = model.node(id);
        functions.get(&(&*node.domain, &*node.op, &*node.overload)).copied()
    };
    // Graphs whose parts are counted come before those they are part of.
    let (mut order, mut work) = (Vec::new(), vec![(model.main, false)]);
    let mut counts: HashMap<GraphId, usize> = HashMap::new();
    let parts = |graph: GraphId| model.nodes_of(graph).flat_map(move |id| model.node(id).bodies());
    while let Some((graph, expanded)) = work.pop() {
        if expanded {
            order.push(graph);
        } else if counts.insert(graph, 0).is_none() {
            work.push((graph, true));
            work.extend(parts(graph).chain(model.nodes_of(graph).filter_map(callee)).map(|part| (part, false)));
        }
    }
    for graph in order {
        let count = model.nodes_of(graph).map(|id| match callee(id) {
            Some(body) => counts[&body],
            None if model.node(id).op == "Constant" => 0,
            None => 1 + model.node(id).bodies().map(|body| counts[&body]).sum::<usize>(),
        });
        let count = count.fold(0, usize::saturating_add);
        counts.insert(graph, count);
    }
    counts[&model.main]
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::data::Random;

    #[test]
    fn zeros_compress_and_noise_does_not() {
        let mut random = Random::new(0, 0);
        let noise: Vec<u8> = (0..3 * STRETCH / 2).map(|_| random.below(256) as u8).collect();
        let [noisy, zeros] = [noise.clone(), vec![0; noise.len()]].map(|bytes| gzip_bytes(&bytes));
        assert!(noisy as usize > noise.len() && zeros < 2000, "{noisy} {zeros}");
        // Of one stretch it is what gzip makes of it.
        let mut encoder = flate2::read::GzEncoder::new(&noise[..5000], Compression::default());
        assert_eq!(encoder.read_to_end(&mut Vec::new()).unwrap() as u64, gzip_bytes(&noise[..5000]));
    }
}
