//! What becomes of a training that is interrupted from outside.
#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use onnxshrink::onnx;

use super::student;

/// The program at work on a student in `folder`, with these options of `distill`.
fn start(folder: &Path, options: &str, output: &str) -> Child {
    let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_string();
    std::fs::write(path("student.onnx"), onnx::encode(&student()).unwrap()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_onnxshrink"))
        .args(["testdata/models/mnist_resdw.onnx", "-o", &path(output), "--report", &path("report.json")])
        .args(["--student", &path("student.onnx"), "--data", "testdata/models/mnist_resdw.npz"])
        .args(["--passes", &format!("distill({options})"), "--checkpoint-dir", &path("checkpoints")])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts")
}

/// Waits until an epoch has been written down.
fn wait_for_checkpoint(folder: &Path) {
    let started = Instant::now();
    let is_checkpoint = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "npz"))
    };
    while !std::fs::read_dir(folder.join("checkpoints")).is_ok_and(|mut files| files.any(is_checkpoint)) {
        assert!(started.elapsed() < Duration::from_secs(300), "no epoch came to its end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().expect("there is a `kill`");
    assert!(sent.success());
}

#[test]
fn an_interrupt_ends_the_pass_with_the_best_weights_so_far() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), "epochs=100000,batch-size=8", "small.onnx");
    wait_for_checkpoint(folder.path());
    signal(&child, "-INT");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{status:?}");
    let report = std::fs::read(folder.path().join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let distill = &report["passes"].as_array().unwrap().iter().find(|pass| pass["log"].is_array()).unwrap();
    let epochs = distill["log"].as_array().unwrap();
    let notes = distill["notes"].as_array().unwrap();
    let best = epochs.iter().rev().find(|epoch| epoch["best"] == true).expect("the first is the best so far");
    let told = |text: String| notes.iter().any(|note| note.as_str().unwrap().contains(&text));
    assert!(told(format!("ended on request in epoch {}", epochs.len() + 1)), "{notes:?}");
    assert!(told(format!("kept epoch {}", best["epoch"])), "{notes:?}");
    onnx::read(folder.path().join("small.onnx")).unwrap().model.verify().unwrap();
}

#[test]
fn a_training_that_was_killed_goes_on_to_the_same_bytes() {
    let [whole, killed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let options = "epochs=40,batch-size=8,average=0.9,shift=1";
    assert_eq!(start(whole.path(), options, "small.onnx").wait().unwrap().code(), Some(0));

    let mut child = start(killed.path(), options, "small.onnx");
    wait_for_checkpoint(killed.path());
    signal(&child, "-KILL");
    assert_eq!(child.wait().unwrap().signal(), Some(9), "it was done before");
    assert!(!killed.path().join("small.onnx").exists());
    assert_eq!(start(killed.path(), options, "small.onnx").wait().unwrap().code(), Some(0));
    let [expected, found] = [whole, killed].map(|folder| std::fs::read(folder.path().join("small.onnx")).unwrap());
    assert!(found == expected, "the models differ");
}
