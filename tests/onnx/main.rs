//! Reading and writing ONNX files: what was read is written back.

mod corpus;
mod invalid;
mod normal;
mod round_trip;
