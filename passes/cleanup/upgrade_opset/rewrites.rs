//! How a node in the old form of its operator is put into the new one. Each function makes up for one change.

use crate::ir::op::{CastLike, Concat, Constant, Div, Expand, Reshape, Shape, Unsqueeze};
use crate::ir::{Attr, DType, NodeId, Operation, Tensor, ValueDef, ValueId};

use super::Raising;
use super::settle::Late;

type Raised = Result<(), &'static str>;

const OLD_TYPE_NAMES: &[(&str, DType)] = &[
    ("FLOAT", DType::F32),
    ("FLOAT16", DType::F16),
    ("DOUBLE", DType::F64),
    ("INT8", DType::I8),
    ("INT16", DType::I16),
    ("INT32", DType::I32),
    ("INT64", DType::I64),
    ("UINT8", DType::U8),
    ("UINT16", DType::U16),
    ("UINT32", DType::U32),
    ("UINT64", DType::U64),
    ("BOOL", DType::Bool),
    ("STRING", DType::String),
];

/// Operators of opset 6 whose result has the rank of their first operand.
const KEEPS_RANK: &[&str] = &[
    "Abs",
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Div",
    "Dropout",
    "Elu",
    "Exp",
    "Floor",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "MaxPool",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Pow",
    "Reciprocal",
    "Relu",
    "Selu",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Upsample",
];

impl Raising {
    fn attr(&self, node: NodeId, name: &str) -> Option<&Attr> {
        self.model.node(node).attrs.get(name)
    }

    /// An integer attribute. In a function it may refer to the call, which only the call can answer.
    fn int(&self, node: NodeId, name: &str, default: i64) -> Result<i64, &'static str> {
        match self.attr(node, name) {
            None => Ok(default),
            Some(Attr::Int(int)) => Ok(*int),
            Some(_) => Err("an attribute that decides about its new form is not a plain integer"),
        }
    }

    fn operand(&self, node: NodeId, index: usize) -> Result<ValueId, &'static str> {
        self.model.node(node).inputs.get(index).copied().flatten().ok_or("a required operand is left out")
    }

    /// The rank of an operand before opset 7, which is older than shape inference.
    fn rank(&mut self, value: ValueId) -> Result<usize, &'static str> {
        let (mut value, mut passed) = (value, Vec::new());
        let rank = loop {
            if let Some(rank) = self.declared_rank(value).or_else(|| self.ranks.get(&value).copied()) {
                break rank;
            }
            passed.push(value);
            let producer = self.model.producer(value).map(|node| self.model.node(node));
            match producer.map(|node| (node.op.as_str(), node.inputs.first())) {
                Some(("Flatten" | "Gemm", _)) => break 2,
                Some((op, Some(&Some(first)))) if KEEPS_RANK.contains(&op) => value = first,
                _ => return Err("the rank of an operand, which decides how it broadcasts, is not known"),
            }
        };
        self.ranks.extend(passed.into_iter().map(|value| (value, rank)));
        Ok(rank)
    }

    fn declared_rank(&self, value: ValueId) -> Option<usize> {
        match self.model.constant(value) {
            Some(tensor) => Some(tensor.rank()),
            None => Some(self.model.value(value).ty.as_ref()?.as_tensor()?.shape.as_ref()?.len()),
        }
    }

    /// What new values at `node` are named after.
    fn stem(&self, node: NodeId) -> String {
        let node = self.model.node(node);
        let result = node.outputs.iter().flatten().next();
        result.map_or_else(|| node.name.clone(), |&result| self.model.value(result).name.clone())
    }

    fn constant(&mut self, node: NodeId, role: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}.{role}", self.stem(node));
        self.model.add_constant(self.model.node(node).graph, &name, tensor)
    }

    /// A float constant of the type of `like`.
    fn constant_like(&mut self, node: NodeId, role: &str, x: f32, like: ValueId) -> ValueId {
        let x = self.constant(node, role, Tensor::scalar(x));
        self.like(node, role, x, like)
    }

    fn like(&mut self, node: NodeId, role: &str, x: ValueId, like: ValueId) -> ValueId {
        let name = format!("{}.{role}", self.stem(node));
        let cast = self.model.insert_before(node, CastLike { x, like, saturate: 1 }, &name);
        self.late.push(Late::TypeOf(self.model.producer(cast).expect("just made")));
        cast
    }

    /// Takes an attribute off a node and makes it a value: a constant, or in a function what the call gives.
    fn take_as_value(&mut self, node: NodeId, name: &str) -> Result<Option<ValueId>, &'static str> {
        let tensor = match self.model.remove_attr(node, name) {
            None => return Ok(None),
            Some(Attr::Ints(ints)) => Tensor::from_ints(&ints),
            Some(Attr::Int(int)) => Tensor::scalar(int),
            Some(Attr::Floats(floats)) => Tensor::from_vec(vec![floats.len()], floats),
            Some(Attr::Float(float)) => Tensor::scalar(float),
            Some(attr @ Attr::Reference { .. }) => {
                let kind = match attr.kind() {
                    crate::ir::AttrKind::Ints => "value_ints",
                    crate::ir::AttrKind::Int => "value_int",
                    crate::ir::AttrKind::Floats => "value_floats",
                    crate::ir::AttrKind::Float => "value_float",
                    _ => return Err("an attribute that becomes an operand is not of numbers"),
                };
                let mut constant = Operation::from(Constant {
                    value: None,
                    value_float: None,
                    value_floats: None,
                    value_int: None,
                    value_ints: None,
                    value_string: None,
                    value_strings: None,
                });
                constant.attrs.insert(kind.into(), attr);
                let name = format!("{}.{name}", self.stem(node));
                return Ok(Some(self.model.insert_before(node, constant, &name)));
            }
            Some(_) => return Err("an attribute that becomes an operand is not of numbers"),
        };
        Ok(Some(self.constant(node, name, tensor)))
    }

    /// Makes the attribute `name` the operand `index`, where the node has it.
    fn move_to_input(&mut self, node: NodeId, name: &str, index: usize) -> Raised {
        if let Some(value) = self.take_as_value(node, name)? {
            self.model.set_input(node, index, Some(value));
        }
        Ok(())
    }

    fn rename(&mut self, node: NodeId, op: &str) -> NodeId {
        let old = self.model.node(node);
        let operation =
            Operation { op: op.into(), inputs: old.inputs.clone(), attrs: old.attrs.clone(), ..Operation::default() };
        self.model.replace_operation(node, operation)
    }

    /// Gives `value` trailing axes of length 1, until it ends where numpy's broadcasting lets it.
    fn pad_rank(&mut self, node: NodeId, index: usize, value: ValueId, count: usize) {
        if count == 0 {
            return;
        }
        let rank = count as i64;
        let axes: Vec<i64> = (-rank..0).collect();
        let axes = self.constant(node, "axes", Tensor::from_ints(&axes));
        let name = format!("{}.operand", self.stem(node));
        let value = self.model.insert_before(node, Unsqueeze { x: value, axes }, &name);
        self.model.set_input(node, index, Some(value));
    }
}

