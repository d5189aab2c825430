//! The command line as a user meets it: texts are golden in `testdata/cli`, effects on files are tested here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use onnxshrink::ir::{Attrs, Operation};
use onnxshrink::pass::passes;

const MODEL: &str = "testdata/models/mnist_resdw_bn.onnx";
const DATA: &str = "testdata/models/mnist_resdw.npz";

#[test]
fn texts_are_as_the_golden_files_have_them() {
    fs::create_dir_all("target/cli").unwrap();
    fs::write("target/cli/empty.onnx", "").unwrap();
    fs::write("target/cli/recipe.toml", "passes = \"\"\nmax-dorp = 0.1\n").unwrap();
    trycmd::TestCases::new().case("testdata/cli/*.trycmd");
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onnxshrink")).args(arguments).output().expect("the program starts")
}

fn code(arguments: &[&str]) -> i32 {
    let output = run(arguments);
    output.status.code().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// A folder of its own for each test.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn path(folder: &tempfile::TempDir, name: &str) -> (PathBuf, String) {
    let path = folder.path().join(name);
    (path.clone(), path.to_str().expect("UTF-8").into())
}

fn files(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn metadata(file: &Path) -> Vec<(String, String)> {
    onnxshrink::onnx::read(file).unwrap().model.header.notes.metadata
}

#[test]
fn the_default_writes_a_smaller_model_that_says_how_it_was_made() {
    let folder = folder();
    let (out, out_text) = path(&folder, "small.onnx");
    assert_eq!(code(&[MODEL, "--data", DATA, "-o", &out_text, "--seed", "7", "--min-agreement", "0.9"]), 0);
    assert!(fs::metadata(&out).unwrap().len() * 3 < fs::metadata(MODEL).unwrap().len());
    let metadata = metadata(&out);
    let note = |key: &str| &metadata.iter().find(|(name, _)| name == key).unwrap().1;
    assert_eq!(note("onnxshrink.seed"), "7");
    assert_eq!(note("onnxshrink.version"), env!("CARGO_PKG_VERSION"));
    let pipeline = note("onnxshrink.pipeline");
    assert!(pipeline.starts_with("upgrade-opset(to=18),repeat("), "{pipeline}");
    assert!(pipeline.contains("quantize(mode=static,"), "{pipeline}");
    let again = onnxshrink::pass::Pipeline::parse(pipeline, onnxshrink::passes::ALL).unwrap();
    assert_eq!(again.to_string(), *pipeline);
    assert_eq!(files(&folder), ["small.onnx"]);
}

#[test]
fn what_cleanup_shows_is_kept_from_a_runtime_that_would_lose_by_it() {
    let folder = folder();
    let (out, out_text) = path(&folder, "clean.onnx");
    let pipeline = |arguments: &[&str]| {
        assert_eq!(code(&[&[MODEL, "-o", &out_text, "--quiet"], arguments].concat()), 0);
        metadata(&out).into_iter().find(|(name, _)| name == "onnxshrink.pipeline").expect("it is told").1
    };
    assert!(pipeline(&["--passes", "cleanup"]).ends_with(",keep-sums-apart"));
    for other in ["fold-constants", "cleanup,quantize(mode=weights)"] {
        assert!(!pipeline(&["--passes", other]).contains("keep-sums-apart"), "{other}");
    }
}

#[test]
fn an_empty_pipeline_writes_the_same_message() {
    let folder = folder();
    let (out, out_text) = path(&folder, "same.onnx");
    assert_eq!(code(&[MODEL, "--passes", "", "-o", &out_text, "--quiet"]), 0);
    let bytes = |file: &Path| onnxshrink::onnx::encode(&onnxshrink::onnx::read(file).unwrap().model).unwrap();
    assert_eq!(bytes(&out), bytes(Path::new(MODEL)));
}

#[test]
fn input_and_output_may_be_the_same_file() {
    let folder = folder();
    let (model, text) = path(&folder, "model.onnx");
    fs::copy(MODEL, &model).unwrap();
    assert_eq!(code(&[&text, "-o", &text, "-q"]), 0);
    assert!(fs::metadata(&model).unwrap().len() * 3 < fs::metadata(MODEL).unwrap().len());
    assert_eq!(files(&folder), ["model.onnx"]);
}

#[test]
fn without_an_output_the_result_lies_beside_the_model() {
    let folder = folder();
    let (model, text) = path(&folder, "model.onnx");
    fs::copy(MODEL, &model).unwrap();
    assert_eq!(code(&[&text, "-q"]), 0);
    assert_eq!(files(&folder), ["model.onnx", "model.small.onnx"]);
}

#[test]
fn a_gate_that_fails_writes_nothing_unless_forced() {
    let folder = folder();
    let (out, out_text) = path(&folder, "small.onnx");
    fs::write(&out, "old").unwrap();
    let arguments = [MODEL, "--data", DATA, "-o", &out_text, "--min-cosine", "1", "-q"];
    assert_eq!(code(&arguments), 1);
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(code(&[&arguments[..], &["--force"]].concat()), 1);
    assert!(onnxshrink::onnx::read(&out).is_ok());
    assert_eq!(files(&folder), ["small.onnx"]);
}

#[test]
fn a_gate_on_accuracy_needs_samples() {
    let folder = folder();
    let (_, out) = path(&folder, "small.onnx");
    assert_eq!(code(&[MODEL, "-o", &out, "--max-drop", "1%", "-q"]), 1);
    assert_eq!(code(&[MODEL, "-o", &out, "--max-drop", "1%", "-q", "--data", DATA]), 0);
}

#[test]
fn a_bad_run_leaves_the_old_output_alone() {
    let folder = folder();
    let (out, out_text) = path(&folder, "small.onnx");
    fs::write(&out, "old").unwrap();
    for bad in [&["Cargo.toml"][..], &[MODEL, "--data", "testdata/models/spam_tf.npz"], &[MODEL, "--passes", "nope"]] {
        assert_eq!(code(&[bad, &["-o", &out_text]].concat()), 2, "{bad:?}");
    }
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(files(&folder), ["small.onnx"]);
}

#[test]
fn a_killed_run_leaves_the_old_file_whole_or_a_new_one() {
    let folder = folder();
    let (out, out_text) = path(&folder, "small.onnx");
    for delay in (0..60).step_by(4) {
        fs::write(&out, "old").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_onnxshrink"))
            .args([MODEL, "-o", &out_text, "-q", "--no-check"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        let whole = fs::read(&out).unwrap() == b"old" || onnxshrink::onnx::read(&out).is_ok();
        assert!(whole, "killed after {delay} ms");
    }
}

#[test]
fn training_information_is_left_out_with_a_warning() {
    let folder = folder();
    let (model, text) = path(&folder, "model.onnx");
    let mut trained = onnxshrink::onnx::read(MODEL).unwrap().model;
    trained.header.training_info = vec![Default::default()];
    onnxshrink::onnx::write(&trained, &model, &Default::default()).unwrap();
    let (out, out_text) = path(&folder, "small.onnx");
    let output = run(&[&text, "-o", &out_text, "--no-check"]);
    assert_eq!(output.status.code(), Some(0));
    let told = [output.stdout, output.stderr].concat();
    assert!(String::from_utf8_lossy(&told).contains("the training information is left out"));
    assert!(onnxshrink::onnx::read(out).unwrap().model.header.training_info.is_empty());
}

#[test]
fn a_model_that_cannot_run_is_made_small_and_not_checked() {
    let folder = folder();
    let (model, text) = path(&folder, "model.onnx");
    let mut unknown = onnxshrink::onnx::read(MODEL).unwrap().model;
    let (main, last) = (unknown.main, unknown.graph(unknown.main).outputs[0]);
    let strange = Operation {
        domain: "vendor".into(),
        op: "Strange".into(),
        overload: String::new(),
        inputs: vec![Some(last)],
        attrs: Attrs::default(),
    };
    let result = unknown.append(main, "strange", strange);
    unknown.add_output(main, result);
    unknown.opsets.0.insert("vendor".into(), 1);
    onnxshrink::onnx::write(&unknown, &model, &Default::default()).unwrap();
    let (out, out_text) = path(&folder, "small.onnx");
    let output = run(&[&text, "-o", &out_text]);
    assert_eq!(output.status.code(), Some(0));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("not checked") && told.contains("Strange"), "{told}");
    assert!(fs::metadata(&out).unwrap().len() * 3 < fs::metadata(&model).unwrap().len());
    assert_eq!(code(&[&text, "-o", &out_text, "-q", "--min-cosine", "0.9"]), 1);
}

#[test]
fn the_readme_lists_every_pass_with_what_it_does() {
    let readme = fs::read_to_string("README.md").unwrap();
    let table = readme.split("## Passes").nth(1).expect("a table of passes");
    let rows: Vec<&str> =
        table.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `")).collect();
    let expected = passes(onnxshrink::passes::ALL).map(|info| format!("| `{}` | {} |", info.name, info.summary));
    let groups = |row: &&str| !row.starts_with("| `cleanup`");
    assert_eq!(rows.into_iter().filter(groups).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

#[test]
fn a_pass_that_finds_nothing_fails_where_that_is_asked_for() {
    let folder = folder();
    let (model, text) = path(&folder, "pinned.onnx");
    let case = fs::read_to_string("testdata/passes/prune/pinned.onnxtxt").unwrap();
    let case = onnxshrink::ir::Model::parse(&case).unwrap();
    onnxshrink::onnx::write(&case, &model, &Default::default()).unwrap();
    let (_, out) = path(&folder, "small.onnx");
    let prune = [text.as_str(), "-o", &out, "--passes", "prune(channels=0.5)"];
    let told = run(&prune);
    assert_eq!(told.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&told.stdout).contains("Softmax `soft`"));
    let refused = run(&[&prune[..], &["--strict"]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("nothing can be cut"));
}

#[test]
fn the_target_is_that_of_the_pass_unless_the_pass_has_its_own() {
    let folder = folder();
    let (_, output) = path(&folder, "small.onnx");
    let passes_of = |arguments: &[&str]| {
        let output = run(&[&[MODEL, "-o", &output, "--no-check", "--json"], arguments].concat());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        report["passes"].as_array().expect("passes").iter().map(|pass| pass["pass"].to_string()).collect::<Vec<_>>()
    };
    let given = passes_of(&["--target", "tensorrt"]);
    assert!(given.iter().any(|pass| pass.contains("target=tensorrt")), "{given:?}");
    let own = passes_of(&["--target", "tensorrt", "--passes", "quantize(mode=weights,target=openvino)"]);
    assert!(
        own.iter().any(|pass| pass.contains("target=openvino")) && !own.iter().any(|pass| pass.contains("tensorrt"))
    );
}

#[test]
fn a_recipe_gives_what_the_command_line_does_not() {
    let folder = folder();
    let (recipe, recipe_text) = path(&folder, "recipe.toml");
    fs::write(&recipe, "passes = \"cleanup\"\noutput = \"clean.onnx\"\nseed = 3\nmin-cosine = \"99%\"\nquiet = true\n")
        .unwrap();
    assert_eq!(code(&[MODEL, "--recipe", &recipe_text, "--seed", "4"]), 0);
    let metadata = metadata(&folder.path().join("clean.onnx"));
    assert!(metadata.contains(&("onnxshrink.seed".into(), "4".into())), "{metadata:?}");
    assert!(metadata.iter().all(|(_, text)| !text.contains("quantize")));
}

#[test]
fn the_json_report_is_all_that_is_printed_and_equals_the_file() {
    let folder = folder();
    let (report, report_text) = path(&folder, "report.json");
    let (_, out) = path(&folder, "small.onnx");
    let output = run(&[MODEL, "-o", &out, "--json", "--report", &report_text]);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!(printed["check"]["state"], "done");
    assert_eq!(printed["original"]["nodes"], 49);
    assert_eq!(fs::read(report).unwrap(), output.stdout);
    assert!(output.stderr.is_empty());
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let child = Command::new(env!("CARGO_BIN_EXE_onnxshrink"))
        .args(["print", MODEL, "--weights"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = child;
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    if !Path::new("/dev/full").exists() {
        println!("there is no /dev/full here");
        return;
    }
    let output = run(&[MODEL, "-o", "/dev/full", "--no-check", "-q"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("No space left on device") && text.contains("/dev/full"), "{text}");
}

#[test]
fn the_same_seed_writes_the_same_bytes_on_any_number_of_threads() {
    let folder = folder();
    let written = ["1", "2"].map(|threads| {
        let (out, text) = path(&folder, threads);
        assert_eq!(code(&[MODEL, "-o", &text, "--threads", threads, "-q"]), 0);
        fs::read(out).unwrap()
    });
    assert_eq!(written[0], written[1]);
}

/// What was measured by a clock, and the number of threads, taken out of a report.
fn without_times(report: &mut serde_json::Value) {
    match report {
        serde_json::Value::Object(entries) => {
            for key in ["latency", "seconds", "median_ms", "threads", "output"] {
                entries.remove(key);
            }
            entries.values_mut().for_each(without_times);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(without_times),
        _ => {}
    }
}

#[test]
fn reports_do_not_depend_on_the_number_of_threads() {
    let folder = folder();
    let (_, out) = path(&folder, "small.onnx");
    let commands: [&[&str]; 3] = [
        &[MODEL, "--data", DATA, "-o", &out, "--passes", "cleanup,quantize(mode=weights)"],
        &["compare", MODEL, "testdata/models/mnist_resdw.onnx", "--data", DATA],
        &["run", MODEL, "--data", DATA],
    ];
    for command in commands {
        let [first, rest @ ..] = ["1", "2", "5"].map(|threads| {
            let output = run(&[command, &["--json", "--threads", threads]].concat());
            let mut report = serde_json::from_slice(&output.stdout).expect("JSON");
            without_times(&mut report);
            report
        });
        assert!(rest.iter().all(|other| *other == first), "{command:?}");
    }
}

#[test]
fn the_outputs_of_a_run_are_written_sample_by_sample() {
    let folder = folder();
    let (_, out) = path(&folder, "outputs.npz");
    assert_eq!(code(&["run", MODEL, "--data", DATA, "-o", &out, "-q"]), 0);
    // The outputs of one model serve as the inputs of one that takes them as they are.
    let text = "<ir_version: 8, opset_import: [\"\" : 18]>\nagraph (float[n,10] logits) => (float[n,10] same) {\n   same = Identity (logits)\n}";
    let model = onnxshrink::ir::Model::parse(text).unwrap();
    let data = onnxshrink::data::Dataset::open(Path::new(&out), &model).unwrap();
    assert_eq!(data.len(), 64);
    let original = onnxshrink::onnx::read(MODEL).unwrap().model;
    let samples = onnxshrink::data::Dataset::open(Path::new(DATA), &original).unwrap();
    let runner = onnxshrink::runtime::Runner::new(&original).unwrap();
    for index in [0, 17, 63] {
        assert!(runner.run(&samples.sample(index)).unwrap()[0].same_data(&data.sample(index)[0]), "sample {index}");
    }
}

/// A model whose last layer tells two classes apart by less than a step of int8, and samples for it.
fn delicate_model(folder: &tempfile::TempDir) -> [String; 2] {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let turn: Vec<f32> = (0..256).map(|i| if i % 17 == 0 { 1.0 } else { 0.05 * random() }).collect();
    let weights: Vec<f32> = (0..16)
        .flat_map(|_| {
            let common = random();
            [common, common + 0.002 * random()]
        })
        .collect();
    let x: Vec<f32> = (0..200 * 16).map(|_| random()).collect();
    let list = |numbers: &[f32]| numbers.iter().map(f32::to_string).collect::<Vec<_>>().join(", ");
    let text = format!(
        "<ir_version: 8, opset_import: [\"\" : 18]>
        delicate (float[n,16] x) => (float[n,2] scores)
        <float[16,16] turn = {{{}}}, float[16,2] weights = {{{}}}>
        {{
           [fine] turned = MatMul (x, turn)
           [delicate] scores = MatMul (turned, weights)
        }}",
        list(&turn),
        list(&weights)
    );
    let ((model, model_text), (data, data_text)) = (path(folder, "delicate.onnx"), path(folder, "delicate.npz"));
    let parsed = onnxshrink::ir::Model::parse(&text).unwrap();
    onnxshrink::onnx::write(&parsed, &model, &Default::default()).unwrap();
    let x = onnxshrink::ir::Tensor::from_vec(vec![200, 16], x);
    onnxshrink::data::write_npz(&data, &[("x".into(), x)]).unwrap();
    [model_text, data_text]
}

#[test]
fn the_layer_that_int8_harms_goes_back_to_float_until_accuracy_holds() {
    let folder = folder();
    let [model, data] = delicate_model(&folder);
    let (_, out) = path(&folder, "small.onnx");
    let passes = "cleanup,quantize(mode=static,arithmetic=int8)";

    let ranking =
        run(&["sensitivity", &model, "--data", &data, "--quantize", "quantize(mode=static,arithmetic=int8)", "--json"]);
    let ranking: serde_json::Value = serde_json::from_slice(&ranking.stdout).expect("JSON");
    let layers: Vec<_> = ranking.as_array().unwrap().iter().map(|row| row["layer"].as_str().unwrap()).collect();
    assert_eq!(layers, ["delicate", "fine"]);

    let arguments = [&model, "--data", &data, "-o", &out, "--passes", passes, "--json"];
    let shrunk = |more: &[&str]| {
        let output = run(&[&arguments[..], more].concat());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code().unwrap(), report["returned"].clone())
    };
    assert_eq!(shrunk(&[]), (0, serde_json::Value::Null));
    assert_eq!(shrunk(&["--max-drop", "20"]), (0, serde_json::json!(["delicate"])));
    let metadata = metadata(Path::new(&out));
    assert!(metadata.iter().any(|(_, text)| text.contains("keep=[delicate]")), "{metadata:?}");
}

#[test]
fn a_run_sums_as_its_arithmetic_says_on_every_instruction_set() {
    let folder = folder();
    let ((model, model_text), (data, data_text)) = (path(&folder, "full.onnx"), path(&folder, "full.npz"));
    // 255 · 127 twice is more than 16 bits hold: 64,770, or 32,767 where pairs saturate.
    let text = "<ir_version: 8, opset_import: [\"\" : 18]>
        full (float[n,2] x) => (float[n,1] y)
        <float scale = {1}, uint8 zero_point = {0}, int8[2,1] w = {127, 127}, float w_scale = {1}, int8 w_zero_point = {0}>
        {
           q = QuantizeLinear (x, scale, zero_point)
           d = DequantizeLinear (q, scale, zero_point)
           weights = DequantizeLinear (w, w_scale, w_zero_point)
           y = MatMul (d, weights)
        }";
    let parsed = onnxshrink::ir::Model::parse(text).unwrap();
    onnxshrink::onnx::write(&parsed, &model, &Default::default()).unwrap();
    let x = onnxshrink::ir::Tensor::from_vec(vec![1, 2], vec![255f32, 255.0]);
    onnxshrink::data::write_npz(&data, &[("x".into(), x)]).unwrap();
    for isa in onnxshrink::kernels::Isa::available() {
        let sum = |arithmetic: &str| {
            let arguments = ["--isa", isa.name(), "--arithmetic", arithmetic, "--json"];
            let output = run(&[&["run", &model_text, "--data", &data_text][..], &arguments].concat());
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            report["outputs"][0]["elements"]["max"].as_f64().expect("a number")
        };
        assert_eq!(sum("exact"), 64_770.0, "{isa}");
        assert_eq!(sum("saturating"), 32_767.0, "{isa}");
    }
    assert_eq!(code(&["run", &model_text, "--data", &data_text, "--arithmetic", "wide"]), 2);
}

#[test]
fn without_a_check_no_samples_are_held_back_for_it() {
    let folder = folder();
    let (_, out) = path(&folder, "trained.onnx");
    for (check, learned) in [(&[][..], 51), (&["--no-check"][..], 64)] {
        let passes = "distill(epochs=1,batch-size=32,validation=0)";
        let output = run(&[&[MODEL, "--data", DATA, "--passes", passes, "-o", &out], check].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("learned from {learned} samples")), "{text}");
    }
}

#[test]
fn a_profile_of_a_training_step_tells_what_runs_in_kernels_of_ours() {
    let folder = folder();
    let (_, out) = path(&folder, "trained.onnx");
    for normalization in ["batch", "frozen"] {
        let passes = format!("distill(epochs=1,batch-size=4,validation=0.3,normalization={normalization})");
        let output = run(&[MODEL, "--data", DATA, "--passes", &passes, "--profile", "--no-check", "-o", &out]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("a training step:"), "{text}");
        let convolution = text.lines().find(|line| line.contains("OnnxshrinkBlockedConv"));
        assert!(convolution.is_some_and(|line| line.contains("ours")), "{text}");
    }
    let untrained = run(&[MODEL, "--passes", "cleanup", "--profile", "--no-check", "-o", &out]);
    assert!(String::from_utf8_lossy(&untrained.stdout).contains("no pass trains"));
}
