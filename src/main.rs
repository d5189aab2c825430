use std::io::{self, IsTerminal};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let wrap = io::stderr().is_terminal();
    let style = move || miette::MietteHandlerOpts::new().wrap_lines(wrap);
    miette::set_hook(Box::new(move |_| Box::new(style().build()))).expect("it is set once");
    onnxshrink::cli::run().unwrap_or_else(|error| {
        eprint!("{:?}", miette::Report::msg(error));
        ExitCode::from(2)
    })
}
