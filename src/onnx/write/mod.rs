//! From a [`Model`] to a file.

mod external;
mod message;
mod stream;

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use tempfile::NamedTempFile;

pub use crate::ir::Names;
pub use message::to_proto;

use super::proto::ModelProto;
use super::tensor;
use crate::ir::{Model, Tensor};
use external::DataFile;
use stream::Stream;

#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Puts the data of large initializers into a second file.
    pub external_data: Option<ExternalData>,
}

/// The second file is called like the model with `.data` after it.
#[derive(Clone, Debug)]
pub struct ExternalData {
    /// Initializers of at least so many bytes go there.
    pub from_bytes: usize,
}

impl Default for ExternalData {
    fn default() -> Self {
        ExternalData { from_bytes: 1024 }
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The size of the model file.
    pub bytes: u64,
    /// The data file beside it and its size.
    pub external: Option<(PathBuf, u64)>,
    /// What was done differently from what was asked.
    pub note: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the model imports no operator set, so no runtime would know what its operators mean")]
    NoOpset,
    #[error("training information or device configurations that were carried along are no valid messages: {0}")]
    Carried(prost::DecodeError),
    #[error("cannot write `{}`: {error}; whatever was there is unchanged", path.display())]
    File { path: PathBuf, error: io::Error },
}

/// No other reader of protobuf accepts more.
const LARGEST_MESSAGE: usize = i32::MAX as usize;

/// The bytes of a file that holds `model`.
pub fn encode(model: &Model) -> Result<Vec<u8>, WriteError> {
    Ok(to_proto(model, &Names::of(model))?.encode_to_vec())
}

/// A single tensor, as ONNX's test vectors are stored.
pub fn encode_tensor(tensor: &Tensor) -> Vec<u8> {
    tensor::write(tensor).encode_to_vec()
}

/// Writes `model` to `path`, which may be the file it was read from. The file appears whole or not at all.
pub fn write(model: &Model, path: impl AsRef<Path>, options: &WriteOptions) -> Result<Written, WriteError> {
    let proto = to_proto(model, &Names::of(model))?;
    let path = path.as_ref();
    write_proto(proto, path, options).map_err(|error| WriteError::File { path: path.to_path_buf(), error })
}

fn write_proto(mut proto: ModelProto, path: &Path, options: &WriteOptions) -> io::Result<Written> {
    // A link stays, and what it leads to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if target.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let (mut note, mut data) = (None, None);
    let too_large = proto.encoded_len() > LARGEST_MESSAGE;
    let external = options.external_data.clone().or_else(|| too_large.then(ExternalData::default));
    if let Some(ExternalData { from_bytes }) = external {
        let file = with_suffix(&target, ".data");
        let location = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pieces = DataFile::take_from(&mut proto, &location, from_bytes);
        if !pieces.is_empty() {
            data = Some((file, pieces));
        }
        if too_large && options.external_data.is_none() {
            note = Some(format!("the model is larger than 2 GB, so its weights are in `{location}`"));
        }
        if proto.encoded_len() > LARGEST_MESSAGE {
            note = Some("the model is larger than 2 GB without its initializers: few runtimes can read it".into());
        }
    }
    if target.exists() && !target.is_file() {
        return write_through(proto, &target);
    }
    let data = match data {
        Some((file, pieces)) => Some(Replacement::write(&file, |out| pieces.write(out))?),
        None => None,
    };
    let model = Replacement::write(&target, |out| proto.stream(out))?;
    let external = data.map(Replacement::persist).transpose()?;
    let (_, bytes) = model.persist()?;
    Ok(Written { bytes, external, note })
}

/// Into a pipe or device, which cannot be replaced.
fn write_through(proto: ModelProto, path: &Path) -> io::Result<Written> {
    let bytes = proto.encoded_len() as u64;
    let mut out = BufWriter::new(File::create(path)?);
    proto.stream(&mut out)?;
    out.flush()?;
    Ok(Written { bytes, external: None, note: None })
}

/// A written file that waits, under another name in the same folder, to take its place.
struct Replacement {
    file: NamedTempFile,
    path: PathBuf,
}

impl Replacement {
    fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<Replacement> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".onnxshrink-");
        #[cfg(unix)]
        builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
        let file = builder.tempfile_in(folder)?;
        let mut out = BufWriter::with_capacity(1 << 16, file.as_file());
        fill(&mut out)?;
        out.flush()?;
        drop(out);
        if let Ok(old) = fs::metadata(path) {
            file.as_file().set_permissions(old.permissions())?;
        }
        Ok(Replacement { file, path: path.to_path_buf() })
    }

    fn persist(self) -> io::Result<(PathBuf, u64)> {
        let length = self.file.as_file().metadata()?.len();
        self.file.persist(&self.path)?;
        Ok((self.path, length))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}
