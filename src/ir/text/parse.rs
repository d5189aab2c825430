//! The grammar: from text to [`syntax`](super::syntax). Every function is a production.

use std::borrow::Cow;

use winnow::Parser;
use winnow::token::literal;

use super::annotation::{Annotations, annotations};
use super::element::{elements, fixed};
use super::syntax::*;
use super::token::*;
use super::types::read_type;
use crate::ir::{AttrKind, Type};

pub fn model(text: &str) -> Parsed<ModelSyntax<'_>> {
    run(text, |input| {
        let mut annotations = annotations(input)?;
        let fields = fields(input)?;
        let graph = match fields.is_empty() {
            true => graph_after(input, std::mem::take(&mut annotations))?,
            false => graph(input)?,
        };
        let mut functions = Vec::new();
        while !input.is_empty() {
            functions.push(function(input)?);
        }
        Ok(ModelSyntax { annotations, fields, graph, functions })
    })
}

/// A tensor with its annotations, as it stands in an attribute.
pub fn whole_item(text: &str) -> Parsed<Item<'_>> {
    run(text, item)
}

// Headers.

/// `'<' key ':' value (',' key ':' value)* '>'`, or nothing.
fn fields(input: &mut Input) -> Parsed<Vec<Field>> {
    match passes(input, '<')? {
        true => list(input, '>', "`,` or `>` after an entry of the header", field),
        false => Ok(Vec::new()),
    }
}

fn field(input: &mut Input) -> Parsed<Field> {
    let start = at(input);
    let word = identifier(input, "an identifier")?;
    let key = match word {
        "ir_version" => FieldKey::IrVersion,
        "opset_import" => FieldKey::OpsetImport,
        "producer_name" => FieldKey::ProducerName,
        "producer_version" => FieldKey::ProducerVersion,
        "domain" => FieldKey::Domain,
        "model_version" => FieldKey::ModelVersion,
        "doc_string" => FieldKey::DocString,
        "metadata_props" => FieldKey::MetadataProps,
        "overload" => FieldKey::Overload,
        _ => return Err(Failure::new(start, format!("`{word}` is no entry of a header"))),
    };
    sign(input, ':', "`:` and a value")?;
    let value = match key {
        FieldKey::IrVersion | FieldKey::ModelVersion => FieldValue::Int(integer(input)?),
        FieldKey::OpsetImport => {
            sign(input, '[', "`[` and the operator sets")?;
            FieldValue::Opsets(list(input, ']', "`,` or `]` after an operator set", |input| {
                let domain = quoted(input)?.into_owned();
                sign(input, ':', "`:` and the version of the operator set")?;
                Ok((domain, integer(input)?))
            })?)
        }
        FieldKey::MetadataProps => FieldValue::Pairs(pairs(input)?),
        _ => FieldValue::Text(quoted(input)?.into_owned()),
    };
    Ok(Field { at: start, key, value })
}

/// `'[' string ':' string (',' string ':' string)* ']'`
fn pairs(input: &mut Input) -> Parsed<Pairs> {
    sign(input, '[', "`[`")?;
    list(input, ']', "`,` or `]`", |input| {
        let key = quoted(input)?.into_owned();
        sign(input, ':', "`:` and a quoted string")?;
        Ok((key, quoted(input)?.into_owned()))
    })
}

fn data(input: &mut Input, ty: Type, start: usize) -> Parsed<Data> {
    match next(input) {
        Some('{') => {
            let (dtype, shape) =
                fixed(&ty).ok_or_else(|| Failure::new(start, "data needs a type with fixed lengths"))?;
            elements(input, dtype, shape, start).map(Data::Inline)
        }
        Some('[') => Ok(Data::Stored(StoredData { at: start, ty, entries: pairs(input)? })),
        _ => Err(expected(input, "`{` and the elements, or `[` and where they are stored")),
    }
}

// Graphs.

fn graph<'t>(input: &mut Input<'t>) -> Parsed<GraphSyntax<'t>> {
    let annotations = annotations(input)?;
    graph_after(input, annotations)
}

fn graph_after<'t>(input: &mut Input<'t>, annotations: Annotations<'t>) -> Parsed<GraphSyntax<'t>> {
    let name = name(input, "the name of a graph")?;
    deeper(input, |input| {
        let (inputs, outputs, values) = interface(input)?;
        Ok(GraphSyntax { annotations, name, inputs, outputs, values, nodes: nodes(input)? })
    })
}

/// `inputs '=>' outputs values?`
#[allow(clippy::type_complexity)]
fn interface<'t>(input: &mut Input<'t>) -> Parsed<(Vec<ValueSyntax<'t>>, Vec<ValueSyntax<'t>>, Vec<ValueSyntax<'t>>)> {
    sign(input, '(', "`(` and the inputs")?;
    let inputs = list(input, ')', "`,` or `)` after an input", value)?;
    literal("=>").context("`=>` and the outputs").void().parse_next(input)?;
    space(input)?;
    sign(input, '(', "`(` and the outputs")?;
    let outputs = list(input, ')', "`,` or `)` after an output", value)?;
    let values = match passes(input, '<')? {
        true => list(input, '>', "`,` or `>` after a value", value)?,
        false => Vec::new(),
    };
    Ok((inputs, outputs, values))
}

/// `type? name ('=' data)?`
fn value<'t>(input: &mut Input<'t>) -> Parsed<ValueSyntax<'t>> {
    let annotations = annotations(input)?;
    let start = at(input);
    let ty = match peek_word(input).is_some_and(begins_type) {
        true => Some(read_type(input)?),
        false => None,
    };
    let name = name(input, "the name of a value")?;
    let data = match passes(input, '=')? {
        true => {
            let ty = ty.clone().ok_or_else(|| Failure::new(start, "data needs a type before the name"))?;
            Some(data(input, ty, start)?)
        }
        false => None,
    };
    Ok(ValueSyntax { annotations, ty, name, data })
}

