//! A compiler that makes ONNX models small and fast: read, rewrite, check, write.

pub mod ir;
pub mod onnx;
pub mod analysis;
pub mod rewrite;
pub mod kernels;
pub mod runtime;
pub mod data;
pub mod measure;
pub mod train;
pub mod pass;

#[path = "../passes/mod.rs"]
pub mod passes;

pub mod shrink;
pub mod report;
pub mod cli;
