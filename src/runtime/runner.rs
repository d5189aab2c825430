//! Plans for concrete shapes, and running them.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};

use indexmap::IndexSet;
use rayon::prelude::*;
use tract_onnx::prelude::{
    InferenceFact, InferenceModel, InferenceModelExt, IntoTValue, TValue, TVec, TractResult, TypedFact,
    TypedRunnableModel, TypedSimplePlan,
};
use tract_onnx::tract_core::internal::bail;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_hir::infer::{Factoid, InferenceOp};

use super::encode::{Encoded, Input, encode};
use super::profile::{self, Labels, NodeTime};
use super::tensor::{datum_type, from_tract, to_tract};
use super::{
    Execution, RuntimeError, blocked, chains, dequantize_linear, duplicates, extremes, int8, products, quantize,
    reshapes, softmax, sums,
};
use crate::ir::{DType, Model, Size, Tensor, Type, TypeKind, ValueDef, ValueId};

/// The plans that a runner keeps. A plan holds its own copy of the weights in the layout of its kernels.
const PLANS: usize = 4;

/// A model ready to run. It can be shared between threads: each call runs with a state of its own. What a quantized model
/// says about integers is computed in integers, unless the [`Execution`] says otherwise.
///
/// tract works with shapes that it knows: a plan is made when inputs of new shapes come, which takes as long as some
/// runs, and the last few are kept. How many samples run at a time is decided by the rayon pool that calls
/// [`run_many`](Runner::run_many).
pub struct Runner {
    inputs: Vec<Declared>,
    pub(super) outputs: Vec<Output>,
    /// None where no output needs a node.
    pub(super) template: Option<Template>,
    plans: Mutex<Vec<(Key, Slot)>>,
    lowered: Vec<String>,
    /// Whether plans are made for the values of small inputs, since tract needs some of them: shapes, axes, scales.
    by_value: AtomicBool,
}

struct Declared {
    label: String,
    dtype: Option<DType>,
    lengths: Option<Vec<Size>>,
    default: Option<Tensor>,
}

pub(super) enum Output {
    Constant(Tensor),
    Input(usize),
    Computed(usize),
}

/// The model before shapes are known. Constants are shared by all plans that come of it.
#[derive(Clone)]
pub(super) struct Template {
    model: InferenceModel,
    /// The nodes of tract that the model's inputs are.
    inputs: Vec<usize>,
    labels: Arc<Labels>,
    /// Whether products, sums and elementwise operators are those of [`products`], [`sums`] and [`chains`].
    is_for_training: bool,
}

/// What a plan is made for, input by input.
pub(super) type Key = Vec<Known>;

#[derive(Clone, PartialEq)]
pub(super) enum Known {
    Default,
    Shape(DType, Vec<usize>),
    Value(Tensor),
}

pub(super) type Plan = Arc<TypedRunnableModel>;
type Slot = Arc<OnceLock<Result<Plan, RuntimeError>>>;

impl Runner {
    /// # Errors
    /// If tract lacks an operator, attribute or type of `model`: the error names the node.
    pub fn new(model: &Model) -> Result<Runner, RuntimeError> {
        Runner::with_outputs(model, &model.graph(model.main).outputs)
    }

    /// Runs only what `outputs` need: values of the main graph, in any order.
    pub fn with_outputs(model: &Model, outputs: &[ValueId]) -> Result<Runner, RuntimeError> {
        Runner::with(model, outputs, &Execution::default())
    }

