//! Files of arrays: .npz, a zip of .npy files, and a single .npy file.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;
use npyz::npz::NpzArchive;

use super::{DataError, Problem, npy};
use crate::ir::Tensor;

/// An opened file; its arrays are read when asked for.
pub struct Archive {
    pub file: PathBuf,
    contents: Contents,
}

enum Contents {
    Single(Bytes),
    Zip { bytes: Bytes, zip: NpzArchive<Cursor<Bytes>>, names: Vec<String> },
}

/// The name that the array of an .npy file goes by.
const SINGLE: &str = "x";

impl Archive {
    pub fn open(path: &Path) -> Result<Archive, DataError> {
        let contents = open(path).map_err(|problem| problem.of(path))?;
        Ok(Archive { file: path.into(), contents })
    }

    /// The names of all arrays, sorted.
    pub fn names(&self) -> Vec<&str> {
        match &self.contents {
            Contents::Single(_) => vec![SINGLE],
            Contents::Zip { names, .. } => names.iter().map(String::as_str).collect(),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.names().contains(&name)
    }

    pub fn read(&mut self, name: &str) -> Result<Tensor, DataError> {
        let tensor = match &mut self.contents {
            Contents::Single(bytes) => npy::read(name, bytes),
            Contents::Zip { bytes, zip, .. } => entry(bytes, zip, name).and_then(|bytes| npy::read(name, &bytes)),
        };
        tensor.map_err(|problem| problem.of(&self.file))
    }
}

fn open(path: &Path) -> Result<Contents, Problem> {
    let mut file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Problem::NoFile,
        _ => Problem::Io(error),
    })?;
    let metadata = file.metadata().map_err(Problem::Io)?;
    if metadata.is_dir() {
        return Err(Problem::Directory);
    }
    let bytes = if metadata.is_file() && metadata.len() > 0 {
        // SAFETY: as with any mapped file, nobody may cut it off while we run.
        Bytes::from_owner(unsafe { Mmap::map(&file) }.map_err(Problem::Io)?)
    } else {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Problem::Io)?;
        bytes.into()
    };
    match &bytes[..] {
        [] => return Err(Problem::EmptyFile),
        start if npy::is_npy(start) => return Ok(Contents::Single(bytes)),
        [b'P', b'K', ..] => {}
        _ => return Err(Problem::Format),
    }
    let zip = NpzArchive::new(Cursor::new(bytes.clone())).map_err(|error| Problem::Archive(error.to_string()))?;
    let mut names: Vec<String> = zip.array_names().map(String::from).collect();
    if names.is_empty() {
        return Err(Problem::NoArrays);
    }
    names.sort();
    Ok(Contents::Zip { bytes, zip, names })
}

/// One .npy file of a zip: a part of the mapped file where it is stored without compression, else unpacked.
fn entry(bytes: &Bytes, zip: &mut NpzArchive<Cursor<Bytes>>, name: &str) -> Result<Bytes, Problem> {
    let damaged = |reason: String| Problem::Archive(format!("array `{name}`: {reason}"));
    let file_name = npyz::npz::file_name_from_array_name(name);
    let mut entry = zip.zip_archive().by_name(&file_name).map_err(|error| damaged(error.to_string()))?;
    let start = entry.data_start() as usize;
    if entry.compression().to_string() == "Stored" {
        let end = start.checked_add(entry.size() as usize).filter(|&end| end <= bytes.len());
        return Ok(bytes.slice(start..end.ok_or_else(|| damaged("it is cut off".into()))?));
    }
    let mut contents = Vec::new();
    contents.try_reserve_exact(entry.size() as usize).map_err(|error| damaged(error.to_string()))?;
    entry.read_to_end(&mut contents).map_err(|error| damaged(error.to_string()))?;
    Ok(contents.into())
}
