//! The operators that lowering makes, in a domain of their own, and those of `com.microsoft` that it reads.
//!
//! Values that ours take and give are u8 unless said otherwise; a real x is (q - zero_point) · scale. `low` and `high` bound
//! the integers of a result: a Relu or Clip that was merged into it. With `channels_last` the axes of every
//! u8 tensor with channels and space are [batch, space.., channels], otherwise, and in float tensors, [batch, channels,
//! space..].

use crate::ir::op::{BASE, LATEST, ops};
use crate::ir::{DType, Op, ValueId};

/// The domain of our operators; tract knows them by their prefix.
pub const DOMAIN: &str = "onnxshrink";
pub const PREFIX: &str = "Onnxshrink";

/// Those that stand between integers, but compute floats.
pub const OF_FLOATS: &[&str] = &[Attention::NAME, Gelu::NAME, LayerNorm::NAME, Softmax::NAME];

ops! {
    domain "onnxshrink", prefix "Onnxshrink";

    /// round(x · factors / scale) + zero_point of a float x, saturated; factors are one for each index of the last axis. With
    /// `channels`, images that have their channels last are filled up to as many, with zero points.
    Quantize [1, 1] (x: ValueId, factors: Option<ValueId>) {
        scale: f32 = 1.0,
        zero_point: i64 = 0,
        channels_last: bool = false,
        channels: i64 = 0,
    }
    /// (x - zero_point) · scale as float.
    Dequantize [1, 1] (x: ValueId) {
        scale: f32 = 1.0,
        zero_point: i64 = 0,
        channels_last: bool = false,
    }
    /// A u8 for an i8 and an i8 for a u8: x ± 128.
    Flip [1, 1] (x: ValueId) { to: i64 = DType::U8.code() as i64 }
    /// table[x].
    Table [1, 1] (x: ValueId, table: ValueId) {}

    /// Convolution of u8 `x` with a constant i8 or u8 `w`, whose scale and zero point are one each or one for each channel. The result is u8 where `y_scale` is given, otherwise float.
    /// A bias of i32 is added to the accumulators, one of floats to the float result. With `other`, the u8 result is then
    /// the first operand of a [`Sum`], and `other` the second.
    Conv [1, 1] (
        x: ValueId, w: ValueId, w_scale: ValueId, w_zero_point: Option<ValueId>, bias: Option<ValueId>,
        other: Option<ValueId>,
    ) {
        x_scale: f32 = 1.0,
        x_zero_point: i64 = 0,
        y_scale: Option<f32> = None,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
        auto_pad: String = String::from("NOTSET"),
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
        other_scale: f32 = 1.0,
        other_zero_point: i64 = 0,
        sum_scale: f32 = 1.0,
        sum_zero_point: i64 = 0,
        sum_low: i64 = 0,
        sum_high: i64 = 255,
        channels_last: bool = false,
        isa: String = String::new(),
        arithmetic: String = String::from("exact"),
    }
    /// The transpose of a convolution; `w` is [channels, channels of the result in a group, kernel..].
    ConvTranspose [1, 1] (
        x: ValueId, w: ValueId, w_scale: ValueId, w_zero_point: Option<ValueId>, bias: Option<ValueId>,
    ) {
        x_scale: f32 = 1.0,
        x_zero_point: i64 = 0,
        y_scale: Option<f32> = None,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        output_padding: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
        channels_last: bool = false,
        isa: String = String::new(),
        arithmetic: String = String::from("exact"),
    }
    /// Matrix product of u8 `a` with the i8 or u8 constant `b`, [k, n] or, transposed, [n, k]; one scale and zero point, or
    /// one for each column. Result and bias are those of [`Conv`].
    MatMul [1, 1] (
        a: ValueId, b: ValueId, b_scale: ValueId, b_zero_point: Option<ValueId>, bias: Option<ValueId>,
    ) {
        a_scale: f32 = 1.0,
        a_zero_point: i64 = 0,
        transpose_b: bool = false,
        y_scale: Option<f32> = None,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
        isa: String = String::new(),
        arithmetic: String = String::from("exact"),
    }
    /// Matrix product, with broadcasting, of two u8 that are both computed.
    BatchMatMul [1, 1] (a: ValueId, b: ValueId) {
        a_scale: f32 = 1.0,
        a_zero_point: i64 = 0,
        b_scale: f32 = 1.0,
        b_zero_point: i64 = 0,
        y_scale: Option<f32> = None,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
        isa: String = String::new(),
        arithmetic: String = String::from("exact"),
    }
    /// [`MatMul`] with a float result, where the scale and zero point of `a` are computed.
    DynamicMatMul [1, 1] (
        a: ValueId, a_scale: ValueId, a_zero_point: ValueId, b: ValueId, b_scale: ValueId,
        b_zero_point: Option<ValueId>, bias: Option<ValueId>,
    ) {
        isa: String = String::new(),
        arithmetic: String = String::from("exact"),
    }
    /// [`Conv`] with a float result, where the scale and zero point of `x` are computed.
    DynamicConv [1, 1] (
        x: ValueId, x_scale: ValueId, x_zero_point: ValueId, w: ValueId, w_scale: ValueId,
        w_zero_point: Option<ValueId>, bias: Option<ValueId>,
    ) {
        auto_pad: String = String::from("NOTSET"),
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
        isa: String = String::new(),
        arithmetic: String = String::from("exact"),
    }

    /// a + b.
    Sum [1, 1] (a: ValueId, b: ValueId) {
        a_scale: f32 = 1.0,
        a_zero_point: i64 = 0,
        b_scale: f32 = 1.0,
        b_zero_point: i64 = 0,
        y_scale: f32 = 1.0,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
    }
    /// a · b.
    Product [1, 1] (a: ValueId, b: ValueId) {
        a_scale: f32 = 1.0,
        a_zero_point: i64 = 0,
        b_scale: f32 = 1.0,
        b_zero_point: i64 = 0,
        y_scale: f32 = 1.0,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
    }

    /// softmax(q · k · scale + mask) · v of floats. `perm` of an operand is how its axes are exchanged before; that of the
    /// result, how they are exchanged after.
    Attention [1, 1] (q: ValueId, k: ValueId, v: ValueId, mask: Option<ValueId>) {
        scale: f32 = 1.0,
        q_perm: Vec<i64> = vec![],
        k_perm: Vec<i64> = vec![],
        v_perm: Vec<i64> = vec![],
        y_perm: Vec<i64> = vec![],
    }
    /// Layer normalization of the floats x + other over their last axis.
    LayerNorm [1, 1] (x: ValueId, scale: ValueId, bias: Option<ValueId>, other: Option<ValueId>) { epsilon: f32 = 1e-5 }
    /// Softmax of floats over the last axis.
    Softmax [1, 1] (x: ValueId) {}
    /// x · (1 + erf(x / √2)) / 2 · factors of floats, with one factor for each index of the last axis. The result is u8 where
    /// `y_scale` is given, otherwise float.
    Gelu [1, 1] (x: ValueId, factors: Option<ValueId>) {
        y_scale: Option<f32> = None,
        y_zero_point: i64 = 0,
    }

    /// The mean over space.
    GlobalAveragePool [1, 1] (x: ValueId) {
        x_scale: f32 = 1.0,
        x_zero_point: i64 = 0,
        y_scale: f32 = 1.0,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
        channels_last: bool = false,
    }
    AveragePool [1, 1] (x: ValueId) {
        x_scale: f32 = 1.0,
        x_zero_point: i64 = 0,
        y_scale: f32 = 1.0,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
        auto_pad: String = String::from("NOTSET"),
        ceil_mode: i64 = 0,
        count_include_pad: i64 = 0,
        dilations: Vec<i64> = vec![],
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
        channels_last: bool = false,
    }
    /// Resizes space by `scales`, or to `sizes`. With the mode `nearest`, integers stay what they are.
    Resize [1, 1] (x: ValueId) {
        x_scale: f32 = 1.0,
        x_zero_point: i64 = 0,
        y_scale: f32 = 1.0,
        y_zero_point: i64 = 0,
        low: i64 = 0,
        high: i64 = 255,
        scales: Vec<f32> = vec![],
        sizes: Vec<i64> = vec![],
        mode: String = String::from("nearest"),
        coordinates: String = String::from("half_pixel"),
        nearest_mode: String = String::from("round_prefer_floor"),
        channels_last: bool = false,
    }
    MaxPool [1, 1] (x: ValueId) {
        auto_pad: String = String::from("NOTSET"),
        ceil_mode: i64 = 0,
        dilations: Vec<i64> = vec![],
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
        channels_last: bool = false,
    }
}

