//! Sizes that a user fixes: the shape of an input, or the length that a symbol stands for.

use std::collections::HashMap;

use thiserror::Error;

use crate::ir::{Model, Size, TensorType, ValueId};

/// Shapes of inputs, and lengths of symbols, all that was given and what follows from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FixedSizes {
    /// Whole shapes of inputs of the main graph.
    pub inputs: HashMap<ValueId, Vec<usize>>,
    /// Lengths that symbols stand for, wherever they appear.
    pub symbols: HashMap<String, usize>,
}

#[derive(Clone, Debug, Error, PartialEq)]
pub enum SizeError {
    #[error("`{0}` fixes no sizes; write `x=1,3,224,224` for an input, or `batch=1` for a symbol")]
    Syntax(String),
    #[error("`{size}` in `{text}` is no length; lengths are whole numbers up to {}", i32::MAX)]
    Length { size: String, text: String },
    #[error("the model has no input and no symbolic size `{name}`; it has {known}")]
    Unknown { name: String, known: String },
    #[error("input `{input}` has {expected} axes ({declared}), but {given} lengths are given")]
    Rank { input: String, expected: usize, declared: String, given: usize },
    #[error("axis {axis} of input `{input}` ({declared}) has length {expected}, but {given} is given")]
    Axis { input: String, axis: usize, declared: String, expected: usize, given: usize },
    #[error("input `{0}` is no tensor, so it has no shape to fix")]
    NoTensor(String),
    #[error("`{symbol}` would be both {first} and {second}")]
    Symbol { symbol: String, first: usize, second: usize },
}

impl FixedSizes {
    /// Reads `x=1,3,224,224` (an input) and `batch=1` (a symbol of the inputs' shapes); an input goes before a symbol of
    /// the same name.
    pub fn parse<S: AsRef<str>>(model: &Model, given: &[S]) -> Result<FixedSizes, SizeError> {
        let mut sizes = FixedSizes::default();
        for text in given.iter().map(AsRef::as_ref) {
            let (name, lengths) = text.rsplit_once('=').ok_or_else(|| SizeError::Syntax(text.into()))?;
            let length = |size: &str| {
                let length = size.trim().parse::<i32>().ok().and_then(|n| usize::try_from(n).ok());
                length.ok_or_else(|| SizeError::Length { size: size.trim().into(), text: text.into() })
            };
            let lengths = match lengths.trim() {
                "" => vec![],
                lengths => lengths.split(',').map(length).collect::<Result<Vec<_>, _>>()?,
            };
            sizes.fix(model, name.trim(), lengths)?;
        }
        Ok(sizes)
    }

    fn fix(&mut self, model: &Model, name: &str, lengths: Vec<usize>) -> Result<(), SizeError> {
        let inputs = &model.graph(model.main).inputs;
        if let Some(&input) = inputs.iter().find(|&&input| model.value(input).name == name) {
            return self.fix_input(model, input, lengths);
        }
        let symbols = symbols(model);
        match (lengths.as_slice(), symbols.contains(&name)) {
            (&[length], true) => self.fix_symbol(name, length),
            (_, true) => Err(SizeError::Syntax(name.into())),
            _ => {
                let names = inputs.iter().map(|&input| model.value(input).name.as_str());
                let known = names.chain(symbols).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                Err(SizeError::Unknown { name: name.into(), known })
            }
        }
    }

    fn fix_input(&mut self, model: &Model, input: ValueId, lengths: Vec<usize>) -> Result<(), SizeError> {
        let value = model.value(input);
        let Some(ty) = &value.ty else {
            self.inputs.insert(input, lengths);
            return Ok(());
        };
        let tensor = ty.as_tensor().ok_or_else(|| SizeError::NoTensor(value.name.clone()))?;
        if let Some(dims) = &tensor.shape {
            let (name, declared) = (value.name.clone(), declared(tensor));
            if dims.len() != lengths.len() {
                return Err(SizeError::Rank { input: name, expected: dims.len(), declared, given: lengths.len() });
            }
            for (axis, (dim, &given)) in dims.iter().zip(&lengths).enumerate() {
                match &dim.size {
                    Size::Fixed(expected) if i64::try_from(given) != Ok(*expected) => {
                        let expected = usize::try_from(*expected).unwrap_or(0);
                        return Err(SizeError::Axis { input: name, axis, declared, expected, given });
                    }
                    Size::Symbol(symbol) => self.fix_symbol(symbol, given)?,
                    _ => {}
                }
            }
        }
        self.inputs.insert(input, lengths);
        Ok(())
    }

    fn fix_symbol(&mut self, symbol: &str, length: usize) -> Result<(), SizeError> {
        match self.symbols.insert(symbol.into(), length) {
            Some(first) if first != length => Err(SizeError::Symbol { symbol: symbol.into(), first, second: length }),
            _ => Ok(()),
        }
    }
}

fn dims(model: &Model, input: ValueId) -> Option<&Vec<crate::ir::Dim>> {
    model.value(input).ty.as_ref()?.as_tensor()?.shape.as_ref()
}

/// The symbols in the shapes of inputs, in the order in which they appear.
fn symbols(model: &Model) -> Vec<&str> {
    let mut symbols = Vec::new();
    for dim in model.graph(model.main).inputs.iter().filter_map(|&input| dims(model, input)).flatten() {
        match &dim.size {
            Size::Symbol(symbol) if !symbols.contains(&symbol.as_str()) => symbols.push(symbol.as_str()),
            _ => {}
        }
    }
    symbols
}

fn declared(tensor: &TensorType) -> String {
    let length = |size: &Size| match size {
        Size::Fixed(n) => n.to_string(),
        Size::Symbol(symbol) => symbol.clone(),
        Size::Unknown => "?".into(),
    };
    let lengths: Vec<_> = tensor.shape.iter().flatten().map(|dim| length(&dim.size)).collect();
    format!("[{}]", lengths.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Shapes;

    fn model() -> Model {
        let text = r#"
            <ir_version: 8, opset_import: ["": 18]>
            net (float[batch,3,H,?] x, int64[batch,7] ids) => (float[batch,7] y) { y = Cast <to = 1> (ids) }"#;
        Model::parse(text).expect("the text is a model")
    }

    #[test]
    fn an_input_fixes_the_symbols_of_others() {
        let model = model();
        let sizes = FixedSizes::parse(&model, &["x=2,3,8,9"]).unwrap();
        assert_eq!(sizes.symbols, HashMap::from([("batch".into(), 2), ("H".into(), 8)]));
        let [y] = model.graph(model.main).outputs[..] else { panic!("there is one output") };
        assert_eq!(Shapes::infer_with(&model, &sizes).fixed(y), Some(vec![2, 7]));
        let sizes = FixedSizes::parse(&model, &["batch = 5"]).unwrap();
        assert_eq!(Shapes::infer_with(&model, &sizes).fixed(y), Some(vec![5, 7]));
    }

    #[test]
    fn what_does_not_fit_is_explained() {
        let refused = ["x", "x=1,3", "x=1,4,8,8", "x=1,three,8,8", "y=1", "batch=1,2", "H=-1"];
        let message = |text: &str| FixedSizes::parse(&model(), &[text]).unwrap_err().to_string();
        let messages: Vec<_> = refused.iter().map(|text| message(text)).collect();
        insta::assert_snapshot!(messages.join("\n"));
        let twice = FixedSizes::parse(&model(), &["x=2,3,8,9", "batch=1"]).unwrap_err();
        assert_eq!(twice.to_string(), "`batch` would be both 2 and 1");
    }
}
