//! From [`syntax`](super::syntax) to the model: looks up names, reads annotations, fetches external data.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::TextError;
use super::annotation::{Annotations, from_hex};
use super::element::{fixed, float32};
use super::syntax::*;
use super::token::{Failure, Parsed};
use super::{parse, types};
use crate::ir::{
    Attr, AttrKind, Attrs, DType, Function, GraphId, Initializer, Label, Model, Notes, Operation, OpsetImports,
    QuantizationAnnotation, SparseTensor, Tensor, Type, ValueDef, ValueId,
};

/// Where the elements of a tensor lie outside the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalData {
    pub location: String,
    pub offset: u64,
    /// None where the file's rest is meant.
    pub length: Option<u64>,
}

impl Model {
    /// The model that `text` says, which holds all its tensors.
    pub fn parse(text: &str) -> Result<Model, TextError> {
        Model::parse_with(text, |external| Err(format!("its data is in `{}`, which is not given", external.location)))
    }

    /// The model that `text` says; `load` gives the bytes of external data, or says why it cannot.
    pub fn parse_with(
        text: &str,
        mut load: impl FnMut(&ExternalData) -> Result<Bytes, String>,
    ) -> Result<Model, TextError> {
        let built = parse::model(text).and_then(|syntax| {
            let model = Model::new(&syntax.graph.name.text);
            Builder { model, scopes: Vec::new(), load: &mut load }.build(syntax)
        });
        built.map_err(|failure| TextError::new(text, failure))
    }
}

struct Builder<'t, 'l> {
    model: Model,
    /// The names defined so far in the graph being built, last, and in those around it.
    scopes: Vec<HashMap<Cow<'t, str>, ValueId>>,
    load: &'l mut dyn FnMut(&ExternalData) -> Result<Bytes, String>,
}

/// What is declared of values that no node has defined yet.
type Declared<'t> = HashMap<Cow<'t, str>, Declaration>;

