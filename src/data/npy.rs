//! The format of one NumPy array.
//!
//! Source: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. The header is a Python dictionary;
//! only its three known entries are read, without recursion, so that no file can exhaust the stack.

use bytes::Bytes;
use winnow::ascii::{digit1, multispace0};
use winnow::combinator::{alt, delimited, opt, preceded, repeat, separated, separated_pair, terminated};
use winnow::token::take_till;
use winnow::{Parser, Result as Parsed};

use super::Problem;
use crate::ir::{DType, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads the array `name` from `file`, which is shared rather than copied where it lies as a tensor does.
pub fn read(name: &str, file: &Bytes) -> Result<Tensor, Problem> {
    let array = || name.to_string();
    let damaged = |reason: &str| Problem::Header { array: array(), reason: reason.into() };
    let (text, data) = split_header(file).map_err(damaged)?;
    let Header { descr, fortran, shape } = parse(text).ok_or_else(|| damaged("it is no NumPy header"))?;
    let layout = Layout::of(&descr).ok_or_else(|| match descr.trim_start_matches(['|', '<', '>', '=']) {
        "O" => Problem::Object { array: array() },
        _ => Problem::Type { array: array(), descr: descr.clone() },
    })?;

    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let Some((count, needed)) = count.and_then(|n| Some((n, n.checked_mul(layout.size)?))) else {
        return Err(Problem::Size { array: array(), shape });
    };
    if data.len() < needed {
        return Err(Problem::Truncated { array: array(), shape, needed, found: data.len() });
    }
    let mut data = data.slice(..needed);
    if layout.swapped {
        data = data.chunks_exact(layout.unit).flat_map(|x| x.iter().rev().copied()).collect();
    }
    if fortran && shape.len() > 1 {
        data = row_major(&data, &shape, layout.size);
    }
    let tensor = match layout.kind {
        Kind::Number(dtype) => Tensor::new(dtype, shape, data),
        // NumPy saves no strings of length 0, but reads them.
        _ if layout.size == 0 => Tensor::from_strings(shape, vec![Bytes::new(); count]),
        Kind::Bytes => Tensor::from_strings(shape, data.chunks_exact(layout.size).map(byte_string).collect()),
        Kind::Unicode => Tensor::from_strings(shape, data.chunks_exact(layout.size).map(unicode_string).collect()),
    };
    tensor.map_err(|error| damaged(&error.to_string()))
}

pub fn is_npy(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

fn split_header(file: &Bytes) -> Result<(&str, Bytes), &'static str> {
    let cut = "it is cut off";
    let rest = file.strip_prefix(MAGIC).ok_or("it does not begin as NumPy arrays do")?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or(cut)?;
    let (length, rest) = match version {
        [1, _] => rest.split_first_chunk::<2>().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest)),
        [2 | 3, _] => rest.split_first_chunk::<4>().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest)),
        _ => return Err("its format version is unknown"),
    }
    .ok_or(cut)?;
    let (text, data) = rest.split_at_checked(length).ok_or(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    Ok((text, file.slice(file.len() - data.len()..)))
}

#[derive(Default)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

enum Entry {
    Descr(String),
    Fortran(bool),
    Shape(Vec<usize>),
}

fn parse(text: &str) -> Option<Header> {
    let entries: Vec<Entry> =
        delimited(token("{"), repeat(3, terminated(entry, opt(token(",")))), token("}")).parse(text).ok()?;
    let (mut header, mut seen) = (Header::default(), [false; 3]);
    for entry in entries {
        match entry {
            Entry::Descr(descr) => (header.descr, seen[0]) = (descr, true),
            Entry::Fortran(fortran) => (header.fortran, seen[1]) = (fortran, true),
            Entry::Shape(shape) => (header.shape, seen[2]) = (shape, true),
        }
    }
    (seen == [true; 3]).then_some(header)
}

fn entry(input: &mut &str) -> Parsed<Entry> {
    let flag = alt((token("True").value(true), token("False").value(false)));
    let length = terminated(digit1, opt("L")).try_map(str::parse::<usize>);
    let lengths = delimited(token("("), separated(0.., spaced(length), token(",")), (opt(token(",")), token(")")));
    alt((
        separated_pair(key("descr"), token(":"), alt((quoted, structure))).map(|(_, x)| Entry::Descr(x)),
        separated_pair(key("fortran_order"), token(":"), flag).map(|(_, x)| Entry::Fortran(x)),
        separated_pair(key("shape"), token(":"), lengths).map(|(_, x)| Entry::Shape(x)),
    ))
    .parse_next(input)
}

fn key<'i>(name: &'static str) -> impl Parser<&'i str, String, winnow::error::ContextError> {
    quoted.verify(move |found: &str| found == name)
}

fn quoted(input: &mut &str) -> Parsed<String> {
    let quote = |q: char| delimited(q, take_till(0.., q), q);
    spaced(alt((quote('\''), quote('"')))).map(String::from).parse_next(input)
}

/// The fields of a record, as they stand.
fn structure(input: &mut &str) -> Parsed<String> {
    (preceded("[", take_till(0.., ']')), "]").take().map(String::from).parse_next(input)
}

fn token<'i>(text: &'static str) -> impl Parser<&'i str, &'i str, winnow::error::ContextError> {
    spaced(text)
}

