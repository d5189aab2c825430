//! Moves the data of large initializers out of the messages, into one file beside the model.

use std::collections::HashMap;
use std::io::{self, Write};

use bytes::Bytes;

use crate::onnx::proto::tensor_proto::DataLocation;
use crate::onnx::proto::{GraphProto, ModelProto, StringStringEntryProto, TensorProto};

/// Tensors of this size start at a page, so that they can be mapped.
const MAPPED_BYTES: usize = 1 << 20;
const PAGE: u64 = 4096;
const ALIGNMENT: u64 = 16;

/// The pieces of a data file, by their offsets.
pub(super) struct DataFile {
    location: String,
    pieces: Vec<(u64, Bytes)>,
    /// Where data lie that several tensors share, by address and length.
    shared: HashMap<(usize, usize), u64>,
    length: u64,
}

impl DataFile {
    /// Takes the data of all initializers of at least `from_bytes` out of `model`, for a file called `location`.
    pub fn take_from(model: &mut ModelProto, location: &str, from_bytes: usize) -> DataFile {
        let mut file = DataFile { location: location.into(), pieces: Vec::new(), shared: HashMap::new(), length: 0 };
        if let Some(graph) = &mut model.graph {
            file.take_from_graph(graph, from_bytes);
        }
        file
    }

    fn take_from_graph(&mut self, graph: &mut GraphProto, from_bytes: usize) {
        for tensor in &mut graph.initializer {
            if let Some(raw) = tensor.raw_data.take_if(|raw| raw.len() >= from_bytes.max(1)) {
                self.place(tensor, raw);
            }
        }
        for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
            for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.take_from_graph(inner, from_bytes);
            }
        }
    }

    fn place(&mut self, tensor: &mut TensorProto, raw: Bytes) {
        let length = raw.len();
        let alignment = if length >= MAPPED_BYTES { PAGE } else { ALIGNMENT };
        let offset = *self.shared.entry((raw.as_ptr() as usize, length)).or_insert_with(|| {
            let offset = self.length.next_multiple_of(alignment);
            self.length = offset + length as u64;
            self.pieces.push((offset, raw));
            offset
        });
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        tensor.data_location = Some(DataLocation::External as i32);
        tensor.external_data = vec![
            entry("location", self.location.clone()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ];
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut at = 0;
        for (offset, bytes) in &self.pieces {
            out.write_all(&[0; PAGE as usize][..(offset - at) as usize])?;
            out.write_all(bytes)?;
            at = offset + bytes.len() as u64;
        }
        Ok(())
    }
}
