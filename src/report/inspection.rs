//! What a model is made of: its interface, its layers and what they cost.

use std::fmt::{Display, Formatter, Result};

use comfy_table::Cell;
use indexmap::IndexMap;
use rten_shape_inference::SymExpr;
use serde::{Serialize, Serializer};

use super::figures::{new_table, rounded, shortened, thousands};
use crate::analysis::cost::LayerCost;
use crate::analysis::{Cost, Shapes};
use crate::ir::{Model, TypeKind, ValueDef, ValueId};

/// Everything that `onnxshrink inspect` tells of a model; displayed in at most 80 columns, with rounded counts.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    pub ir_version: i64,
    /// The version of each operator set by domain.
    #[serde(serialize_with = "as_map")]
    pub opsets: IndexMap<String, i64>,
    pub producer: String,
    pub domain: String,
    pub model_version: i64,
    pub doc: String,
    #[serde(serialize_with = "as_map")]
    pub metadata: IndexMap<String, String>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// Functions that the model defines, as `domain.name`; layers and costs are those with calls inlined.
    pub functions: Vec<String>,
    /// How many nodes there are of each operator, most first.
    #[serde(serialize_with = "as_map")]
    pub operators: IndexMap<String, usize>,
    pub nodes: usize,
    pub parameters: u64,
    pub weight_bytes: u64,
    /// Multiply-accumulates of convolutions, products, attention and recurrent layers, where they are known.
    pub macs: u64,
    pub layers: Vec<Layer>,
    pub notes: Vec<String>,
}

fn as_map<V: Serialize, S: Serializer>(
    map: &IndexMap<String, V>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(map)
}

/// An input or output of the model.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Port {
    pub name: String,
    /// In ONNX's textual syntax.
    #[serde(rename = "type")]
    pub ty: String,
    /// The element type, where it is a tensor.
    pub dtype: Option<&'static str>,
    /// The shape, where it is a tensor of known rank.
    pub shape: Option<Vec<Length>>,
    /// Whether a caller may leave the input out.
    pub has_default: bool,
}

/// A node that is no constant.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Layer {
    /// The name of the node, or else of its first result.
    pub name: String,
    /// How many bodies of control flow the node is in.
    pub depth: usize,
    pub op: String,
    /// The element type of the first result.
    pub dtype: Option<&'static str>,
    /// The shape of the first result.
    pub shape: Option<Vec<Length>>,
    /// Elements of the weights that this layer is the first to read.
    pub parameters: u64,
    pub weight_bytes: u64,
    pub macs: Option<u64>,
}

/// A number, or an expression over symbolic sizes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Length {
    Fixed(usize),
    Open(String),
}

impl Inspection {
    pub fn of(model: &Model, shapes: &Shapes) -> Inspection {
        let cost = Cost::of(model, shapes);
        let layers: Vec<Layer> = cost.layers.iter().map(|layer| Layer::of(model, shapes, layer)).collect();
        let mut operators: IndexMap<String, usize> = IndexMap::new();
        layers.iter().for_each(|layer| *operators.entry(layer.op.clone()).or_default() += 1);
        operators.sort_by(|a, m, b, n| n.cmp(m).then_with(|| a.cmp(b)));
        let (main, header) = (model.graph(model.main), &model.header);
        Inspection {
            ir_version: header.ir_version,
            opsets: model.opsets.0.iter().map(|(domain, version)| (domain_name(domain), *version)).collect(),
            producer: [&*header.producer_name, &*header.producer_version].join(" ").trim().into(),
            domain: header.domain.clone(),
            model_version: header.model_version,
            doc: header.notes.doc.clone(),
            metadata: header.notes.metadata.iter().cloned().collect(),
            inputs: main.inputs.iter().map(|&input| Port::of(model, shapes, input)).collect(),
            outputs: main.outputs.iter().map(|&output| Port::of(model, shapes, output)).collect(),
            functions: function_names(model),
            operators,
            nodes: layers.len(),
            parameters: cost.parameters,
            weight_bytes: cost.weight_bytes,
            macs: cost.macs,
            notes: notes(&cost, &layers),
            layers,
        }
    }
}

fn domain_name(domain: &str) -> String {
    if domain.is_empty() { "ai.onnx".into() } else { domain.into() }
}

/// The functions that a model defines, as `domain.name`.
pub fn function_names(model: &Model) -> Vec<String> {
    model.functions.iter().map(|f| format!("{}.{}", domain_name(&f.domain), f.name)).collect()
}

fn notes(cost: &Cost, layers: &[Layer]) -> Vec<String> {
    let mut notes = Vec::new();
    if !cost.taken_as_one.is_empty() {
        let symbols: Vec<&str> = cost.taken_as_one.iter().map(String::as_str).collect();
        notes.push(format!("MACs are counted with {} taken as 1; --shape fixes sizes", symbols.join(", ")));
    }
    if layers.iter().any(|layer| layer.depth > 0) {
        notes.push("MACs of bodies are counted once: one round of a loop, and each branch of an If".into());
    }
    let uncounted = || layers.iter().filter(|layer| layer.macs.is_none());
    if let Some(first) = uncounted().next() {
        let place = if first.name.is_empty() { first.op.clone() } else { format!("{} `{}`", first.op, first.name) };
        notes.push(match uncounted().count() {
            1 => format!("MACs of {place} are not known and not counted"),
            n => format!("MACs of {n} nodes are not known and not counted, first {place}"),
        });
    }
    notes
}

