//! How tables, numbers and names look.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

/// A line under the header is enough.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

pub fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.force_no_tty().load_style(STYLE).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|x| std::str::from_utf8(x).expect("digits")).collect();
    groups.join(",")
}

/// The end of a name says more than its beginning.
pub fn shortened(name: &str, width: usize) -> String {
    match name.chars().count() {
        n if n <= width => name.into(),
        n => format!("…{}", name.chars().skip(n + 1 - width).collect::<String>()),
    }
}

/// A count in three digits: `987`, `1.33M`, `17.2G`.
pub fn rounded(n: u64) -> String {
    if n < 1000 {
        return n.to_string();
    }
    let (mut rest, mut unit) = (n as f64, "");
    for next in ["k", "M", "G", "T", "P", "E"] {
        if rest < 999.5 {
            break;
        }
        (rest, unit) = (rest / 1000.0, next);
    }
    let places = match rest {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{rest:.places$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_rounded_to_three_digits() {
        let counts = [0, 999, 1000, 9_994, 9_996, 99_949, 99_951, 999_499, 999_501, 385_187_552, u64::MAX];
        let texts = counts.map(rounded);
        let expected = ["0", "999", "1.00k", "9.99k", "10.0k", "99.9k", "100k", "999k", "1.00M", "385M", "18.4E"];
        assert_eq!(texts, expected);
    }
}
