//! The law on whole networks, and what the cut ones come to in ONNX Runtime.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice::from_ref;

use super::{Subject, TOLERANCE, distance};
use crate::analysis::FixedSizes;
use crate::data::Dataset;
use crate::ir::Model;
use crate::onnx;
use crate::passes::prune::{Pin, Reach};

/// Networks of the zoo.
const NAMES: &[&str] = &[
    "students/mnist_student",
    "models/mnist_resdw",
    "models/mnist_resdw_bn",
    "models/ppocr_cls",
    "models/spam_tf",
    "students/bert_student",
    "models/ppocr_rec",
    "models/efficientnet_lite0",
    "models/minilm_spam",
];

/// Of networks whose sizes are no usual ones: those that they are run with here, and those in ONNX Runtime.
const SIZES: &[(&str, &str, &[&str])] = &[("ppocr_cls", "x=2,3,48,192", &["x=1,3,48,192", "x=3,3,48,320"])];

/// Networks that sizes say too little of: their floats are off on noise by more than the law allows, also where nothing is
/// cut. They are run on the first samples of a file.
const DATA: &[(&str, &str)] = &[("ppocr_rec", "data/ocr_lines_test.npz")];

/// How many of them.
const SAMPLES: usize = 2;

/// Of others, here where they have such lengths, and in ONNX Runtime.
const USUAL: (&str, &[&str]) = ("batch=2 seq=9", &["batch=1 seq=17", "batch=3 seq=40"]);

/// Random cuts of every network, of which there are few unless more are asked for. A judge, if one is given, is a command that
/// gets each cut network, the one that it must be like, and sizes: `tools/check_cut.py`.
#[test]
fn networks_of_the_zoo_keep_the_law() {
    let variable = |name: &str| std::env::var(name).ok();
    let zoo = PathBuf::from(variable("ONNXSHRINK_ZOO").unwrap_or_else(|| "../shared/zoo".into()));
    let mut files: Vec<PathBuf> = NAMES.iter().map(|name| zoo.join(format!("{name}.onnx"))).collect();
    let mut others: Vec<PathBuf> = variable("ONNXSHRINK_ARCHITECTURES")
        .iter()
        .flat_map(std::fs::read_dir)
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    others.sort();
    files.extend(others);
    let only = variable("ONNXSHRINK_ONLY").unwrap_or_default();
    let cuts = variable("ONNXSHRINK_CUTS").and_then(|count| count.parse().ok()).unwrap_or(2);
    let judge = variable("ONNXSHRINK_JUDGE");
    for file in files.into_iter().filter(|file| file.to_string_lossy().contains(&only)) {
        match file.exists() {
            true => keeps_the_law(&file, &zoo, cuts, judge.as_deref()),
            false => println!("skipped: there is no `{}`; ONNXSHRINK_ZOO names the folder of the zoo", file.display()),
        }
    }
}

fn keeps_the_law(file: &Path, zoo: &Path, cuts: u64, judge: Option<&str>) {
    let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let subject = Subject::new(onnx::read(file).unwrap_or_else(|error| panic!("{error}")).model);
    let reach = Reach::of(&subject.channels, &subject.layers());
    println!(
        "{name}: {} of {} channels are free, besides {} outer",
        reach.free,
        reach.channels - reach.outer,
        reach.outer
    );
    for (pin, count) in reach.pins.iter().take(8) {
        let what = match *pin {
            Pin::Node(node, why) => format!("{}: {why}", subject.model.label(node)),
            Pin::Input(value) | Pin::Output(value) => subject.model.value(value).name.clone(),
            Pin::Nobody => "nobody".into(),
        };
        println!("    {count} {what}");
    }
    let known = SIZES.iter().find(|(of, ..)| name.starts_with(of));
    let (own, others) = known.map_or(USUAL, |(_, own, others)| (own, others));
    let own: Vec<String> = own.split_whitespace().map(String::from).collect();
    let sizes = FixedSizes::parse(&subject.model, &own).unwrap_or_default();
    let data = DATA.iter().find(|(of, _)| name.starts_with(of)).map(|(_, data)| zoo.join(data));
    let inputs = match &data {
        Some(data) => {
            let data = Dataset::open(data, &subject.model).unwrap_or_else(|error| panic!("{error}"));
            (0..SAMPLES).map(|index| data.sample(index)).collect()
        }
        None => subject.inputs(&sizes),
    };
    let data = data.map(|data| data.display().to_string());
    let others = data.as_deref().as_ref().map_or(others, from_ref).to_vec();
    let mut worst = (0f64, 0);
    for seed in 0..cuts {
        let removed = subject.some(seed, [0.3, 0.6][seed as usize % 2]);
        let (small, masked) = subject.both(&removed);
        let error = distance(&masked, &small, &inputs);
        if let Some(judge) = judge {
            judged(judge, &small, &masked, &others);
        }
        if error > worst.0 {
            worst = (error, seed);
        }
    }
    let (most, seed) = worst;
    println!("    {cuts} cuts are off by {most:.1e} of the range at the most");
    // After all of them, so that the judge has seen each: it may count in doubles.
    assert!(most <= TOLERANCE, "{name}, cut {seed}: off by {most:e} of the range");
}

/// Lets the judge look at both, on inputs of these sizes or of a file.
fn judged(judge: &str, small: &Model, masked: &Model, sizes: &[&str]) {
    let folder = tempfile::tempdir().expect("there is a place for files");
    let write = |model: &Model, name: &str| {
        let path = folder.path().join(name);
        onnx::write(model, &path, &onnx::WriteOptions::default()).unwrap_or_else(|error| panic!("{error}"));
        path
    };
    let files = [write(small, "cut.onnx"), write(masked, "masked.onnx")];
    let mut words = judge.split_whitespace();
    let mut command = Command::new(words.next().expect("the judge is a command"));
    let status = command.args(words).args(files).args(sizes).status().expect("the judge runs");
    assert!(status.success(), "the judge says no");
}
