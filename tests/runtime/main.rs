//! What tract computes, compared with the official node tests and with ONNX Runtime.

mod compare;
#[path = "../onnx/corpus.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod corpus;
mod node_tests;
mod zoo;