// Opsets 2 to 6: the first year.

pub fn consumed_inputs(at: &mut Raising, node: NodeId) -> Raised {
    at.model.remove_attr(node, "consumed_inputs");
    Ok(())
}

pub fn pads_renamed(at: &mut Raising, node: NodeId) -> Raised {
    if let Some(pads) = at.model.remove_attr(node, "paddings") {
        at.model.set_attr(node, "pads", pads);
    }
    Ok(())
}

pub fn split_to_attribute(at: &mut Raising, node: NodeId) -> Raised {
    if let Some(&Some(split)) = at.model.node(node).inputs.get(1) {
        let sizes = at.model.constant(split).and_then(Tensor::ints).ok_or("its sizes are not constant")?;
        at.model.set_attr(node, "split", Attr::Ints(sizes));
        at.model.set_input(node, 1, None);
    }
    Ok(())
}

pub fn concat_axis(at: &mut Raising, node: NodeId) -> Raised {
    if at.attr(node, "axis").is_none() {
        at.model.set_attr(node, "axis", Attr::Int(1));
    }
    Ok(())
}

pub fn reshape_to_input(at: &mut Raising, node: NodeId) -> Raised {
    consumed_inputs(at, node)?;
    at.move_to_input(node, "shape", 1)
}

pub fn cast_by_name(at: &mut Raising, node: NodeId) -> Raised {
    let Some(Attr::Str(name)) = at.attr(node, "to") else { return Err("its type is not given by name") };
    let known = OLD_TYPE_NAMES.iter().find(|(old, _)| old.as_bytes() == &name[..]);
    let (_, dtype) = known.ok_or("its type has an unknown name")?;
    at.model.set_attr(node, "to", Attr::Int(dtype.code().into()));
    Ok(())
}