    /// [`with_outputs`](Runner::with_outputs), run as `execution` says.
    pub fn with(model: &Model, outputs: &[ValueId], execution: &Execution) -> Result<Runner, RuntimeError> {
        let lowered = int8::lower(model, outputs, execution);
        let model = lowered.as_ref().unwrap_or(model);
        let blocks = execution.blocks.then(|| blocked::lower(model, outputs));
        let (model, outputs) = blocks.as_ref().map_or((model, outputs), |(model, outputs)| (model, &outputs[..]));
        let graph = model.graph(model.main);
        let mut computed = IndexSet::new();
        let mut from = Vec::new();
        for &value in outputs {
            from.push(match &model.value(value).def {
                ValueDef::Constant(tensor) => Output::Constant(tensor.clone()),
                ValueDef::Input { .. } => {
                    let index = graph.inputs.iter().position(|&input| input == value);
                    Output::Input(index.expect("outputs are values of the main graph"))
                }
                ValueDef::Sparse(_) => {
                    let name = &model.value(value).name;
                    return Err(RuntimeError::UnsupportedValue(format!("its output `{name}` is a sparse constant")));
                }
                ValueDef::Node(_) => Output::Computed(computed.insert_full(value).0),
            });
        }
        let encoded = encode(model, &computed.iter().copied().collect::<Vec<_>>())?;
        let inputs = encoded.inputs.iter().map(|input| Declared::of(model, input)).collect();
        let template = match computed.is_empty() {
            true => None,
            false => Some(Template::parse(encoded, execution.blocks)?),
        };
        Ok(Runner {
            inputs,
            outputs: from,
            template,
            plans: Mutex::default(),
            lowered: lowered.iter().flat_map(int8::lowered_nodes).collect(),
            by_value: AtomicBool::new(false),
        })
    }

    /// The operators that run in integers, with the names of the nodes that they come of.
    pub fn int8_nodes(&self) -> &[String] {
        &self.lowered
    }

