//! Reading and writing ONNX files: what was read is written back.

mod corpus;
mod normal;
mod round_trip;
