//! Tensor data in other files: mapped once each, and only from the model's own folder.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::error::{Problem, ReadError};
use crate::onnx::proto::StringStringEntryProto;

/// The files that a model's tensors lie in.
pub(in crate::onnx) struct ExternalFiles {
    folder: Option<PathBuf>,
    /// Where data may lie, without symbolic links: the model's folder, and that of the file that a link to it leads to.
    allowed: Vec<PathBuf>,
    files: HashMap<String, (PathBuf, Bytes)>,
    /// Bytes of tensors that were loaded so far.
    pub loaded: u64,
}

impl ExternalFiles {
    pub fn in_folder(folder: Option<&Path>) -> ExternalFiles {
        let allowed = folder.and_then(|folder| fs::canonicalize(non_empty(folder)).ok()).into_iter().collect();
        ExternalFiles { folder: folder.map(Path::to_path_buf), allowed, files: HashMap::new(), loaded: 0 }
    }

    pub fn beside(model: &Path) -> ExternalFiles {
        let mut files = ExternalFiles::in_folder(Some(model.parent().unwrap_or(Path::new(""))));
        let real = fs::canonicalize(model).ok();
        files.allowed.extend(real.as_deref().and_then(Path::parent).map(Path::to_path_buf));
        files
    }

    /// The bytes that `entries` describe: `length` of them if they do not say.
    pub fn load(&mut self, entries: &[StringStringEntryProto], length: Option<usize>) -> Result<Bytes, ReadError> {
        let entry = |key: &str| entries.iter().find(|entry| entry.key() == key).map(|entry| entry.value());
        let location = entry("location").filter(|location| !location.is_empty()).ok_or(Problem::NoLocation)?;
        let number = |key: &'static str| match entry(key) {
            None | Some("") => Ok(None),
            Some(value) => match value.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Problem::ExternalNumber { key, value: value.into() }),
            },
        };
        let (offset, given_length) = (number("offset")?.unwrap_or(0), number("length")?);
        let (file, bytes) = self.file(location)?;
        let size = bytes.len() as u64;
        let length = given_length.or(length.map(|length| length as u64)).unwrap_or(size.saturating_sub(offset));
        match offset.checked_add(length) {
            Some(end) if end <= size => {
                let slice = bytes.slice(offset as usize..end as usize);
                self.loaded += length;
                Ok(slice)
            }
            end => {
                Err(Problem::ExternalRange { file: file.clone(), offset, end: end.unwrap_or(u64::MAX), size }.into())
            }
        }
    }

    fn file(&mut self, location: &str) -> Result<&(PathBuf, Bytes), ReadError> {
        if !self.files.contains_key(location) {
            let opened = self.open(location)?;
            self.files.insert(location.into(), opened);
        }
        Ok(&self.files[location])
    }

    fn open(&self, location: &str) -> Result<(PathBuf, Bytes), ReadError> {
        let Some(folder) = &self.folder else { return Err(Problem::NoFolder { location: location.into() }.into()) };
        let inside =
            Path::new(location).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside || location.contains('\\') {
            return Err(Problem::Escape { location: location.into() }.into());
        }
        // A link to a model may stand alone, or beside links to its data.
        let places = std::iter::once(folder).chain(&self.allowed).map(|folder| folder.join(location));
        let file = places.clone().find(|file| file.exists()).unwrap_or_else(|| folder.join(location));
        let unreadable = |reason: String| Problem::External { file: file.clone(), reason };
        let real = fs::canonicalize(&file).map_err(|error| unreadable(error.to_string()))?;
        if !self.allowed.iter().any(|folder| real.starts_with(folder)) {
            return Err(Problem::Escape { location: location.into() }.into());
        }
        let opened = File::open(&real).map_err(|error| unreadable(error.to_string()))?;
        if !opened.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(unreadable("it is no regular file".into()).into());
        }
        let bytes = map(&opened).map_err(|error| unreadable(error.to_string()))?;
        Ok((file, bytes))
    }
}

/// The empty path means the current folder only when it is joined.
fn non_empty(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// The bytes of `file` as they lie on disk, read when somebody looks.
pub(super) fn map(file: &File) -> std::io::Result<Bytes> {
    // SAFETY: nobody may cut the file off while it is mapped; our own writer replaces files and never changes one.
    Ok(Bytes::from_owner(unsafe { memmap2::Mmap::map(file)? }))
}