    /// Runs the model on one sample. `inputs` stand in the order of the graph's inputs; those that have a default may be
    /// left out, all together.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RuntimeError> {
        self.run_with(inputs, |_, plan, inputs| plan.run(inputs))
    }

    /// [`run`](Runner::run) with the time of each node, in the order they ran.
    pub fn profile(&self, inputs: &[Tensor]) -> Result<(Vec<Tensor>, Vec<NodeTime>), RuntimeError> {
        let mut times = Vec::new();
        let outputs = self.run_with(inputs, |template, plan, inputs| {
            let (outputs, of_nodes) = profile::run(plan, inputs, &template.labels)?;
            times = of_nodes;
            Ok(outputs)
        })?;
        Ok((outputs, times))
    }

    /// Makes the plan for inputs like these, so that the next run does not take longer for it.
    pub fn prepare(&self, inputs: &[Tensor]) -> Result<(), RuntimeError> {
        let given = self.assign(inputs)?;
        match &self.template {
            Some(template) if !self.inputs.is_empty() => self.plan(template, &given).map(drop),
            _ => Ok(()),
        }
    }

    fn run_with(
        &self,
        inputs: &[Tensor],
        run: impl FnOnce(&Template, &Plan, TVec<TValue>) -> TractResult<TVec<TValue>>,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let given = self.assign(inputs)?;
        let computed = match &self.template {
            None => Vec::new(),
            Some(template) => match template.follows_from_constants(&self.inputs)? {
                Some(results) => results,
                None => self.run_plan(template, &given, run)?,
            },
        };
        let outputs = self.outputs.iter().map(|output| match output {
            Output::Constant(tensor) => Ok(tensor.clone()),
            Output::Computed(index) => Ok(computed[*index].clone()),
            Output::Input(index) => {
                let default = self.inputs[*index].default.as_ref();
                Ok(given[*index].or(default).expect("an input without a default is given").clone())
            }
        });
        outputs.collect()
    }

    fn run_plan(
        &self,
        template: &Template,
        given: &[Option<&Tensor>],
        run: impl FnOnce(&Template, &Plan, TVec<TValue>) -> TractResult<TVec<TValue>>,
    ) -> Result<Vec<Tensor>, RuntimeError> {
        let (key, plan) = self.plan(template, given)?;
        let open = key.iter().zip(self.inputs.iter().zip(given)).filter(|(of, _)| matches!(of, Known::Shape(..)));
        let inputs: TVec<_> = open
            .map(|(_, (input, tensor))| {
                let tensor = tensor.and_then(to_tract);
                Ok(tensor.ok_or_else(|| input.wrong("has strings that are not UTF-8"))?.into_tvalue())
            })
            .collect::<Result<_, RuntimeError>>()?;
        guarded(|| run(template, &plan, inputs)?.into_iter().map(from_tract).collect())
    }

    /// Runs the model on each sample, several at a time, and returns the results in their order.
    pub fn run_many(&self, samples: &[Vec<Tensor>]) -> Result<Vec<Vec<Tensor>>, RuntimeError> {
        samples.par_iter().map(|sample| self.run(sample)).collect()
    }

    /// The given tensor of each input, none where its default holds.
    fn assign<'t>(&self, inputs: &'t [Tensor]) -> Result<Vec<Option<&'t Tensor>>, RuntimeError> {
        let required = self.inputs.iter().filter(|input| input.default.is_none()).count();
        let all = inputs.len() == self.inputs.len();
        if !all && inputs.len() != required {
            let names: Vec<_> = self.inputs.iter().map(|input| input.label.as_str()).collect();
            return Err(RuntimeError::Input(format!(
                "count is {}, but the model takes {} ({})",
                inputs.len(),
                self.inputs.len(),
                names.join(", ")
            )));
        }
        let mut rest = inputs.iter();
        let given: Vec<_> =
            self.inputs.iter().map(|input| if all || input.default.is_none() { rest.next() } else { None }).collect();
        let mut symbols = HashMap::new();
        for (input, tensor) in self.inputs.iter().zip(&given) {
            if let Some(tensor) = tensor {
                input.accept(tensor, &mut symbols)?;
            }
        }
        Ok(given)
    }

    /// A plan for what is given, and what it was made for.
    fn plan(&self, template: &Template, given: &[Option<&Tensor>]) -> Result<(Key, Plan), RuntimeError> {
        let key = |by_value| -> Key {
            let known = |tensor: &Option<&Tensor>| match tensor {
                None => Known::Default,
                Some(tensor) if by_value && is_parameter(tensor) => Known::Value((*tensor).clone()),
                Some(tensor) => Known::Shape(tensor.dtype(), tensor.shape().to_vec()),
            };
            given.iter().map(known).collect()
        };
        let by_value = self.by_value.load(Ordering::Relaxed);
        match self.cached(template, key(by_value)) {
            Err(error) if !by_value && given.iter().flatten().any(|tensor| is_parameter(tensor)) => {
                let plan = self.cached(template, key(true)).map_err(|_| error)?;
                self.by_value.store(true, Ordering::Relaxed);
                Ok(plan)
            }
            plan => plan,
        }
    }

    /// The plan for `key`, made where there is none yet.
    pub(super) fn cached(&self, template: &Template, key: Key) -> Result<(Key, Plan), RuntimeError> {
        let slot = {
            let mut plans = self.plans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let known = plans.iter().position(|(of, _)| *of == key);
            let entry = known.map_or_else(|| (key.clone(), Slot::default()), |index| plans.remove(index));
            let slot = entry.1.clone();
            plans.push(entry);
            if plans.len() > PLANS {
                plans.remove(0);
            }
            slot
        };
        let plan = slot.get_or_init(|| guarded(|| template.plan(&self.inputs, &key))).clone()?;
        Ok((key, plan))
    }
}

/// Whether `tensor` may be a shape, an axis or a scale.
fn is_parameter(tensor: &Tensor) -> bool {
    tensor.rank() <= 1 && tensor.len() <= 64
}

impl Declared {
    fn of(model: &Model, input: &Input) -> Declared {
        let value = model.value(input.value);
        let ty = value.ty.as_ref().map(|ty: &Type| &ty.kind);
        let tensor = match ty {
            Some(TypeKind::Tensor(tensor)) => Some(tensor),
            _ => None,
        };
        Declared {
            label: format!("`{}`", value.name),
            dtype: tensor.and_then(|tensor| tensor.dtype),
            lengths: tensor.and_then(|tensor| Some(tensor.shape.as_ref()?.iter().map(|d| d.size.clone()).collect())),
            default: input.default.clone(),
        }
    }

    fn wrong(&self, what: &str) -> RuntimeError {
        RuntimeError::Input(format!("{} {what}", self.label))
    }

