//! What quantized models are run as, and that integers give what the definition in reals gives.

#[path = "int8/lowering.rs"]
mod lowering;
#[path = "int8/networks.rs"]
mod networks;
#[path = "int8/onnx_runtime.rs"]
mod onnx_runtime;
