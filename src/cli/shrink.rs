//! The main command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::progress::{Line, watch_interrupts};
use super::settings::{Points, Settings, Share, execution};
use super::{CliError, ShrinkArgs, print_out, use_threads};
use crate::ir::Model;
use crate::onnx::{ExternalData, WriteOptions};
use crate::pass::{Context, PrintAfter, Step, StopAfter, Verify, passes};
use crate::report;
use crate::shrink::{Gates, Job, Shrunk, shrink};

pub fn run(args: ShrinkArgs) -> Result<ExitCode, CliError> {
    let model = args.model.expect("clap requires it");
    let settings = match &args.recipe {
        Some(file) => args.settings.over(Settings::read(file)?),
        None => args.settings,
    };
    use_threads(settings.threads)?;

    let line = Line::new(settings.quiet);
    let mut cx = context(&settings, &line)?;
    watch_interrupts(cx.finish.clone());
    let shrunk = shrink(&job(model, &settings)?, &mut cx, &line);
    line.finish();
    let shrunk = shrunk?;

    if let Some(file) = &settings.report {
        let written = fs::write(file, report::json(&shrunk));
        written.map_err(|error| CliError::Report { file: file.clone(), error })?;
    }
    match (settings.json, settings.quiet) {
        (true, _) => print_out(&report::json(&shrunk))?,
        (false, false) => print_out(&report::shrunk(&shrunk, settings.explain, settings.time_passes))?,
        (false, true) => {}
    }
    let idle: Vec<_> = shrunk.passes.iter().filter(|pass| !pass.implied && !pass.changed).collect();
    if settings.strict && !idle.is_empty() {
        for pass in idle {
            eprintln!("`{}` found nothing to do: {}", pass.pass, pass.notes.join("; "));
        }
        return Ok(ExitCode::from(1));
    }
    Ok(verdict(&shrunk))
}

/// Tells what failed, and whether it was written nevertheless.
fn verdict(shrunk: &Shrunk) -> ExitCode {
    if shrunk.failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    let consequence = match &shrunk.output {
        Some(output) => format!("`{}` was written because of --force", output.file.display()),
        None => "nothing was written; --force writes nevertheless".into(),
    };
    eprintln!("the check failed: {}\n{consequence}", shrunk.failures.join("; "));
    ExitCode::from(1)
}

fn job(model: PathBuf, settings: &Settings) -> Result<Job, CliError> {
    let share = |share: Option<Share>| share.map(|share| share.0);
    Ok(Job {
        output: settings.output.clone().unwrap_or_else(|| default_output(&model)),
        model,
        checkpoint_dir: settings.checkpoint_dir.clone(),
        emit_training_graph: settings.emit_training_graph.clone(),
        profile: settings.profile,
        student: settings.student.clone(),
        teacher: settings.teacher.clone(),
        passes: settings.passes.clone(),
        target: settings.target,
        data: settings.data.clone(),
        test_data: settings.test_data.clone(),
        sizes: settings.shape.clone(),
        write: WriteOptions { external_data: settings.external_data.then(ExternalData::default) },
        seed: settings.seed.unwrap_or_default(),
        gates: Gates {
            max_drop: settings.max_drop.map(Points::share),
            min_cosine: share(settings.min_cosine),
            min_agreement: share(settings.min_agreement),
        },
        force: settings.force,
        skip_check: settings.no_check,
        execution: execution(settings.isa, settings.arithmetic)?,
        latency: true,
    })
}

/// `MODEL.small.onnx` beside the model.
fn default_output(model: &Path) -> PathBuf {
    let mut name = model.file_stem().unwrap_or_default().to_os_string();
    name.push(".small.onnx");
    model.with_file_name(name)
}

fn context(settings: &Settings, line: &Line) -> Result<Context, CliError> {
    let known: Vec<&str> = passes(crate::passes::ALL).map(|info| info.name).collect();
    if let Some(unknown) = settings.print_ir_after.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(CliError::Usage(format!(
            "--print-ir-after: there is no pass called `{unknown}`; the passes are {}",
            known.join(", ")
        )));
    }
    let mut cx = Context { seed: settings.seed.unwrap_or_default(), explain: settings.explain, ..Context::default() };
    cx.observers.push(Box::new(line.clone()));
    if let Some(runs) = settings.stop_after {
        cx.observers.push(Box::new(StopAfter(runs)));
    }
    if settings.verify_each {
        cx.observers.push(Box::new(Verify));
    }
    if !settings.print_ir_after.is_empty() {
        let line = line.clone();
        let print = move |pass: &Step, model: &Model| line.print(&format!("// after {}\n{model}\n", pass.name()));
        cx.observers.push(Box::new(PrintAfter { passes: settings.print_ir_after.clone(), print }));
    }
    Ok(cx)
}
