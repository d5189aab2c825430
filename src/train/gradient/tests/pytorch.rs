//! Results and gradients against those of PyTorch, as `testdata/gradients/make.py` wrote them down.

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::draw::{Case, Operand};
use super::{Loss, gradient};
use crate::ir::op::DequantizeLinear;
use crate::ir::{Attr, Tensor, ValueId};
use crate::runtime::Runner;

#[derive(Deserialize)]
pub struct Row {
    pub op: String,
    attrs: Map<String, Json>,
    operands: Vec<Option<Array>>,
    pub results: Vec<Array>,
    #[serde(default)]
    gradients: Vec<Array>,
}

#[derive(Deserialize)]
pub struct Array {
    pub shape: Vec<usize>,
    pub floats: Option<Vec<f32>>,
    doubles: Option<Vec<f64>>,
    ints: Option<Vec<i64>>,
    int32s: Option<Vec<i32>>,
    bytes: Option<Vec<u8>>,
    bools: Option<Vec<bool>>,
    trained: bool,
}

impl Array {
    fn tensor(&self) -> Tensor {
        let shape = self.shape.clone();
        if let Some(floats) = &self.floats {
            return Tensor::from_vec(shape, floats.clone());
        }
        if let Some(doubles) = &self.doubles {
            return Tensor::from_vec(shape, doubles.clone());
        }
        if let Some(ints) = &self.ints {
            return Tensor::from_vec(shape, ints.clone());
        }
        if let Some(ints) = &self.int32s {
            return Tensor::from_vec(shape, ints.clone());
        }
        if let Some(bytes) = &self.bytes {
            return Tensor::from_vec(shape, bytes.clone());
        }
        Tensor::from_bool(shape, self.bools.clone().expect("an array has elements"))
    }

    fn operand(&self) -> Operand {
        if self.trained { Operand::Trained(self.tensor()) } else { Operand::Fixed(self.tensor()) }
    }
}

fn attr(json: &Json) -> Attr {
    match json {
        Json::String(text) => Attr::Str(text.clone().into_bytes().into()),
        Json::Array(all) if all.iter().all(Json::is_string) => {
            Attr::Strs(all.iter().filter_map(Json::as_str).map(|text| text.to_string().into()).collect())
        }
        Json::Array(all) if all.iter().all(Json::is_i64) => Attr::Ints(all.iter().filter_map(Json::as_i64).collect()),
        Json::Array(all) => Attr::Floats(all.iter().filter_map(Json::as_f64).map(|x| x as f32).collect()),
        number => match number.as_i64() {
            Some(int) => Attr::Int(int),
            None => Attr::Float(number.as_f64().expect("attributes are numbers") as f32),
        },
    }
}

impl Row {
    pub fn case(&self) -> Case {
        let operands = self.operands.iter().map(|operand| operand.as_ref().map_or(Operand::Missing, Array::operand));
        let attrs = self.attrs.iter().map(|(name, json)| (&*name.clone().leak(), attr(json))).collect();
        Case { attrs, results: self.results.len(), judged: self.results.len(), ..Case::of(operands.collect()) }
    }
}

fn check(row: &Row) -> Result<(), String> {
    let case = row.case();
    let behind = |model: &mut crate::ir::Model, operands: &[Option<ValueId>], result: ValueId| {
        if row.op != "QuantizeLinear" {
            return result;
        }
        let scale = operands[1].expect("it has a scale");
        let decode =
            DequantizeLinear { x: result, scale, zero_point: operands[2], axis: 1, block_size: 0, output_dtype: 0 };
        model.append(model.main, "decoded", decode)
    };
    let Loss { mut model, results, trained, loss, inputs, .. } = Loss::with(&row.op, &case, behind)?;
    let gradients = gradient(&mut model, loss, &trained).map_err(|error| error.to_string())?;
    let gradients = gradients.into_iter().map(|gradient| gradient.ok_or("a gradient is missing"));
    let gradients: Vec<ValueId> = gradients.collect::<Result<_, _>>()?;
    let runner =
        Runner::with_outputs(&model, &[&results[..], &gradients].concat()).map_err(|error| error.to_string())?;
    let found = runner.run(&inputs).map_err(|error| error.to_string())?;
    for (index, (found, expected)) in found.iter().zip(row.results.iter().chain(&row.gradients)).enumerate() {
        let expected_floats = expected.tensor();
        let (floats, wanted) = (found.floats().ok_or("no floats")?, expected_floats.floats().ok_or("no floats")?);
        let scale = wanted.iter().fold(1f32, |max, x| max.max(x.abs()));
        let near = floats.iter().zip(wanted.iter()).all(|(a, b)| (a - b).abs() <= 2e-5 * scale);
        if found.shape() != expected.shape || !near {
            return Err(format!("result {index}, then gradients: {floats:?}, but PyTorch has {wanted:?}"));
        }
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_pytorch() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("../../../../testdata/gradients/cases.json")).unwrap();
    let wrong: Vec<String> = rows.iter().filter_map(|row| Some(format!("{}: {}", row.op, check(row).err()?))).collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
