//! What a user is told: tables for people; JSON comes from the structs themselves.

mod comparison;
mod figures;
mod inspection;
mod passes;
mod run;
mod sensitivity;
mod shrunk;

use serde::Serialize;

pub use comparison::ComparisonTable;
pub use inspection::{Inspection, function_names};
pub use passes::{pass_page, pass_table};
pub use run::RunTable;
pub use sensitivity::{ChannelTable, SensitivityTable};
pub use shrunk::shrunk;

/// A report as `--report` and `--json` give it.
pub fn json(report: &impl Serialize) -> String {
    serde_json::to_string_pretty(report).expect("reports have plain keys") + "\n"
}