impl Port {
    fn of(model: &Model, shapes: &Shapes, id: ValueId) -> Port {
        let value = model.value(id);
        let other = value.ty.as_ref().filter(|ty| !matches!(ty.kind, TypeKind::Tensor(_)));
        let (dtype, shape) = (shapes.dtype(id).map(|dtype| dtype.name()), lengths(shapes, id));
        Port {
            name: value.name.clone(),
            ty: other.map_or_else(|| typed(dtype.unwrap_or("tensor"), shape.as_deref()), ToString::to_string),
            dtype,
            shape,
            has_default: matches!(value.def, ValueDef::Input { default: Some(_) }),
        }
    }
}

impl Layer {
    fn of(model: &Model, shapes: &Shapes, cost: &LayerCost) -> Layer {
        let node = model.node(cost.node);
        let first = node.outputs.iter().flatten().next().copied();
        let label = match (node.name.as_str(), first) {
            ("", Some(first)) => &model.value(first).name,
            (name, _) => name,
        };
        Layer {
            name: label.into(),
            depth: model.scopes(node.graph).count() - 1,
            op: if node.domain.is_empty() { node.op.clone() } else { format!("{}.{}", node.domain, node.op) },
            dtype: first.and_then(|value| shapes.dtype(value)).map(|dtype| dtype.name()),
            shape: first.and_then(|value| lengths(shapes, value)),
            parameters: cost.parameters,
            weight_bytes: cost.weight_bytes,
            macs: cost.macs,
        }
    }
}

fn lengths(shapes: &Shapes, value: ValueId) -> Option<Vec<Length>> {
    let length = |length: &SymExpr| match length {
        SymExpr::Value(n) => usize::try_from(*n).map_or_else(|_| Length::Open("?".into()), Length::Fixed),
        // Sizes that nobody named say nothing under the names that the analysis gives them.
        open if open.iter().any(|part| matches!(part, SymExpr::Var(symbol) if symbol.synthetic)) => {
            Length::Open("?".into())
        }
        open => Length::Open(open.to_string()),
    };
    Some(shapes.lengths(value)?.iter().map(length).collect())
}

/// `float[1,3,224,224]`, `float` for a scalar, and `float[]` where the rank is not known.
fn typed(dtype: &str, shape: Option<&[Length]>) -> String {
    let text = |length: &Length| match length {
        Length::Fixed(n) => n.to_string(),
        Length::Open(text) => text.replace(' ', ""),
    };
    match shape {
        Some([]) => dtype.into(),
        shape => format!("{dtype}[{}]", shape.unwrap_or_default().iter().map(text).collect::<Vec<_>>().join(",")),
    }
}

/// No line is longer, but for names of inputs and outputs.
const WIDTH: usize = 80;

impl Display for Inspection {
    fn fmt(&self, f: &mut Formatter) -> Result {
        let mut table = new_table(["layer", "operator", "result", "params", "MACs", "bytes"]);
        for column in table.column_iter_mut().take(3) {
            column.set_cell_alignment(comfy_table::CellAlignment::Left);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 1));
        }
        let mut rows: Vec<[String; 6]> = self.layers.iter().map(Layer::cells).collect();
        let [parameters, macs, bytes] = [self.parameters, self.macs, self.weight_bytes].map(rounded);
        rows.push([
            "total".into(),
            format!("{} nodes", thousands(self.nodes as u64)),
            String::new(),
            parameters,
            macs,
            bytes,
        ]);
        let [layer, operator, result] = text_widths(&rows);
        for [a, b, c, counts @ ..] in rows {
            let texts = [without_operator(&a, &b, layer), shortened(&b, operator), shortened(&c, result)];
            table.add_row(texts.into_iter().chain(counts).map(Cell::new));
        }
        writeln!(f, "{}\n", table.trim_fmt())?;
        self.header(f)
    }
}

impl Layer {
    fn cells(&self) -> [String; 6] {
        let result = match (self.dtype, &self.shape) {
            (None, None) => "?".into(),
            (dtype, shape) => typed(dtype.unwrap_or("?"), shape.as_deref()),
        };
        let macs = self.macs.map_or("?".into(), or_nothing);
        let name = format!("{}{}", "  ".repeat(self.depth), self.name);
        [name, self.op.clone(), result, or_nothing(self.parameters), macs, or_nothing(self.weight_bytes)]
    }
}

/// The name of a layer; one that is too long loses the operator at its end first, as exporters put it there.
fn without_operator(name: &str, operator: &str, width: usize) -> String {
    match name.strip_suffix(operator).filter(|_| name.chars().count() > width) {
        Some(place) => shortened(&format!("{place}…"), width),
        None => shortened(name, width),
    }
}

