//! Typed views of the operators that passes understand.
//!
//! A view names a node's operands and fills in default attributes. Reading one, with [`Model::view`], is how a rewrite
//! matches; changing one is how it builds: `Conv { w, ..conv }`. A view states the opsets in which its form holds, from
//! [`BASE`] on, to which every pipeline first raises a model. Operators without a view are kept as they are and treated
//! as opaque.
//!
//! [`Model::view`]: super::Model::view

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::attr::{Attrs, REQUIRED};
use super::model::{Node, ValueId};
use super::tensor::Tensor;

/// The opset that views are written for: the oldest that passes see.
pub const BASE: i64 = 18;

/// The newest opset that views were compared with.
pub const LATEST: i64 = 26;

/// An operator with named operands and typed attributes.
pub trait Op: Sized {
    const DOMAIN: &'static str;
    const NAME: &'static str;
    /// The versions of the domain in which the operator has this form.
    const OPSETS: RangeInclusive<i64>;

    /// Reads a node of this name and domain; none if it has operands or attributes that the view does not know.
    fn read(node: &Node) -> Option<Self>;
    fn operands(&self) -> Vec<Option<ValueId>>;
    fn attrs(&self) -> Attrs;
}

/// One operand slot: required, optional, or all that remain.
pub trait Operand: Sized {
    fn take<'n>(rest: &mut impl Iterator<Item = &'n Option<ValueId>>) -> Option<Self>;
    fn push(&self, to: &mut Vec<Option<ValueId>>);
}

impl Operand for ValueId {
    fn take<'n>(rest: &mut impl Iterator<Item = &'n Option<ValueId>>) -> Option<Self> {
        *rest.next()?
    }
    fn push(&self, to: &mut Vec<Option<ValueId>>) {
        to.push(Some(*self));
    }
}

impl Operand for Option<ValueId> {
    fn take<'n>(rest: &mut impl Iterator<Item = &'n Option<ValueId>>) -> Option<Self> {
        Some(rest.next().copied().flatten())
    }
    fn push(&self, to: &mut Vec<Option<ValueId>>) {
        to.push(*self);
    }
}

impl Operand for Vec<ValueId> {
    fn take<'n>(rest: &mut impl Iterator<Item = &'n Option<ValueId>>) -> Option<Self> {
        rest.copied().collect()
    }
    fn push(&self, to: &mut Vec<Option<ValueId>>) {
        to.extend(self.iter().copied().map(Some));
    }
}

