//! The elements of tensors, and float literals: read and written.

use std::fmt::Write;

use half::slice::HalfFloatSliceExt;

use super::token::{Failure, Input, Parsed, at, list, number, quoted, sign, write_list, write_quoted};
use crate::ir::{DType, Element, Size, Tensor, Type};

/// NaN literals are the canonical NaN of their sign.
pub fn float(literal: &str) -> Option<f64> {
    match literal.strip_prefix('-').unwrap_or(literal).eq_ignore_ascii_case("nan") {
        true if literal.starts_with('-') => Some(f64::from_bits(f64::NAN.to_bits() | 1 << 63)),
        true => Some(f64::from_bits(f64::NAN.to_bits() & !(1 << 63))),
        false => literal.parse().ok(),
    }
}

pub fn float32(literal: &str) -> Option<f32> {
    match float(literal)? {
        nan if nan.is_nan() => {
            Some(f32::from_bits((f32::NAN.to_bits() & !(1 << 31)) | (nan.to_bits() >> 32) as u32 & 1 << 31))
        }
        _ => literal.parse().ok(),
    }
}

/// Element type and lengths of a tensor that can have data.
pub fn fixed(ty: &Type) -> Option<(DType, Vec<usize>)> {
    let tensor = ty.as_tensor()?;
    let lengths = tensor.shape.as_ref()?.iter().map(|dim| match dim.size {
        Size::Fixed(length) => usize::try_from(length).ok(),
        _ => None,
    });
    Some((tensor.dtype?, lengths.collect::<Option<_>>()?))
}

pub fn elements(input: &mut Input, dtype: DType, shape: Vec<usize>, start: usize) -> Parsed<Tensor> {
    sign(input, '{', "`{`")?;
    let tensor = match dtype {
        DType::String => {
            let strings = list(input, '}', "`,` or `}`", quoted)?;
            Tensor::from_strings(shape, strings.into_iter().map(|s| s.into_owned().into()).collect())
        }
        _ => Tensor::new(dtype, shape, numbers(input, dtype)?.into()),
    };
    tensor.map_err(|error| Failure::new(start, error.to_string()))
}

fn numbers(input: &mut Input, dtype: DType) -> Parsed<Vec<u8>> {
    fn each<const N: usize>(
        input: &mut Input,
        dtype: DType,
        read: impl Fn(&str) -> Option<[u8; N]>,
    ) -> Parsed<Vec<u8>> {
        let mut bytes = Vec::new();
        let element = |input: &mut Input| {
            let start = at(input);
            let (literal, _) = number(input)?;
            let element = read(literal).ok_or_else(|| Failure::new(start, format!("`{literal}` is no {dtype}")))?;
            bytes.extend(element);
            Ok(())
        };
        list(input, '}', "`,` or `}` after an element", element)?;
        Ok(bytes)
    }
    /// A bit pattern, which may be written as a signed number.
    fn pattern<const N: usize>(literal: &str) -> Option<[u8; N]> {
        let x: i64 = literal.parse().ok()?;
        (-1 << (8 * N - 1)..1 << (8 * N)).contains(&x).then(|| x.to_le_bytes()[..N].try_into().expect("N bytes"))
    }
    use DType::*;
    match dtype {
        F32 | C64 => each(input, dtype, |literal| Some(float32(literal)?.to_le_bytes())),
        F64 | C128 => each(input, dtype, |literal| Some(float(literal)?.to_le_bytes())),
        I8 => each(input, dtype, |literal| Some(literal.parse::<i8>().ok()?.to_le_bytes())),
        I16 => each(input, dtype, |literal| Some(literal.parse::<i16>().ok()?.to_le_bytes())),
        I32 => each(input, dtype, |literal| Some(literal.parse::<i32>().ok()?.to_le_bytes())),
        I64 => each(input, dtype, |literal| Some(literal.parse::<i64>().ok()?.to_le_bytes())),
        U8 => each(input, dtype, |literal| Some(literal.parse::<u8>().ok()?.to_le_bytes())),
        U16 => each(input, dtype, |literal| Some(literal.parse::<u16>().ok()?.to_le_bytes())),
        U32 => each(input, dtype, |literal| Some(literal.parse::<u32>().ok()?.to_le_bytes())),
        U64 => each(input, dtype, |literal| Some(literal.parse::<u64>().ok()?.to_le_bytes())),
        F16 | Bf16 => each(input, dtype, pattern::<2>),
        F6E2M3 | F6E3M2 => {
            let elements = each(input, dtype, |literal| pattern(literal).filter(|[x]: &[u8; 1]| *x < 64))?;
            Ok(pack_six(&elements))
        }
        _ => each(input, dtype, pattern::<1>),
    }
}

/// The shortest literal that reads back as the same float. Of the many NaNs only two have one.
pub fn write_float(out: &mut String, x: impl Into<f64> + std::fmt::Debug + Copy) {
    let wide: f64 = x.into();
    match (wide.is_nan(), wide.is_sign_negative()) {
        (true, true) => out.push_str("-nan"),
        (true, false) => out.push_str("nan"),
        (false, _) => write!(out, "{x:?}").expect("strings take all"),
    }
}

/// Whether the literal of `x` reads back as `x`.
pub fn is_exact_f32(x: f32) -> bool {
    !x.is_nan() || x.to_bits() << 1 == f32::NAN.to_bits() << 1
}

fn is_exact_f64(x: f64) -> bool {
    !x.is_nan() || x.to_bits() << 1 == f64::NAN.to_bits() << 1
}

