//! Finds the array for each input of a model, and checks that it fits.

use std::collections::HashMap;

use super::archive::Archive;
use super::cast::{Misfit, can_cast, cast};
use super::dataset::{Column, Labels, Rows, Samples, Source};
use super::{DataError, Problem};
use crate::ir::{DType, Dim, Model, Size, Tensor, Type, TypeKind, Value, ValueDef, ValueId};

/// Arrays that are labels where no input has their name.
const LABELS: [&str; 3] = ["y", "y_any", "text"];

/// The inputs that a caller has to give.
pub fn required_inputs(model: &Model) -> impl Iterator<Item = (ValueId, &Value)> {
    let inputs = model.graph(model.main).inputs.iter().map(|&id| (id, model.value(id)));
    inputs.filter(|(_, value)| !matches!(value.def, ValueDef::Input { default: Some(_) }))
}

pub fn bind(archive: &mut Archive, model: &Model) -> Result<Samples, DataError> {
    let path = archive.file.clone();
    let wrong = |problem: Problem| problem.of(&path);
    let inputs: Vec<Input> =
        required_inputs(model).map(|(_, value)| Input::of(value)).collect::<Result<_, _>>().map_err(wrong)?;

    let mut arrays = Vec::new();
    for input in &inputs {
        let name = find(archive, input, &inputs).map_err(wrong)?;
        let array = archive.read(&name)?;
        arrays.push(Named { name, array });
    }
    let batch = inputs.iter().filter_map(Input::batch).max().unwrap_or(1).max(1);
    let mut warnings = Vec::new();
    let columns: Vec<Column> = std::iter::zip(&inputs, &arrays)
        .map(|(input, array)| column(input, array, batch, &mut warnings))
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    check_symbols(&inputs, &arrays, &columns).map_err(wrong)?;
    let count = check_lengths(&arrays, &columns, batch, &mut warnings).map_err(wrong)?;
    let labels = labels(archive, &inputs, &arrays)?;
    Ok(Samples { source: Source::File(path), columns, batch, count, labels, warnings })
}

struct Named {
    name: String,
    array: Tensor,
}

/// What an input takes.
struct Input<'m> {
    name: &'m str,
    dtype: DType,
    dims: Option<&'m [Dim]>,
}

impl<'m> Input<'m> {
    fn of(value: &'m Value) -> Result<Input<'m>, Problem> {
        let input = || value.name.clone();
        match value.ty.as_ref().map(|ty| &ty.kind) {
            Some(TypeKind::Tensor(tensor)) => {
                let dtype = tensor.dtype.ok_or_else(|| Problem::InputType {
                    input: input(),
                    found: "of no declared element type".into(),
                })?;
                Ok(Input { name: &value.name, dtype, dims: tensor.shape.as_deref() })
            }
            _ => Err(Problem::InputType { input: input(), found: kind_of(value.ty.as_ref()).into() }),
        }
    }

    /// The length of the first axis, where the model fixes it.
    fn batch(&self) -> Option<usize> {
        fixed(self.dims?.first()?)
    }

    fn describe(&self) -> String {
        let dims = self.dims.unwrap_or_default().iter().map(|dim| match &dim.size {
            Size::Fixed(n) if *n >= 0 => n.to_string(),
            Size::Symbol(name) => name.clone(),
            _ => "?".into(),
        });
        format!("[{}]", dims.collect::<Vec<_>>().join(", "))
    }
}

fn fixed(dim: &Dim) -> Option<usize> {
    match dim.size {
        Size::Fixed(n) => usize::try_from(n).ok(),
        _ => None,
    }
}

fn kind_of(ty: Option<&Type>) -> &'static str {
    match ty.map(|ty| &ty.kind) {
        Some(TypeKind::Sequence(_)) => "a sequence",
        Some(TypeKind::Optional(_)) => "optional",
        Some(TypeKind::Map(..)) => "a map",
        Some(TypeKind::SparseTensor(_)) => "a sparse tensor",
        Some(TypeKind::Opaque { .. }) => "opaque",
        _ => "of no declared type",
    }
}

