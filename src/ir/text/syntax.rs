//! What a text says, before names are looked up. `at` is the place in the text, in bytes.

use std::borrow::Cow;

use super::annotation::Annotations;
use crate::ir::{AttrKind, Tensor, Type};

pub type Pairs = Vec<(String, String)>;

pub struct ModelSyntax<'t> {
    pub annotations: Annotations<'t>,
    pub fields: Vec<Field>,
    pub graph: GraphSyntax<'t>,
    pub functions: Vec<FunctionSyntax<'t>>,
}

/// An entry of the header of a model or function.
pub struct Field {
    pub at: usize,
    pub key: FieldKey,
    pub value: FieldValue,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FieldKey {
    IrVersion,
    OpsetImport,
    ProducerName,
    ProducerVersion,
    Domain,
    ModelVersion,
    DocString,
    MetadataProps,
    Overload,
}

pub enum FieldValue {
    Int(i64),
    Text(String),
    Opsets(Vec<(String, i64)>),
    Pairs(Pairs),
}

pub struct GraphSyntax<'t> {
    pub annotations: Annotations<'t>,
    pub name: Name<'t>,
    pub inputs: Vec<ValueSyntax<'t>>,
    pub outputs: Vec<ValueSyntax<'t>>,
    pub values: Vec<ValueSyntax<'t>>,
    pub nodes: Vec<NodeSyntax<'t>>,
}

pub struct FunctionSyntax<'t> {
    pub fields: Vec<Field>,
    pub attrs: Vec<FunctionAttr<'t>>,
    /// The function's own name and annotations are those of its body.
    pub body: GraphSyntax<'t>,
}

pub enum FunctionAttr<'t> {
    Required(String),
    Default(AttrSyntax<'t>),
}

/// A name and where it stands.
#[derive(Clone)]
pub struct Name<'t> {
    pub at: usize,
    pub text: Cow<'t, str>,
}

/// A value with what is declared of it, or an initializer.
pub struct ValueSyntax<'t> {
    pub annotations: Annotations<'t>,
    pub ty: Option<Type>,
    pub name: Name<'t>,
    pub data: Option<Data>,
}

/// The elements of a tensor.
pub enum Data {
    Inline(Tensor),
    /// Not in the text: the entries of the `external_data` list.
    Stored(StoredData),
}

pub struct StoredData {
    pub at: usize,
    pub ty: Type,
    pub entries: Pairs,
}

pub struct NodeSyntax<'t> {
    pub annotations: Annotations<'t>,
    pub name: Option<Name<'t>>,
    pub outputs: Vec<Name<'t>>,
    pub domain: String,
    pub op: &'t str,
    pub overload: &'t str,
    pub attrs: Vec<AttrSyntax<'t>>,
    pub inputs: Vec<Name<'t>>,
}

pub struct AttrSyntax<'t> {
    pub annotations: Annotations<'t>,
    pub at: usize,
    pub name: Cow<'t, str>,
    pub kind: Option<AttrKind>,
    pub value: AttrValue<'t>,
}

pub enum AttrValue<'t> {
    Single(Item<'t>),
    List(Vec<Item<'t>>),
    Reference(String),
}

/// One attribute value.
pub struct Item<'t> {
    pub at: usize,
    pub annotations: Annotations<'t>,
    pub literal: Literal<'t>,
}

pub enum Literal<'t> {
    Int(&'t str),
    Float(&'t str),
    Str(Cow<'t, str>),
    Tensor { name: Cow<'t, str>, data: Data },
    Type(Type),
    Graph(Box<GraphSyntax<'t>>),
}