pub fn selu_defaults(at: &mut Raising, node: NodeId) -> Raised {
    consumed_inputs(at, node)?;
    for (name, default) in [("alpha", 1.6732), ("gamma", 1.0507)] {
        if at.attr(node, name).is_none() {
            at.model.set_attr(node, name, Attr::Float(default));
        }
    }
    Ok(())
}

// Opset 7: broadcasting like numpy, inference without a flag.

/// With `broadcast`, the second operand was aligned at `axis` of the first, or at its end.
pub fn broadcast(at: &mut Raising, node: NodeId) -> Raised {
    let flag = at.int(node, "broadcast", 0)?;
    let axis = at.attr(node, "axis").is_some().then(|| at.int(node, "axis", 0)).transpose()?;
    at.model.remove_attr(node, "broadcast");
    at.model.remove_attr(node, "axis");
    let Some(axis) = axis.filter(|_| flag != 0) else { return Ok(()) };
    let (a, b) = (at.operand(node, 0)?, at.operand(node, 1)?);
    let (to, rank) = (at.rank(a)? as i64, at.rank(b)? as i64);
    let axis = if axis < 0 { axis + to } else { axis };
    let behind = usize::try_from(to - axis - rank).map_err(|_| "its second operand does not fit at its axis")?;
    at.pad_rank(node, 1, b, behind);
    Ok(())
}

pub fn gemm_broadcast(at: &mut Raising, node: NodeId) -> Raised {
    at.model.remove_attr(node, "broadcast");
    Ok(())
}

/// A vector of slopes was one for each channel, the second axis.
pub fn slope_of_channels(at: &mut Raising, node: NodeId) -> Raised {
    let (x, slope) = (at.operand(node, 0)?, at.operand(node, 1)?);
    let single = at.model.constant(slope).is_some_and(|slope| slope.len() == 1);
    if single || at.rank(slope)? != 1 {
        return Ok(());
    }
    let behind = at.rank(x)?.saturating_sub(2);
    at.pad_rank(node, 1, slope, behind);
    Ok(())
}

pub fn test_mode(at: &mut Raising, node: NodeId) -> Raised {
    if at.int(node, "is_test", 0)? == 0 {
        return Err("it is in training mode (is_test is 0)");
    }
    at.model.remove_attr(node, "is_test");
    Ok(())
}

pub fn output_sequence(at: &mut Raising, node: NodeId) -> Raised {
    at.model.remove_attr(node, "output_sequence");
    Ok(())
}

pub fn upsample_scales(at: &mut Raising, node: NodeId) -> Raised {
    let mut scales = vec![1.0, 1.0];
    for name in ["height_scale", "width_scale"] {
        let Some(Attr::Float(scale)) = at.model.remove_attr(node, name) else { return Err("its scales are left out") };
        scales.push(scale);
    }
    at.model.set_attr(node, "scales", Attr::Floats(scales));
    Ok(())
}

// Opsets 9 to 12.

pub fn per_activation(at: &mut Raising, node: NodeId) -> Raised {
    if at.int(node, "spatial", 1)? == 0 {
        return Err("normalizing each position by itself (spatial is 0) is gone");
    }
    at.model.remove_attr(node, "spatial");
    Ok(())
}

pub fn scales_to_input(at: &mut Raising, node: NodeId) -> Raised {
    at.move_to_input(node, "scales", 1)
}

/// The mask was of the type of the data, then of booleans.
pub fn mask_type(at: &mut Raising, node: NodeId) -> Raised {
    match at.model.node(node).outputs.get(1) {
        Some(&Some(mask)) if !at.model.value(mask).uses.is_empty() => Err("its mask, which is read, has another type"),
        _ => Ok(()),
    }
}

pub fn slice_to_inputs(at: &mut Raising, node: NodeId) -> Raised {
    at.move_to_input(node, "starts", 1)?;
    at.move_to_input(node, "ends", 2)?;
    at.move_to_input(node, "axes", 3)
}

pub fn k_to_input(at: &mut Raising, node: NodeId) -> Raised {
    let Some(k) = at.model.remove_attr(node, "k") else { return Err("it does not say how many") };
    let k = match k {
        Attr::Int(k) => Attr::Ints(vec![k]),
        _ => return Err("k is not a plain integer"),
    };
    at.model.set_attr(node, "k", k);
    at.move_to_input(node, "k", 1)
}

