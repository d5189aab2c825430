//! Operators of ours in tract.
//!
//! [`Operator`] is what one has to tell, [`Execute`] where it has one result, [`Stateless`] where it has nothing to prepare;
//! [`Fused`] makes a tract operator of it. Constants are taken when a plan is made: packed once, shared by all runs, and no
//! longer operands.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;

use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::internal::{Expansion, InferenceOp, InferenceResult, Solver, TensorProxy, expand};

use super::memory::{self, Number};
use crate::ir::{self, Attr, Attrs, Id, Model, Operation, ValueId};

/// Makes tract know the operator.
pub(super) fn register<O: Operator>(onnx: &mut Onnx) {
    onnx.op_register.insert(O::NAME, build::<O>);
}

/// An operator of ours, as far as it differs from others. Operands are called by the ids that the view has.
pub(super) trait Execute: ir::Op + Clone + fmt::Debug + Send + Sync + 'static {
    /// What is made of the constants once.
    type Prepared: Send + Sync + 'static;

    /// The operands that `prepare` takes where they are constant; it fails without those that it needs.
    fn constants(&self) -> Vec<ValueId> {
        Vec::new()
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Self::Prepared>;

    fn result_type(&self) -> DatumType;

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>>;

    fn run(&self, prepared: &Self::Prepared, operands: &Operands) -> TractResult<Tensor>;
}

/// An operator of ours that takes nothing from constants, and has nothing to prepare.
pub(super) trait Stateless: ir::Op + Clone + fmt::Debug + Send + Sync + 'static {
    fn result_type(&self) -> DatumType;

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>>;

    fn run(&self, operands: &Operands) -> TractResult<Tensor>;
}

impl<O: Stateless> Execute for O {
    type Prepared = ();

    fn prepare(&self, _: &Constants, _: &Shapes) -> TractResult<()> {
        Ok(())
    }

    fn result_type(&self) -> DatumType {
        Stateless::result_type(self)
    }

    fn result_shape(&self, shapes: &Shapes) -> TractResult<TVec<TDim>> {
        Stateless::result_shape(self, shapes)
    }

    fn run(&self, _: &(), operands: &Operands) -> TractResult<Tensor> {
        Stateless::run(self, operands)
    }
}

/// An operator of ours with any number of results, all of them there: what is not wanted has no elements.
pub(super) trait Operator: ir::Op + Clone + fmt::Debug + Send + Sync + 'static {
    /// As in [`Execute`].
    type Prepared: Send + Sync + 'static;

    const RESULTS: usize = 1;

    fn constants(&self) -> Vec<ValueId>;

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Self::Prepared>;

    /// The type and shape of each.
    fn results(&self, shapes: &Shapes) -> TractResult<TVec<(DatumType, TVec<TDim>)>>;

    fn run(&self, prepared: &Self::Prepared, operands: &Operands) -> TractResult<TVec<Tensor>>;
}

impl<O: Execute> Operator for O {
    type Prepared = <O as Execute>::Prepared;

    fn constants(&self) -> Vec<ValueId> {
        Execute::constants(self)
    }

    fn prepare(&self, constants: &Constants, shapes: &Shapes) -> TractResult<Self::Prepared> {
        Execute::prepare(self, constants, shapes)
    }

    fn results(&self, shapes: &Shapes) -> TractResult<TVec<(DatumType, TVec<TDim>)>> {
        Ok(tvec!((self.result_type(), self.result_shape(shapes)?)))
    }

    fn run(&self, prepared: &Self::Prepared, operands: &Operands) -> TractResult<TVec<Tensor>> {
        Ok(tvec!(Execute::run(self, prepared, operands)?))
    }
}

/// The shapes of all operands.
pub(super) struct Shapes<'a>(&'a [TVec<TDim>]);

impl Index<ValueId> for Shapes<'_> {
    type Output = [TDim];
    fn index(&self, operand: ValueId) -> &[TDim] {
        &self.0[operand.index()]
    }
}

/// The constant operands.
pub(super) struct Constants<'a>(&'a [Option<Arc<Tensor>>]);

