//! A case of a pass: `testdata/passes/<pass>/<case>.onnxtxt`.

use std::path::Path;

use onnxshrink::data::Dataset;
use onnxshrink::ir::Model;
use onnxshrink::pass::{Context, Pipeline, Verify};
use onnxshrink::passes;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

pub struct Case {
    text: String,
    pub data: Option<Dataset>,
    pub model: Model,
    pub pipeline: Pipeline,
}

impl Case {
    pub fn read(path: &Path) -> Outcome<Case> {
        let text = std::fs::read_to_string(path)?;
        let folder =
            path.parent().and_then(|folder| folder.file_name()).expect("a case lies in the folder of its pass");
        let pipeline = line(&text, "pipeline").map_or_else(|| folder.to_string_lossy(), Into::into);
        let model = Model::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        model.verify()?;
        let data = line(&text, "data").map(|file| Dataset::open(&path.with_file_name(file), &model)).transpose()?;
        Ok(Case { pipeline: Pipeline::parse(&pipeline, passes::ALL)?, data, model, text })
    }

    /// What stands in the line `# <key>: ..` among the first comments.
    #[allow(dead_code, reason = "not every test that shares this file asks")]
    pub fn line(&self, key: &str) -> Option<&str> {
        line(&self.text, key)
    }

    /// The model after the pipeline, verified after each of its passes.
    pub fn run(&self) -> Outcome<(Model, Context)> {
        let mut model = self.model.clone();
        let (data, observers) = (self.data.clone(), vec![Box::new(Verify) as Box<_>]);
        let mut cx = Context { explain: true, data, observers, ..Context::default() };
        self.pipeline.run(&mut model, &mut cx)?;
        model.verify()?;
        Ok((model, cx))
    }
}

fn line<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let mut comments = text.lines().map_while(|line| line.strip_prefix('#'));
    comments.find_map(|comment| Some(comment.trim_start().strip_prefix(key)?.strip_prefix(':')?.trim()))
}
