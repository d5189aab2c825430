//! From the model to text.

use std::collections::HashSet;
use std::fmt::{self, Write};

use bytes::Bytes;
use serde_json::json;

use super::annotation::to_hex;
use super::element::{is_exact, is_exact_f32, summary, write_elements, write_float};
use super::token::{is_identifier, is_plain, write_list, write_name, write_quoted};
use super::types;
use crate::ir::{
    Attr, Function, GraphId, Initializer, Model, Names, Node, NodeId, Notes, OpsetImports, SparseTensor, Tensor, Type,
    Value, ValueDef, ValueId,
};

/// How a model is printed.
#[derive(Clone, Debug)]
pub struct PrintOptions {
    /// Tensors of up to this many bytes are written out.
    pub inline_bytes: usize,
    pub large: LargeTensors,
}

/// What is printed of tensors that are too large to be written out.
#[derive(Clone, Debug)]
pub enum LargeTensors {
    /// Their size and range. Such a text is for reading only.
    Elide,
    /// A reference into a file of this name; its content is [`Text::external`].
    External { location: String },
}

/// Prints a dump: large tensors are elided.
impl Default for PrintOptions {
    fn default() -> PrintOptions {
        PrintOptions { inline_bytes: 1024, large: LargeTensors::Elide }
    }
}

impl PrintOptions {
    /// Writes out every tensor.
    pub fn whole() -> PrintOptions {
        PrintOptions { inline_bytes: usize::MAX, ..PrintOptions::default() }
    }

    /// Puts large tensors into a file of the name `location`, beside the text.
    pub fn external(location: &str) -> PrintOptions {
        PrintOptions { large: LargeTensors::External { location: location.into() }, ..PrintOptions::default() }
    }
}

/// A printed model.
pub struct Text {
    pub text: String,
    /// The content of the external data file, in pieces that share the model's memory.
    pub external: Vec<Bytes>,
}

/// Tensors begin at multiples of this in the external data file.
const ALIGNMENT: usize = 64;

impl Model {
    pub fn print(&self, options: &PrintOptions) -> Text {
        let mut printer = Printer {
            model: self,
            names: Names::of(self),
            options,
            out: String::new(),
            indent: 0,
            external: Vec::new(),
            external_len: 0,
        };
        printer.model();
        Text { text: printer.out, external: printer.external }
    }
}

/// A dump, with large tensors elided.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.print(&PrintOptions::default()).text)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct Printer<'m> {
    model: &'m Model,
    names: Names<'m>,
    options: &'m PrintOptions,
    out: String,
    indent: usize,
    external: Vec<Bytes>,
    external_len: usize,
}

/// The lines of annotations that stand before a thing.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, key: &str, json: impl Into<serde_json::Value>) {
        self.0.push(format!("# @{key} {}", json.into()));
    }

    fn add_notes(&mut self, notes: &Notes) {
        if !notes.doc.is_empty() {
            self.add("doc", notes.doc.as_str());
        }
        for (key, value) in &notes.metadata {
            self.add("metadata", json!([key, value]));
        }
    }

    fn add_messages(&mut self, key: &str, messages: &[Bytes]) {
        for message in messages {
            self.add(key, to_hex(message));
        }
    }
}