/// Whether the literals of the elements read back as the same bits.
pub fn is_exact(tensor: &Tensor) -> bool {
    match tensor.dtype() {
        DType::F32 => tensor.elements().is_some_and(|xs| xs.iter().all(|&x| is_exact_f32(x))),
        DType::F64 => tensor.elements().is_some_and(|xs| xs.iter().all(|&x| is_exact_f64(x))),
        DType::C64 => pairs(tensor).iter().all(|&x| is_exact_f32(x)),
        DType::C128 => pairs(tensor).iter().all(|&x| is_exact_f64(x)),
        DType::String => tensor.strings().is_some_and(|xs| xs.iter().all(|x| std::str::from_utf8(x).is_ok())),
        DType::F6E2M3 | DType::F6E3M2 => {
            let bytes = tensor.bytes().map(|bytes| bytes.as_ref()).unwrap_or_default();
            let elements: Vec<u8> = unpack_six(bytes, tensor.len()).map(|x| x as u8).collect();
            pack_six(&elements) == bytes
        }
        _ => true,
    }
}

/// The parts of complex numbers.
fn pairs<T: Element>(tensor: &Tensor) -> Vec<T> {
    bytemuck::pod_collect_to_vec(tensor.bytes().expect("complex numbers are bytes"))
}

pub fn write_elements(out: &mut String, tensor: &Tensor) {
    fn ints<T: Element + std::fmt::Display>(out: &mut String, tensor: &Tensor) {
        let elements = tensor.elements::<T>().expect("asked by type");
        write_list(out, elements.iter(), |out, x| write!(out, "{x}").expect("strings take all"));
    }
    /// Whole numbers without the `.0`, which tensors do not need.
    fn floats<T: Into<f64> + std::fmt::Debug + Copy>(out: &mut String, elements: &[T]) {
        write_list(out, elements, |out, &x| {
            write_float(out, x);
            if out.ends_with(".0") {
                out.truncate(out.len() - 2);
            }
        });
    }
    fn bit_patterns<T: std::fmt::Display>(out: &mut String, patterns: impl IntoIterator<Item = T>) {
        write_list(out, patterns, |out, x| write!(out, "{x}").expect("strings take all"));
    }
    let bytes = tensor.bytes().map(|bytes| bytes.as_ref()).unwrap_or_default();
    match tensor.dtype() {
        DType::F32 => floats(out, &tensor.elements::<f32>().expect("asked by type")),
        DType::F64 => floats(out, &tensor.elements::<f64>().expect("asked by type")),
        DType::C64 => floats(out, &pairs::<f32>(tensor)),
        DType::C128 => floats(out, &pairs::<f64>(tensor)),
        DType::I8 => ints::<i8>(out, tensor),
        DType::I16 => ints::<i16>(out, tensor),
        DType::I32 => ints::<i32>(out, tensor),
        DType::I64 => ints::<i64>(out, tensor),
        DType::U16 => ints::<u16>(out, tensor),
        DType::U32 => ints::<u32>(out, tensor),
        DType::U64 => ints::<u64>(out, tensor),
        DType::F16 => bit_patterns(out, tensor.elements::<half::f16>().expect("asked by type").reinterpret_cast()),
        DType::Bf16 => bit_patterns(out, tensor.elements::<half::bf16>().expect("asked by type").reinterpret_cast()),
        DType::F6E2M3 | DType::F6E3M2 => bit_patterns(out, unpack_six(bytes, tensor.len())),
        DType::U8 | DType::Bool | DType::F8E4M3Fn | DType::F8E4M3Fnuz | DType::F8E5M2 | DType::F8E5M2Fnuz => {
            bit_patterns(out, bytes)
        }
        DType::F8E8M0 | DType::U4 | DType::I4 | DType::F4E2M1 | DType::U2 | DType::I2 => bit_patterns(out, bytes),
        DType::String => write_list(out, tensor.strings().unwrap_or_default(), |out, string| {
            write_quoted(out, &String::from_utf8_lossy(string))
        }),
    }
}

/// The elements of a packed 6-bit type.
fn unpack_six(bytes: &[u8], count: usize) -> impl Iterator<Item = u16> {
    (0..count).map(|index| {
        let (byte, shift) = (index * 6 / 8, index * 6 % 8);
        let low = u16::from(bytes[byte]);
        let high = bytes.get(byte + 1).map_or(0, |&next| u16::from(next) << 8);
        (high | low) >> shift & 0x3f
    })
}

/// The inverse of [`unpack_six`].
pub fn pack_six(elements: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; (elements.len() * 6).div_ceil(8)];
    for (index, &element) in elements.iter().enumerate() {
        let (byte, shift) = (index * 6 / 8, index * 6 % 8);
        let bits = u16::from(element) << shift;
        bytes[byte] |= bits as u8;
        if bits > 0xff {
            bytes[byte + 1] |= (bits >> 8) as u8;
        }
    }
    bytes
}

/// Size and range of a tensor that is not written out.
pub fn summary(tensor: &Tensor) -> String {
    let mut summary = format!("{} bytes", tensor.byte_len());
    let range = match (tensor.floats(), tensor.ints()) {
        (Some(floats), _) => Some(range(floats.iter().map(|&x| f64::from(x)))),
        (None, Some(ints)) => Some(range(ints.iter().map(|&x| x as f64))),
        (None, None) => None,
    };
    if let Some((min, max, mean)) = range {
        let _ = write!(summary, ", {} to {}, mean {}", min as f32, max as f32, mean as f32);
    }
    summary
}

fn range(elements: impl ExactSizeIterator<Item = f64>) -> (f64, f64, f64) {
    let count = elements.len() as f64;
    let start = (f64::INFINITY, f64::NEG_INFINITY, 0.0);
    let (min, max, sum) = elements.fold(start, |(min, max, sum), x| (min.min(x), max.max(x), sum + x));
    (min, max, sum / count)
}