impl Constants<'_> {
    pub(super) fn elements<T: Datum>(&self, operand: ValueId) -> TractResult<&[T]> {
        let tensor: &Tensor = self.tensor(operand)?;
        tensor.try_as_plain_ram()?.as_slice::<T>()
    }

    pub(super) fn tensor(&self, operand: ValueId) -> TractResult<&Tensor> {
        Ok(self.0[operand.index()].as_ref().context("an operand that is not constant")?)
    }

    pub(super) fn has(&self, operand: ValueId) -> bool {
        self.0[operand.index()].is_some()
    }
}

/// The operands that are computed.
pub(super) struct Operands<'a> {
    places: &'a [Option<usize>],
    values: &'a [TValue],
}

impl Operands<'_> {
    pub(super) fn tensor(&self, operand: ValueId) -> &Tensor {
        &self.values[self.places[operand.index()].expect("a constant is no longer an operand")]
    }

    pub(super) fn shape(&self, operand: ValueId) -> &[usize] {
        self.tensor(operand).shape()
    }

    pub(super) fn elements<T: Datum>(&self, operand: ValueId) -> TractResult<&[T]> {
        self.tensor(operand).try_as_plain_ram()?.as_slice::<T>()
    }
}

/// Builds the operator from a node, as tract's table of operators wants it.
fn build<O: Operator>(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let operator = view::<O>(node)?;
    Ok((expand(Unprepared(operator)), Vec::new()))
}

/// The view of a node, whose operands it calls by their place among those that are there.
fn view<O: ir::Op>(node: &NodeProto) -> TractResult<O> {
    let mut model = Model::new("");
    model.opsets.0.insert(O::DOMAIN.into(), *O::OPSETS.end());
    let main = model.main;
    let inputs = node.input.iter().map(|name| (!name.is_empty()).then(|| model.add_input(main, name))).collect();
    let mut attrs = Attrs::new();
    for attr in &node.attribute {
        let kind = AttributeType::try_from(attr.r#type);
        let value = match kind {
            Ok(AttributeType::Float) => Attr::Float(attr.f),
            Ok(AttributeType::Floats) => Attr::Floats(attr.floats.clone()),
            Ok(AttributeType::Int) => Attr::Int(attr.i),
            Ok(AttributeType::Ints) => Attr::Ints(attr.ints.clone()),
            Ok(AttributeType::String) => Attr::Str(attr.s.clone().into()),
            _ => bail!("{} with an attribute `{}` of {kind:?}", O::NAME, attr.name),
        };
        attrs.insert(attr.name.clone(), value);
    }
    let operation = Operation { domain: O::DOMAIN.into(), op: O::NAME.into(), inputs, attrs, ..Operation::default() };
    let result = model.append(main, "", operation);
    let node = model.producer(result).expect("just made");
    model.view(node).with_context(|| format!("{} with unknown operands or attributes", O::NAME))
}

/// The operator before it has its constants.
#[derive(Clone, Debug)]
struct Unprepared<O>(O);

impl<O: Operator> Expansion for Unprepared<O> {
    fn name(&self) -> StaticName {
        O::NAME.into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(O::RESULTS)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        solver.given_all(inputs.iter().map(|input| &input.shape), move |solver, shapes| {
            for (output, (datum_type, shape)) in outputs.iter().zip(self.0.results(&Shapes(&shapes))?) {
                solver.equals(&output.datum_type, datum_type)?;
                solver.equals(&output.shape, shape)?;
            }
            Ok(())
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let wanted: Vec<usize> = self.0.constants().iter().map(|operand| operand.index()).collect();
        let (mut open, mut places, mut known, mut shapes, mut fixed) =
            (TVec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, &input) in inputs.iter().enumerate() {
            let fact = model.outlet_fact(input)?;
            let is_taken = fact.konst.is_some() && wanted.contains(&index);
            fixed.push(is_taken.then(|| fact.shape.to_tvec()));
            shapes.push(fact.shape.to_tvec());
            known.push(fact.konst.clone());
            places.push((!is_taken).then_some(open.len()));
            if !is_taken {
                open.push(input);
            }
        }
        let prepared = self.0.prepare(&Constants(&known), &Shapes(&shapes))?;
        let fused = Fused { operator: self.0.clone(), places, fixed, prepared: Arc::new(prepared) };
        model.wire_node(prefix, fused, &open)
    }
}

/// The operator with its constants.
struct Fused<O: Operator> {
    operator: O,
    /// Where the operands that are not constant stand.
    places: Vec<Option<usize>>,
    /// The shapes of the constants.
    fixed: Vec<Option<TVec<TDim>>>,
    prepared: Arc<O::Prepared>,
}

impl<O: Operator> Clone for Fused<O> {
    fn clone(&self) -> Self {
        Fused {
            operator: self.operator.clone(),
            places: self.places.clone(),
            fixed: self.fixed.clone(),
            prepared: self.prepared.clone(),
        }
    }
}

impl<O: Operator> fmt::Debug for Fused<O> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.operator.fmt(f)
    }
}

/// Equal are only copies of one operator.
impl<O: Operator> PartialEq for Fused<O> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.prepared, &other.prepared)
    }
}