/// How wide the three columns of text may be, so that the table fits. The result gives way last.
fn text_widths(rows: &[[String; 6]]) -> [usize; 3] {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    // The headers of the counts, and what stands between the columns.
    let counts = [(3, "params"), (4, "MACs"), (5, "bytes")].map(|(column, header)| width(column).max(header.len()));
    let room = WIDTH - counts.iter().sum::<usize>() - 2 * 5 - 1;
    let mut widths =
        [(0, "layer"), (1, "operator"), (2, "result")].map(|(column, header)| width(column).max(header.len()));
    for (column, least) in [(0, 18), (1, 13), (2, 0)] {
        let excess = widths.iter().sum::<usize>().saturating_sub(room);
        widths[column] -= excess.min(widths[column].saturating_sub(least));
    }
    widths
}

impl Inspection {
    fn header(&self, f: &mut Formatter) -> Result {
        let opsets: Vec<String> = self.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
        let (parameters, bytes) = (thousands(self.parameters), thousands(self.weight_bytes));
        write!(f, "parameters {parameters} in {bytes} bytes\nMACs       {}", thousands(self.macs))?;
        wrapped(f, "opset", &opsets)?;
        write!(f, "\nIR version {}", self.ir_version)?;
        let facts = [("producer", &self.producer), ("domain", &self.domain), ("doc", &self.doc)];
        for (what, text) in facts.into_iter().filter(|(_, text)| !text.is_empty()) {
            write!(f, "\n{what:<10} {}", first_line(text, WIDTH - 11))?;
        }
        if self.model_version != 0 {
            write!(f, "\nversion    {}", self.model_version)?;
        }
        let operators: Vec<String> = self.operators.iter().map(|(op, count)| format!("{op} {count}")).collect();
        wrapped(f, "operators", &operators)?;
        if !self.functions.is_empty() {
            wrapped(f, "functions", &self.functions)?;
        }
        for (what, ports) in [("input", &self.inputs), ("output", &self.outputs)] {
            for port in ports {
                let default = if port.has_default { " (has a default)" } else { "" };
                write!(f, "\n{what:<10} {}: {}{default}", port.name, port.ty)?;
            }
        }
        for (key, value) in &self.metadata {
            write!(f, "\n{}", first_line(&format!("metadata   {key} = {value}"), WIDTH))?;
        }
        self.notes.iter().try_for_each(|note| {
            writeln!(f)?;
            in_lines(f, "note:", note.split(' '), "", WIDTH)
        })
    }
}

fn or_nothing(n: u64) -> String {
    if n == 0 { String::new() } else { rounded(n) }
}

/// The beginning of a text that may be long.
fn first_line(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(width - 1) {
        Some((end, last)) if line.len() > end + last.len_utf8() || line.len() < text.trim_end().len() => {
            format!("{}…", &line[..end])
        }
        None if line.len() < text.trim_end().len() => format!("{line}…"),
        _ => line.into(),
    }
}

/// A list with commas.
fn wrapped(f: &mut Formatter, what: &str, items: &[String]) -> Result {
    writeln!(f)?;
    in_lines(f, &format!("{what:<10}"), items.iter().map(String::as_str), ",", WIDTH)
}

/// Words on lines of at most `width` characters, where none is longer than that; all but the first are indented.
fn in_lines<'w>(
    f: &mut Formatter,
    start: &str,
    words: impl Iterator<Item = &'w str>,
    separator: &str,
    width: usize,
) -> Result {
    write!(f, "{start}")?;
    let (indent, mut used, mut words) = (start.len(), start.len(), words.peekable());
    while let Some(word) = words.next() {
        let separator = if words.peek().is_some() { separator } else { "" };
        let length = 1 + word.chars().count() + separator.len();
        if used > indent && used + length > width {
            write!(f, "\n{:indent$}", "")?;
            used = indent;
        }
        write!(f, " {word}{separator}")?;
        used += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspection() -> Inspection {
        let text = r#"
            <ir_version: 8, opset_import: ["": 18], producer_name: "exporter", producer_version: "1.2",
             metadata_props: ["classes": "cat,dog"]>
            net (float[batch,3,8,8] image) => (float[batch,2] logits, int64[batch] best)
            <float[4,3,3,3] w = {1}, float[4,2] dense = {1, 2, 3, 4, 5, 6, 7, 8}> {
                [first] c = Conv <pads = [1,1,1,1], strides = [2,2]> (image, w)
                r = Relu (c)
                p = GlobalAveragePool (r)
                flat = Flatten (p)
                logits = MatMul (flat, dense)
                best = ArgMax <axis = 1, keepdims = 0> (logits)
            }"#;
        let elements = vec!["1"; 108].join(", ");
        let model =
            Model::parse(&text.replace("w = {1}", &format!("w = {{{elements}}}"))).expect("the text is a model");
        Inspection::of(&model, &Shapes::infer(&model))
    }

    #[test]
    fn a_model_is_shown_layer_by_layer() {
        let text = inspection().to_string();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_same_is_json() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&inspection()).unwrap());
    }
}