struct Declaration {
    at: usize,
    ty: Option<Type>,
    notes: Notes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SparseJson {
    shape: Vec<usize>,
    values: String,
    indices: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuantizationJson {
    tensor: String,
    parameters: Vec<(String, String)>,
}

impl<'t> Builder<'t, '_> {
    fn build(mut self, syntax: ModelSyntax<'t>) -> Parsed<Model> {
        let mut annotations = syntax.annotations;
        self.header(syntax.fields)?;
        self.model.header.training_info = messages(&mut annotations, "training-info")?;
        self.model.header.device_configurations = messages(&mut annotations, "device-configuration")?;
        annotations.finish()?;
        self.graph(self.model.main, syntax.graph)?;
        for function in syntax.functions {
            self.function(function)?;
        }
        Ok(self.model)
    }

    fn header(&mut self, fields: Vec<Field>) -> Parsed<()> {
        let Model { header, opsets, .. } = &mut self.model;
        for Field { at, key, value } in fields {
            match (key, value) {
                (FieldKey::IrVersion, FieldValue::Int(version)) => header.ir_version = version,
                (FieldKey::ModelVersion, FieldValue::Int(version)) => header.model_version = version,
                (FieldKey::OpsetImport, FieldValue::Opsets(imports)) => *opsets = opset_imports(at, imports)?,
                (FieldKey::ProducerName, FieldValue::Text(name)) => header.producer_name = name,
                (FieldKey::ProducerVersion, FieldValue::Text(version)) => header.producer_version = version,
                (FieldKey::Domain, FieldValue::Text(domain)) => header.domain = domain,
                (FieldKey::DocString, FieldValue::Text(doc)) => header.notes.doc = doc,
                (FieldKey::MetadataProps, FieldValue::Pairs(metadata)) => header.notes.metadata = metadata,
                _ => return Err(Failure::new(at, "this is no entry of the header of a model")),
            }
        }
        Ok(())
    }

    fn function(&mut self, syntax: FunctionSyntax<'t>) -> Parsed<()> {
        let body = self.model.add_graph(&syntax.body.name.text);
        let mut function = Function {
            domain: String::new(),
            name: syntax.body.name.text.to_string(),
            overload: String::new(),
            body,
            opsets: OpsetImports::default(),
            required_attrs: Vec::new(),
            default_attrs: Attrs::new(),
        };
        let mut doc = String::new();
        for Field { at, key, value } in syntax.fields {
            match (key, value) {
                (FieldKey::OpsetImport, FieldValue::Opsets(imports)) => function.opsets = opset_imports(at, imports)?,
                (FieldKey::Domain, FieldValue::Text(domain)) => function.domain = domain,
                (FieldKey::Overload, FieldValue::Text(overload)) => function.overload = overload,
                (FieldKey::DocString, FieldValue::Text(text)) => doc = text,
                _ => return Err(Failure::new(at, "this is no entry of the header of a function")),
            }
        }
        for attr in syntax.attrs {
            match attr {
                FunctionAttr::Required(name) => function.required_attrs.push(name),
                FunctionAttr::Default(attr) => {
                    let at = attr.at;
                    let (name, attr, doc) = self.attr(attr)?;
                    if doc.is_some() {
                        return Err(Failure::new(at, "an attribute of a function has no doc string"));
                    }
                    function.default_attrs.insert(name, attr);
                }
            }
        }
        self.graph(body, syntax.body)?;
        if !doc.is_empty() {
            self.model.graph_mut(body).notes.doc = doc;
        }
        self.model.add_function(function);
        Ok(())
    }

    fn graph(&mut self, graph: GraphId, syntax: GraphSyntax<'t>) -> Parsed<()> {
        let mut annotations = syntax.annotations;
        let name = annotations.take("name")?;
        let quantization = annotations.take_all::<QuantizationJson>("quantization")?;
        let notes = notes(&mut annotations)?;
        annotations.finish()?;
        let about = self.model.graph_mut(graph);
        *about.notes = notes;
        *about.quantization_annotations = quantization
            .into_iter()
            .map(|QuantizationJson { tensor, parameters }| QuantizationAnnotation { tensor, parameters })
            .collect();
        if let Some(name) = name {
            *about.name = name;
        }

        self.scopes.push(HashMap::new());
        for input in syntax.inputs {
            self.input(graph, input)?;
        }
        let mut declared = Declared::new();
        let outputs: Vec<Name> = syntax.outputs.iter().map(|output| output.name.clone()).collect();
        for output in syntax.outputs {
            if output.data.is_some() {
                return Err(Failure::new(output.name.at, "an output has no data of its own"));
            }
            self.declare(output, &mut declared)?;
        }
        for value in syntax.values {
            self.initializer_or_declaration(graph, value, &mut declared)?;
        }
        for node in syntax.nodes {
            self.node(graph, node, &mut declared)?;
        }
        for output in outputs {
            let value = self.find(&output)?;
            self.model.add_output(graph, value);
            if let Some(declaration) = declared.remove(&output.text) {
                self.apply(value, declaration);
            }
        }
        self.scopes.pop();
        match declared.iter().min_by_key(|(_, declaration)| declaration.at) {
            Some((name, Declaration { at, .. })) => {
                Err(Failure::new(*at, format!("`{name}` is declared, but nothing defines it")))
            }
            None => Ok(()),
        }
    }

    fn input(&mut self, graph: GraphId, syntax: ValueSyntax<'t>) -> Parsed<()> {
        let ValueSyntax { mut annotations, ty, name, data } = syntax;
        let value = self.model.add_input(graph, &name.text);
        self.model.set_type(value, declared_type(&mut annotations, ty)?);
        if let Some(data) = data {
            let tensor = self.tensor(data, &mut annotations, None)?;
            self.model.set_default(value, Initializer::Dense(tensor));
        }
        *self.model.value_notes_mut(value) = notes(&mut annotations)?;
        annotations.finish()?;
        self.define(name, value)
    }

    fn initializer_or_declaration(
        &mut self,
        graph: GraphId,
        syntax: ValueSyntax<'t>,
        declared: &mut Declared<'t>,
    ) -> Parsed<()> {
        let is_sparse = syntax.annotations.0.iter().any(|annotation| annotation.key == "sparse");
        if syntax.data.is_none() && !is_sparse {
            return self.declare(syntax, declared);
        }
        let ValueSyntax { mut annotations, name, data, .. } = syntax;
        let at = name.at;
        let initializer = match data {
            Some(data) => Initializer::Dense(self.labelled_tensor(data, &mut annotations, "")?),
            None => Initializer::Sparse(self.sparse(&mut annotations, at)?.expect("just seen")),
        };
        annotations.finish()?;
        let own = self.scopes.last().and_then(|scope| scope.get(&name.text)).copied();
        match own {
            Some(input) if matches!(self.model.value(input).def, ValueDef::Input { default: None }) => {
                self.model.set_default(input, initializer);
                Ok(())
            }
            _ => {
                let value = match initializer {
                    Initializer::Dense(tensor) => self.model.add_constant(graph, &name.text, tensor),
                    Initializer::Sparse(tensor) => self.model.add_sparse_constant(graph, &name.text, tensor),
                };
                self.define(name, value)
            }
        }
    }

    /// Notes what is said of a value, until its definition is reached.
    fn declare(&mut self, syntax: ValueSyntax<'t>, declared: &mut Declared<'t>) -> Parsed<()> {
        let ValueSyntax { mut annotations, ty, name, .. } = syntax;
        let ty = declared_type(&mut annotations, ty)?;
        let notes = notes(&mut annotations)?;
        annotations.finish()?;
        let declaration = Declaration { at: name.at, ty, notes };
        match self.scopes.last().and_then(|scope| scope.get(&name.text)) {
            Some(&value) => self.apply(value, declaration),
            None => drop(declared.entry(name.text).or_insert(declaration)),
        }
        Ok(())
    }

    fn apply(&mut self, value: ValueId, Declaration { ty, notes, .. }: Declaration) {
        if ty.is_some() {
            self.model.set_type(value, ty);
        }
        if !notes.is_empty() {
            *self.model.value_notes_mut(value) = notes;
        }
    }

    fn node(&mut self, graph: GraphId, syntax: NodeSyntax<'t>, declared: &mut Declared<'t>) -> Parsed<()> {
        let mut annotations = syntax.annotations;
        let mut or = |key, text: String| Ok::<String, Failure>(annotations.take(key)?.unwrap_or(text));
        let (domain, op) = (or("domain", syntax.domain)?, or("op", syntax.op.into())?);
        let overload = or("overload", syntax.overload.into())?;
        let inputs = syntax.inputs.iter().map(|input| match input.text.is_empty() {
            true => Ok(None),
            false => self.find(input).map(Some),
        });
        let inputs = inputs.collect::<Parsed<Vec<_>>>()?;
        let (mut attrs, mut attr_docs) = (Attrs::new(), Vec::new());
        for attr in syntax.attrs {
            let at = attr.at;
            let (name, attr, doc) = self.attr(attr)?;
            attr_docs.extend(doc.map(|doc| (name.clone(), doc)));
            if attrs.contains_key(&name) {
                return Err(Failure::new(at, format!("attribute `{name}` is given twice")));
            }
            attrs.insert(name, attr);
        }
        let operation = Operation { domain, op, overload, inputs, attrs };
        let names: Vec<_> = syntax.outputs.iter().map(|out| Some(&*out.text).filter(|name| !name.is_empty())).collect();
        let label = syntax.name.as_ref().map_or("", |name| &name.text);
        let node = self.model.append_node(graph, label, operation, &names);
        let device_configurations = messages(&mut annotations, "device-configuration")?;
        let about = self.model.node_notes_mut(node);
        *about.notes = notes(&mut annotations)?;
        *about.attr_docs = attr_docs;
        *about.device_configurations = device_configurations;
        annotations.finish()?;
        for (index, name) in syntax.outputs.into_iter().enumerate() {
            if let Some(value) = self.model.node(node).outputs[index] {
                if let Some(declaration) = declared.remove(&name.text) {
                    self.apply(value, declaration);
                }
                self.define(name, value)?;
            }
        }
        Ok(())
    }

    fn define(&mut self, name: Name<'t>, value: ValueId) -> Parsed<()> {
        let scope = self.scopes.last_mut().expect("a graph is being built");
        match scope.insert(name.text.clone(), value) {
            Some(_) => Err(Failure::new(name.at, format!("`{}` is defined twice", name.text))),
            None => Ok(()),
        }
    }

    fn find(&self, name: &Name) -> Parsed<ValueId> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.get(&name.text));
        found.copied().ok_or_else(|| Failure::new(name.at, format!("`{}` is not defined before it is read", name.text)))
    }

    /// An attribute with its name and doc string.
    fn attr(&mut self, syntax: AttrSyntax<'t>) -> Parsed<(String, Attr, Option<String>)> {
        let AttrSyntax { mut annotations, at, name, kind, value } = syntax;
        let name = annotations.take("name")?.unwrap_or_else(|| name.into_owned());
        let doc = annotations.take("doc")?;
        annotations.finish()?;
        let attr = match value {
            AttrValue::Reference(name) => Attr::Reference { name, kind: kind.unwrap_or(AttrKind::Undefined) },
            AttrValue::Single(item) => {
                let attr = self.item(item, kind == Some(AttrKind::Float))?;
                match kind {
                    Some(kind) if kind != attr.kind() => return Err(mismatch(at, &name, kind)),
                    _ => attr,
                }
            }
            AttrValue::List(items) => self.attr_list(at, &name, kind, items)?,
        };
        Ok((name, attr, doc))
    }

    fn attr_list(&mut self, at: usize, name: &str, kind: Option<AttrKind>, items: Vec<Item<'t>>) -> Parsed<Attr> {
        let is_float = |item: &Item| matches!(item.literal, Literal::Float(_));
        let as_floats = kind == Some(AttrKind::Floats) || kind.is_none() && items.iter().any(is_float);
        let items = items.into_iter().map(|item| self.item(item, as_floats)).collect::<Parsed<Vec<_>>>()?;
        let kind = match (kind, items.first().map(Attr::kind)) {
            (Some(kind), _) => kind,
            (None, Some(AttrKind::Float)) => AttrKind::Floats,
            (None, Some(AttrKind::Int)) => AttrKind::Ints,
            (None, Some(AttrKind::Str)) => AttrKind::Strs,
            (None, Some(AttrKind::Tensor)) => AttrKind::Tensors,
            (None, Some(AttrKind::Graph)) => AttrKind::Graphs,
            (None, Some(AttrKind::SparseTensor)) => AttrKind::SparseTensors,
            (None, Some(_)) => AttrKind::Types,
            (None, None) => {
                let what = format!("an empty list needs its type, as in `{name}: ints = []`");
                return Err(Failure::new(at, what));
            }
        };
        macro_rules! all {
            ($list:ident of $single:ident) => {
                items
                    .into_iter()
                    .map(|item| match item {
                        Attr::$single(x) => Some(x),
                        _ => None,
                    })
                    .collect::<Option<_>>()
                    .map(Attr::$list)
            };
        }
        let attr = match kind {
            AttrKind::Floats => all!(Floats of Float),
            AttrKind::Ints => all!(Ints of Int),
            AttrKind::Strs => all!(Strs of Str),
            AttrKind::Tensors => all!(Tensors of Tensor),
            AttrKind::Graphs => all!(Graphs of Graph),
            AttrKind::SparseTensors => all!(SparseTensors of SparseTensor),
            AttrKind::Types => all!(Types of Type),
            _ => None,
        };
        attr.ok_or_else(|| mismatch(at, name, kind))
    }

    fn item(&mut self, item: Item<'t>, as_float: bool) -> Parsed<Attr> {
        let Item { at, mut annotations, literal } = item;
        if let Some(sparse) = self.sparse(&mut annotations, at)? {
            annotations.finish()?;
            return Ok(Attr::SparseTensor(sparse));
        }
        let attr = match literal {
            Literal::Float(literal) => Attr::Float(float_attr(at, literal, &mut annotations)?),
            Literal::Int(literal) if as_float => Attr::Float(float_attr(at, literal, &mut annotations)?),
            Literal::Int(literal) => {
                let int = literal.parse();
                Attr::Int(int.map_err(|_| Failure::new(at, format!("`{literal}` does not fit in 64 bits")))?)
            }
            Literal::Str(text) => match annotations.take::<String>("bits")? {
                Some(hex) => Attr::Str(hex_bytes(at, &hex)?.into()),
                None => Attr::Str(text.into_owned().into()),
            },
            Literal::Tensor { name, data } => Attr::Tensor(self.labelled_tensor(data, &mut annotations, &name)?),
            Literal::Type(ty) => Attr::Type(declared_type(&mut annotations, Some(ty))?.expect("given")),
            Literal::Graph(mut syntax) => {
                syntax.annotations.0.splice(0..0, std::mem::take(&mut annotations.0));
                let graph = self.model.add_graph(&syntax.name.text);
                self.graph(graph, *syntax)?;
                Attr::Graph(graph)
            }
        };
        annotations.finish()?;
        Ok(attr)
    }

    /// The sparse tensor that an annotation describes.
    fn sparse(&mut self, annotations: &mut Annotations, at: usize) -> Parsed<Option<SparseTensor>> {
        let Some(SparseJson { shape, values, indices }) = annotations.take("sparse")? else { return Ok(None) };
        let mut part = |text: &str| {
            let inside = |failure: Failure| Failure::new(at, format!("in @sparse: {}", failure.what));
            let Item { mut annotations, literal, .. } = parse::whole_item(text).map_err(inside)?;
            let Literal::Tensor { name, data } = literal else {
                return Err(Failure::new(at, format!("@sparse wants a tensor, found `{text}`")));
            };
            let tensor = self.labelled_tensor(data, &mut annotations, &name).map_err(inside)?;
            annotations.finish().map_err(inside)?;
            Ok(tensor)
        };
        Ok(Some(SparseTensor { values: part(&values)?, indices: part(&indices)?, shape }))
    }

    fn labelled_tensor(&mut self, data: Data, annotations: &mut Annotations, name: &str) -> Parsed<Tensor> {
        let name = annotations.take("name")?.unwrap_or_else(|| name.to_string());
        let notes = notes(annotations)?;
        let label = (!name.is_empty() || !notes.is_empty()).then(|| Arc::new(Label { name, notes }));
        self.tensor(data, annotations, label)
    }

    fn tensor(&mut self, data: Data, annotations: &mut Annotations, label: Option<Arc<Label>>) -> Parsed<Tensor> {
        let mut tensor = match data {
            Data::Stored(stored) => self.stored(stored)?,
            Data::Inline(tensor) => match annotations.0.iter().find(|annotation| annotation.key == "bits") {
                None => tensor,
                Some(annotation) => {
                    let at = annotation.at;
                    let shape = tensor.shape().to_vec();
                    let exact = match tensor.dtype() {
                        DType::String => {
                            let strings = annotations.take::<Vec<String>>("bits")?.unwrap_or_default();
                            let strings = strings.iter().map(|hex| Ok(hex_bytes(at, hex)?.into()));
                            Tensor::from_strings(shape, strings.collect::<Parsed<_>>()?)
                        }
                        dtype => {
                            let hex = annotations.take::<String>("bits")?.unwrap_or_default();
                            Tensor::new(dtype, shape, hex_bytes(at, &hex)?.into())
                        }
                    };
                    exact.map_err(|error| Failure::new(at, error.to_string()))?
                }
            },
        };
        tensor.label = label;
        Ok(tensor)
    }

    fn stored(&mut self, StoredData { at, ty, entries }: StoredData) -> Parsed<Tensor> {
        let fail = |what: String| Failure::new(at, what);
        let entry = |key| entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        if entry("elided").is_some() {
            return Err(fail("the elements of this tensor were left out where the text was printed".into()));
        }
        let number = |key| match entry(key) {
            Some(value) => value.parse().map(Some).map_err(|_| fail(format!("`{key}` is no length: `{value}`"))),
            None => Ok(None),
        };
        let external = ExternalData {
            location: entry("location").ok_or_else(|| fail("external data without `location`".into()))?.into(),
            offset: number("offset")?.unwrap_or(0),
            length: number("length")?,
        };
        let (dtype, shape) = fixed(&ty).ok_or_else(|| fail("data needs a type with fixed lengths".into()))?;
        let bytes = (self.load)(&external).map_err(fail)?;
        Tensor::new(dtype, shape, bytes).map_err(|error| fail(error.to_string()))
    }
}