    /// Compares a given tensor with the declaration; equal symbols must be equal lengths.
    fn accept<'a>(&'a self, tensor: &Tensor, symbols: &mut HashMap<&'a str, usize>) -> Result<(), RuntimeError> {
        if let Some(dtype) = self.dtype.filter(|&dtype| dtype != tensor.dtype()) {
            return Err(self.wrong(&format!("takes {dtype}, but {} is given", tensor.dtype())));
        }
        if datum_type(tensor.dtype()).is_none() {
            return Err(self.wrong(&format!("is given as {}, which tract does not have", tensor.dtype())));
        }
        let Some(lengths) = &self.lengths else { return Ok(()) };
        let fits = lengths.len() == tensor.rank()
            && lengths.iter().zip(tensor.shape()).all(|(declared, &given)| match declared {
                Size::Fixed(n) => usize::try_from(*n).is_ok_and(|n| n == given) || *n < 0,
                Size::Symbol(name) => *symbols.entry(name).or_insert(given) == given,
                Size::Unknown => true,
            });
        match fits {
            true => Ok(()),
            false => {
                let lengths: Vec<_> = lengths
                    .iter()
                    .map(|size| match size {
                        Size::Fixed(n) => n.to_string(),
                        Size::Symbol(name) => name.clone(),
                        Size::Unknown => "?".into(),
                    })
                    .collect();
                Err(self.wrong(&format!("takes shape [{}], but {:?} is given", lengths.join(", "), tensor.shape())))
            }
        }
    }
}

impl Template {
    fn parse(encoded: Encoded, is_for_training: bool) -> Result<Template, RuntimeError> {
        let Encoded { proto, inputs, constants, labels } = encoded;
        guarded(move || {
            let mut onnx = tract_onnx::onnx().with_ignore_value_info(true);
            onnx.op_register.insert("QuantizeLinear", quantize::build);
            onnx.op_register.insert("DequantizeLinear", dequantize_linear::build);
            onnx.op_register.insert("DynamicQuantizeLinear", quantize::build_dynamic);
            int8::register(&mut onnx);
            blocked::register(&mut onnx);
            extremes::register(&mut onnx);
            let parsed = onnx.parse(&proto, None)?;
            drop(proto);
            let mut template =
                Template { model: parsed.model, inputs: Vec::new(), labels: Arc::new(labels), is_for_training };
            for (name, tensor) in constants {
                template.set_constant(parsed.outlets_by_name[&name].node, &tensor)?;
            }
            template.inputs = inputs.iter().map(|input| parsed.outlets_by_name[&input.name].node).collect();
            let outlets: Vec<_> = template.inputs.iter().map(|&node| node.into()).collect();
            template.model.set_input_outlets(&outlets)?;
            Ok(template)
        })
    }

    /// The outputs of a model without inputs, where tract finds them while it infers shapes: no plan is needed then.
    fn follows_from_constants(&self, inputs: &[Declared]) -> Result<Option<Vec<Tensor>>, RuntimeError> {
        if !inputs.is_empty() {
            return Ok(None);
        }
        guarded(|| {
            let mut model = self.model.clone();
            model.analyse(false)?;
            let mut results = Vec::new();
            for &outlet in model.output_outlets()? {
                let Some(value) = model.outlet_fact(outlet)?.value.concretize() else { return Ok(None) };
                results.push(from_tract(value.into_tvalue())?);
            }
            Ok(Some(results))
        })
    }

    fn plan(&self, inputs: &[Declared], key: &[Known]) -> TractResult<Plan> {
        let mut plan = self.clone();
        let mut open = Vec::new();
        for ((input, known), &node) in inputs.iter().zip(key).zip(&self.inputs) {
            match (known, &input.default) {
                (Known::Shape(dtype, shape), _) => {
                    let dtype = datum_type(*dtype).expect("checked when it was given");
                    plan.model.set_outlet_fact(node.into(), InferenceFact::dt_shape(dtype, shape))?;
                    open.push(node.into());
                }
                (Known::Value(value), _) => plan.set_constant(node, value)?,
                (Known::Default, Some(default)) => plan.set_constant(node, default)?,
                (Known::Default, None) => unreachable!("an input without a default is given"),
            }
        }
        plan.model.set_input_outlets(&open)?;
        let mut model = plan.model.into_typed()?;
        duplicates::merge(&mut model)?;
        let mut model = model.into_decluttered()?;
        if self.is_for_training {
            products::take_over(&mut model)?;
            sums::take_over(&mut model)?;
            softmax::take_over(&mut model)?;
            chains::take_over(&mut model)?;
            reshapes::pass_over(&mut model)?;
        }
        TypedSimplePlan::new(model.into_optimized()?)
    }

