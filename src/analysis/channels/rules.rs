//! What operators do to channels: one arm for those that share a rule.

use super::classes::Pin;
use super::walk::{Axes, Walk};
use crate::analysis::shapes::call::place;
use crate::ir::{Node, NodeId, ValueId};

impl Walk<'_> {
    /// The lanes of each result; none where there is no rule for the node.
    pub fn results(&mut self, id: NodeId) -> Option<Vec<Axes>> {
        let node = self.model.node(id);
        let one = |axes: Option<Axes>| Some(vec![axes?]);
        match node.op.as_str() {
            // Element by element.
            "Abs" | "Acos" | "Acosh" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitwiseNot" | "Cast" | "CastLike"
            | "Ceil" | "Celu" | "Clip" | "Cos" | "Cosh" | "Elu" | "Erf" | "Exp" | "Floor" | "Gelu" | "HardSigmoid"
            | "HardSwish" | "Identity" | "IsInf" | "IsNaN" | "LeakyRelu" | "Log" | "Mish" | "Neg" | "Not"
            | "Reciprocal" | "Relu" | "Round" | "Selu" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Sinh"
            | "Softplus" | "Softsign" | "Sqrt" | "Swish" | "Tan" | "Tanh" | "ThresholdedRelu" => {
                one(Some(self.axes_of(operand(node, 0)?)))
            }
            "Dropout" => Some(vec![self.axes_of(operand(node, 0)?); 2]),
            "Add" | "And" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Div" | "Equal" | "Greater"
            | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Max" | "Mean" | "Min" | "Mod" | "Mul" | "Or" | "PRelu"
            | "Pow" | "Sub" | "Sum" | "Where" | "Xor" => {
                let operands: Vec<ValueId> = node.inputs.iter().flatten().copied().collect();
                one(self.broadcast(id, &operands))
            }
            "QuantizeLinear" | "DequantizeLinear" => one(self.quantized(id)),

            // Layers.
            "Conv" => one(self.convolved(id)),
            "ConvTranspose" => one(self.transposed_convolution(id)),
            "Gemm" => one(self.gemm(id)),
            "MatMul" => one(self.matrix_product(id)),
            "Einsum" => one(self.einsum(id)),
            "Gather" => one(self.gathered(id)),
            "BatchNormalization" if node.outputs.len() == 1 => one(self.channel_normalized(id)),
            "InstanceNormalization" => one(self.channel_normalized(id)),
            "GroupNormalization" => one(self.group_normalized(id)),
            "LayerNormalization" | "RMSNormalization" => self.layer_normalized(id),
            "Attention" if node.outputs.len() == 1 => one(self.attention(id)),
            "LSTM" => self.recurrent(id, 4),
            "GRU" => self.recurrent(id, 3),
            "RNN" => self.recurrent(id, 1),

            // Along one axis, all of which is needed.
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                let axis = attribute(node, "axis").unwrap_or(-1);
                one(self.needs_all(id, axis))
            }
            "CumSum" | "CumProd" => {
                let axis = self.call(node).scalar(1)?;
                one(self.needs_all(id, axis))
            }
            // All axes but the first two.
            "AveragePool" | "MaxPool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool"
                if node.outputs.len() == 1 =>
            {
                one(self.pooled(id))
            }
            "ReduceSum" | "ReduceMean" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" => one(self.reduced(id, true)),
            "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceLogSum" | "ReduceLogSumExp" | "ArgMax" | "ArgMin" => {
                one(self.reduced(id, false))
            }
            "TopK" => {
                let mut x = self.needs_all(id, attribute(node, "axis").unwrap_or(-1))?;
                let axis = place(attribute(node, "axis").unwrap_or(-1), x.len())?;
                x[axis] = None;
                Some(vec![x; 2])
            }

            // Layout.
            "Reshape" | "Flatten" => one(self.reshaped(id)),
            "Squeeze" | "Unsqueeze" => one(self.reshaped(id)),
            "Transpose" => one(self.transposed(id)),
            "Concat" => one(self.joined(id)),
            "Split" => self.split(id),
            "Slice" => one(self.sliced(id)),
            "Pad" => one(self.padded(id)),
            "Resize" => one(self.resized(id)),
            "Expand" => one(self.expanded(id)),
            "Tile" => one(self.tiled(id)),
            "DepthToSpace" | "SpaceToDepth" => one(self.moved_to_space(id)),
            "ConstantOfShape" => one(self.filled(id)),
            // Sizes are those of before the cut, wherever they are computed with.
            "Shape" | "Size" => one(Some(vec![None; self.lengths(result(node)?).len()])),
            "Range" => one(Some(vec![None])),
            _ => None,
        }
    }

    /// Operands of which each has the channels of the others, where it is not 1 long.
    pub fn broadcast(&mut self, id: NodeId, operands: &[ValueId]) -> Option<Axes> {
        let ranks: Vec<usize> = operands.iter().map(|&x| self.shapes.rank(x)).collect::<Option<_>>()?;
        let rank = ranks.iter().copied().max()?;
        let all: Vec<Axes> = operands.iter().map(|&x| self.axes_of(x)).collect();
        let pin = Pin::Node(id, "a length beside them is not followed");
        let mut axes = vec![None; rank];
        for (axis, found) in axes.iter_mut().enumerate() {
            let mut is_first = true;
            for ((&operand, lanes), &own) in operands.iter().zip(&all).zip(&ranks) {
                let Some(place) = (axis + own).checked_sub(rank) else { continue };
                if self.length(operand, place) == Some(1) {
                    continue;
                }
                match std::mem::take(&mut is_first) {
                    true => *found = lanes[place],
                    false => {
                        self.meet(*found, lanes[place], pin);
                        *found = found.and(lanes[place]);
                    }
                }
            }
        }
        Some(axes)
    }

    /// Lets the axes of `x` from `first` on be those of `other`, a tensor of that shape.
    pub fn meet_behind(&mut self, x: &Axes, first: usize, other: ValueId, pin: Pin) {
        let behind = self.axes_of(other);
        match x.get(first..) {
            Some(axes) if axes.len() == behind.len() => {
                for (index, (&a, &b)) in axes.iter().zip(&behind).enumerate() {
                    if self.length(other, index) != Some(1) {
                        self.meet(a, b, pin);
                    }
                }
            }
            _ => self.pin_some(&[&x[first.min(x.len())..], &behind].concat(), pin),
        }
    }

    fn needs_all(&mut self, id: NodeId, axis: i64) -> Option<Axes> {
        let x = self.axes_of(operand(self.model.node(id), 0)?);
        let axis = place(axis, x.len())?;
        self.pin_some(&x[axis..=axis], Pin::Node(id, "it works along them"));
        Some(x)
    }

    fn pooled(&mut self, id: NodeId) -> Option<Axes> {
        let mut x = self.axes_of(operand(self.model.node(id), 0)?);
        let spatial = x.get_mut(2..)?;
        let found = spatial.to_vec();
        spatial.fill(None);
        self.pin_some(&found, Pin::Node(id, "it works along them"));
        Some(x)
    }

    fn quantized(&mut self, id: NodeId) -> Option<Axes> {
        let node = self.model.node(id);
        let x = self.axes_of(operand(node, 0)?);
        let pin = Pin::Node(id, "its scales do not follow them");
        for &parameter in node.inputs.iter().skip(1).flatten() {
            let lanes = self.axes_of(parameter);
            let axis = place(attribute(node, "axis").unwrap_or(1), x.len());
            match (&lanes[..], axis) {
                (&[Some(lane)], Some(axis)) => self.meet(x[axis], Some(lane), pin),
                (lanes, _) if lanes.iter().all(Option::is_none) => {}
                (lanes, _) => {
                    self.pin_some(lanes, pin);
                    self.pin_some(&x, pin);
                }
            }
        }
        Some(x)
    }

    fn reduced(&mut self, id: NodeId, may_leave_out: bool) -> Option<Axes> {
        let node = self.model.node(id);
        let x = operand(node, 0)?;
        let lanes = self.axes_of(x);
        let axes = self.call(node).reduced_axes()?;
        let keeps = attribute(node, "keepdims").unwrap_or(1) != 0;
        let over: Vec<_> = axes.iter().map(|&axis| lanes[axis]).collect();
        if !may_leave_out {
            self.pin_some(&over, Pin::Node(id, "it works along them"));
        }
        if node.op == "ReduceMean" && over.iter().any(Option::is_some) && !self.is_statistic(id) {
            self.means.push(id);
        }
        let rest = lanes.iter().enumerate().filter_map(|(axis, &lane)| match axes.contains(&axis) {
            true if keeps => Some(None),
            true => None,
            false => Some(lane),
        });
        Some(rest.collect())
    }

    /// Whether a mean is one that a normalization is written out with: it is taken off what it is the mean of, or it is the
    /// mean of squares.
    fn is_statistic(&self, id: NodeId) -> bool {
        let node = self.model.node(id);
        let (Some(x), Some(mean)) = (operand(node, 0), result(node)) else { return false };
        let is_square = self.model.producer(x).is_some_and(|square| {
            let square = self.model.node(square);
            match square.op.as_str() {
                "Mul" => square.inputs[0] == square.inputs[1],
                "Pow" => square.inputs[1].is_some_and(|power| {
                    let power = self.model.constant(power);
                    power.is_some_and(|power| power.as_float() == Some(2.0) || power.as_int() == Some(2))
                }),
                _ => false,
            }
        });
        let is_taken_off = self.model.value(mean).uses.iter().any(|place| match place {
            crate::ir::Use::Node(reader, 1) => {
                let reader = self.model.node(*reader);
                reader.op == "Sub" && reader.inputs[0] == Some(x)
            }
            _ => false,
        });
        is_square || is_taken_off
    }
}

pub fn operand(node: &Node, index: usize) -> Option<ValueId> {
    node.inputs.get(index).copied().flatten()
}

pub fn result(node: &Node) -> Option<ValueId> {
    node.outputs.first().copied().flatten()
}

pub fn attribute(node: &Node, name: &str) -> Option<i64> {
    match node.attrs.get(name) {
        Some(crate::ir::Attr::Int(n)) => Some(*n),
        _ => None,
    }
}
