//! Writes a placement into the graph as QuantizeLinear and DequantizeLinear.
//!
//! A value keeps its id, name and readers, and becomes what DequantizeLinear makes of its levels: whoever reads it reads
//! the rounded numbers. Only where a float node computes it does it stay as it is, and int8 nodes read a rounded copy.

use std::collections::HashMap;

use crate::ir::op::{Add, DequantizeLinear, Mul, QuantizeLinear};
use crate::ir::{DType, GraphId, Model, NodeId, Operation, Tensor, ValueId};

use super::codes::{Bits, Codes, int32_bias, raise_for_bias};
use super::grid::Grid;
use super::layer::{Layer, LayerKind};
use super::place::{Placement, Role, Unit};
use super::rewrites::shift_bias;
use super::target::{Bias, Traits};

/// Operators whose operands are a value, its scale and its bias.
const NORMALIZATIONS: &[&str] = &["InstanceNormalization", "LayerNormalization"];

pub struct Writer<'m> {
    model: &'m mut Model,
    graph: GraphId,
    traits: &'m Traits,
    grids: &'m HashMap<ValueId, Grid>,
    /// Scalars that many nodes read: scales by their bits, zero points by their level.
    scales: HashMap<u32, ValueId>,
    zero_points: HashMap<i32, ValueId>,
    /// Zero points of weights, by the number of channels.
    weight_zero_points: HashMap<usize, ValueId>,
    /// The number 3, for every HardSwish.
    three: Option<ValueId>,
    /// The rounded copies of float values.
    copies: HashMap<ValueId, ValueId>,
    /// Weights that several layers share, as they were dequantized for the first.
    weights: HashMap<ValueId, (Codes, ValueId)>,
    /// What became of the nodes of the placement.
    written: HashMap<NodeId, NodeId>,
}

/// Writes `placement` into `model`. Of every int8 value the grid is given, of every layer the codes. Returns what became of
/// each node of the placement.
pub fn write(
    model: &mut Model,
    placement: &Placement,
    traits: &Traits,
    grids: &HashMap<ValueId, Grid>,
    codes: &HashMap<NodeId, Codes>,
) -> HashMap<NodeId, NodeId> {
    let graph = model.main;
    let mut writer = Writer {
        model,
        graph,
        traits,
        grids,
        scales: HashMap::new(),
        zero_points: HashMap::new(),
        weight_zero_points: HashMap::new(),
        three: None,
        copies: HashMap::new(),
        weights: HashMap::new(),
        written: HashMap::new(),
    };
    let made: std::collections::HashSet<ValueId> =
        placement.units.iter().filter(|unit| unit.quantizes).map(|unit| unit.result).collect();
    for unit in &placement.units {
        // What a product learned goes into the sum behind it.
        let shift = codes.get(&unit.node).and_then(|codes| codes.bias.as_ref()).filter(|_| is_product(unit));
        if let Some(shift) = shift {
            shift_bias(writer.model, unit.result, shift);
        }
        for &operand in unit.operands.iter().filter(|operand| !made.contains(*operand)) {
            writer.copy(operand, unit.node);
        }
        writer.unit(unit, codes.get(&unit.node));
    }
    writer.written
}

fn is_product(unit: &Unit) -> bool {
    matches!(&unit.role, Role::Layer(layer) if layer.kind == LayerKind::MatMul)
}