impl<O: Operator> Eq for Fused<O> {}

impl<O: Operator> Op for Fused<O> {
    fn name(&self) -> StaticName {
        O::NAME.into()
    }
    op_as_typed_op!();
}

impl<O: Operator> EvalOp for Fused<O> {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let operands = Operands { places: &self.places, values: &inputs };
        let results = self.operator.run(&self.prepared, &operands)?;
        Ok(results.into_iter().map(IntoTValue::into_tvalue).collect())
    }
}

impl<O: Operator> TypedOp for Fused<O> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let shape = |(place, fixed): (&Option<usize>, &Option<TVec<TDim>>)| match (place, fixed) {
            (Some(place), _) => inputs[*place].shape.to_tvec(),
            (None, fixed) => fixed.clone().expect("an operand is computed or constant"),
        };
        let shapes: Vec<_> = self.places.iter().zip(&self.fixed).map(shape).collect();
        let results = self.operator.results(&Shapes(&shapes))?;
        Ok(results.into_iter().map(|(datum_type, shape)| datum_type.fact(&*shape)).collect())
    }
    as_op!();
}

/// A tensor whose elements `fill` writes, all of them, before it reads any.
pub(super) fn filled<T: Number>(shape: &[usize], fill: impl FnOnce(&mut [T])) -> TractResult<Tensor> {
    let mut tensor = memory::unwritten::<T>(shape)?;
    fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<T>()?);
    Ok(tensor)
}

/// A tensor of zeros, of which `fill` writes what is something else.
pub(super) fn zeroed(shape: &[usize], fill: impl FnOnce(&mut [f32])) -> TractResult<Tensor> {
    let mut tensor = Tensor::zero_dt(f32::datum_type(), shape)?;
    fill(tensor.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?);
    Ok(tensor)
}

/// Puts an operator in the place of every `O` that `ours` knows by the facts of its operands and its result.
pub(super) fn replace<O: Op, N: Into<Box<dyn TypedOp>>>(
    model: &mut TypedModel,
    ours: impl Fn(&O, &[&TypedFact], &TypedFact) -> Option<N>,
) -> TractResult<()> {
    let found: Vec<usize> = model.nodes().iter().filter(|node| node.op_is::<O>()).map(|node| node.id).collect();
    for id in found {
        let node = model.node(id);
        let replacement = {
            let facts = model.node_input_facts(id)?;
            node.op_as::<O>().and_then(|op| ours(op, &facts, &node.outputs[0].fact))
        };
        if let Some(replacement) = replacement {
            TypedModelPatch::replace_single_op(model, node, &node.inputs, replacement)?.apply(model)?;
        }
    }
    model.compact()
}

/// Elements between neighbours along each axis.
pub(super) fn strides(shape: &[usize]) -> TVec<usize> {
    let mut strides: TVec<usize> = shape.into();
    let mut step = 1;
    for stride in strides.iter_mut().rev() {
        step *= std::mem::replace(stride, step);
    }
    strides
}
