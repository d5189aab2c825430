//! `onnxshrink passes`.

use std::process::ExitCode;

use super::{CliError, print_out};
use crate::pass::{self, NotationError};
use crate::{passes, report};

pub fn run(name: Option<&str>) -> Result<ExitCode, CliError> {
    let text = match name {
        None => report::pass_table(passes::ALL),
        Some(name) => {
            let info =
                pass::find(name, passes::ALL).map_err(|error: NotationError| CliError::Usage(error.to_string()))?;
            report::pass_page(info)
        }
    };
    print_out(&text)?;
    Ok(ExitCode::SUCCESS)
}
