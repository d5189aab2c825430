//! Fields that the schema does not know. They cannot be kept, so the user hears of them.

use std::collections::BTreeMap;

use crate::onnx::schema::{MESSAGES, MODEL};

/// As deep as prost decodes.
const DEPTH: usize = 100;

/// One warning for each message and field number, however often it occurs. Skips the data of tensors, so the time
/// does not depend on the size of weights.
pub(super) fn warnings(bytes: &[u8]) -> Vec<String> {
    let mut found = BTreeMap::new();
    walk(bytes, MODEL, &mut vec![MESSAGES[MODEL].name], &mut found);
    let warning = |((path, number), count): ((String, u64), usize)| {
        let times = if count == 1 { "once".to_string() } else { format!("{count} times") };
        format!("{path}: field {number} (found {times}) is not in the ONNX schema known here and will be lost")
    };
    found.into_iter().map(warning).collect()
}

/// Walks one encoded message; stops at whatever is no valid encoding, which decoding has refused already.
fn walk(mut bytes: &[u8], message: usize, path: &mut Vec<&str>, found: &mut BTreeMap<(String, u64), usize>) {
    while let Some(key) = varint(&mut bytes) {
        let (number, wire_type) = (key >> 3, key & 7);
        let field = MESSAGES[message].fields.iter().find(|field| u64::from(field.number) == number);
        if field.is_none() && wire_type != GROUP_END {
            *found.entry((path.join("."), number)).or_default() += 1;
        }
        let Some(content) = skip(&mut bytes, wire_type) else { return };
        if let Some((field, inner)) = field.and_then(|field| Some((field, field.message?)))
            && path.len() < DEPTH
        {
            path.push(field.name);
            walk(content, inner, path, found);
            path.pop();
        }
    }
}

const GROUP_END: u64 = 4;

/// Takes one field's content from the front, groups as a whole.
fn skip<'b>(bytes: &mut &'b [u8], wire_type: u64) -> Option<&'b [u8]> {
    match wire_type {
        0 => varint(bytes).map(|_| &[][..]),
        1 => bytes.split_off(..8),
        2 => {
            let length = varint(bytes)?.try_into().ok()?;
            bytes.split_off(..length)
        }
        3 => {
            let mut open = 1;
            while open > 0 {
                match varint(bytes)? & 7 {
                    3 => open += 1,
                    GROUP_END => open -= 1,
                    other => drop(skip(bytes, other)?),
                }
            }
            Some(&[])
        }
        5 => bytes.split_off(..4),
        _ => None,
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
