//! Progress on a terminal, and what happens on an interrupt.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::ir::Model;
use crate::pass::{Observer, Step};
use crate::shrink::Progress;

/// Set while the output is written, when an interrupt has to wait.
static WRITING: AtomicBool = AtomicBool::new(false);

/// An interrupted run leaves nothing behind: while the output is written it ends whole, otherwise the program ends at
/// once.
pub fn watch_interrupts() {
    // Without the handler an interrupt ends the program at once, also fine.
    let _ = ctrlc::set_handler(|| {
        if !WRITING.load(Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
}

/// One line on standard error that tells what is being done; nothing where that is no terminal.
#[derive(Clone)]
pub struct Line(ProgressBar);

impl Line {
    pub fn new(quiet: bool) -> Line {
        let shown = io::stderr().is_terminal() && !quiet;
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if shown {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a valid template"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar.set_message("reading");
        }
        Line(bar)
    }

    /// Prints a text above the line.
    pub fn print(&self, text: &str) {
        self.0.suspend(|| eprint!("{text}"));
    }

    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Observer for Line {
    fn before(&mut self, pass: &Step, _: &Model) -> ControlFlow<()> {
        self.0.set_message(pass.name());
        ControlFlow::Continue(())
    }
}

impl Progress for Line {
    fn sample(&self, total: usize) {
        if self.0.length() != Some(total as u64) {
            self.0.set_length(total as u64);
            self.0.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}").expect("a valid template"));
            self.0.set_message("samples");
        }
        self.0.inc(1);
    }

    fn writing(&self) {
        WRITING.store(true, Ordering::SeqCst);
        self.0.set_message("writing");
    }
}
