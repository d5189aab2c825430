//! The official node tests, through `Runner`.
//!
//! `testdata/node-tests/failing.txt` lists the tests that do not pass: `unsupported` ones are refused before any work,
//! `fails` means that tract gives up, `wrong` that it computes something else. The list must be exactly what is found:
//! `ONNXSHRINK_UPDATE=1 cargo test --test runtime` writes it anew, and with it the table of operators that constants may
//! be folded through.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use onnxshrink::ir::{Initializer, Model, Tensor};
use onnxshrink::onnx::{decode_tensor, read};
use onnxshrink::runtime::{Runner, RuntimeError};
use rayon::prelude::*;

use crate::compare::differ;
use crate::corpus;

const FAILING: &str = "testdata/node-tests/failing.txt";
const FOLDABLE: &str = "src/runtime/foldable.rs";

/// Operators that tests of one node do not show to be wrong, but others do: tract multiplies by the reciprocal of the
/// scale, and half steps fall to the wrong side (`test_dynamicquantizelinear_expanded`).
const ALSO_WRONG: &[&str] = &["DynamicQuantizeLinear", "QLinearConv", "QuantizeLinear"];

/// How a test ended, with the reason where it did not pass.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Passes,
    Unsupported(String),
    Fails(String),
    Wrong(String),
}

impl Outcome {
    fn class(&self) -> Option<&'static str> {
        match self {
            Outcome::Passes => None,
            Outcome::Unsupported(_) => Some("unsupported"),
            Outcome::Fails(_) => Some("fails"),
            Outcome::Wrong(_) => Some("wrong"),
        }
    }
}

#[test]
fn the_node_tests_pass_but_for_those_that_are_listed() {
    let paths = corpus::node_tests();
    if paths.is_empty() {
        return;
    }
    let found: Vec<Found> = paths.par_iter().map(|path| run(path)).collect();
    if let Some(log) = std::env::var_os("ONNXSHRINK_LOG") {
        let line = |test: &Found| format!("{} {:?} folded {:?}\n", test.name, test.outcome, test.folded);
        fs::write(log, found.iter().map(line).collect::<String>()).unwrap();
    }
    agree(FAILING, &failing(&found));
    agree(FOLDABLE, &foldable(&found));
}

struct Found {
    name: String,
    operators: BTreeSet<String>,
    outcome: Outcome,
    /// How the test ended with all inputs as constants, as they are where constants are folded.
    folded: Outcome,
}

fn run(path: &Path) -> Found {
    let folder = path.parent().expect("a model lies in a folder");
    let name = folder.file_name().expect("a test has a name").to_string_lossy().into_owned();
    let model = read(path).unwrap_or_else(|error| panic!("{error}")).model;
    let operators = model.all_nodes().map(|id| match (&model.node(id).domain, &model.node(id).op) {
        (domain, op) if domain.is_empty() => op.clone(),
        (domain, op) => format!("{domain}:{op}"),
    });
    Found {
        name,
        operators: operators.collect(),
        outcome: outcome(&model, folder, false),
        folded: outcome(&model, folder, true),
    }
}

fn outcome(model: &Model, folder: &Path, folded: bool) -> Outcome {
    let mut runner = match Runner::new(model) {
        Ok(runner) => runner,
        Err(error) if error.is_unsupported() => return Outcome::Unsupported(error.to_string()),
        Err(error) => return Outcome::Fails(error.to_string()),
    };
    for set in 0.. {
        let data = folder.join(format!("test_data_set_{set}"));
        if !data.is_dir() {
            break;
        }
        let (mut inputs, outputs) = (tensors(&data, "input"), tensors(&data, "output"));
        if folded {
            let mut model = model.clone();
            for (input, data) in model.graph(model.main).inputs.clone().into_iter().zip(inputs.drain(..)) {
                model.set_default(input, Initializer::Dense(data));
            }
            runner = Runner::new(&model).expect("it runs with inputs");
        }
        let found = match runner.run(&inputs) {
            Ok(found) => found,
            Err(error @ RuntimeError::Input(_)) => return Outcome::Unsupported(error.to_string()),
            Err(error) => return Outcome::Fails(error.to_string()),
        };
        assert_eq!(found.len(), outputs.len(), "{}", data.display());
        for (found, expected) in found.iter().zip(&outputs) {
            let finite = expected.floats().unwrap_or_default().iter().fold(0f32, |most, x| most.max(x.abs()));
            // The relative tolerance of ONNX's own test runner, and single precision's beside the largest element.
            let close = |error, expected: f64| error <= 1e-3 * expected + 1e-6 * f64::from(finite) + 1e-7;
            if let Some(what) = differ(found, expected, close) {
                return Outcome::Wrong(what);
            }
        }
    }
    Outcome::Passes
}

fn tensors(folder: &Path, role: &str) -> Vec<Tensor> {
    let files = (0..).map(|index| folder.join(format!("{role}_{index}.pb"))).take_while(|path| path.exists());
    let read = |path: PathBuf| decode_tensor(fs::read(&path).unwrap().into()).unwrap_or_else(|error| panic!("{error}"));
    files.map(read).collect()
}

fn failing(found: &[Found]) -> String {
    let count = |class| found.iter().filter(|test| test.outcome.class() == class).count();
    let mut text = format!(
        "# {} node tests: {} pass, {} are unsupported, {} fail, {} are wrong. Written by tests/runtime/node_tests.rs.\n",
        found.len(),
        count(None),
        count(Some("unsupported")),
        count(Some("fails")),
        count(Some("wrong"))
    );
    for test in found {
        if let Some(class) = test.outcome.class() {
            writeln!(text, "{} {class}", test.name).unwrap();
        }
    }
    text
}

fn foldable(found: &[Found]) -> String {
    let mut tested = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    for test in found {
        match (&test.outcome, &test.folded) {
            (Outcome::Wrong(_), _) | (_, Outcome::Wrong(_)) if test.operators.len() == 1 => {
                wrong.extend(&test.operators);
            }
            (_, Outcome::Passes) => tested.extend(&test.operators),
            _ => {}
        }
    }
    let mut text = String::from(
        "//! Operators that constants are folded through: the official node tests of each that tract runs give the \
         right result.\n//!\n//! Written by `ONNXSHRINK_UPDATE=1 cargo test --test runtime`.\n\n",
    );
    text.push_str("#[rustfmt::skip]\npub(super) const FOLDABLE: &[&str] = &[\n");
    for op in tested.difference(&wrong).filter(|op| !ALSO_WRONG.contains(&op.as_str())) {
        writeln!(text, "    \"{op}\",").unwrap();
    }
    text.push_str("];\n");
    text
}

/// Compares `text` with the checked-in file at `path`, or writes it there.
fn agree(path: &str, text: &str) {
    if std::env::var_os("ONNXSHRINK_UPDATE").is_some() {
        fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        return fs::write(path, text).unwrap();
    }
    let known = fs::read_to_string(path).unwrap_or_default();
    let (known, now): (BTreeSet<&str>, BTreeSet<&str>) = (known.lines().collect(), text.lines().collect());
    let (gone, new): (Vec<_>, Vec<_>) = (known.difference(&now).collect(), now.difference(&known).collect());
    assert!(
        gone.is_empty() && new.is_empty(),
        "{path} is out of date.\nno longer found: {gone:#?}\nnew: {new:#?}\nlook at each, then ONNXSHRINK_UPDATE=1 cargo test --test runtime"
    );
}