fn spaced<'i, T>(
    parser: impl Parser<&'i str, T, winnow::error::ContextError>,
) -> impl Parser<&'i str, T, winnow::error::ContextError> {
    delimited(multispace0, parser, multispace0)
}

enum Kind {
    Number(DType),
    Bytes,
    Unicode,
}

/// How elements lie in the file.
struct Layout {
    kind: Kind,
    /// Bytes of an element.
    size: usize,
    /// Bytes of what has a byte order: a number or a character.
    unit: usize,
    swapped: bool,
}

impl Layout {
    /// Reads a type such as `<f4`.
    fn of(descr: &str) -> Option<Layout> {
        let order = descr.chars().next().filter(|order| "<>|=".contains(*order));
        let rest = &descr[order.map_or(0, char::len_utf8)..];
        let kind = rest.chars().next()?;
        let n: usize = rest[kind.len_utf8()..].parse().ok()?;
        use DType::*;
        let dtype = match (kind, n) {
            ('b' | '?', 1) => Bool,
            ('i', 1) => I8,
            ('i', 2) => I16,
            ('i', 4) => I32,
            ('i', 8) => I64,
            ('u', 1) => U8,
            ('u', 2) => U16,
            ('u', 4) => U32,
            ('u', 8) => U64,
            ('f', 2) => F16,
            ('f', 4) => F32,
            ('f', 8) => F64,
            ('S' | 'a' | 'U', _) => String,
            _ => return None,
        };
        let (kind, size, unit) = match (dtype, kind) {
            (String, 'U') => (Kind::Unicode, n.checked_mul(4)?, 4),
            (String, _) => (Kind::Bytes, n, 1),
            _ => (Kind::Number(dtype), n, n),
        };
        Some(Layout { kind, size, unit, swapped: order == Some('>') && unit > 1 })
    }
}

/// Elements that lie with the first axis fastest, reordered so that the last is.
fn row_major(data: &[u8], shape: &[usize], size: usize) -> Bytes {
    let strides: Vec<usize> =
        shape.iter().scan(size, |stride, &d| Some(std::mem::replace(stride, *stride * d))).collect();
    let mut ordered = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    let mut from = 0;
    while ordered.len() < data.len() {
        ordered.extend_from_slice(&data[from..from + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            from += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            from -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    ordered.into()
}

fn byte_string(padded: &[u8]) -> Bytes {
    let length = padded.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    Bytes::copy_from_slice(&padded[..length])
}

fn unicode_string(padded: &[u8]) -> Bytes {
    let codes = padded.chunks_exact(4).map(|code| u32::from_le_bytes(code.try_into().expect("four bytes")));
    let text: String = codes.map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    Bytes::copy_from_slice(text.trim_end_matches('\0').as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Bytes {
        let mut file = MAGIC.to_vec();
        file.extend([1, 0]);
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(data);
        file.into()
    }

    fn ints(header: &str, data: &[i16]) -> (Vec<usize>, Vec<i64>) {
        let data: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = read("x", &file(header, &data)).unwrap();
        (tensor.shape().to_vec(), tensor.ints().unwrap())
    }

    #[test]
    fn a_plain_array_shares_the_bytes_of_its_file() {
        let file = file("{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }   \n", &[1, 0, 2, 0]);
        let tensor = read("x", &file).unwrap();
        assert_eq!(tensor.ints().unwrap(), [1, 2]);
        assert!(file.as_ptr_range().contains(&tensor.bytes().unwrap().as_ptr()));
    }

    #[test]
    fn fortran_order_is_turned() {
        let header = "{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3, 2), }\n";
        let (shape, data) = ints(header, &[0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11]);
        assert_eq!((shape, data), (vec![2, 3, 2], (0..12).collect()));
    }

    #[test]
    fn big_endian_numbers_are_swapped() {
        assert_eq!(ints("{'shape': (1L,), 'descr': '>i2', 'fortran_order': False}", &[0x0100]).1, [1]);
    }

    #[test]
    fn a_scalar_has_an_empty_shape() {
        assert_eq!(ints("{'descr': '<i2', 'fortran_order': False, 'shape': ()}", &[7]), (vec![], vec![7]));
    }

    #[test]
    fn padding_is_cut_from_strings() {
        let data: Vec<u8> = "né\0\0".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        let tensor = read("x", &file("{'descr': '<U2', 'fortran_order': False, 'shape': (2,)}", &data)).unwrap();
        assert_eq!(tensor.strings().unwrap(), ["né", ""]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let fails = |header: &str| read("x", &file(header, &[0; 8])).unwrap_err().to_string();
        let header =
            |descr: &str, shape: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}");
        let messages = [
            fails(&header("'|O'", "(1,)")),
            fails(&header("[('a', '<f4'), ('b', '<i4')]", "(1,)")),
            fails(&header("'<V2'", "(1,)")),
            fails(&header("'<f4'", "(3,)")),
            fails(&header("'<f4'", "(4294967296, 4294967296, 4294967296)")),
            fails(&header("'<f4'", "(-1,)")),
            fails(&"(".repeat(60_000)),
            fails("{'descr': '<f4', 'fortran_order': False}"),
        ]
        .join("\n");
        insta::assert_snapshot!(messages);
    }
}
