//! Random inputs, made from the types of a model's inputs and from how it reads them.

use std::collections::{BTreeSet, HashMap};

use super::bind::required_inputs;
use super::cast::cast;
use super::dataset::{Column, Dataset, Labels, Samples, Source};
use super::random::Random;
use crate::analysis::{FixedSizes, Shapes};
use crate::ir::{DType, Dim, Model, Node, Size, Tensor, TensorType, Use, Value, ValueId};

/// Enough to see gross errors, few enough for large models.
pub const DEFAULT_COUNT: usize = 16;

/// What lengths are tried for axes that the model leaves open, the most natural first: height and width of images, and
/// the length of everything else.
const TRIES: [(usize, usize, usize); 8] = [
    (224, 224, 32),
    (64, 64, 64),
    (48, 192, 16),
    (32, 32, 128),
    (128, 128, 8),
    (256, 256, 256),
    (512, 512, 512),
    (1, 1, 1),
];

/// Why no random inputs could be made.
#[derive(Debug, thiserror::Error)]
#[error("no random inputs can be made: {0}")]
pub struct SynthesisError(String);

/// `count` samples for `model`, which is run one sample at a time.
///
/// Floats are standard normal, integers that index a table stay within it, masks are one. Batches are 1; other axes that
/// neither the model nor `sizes` fixes get the first common lengths with which `run` succeeds; equal symbols are equal
/// lengths. The same seed makes the same samples on every machine.
pub fn synthesize(
    model: &Model,
    sizes: &FixedSizes,
    seed: u64,
    count: usize,
    mut run: impl FnMut(&[Tensor]) -> Result<(), String>,
) -> Result<Dataset, SynthesisError> {
    let inputs: Vec<Input> = required_inputs(model)
        .map(|(id, value)| Input::of(id, value))
        .collect::<Result<_, _>>()
        .map_err(SynthesisError)?;
    let filled = fill_rules(model, &inputs);
    let make = |lengths: &[Vec<usize>], count: usize| {
        let columns = std::iter::zip(&inputs, lengths).zip(&filled).enumerate();
        let columns = columns.map(|(stream, ((input, shape), fill))| Column {
            array: fill.tensor(input.dtype, shape, count, &mut Random::new(seed, 1 + stream as u64)),
            rows: None,
            dtype: input.dtype,
        });
        Dataset::new(Samples {
            source: Source::Random { seed },
            columns: columns.collect(),
            batch: 1,
            count,
            labels: Labels::default(),
            warnings: Vec::new(),
        })
    };

    let (mut tried, mut failure) = (BTreeSet::new(), None);
    for lengths in TRIES {
        let lengths = input_shapes(&inputs, sizes, lengths).map_err(SynthesisError)?;
        if tried.insert(lengths.clone()) {
            match run(&make(&lengths, 1).sample(0)) {
                Ok(()) => return Ok(make(&lengths, count)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    let failure = failure.unwrap_or_default();
    Err(SynthesisError(match tried.len() {
        1 => format!("{failure}; give data with `--data`"),
        n => format!("{failure} ({n} shapes were tried); give data with `--data`, or shapes with `--shape`"),
    }))
}

struct Input<'m> {
    id: ValueId,
    value: &'m Value,
    dtype: DType,
    dims: &'m [Dim],
}

impl<'m> Input<'m> {
    fn of(id: ValueId, value: &'m Value) -> Result<Input<'m>, String> {
        let name = &value.name;
        let declared = value.ty.as_ref().and_then(|ty| ty.as_tensor());
        let Some(TensorType { dtype: Some(dtype), shape }) = declared else {
            return Err(format!("input `{name}` is no tensor of a known type; give data with `--data`"));
        };
        if dtype.bits() < 8 || !(dtype.is_float() || is_integer(*dtype)) {
            return Err(format!("input `{name}` is of type {dtype}; give data with `--data`"));
        }
        Ok(Input { id, value, dtype: *dtype, dims: shape.as_deref().unwrap_or_default() })
    }

    fn is_image(&self) -> bool {
        self.dims.len() == 4 && self.dtype.is_float()
    }

    /// The axes of height and width: those after the channels, which come first or last.
    fn height_and_width(&self) -> [usize; 2] {
        let few = |axis: usize| matches!(self.dims[axis].size, Size::Fixed(1..=4));
        if few(3) && !few(1) { [1, 2] } else { [2, 3] }
    }
}

fn is_integer(dtype: DType) -> bool {
    use DType::*;
    matches!(dtype, Bool | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// A length for every axis of every input.
fn input_shapes(inputs: &[Input], given: &FixedSizes, tried: (usize, usize, usize)) -> Result<Vec<Vec<usize>>, String> {
    let mut symbols: HashMap<&str, usize> =
        given.symbols.iter().map(|(name, &length)| (name.as_str(), length)).collect();
    for input in inputs {
        if let Some(Dim { size: Size::Symbol(symbol), .. }) = input.dims.first() {
            symbols.entry(symbol).or_insert(1);
        }
    }
    let (height, width, length) = tried;
    inputs
        .iter()
        .map(|input| {
            if let Some(lengths) = given.inputs.get(&input.id) {
                return Ok(lengths.clone());
            }
            let guess = |axis: usize| match axis {
                0 => 1,
                1 if input.is_image() && input.height_and_width() == [2, 3] => 3,
                _ if input.is_image() && axis == input.height_and_width()[0] => height,
                _ if input.is_image() && axis == input.height_and_width()[1] => width,
                _ => length,
            };
            let lengths = input.dims.iter().enumerate().map(|(axis, dim)| match &dim.size {
                Size::Fixed(n) if *n >= 0 => *n as usize,
                Size::Symbol(symbol) => *symbols.entry(symbol).or_insert(guess(axis)),
                _ => guess(axis),
            });
            let lengths: Vec<usize> = lengths.collect();
            match lengths.iter().try_fold(input.dtype.bits() / 8, |n, &d| n.checked_mul(d)).filter(|&n| n <= 1 << 30) {
                Some(_) => Ok(lengths),
                None => Err(format!("input `{}` of shape {lengths:?} is too large", input.value.name)),
            }
        })
        .collect()
}

/// What an input is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fill {
    Normal,
    /// Integers below a bound, at random.
    Below(u64),
    Zeros,
    Ones,
    /// 0, 1, 2 ... along the last axis, as far as the table goes that they index.
    Positions(u64),
    /// The length of the sequences.
    Length,
}

fn fill_rules(model: &Model, inputs: &[Input]) -> Vec<Fill> {
    let shapes = Shapes::infer(model);
    inputs.iter().map(|input| fill_rule(model, &shapes, input)).collect()
}

fn fill_rule(model: &Model, shapes: &Shapes, input: &Input) -> Fill {
    let name = input.value.name.to_lowercase();
    let rows = indexed_rows(model, shapes, input.id);
    let named = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    match (input.dtype, rows) {
        _ if named(&["mask"]) => Fill::Ones,
        (dtype, _) if dtype.is_float() => Fill::Normal,
        (_, Some(rows)) if named(&["position"]) => Fill::Positions(rows),
        _ if named(&["token_type", "segment"]) => Fill::Zeros,
        (_, Some(rows)) => Fill::Below(rows),
        _ if named(&["length", "lens"]) => Fill::Length,
        (DType::U8, None) if input.dims.len() >= 3 => Fill::Below(256),
        (_, None) => Fill::Below(2),
    }
}

/// The rows of the smallest table that `input` indexes, followed through nodes that keep the elements.
fn indexed_rows(model: &Model, shapes: &Shapes, input: ValueId) -> Option<u64> {
    let (mut work, mut seen, mut least) = (vec![input], BTreeSet::from([input]), None);
    while let Some(value) = work.pop() {
        for place in &model.value(value).uses {
            let Use::Node(id, operand) = *place else { continue };
            let node = model.node(id);
            match (node.op.as_str(), operand) {
                _ if model.callee(id).is_some() => {
                    let body = model.callee(id).expect("just seen").body;
                    work.extend(model.graph(body).inputs.get(operand).filter(|&&inner| seen.insert(inner)));
                }
                ("Gather", 1) => {
                    let rows = table_rows(shapes, node);
                    least = [least, rows].into_iter().flatten().min();
                }
                ("Cast" | "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "Expand", 0) => {
                    work.extend(node.outputs.iter().flatten().filter(|&&out| seen.insert(out)));
                }
                _ => {}
            }
        }
    }
    least
}

fn table_rows(shapes: &Shapes, gather: &Node) -> Option<u64> {
    let table = shapes.fixed(gather.inputs.first().copied()??)?;
    let axis = match gather.attrs.get("axis") {
        Some(crate::ir::Attr::Int(axis)) => *axis,
        _ => 0,
    };
    let axis = if axis < 0 { axis + table.len() as i64 } else { axis };
    Some(*table.get(usize::try_from(axis).ok()?)? as u64)
}

impl Fill {
    /// `count` samples of `shape`, one after the other.
    fn tensor(self, dtype: DType, shape: &[usize], count: usize, random: &mut Random) -> Tensor {
        let shape: Vec<usize> = std::iter::once(count).chain(shape.iter().copied()).collect();
        let n = shape.iter().product();
        let last = shape.last().copied().unwrap_or(1).max(1);
        if dtype.is_float() {
            let element = |_| if self == Fill::Ones { 1.0 } else { random.normal() };
            let floats = ndarray::ArrayD::from_shape_vec(shape, (0..n).map(element).collect());
            let floats = floats.expect("as many as the shape holds");
            return Tensor::from_floats(floats, dtype).expect("it is a float type");
        }
        let largest = match dtype {
            DType::I8 => i64::from(i8::MAX),
            DType::U8 => i64::from(u8::MAX),
            DType::Bool => 1,
            DType::I16 => i64::from(i16::MAX),
            DType::U16 => i64::from(u16::MAX),
            _ => i64::from(i32::MAX),
        };
        let mut element = |i: usize| match self {
            Fill::Below(bound) => random.below(bound.max(1)) as i64,
            Fill::Positions(rows) => (i % last).min(rows.saturating_sub(1) as usize) as i64,
            Fill::Length => last as i64,
            Fill::Ones => 1,
            Fill::Zeros | Fill::Normal => 0,
        };
        let tensor = Tensor::from_vec(shape, (0..n).map(|i| element(i).min(largest)).collect());
        cast(&tensor, dtype).unwrap_or_else(|_| unreachable!("every element is at most {largest}"))
    }
}
