//! What came of shrinking a model.

use std::fmt::Write;

use super::ComparisonTable;
use super::passes::pass_reports;
use super::run::{ProfileTable, Shown};
use crate::shrink::{Rendition, Shrunk};

/// The report for the terminal.
pub fn shrunk(shrunk: &Shrunk, explain: bool, times: bool) -> String {
    let mut text = String::new();
    for warning in &shrunk.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    if !shrunk.passes.is_empty() {
        let _ = writeln!(text, "{}\n", pass_reports(&shrunk.passes, explain, times).trim_end());
    }
    if let Some(profile) = &shrunk.training_step {
        let _ = writeln!(text, "a training step:\n\n{}\n", ProfileTable { profile, shows: Shown::Ours });
    }
    let _ = writeln!(text, "{}\n", ComparisonTable(&shrunk.comparison));
    for Rendition { arithmetic, sqnr_db, cosine } in &shrunk.arithmetics {
        let _ = writeln!(text, "in {arithmetic}: {sqnr_db:.1} dB, cosine {cosine:.5} over a few samples");
    }
    if !shrunk.arithmetics.is_empty() {
        text.push('\n');
    }
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
