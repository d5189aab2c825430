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
