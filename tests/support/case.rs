//! A case of a pass: `testdata/passes/<pass>/<case>.onnxtxt`.

use std::path::Path;

use onnxshrink::ir::Model;
use onnxshrink::pass::{Context, Pipeline, Verify};
use onnxshrink::passes;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

pub struct Case {
    pub name: String,
    pub model: Model,
    pub pipeline: Pipeline,
    /// Why the model cannot be run, for the line `# cannot run: why`.
    pub cannot_run: Option<String>,
}

impl Case {
    pub fn read(path: &Path) -> Outcome<Case> {
        let text = std::fs::read_to_string(path)?;
        let comments = || text.lines().map_while(|line| line.strip_prefix('#'));
        let line = |key: &str| comments().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(':'));
        let folder =
            path.parent().and_then(|folder| folder.file_name()).expect("a case lies in the folder of its pass");
        let pipeline =
            line("pipeline").map_or_else(|| folder.to_string_lossy().into_owned(), |text| text.trim().into());
        let model = Model::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        model.verify()?;
        Ok(Case {
            name: path.file_stem().expect("a case is a file").to_string_lossy().into_owned(),
            model,
            pipeline: Pipeline::parse(&pipeline, passes::ALL)?,
            cannot_run: line("cannot run").map(|why| why.trim().into()),
        })
    }

    /// The model after the pipeline, verified after each of its passes.
    pub fn run(&self) -> Outcome<(Model, Context)> {
        let mut model = self.model.clone();
        let mut cx = Context { explain: true, observers: vec![Box::new(Verify)], ..Context::default() };
        self.pipeline.run(&mut model, &mut cx)?;
        model.verify()?;
        Ok((model, cx))
    }
}