impl Writer<'_> {
    fn unit(&mut self, unit: &Unit, codes: Option<&Codes>) {
        // Everything goes where the last of its nodes stands: behind all that is read.
        let anchor = self.model.producer(unit.result).expect("a unit computes its result");
        let label = self.model.node(unit.node).name.clone();
        let replaced: Vec<_> = unit.operands.iter().filter_map(|x| Some((*x, *self.copies.get(x)?))).collect();
        let mut operation = self.model.node(unit.node).with_operands(&replaced);
        let base = self.model.value(unit.result).name.clone();
        match &unit.role {
            Role::Layer(layer) => self.layer(layer, codes.expect("every layer has codes"), anchor, &mut operation),
            Role::HardSwish => operation = self.hard_swish(operation.inputs[0].expect("an operand"), anchor, &base),
            Role::Operator if NORMALIZATIONS.contains(&operation.op.as_str()) => {
                self.normalization(self.grids[&unit.operands[0]], anchor, &mut operation);
            }
            Role::Operator => self.constants(anchor, &mut operation),
            Role::Move | Role::Join | Role::Product => {}
        }
        if !unit.quantizes {
            let node = self.model.replace_operation(unit.node, operation);
            self.model.rename_node(node, &label);
            self.written.insert(unit.node, node);
            return;
        }
        let mut float = self.model.insert_before(anchor, operation, &format!("{base}.float"));
        self.name_producer(float, &label);
        self.written.insert(unit.node, self.model.producer(float).expect("just made"));
        let mut before = self.model.node(unit.node).outputs[0].expect("a unit has a result");
        for &kept in &unit.kept {
            let operation = self.model.node(kept).with_operands(&[(before, float)]);
            let label = self.model.node(kept).name.clone();
            float = self.model.insert_before(anchor, operation, &format!("{base}.limited"));
            self.name_producer(float, &label);
            before = self.model.node(kept).outputs[0].expect("a unit has a result");
        }
        let grid = self.grids[&unit.result];
        let (gain, shift) = match unit.role {
            Role::Layer(_) => (1.0, 0.0),
            _ => (unit.tail.gain, unit.tail.shift),
        };
        let levels = self.quantize(float, grid.before(gain, shift), anchor, &base);
        let dequantized = self.dequantized(levels, grid);
        self.model.redefine(unit.result, dequantized);
        self.name_producer(unit.result, "");
    }

    fn name_producer(&mut self, value: ValueId, name: &str) {
        let node = self.model.producer(value).expect("just made");
        self.model.rename_node(node, name);
    }

    /// Gives int8 readers of the float value `x` its rounded form.
    fn copy(&mut self, x: ValueId, anchor: NodeId) {
        if self.copies.contains_key(&x) {
            return;
        }
        let (grid, base) = (self.grids[&x], self.model.value(x).name.clone());
        let levels = self.quantize(x, grid, anchor, &base);
        let dequantized = self.dequantized(levels, grid);
        let copy = self.insert(anchor, dequantized, &format!("{base}.dequantized"));
        self.copies.insert(x, copy);
    }

    fn quantize(&mut self, x: ValueId, grid: Grid, anchor: NodeId, base: &str) -> ValueId {
        let (scale, zero_point) = self.parameters(grid);
        let quantize = QuantizeLinear {
            x,
            scale,
            zero_point: Some(zero_point),
            axis: 1,
            block_size: 0,
            output_dtype: 0,
            precision: 0,
            saturate: 1,
        };
        self.insert(anchor, quantize, &format!("{base}.int8"))
    }

    /// A node of ours: its result tells what it is, so that it needs no name of its own.
    fn insert(&mut self, anchor: NodeId, operation: impl Into<Operation>, name: &str) -> ValueId {
        let value = self.model.insert_before(anchor, operation, name);
        self.name_producer(value, "");
        value
    }

    fn dequantized(&mut self, x: ValueId, grid: Grid) -> DequantizeLinear {
        let (scale, zero_point) = self.parameters(grid);
        dequantize(x, scale, Some(zero_point), 1)
    }

    fn parameters(&mut self, grid: Grid) -> (ValueId, ValueId) {
        let (model, graph) = (&mut *self.model, self.graph);
        let scale = self.scales.entry(grid.scale.to_bits());
        let scale = *scale.or_insert_with(|| model.add_constant(graph, "scale", Tensor::scalar(grid.scale)));
        let zero_point = self.zero_points.entry(grid.zero_point);
        let zero_point =
            *zero_point.or_insert_with(|| model.add_constant(graph, "zero_point", grid.levels.tensor(grid.zero_point)));
        (scale, zero_point)
    }

    fn layer(&mut self, layer: &Layer, codes: &Codes, anchor: NodeId, operation: &mut Operation) {
        operation.inputs[1] = Some(self.weight(layer, codes, anchor));
        let bias_form = match layer.kind {
            LayerKind::Conv { .. } | LayerKind::ConvTranspose => self.traits.conv_bias,
            LayerKind::Gemm { .. } | LayerKind::MatMul => self.traits.gemm_bias,
        };
        if let LayerKind::Gemm { .. } = layer.kind {
            // They are part of the weights and the bias.
            operation.attrs.shift_remove("alpha");
            operation.attrs.shift_remove("beta");
        }
        let Some(bias) = codes.bias.as_ref().filter(|_| layer.kind != LayerKind::MatMul) else { return };
        let name = layer.bias.map_or_else(
            || format!("{}.bias", self.model.value(layer.weight).name),
            |bias| self.model.value(bias).name.clone(),
        );
        let channels = vec![bias.len()];
        let bias = match bias_form {
            Bias::Float => self.model.add_constant(self.graph, &name, Tensor::from_vec(channels, bias.clone())),
            Bias::Int32 => {
                let (levels, steps) = int32_bias(bias, &codes.scales, self.grids[&layer.x]);
                let levels = Tensor::from_vec(channels, levels);
                let levels = self.model.add_constant(self.graph, &format!("{name}.int32"), levels);
                let steps = self.by_channel(steps);
                let steps = self.model.add_constant(self.graph, &format!("{name}.scale"), steps);
                self.insert(anchor, dequantize(levels, steps, None, 0), &name)
            }
        };
        operation.inputs.resize(3, None);
        operation.inputs[2] = Some(bias);
    }

    fn weight(&mut self, layer: &Layer, codes: &Codes, anchor: NodeId) -> ValueId {
        let shared = self.weights.get(&layer.weight);
        let same = |(other, _): &&(Codes, ValueId)| other.levels == codes.levels && other.scales == codes.scales;
        if let Some((_, value)) = shared.filter(same) {
            return *value;
        }
        let name = self.model.value(layer.weight).name.clone();
        let kind = match codes.bits {
            Bits::Eight => "int8",
            Bits::Four => "int4",
        };
        let levels = self.model.add_constant(self.graph, &format!("{name}.{kind}"), codes.bits.stored(&codes.levels));
        let channels = codes.scales.len();
        let scales = self.by_channel(codes.scales.clone());
        let scales = self.model.add_constant(self.graph, &format!("{name}.scale"), scales);
        // ONNX Runtime fuses a matrix product only where its weight has a zero point.
        let zero_point = match layer.kind {
            LayerKind::Gemm { .. } | LayerKind::MatMul if !self.traits.per_channel => {
                let zero = codes.bits.stored(&Tensor::scalar(0i8));
                let zero = || self.model.add_constant(self.graph, "zero_point", zero);
                Some(*self.weight_zero_points.entry(1).or_insert_with(zero))
            }
            LayerKind::Gemm { .. } | LayerKind::MatMul => {
                let (model, graph) = (&mut *self.model, self.graph);
                let zeros = codes.bits.stored(&Tensor::from_vec(vec![channels], vec![0i8; channels]));
                let zeros = || model.add_constant(graph, "zero_points", zeros);
                Some(*self.weight_zero_points.entry(channels).or_insert_with(zeros))
            }
            _ => None,
        };
        let shares = self.model.value(layer.weight).uses.len() > 1;
        let place = match shares {
            // Every layer that shares the weight comes behind the first node.
            true => self.model.nodes_of(self.graph).next().expect("the layer is one"),
            false => anchor,
        };
        let decoded = dequantize(levels, scales, zero_point, layer.axis as i64);
        let value = self.insert(place, decoded, &name);
        if shares {
            self.weights.insert(layer.weight, (codes.clone(), value));
        }
        value
    }

    /// Numbers for each channel, or the one that all of them have.
    fn by_channel(&self, numbers: Vec<f32>) -> Tensor {
        match (self.traits.per_channel, numbers.first()) {
            (false, Some(&number)) => Tensor::scalar(number),
            _ => Tensor::from_vec(vec![numbers.len()], numbers),
        }
    }

    /// Constant operands in int8: numbers of their own grid.
    fn constants(&mut self, anchor: NodeId, operation: &mut Operation) {
        for slot in &mut operation.inputs {
            let Some((value, grid)) = slot.and_then(|value| Some((value, self.covering(value)?))) else { continue };
            *slot = Some(self.constant(anchor, value, grid));
        }
    }

    /// The constant scale of a normalization in int8, and its constant bias in int32, as that of a layer.
    fn normalization(&mut self, x: Grid, anchor: NodeId, operation: &mut Operation) {
        let bias = operation.inputs.get(2).copied().flatten();
        let floats = bias.and_then(|bias| Some((bias, self.model.constant(bias)?.floats()?.into_owned())));
        let Some((bias, floats)) = floats else { return self.constants(anchor, operation) };
        let Some(scale) = operation.inputs[1] else { return };
        let Some(mut grid) = self.covering(scale) else { return };
        let largest = floats.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        raise_for_bias(std::slice::from_mut(&mut grid.scale), &[largest], x);
        let (levels, steps) = int32_bias(&floats, &vec![grid.scale; floats.len()], x);
        let name = self.model.value(bias).name.clone();
        operation.inputs[1] = Some(self.constant(anchor, scale, grid));
        let step = Tensor::scalar(steps.first().copied().unwrap_or(grid.scale));
        let step = self.model.add_constant(self.graph, &format!("{name}.scale"), step);
        let levels = Tensor::from_vec(vec![levels.len()], levels);
        let levels = self.model.add_constant(self.graph, &format!("{name}.int32"), levels);
        operation.inputs[2] = Some(self.insert(anchor, dequantize(levels, step, None, 0), &name));
    }

    /// The grid that covers a constant of floats.
    fn covering(&self, value: ValueId) -> Option<Grid> {
        let floats = self.model.constant(value)?.floats()?;
        let (low, high) = floats.iter().fold((0f32, 0f32), |(low, high), &x| (low.min(x), high.max(x)));
        Some(Grid::covering(low, high, self.traits.levels, self.traits.symmetric))
    }

    fn constant(&mut self, anchor: NodeId, value: ValueId, grid: Grid) -> ValueId {
        let floats = self.model.constant(value).and_then(Tensor::to_array).expect("a grid covers it");
        let levels = match grid.levels.dtype() {
            DType::U8 => Tensor::from(floats.mapv(|x| grid.level(x) as u8)),
            _ => Tensor::from(floats.mapv(|x| grid.level(x) as i8)),
        };
        let name = self.model.value(value).name.clone();
        let levels = self.model.add_constant(self.graph, &format!("{name}.int8"), levels);
        let decoded = self.dequantized(levels, grid);
        self.insert(anchor, decoded, &name)
    }

    /// x·clip(x + 3, 0, 6) / 6, where a sum between 0 and 6 saturates and is read as a sixth of it.
    fn hard_swish(&mut self, x: ValueId, anchor: NodeId, base: &str) -> Operation {
        let levels = self.traits.levels;
        let whole = |range: f32| Grid::covering(0.0, range, levels, false);
        let three = match self.three {
            Some(three) => three,
            None => {
                let three = self.model.add_constant(self.graph, "three.int8", levels.tensor(whole(3.0).level(3.0)));
                let three = self.dequantized(three, whole(3.0));
                self.insert(anchor, three, "three")
            }
        };
        self.three = Some(three);
        let sum = self.insert(anchor, Add { a: x, b: three }, &format!("{base}.sum"));
        let sum = self.quantize(sum, whole(6.0), anchor, &format!("{base}.gate"));
        let gate = self.dequantized(sum, whole(1.0));
        let gate = self.insert(anchor, gate, &format!("{base}.gate"));
        Mul { a: x, b: gate }.into()
    }
}

fn dequantize(x: ValueId, scale: ValueId, zero_point: Option<ValueId>, axis: i64) -> DequantizeLinear {
    DequantizeLinear { x, scale, zero_point, axis, block_size: 0, output_dtype: 0 }
}