fn nodes<'t>(input: &mut Input<'t>) -> Parsed<Vec<NodeSyntax<'t>>> {
    sign(input, '{', "`{` and the nodes")?;
    let mut nodes = Vec::new();
    while !passes(input, '}')? {
        nodes.push(node(input)?);
    }
    Ok(nodes)
}

/// `('[' name ']')? outputs '=' operator attrs? '(' inputs ')' attrs?`
fn node<'t>(input: &mut Input<'t>) -> Parsed<NodeSyntax<'t>> {
    let annotations = annotations(input)?;
    let label = match passes(input, '[')? {
        true if passes(input, ']')? => None,
        true => {
            let label = name(input, "the name of a node")?;
            sign(input, ']', "`]` after the name of a node")?;
            Some(label)
        }
        false => None,
    };
    let outputs = names(input)?;
    sign(input, '=', "a node: its outputs, `=`, its operator; or `}`")?;
    let mut domain = String::new();
    let mut op = identifier(input, "an operator")?;
    while passes(input, '.')? {
        if !domain.is_empty() {
            domain.push('.');
        }
        domain.push_str(op);
        op = identifier(input, "an identifier")?;
    }
    let overload = if passes(input, ':')? { identifier(input, "an identifier")? } else { "" };
    let mut attrs = attrs(input)?;
    sign(input, '(', "`(` and the operands")?;
    let inputs = names(input)?;
    sign(input, ')', "`,` or `)` after an operand")?;
    if attrs.is_empty() {
        attrs = self::attrs(input)?;
    }
    Ok(NodeSyntax { annotations, name: label, outputs, domain, op, overload, attrs, inputs })
}

fn attrs<'t>(input: &mut Input<'t>) -> Parsed<Vec<AttrSyntax<'t>>> {
    match passes(input, '<')? {
        true => list(input, '>', "`,` or `>` after an attribute", |input| {
            let annotations = annotations(input)?;
            let at = at(input);
            let name = identifier(input, "the name of an attribute")?;
            attr(input, annotations, at, name.into())
        }),
        false => Ok(Vec::new()),
    }
}

/// `(':' kind)? '=' value`, after the name.
fn attr<'t>(
    input: &mut Input<'t>,
    annotations: Annotations<'t>,
    at: usize,
    name: Cow<'t, str>,
) -> Parsed<AttrSyntax<'t>> {
    let kind = match passes(input, ':')? {
        true => Some(attr_kind(input)?),
        false => None,
    };
    sign(input, '=', "`=` and the value of the attribute")?;
    let value = match next(input) {
        Some('[') => {
            sign(input, '[', "`[`")?;
            AttrValue::List(list(input, ']', "`,` or `]` after an element", item)?)
        }
        Some('@') => {
            sign(input, '@', "`@`")?;
            AttrValue::Reference(quotable(input, "the name of an attribute")?.into_owned())
        }
        _ => AttrValue::Single(item(input)?),
    };
    Ok(AttrSyntax { annotations, at, name, kind, value })
}

fn attr_kind(input: &mut Input) -> Parsed<AttrKind> {
    let start = at(input);
    let word = identifier(input, "the type of an attribute")?;
    AttrKind::from_name(word).ok_or_else(|| Failure::new(start, format!("`{word}` is no type of an attribute")))
}

fn item<'t>(input: &mut Input<'t>) -> Parsed<Item<'t>> {
    let annotations = annotations(input)?;
    let start = at(input);
    let literal = match (next(input), peek_word(input)) {
        (_, Some(word)) if begins_type(word) => {
            let ty = read_type(input)?;
            match (next(input), peek_word(input)) {
                (Some('{' | '='), _) | (_, Some(_)) => {
                    let name = if next(input) == Some('"') || peek_word(input).is_some() {
                        quotable(input, "the name of a tensor")?
                    } else {
                        "".into()
                    };
                    passes(input, '=')?;
                    Literal::Tensor { name, data: data(input, ty, start)? }
                }
                _ => Literal::Type(ty),
            }
        }
        (_, Some(word)) if !is_special_float(word) => Literal::Graph(Box::new(graph(input)?)),
        (Some('"'), _) => Literal::Str(quoted(input)?),
        (Some(c), _) if c.is_ascii_alphanumeric() || c == '-' => match number(input)? {
            (literal, true) => Literal::Float(literal),
            (literal, false) => Literal::Int(literal),
        },
        _ => return Err(expected(input, "the value of an attribute")),
    };
    Ok(Item { at: start, annotations, literal })
}

// Functions.

fn function<'t>(input: &mut Input<'t>) -> Parsed<FunctionSyntax<'t>> {
    let annotations = annotations(input)?;
    let fields = fields(input)?;
    let name = name(input, "the name of a function")?;
    let attrs = match passes(input, '<')? {
        true => list(input, '>', "`,` or `>` after an attribute of the function", function_attr)?,
        false => Vec::new(),
    };
    let (inputs, outputs, values) = interface(input)?;
    let body = GraphSyntax { annotations, name, inputs, outputs, values, nodes: nodes(input)? };
    Ok(FunctionSyntax { fields, attrs, body })
}

fn function_attr<'t>(input: &mut Input<'t>) -> Parsed<FunctionAttr<'t>> {
    let annotations = annotations(input)?;
    let at = at(input);
    let name = quotable(input, "the name of an attribute")?;
    match next(input) {
        Some(':' | '=') => Ok(FunctionAttr::Default(attr(input, annotations, at, name)?)),
        _ => {
            annotations.finish()?;
            Ok(FunctionAttr::Required(name.into_owned()))
        }
    }
}
