//! Reading and writing ONNX files: what was read is written back.

mod corpus;
mod invalid;
mod normal;
mod reading;
mod robustness;
mod round_trip;
mod tensors;
mod text;
mod writing;
