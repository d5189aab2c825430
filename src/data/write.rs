//! Writes arrays as NumPy reads them.
//!
//! Source: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::borrow::Cow;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use npyz::npz::{NpzWriter, file_name_from_array_name};
use tempfile::NamedTempFile;

use super::DataError;
use super::archive::Archive;
use crate::ir::{DType, Tensor};

/// Writes named arrays as an .npz file, whole or not at all. Types that NumPy lacks are widened to float32.
pub fn write_npz(path: &Path, arrays: &[(String, Tensor)]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    write_arrays(BufWriter::new(file.as_file_mut()), arrays)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// All arrays of an .npz file.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Tensor)>, DataError> {
    let mut archive = Archive::open(path)?;
    let names: Vec<String> = archive.names().into_iter().map(String::from).collect();
    names.into_iter().map(|name| Ok((name.clone(), archive.read(&name)?))).collect()
}

fn write_arrays(to: impl Write + Seek, arrays: &[(String, Tensor)]) -> io::Result<()> {
    let mut npz = NpzWriter::new(to);
    for (name, tensor) in arrays {
        let zip = npz.zip_writer();
        zip.start_file(file_name_from_array_name(name), Default::default()).map_err(io::Error::other)?;
        write_npy(zip, tensor)?;
    }
    npz.zip_writer().finish().map_err(io::Error::other)?.flush()
}

fn write_npy(to: &mut impl Write, tensor: &Tensor) -> io::Result<()> {
    let (descr, data) = layout(tensor);
    let lengths: String = tensor.shape().iter().map(|n| format!("{n}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({lengths}), }}");
    // Magic, version and length take 10 bytes; the data begins at a multiple of 64.
    let padding = (10 + header.len() + 1).next_multiple_of(64) - (10 + header.len() + 1);
    header.extend(std::iter::repeat_n(' ', padding).chain(['\n']));
    let length = u16::try_from(header.len()).map_err(io::Error::other)?;
    to.write_all(b"\x93NUMPY\x01\x00")?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(header.as_bytes())?;
    to.write_all(&data)
}

/// How NumPy calls the element type, and the elements.
fn layout(tensor: &Tensor) -> (String, Cow<'_, [u8]>) {
    if let Some(strings) = tensor.strings() {
        let strings: Vec<Vec<char>> = strings.iter().map(|s| String::from_utf8_lossy(s).chars().collect()).collect();
        let longest = strings.iter().map(Vec::len).max().unwrap_or_default().max(1);
        let padded = strings.iter().flat_map(|s| s.iter().map(|&c| c as u32).chain([0].repeat(longest - s.len())));
        return (format!("<U{longest}"), padded.flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into());
    }
    let descr = match tensor.dtype() {
        DType::Bool => "|b1",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        _ => {
            let floats = tensor.floats().unwrap_or_default();
            return ("<f4".into(), floats.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into());
        }
    };
    (descr.into(), Cow::Borrowed(tensor.bytes().expect("numbers have bytes")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::data::archive::Archive;

    #[test]
    fn arrays_of_every_type_are_read_back_as_they_were() {
        let strings = vec![Bytes::from_static("né".as_bytes()), Bytes::new()];
        let mut arrays = vec![
            (String::from("strings"), Tensor::from_strings(vec![2], strings).unwrap()),
            (String::from("a/b:0"), Tensor::scalar(3.5f64)),
        ];
        let numbers = DType::ALL.iter().filter(|dtype| matches!(dtype.name(), "bool" | "float16" | "float" | "double"));
        let integers = DType::ALL.iter().filter(|dtype| dtype.name().contains("int") && dtype.bits() >= 8);
        for &dtype in numbers.chain(integers) {
            let bytes: Vec<u8> = (0..6 * dtype.bits() / 8).map(|i| (i % 2) as u8).collect();
            arrays.push((dtype.to_string(), Tensor::new(dtype, vec![1, 6], bytes.into()).unwrap()));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arrays.npz");
        write_npz(&path, &arrays).unwrap();
        let mut archive = Archive::open(&path).unwrap();
        for (name, tensor) in &arrays {
            assert!(archive.read(name).unwrap().same_data(tensor), "{name}");
        }
    }

    #[test]
    fn a_type_that_numpy_lacks_is_widened() {
        let tensor = Tensor::from_vec(vec![2], vec![half::bf16::from_f32(1.5), half::bf16::from_f32(-2.0)]);
        let (descr, data) = layout(&tensor);
        assert_eq!((descr.as_str(), data.len()), ("<f4", 8));
    }
}