fn mismatch(at: usize, name: &str, kind: AttrKind) -> Failure {
    Failure::new(at, format!("the value of `{name}` is not of type {}", kind.name().unwrap_or("undefined")))
}

fn float_attr(at: usize, literal: &str, annotations: &mut Annotations) -> Parsed<f32> {
    match annotations.take::<String>("bits")? {
        Some(hex) => {
            let bytes = hex_bytes(at, &hex)?.try_into();
            Ok(f32::from_le_bytes(bytes.map_err(|_| Failure::new(at, "@bits of a float are four bytes"))?))
        }
        None => float32(literal).ok_or_else(|| Failure::new(at, format!("`{literal}` is no float"))),
    }
}

fn hex_bytes(at: usize, hex: &str) -> Parsed<Vec<u8>> {
    from_hex(hex).ok_or_else(|| Failure::new(at, format!("`{hex}` is not bytes in hexadecimal digits")))
}

/// Encoded messages.
fn messages(annotations: &mut Annotations, key: &str) -> Parsed<Vec<Bytes>> {
    let at = annotations.0.iter().find(|annotation| annotation.key == key).map_or(0, |annotation| annotation.at);
    annotations.take_all::<String>(key)?.iter().map(|hex| Ok(hex_bytes(at, hex)?.into())).collect()
}

fn notes(annotations: &mut Annotations) -> Parsed<Notes> {
    Ok(Notes { doc: annotations.take("doc")?.unwrap_or_default(), metadata: annotations.take_all("metadata")? })
}

/// The type that is written, or the one an annotation gives in its place.
fn declared_type(annotations: &mut Annotations, written: Option<Type>) -> Parsed<Option<Type>> {
    let at = annotations.0.iter().find(|annotation| annotation.key == "type").map(|annotation| annotation.at);
    match (at, annotations.take::<String>("type")?) {
        (Some(at), Some(text)) => {
            let ty = types::read_whole(&text);
            ty.map(Some).map_err(|failure| Failure::new(at, format!("in @type: {}", failure.what)))
        }
        _ => Ok(written),
    }
}

fn opset_imports(at: usize, imports: Vec<(String, i64)>) -> Parsed<OpsetImports> {
    let mut opsets = OpsetImports::default();
    for (domain, version) in imports {
        let what = format!("the operator set \"{domain}\" is imported twice");
        if opsets.0.insert(domain, version).is_some() {
            return Err(Failure::new(at, what));
        }
    }
    Ok(opsets)
}
