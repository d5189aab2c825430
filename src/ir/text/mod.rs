//! The text form of models: ONNX's textual syntax, printed and parsed.
//!
//! ```text
//! <
//!    ir_version: 10,
//!    opset_import: ["": 21]
//! >
//! main (float[batch,3] "/input") => (float[batch,2] y)
//! <
//!    float[3,2] w = {0.5, -1, 2, 0, 0.25, 8}
//! >
//! {
//!    [project] y = MatMul ("/input", w)
//! }
//! ```
//!
//! The syntax is that of `docs/Syntax.md` in the onnx project; names that are no identifiers are quoted, and in a quoted
//! string a backslash stands before `"` and `\`. Its parser reads what is printed here, and gets the same model but for
//! what the syntax has no place for. That stands in annotations, comment lines of the form `# @key JSON`, each before
//! what it belongs to (the model, a graph, a function, a value, a node, an attribute or a single attribute value):
//!
//! | annotation | says |
//! |---|---|
//! | `@doc "text"` | a doc string |
//! | `@metadata ["key", "value"]` | an entry of the metadata |
//! | `@name "/a b"` | a name, where the syntax takes identifiers alone: attributes, and graphs and tensors in them |
//! | `@domain`, `@op`, `@overload` | the same for the parts of an operator's name |
//! | `@type "seq(?) @IMAGE"` | a type with its denotations and open parts, in the notation of [`types`] |
//! | `@bits "0000c07f"` | the bytes of a float, string or tensor whose literals are not exact; a list for string tensors |
//! | `@sparse {"shape": [9], "values": "..", "indices": ".."}` | a sparse tensor; the parts are tensors in this syntax |
//! | `@quantization {"tensor": "x", "parameters": [["SCALE_TENSOR", "s"]]}` | a quantization annotation of a graph |
//! | `@training-info "hex"`, `@device-configuration "hex"` | encoded messages |
//!
//! Tensors of at most [`PrintOptions::inline_bytes`] are written out; float types under 32 bits as bit patterns, types
//! under 8 bits as the bytes they are packed in (6-bit floats one by one), complex numbers as pairs. Larger ones are
//! external data (`["location": "weights.bin", "offset": "0", "length": "4096"]`), or in a dump just told about
//! (`["elided": "4096 bytes, .."]`), which cannot be parsed. Initializers stand in file order in the list after the
//! outputs, also those that are the default of an input. Values get the names that [`Names`](super::Names) gives them.
//!
//! Laws: `print(parse(print(m))) == print(m)`, and the model parsed from what was printed encodes to the same message.

mod annotation;
mod build;
mod element;
mod parse;
mod print;
mod syntax;
mod token;
pub mod types;

pub use build::ExternalData;
pub use print::{LargeTensors, PrintOptions, Text};

/// Why a text is no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct TextError {
    /// Counted from 1.
    pub line: usize,
    /// Counted in characters from 1.
    pub column: usize,
    pub what: String,
}

impl TextError {
    fn new(text: &str, failure: token::Failure) -> TextError {
        let before = &text[..failure.at.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        TextError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: failure.what,
        }
    }
}
