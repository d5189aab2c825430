//! How each operator computes the same on values that are stored in another layout: one arm for operators that share a
//! rule.
//!
//! f(x) in a layout = f'(x in that layout), where f' has other attributes or constants than f.

use rten_shape_inference::SymExpr;

use crate::ir::op::{BASE, LATEST};
use crate::ir::{Attr, DType, Model, Node, NodeId, Tensor, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss};

use super::known::Known;
use super::layout::Layout;

/// A node over values in other layouts.
pub struct Form {
    pub operands: Vec<Operand>,
    pub results: Vec<Layout>,
    pub attrs: Vec<(&'static str, Attr)>,
    /// Whether the first two operands change places.
    pub swapped: bool,
}

#[derive(Clone)]
pub enum Operand {
    Same,
    Stored(Layout),
    Replaced(Tensor),
}

/// An operand or a result of a node.
#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    Operand(usize),
    Result(usize),
}

impl Form {
    /// The form of `node` that has the value in `place` in `layout`.
    pub fn of(model: &Model, known: &Known, node: NodeId, place: Place, layout: &Layout) -> Match<Form> {
        let opset = model.opsets_of(model.node(node).graph).onnx().unwrap_or(0);
        require!(model.node(node).domain.is_empty(), "an operator of another domain has one layout");
        require!((BASE..=LATEST).contains(&opset), "the operators of this opset are not known");
        At { model, known, node: model.node(node), place, layout, rank: layout.rank() }.form()
    }

    pub fn layout(&self, place: Place) -> Option<&Layout> {
        match place {
            Place::Result(index) => self.results.get(index),
            Place::Operand(index) => match self.operands.get(index) {
                Some(Operand::Stored(layout)) => Some(layout),
                _ => None,
            },
        }
    }

    fn with(mut self, index: usize, operand: Operand) -> Form {
        if self.operands.len() <= index {
            self.operands.resize(index + 1, Operand::Same);
        }
        self.operands[index] = operand;
        self
    }

    fn set(mut self, name: &'static str, attr: Attr) -> Form {
        self.attrs.push((name, attr));
        self
    }
}

struct At<'a> {
    model: &'a Model,
    known: &'a Known,
    node: &'a Node,
    place: Place,
    layout: &'a Layout,
    rank: usize,
}