    /// Gives an input of tract's model its data for good.
    fn set_constant(&mut self, node: usize, tensor: &Tensor) -> TractResult<()> {
        let Some(data) = to_tract(tensor) else { bail!("{tensor:?} has strings that are not UTF-8") };
        let data = Arc::new(data);
        let op: Box<dyn InferenceOp> = Box::new(Const::new(data.clone())?);
        self.model.node_mut(node).op = op;
        self.model.set_outlet_fact(node.into(), TypedFact::try_from(data)?.into())
    }
}

thread_local! {
    static IN_TRACT: Cell<bool> = const { Cell::new(false) };
}

/// Calls into tract, whose errors and panics become errors of ours. Its panics are not printed as well.
pub(super) fn guarded<T>(call: impl FnOnce() -> TractResult<T>) -> Result<T, RuntimeError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IN_TRACT.get() {
                print(panic);
            }
        }));
    });
    let outside = IN_TRACT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    IN_TRACT.set(outside);
    let why = match result {
        Ok(Ok(result)) => return Ok(result),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => format!("tract broke down: {text}"),
            (_, Some(text)) => format!("tract broke down: {text}"),
            _ => "tract broke down".into(),
        },
    };
    Err(RuntimeError::Failed { node: named_node(&why), why })
}

/// The node that a message of tract names: nodes are called by their id and their label.
fn named_node(message: &str) -> Option<String> {
    message.match_indices("\"n").find_map(|(at, _)| {
        let name = &message[at + 1..][..message[at + 1..].find('"')?];
        let (id, label) = name.split_once(' ')?;
        let is_id = id.split('.').all(|id| id.strip_prefix('n').is_some_and(|n| n.parse::<u32>().is_ok()));
        is_id.then(|| label.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::op::{Add, MatMul, Shape};
    use crate::ir::{Attr, Attrs, Function, Initializer, Operation, OpsetImports};

    fn model() -> Model {
        let mut model = Model::new("test");
        model.opsets.0.insert(String::new(), 18);
        model
    }

    fn input(model: &mut Model, name: &str, lengths: &[Size]) -> ValueId {
        let value = model.add_input(model.main, name);
        model.set_type(value, Some(Type::tensor(DType::F32, lengths.iter().cloned())));
        value
    }

    fn operation(op: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) -> Operation {
        let attrs = attrs.iter().map(|(name, attr)| (name.to_string(), attr.clone())).collect();
        let inputs = inputs.iter().copied().map(Some).collect();
        Operation { op: op.into(), inputs, attrs, ..Operation::default() }
    }

    fn floats(shape: &[usize], elements: &[f32]) -> Tensor {
        Tensor::from_vec(shape.to_vec(), elements.to_vec())
    }

    fn n() -> Size {
        Size::Symbol("n".into())
    }

    #[test]
    fn a_model_runs_with_each_shape_that_it_is_given() {
        let mut model = model();
        let x = input(&mut model, "x", &[n(), Size::Fixed(2)]);
        let w = model.add_constant(model.main, "w", floats(&[2, 1], &[2.0, 3.0]));
        let y = model.append(model.main, "y", MatMul { a: x, b: w });
        let shape = model.append(model.main, "shape", Shape { x, start: 0, end: None });
        for output in [y, shape, w, x] {
            model.add_output(model.main, output);
        }
        let runner = Runner::new(&model).unwrap();
        let samples: Vec<_> = (1..20).map(|n| vec![floats(&[n, 2], &vec![1.0; 2 * n])]).collect();
        for (n, outputs) in (1..20).zip(runner.run_many(&samples).unwrap()) {
            assert_eq!(outputs[0], floats(&[n, 1], &vec![5.0; n]));
            assert_eq!(outputs[1], Tensor::from_ints(&[n as i64, 2]));
            assert_eq!((&outputs[2], &outputs[3]), (&floats(&[2, 1], &[2.0, 3.0]), &samples[n - 1][0]));
        }
    }

    #[test]
    fn an_input_with_a_default_may_be_left_out_or_given() {
        let mut model = model();
        let x = input(&mut model, "x", &[n()]);
        let d = input(&mut model, "d", &[Size::Fixed(1)]);
        model.set_default(d, Initializer::Dense(floats(&[1], &[10.0])));
        let sum = model.append(model.main, "sum", Add { a: x, b: d });
        model.add_output(model.main, sum);
        let runner = Runner::new(&model).unwrap();
        let x = floats(&[2], &[1.0, 2.0]);
        assert_eq!(runner.run(std::slice::from_ref(&x)).unwrap(), [floats(&[2], &[11.0, 12.0])]);
        assert_eq!(runner.run(&[x, floats(&[1], &[1.0])]).unwrap(), [floats(&[2], &[2.0, 3.0])]);
    }

    #[test]
    fn any_value_can_be_an_output_and_the_rest_is_not_even_looked_at() {
        let mut model = model();
        let x = input(&mut model, "x", &[n()]);
        let twice = model.append(model.main, "twice", Add { a: x, b: x });
        let unknown = model.append(model.main, "", operation("Unheard", &[twice], &[]));
        model.add_output(model.main, unknown);
        let why = Runner::new(&model).err().unwrap();
        assert!(why.is_unsupported());
        assert_eq!(why.to_string(), "Unheard of `` (operator set 18) cannot be run: tract has no such operator");
        let runner = Runner::with_outputs(&model, &[twice]).unwrap();
        assert_eq!(runner.run(&[floats(&[1], &[4.0])]).unwrap(), [floats(&[1], &[8.0])]);
    }

    #[test]
    fn an_operator_of_another_domain_is_not_taken_for_the_one_of_onnx() {
        let mut model = model();
        let x = input(&mut model, "x", &[n()]);
        let y = model.append(model.main, "y", Operation { domain: "mine".into(), ..operation("Abs", &[x], &[]) });
        model.add_output(model.main, y);
        assert!(Runner::new(&model).is_err_and(|why| why.is_unsupported()));
    }

    #[test]
    fn a_body_reads_what_lies_outside_and_may_return_it() {
        let mut model = model();
        let x = input(&mut model, "x", &[n()]);
        let condition = model.add_input(model.main, "c");
        model.set_type(condition, Some(Type::tensor(DType::Bool, [])));
        let large = model.add_constant(model.main, "large", floats(&[1], &[7.0]));
        let branches = [("then_branch", true), ("else_branch", false)].map(|(name, adds)| {
            let body = model.add_graph(name);
            let two = model.add_constant(body, "two", floats(&[1], &[2.0]));
            let out = match adds {
                true => model.append(body, "sum", Add { a: x, b: two }),
                false => x,
            };
            model.add_output(body, out);
            model.add_output(body, large);
            (name, Attr::Graph(body))
        });
        let node =
            model.append_node(model.main, "if", operation("If", &[condition], &branches), &[Some("y"), Some("z")]);
        for value in model.node(node).outputs.clone().into_iter().flatten() {
            model.add_output(model.main, value);
        }
        let runner = Runner::new(&model).unwrap();
        let x = floats(&[2], &[1.0, 2.0]);
        for (condition, expected) in [(true, floats(&[2], &[3.0, 4.0])), (false, x.clone())] {
            let outputs = runner.run(&[x.clone(), Tensor::from_bool(vec![], vec![condition])]).unwrap();
            assert_eq!(outputs, [expected, floats(&[1], &[7.0])]);
        }
    }

    #[test]
    fn a_call_of_a_function_is_run_with_its_attributes() {
        let mut model = model();
        let body = model.add_graph("");
        let (a, b) = (model.add_input(body, "a"), model.add_input(body, "b"));
        let reference = Attr::Reference { name: "slope".into(), kind: crate::ir::AttrKind::Float };
        let leaky = model.append(body, "leaky", operation("LeakyRelu", &[a], &[("alpha", reference)]));
        let sum = model.append(body, "sum", Add { a: leaky, b });
        model.add_output(body, sum);
        let mut opsets = OpsetImports::default();
        opsets.0.insert(String::new(), 18);
        model.add_function(Function {
            domain: "mine".into(),
            name: "Bent".into(),
            overload: String::new(),
            body,
            opsets,
            required_attrs: vec![],
            default_attrs: Attrs::from([("slope".to_string(), Attr::Float(0.5))]),
        });
        let x = input(&mut model, "x", &[n()]);
        let call = |inputs: &[ValueId], attrs: &[(&str, Attr)]| Operation {
            domain: "mine".into(),
            ..operation("Bent", inputs, attrs)
        };
        let y = model.append(model.main, "y", call(&[x, x], &[]));
        let z = model.append(model.main, "z", call(&[y, y], &[("slope", Attr::Float(2.0))]));
        model.add_output(model.main, z);
        let outputs = Runner::new(&model).unwrap().run(&[floats(&[2], &[4.0, -4.0])]).unwrap();
        assert_eq!(outputs, [floats(&[2], &[16.0, -18.0])]);
    }

    #[test]
    fn wrong_inputs_are_named() {
        let mut model = model();
        let a = input(&mut model, "a", &[n(), Size::Fixed(3)]);
        let b = input(&mut model, "b", &[n(), Size::Fixed(3)]);
        let y = model.append(model.main, "y", Add { a, b });
        model.add_output(model.main, y);
        let runner = Runner::new(&model).unwrap();
        let why = |inputs: &[Tensor]| runner.run(inputs).unwrap_err().to_string();
        let good = floats(&[1, 3], &[0.0; 3]);
        assert_eq!(why(&[]), "input count is 0, but the model takes 2 (`a`, `b`)");
        assert_eq!(
            why(&[good.clone(), floats(&[2, 3], &[0.0; 6])]),
            "input `b` takes shape [n, 3], but [2, 3] is given"
        );
        assert_eq!(why(&[Tensor::from_ints(&[1]), good]), "input `a` takes float, but int64 is given");
    }

    #[test]
    fn a_profile_names_the_nodes_of_the_model_and_those_that_ran_in_int8() {
        let mut model = model();
        let x = input(&mut model, "x", &[n(), Size::Fixed(2)]);
        let w = model.add_constant(model.main, "w", floats(&[2, 1], &[2.0, 3.0]));
        let product = model.append(model.main, "product", MatMul { a: x, b: w });
        let levels = model.append(model.main, "levels", operation("Cast", &[product], &[("to", Attr::Int(3))]));
        let one = model.add_constant(model.main, "one", Tensor::scalar(1i8));
        let sum = model.append(model.main, "sum", Add { a: levels, b: one });
        model.add_output(model.main, sum);
        let runner = Runner::new(&model).unwrap();
        let sample = [floats(&[1, 2], &[1.0, 2.0])];
        runner.prepare(&sample).unwrap();
        let (outputs, times) = runner.profile(&sample).unwrap();
        assert_eq!(outputs, runner.run(&sample).unwrap());
        let found: Vec<_> = times.iter().map(|node| (&*node.name, &*node.op, node.int8)).collect();
        assert_eq!(found, [("product", "MatMul", false), ("levels", "Cast", false), ("sum", "Add", true)]);
    }

    #[test]
    fn an_error_while_planning_names_the_node() {
        let mut model = model();
        let a = input(&mut model, "a", &[Size::Unknown]);
        let b = input(&mut model, "b", &[Size::Unknown]);
        let y = model.append(model.main, "the sum", Add { a, b });
        model.add_output(model.main, y);
        let why = Runner::new(&model).unwrap().run(&[floats(&[2], &[0.0; 2]), floats(&[3], &[0.0; 3])]).unwrap_err();
        assert!(matches!(&why, RuntimeError::Failed { node: Some(node), .. } if node == "Add `the sum`"), "{why}");
    }
}
