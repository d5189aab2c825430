//! Types in text.
//!
//! The notation is the syntax's own (`float[N,3]`, `seq(map(int64, string))`, `float[]` for an unknown rank), and a
//! little more for the annotation `@type`:
//!
//! - `@IMAGE` after a type or the length of an axis is its denotation, quoted where it is no identifier;
//! - `tensor` in the place of an element type, or `?` in that of a key, leaves it open;
//! - `?` is a type that says nothing, `seq()`, `optional()` and `map(int64)` do not say what they hold;
//! - the names of an opaque type are quoted where they are no identifiers.

use std::fmt::Write;

use super::token::{
    Failure, Input, Parsed, TYPE_WORDS, at, comma, deeper, dotted, expected, identifier, integer, is_identifier, list,
    next, passes, quotable, run, sign, write_quoted,
};
use crate::ir::{DType, Dim, Size, TensorType, Type, TypeKind};

/// Whether ONNX's syntax says all of the type.
pub fn is_plain(ty: &Type) -> bool {
    let inner = |ty: &Option<Box<Type>>| ty.as_deref().is_some_and(is_plain);
    ty.denotation.is_empty()
        && match &ty.kind {
            TypeKind::Tensor(tensor) | TypeKind::SparseTensor(tensor) => {
                let dims = tensor.shape.iter().flatten();
                tensor.dtype.is_some() && dims.into_iter().all(|dim| dim.denotation.is_empty())
            }
            TypeKind::Sequence(element) | TypeKind::Optional(element) => inner(element),
            TypeKind::Map(key, value) => key.is_some() && inner(value),
            TypeKind::Opaque { domain, name } => match domain.is_empty() {
                true => name.is_empty() || name.split('.').all(is_identifier),
                false => domain.split('.').all(is_identifier) && is_identifier(name),
            },
            TypeKind::Unknown => false,
        }
}

/// The type without its denotations.
pub fn without_denotations(ty: &Type) -> Type {
    let inner = |ty: &Option<Box<Type>>| ty.as_ref().map(|ty| Box::new(without_denotations(ty)));
    let tensor = |tensor: &TensorType| TensorType {
        dtype: tensor.dtype,
        shape: tensor
            .shape
            .as_ref()
            .map(|dims| dims.iter().map(|dim| Dim { size: dim.size.clone(), denotation: String::new() }).collect()),
    };
    match &ty.kind {
        TypeKind::Tensor(ty) => TypeKind::Tensor(tensor(ty)),
        TypeKind::SparseTensor(ty) => TypeKind::SparseTensor(tensor(ty)),
        TypeKind::Sequence(element) => TypeKind::Sequence(inner(element)),
        TypeKind::Optional(element) => TypeKind::Optional(inner(element)),
        TypeKind::Map(key, value) => TypeKind::Map(*key, inner(value)),
        kind @ (TypeKind::Opaque { .. } | TypeKind::Unknown) => kind.clone(),
    }
    .into()
}

/// In ONNX's textual syntax.
impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mut text = String::new();
        write_type(&mut text, self);
        f.write_str(&text)
    }
}

pub fn write_type(out: &mut String, ty: &Type) {
    let inner = |out: &mut String, word: &str, element: &Option<Box<Type>>| {
        out.push_str(word);
        out.push('(');
        if let Some(element) = element {
            write_type(out, element);
        }
        out.push(')');
    };
    match &ty.kind {
        TypeKind::Tensor(tensor) => write_tensor_type(out, tensor),
        TypeKind::SparseTensor(tensor) => {
            out.push_str("sparse_tensor(");
            write_tensor_type(out, tensor);
            out.push(')');
        }
        TypeKind::Sequence(element) => inner(out, "seq", element),
        TypeKind::Optional(element) => inner(out, "optional", element),
        TypeKind::Map(key, value) => {
            out.push_str("map(");
            out.push_str(key.map_or("?", |key| key.name()));
            if let Some(value) = value {
                out.push_str(", ");
                write_type(out, value);
            }
            out.push(')');
        }
        TypeKind::Opaque { domain, name } => {
            out.push_str("opaque(");
            if !domain.is_empty() {
                write_dotted(out, domain);
                out.push_str(", ");
            }
            if !domain.is_empty() || !name.is_empty() {
                write_dotted(out, name);
            }
            out.push(')');
        }
        TypeKind::Unknown => out.push('?'),
    }
    write_denotation(out, &ty.denotation);
}

