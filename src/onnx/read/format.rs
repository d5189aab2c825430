//! What a file is that is no ONNX model.

use super::error::Problem;

/// How a format begins: where the mark stands, the mark, the name, what to do.
const FORMATS: &[(usize, &[u8], &str, &str)] = &[
    (0, b"\x89PNG", "a PNG image", IMAGE),
    (0, b"\xff\xd8\xff", "a JPEG image", IMAGE),
    (0, b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
    (0, b"\x89HDF", "an HDF5 file (Keras)", "export the model to ONNX with tf2onnx"),
    (0, b"PK\x03\x04", "a zip archive (as PyTorch and Keras save models)", "unpack it, or export the model to ONNX"),
    (0, b"\x80\x02", "a pickle (as old PyTorch saves models)", "export the model with torch.onnx.export"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it to ONNX with tf2onnx"),
    (4, b"ORTM", "a model in ONNX Runtime's own format", "start from the ONNX model it was made from"),
    (0, b"GGUF", "a GGUF model", "export the original model to ONNX"),
    (0, b"\x93NUMPY", "a numpy array", "give it as data instead"),
    (0, b"%PDF", "a PDF document", "name the ONNX file"),
    (0, b"\x7fELF", "a program", "name the ONNX file"),
    (0, b"<!DOCTYPE", "a web page", "download the model file itself"),
    (0, b"<html", "a web page", "download the model file itself"),
];
const IMAGE: &str = "give images as data instead";

pub(super) fn other_than_onnx(bytes: &[u8]) -> Option<Problem> {
    let begins = |&&(at, mark, ..): &&(usize, &[u8], _, _)| bytes.get(at..).is_some_and(|rest| rest.starts_with(mark));
    let &(_, _, what, advice) = FORMATS.iter().find(begins)?;
    Some(Problem::OtherFormat { what, advice })
}