/// The array for `input`.
fn find(archive: &Archive, input: &Input, inputs: &[Input]) -> Result<String, Problem> {
    if archive.has(input.name) {
        return Ok(input.name.into());
    }
    if inputs.len() == 1 {
        let names = archive.names();
        let candidates: Vec<_> = names.iter().filter(|name| !LABELS.contains(name)).collect();
        match candidates[..] {
            _ if archive.has("x") => return Ok("x".into()),
            [only] => return Ok(only.to_string()),
            _ => {}
        }
    }
    let quote = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let needed: Vec<&str> = inputs.iter().map(|input| input.name).collect();
    let or_x = if inputs.len() == 1 && input.name != "x" { " (or `x`)" } else { "" };
    Err(Problem::Missing { input: input.name.into(), needed: quote(&needed) + or_x, found: quote(&archive.names()) })
}

fn column(
    input: &Input,
    Named { name, array }: &Named,
    batch: usize,
    warnings: &mut Vec<String>,
) -> Result<Column, Problem> {
    if array.dtype() == DType::String && input.dtype != DType::String || !can_cast(array.dtype(), input.dtype) {
        let found = if array.dtype() == DType::String { "strings".into() } else { array.dtype().to_string() };
        let needed = input.dtype.to_string();
        return Err(Problem::Mismatch { array: name.clone(), input: input.name.into(), found, needed });
    }
    let rows = rows(input, name, array, batch)?;
    if array.is_empty() {
        return Err(Problem::EmptyArray { array: name.clone(), shape: array.shape().to_vec() });
    }
    if array.dtype() != input.dtype && !array.dtype().is_float() {
        check_range(input, name, array)?;
        if input.dtype.is_float() {
            let found = array.dtype();
            warnings.push(format!("array `{name}` holds {found} for a float input; is it scaled as in training?"));
        }
    }
    let bad = count_not_finite(array);
    if bad > 0 {
        warnings.push(format!("array `{name}` holds {bad} values that are NaN or infinite"));
    }
    Ok(Column { array: array.clone(), rows, dtype: input.dtype })
}

/// How many rows of `array` make one sample of `input`; none where the input has no axis for samples.
fn rows(input: &Input, name: &str, array: &Tensor, batch: usize) -> Result<Option<usize>, Problem> {
    let mismatch = |needed: String| Problem::Shape {
        array: name.into(),
        input: input.name.into(),
        found: array.shape().to_vec(),
        needed,
    };
    let Some(dims) = input.dims else {
        return if array.rank() == 0 {
            Err(mismatch("an array with an axis for samples".into()))
        } else {
            Ok(Some(batch))
        };
    };
    let fits = |found: &[usize], dims: &[Dim]| {
        found.len() == dims.len() && std::iter::zip(found, dims).all(|(&n, dim)| fixed(dim).is_none_or(|m| n == m))
    };
    match array.shape() {
        [_, rest @ ..] if !dims.is_empty() && fits(rest, &dims[1..]) => Ok(Some(input.batch().unwrap_or(batch))),
        [_, rest @ ..] if fits(rest, dims) => Ok(None),
        _ => Err(mismatch(input.describe())),
    }
}

fn check_range(input: &Input, name: &str, array: &Tensor) -> Result<(), Problem> {
    cast(array, input.dtype).map(drop).map_err(|Misfit(value)| Problem::Range {
        array: name.into(),
        input: input.name.into(),
        value,
        dtype: input.dtype,
    })
}

fn count_not_finite(array: &Tensor) -> usize {
    match array.dtype() {
        DType::F64 => array.elements::<f64>().map_or(0, |x| x.iter().filter(|x| !x.is_finite()).count()),
        _ => array.floats().map_or(0, |x| x.iter().filter(|x| !x.is_finite()).count()),
    }
}

