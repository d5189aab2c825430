//! Progress on a terminal, and what happens on an interrupt.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::ir::Model;
use crate::pass::{Observer, Step};
use crate::shrink::Progress;

/// Set while the output is written, when an interrupt has to wait.
static WRITING: AtomicBool = AtomicBool::new(false);

/// Set while a pass works that can end early with what it has.
static LONG: AtomicBool = AtomicBool::new(false);

/// An interrupted run leaves nothing behind: while the output is written it ends whole, otherwise the program ends at
/// once. Where the pass that runs can end early, the first interrupt only sets `finish`.
pub fn watch_interrupts(finish: Arc<AtomicBool>) {
    // Without the handler an interrupt ends the program at once, also fine.
    let _ = ctrlc::set_handler(move || {
        if LONG.load(Ordering::SeqCst) && !finish.swap(true, Ordering::SeqCst) {
            return;
        }
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
        LONG.store(false, Ordering::SeqCst);
        self.0.set_message(pass.name());
        ControlFlow::Continue(())
    }

    fn progress(&mut self, done: usize, total: usize, text: &str) {
        LONG.store(done < total, Ordering::SeqCst);
        if self.0.length() != Some(total as u64) {
            self.0.set_length(total as u64);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (left: {eta})");
            self.0.set_style(style.expect("a valid template"));
        }
        self.0.set_position(done as u64);
        self.0.set_message(text.to_string());
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
