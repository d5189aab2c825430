//! What came of shrinking a model.

use std::fmt::Write;

use super::ComparisonTable;
use super::passes::pass_reports;
use crate::shrink::Shrunk;

/// The report for the terminal.
pub fn shrunk(shrunk: &Shrunk, explain: bool, times: bool) -> String {
    let mut text = String::new();
    for warning in &shrunk.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    if !shrunk.passes.is_empty() {
        let _ = writeln!(text, "{}\n", pass_reports(&shrunk.passes, explain, times).trim_end());
    }
    let _ = writeln!(text, "{}\n", ComparisonTable(&shrunk.comparison));
    if !shrunk.returned.is_empty() {
        let _ = writeln!(text, "stay float for accuracy: {}\n", shrunk.returned.join(", "));
    }
    if shrunk.kept_original {
        text += "The result was no smaller, so that the original is kept as it is.\n";
    }
    if let Some(output) = &shrunk.output {
        let _ = writeln!(text, "{} -> {}", shrunk.model.display(), output.file.display());
    }
    text
}
