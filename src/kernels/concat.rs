//! Concatenation of bytes that may have different quantizations.

use super::elementwise::Table;

/// One operand of a concatenation.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub values: &'a [u8],
    /// Elements of one index of the axes before the one that is joined.
    pub width: usize,
    /// From its quantization to that of the result, where they differ.
    pub table: Option<&'a Table>,
}

/// Joins runs of `width` elements, one of each part in turn.
pub fn concat(parts: &[Part], output: &mut [u8]) {
    let total: usize = parts.iter().map(|part| part.width).sum();
    let mut start = 0;
    for part in parts {
        if part.width == 0 {
            continue;
        }
        assert_eq!(part.values.len() * total, output.len() * part.width, "elements of a part");
        for (output, x) in output.chunks_exact_mut(total).zip(part.values.chunks_exact(part.width)) {
            let output = &mut output[start..start + part.width];
            match part.table {
                Some(table) => table.run(x, output),
                None => output.copy_from_slice(x),
            }
        }
        start += part.width;
    }
}