impl Printer<'_> {
    fn model(&mut self) {
        let model = self.model;
        let header = &model.header;
        let mut lines = Lines::default();
        lines.add_messages("training-info", &header.training_info);
        lines.add_messages("device-configuration", &header.device_configurations);
        self.annotate(lines);
        self.out.push_str("<\n");
        let _ = write!(self.out, "   ir_version: {}", header.ir_version);
        self.opsets(&model.opsets);
        self.text_field("producer_name", &header.producer_name);
        self.text_field("producer_version", &header.producer_version);
        self.text_field("domain", &header.domain);
        if header.model_version != 0 {
            let _ = write!(self.out, ",\n   model_version: {}", header.model_version);
        }
        self.text_field("doc_string", &header.notes.doc);
        if !header.notes.metadata.is_empty() {
            self.out.push_str(",\n   metadata_props: [");
            write_list(&mut self.out, &header.notes.metadata, write_pair);
            self.out.push(']');
        }
        self.out.push_str("\n>\n");
        self.graph(model.main);
        self.out.push('\n');
        for function in &model.functions {
            self.function(function);
        }
    }

    fn opsets(&mut self, opsets: &OpsetImports) {
        self.out.push_str(",\n   opset_import: [");
        write_list(&mut self.out, &opsets.0, |out, (domain, version)| {
            write_quoted(out, domain);
            let _ = write!(out, ": {version}");
        });
        self.out.push(']');
    }

    fn text_field(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            let _ = write!(self.out, ",\n   {key}: ");
            write_quoted(&mut self.out, text);
        }
    }

    fn function(&mut self, function: &Function) {
        let body = self.model.graph(function.body);
        self.out.push('\n');
        let mut lines = Lines::default();
        lines.add_notes(&Notes { doc: String::new(), metadata: body.notes.metadata.clone() });
        self.annotate(lines);
        self.out.push_str("<\n   domain: ");
        write_quoted(&mut self.out, &function.domain);
        self.text_field("overload", &function.overload);
        self.opsets(&function.opsets);
        self.text_field("doc_string", &body.notes.doc);
        self.out.push_str("\n>\n");
        write_name(&mut self.out, &function.name);
        if !function.required_attrs.is_empty() || !function.default_attrs.is_empty() {
            self.out.push_str(" <");
            write_list(&mut self.out, &function.required_attrs, |out, name| write_name(out, name));
            for (index, (name, attr)) in function.default_attrs.iter().enumerate() {
                if index > 0 || !function.required_attrs.is_empty() {
                    self.out.push_str(", ");
                }
                write_name(&mut self.out, name);
                self.attr_value(attr);
            }
            self.out.push('>');
        }
        self.out.push(' ');
        self.interface_and_nodes(function.body);
        self.out.push('\n');
    }

    fn graph(&mut self, id: GraphId) {
        let graph = self.model.graph(id);
        let mut lines = Lines::default();
        let is_main = id == self.model.main;
        if !is_main && !is_plain(&graph.name) {
            lines.add("name", graph.name.as_str());
        }
        lines.add_notes(&graph.notes);
        for annotation in &graph.quantization_annotations {
            let parameters: Vec<_> = annotation.parameters.iter().map(|(key, name)| json!([key, name])).collect();
            lines.add("quantization", json!({"tensor": annotation.tensor, "parameters": parameters}));
        }
        self.annotate(lines);
        match is_main || is_plain(&graph.name) {
            true => write_name(&mut self.out, &graph.name),
            false => self.out.push_str("body"),
        }
        self.out.push(' ');
        self.interface_and_nodes(id);
    }

    fn interface_and_nodes(&mut self, id: GraphId) {
        let model = self.model;
        let graph = model.graph(id);
        self.indent += 1;
        self.out.push('(');
        self.list(graph.inputs.iter(), ", ", |printer, &input| printer.declaration(input));
        self.out.push_str(") => (");
        self.list(graph.outputs.iter(), ", ", |printer, &output| match model.value(output).def {
            ValueDef::Input { .. } => printer.typed_name(output),
            _ => printer.declaration(output),
        });
        self.out.push_str(") ");
        self.indent -= 1;
        self.values(id);
        self.nodes(id);
    }

    /// Initializers, and what is declared of values that are no input or output.
    fn values(&mut self, id: GraphId) {
        let model = self.model;
        let outputs: HashSet<ValueId> = model.graph(id).outputs.iter().copied().collect();
        let is_declared = |id: ValueId, value: &Value| {
            (value.ty.is_some() || !value.notes.is_empty())
                && !matches!(value.def, ValueDef::Input { .. })
                && !outputs.contains(&id)
        };
        let mut entries: Vec<(ValueId, bool)> = model.initializers_of(id).map(|value| (value, true)).collect();
        let results = model.nodes_of(id).flat_map(|node| model.node(node).outputs.iter().flatten().copied());
        let values: Vec<_> = model.initializers_of(id).chain(results).collect();
        entries.extend(values.into_iter().filter(|&v| is_declared(v, model.value(v))).map(|value| (value, false)));
        if entries.is_empty() {
            return;
        }
        self.line();
        self.out.push('<');
        self.indent += 1;
        self.line();
        let separator = format!(",\n{}", "   ".repeat(self.indent));
        self.list(entries, &separator, |printer, (value, is_initializer)| match is_initializer {
            true => printer.initializer(value),
            false => printer.declaration(value),
        });
        self.indent -= 1;
        self.line();
        self.out.push('>');
        self.line();
    }

    fn initializer(&mut self, id: ValueId) {
        match &self.model.value(id).def {
            ValueDef::Constant(tensor) | ValueDef::Input { default: Some(Initializer::Dense(tensor)) } => {
                let mut lines = Lines::default();
                if let Some(label) = &tensor.label {
                    lines.add_notes(&label.notes);
                }
                let name = self.names[id].to_string();
                self.tensor(lines, tensor, |out| {
                    out.push(' ');
                    write_name(out, &name);
                    out.push_str(" =");
                });
            }
            ValueDef::Sparse(tensor) | ValueDef::Input { default: Some(Initializer::Sparse(tensor)) } => {
                let lines = self.sparse(tensor);
                self.annotate(lines);
                write_name(&mut self.out, &self.names[id]);
            }
            ValueDef::Input { default: None } | ValueDef::Node(_) => unreachable!("no initializer"),
        }
    }

    /// A value with its type and notes.
    fn declaration(&mut self, id: ValueId) {
        let value = self.model.value(id);
        let mut lines = Lines::default();
        lines.add_notes(&value.notes);
        lines.0.extend(value.ty.as_ref().and_then(type_annotation));
        self.annotate(lines);
        self.typed_name(id);
    }

    fn typed_name(&mut self, id: ValueId) {
        if let Some(ty) = &self.model.value(id).ty {
            let ty = types::without_denotations(ty);
            if types::is_plain(&ty) {
                types::write_type(&mut self.out, &ty);
                self.out.push(' ');
            }
        }
        write_name(&mut self.out, &self.names[id]);
    }

    fn nodes(&mut self, id: GraphId) {
        self.out.push('{');
        self.indent += 1;
        for node in self.model.nodes_of(id) {
            self.line();
            self.node(node);
        }
        self.indent -= 1;
        self.line();
        self.out.push('}');
    }

    fn node(&mut self, id: NodeId) {
        let node = self.model.node(id);
        let is_domain = |domain: &str| domain.is_empty() || domain.split('.').all(is_identifier);
        let mut lines = Lines::default();
        if !is_domain(&node.domain) {
            lines.add("domain", node.domain.as_str());
        }
        if !is_identifier(&node.op) {
            lines.add("op", node.op.as_str());
        }
        if !node.overload.is_empty() && !is_identifier(&node.overload) {
            lines.add("overload", node.overload.as_str());
        }
        lines.add_notes(&node.notes);
        lines.add_messages("device-configuration", &node.device_configurations);
        self.annotate(lines);

        if !node.name.is_empty() {
            self.out.push('[');
            write_name(&mut self.out, &self.names[id]);
            self.out.push_str("] ");
        }
        self.operands(&node.outputs);
        self.out.push_str(if node.outputs.is_empty() { "= " } else { " = " });
        if is_domain(&node.domain) && !node.domain.is_empty() {
            self.out.push_str(&node.domain);
            self.out.push('.');
        }
        self.out.push_str(if is_identifier(&node.op) { &node.op } else { "Operator" });
        if is_identifier(&node.overload) {
            self.out.push(':');
            self.out.push_str(&node.overload);
        }
        let has_bodies = node.bodies().next().is_some();
        if !has_bodies {
            self.attrs(node, false);
        }
        self.out.push_str(" (");
        self.operands(&node.inputs);
        self.out.push(')');
        if has_bodies {
            self.attrs(node, true);
        }
    }

    fn operands(&mut self, operands: &[Option<ValueId>]) {
        let names = &self.names;
        write_list(&mut self.out, operands, |out, operand| match operand {
            Some(value) => write_name(out, &names[*value]),
            None => out.push_str("\"\""),
        });
    }

    fn attrs(&mut self, node: &Node, on_lines: bool) {
        if node.attrs.is_empty() {
            return;
        }
        self.out.push_str(" <");
        self.indent += 1;
        if on_lines {
            self.line();
        }
        let separator = if on_lines { format!(",\n{}", "   ".repeat(self.indent)) } else { ", ".into() };
        self.list(&node.attrs, &separator, |printer, (name, attr)| {
            let mut lines = Lines::default();
            if !is_identifier(name) {
                lines.add("name", name.as_str());
            }
            for (_, doc) in node.attr_docs.iter().filter(|(attr, _)| attr == name) {
                lines.add("doc", doc.as_str());
            }
            printer.annotate(lines);
            printer.out.push_str(if is_identifier(name) { name } else { "attribute" });
            printer.attr_value(attr);
        });
        self.indent -= 1;
        if on_lines {
            self.line();
        }
        self.out.push('>');
    }

    /// What follows the name of an attribute. Its type is left out where the value shows it.
    fn attr_value(&mut self, attr: &Attr) {
        macro_rules! list {
            ($items:expr, $write:expr) => {{
                if $items.is_empty() {
                    let _ = write!(self.out, ": {}", attr.kind().name().unwrap_or_default());
                }
                self.out.push_str(" = [");
                self.list($items, ", ", $write);
                self.out.push(']');
            }};
        }
        match attr {
            Attr::Floats(xs) => list!(xs, |printer, &x| printer.float(x)),
            Attr::Ints(xs) => list!(xs, |printer, &x| printer.int(x)),
            Attr::Strs(xs) => list!(xs, |printer, x| printer.string(x)),
            Attr::Tensors(xs) => list!(xs, |printer, x| printer.attr_tensor(x)),
            Attr::Graphs(xs) => list!(xs, |printer, &x| printer.graph(x)),
            Attr::SparseTensors(xs) => list!(xs, |printer, x| printer.sparse_item(x)),
            Attr::Types(xs) => list!(xs, |printer, x| printer.type_item(x)),
            Attr::Reference { name, kind } => {
                if let Some(kind) = kind.name() {
                    let _ = write!(self.out, ": {kind}");
                }
                self.out.push_str(" = @");
                write_name(&mut self.out, name);
            }
            _ => {
                self.out.push_str(" = ");
                match attr {
                    Attr::Float(x) => self.float(*x),
                    Attr::Int(x) => self.int(*x),
                    Attr::Str(x) => self.string(x),
                    Attr::Tensor(x) => self.attr_tensor(x),
                    Attr::Graph(x) => self.graph(*x),
                    Attr::SparseTensor(x) => self.sparse_item(x),
                    Attr::Type(x) => self.type_item(x),
                    _ => unreachable!("lists and references are above"),
                }
            }
        }
    }

    fn int(&mut self, x: i64) {
        let _ = write!(self.out, "{x}");
    }

    fn float(&mut self, x: f32) {
        if !is_exact_f32(x) {
            self.annotate_one("bits", to_hex(&x.to_le_bytes()));
        }
        write_float(&mut self.out, x);
    }

    fn string(&mut self, x: &[u8]) {
        if std::str::from_utf8(x).is_err() {
            self.annotate_one("bits", to_hex(x));
        }
        write_quoted(&mut self.out, &String::from_utf8_lossy(x));
    }

    fn type_item(&mut self, ty: &Type) {
        let annotation = type_annotation(ty);
        self.annotate(Lines(annotation.into_iter().collect()));
        let ty = types::without_denotations(ty);
        match types::is_plain(&ty) {
            true => types::write_type(&mut self.out, &ty),
            false => self.out.push_str("float"),
        }
    }

    fn attr_tensor(&mut self, tensor: &Tensor) {
        let mut lines = Lines::default();
        let name = tensor.label.as_ref().map_or("", |label| label.name.as_str());
        if let Some(label) = &tensor.label {
            if !name.is_empty() && !is_plain(name) {
                lines.add("name", name);
            }
            lines.add_notes(&label.notes);
        }
        let is_external = self.is_large(tensor);
        self.tensor(lines, tensor, |out| {
            if is_plain(name) {
                out.push(' ');
                out.push_str(name);
            }
            if is_external {
                out.push_str(" =");
            }
        });
    }

    fn is_large(&self, tensor: &Tensor) -> bool {
        let can_be_external = tensor.bytes().is_some() || matches!(self.options.large, LargeTensors::Elide);
        can_be_external && tensor.byte_len() > self.options.inline_bytes
    }

    /// The type, what `name` writes, and the elements or where they are.
    fn tensor(&mut self, mut lines: Lines, tensor: &Tensor, name: impl Fn(&mut String)) {
        let is_large = self.is_large(tensor);
        if !is_large && !is_exact(tensor) {
            match tensor.strings() {
                Some(strings) => lines.add("bits", strings.iter().map(|x| to_hex(x)).collect::<Vec<_>>()),
                None => lines.add("bits", to_hex(tensor.bytes().map(|bytes| bytes.as_ref()).unwrap_or_default())),
            }
        }
        self.annotate(lines);
        self.out.push_str(tensor.dtype().name());
        for (index, length) in tensor.shape().iter().enumerate() {
            let _ = write!(self.out, "{}{length}", if index == 0 { '[' } else { ',' });
        }
        if tensor.rank() > 0 {
            self.out.push(']');
        }
        name(&mut self.out);
        if !is_large {
            self.out.push_str(" {");
            write_elements(&mut self.out, tensor);
            self.out.push('}');
            return;
        }
        let entries = match (&self.options.large, tensor.bytes()) {
            (LargeTensors::External { location }, Some(bytes)) => {
                let offset = self.external_len.next_multiple_of(ALIGNMENT);
                if offset > self.external_len {
                    self.external.push(Bytes::from_static(&[0; ALIGNMENT]).slice(..offset - self.external_len));
                }
                self.external.push(bytes.clone());
                self.external_len = offset + bytes.len();
                vec![
                    ("location", location.clone()),
                    ("offset", offset.to_string()),
                    ("length", bytes.len().to_string()),
                ]
            }
            _ => vec![("elided", summary(tensor))],
        };
        self.out.push_str(" [");
        write_list(&mut self.out, &entries, |out, (key, value)| {
            write_quoted(out, key);
            out.push_str(": ");
            write_quoted(out, value);
        });
        self.out.push(']');
    }

    fn sparse_item(&mut self, tensor: &SparseTensor) {
        let lines = self.sparse(tensor);
        self.annotate(lines);
        self.out.push('0');
    }

    /// The annotation that says all of a sparse tensor.
    fn sparse(&mut self, tensor: &SparseTensor) -> Lines {
        let SparseTensor { values, indices, shape } = tensor;
        let [values, indices] = [values, indices].map(|part| {
            let (before, indent) = (std::mem::take(&mut self.out), std::mem::take(&mut self.indent));
            self.attr_tensor(part);
            self.indent = indent;
            std::mem::replace(&mut self.out, before)
        });
        let mut lines = Lines::default();
        lines.add("sparse", json!({"shape": shape, "values": values, "indices": indices}));
        lines
    }

    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, separator: &str, mut write: impl FnMut(&mut Self, T)) {
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push_str(separator);
            }
            write(self, item);
        }
    }

    fn annotate_one(&mut self, key: &str, json: impl Into<serde_json::Value>) {
        let mut lines = Lines::default();
        lines.add(key, json);
        self.annotate(lines);
    }

    /// Puts annotations on lines of their own, before what is written next.
    fn annotate(&mut self, Lines(lines): Lines) {
        if lines.is_empty() {
            return;
        }
        let line_start = self.out.rfind('\n').map_or(0, |newline| newline + 1);
        if !self.out[line_start..].bytes().all(|byte| byte == b' ') {
            self.line();
        }
        for line in lines {
            self.out.push_str(&line);
            self.line();
        }
    }

    fn line(&mut self) {
        let kept = self.out.trim_end_matches(' ').len();
        self.out.truncate(kept);
        self.out.push('\n');
        for _ in 0..self.indent {
            self.out.push_str("   ");
        }
    }
}

fn write_pair(out: &mut String, (key, value): &(String, String)) {
    write_quoted(out, key);
    out.push_str(": ");
    write_quoted(out, value);
}

/// The annotation for a type that the syntax cannot say in full.
fn type_annotation(ty: &Type) -> Option<String> {
    if types::is_plain(ty) {
        return None;
    }
    let (mut text, mut lines) = (String::new(), Lines::default());
    types::write_type(&mut text, ty);
    lines.add("type", text);
    lines.0.pop()
}
