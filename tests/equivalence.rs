//! Exact passes keep what a model computes: every case of `testdata/passes` whose pipeline is exact is run before and
//! after on random inputs, and the outputs are compared.
//!
//! What learns from samples is lossy; on those samples its results stay within a part of the range of the output.
//!
//! Free lengths of inputs are small. Floats may differ by 1e-4 of the range of the output, all else must be equal. A
//! model that the runtime cannot run has a line `# cannot run: <why>` among its first comments. A case whose passes are lossy
//! is compared where a line says how close it stays: `# at least: 40 dB` of signal over noise in every float output.

#[path = "support/case.rs"]
mod case;
#[path = "support/compare.rs"]
mod compare;

use std::collections::HashMap;
use std::path::Path;

use case::{Case, Outcome};
use compare::{difference, difference_over};
use onnxshrink::analysis::FixedSizes;
use onnxshrink::data::{Dataset, cast, required_inputs, synthesize};
use onnxshrink::ir::{DType, Model, Size, Tensor, Value, ValueDef};
use onnxshrink::pass::Effect;
use onnxshrink::runtime::Runner;

datatest_stable::harness! {
    { test = exact_passes_keep_what_is_computed, root = "testdata/passes", pattern = r"\.onnxtxt$" },
    { test = lossy_passes_stay_near_on_what_they_learned_from, root = "testdata/passes", pattern = r"\.onnxtxt$" },
}

const SAMPLES: usize = 4;

/// What 8 bits may lose in a few layers, as a part of the range of the output, where a case has no line `# loss: <part>`.
const LOSS: f64 = 0.05;

fn lossy_passes_stay_near_on_what_they_learned_from(path: &Path) -> Outcome<()> {
    let case = Case::read(path)?;
    let Some(data) = case.data.clone() else { return Ok(()) };
    let loss = case.line("loss").map_or(Ok(LOSS), str::parse)?;
    let (model, _) = case.run()?;
    let (before, after) = (Runner::new(&case.model)?, Runner::new(&model)?);
    for index in 0..data.len() {
        let sample = data.sample(index);
        for (before, after) in before.run(&sample)?.iter().zip(&after.run(&sample)?) {
            difference_over(before, after, loss).map_err(|what| format!("sample {index}: {what}"))?;
        }
    }
    Ok(())
}

fn exact_passes_keep_what_is_computed(path: &Path) -> Outcome<()> {
    let case = Case::read(path)?;
    let least = match (case.pipeline.effect(), case.line("at least")) {
        (Effect::Exact, None) => None,
        (Effect::Exact, Some(_)) => return Err("exact passes keep everything; remove the line `# at least`".into()),
        (Effect::Lossy, None) => return Ok(()),
        (Effect::Lossy, Some(text)) => {
            Some(text.strip_suffix("dB").ok_or("`# at least: 40 dB`")?.trim().parse::<f64>()?)
        }
    };
    let data = match (Runner::new(&case.model), case.line("cannot run")) {
        (Err(_), Some(_)) => return Ok(()),
        (Err(error), None) => {
            return Err(format!("{error}\nif that is as it is, say so in the case: `# cannot run: <why>`").into());
        }
        (Ok(before), None) => samples(&case.model, &before)?,
        (Ok(before), Some(why)) => match samples(&case.model, &before) {
            Err(_) => return Ok(()),
            Ok(_) => return Err(format!("it does run; remove the line `# cannot run: {why}`").into()),
        },
    };
    let (model, _) = case.run()?;
    let (before, after) = (Runner::new(&case.model)?, Runner::new(&model)?);
    if let Some(least) = least {
        return stays_close(&before, &after, &input_types(&model), &data, least);
    }
    for index in 0..data.len() {
        let sample = data.sample(index);
        let (before, after) = (before.run(&sample)?, after.run(&sample)?);
        assert_eq!(before.len(), after.len(), "the number of outputs");
        for (output, (before, after)) in before.iter().zip(&after).enumerate() {
            difference(before, after).map_err(|what| format!("sample {index}, output {output}: {what}"))?;
        }
    }
    Ok(())
}

fn input_types(model: &Model) -> Vec<DType> {
    let dtype =
        |value: &Value| value.ty.as_ref().and_then(|ty| ty.as_tensor()?.dtype).expect("cases declare their inputs");
    required_inputs(model).map(|(_, value)| dtype(value)).collect()
}

/// Holds every float output to a ratio of signal to noise, over all samples.
fn stays_close(before: &Runner, after: &Runner, types: &[DType], data: &Dataset, least: f64) -> Outcome<()> {
    let mut sums: Vec<[f64; 2]> = Vec::new();
    for index in 0..data.len() {
        let sample = data.sample(index);
        let given = std::iter::zip(&sample, types).map(|(tensor, dtype)| cast(tensor, *dtype));
        let given: Vec<Tensor> = given.collect::<Result<_, _>>().map_err(|_| "an input does not fit")?;
        let (before, after) = (before.run(&sample)?, after.run(&given)?);
        sums.resize(before.len(), [0.0; 2]);
        for ((before, after), [signal, noise]) in before.iter().zip(&after).zip(&mut sums) {
            assert_eq!(before.shape(), after.shape());
            let (Some(before), Some(after)) = (before.floats(), after.floats()) else { continue };
            for (&a, &b) in before.iter().zip(after.iter()) {
                *signal += f64::from(a) * f64::from(a);
                *noise += (f64::from(a) - f64::from(b)).powi(2);
            }
        }
    }
    for (output, [signal, noise]) in sums.into_iter().enumerate() {
        let sqnr = 10.0 * (signal / noise.max(1e-30)).log10();
        assert!(signal == 0.0 && noise == 0.0 || sqnr >= least, "output {output} has {sqnr:.1} dB");
    }
    Ok(())
}

fn samples(model: &Model, runner: &Runner) -> Outcome<Dataset> {
    let run = |sample: &[Tensor]| runner.run(sample).map(|_| ()).map_err(|error| error.to_string());
    Ok(synthesize(model, &small_sizes(model), 7, SAMPLES, run)?)
}

/// Shapes for the inputs of `model`; equal symbols get equal lengths.
fn small_sizes(model: &Model) -> FixedSizes {
    let mut symbols = HashMap::new();
    let mut sizes = FixedSizes::default();
    for &input in &model.graph(model.main).inputs {
        let value = model.value(input);
        let dims = value.ty.as_ref().and_then(|ty| ty.as_tensor()).and_then(|tensor| tensor.shape.as_deref());
        if matches!(value.def, ValueDef::Input { default: Some(_) }) {
            continue;
        }
        let lengths = dims.unwrap_or_default().iter().map(|dim| match &dim.size {
            Size::Fixed(length) => usize::try_from(*length).unwrap_or(2),
            Size::Symbol(symbol) => {
                let next = 2 + symbols.len() % 3;
                *symbols.entry(symbol.clone()).or_insert(next)
            }
            Size::Unknown => 2,
        });
        sizes.inputs.insert(input, lengths.collect());
    }
    sizes
}