pub fn upsample_is_resize(at: &mut Raising, node: NodeId) -> Raised {
    at.rename(node, "Resize");
    Ok(())
}

pub fn bounds_to_inputs(at: &mut Raising, node: NodeId) -> Raised {
    let x = at.operand(node, 0)?;
    for (index, name) in [(1, "min"), (2, "max")] {
        if let Some(bound) = at.take_as_value(node, name)? {
            let bound = at.like(node, name, bound, x);
            at.model.set_input(node, index, Some(bound));
        }
    }
    Ok(())
}

pub fn pads_to_input(at: &mut Raising, node: NodeId) -> Raised {
    at.move_to_input(node, "pads", 1)?;
    let x = at.operand(node, 0)?;
    match at.model.remove_attr(node, "value") {
        None | Some(Attr::Float(0.0)) => {}
        Some(Attr::Float(value)) => {
            let value = at.constant_like(node, "value", value, x);
            at.model.set_input(node, 2, Some(value));
        }
        Some(value) => {
            at.model.set_attr(node, "value", value);
            let value = at.take_as_value(node, "value")?.expect("just set");
            let value = at.like(node, "value", value, x);
            at.model.set_input(node, 2, Some(value));
        }
    }
    Ok(())
}

/// A point of the result lay at its position over the scale, and the nearest point was the one before it; where the
/// image shrinks, the one behind it.
pub fn resize_coordinates(at: &mut Raising, node: NodeId) -> Raised {
    let scales = at.operand(node, 1)?;
    let shrinks = at
        .model
        .constant(scales)
        .and_then(Tensor::floats)
        .is_some_and(|scales| scales.iter().any(|&scale| scale < 1.0) && scales.iter().all(|&scale| scale <= 1.0));
    at.model.set_input(node, 1, None);
    at.model.set_input(node, 2, Some(scales));
    at.model.set_attr(node, "coordinate_transformation_mode", Attr::Str("asymmetric".into()));
    let nearest = match at.attr(node, "mode") {
        None => true,
        Some(mode) => *mode == Attr::Str("nearest".into()),
    };
    if nearest {
        let mode = if shrinks { "ceil" } else { "floor" };
        at.model.set_attr(node, "nearest_mode", Attr::Str(mode.into()));
    }
    Ok(())
}

pub fn scatter_elements(at: &mut Raising, node: NodeId) -> Raised {
    at.rename(node, "ScatterElements");
    Ok(())
}

pub fn ratio_to_input(at: &mut Raising, node: NodeId) -> Raised {
    at.move_to_input(node, "ratio", 1)
}

// Opset 13 and on.

pub fn coerced_axis(at: &mut Raising, node: NodeId) -> Raised {
    match at.attr(node, "axis") {
        Some(Attr::Int(-1)) => return Ok(()),
        Some(_) => {}
        None => at.model.set_attr(node, "axis", Attr::Int(1)),
    }
    at.late.push(Late::Coerced(node));
    Ok(())
}

/// Operands that do not apply were empty tensors and are now left out.
pub fn resize_operands(at: &mut Raising, node: NodeId) -> Raised {
    for index in 1..at.model.node(node).inputs.len() {
        let empty =
            match at.model.node(node).inputs.get(index).copied().flatten().map(|value| &at.model.value(value).def) {
                Some(ValueDef::Constant(tensor)) => tensor.is_empty(),
                Some(&ValueDef::Node(producer)) => {
                    let constant = at.model.node(producer);
                    constant.op == "Constant"
                        && constant.domain.is_empty()
                        && constant.attrs.values().any(|attr| matches!(attr, Attr::Tensor(tensor) if tensor.is_empty()))
                }
                _ => false,
            };
        if empty {
            at.model.set_input(node, index, None);
        }
    }
    // floor((x + ½) / s) = floor(((x + ½) / s - ½) + ½), which is half_pixel, halves rounded up.
    if at.attr(node, "coordinate_transformation_mode") == Some(&Attr::Str("tf_half_pixel_for_nn".into())) {
        let floor = at.attr(node, "nearest_mode") == Some(&Attr::Str("floor".into()));
        if !floor || at.attr(node, "mode").is_some_and(|mode| *mode != Attr::Str("nearest".into())) {
            return Err("its coordinates, tf_half_pixel_for_nn, are gone");
        }
        at.model.set_attr(node, "coordinate_transformation_mode", Attr::Str("half_pixel".into()));
        at.model.set_attr(node, "nearest_mode", Attr::Str("round_prefer_ceil".into()));
    }
    Ok(())
}

