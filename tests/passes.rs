//! Golden files of passes: what each makes of a small model, and what it tells of it.
//!
//! To add a case, write `testdata/passes/<pass>/<case>.onnxtxt`: the model before the pass, as text (the syntax is
//! explained in `ir::text`; the file `ir_version` and `opset_import` are needed, types of inputs help the pass). The
//! folder's name is the pipeline that runs, unless the first comment lines have one: `# pipeline: fuse-batchnorm`.
//! A pass that learns from samples gets those of the file in the line `# data: <file>.npz`, which lies beside the case.
//! Then run `INSTA_UPDATE=always cargo test --test passes <case>`, which writes the golden file `<case>.snap` beside it,
//! and read that file as critically as code: which rules applied, which did not and why, and the model after the pass.
//! Without `INSTA_UPDATE` a difference fails the test and is shown. A case whose passes are exact is also run before and
//! after by `tests/equivalence.rs`.

#[path = "support/case.rs"]
mod case;

use std::fmt::Write;
use std::path::Path;

use case::{Case, Outcome};
use onnxshrink::ir::Model;
use onnxshrink::ir::text::PrintOptions;
use onnxshrink::pass::PassReport;

datatest_stable::harness! {
    { test = the_result_is_as_agreed, root = "testdata/passes", pattern = r"\.onnxtxt$" },
}

fn the_result_is_as_agreed(path: &Path) -> Outcome<()> {
    let case = Case::read(path)?;
    let (model, cx) = case.run()?;
    let text = model.print(&PrintOptions::whole()).text;
    assert_eq!(Model::parse(&text)?.print(&PrintOptions::whole()).text, text, "the result does not read back");

    let mut golden = String::new();
    for report in &cx.reports {
        write_report(&mut golden, report)?;
    }
    golden.push_str(&text);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(path.canonicalize()?.parent().expect("a file lies in a folder"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let name = path.file_stem().expect("a case is a file").to_string_lossy();
    settings.bind(|| insta::assert_snapshot!(name.as_ref(), golden));
    Ok(())
}

/// What a pass told of its run, as comments.
fn write_report(golden: &mut String, report: &PassReport) -> std::fmt::Result {
    let unchanged = if report.changed { "" } else { ": nothing changed" };
    writeln!(golden, "# {}{unchanged}", report.pass)?;
    for (rule, times) in &report.applied {
        writeln!(golden, "#   {rule} applied {times}x")?;
    }
    for missed in &report.missed {
        writeln!(golden, "#   {} missed {}: {}", missed.rule, missed.nodes.join(", "), missed.reason)?;
    }
    for note in &report.notes {
        writeln!(golden, "#   {note}")?;
    }
    Ok(())
}