/// Equal symbols are equal lengths.
fn check_symbols(inputs: &[Input], arrays: &[Named], columns: &[Column]) -> Result<(), Problem> {
    let mut lengths: HashMap<&str, (usize, &str)> = HashMap::new();
    for ((input, Named { name, array }), column) in inputs.iter().zip(arrays).zip(columns) {
        let (dims, shape) = match column.rows {
            Some(_) => (input.dims.unwrap_or_default().get(1..).unwrap_or_default(), &array.shape()[1..]),
            None => (input.dims.unwrap_or_default(), &array.shape()[1..]),
        };
        for (dim, &second) in std::iter::zip(dims, shape) {
            let Size::Symbol(symbol) = &dim.size else { continue };
            let &mut (first, first_array) = lengths.entry(symbol).or_insert((second, name));
            if first != second {
                let (symbol, first_array, second_array) = (symbol.clone(), first_array.into(), name.clone());
                return Err(Problem::Symbol { symbol, first, first_array, second, second_array });
            }
        }
    }
    Ok(())
}

/// The number of samples.
fn check_lengths(
    arrays: &[Named],
    columns: &[Column],
    batch: usize,
    warnings: &mut Vec<String>,
) -> Result<usize, Problem> {
    let samples = |column: &Column| column.array.shape()[0] / column.rows.unwrap_or(1);
    let Some(first) = columns.first() else {
        return Err(Problem::NoArrays);
    };
    let count = samples(first);
    if columns.iter().any(|column| samples(column) != count) {
        let lengths =
            arrays.iter().map(|x| format!("`{}` {}", x.name, x.array.shape()[0])).collect::<Vec<_>>().join(", ");
        return Err(Problem::Lengths { lengths });
    }
    let rows = first.array.shape()[0];
    if count == 0 {
        return Err(Problem::Batch { rows, batch });
    }
    if first.rows.is_some_and(|batch| rows % batch > 0) {
        warnings.push(format!(
            "the last {} of {rows} samples do not fill a batch of {batch} and are left out",
            rows % batch
        ));
    }
    Ok(count)
}

fn labels(archive: &mut Archive, inputs: &[Input], arrays: &[Named]) -> Result<Labels, DataError> {
    let path = archive.file.clone();
    let rows = arrays.first().map_or(0, |x| x.array.shape()[0]);
    let mut labels = Labels::default();
    for name in LABELS {
        if !archive.has(name) || inputs.iter().any(|x| x.name == name) || arrays.iter().any(|x| x.name == name) {
            continue;
        }
        let array = archive.read(name)?;
        let read = match name {
            "text" => strings(&array).map(|text| labels.text = Some(text)),
            "y" => classes(&array).map(|classes| labels.classes = Some(classes)),
            _ => classes(&array).map(|classes| labels.accepted = Some(classes)),
        };
        read.map_err(|reason| Problem::Labels { array: name.into(), reason }.of(&path))?;
        let length = array.shape()[0];
        if length != rows {
            let lengths = format!("`{}` {rows}, `{name}` {length}", arrays[0].name);
            return Err(Problem::Lengths { lengths }.of(&path));
        }
    }
    Ok(labels)
}

fn classes(array: &Tensor) -> Result<Rows<i64>, String> {
    let whole = |x: &f32| (x.fract() == 0.0).then_some(*x as i64);
    let cells = match array.ints() {
        Some(ints) => ints,
        None => {
            let floats = array.floats().ok_or("are no numbers; class numbers are needed")?;
            floats.iter().map(whole).collect::<Option<_>>().ok_or("are no integers; class numbers are needed")?
        }
    };
    Ok(Rows { width: width(array)?, cells })
}

fn strings(array: &Tensor) -> Result<Rows<String>, String> {
    let strings = array.strings().ok_or("are no strings; the text of each sample is needed")?;
    let cells = strings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    match width(array)? {
        width @ 1 => Ok(Rows { width, cells }),
        _ => Err(format!("have shape {:?}, where one string a sample is needed", array.shape())),
    }
}

fn width(array: &Tensor) -> Result<usize, String> {
    match array.shape() {
        [] => Err("have no axis for samples".into()),
        [_, rest @ ..] => Ok(rest.iter().product()),
    }
}