ops! {
    domain "", prefix "";

    QLinearConv [BASE, LATEST] (
        x: ValueId, x_scale: ValueId, x_zero_point: ValueId, w: ValueId, w_scale: ValueId, w_zero_point: ValueId,
        y_scale: ValueId, y_zero_point: ValueId, b: Option<ValueId>,
    ) {
        auto_pad: String = String::from("NOTSET"),
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
    QLinearMatMul [BASE, LATEST] (
        a: ValueId, a_scale: ValueId, a_zero_point: ValueId, b: ValueId, b_scale: ValueId, b_zero_point: ValueId,
        y_scale: ValueId, y_zero_point: ValueId,
    ) {}
    MatMulInteger [BASE, LATEST] (a: ValueId, b: ValueId, a_zero_point: Option<ValueId>, b_zero_point: Option<ValueId>) {}
    ConvInteger [BASE, LATEST] (x: ValueId, w: ValueId, x_zero_point: Option<ValueId>, w_zero_point: Option<ValueId>) {
        auto_pad: String = String::from("NOTSET"),
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
}

ops! {
    domain "com.microsoft", prefix "";

    QLinearAdd [1, 1] (
        a: ValueId, a_scale: ValueId, a_zero_point: Option<ValueId>, b: ValueId, b_scale: ValueId,
        b_zero_point: Option<ValueId>, y_scale: ValueId, y_zero_point: Option<ValueId>,
    ) {}
    QLinearMul [1, 1] (
        a: ValueId, a_scale: ValueId, a_zero_point: Option<ValueId>, b: ValueId, b_scale: ValueId,
        b_zero_point: Option<ValueId>, y_scale: ValueId, y_zero_point: Option<ValueId>,
    ) {}
    QLinearSigmoid [1, 1] (
        x: ValueId, x_scale: ValueId, x_zero_point: Option<ValueId>, y_scale: ValueId, y_zero_point: Option<ValueId>,
    ) {}
    QLinearLeakyRelu [1, 1] (
        x: ValueId, x_scale: ValueId, x_zero_point: Option<ValueId>, y_scale: ValueId, y_zero_point: Option<ValueId>,
    ) { alpha: f32 = 0.01 }
    QLinearSoftmax [1, 1] (
        x: ValueId, x_scale: ValueId, x_zero_point: Option<ValueId>, y_scale: ValueId, y_zero_point: ValueId,
    ) { axis: i64 = -1, opset: i64 = 13 }
    QLinearGlobalAveragePool [1, 1] (
        x: ValueId, x_scale: ValueId, x_zero_point: ValueId, y_scale: ValueId, y_zero_point: ValueId,
    ) { channels_last: i64 = 0 }
    QLinearAveragePool [1, 1] (
        x: ValueId, x_scale: ValueId, x_zero_point: Option<ValueId>, y_scale: ValueId, y_zero_point: Option<ValueId>,
    ) {
        auto_pad: String = String::from("NOTSET"),
        ceil_mode: i64 = 0,
        channels_last: i64 = 0,
        count_include_pad: i64 = 0,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
    /// Behind scale and zero point of the result, `xs` holds value, scale and zero point of each operand.
    QLinearConcat [1, 1] (y_scale: ValueId, y_zero_point: ValueId, xs: Vec<ValueId>) {
        axis: i64 = crate::ir::REQUIRED,
    }
    #[allow(non_snake_case, reason = "attributes keep their ONNX names")]
    QGemm [1, 1] (
        a: ValueId, a_scale: ValueId, a_zero_point: ValueId, b: ValueId, b_scale: ValueId, b_zero_point: ValueId,
        c: Option<ValueId>, y_scale: Option<ValueId>, y_zero_point: Option<ValueId>,
    ) {
        alpha: f32 = 1.0,
        transA: bool = false,
        transB: bool = false,
    }
}
