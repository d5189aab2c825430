//! `onnxshrink print`.

use std::path::Path;
use std::process::ExitCode;

use super::{CliError, print_out};
use crate::ir::text::PrintOptions;
use crate::onnx;

pub fn run(model: &Path, weights: bool) -> Result<ExitCode, CliError> {
    let options = if weights { PrintOptions::whole() } else { PrintOptions::default() };
    let loaded = onnx::read(model)?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    print_out(&loaded.model.print(&options).text)?;
    Ok(ExitCode::SUCCESS)
}
