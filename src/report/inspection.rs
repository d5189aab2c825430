//! What a model is made of: its interface, its layers and what they cost.

use std::fmt::{Display, Formatter, Result};

use comfy_table::Cell;
use indexmap::IndexMap;
use rten_shape_inference::SymExpr;
use serde::{Serialize, Serializer};

use super::figures::{new_table, shortened, thousands};
use crate::analysis::cost::LayerCost;
use crate::analysis::{Cost, Shapes};
use crate::ir::{Model, TypeKind, ValueDef, ValueId};

/// Everything that `onnxshrink inspect` tells of a model; displayed as tables of at most 120 columns.
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
    /// Functions that the model defines, as `domain.name`.
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
    /// Whether a caller may leave the input out.
    pub has_default: bool,
}

/// A node that is no constant.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Layer {
    pub name: String,
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
        let domain_name = |domain: &str| if domain.is_empty() { "ai.onnx".into() } else { domain.into() };
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
            functions: model.functions.iter().map(|f| format!("{}.{}", domain_name(&f.domain), f.name)).collect(),
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

fn notes(cost: &Cost, layers: &[Layer]) -> Vec<String> {
    let mut notes = Vec::new();
    if !cost.taken_as_one.is_empty() {
        let symbols: Vec<&str> = cost.taken_as_one.iter().map(String::as_str).collect();
        notes.push(format!("MACs are counted with {} taken as 1; --shape fixes sizes", symbols.join(", ")));
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
        let ty = other.map(ToString::to_string).unwrap_or_else(|| {
            let dtype = shapes.dtype(id).map_or("tensor", |dtype| dtype.name());
            match lengths(shapes, id) {
                Some(lengths) => format!("{dtype}{}", bracketed(&lengths)),
                None => format!("{dtype}[]"),
            }
        });
        Port { name: value.name.clone(), ty, has_default: matches!(value.def, ValueDef::Input { default: Some(_) }) }
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

/// `[1,3,224,224]`; nothing for a scalar.
fn bracketed(lengths: &[Length]) -> String {
    let lengths: Vec<String> = lengths
        .iter()
        .map(|length| match length {
            Length::Fixed(n) => n.to_string(),
            Length::Open(text) => text.replace(' ', ""),
        })
        .collect();
    if lengths.is_empty() { String::new() } else { format!("[{}]", lengths.join(",")) }
}

impl Display for Inspection {
    fn fmt(&self, f: &mut Formatter) -> Result {
        let mut table = new_table(["layer", "operator", "result", "parameters", "MACs", "bytes"]);
        for column in table.column_iter_mut().take(3) {
            column.set_cell_alignment(comfy_table::CellAlignment::Left);
        }
        for layer in &self.layers {
            let result = match (layer.dtype, &layer.shape) {
                (dtype, Some(shape)) => format!("{}{}", dtype.unwrap_or("?"), bracketed(shape)),
                (dtype, None) => dtype.map_or("?".into(), |dtype| format!("{dtype}[]")),
            };
            let macs = layer.macs.map_or("?".into(), or_nothing);
            let counts = [or_nothing(layer.parameters), macs, or_nothing(layer.weight_bytes)];
            let texts = [shortened(&layer.name, 34), shortened(&layer.op, 22), shortened(&result, 30)];
            table.add_row(texts.into_iter().chain(counts).map(Cell::new));
        }
        let total = [self.parameters, self.macs, self.weight_bytes].map(thousands);
        let what = ["total".into(), format!("{} nodes", thousands(self.nodes as u64)), String::new()];
        table.add_row(what.into_iter().chain(total).map(Cell::new));
        writeln!(f, "{}\n", table.trim_fmt())?;
        self.header(f)
    }
}

impl Inspection {
    fn header(&self, f: &mut Formatter) -> Result {
        let opsets: Vec<String> = self.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
        write!(f, "opset      {}\nIR version {}", opsets.join(", "), self.ir_version)?;
        let facts = [("producer", &self.producer), ("domain", &self.domain), ("doc", &self.doc)];
        for (what, text) in facts.into_iter().filter(|(_, text)| !text.is_empty()) {
            write!(f, "\n{what:<10} {}", first_line(text))?;
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
            write!(f, "\nmetadata   {key} = {}", first_line(value))?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}

fn or_nothing(n: u64) -> String {
    if n == 0 { String::new() } else { thousands(n) }
}

/// The beginning of a text that may be long.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.len() < text.trim_end().len() => format!("{line} …"),
        None => line.into(),
    }
}

/// A list on lines of at most 100 characters.
fn wrapped(f: &mut Formatter, what: &str, items: &[String]) -> Result {
    write!(f, "\n{what:<10} ")?;
    let mut width = 0;
    for (index, item) in items.iter().enumerate() {
        if width > 0 && width + item.len() > 88 {
            write!(f, "\n{:<11}", "")?;
            width = 0;
        }
        let comma = if index + 1 < items.len() { ", " } else { "" };
        write!(f, "{item}{comma}")?;
        width += item.len() + 2;
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
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_same_is_json() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&inspection()).unwrap());
    }
}