impl At<'_> {
    fn form(&self) -> Match<Form> {
        match self.node.op.as_str() {
            "Abs" | "Acos" | "Acosh" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitwiseNot" | "Ceil" | "Celu" | "Cos"
            | "Cosh" | "Elu" | "Erf" | "Exp" | "Floor" | "Gelu" | "HardSigmoid" | "HardSwish" | "Identity"
            | "IsInf" | "IsNaN" | "LeakyRelu" | "Log" | "Mish" | "Neg" | "Not" | "Reciprocal" | "Relu" | "Round"
            | "Selu" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Sinh" | "Softplus" | "Softsign" | "Sqrt" | "Swish"
            | "Tan" | "Tanh" | "ThresholdedRelu" | "Add" | "And" | "BitShift" | "BitwiseAnd" | "BitwiseOr"
            | "BitwiseXor" | "Div" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Max"
            | "Mean" | "Min" | "Mod" | "Mul" | "Or" | "Pow" | "PRelu" | "Sub" | "Sum" | "Where" | "Xor" => {
                self.elementwise()
            }
            "Cast" | "CastLike" | "Clip" => self.first(),
            "Dropout" => {
                require!(self.node.inputs.get(2).copied().flatten().is_none(), "it may be in training mode");
                self.first()
            }
            "BatchNormalization" => {
                require!(self.attr_int("training_mode", 0)? == 0, "it is in training mode");
                self.keeping(&[1])
            }
            "InstanceNormalization" | "GroupNormalization" | "GlobalAveragePool" | "GlobalMaxPool" => {
                self.keeping(&[0, 1])
            }
            "LayerNormalization" | "RMSNormalization" => {
                let from = self.axis(self.attr_int("axis", -1)?)?;
                require!(self.node.outputs.len() == 1, "its statistics are results, too");
                let narrow = |x: &ValueId| self.known.rank(self.model, *x).is_some_and(|rank| rank <= self.rank - from);
                require!(self.node.inputs.iter().skip(1).flatten().all(narrow), "its scale varies along other axes");
                self.keeping(&(from..self.rank).collect::<Vec<_>>())
            }
            "Softmax" | "LogSoftmax" | "Hardmax" | "LpNormalization" | "TopK" => self.along("axis", -1),
            "Split" => self.along("axis", 0),
            "QuantizeLinear" | "DequantizeLinear" => self.quantization(),
            "ArgMax" | "ArgMin" => {
                let axis = self.axis(self.attr_int("axis", 0)?)?;
                let form = self.reduced(&[axis])?;
                Ok(form.set("axis", Attr::Int(self.layout.place(axis) as i64)))
            }
            "ReduceMax" | "ReduceMin" | "ReduceMean" | "ReduceSum" | "ReduceProd" | "ReduceL1" | "ReduceL2"
            | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => self.reduction(),
            "CumSum" => {
                let axis = self.axes(1)?;
                let at = Tensor::scalar(self.layout.place(axis[0]) as i64);
                Ok(self.first()?.with(1, Operand::Replaced(at)))
            }
            "Concat" => {
                let axis = self.axis(self.attr_int("axis", 0)?)?;
                let form = self.elementwise()?;
                let whole = |operand: &Option<ValueId>| {
                    operand.is_some_and(|x| self.known.rank(self.model, x) == Some(self.rank))
                };
                require!(self.node.inputs.iter().all(whole), "its operands have other ranks");
                let stored =
                    Form { operands: vec![Operand::Stored(self.layout.clone()); self.node.inputs.len()], ..form };
                self.node.inputs.iter().flatten().try_for_each(|&x| self.check_constant(x))?;
                Ok(stored.set("axis", Attr::Int(self.layout.place(axis) as i64)))
            }
            "Slice" => {
                let axes = match self.operand(3) {
                    Some(_) => self.axes(3)?,
                    None => (0..self.ints(1)?.len()).collect(),
                };
                // All parameters are of one type.
                let of_type = self.operand(3).or(self.operand(1)).and_then(|x| self.model.constant(x));
                let axes = self.layout.places(&axes);
                let axes = match of_type.map(Tensor::dtype) {
                    Some(DType::I32) => {
                        Tensor::from_vec(vec![axes.len()], axes.iter().map(|&axis| axis as i32).collect())
                    }
                    _ => Tensor::from_ints(&axes),
                };
                Ok(self.first()?.with(3, Operand::Replaced(axes)))
            }
            "Pad" if self.operand(3).is_some() => {
                let axes = self.axes(3)?;
                Ok(self.first()?.with(3, Operand::Replaced(self.stored_axes(&axes))))
            }
            "Pad" => {
                let pads = self.ints(1)?;
                require!(pads.len() == 2 * self.rank, "it does not pad as many axes as it says");
                let (before, after) = pads.split_at(self.rank);
                let pads = [self.layout.stored(before), self.layout.stored(after)].concat();
                Ok(self.first()?.with(1, Operand::Replaced(Tensor::from_ints(&pads))))
            }
            "Expand" | "Tile" => self.by_axis(1),
            "Resize" => self.resize(),
            "Gather" => self.gather(),
            "Squeeze" => {
                require!(self.operand(1).is_some(), "which axes it removes depends on the shape");
                let axes = self.axes(1)?;
                let form = self.removing(&axes)?;
                Ok(form.with(1, Operand::Replaced(self.stored_axes(&axes))))
            }
            "Unsqueeze" => {
                require!(self.place == Place::Result(0), "it may put its axes anywhere");
                let axes = self.axes(1)?;
                let form = Form { operands: vec![Operand::Stored(self.layout.without(&axes))], ..self.all() };
                Ok(form.with(1, Operand::Replaced(self.stored_axes(&axes))))
            }
            "MatMul" => self.product(),
            _ => Err(Miss("an operator that works on axes in their places")),
        }
    }

    /// All results in the layout, and operands yet to be said.
    fn all(&self) -> Form {
        let results = vec![self.layout.clone(); self.node.outputs.len()];
        Form { operands: Vec::new(), results, attrs: Vec::new(), swapped: false }
    }

    /// The first operand and all results are in the layout, the other operands are as they were.
    fn first(&self) -> Match<Form> {
        require!(
            matches!(self.place, Place::Operand(0) | Place::Result(_)),
            "a parameter is no operand to be stored otherwise"
        );
        if let Some(x) = self.operand(0) {
            self.check_constant(x)?;
        }
        Ok(self.all().with(0, Operand::Stored(self.layout.clone())))
    }

    /// [`first`](At::first), for operators that need some axes in their places.
    fn keeping(&self, axes: &[usize]) -> Match<Form> {
        require!(axes.iter().all(|&axis| self.layout.keeps(axis)), "it needs the axes that move in their places");
        self.first()
    }

    /// [`first`](At::first), along one axis.
    fn along(&self, name: &'static str, default: i64) -> Match<Form> {
        let axis = self.axis(self.attr_int(name, default)?)?;
        Ok(self.first()?.set(name, Attr::Int(self.layout.place(axis) as i64)))
    }

    /// All operands broadcast to the result.
    fn elementwise(&self) -> Match<Form> {
        let Some(&Some(result)) = self.node.outputs.first() else { return Err(Miss("it has no result")) };
        require!(self.known.rank(self.model, result) == Some(self.rank), "it adds axes to its operand");
        let operands: Vec<_> = self
            .node
            .inputs
            .iter()
            .map(|&operand| operand.map_or(Ok(Operand::Same), |operand| self.broadcast(operand)))
            .collect::<Match<_>>()?;
        Ok(Form { operands, ..self.all() })
    }

    fn broadcast(&self, operand: ValueId) -> Match<Operand> {
        let rank = self.known.rank(self.model, operand).ok_or(Miss("its rank is not known"))?;
        let constant = self.model.constant(operand);
        let one = rank == 0 || constant.is_some_and(|tensor| tensor.len() == 1);
        if one {
            return Ok(Operand::Same);
        }
        require!(rank == self.rank || constant.is_some(), "an operand with fewer axes is no constant");
        self.check_constant(operand)?;
        Ok(Operand::Stored(self.layout.clone()))
    }

    /// That `operand` is no constant that would have to be stored twice.
    fn check_constant(&self, operand: ValueId) -> Match<()> {
        let Some(tensor) = self.model.constant(operand) else { return Ok(()) };
        let missing = self.rank - tensor.rank().min(self.rank);
        let is_one = |axis: usize| axis < missing || tensor.shape()[axis - missing] == 1;
        let (shared, view) = (self.model.value(operand).uses.len() > 1, self.layout.is_view(is_one));
        require!(view || !shared, "a constant is read elsewhere, too");
        require!(view || tensor.dtype().bits() % 8 == 0, "a constant is packed");
        Ok(())
    }

    fn quantization(&self) -> Match<Form> {
        let scale = self.operand(1).ok_or(Miss("it has no scale"))?;
        require!(self.attr_int("block_size", 0)? == 0, "its scales are blocks of a layout");
        let number =
            self.known.rank(self.model, scale) == Some(0) || self.model.constant(scale).is_some_and(|s| s.len() == 1);
        if number { self.first() } else { self.along("axis", 1) }
    }

    fn reduction(&self) -> Match<Form> {
        if self.operand(1).is_none() {
            require!(self.attr_int("noop_with_empty_axes", 0)? == 0, "it reduces nothing");
            return self.reduced(&(0..self.rank).collect::<Vec<_>>());
        }
        let axes = self.axes(1)?;
        require!(!axes.is_empty(), "it names no axes");
        Ok(self.reduced(&axes)?.with(1, Operand::Replaced(self.stored_axes(&axes))))
    }

    /// The first operand without `axes`, or with length 1 there.
    fn reduced(&self, axes: &[usize]) -> Match<Form> {
        match self.attr_int("keepdims", 1)? {
            0 => self.removing(axes),
            _ => self.first(),
        }
    }

    /// The first operand without `axes`.
    fn removing(&self, axes: &[usize]) -> Match<Form> {
        require!(self.place == Place::Operand(0), "the axes that it removes may have been anywhere");
        let form = self.first()?;
        Ok(Form { results: vec![self.layout.without(axes); self.node.outputs.len()], ..form })
    }

    /// A constant operand with one number for each axis.
    fn by_axis(&self, index: usize) -> Match<Form> {
        let numbers = self.ints(index)?;
        require!(numbers.len() == self.rank, "it adds axes to its operand");
        let operand = self.operand(0).and_then(|x| self.known.rank(self.model, x));
        require!(operand == Some(self.rank), "it adds axes to its operand");
        Ok(self.first()?.with(index, Operand::Replaced(Tensor::from_ints(&self.layout.stored(&numbers)))))
    }

    fn gather(&self) -> Match<Form> {
        let axis = self.axis(self.attr_int("axis", 0)?)?;
        let indices = self.operand(1).and_then(|x| self.known.rank(self.model, x));
        let form = match indices {
            Some(0) => self.removing(&[axis])?,
            Some(1) => self.first()?,
            _ => return Err(Miss("its indices add axes")),
        };
        Ok(form.set("axis", Attr::Int(self.layout.place(axis) as i64)))
    }

    /// Runtimes interpolate the last axes only.
    fn resize(&self) -> Match<Form> {
        require!(
            self.operand(1).is_none_or(|roi| self.model.constant(roi).is_some_and(Tensor::is_empty)),
            "it may crop to a region"
        );
        require!(!self.node.attrs.contains_key("axes"), "it names the axes that it resizes");
        let mode = match self.node.attrs.get("mode") {
            None => &b"nearest"[..],
            Some(Attr::Str(mode)) => mode,
            Some(_) => return Err(Miss("its mode is set from outside")),
        };
        let lengths =
            self.operand(0).and_then(|x| self.known.lengths(self.model, x)).ok_or(Miss("its rank is not known"))?;
        let scales =
            self.operand(2).filter(|&scales| self.model.constant(scales).is_none_or(|scales| !scales.is_empty()));
        let (index, replaced, kept) = match scales {
            Some(scales) => {
                let scales =
                    self.model.constant(scales).and_then(Tensor::floats).ok_or(Miss("its scales are no constant"))?;
                require!(scales.len() == self.rank, "it names the axes that it resizes");
                let kept = (0..self.rank).map(|axis| scales[axis] == 1.0).collect::<Vec<_>>();
                (2, Tensor::from_vec(vec![self.rank], self.layout.stored(&scales)), kept)
            }
            None => {
                let sizes = self.ints(3)?;
                require!(sizes.len() == self.rank, "it names the axes that it resizes");
                let kept = (0..self.rank)
                    .map(|axis| i32::try_from(sizes[axis]).is_ok_and(|n| lengths[axis] == SymExpr::Value(n)));
                let kept = kept.collect::<Vec<_>>();
                (3, Tensor::from_ints(&self.layout.stored(&sizes)), kept)
            }
        };
        let kept = self.layout.stored(&kept);
        require!(
            mode == b"nearest" || kept.iter().take(2).all(|&kept| kept),
            "it would interpolate other axes than the last"
        );
        Ok(self.first()?.with(index, Operand::Replaced(replaced)))
    }

    /// A matrix on the right acts on the last axis of what is on the left, wherever the others are. In a product of stacks
    /// the stacks may be in any order, and Bᵀ·Aᵀ = (A·B)ᵀ.
    fn product(&self) -> Match<Form> {
        let ranks = [0, 1].map(|index| self.operand(index).and_then(|x| self.known.rank(self.model, x)));
        let (last, stored) = (self.rank - 1, Operand::Stored(self.layout.clone()));
        if ranks == [Some(self.rank), Some(2)] && self.rank > 2 {
            require!(self.layout.keeps(last), "it multiplies along the axes that move");
            return self.first();
        }
        require!(ranks == [Some(self.rank); 2] && self.rank >= 2, "its operands have other ranks");
        let both = Form { operands: vec![stored.clone(), stored], ..self.all() };
        if self.layout.keeps(last) && self.layout.keeps(last - 1) {
            self.node.inputs.iter().flatten().try_for_each(|&x| self.check_constant(x))?;
            return Ok(both);
        }
        let crossed = self.layout.place(last) == last - 1 && self.layout.place(last - 1) == last;
        require!(crossed, "it multiplies along the axes that move");
        let constant = self.node.inputs.iter().flatten().any(|&x| self.model.constant(x).is_some());
        require!(!constant, "a weight stays on its side of the product");
        Ok(Form { swapped: true, ..both })
    }

    fn operand(&self, index: usize) -> Option<ValueId> {
        self.node.inputs.get(index).copied().flatten()
    }

    fn ints(&self, index: usize) -> Match<Vec<i64>> {
        let tensor = self.operand(index).and_then(|x| self.model.constant(x));
        tensor.and_then(Tensor::ints).ok_or(Miss("its parameter is no constant"))
    }

    /// The constant axes in operand `index`, counted from the front.
    fn axes(&self, index: usize) -> Match<Vec<usize>> {
        let axes: Vec<usize> = self.ints(index)?.into_iter().map(|axis| self.axis(axis)).collect::<Match<_>>()?;
        require!(!axes.is_empty(), "it names no axes");
        Ok(axes)
    }

    fn axis(&self, axis: i64) -> Match<usize> {
        let counted = if axis < 0 { axis + self.rank as i64 } else { axis };
        usize::try_from(counted).ok().filter(|&axis| axis < self.rank).ok_or(Miss("no such axis"))
    }

    fn stored_axes(&self, axes: &[usize]) -> Tensor {
        Tensor::from_ints(&self.layout.places(axes))
    }

    fn attr_int(&self, name: &str, default: i64) -> Match<i64> {
        match self.node.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Int(int)) => Ok(*int),
            Some(_) => Err(Miss("an attribute is set from outside")),
        }
    }
}
