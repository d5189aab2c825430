//! Writes messages piece by piece, so that large tensors go to the file from where they lie.
//!
//! A message is written as its small fields, encoded by prost, and then the fields that may be large: protobuf lets
//! the fields of a message come in any order.

use std::io::{self, Write};
use std::mem::take;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};

pub(super) trait Stream: Message {
    fn stream(self, out: &mut impl Write) -> io::Result<()>;
}

/// Writes `message` as the field `number` of the message around it.
fn field(number: u32, message: impl Stream, out: &mut impl Write) -> io::Result<()> {
    head(number, message.encoded_len(), out)?;
    message.stream(out)
}

fn fields(number: u32, messages: Vec<impl Stream>, out: &mut impl Write) -> io::Result<()> {
    messages.into_iter().try_for_each(|message| field(number, message, out))
}

fn head(number: u32, length: usize, out: &mut impl Write) -> io::Result<()> {
    let mut head = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut head);
    encode_varint(length as u64, &mut head);
    out.write_all(&head)
}

impl Stream for ModelProto {
    fn stream(mut self, out: &mut impl Write) -> io::Result<()> {
        let (graph, functions) = (self.graph.take(), take(&mut self.functions));
        out.write_all(&self.encode_to_vec())?;
        graph.map_or(Ok(()), |graph| field(7, graph, out))?;
        fields(25, functions, out)
    }
}

impl Stream for FunctionProto {
    fn stream(mut self, out: &mut impl Write) -> io::Result<()> {
        let nodes = take(&mut self.node);
        out.write_all(&self.encode_to_vec())?;
        fields(7, nodes, out)
    }
}

impl Stream for GraphProto {
    fn stream(mut self, out: &mut impl Write) -> io::Result<()> {
        let (nodes, initializers) = (take(&mut self.node), take(&mut self.initializer));
        out.write_all(&self.encode_to_vec())?;
        fields(1, nodes, out)?;
        fields(5, initializers, out)
    }
}

impl Stream for NodeProto {
    fn stream(mut self, out: &mut impl Write) -> io::Result<()> {
        let attributes = take(&mut self.attribute);
        out.write_all(&self.encode_to_vec())?;
        fields(5, attributes, out)
    }
}

impl Stream for AttributeProto {
    fn stream(mut self, out: &mut impl Write) -> io::Result<()> {
        let (tensor, tensors) = (self.t.take(), take(&mut self.tensors));
        let (graph, graphs) = (self.g.take(), take(&mut self.graphs));
        out.write_all(&self.encode_to_vec())?;
        tensor.map_or(Ok(()), |tensor| field(5, tensor, out))?;
        graph.map_or(Ok(()), |graph| field(6, graph, out))?;
        fields(10, tensors, out)?;
        fields(11, graphs, out)
    }
}

impl Stream for TensorProto {
    fn stream(mut self, out: &mut impl Write) -> io::Result<()> {
        let raw = self.raw_data.take();
        out.write_all(&self.encode_to_vec())?;
        let Some(raw) = raw else { return Ok(()) };
        head(9, raw.len(), out)?;
        out.write_all(&raw)
    }
}
