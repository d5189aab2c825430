//! From a file to a [`Model`].

mod error;
mod external;
mod format;
mod function;
mod graph;
mod order;
mod unknown_fields;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use prost::Message;

pub use error::{Problem, ReadError};
pub(super) use external::ExternalFiles;

use super::opset;
use super::proto::{ModelProto, OperatorSetIdProto, TensorProto};
use super::tensor::{self, read_notes};
use crate::ir::{Header, Model, OpsetImports, Tensor};
use graph::Reader;

/// A model, and what was noticed while it was read.
#[derive(Clone)]
pub struct Loaded {
    pub model: Model,
    /// The size of the file, with the tensors that it keeps in others.
    pub bytes: u64,
    pub warnings: Vec<String>,
}

/// Reads the model in the file `path`. Weights stay in the mapped file, and in the files beside it that it names.
pub fn read(path: impl AsRef<Path>) -> Result<Loaded, ReadError> {
    let path = path.as_ref();
    let loaded = open(path).and_then(|bytes| decode_with(bytes, ExternalFiles::beside(path)));
    loaded.map_err(|error| error.of_file(path))
}

/// Reads the model that `bytes` hold, with external data in `folder`.
pub fn decode(bytes: Bytes, folder: Option<&Path>) -> Result<Loaded, ReadError> {
    decode_with(bytes, ExternalFiles::in_folder(folder))
}

/// Reads a single tensor, as ONNX's test vectors are stored; its name is in the label.
pub fn decode_tensor(bytes: Bytes) -> Result<Tensor, ReadError> {
    tensor::read(TensorProto::decode(bytes)?, &mut ExternalFiles::in_folder(None))
}

fn open(path: &Path) -> Result<Bytes, ReadError> {
    let problem = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Problem::Missing,
        io::ErrorKind::PermissionDenied => Problem::Permission,
        io::ErrorKind::IsADirectory => Problem::Directory,
        _ => Problem::Io(error),
    };
    if path.is_dir() {
        return Err(Problem::Directory.into());
    }
    let mut file = File::open(path).map_err(problem)?;
    if file.metadata().map_err(problem)?.is_file() {
        return Ok(external::map(&file).map_err(problem)?);
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(problem)?;
    Ok(bytes.into())
}

fn decode_with(bytes: Bytes, external: ExternalFiles) -> Result<Loaded, ReadError> {
    if bytes.is_empty() {
        return Err(Problem::Empty.into());
    }
    let proto = match ModelProto::decode(bytes.clone()) {
        Ok(proto) if proto.graph.is_some() => proto,
        decoded => {
            return Err(match (format::other_than_onnx(&bytes), decoded) {
                (Some(other), _) => other.into(),
                (None, Ok(_)) => Problem::NoGraph.into(),
                (None, Err(error)) => error.into(),
            });
        }
    };
    let mut warnings = unknown_fields::warnings(&bytes);
    if proto.ir_version() > opset::NEWEST_IR {
        let (version, newest) = (proto.ir_version(), opset::NEWEST_IR);
        warnings.push(format!(
            "the file is written in version {version} of ONNX's format; {newest} is the last known here"
        ));
    }
    let (model, more, outside) = read_model(proto, external)?;
    warnings.extend(more);
    Ok(Loaded { model, bytes: bytes.len() as u64 + outside, warnings })
}

fn read_model(proto: ModelProto, external: ExternalFiles) -> Result<(Model, Vec<String>, u64), ReadError> {
    let graph = proto.graph.ok_or(Problem::NoGraph)?;
    let mut reader = Reader::new(graph.name(), proto.ir_version.unwrap_or_default(), external);
    reader.model.opsets = read_opsets(proto.opset_import)?;
    if reader.model.opsets.0.is_empty() {
        return Err(Problem::NoOpset.into());
    }
    reader.model.header = Header {
        ir_version: proto.ir_version.unwrap_or_default(),
        producer_name: proto.producer_name.unwrap_or_default(),
        producer_version: proto.producer_version.unwrap_or_default(),
        domain: proto.domain.unwrap_or_default(),
        model_version: proto.model_version.unwrap_or_default(),
        notes: read_notes(proto.doc_string, proto.metadata_props),
        training_info: proto.training_info.iter().map(|info| info.encode_to_vec().into()).collect(),
        device_configurations: proto.configuration.iter().map(|device| device.encode_to_vec().into()).collect(),
    };
    let main = reader.model.main;
    reader.read_graph(main, graph)?;
    for function in proto.functions {
        let place = format!("function `{}`", function.name());
        function::read(&mut reader, function).map_err(|error| error.inside(|| place))?;
    }
    function::check_calls(&reader.model)?;
    let outside = reader.external.loaded;
    let (model, warnings) = reader.finish();
    Ok((model, warnings, outside))
}

fn read_opsets(imports: Vec<OperatorSetIdProto>) -> Result<OpsetImports, ReadError> {
    let mut opsets = OpsetImports::default();
    for import in imports {
        let (domain, version) = (read_domain(import.domain.unwrap_or_default()), import.version.unwrap_or_default());
        if version < 1 {
            let domain = if domain.is_empty() { "ai.onnx".into() } else { domain };
            return Err(Problem::OpsetVersion { domain, version }.into());
        }
        if domain.is_empty() && version > opset::NEWEST {
            return Err(Problem::OpsetTooNew { version, newest: opset::NEWEST }.into());
        }
        let known = opsets.0.entry(domain).or_insert(version);
        *known = version.max(*known);
    }
    Ok(opsets)
}

/// `ai.onnx` is the long name of the empty domain.
fn read_domain(domain: String) -> String {
    if domain == "ai.onnx" { String::new() } else { domain }
}