/// Views of the operators of one domain, whose names there have `prefix` before ours.
macro_rules! ops {
    (domain $domain:literal, prefix $prefix:literal; $(
        $(#[$doc:meta])*
        $op:ident [$since:expr, $until:expr] ($($input:ident: $kind:ty),* $(,)?) {
            $($attr:ident: $ty:ty = $default:expr),* $(,)?
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $op { $(pub $input: $kind,)* $(pub $attr: $ty,)* }

        impl $crate::ir::Op for $op {
            const DOMAIN: &'static str = $domain;
            const NAME: &'static str = concat!($prefix, stringify!($op));
            const OPSETS: std::ops::RangeInclusive<i64> = $since..=$until;

            fn read(node: &$crate::ir::Node) -> Option<Self> {
                let known: &[&str] = &[$(stringify!($attr)),*];
                if !node.attrs.keys().all(|name| known.contains(&name.as_str())) { return None }
                let mut rest = node.inputs.iter();
                let view = $op {
                    $($input: <$kind as $crate::ir::op::Operand>::take(&mut rest)?,)*
                    $($attr: match node.attrs.get(stringify!($attr)) {
                        Some(attr) => <$ty as $crate::ir::AttrType>::read(attr)?,
                        None => Some($default).filter(|default: &$ty| !$crate::ir::AttrType::is_required(default))?,
                    },)*
                };
                rest.next().is_none().then_some(view)
            }

            fn operands(&self) -> Vec<Option<$crate::ir::ValueId>> {
                #[allow(unused_mut, reason = "some operators have no operands")]
                let mut all = Vec::new();
                $($crate::ir::op::Operand::push(&self.$input, &mut all);)*
                while let Some(None) = all.last() { all.pop(); }
                all
            }

            fn attrs(&self) -> $crate::ir::Attrs {
                let set: &[Option<(&str, $crate::ir::Attr)>] = &[$({
                    let default: $ty = $default;
                    (self.$attr != default).then(|| (stringify!($attr), $crate::ir::AttrType::write(&self.$attr)))
                }),*];
                set.iter().flatten().map(|(name, attr)| (name.to_string(), attr.clone())).collect()
            }
        }
    )*};
}
pub(crate) use ops;

ops! {
    domain "", prefix "";

    // Layers with weights.

    /// N-dimensional convolution.
    Conv [BASE, LATEST] (x: ValueId, w: ValueId, b: Option<ValueId>) {
        auto_pad: String = String::from("NOTSET"),
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
    ConvTranspose [BASE, LATEST] (x: ValueId, w: ValueId, b: Option<ValueId>) {
        auto_pad: String = String::from("NOTSET"),
        dilations: Vec<i64> = vec![],
        group: i64 = 1,
        kernel_shape: Vec<i64> = vec![],
        output_padding: Vec<i64> = vec![],
        output_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
    /// alpha·a'·b' + beta·c, where ' transposes if asked for.
    #[allow(non_snake_case, reason = "attributes keep their ONNX names")]
    Gemm [BASE, LATEST] (a: ValueId, b: ValueId, c: Option<ValueId>) {
        alpha: f32 = 1.0,
        beta: f32 = 1.0,
        transA: bool = false,
        transB: bool = false,
    }
    MatMul [BASE, LATEST] (a: ValueId, b: ValueId) {}
    Gather [BASE, LATEST] (data: ValueId, indices: ValueId) { axis: i64 = 0 }

    // Normalization.

    BatchNormalization [BASE, LATEST] (x: ValueId, scale: ValueId, bias: ValueId, mean: ValueId, var: ValueId) {
        epsilon: f32 = 1e-5,
        momentum: f32 = 0.9,
        training_mode: bool = false,
    }
    LayerNormalization [BASE, LATEST] (x: ValueId, scale: ValueId, bias: Option<ValueId>) {
        axis: i64 = -1,
        epsilon: f32 = 1e-5,
        stash_type: i64 = 1,
    }
    InstanceNormalization [BASE, LATEST] (x: ValueId, scale: ValueId, bias: ValueId) { epsilon: f32 = 1e-5 }

    // Elementwise arithmetic, with broadcasting.

    Add [BASE, LATEST] (a: ValueId, b: ValueId) {}
    Sub [BASE, LATEST] (a: ValueId, b: ValueId) {}
    Mul [BASE, LATEST] (a: ValueId, b: ValueId) {}
    Div [BASE, LATEST] (a: ValueId, b: ValueId) {}
    Pow [BASE, LATEST] (a: ValueId, b: ValueId) {}
    Where [BASE, LATEST] (condition: ValueId, x: ValueId, y: ValueId) {}
    Equal [BASE, LATEST] (a: ValueId, b: ValueId) {}
    Neg [BASE, LATEST] (x: ValueId) {}
    Abs [BASE, LATEST] (x: ValueId) {}
    Sqrt [BASE, LATEST] (x: ValueId) {}
    Reciprocal [BASE, LATEST] (x: ValueId) {}
    Exp [BASE, LATEST] (x: ValueId) {}
    Log [BASE, LATEST] (x: ValueId) {}
    Erf [BASE, LATEST] (x: ValueId) {}
    Not [BASE, LATEST] (x: ValueId) {}

    // Activations.

    Relu [BASE, LATEST] (x: ValueId) {}
    LeakyRelu [BASE, LATEST] (x: ValueId) { alpha: f32 = 0.01 }
    Max [BASE, LATEST] (xs: Vec<ValueId>) {}
    Min [BASE, LATEST] (xs: Vec<ValueId>) {}
    Clip [BASE, LATEST] (x: ValueId, min: Option<ValueId>, max: Option<ValueId>) {}
    Sigmoid [BASE, LATEST] (x: ValueId) {}
    Sign [BASE, LATEST] (x: ValueId) {}
    HardSigmoid [BASE, LATEST] (x: ValueId) { alpha: f32 = 0.2, beta: f32 = 0.5 }
    HardSwish [BASE, LATEST] (x: ValueId) {}
    Tanh [BASE, LATEST] (x: ValueId) {}
    Gelu [20, LATEST] (x: ValueId) { approximate: String = String::from("none") }
    Softmax [BASE, LATEST] (x: ValueId) { axis: i64 = -1 }
    LogSoftmax [BASE, LATEST] (x: ValueId) { axis: i64 = -1 }

    // Shape and layout.

    Identity [BASE, LATEST] (x: ValueId) {}
    Dropout [BASE, LATEST] (x: ValueId, ratio: Option<ValueId>, training_mode: Option<ValueId>) {
        seed: Option<i64> = None,
    }
    Cast [BASE, LATEST] (x: ValueId) {
        round_mode: String = String::from("up"),
        saturate: i64 = 1,
        to: i64 = REQUIRED,
    }
    CastLike [BASE, LATEST] (x: ValueId, like: ValueId) { saturate: i64 = 1 }
    Shape [BASE, LATEST] (x: ValueId) { end: Option<i64> = None, start: i64 = 0 }
    Size [BASE, LATEST] (x: ValueId) {}
    Reshape [BASE, LATEST] (x: ValueId, shape: ValueId) { allowzero: i64 = 0 }
    Flatten [BASE, LATEST] (x: ValueId) { axis: i64 = 1 }
    Squeeze [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) {}
    Unsqueeze [BASE, LATEST] (x: ValueId, axes: ValueId) {}
    Expand [BASE, LATEST] (x: ValueId, shape: ValueId) {}
    Tile [BASE, LATEST] (x: ValueId, repeats: ValueId) {}
    Transpose [BASE, LATEST] (x: ValueId) { perm: Vec<i64> = vec![] }
    Concat [BASE, LATEST] (xs: Vec<ValueId>) { axis: i64 = REQUIRED }
    Sum [BASE, LATEST] (xs: Vec<ValueId>) {}
    Split [BASE, LATEST] (x: ValueId, split: Option<ValueId>) { axis: i64 = 0, num_outputs: Option<i64> = None }
    Slice [BASE, LATEST] (
        x: ValueId, starts: ValueId, ends: ValueId, axes: Option<ValueId>, steps: Option<ValueId>,
    ) {}
    Pad [BASE, LATEST] (x: ValueId, pads: ValueId, value: Option<ValueId>, axes: Option<ValueId>) {
        mode: String = String::from("constant"),
    }
    Resize [BASE, LATEST] (x: ValueId, roi: Option<ValueId>, scales: Option<ValueId>, sizes: Option<ValueId>) {
        antialias: i64 = 0,
        axes: Vec<i64> = vec![],
        coordinate_transformation_mode: String = String::from("half_pixel"),
        cubic_coeff_a: f32 = -0.75,
        exclude_outside: i64 = 0,
        extrapolation_value: f32 = 0.0,
        keep_aspect_ratio_policy: String = String::from("stretch"),
        mode: String = String::from("nearest"),
        nearest_mode: String = String::from("round_prefer_floor"),
    }
    Constant [BASE, LATEST] () {
        value: Option<Tensor> = None,
        value_float: Option<f32> = None,
        value_floats: Option<Vec<f32>> = None,
        value_int: Option<i64> = None,
        value_ints: Option<Vec<i64>> = None,
        value_string: Option<Bytes> = None,
        value_strings: Option<Vec<Bytes>> = None,
    }
    ConstantOfShape [BASE, LATEST] (shape: ValueId) { value: Option<Tensor> = None }

    // Pooling and reduction.

    MaxPool [BASE, LATEST] (x: ValueId) {
        auto_pad: String = String::from("NOTSET"),
        ceil_mode: i64 = 0,
        dilations: Vec<i64> = vec![],
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        storage_order: i64 = 0,
        strides: Vec<i64> = vec![],
    }
    AveragePool [BASE, LATEST] (x: ValueId) {
        auto_pad: String = String::from("NOTSET"),
        ceil_mode: i64 = 0,
        count_include_pad: i64 = 0,
        dilations: Vec<i64> = vec![],
        kernel_shape: Vec<i64> = vec![],
        pads: Vec<i64> = vec![],
        strides: Vec<i64> = vec![],
    }
    GlobalAveragePool [BASE, LATEST] (x: ValueId) {}
    ReduceMean [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) {
        keepdims: i64 = 1,
        noop_with_empty_axes: i64 = 0,
    }
    ReduceSum [BASE, LATEST] (x: ValueId, axes: Option<ValueId>) {
        keepdims: i64 = 1,
        noop_with_empty_axes: i64 = 0,
    }

    // Quantization.

    QuantizeLinear [BASE, LATEST] (x: ValueId, scale: ValueId, zero_point: Option<ValueId>) {
        axis: i64 = 1,
        block_size: i64 = 0,
        output_dtype: i64 = 0,
        precision: i64 = 0,
        saturate: i64 = 1,
    }
    DequantizeLinear [BASE, LATEST] (x: ValueId, scale: ValueId, zero_point: Option<ValueId>) {
        axis: i64 = 1,
        block_size: i64 = 0,
        output_dtype: i64 = 0,
    }
}

impl Constant {
    /// The tensor that the node holds, in whichever attribute; none where no attribute, or more than one, holds it.
    pub fn tensor(&self) -> Option<Tensor> {
        let strings = |shape: Vec<usize>, strings: &[Bytes]| Tensor::from_strings(shape, strings.to_vec()).ok();
        let forms = [
            self.value.clone(),
            self.value_float.map(Tensor::scalar),
            self.value_floats.as_ref().map(|floats| Tensor::from_vec(vec![floats.len()], floats.clone())),
            self.value_int.map(Tensor::scalar),
            self.value_ints.as_deref().map(Tensor::from_ints),
            self.value_string.as_ref().and_then(|string| strings(vec![], std::slice::from_ref(string))),
            self.value_strings.as_ref().and_then(|all| strings(vec![all.len()], all)),
        ];
        let mut held = forms.into_iter().flatten();
        held.next().filter(|_| held.next().is_none())
    }
}
