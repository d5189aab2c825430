//! Views of operators that gradients are taken of, or written in, and that no pass looks at.

use bytes::Bytes;

use crate::ir::op::{BASE, LATEST, ops};
use crate::ir::{REQUIRED, ValueId};

ops! {
    domain "", prefix "";

    Celu [BASE, LATEST] (x: ValueId) { alpha: f32 = 1.0 }
    Cos [BASE, LATEST] (x: ValueId) {}
    DepthToSpace [BASE, LATEST] (x: ValueId) { blocksize: i64 = REQUIRED, mode: String = String::from("DCR") }
    Einsum [BASE, LATEST] (xs: Vec<ValueId>) { equation: String = String::new() }
    Elu [BASE, LATEST] (x: ValueId) { alpha: f32 = 1.0 }
    GatherElements [BASE, LATEST] (data: ValueId, indices: ValueId) { axis: i64 = 0 }
    GlobalMaxPool [BASE, LATEST] (x: ValueId) {}
    GroupNormalization [21, LATEST] (x: ValueId, scale: ValueId, bias: ValueId) {
        epsilon: f32 = 1e-5,
        num_groups: i64 = REQUIRED,
        stash_type: i64 = 1,
    }
    #[allow(clippy::upper_case_acronyms, reason = "operators keep their ONNX names")]
    GRU [BASE, LATEST] (
        x: ValueId, w: ValueId, r: ValueId, b: Option<ValueId>, sequence_lens: Option<ValueId>, initial_h: Option<ValueId>,
    ) {
        activation_alpha: Vec<f32> = vec![],
        activation_beta: Vec<f32> = vec![],
        activations: Vec<Bytes> = vec![],
        clip: Option<f32> = None,
        direction: String = String::from("forward"),
        hidden_size: Option<i64> = None,
        layout: bool = false,
        linear_before_reset: bool = false,
    }
    #[allow(clippy::upper_case_acronyms, reason = "operators keep their ONNX names")]
    LSTM [BASE, LATEST] (
        x: ValueId, w: ValueId, r: ValueId, b: Option<ValueId>, sequence_lens: Option<ValueId>, initial_h: Option<ValueId>,
        initial_c: Option<ValueId>, p: Option<ValueId>,
    ) {
        activation_alpha: Vec<f32> = vec![],
        activation_beta: Vec<f32> = vec![],
        activations: Vec<Bytes> = vec![],
        clip: Option<f32> = None,
        direction: String = String::from("forward"),
        hidden_size: Option<i64> = None,
        input_forget: bool = false,
        layout: bool = false,
    }
    Less [BASE, LATEST] (a: ValueId, b: ValueId) {}
    Mean [BASE, LATEST] (xs: Vec<ValueId>) {}
    Mish [BASE, LATEST] (x: ValueId) {}
    PRelu [BASE, LATEST] (x: ValueId, slope: ValueId) {}
    ReduceL1 [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) { keepdims: i64 = 1, noop_with_empty_axes: i64 = 0 }
    ReduceL2 [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) { keepdims: i64 = 1, noop_with_empty_axes: i64 = 0 }
    ReduceLogSum [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) { keepdims: i64 = 1, noop_with_empty_axes: i64 = 0 }
    ReduceLogSumExp [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) {
        keepdims: i64 = 1,
        noop_with_empty_axes: i64 = 0,
    }
    ReduceMax [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) { keepdims: i64 = 1, noop_with_empty_axes: i64 = 0 }
    ReduceMin [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) { keepdims: i64 = 1, noop_with_empty_axes: i64 = 0 }
    ReduceProd [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) { keepdims: i64 = 1, noop_with_empty_axes: i64 = 0 }
    ReduceSumSquare [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) {
        keepdims: i64 = 1,
        noop_with_empty_axes: i64 = 0,
    }
    RMSNormalization [23, LATEST] (x: ValueId, scale: ValueId) {
        axis: i64 = -1,
        epsilon: f32 = 1e-5,
        stash_type: i64 = 1,
    }
    #[allow(clippy::upper_case_acronyms, reason = "operators keep their ONNX names")]
    RNN [BASE, LATEST] (
        x: ValueId, w: ValueId, r: ValueId, b: Option<ValueId>, sequence_lens: Option<ValueId>, initial_h: Option<ValueId>,
    ) {
        activation_alpha: Vec<f32> = vec![],
        activation_beta: Vec<f32> = vec![],
        activations: Vec<Bytes> = vec![],
        clip: Option<f32> = None,
        direction: String = String::from("forward"),
        hidden_size: Option<i64> = None,
        layout: bool = false,
    }
    ScatterElements [BASE, LATEST] (data: ValueId, indices: ValueId, updates: ValueId) {
        axis: i64 = 0,
        reduction: String = String::from("none"),
    }
    ScatterND [BASE, LATEST] (data: ValueId, indices: ValueId, updates: ValueId) {
        reduction: String = String::from("none"),
    }
    Selu [BASE, LATEST] (x: ValueId) { alpha: f32 = 1.673_263_2, gamma: f32 = 1.050_701 }
    Sin [BASE, LATEST] (x: ValueId) {}
    Softplus [BASE, LATEST] (x: ValueId) {}
    Softsign [BASE, LATEST] (x: ValueId) {}
    SpaceToDepth [BASE, LATEST] (x: ValueId) { blocksize: i64 = REQUIRED }
    Sum [BASE, LATEST] (xs: Vec<ValueId>) {}
    Swish [24, LATEST] (x: ValueId) { alpha: f32 = 1.0 }
    ThresholdedRelu [BASE, LATEST] (x: ValueId) { alpha: f32 = 1.0 }
}