pub fn split_to_input(at: &mut Raising, node: NodeId) -> Raised {
    at.move_to_input(node, "split", 1)
}

pub fn axes_to_input(at: &mut Raising, node: NodeId) -> Raised {
    // Reducing over no axes has always meant over all of them; an empty operand needs no place.
    if at.attr(node, "axes") == Some(&Attr::Ints(Vec::new())) && at.model.node(node).op.starts_with("Reduce") {
        at.model.remove_attr(node, "axes");
    }
    at.move_to_input(node, "axes", 1)
}

/// Results beside the first one meant training; of those, the saved statistics are gone.
pub fn training_outputs(at: &mut Raising, node: NodeId) -> Raised {
    for index in (3..at.model.node(node).outputs.len()).rev() {
        match at.model.node(node).outputs.get(index) {
            Some(&Some(saved)) if !at.model.value(saved).uses.is_empty() => {
                return Err("the statistics that it saves, which are read, are gone");
            }
            Some(_) => at.model.drop_output(node, index),
            None => {}
        }
    }
    if at.model.node(node).outputs.len() > 1 {
        at.model.set_attr(node, "training_mode", Attr::Int(1));
    }
    Ok(())
}

pub fn roi_coordinates(at: &mut Raising, node: NodeId) -> Raised {
    at.model.set_attr(node, "coordinate_transformation_mode", Attr::Str("output_half_pixel".into()));
    Ok(())
}

pub fn num_outputs(at: &mut Raising, node: NodeId) -> Raised {
    let Some(None) = at.model.node(node).inputs.get(1).copied().or(Some(None)) else { return Ok(()) };
    let count = at.model.node(node).outputs.len() as i64;
    at.model.set_attr(node, "num_outputs", Attr::Int(count));
    Ok(())
}

pub fn dft_axis_to_input(at: &mut Raising, node: NodeId) -> Raised {
    if at.attr(node, "axis").is_none() {
        at.model.set_attr(node, "axis", Attr::Int(1));
    }
    at.move_to_input(node, "axis", 2)
}

pub fn grid_modes(at: &mut Raising, node: NodeId) -> Raised {
    let new = match at.attr(node, "mode") {
        Some(Attr::Str(mode)) if mode == "bilinear" => "linear",
        Some(Attr::Str(mode)) if mode == "bicubic" => "cubic",
        _ => return Ok(()),
    };
    at.model.set_attr(node, "mode", Attr::Str(new.into()));
    Ok(())
}

/// Scale and bias were of groups, `[G]`, and are now of channels, `[C]`: each stands for C / G channels.
pub fn scale_of_channels(at: &mut Raising, node: NodeId) -> Raised {
    let groups = match at.attr(node, "num_groups") {
        Some(&Attr::Int(groups)) => groups,
        _ => return Err("its number of groups is not a plain integer"),
    };
    let x = at.operand(node, 0)?;
    let name = at.stem(node);
    let channels = at.model.insert_before(node, Shape { x, end: Some(2), start: 1 }, &format!("{name}.channels"));
    let of_each = at.constant(node, "groups", Tensor::from_ints(&[groups]));
    let repeats = at.model.insert_before(node, Div { a: channels, b: of_each }, &format!("{name}.repeats"));
    let one = at.constant(node, "one", Tensor::from_ints(&[1]));
    let shape = at.model.insert_before(node, Concat { xs: vec![one, repeats], axis: 0 }, &format!("{name}.shape"));
    let column = at.constant(node, "column", Tensor::from_ints(&[groups, 1]));
    let flat = at.constant(node, "flat", Tensor::from_ints(&[-1]));
    for index in [1, 2] {
        let of_groups = at.operand(node, index)?;
        let reshape = Reshape { x: of_groups, shape: column, allowzero: 0 };
        let x = at.model.insert_before(node, reshape, &format!("{name}.column"));
        let x = at.model.insert_before(node, Expand { x, shape }, &format!("{name}.columns"));
        let x = at.model.insert_before(node, Reshape { x, shape: flat, allowzero: 0 }, &format!("{name}.of_channels"));
        at.model.set_input(node, index, Some(x));
    }
    Ok(())
}