fn write_tensor_type(out: &mut String, ty: &TensorType) {
    out.push_str(ty.dtype.map_or("tensor", |dtype| dtype.name()));
    match ty.shape.as_deref() {
        None => out.push_str("[]"),
        Some([]) => {}
        Some(dims) => {
            for (index, dim) in dims.iter().enumerate() {
                out.push(if index == 0 { '[' } else { ',' });
                match &dim.size {
                    Size::Fixed(length) => write!(out, "{length}").expect("strings take all"),
                    Size::Symbol(symbol) => write_identifier(out, symbol),
                    Size::Unknown => out.push('?'),
                }
                write_denotation(out, &dim.denotation);
            }
            out.push(']');
        }
    }
}

fn write_denotation(out: &mut String, denotation: &str) {
    if !denotation.is_empty() {
        out.push_str(" @");
        write_identifier(out, denotation);
    }
}

fn write_identifier(out: &mut String, word: &str) {
    match is_identifier(word) {
        true => out.push_str(word),
        false => write_quoted(out, word),
    }
}

fn write_dotted(out: &mut String, word: &str) {
    match word.split('.').all(is_identifier) {
        true => out.push_str(word),
        false => write_quoted(out, word),
    }
}

/// A type in the notation of the annotation `@type`.
pub fn read_whole(text: &str) -> Parsed<Type> {
    run(text, read_type)
}

pub fn read_type(input: &mut Input) -> Parsed<Type> {
    deeper(input, |input| {
        let start = at(input);
        let kind = match next(input) {
            Some('?') => {
                sign(input, '?', "`?`")?;
                TypeKind::Unknown
            }
            _ => {
                let word = identifier(input, "a type")?;
                kind(input, start, word)?
            }
        };
        Ok(Type { kind, denotation: denotation(input)? })
    })
}

fn kind(input: &mut Input, start: usize, word: &str) -> Parsed<TypeKind> {
    if let Some(tensor) = tensor_type(input, word)? {
        return Ok(TypeKind::Tensor(tensor));
    }
    let open = |input: &mut Input| sign(input, '(', "`(`");
    let close = |input: &mut Input| sign(input, ')', "`)`");
    let element = |input: &mut Input| match next(input) {
        Some(')') => Ok(None),
        _ => read_type(input).map(|ty| Some(Box::new(ty))),
    };
    let unknown = |word| Err(Failure::new(start, format!("`{word}` is no type")));
    if !TYPE_WORDS.contains(&word) {
        return unknown(word);
    }
    open(input)?;
    let kind = match word {
        "seq" => TypeKind::Sequence(element(input)?),
        "optional" => TypeKind::Optional(element(input)?),
        "sparse_tensor" => {
            let word = identifier(input, "an identifier")?;
            match tensor_type(input, word)? {
                Some(tensor) => TypeKind::SparseTensor(tensor),
                None => return unknown(word),
            }
        }
        "map" => {
            let key = match passes(input, '?')? {
                true => None,
                false => {
                    let word = identifier(input, "an identifier")?;
                    Some(
                        DType::from_name(word)
                            .ok_or_else(|| Failure::new(start, format!("`{word}` is no key type")))?,
                    )
                }
            };
            let value = if comma(input)? { element(input)? } else { None };
            TypeKind::Map(key, value)
        }
        _ => {
            let first = if next(input) == Some(')') { String::new() } else { dotted(input)? };
            match comma(input)? {
                true => TypeKind::Opaque { domain: first, name: dotted(input)? },
                false => TypeKind::Opaque { domain: String::new(), name: first },
            }
        }
    };
    close(input)?;
    Ok(kind)
}

fn tensor_type(input: &mut Input, word: &str) -> Parsed<Option<TensorType>> {
    let dtype = match (word, DType::from_name(word)) {
        ("tensor", _) => None,
        (_, Some(dtype)) => Some(dtype),
        _ => return Ok(None),
    };
    if !passes(input, '[')? {
        return Ok(Some(TensorType { dtype, shape: Some(Vec::new()) }));
    }
    let dims = list(input, ']', "`,` or `]` after the length of an axis", dim)?;
    Ok(Some(TensorType { dtype, shape: Some(dims).filter(|dims| !dims.is_empty()) }))
}

fn dim(input: &mut Input) -> Parsed<Dim> {
    let size = match next(input) {
        Some('?') => {
            sign(input, '?', "`?`")?;
            Size::Unknown
        }
        Some(c) if c.is_ascii_digit() || c == '-' => Size::Fixed(integer(input)?),
        Some(c) if c.is_ascii_alphabetic() || c == '_' || c == '"' => {
            Size::Symbol(quotable(input, "a name")?.into_owned())
        }
        _ => return Err(expected(input, "the length of an axis: a number, a name or `?`")),
    };
    Ok(Dim { size, denotation: denotation(input)? })
}

fn denotation(input: &mut Input) -> Parsed<String> {
    match passes(input, '@')? {
        true => Ok(quotable(input, "a denotation")?.into_owned()),
        false => Ok(String::new()),
    }
}
