//! Times training steps on a network: forward, mean-square loss, backward, SGD.
//!
//!     cargo run --release --example train_step -- MODEL [--steps 20] [--threads 1] [--micro-batch N] [--profile] [--by-turns]
//!
//! With `--by-turns`, takes a step for each line that it reads, and prints milliseconds of CPU and wall time; at the end
//! the largest memory, in MiB. `benches/train_step.py` compares them with PyTorch's. `MODEL.x.npy` beside `MODEL.onnx` holds one batch. Prints milliseconds of CPU and wall time for each step after the
//! first three, whose losses it prints, and the largest memory of the process.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use globset::GlobSet;
use onnxshrink::data::Dataset;
use onnxshrink::onnx;
use onnxshrink::pass::{Context, Pipeline};
use onnxshrink::passes;
use onnxshrink::runtime::NodeTime;
use onnxshrink::train::optimizer::Updates;
use onnxshrink::train::weights::{separate, weights};
use onnxshrink::train::{Fit, Goal, Joint, Lessons, Loss, Optimizer, Plan, Target, open_batch};

#[global_allocator]
static MALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str, default: usize| {
        let place = arguments.iter().position(|argument| argument == name);
        place.and_then(|place| arguments.get(place + 1)?.parse().ok()).unwrap_or(default)
    };
    let file = PathBuf::from(arguments.first().ok_or("which model?")?);
    let (steps, threads) = (option("--steps", 20), option("--threads", 1));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;

    let mut model = onnx::read(&file)?.model;
    Pipeline::parse("constants-to-initializers,upgrade-opset", passes::ALL)?
        .run(&mut model, &mut Context::default())?;
    let batch = Dataset::open(&file.with_extension("x.npy"), &model)?.sample(0);
    let open = open_batch(&model, &[batch]);
    let is_open = open.is_some();
    let mut model = open.unwrap_or(model);
    separate(&mut model);
    let data = Dataset::open(&file.with_extension("x.npy"), &model)?;
    let trained = weights(&model, &GlobSet::empty());
    let samples: Vec<usize> = (0..data.len()).collect();
    let inputs: Vec<_> = samples.iter().map(|&sample| data.sample(sample)).collect();
    let rows = inputs[0][0].shape()[0];
    let lessons = Lessons { inputs, targets: vec![Target::default()], floor: vec![], rows };
    let outputs = model.graph(model.main).outputs.iter();
    let goals: Vec<Goal> = outputs.map(|&value| Goal { value, loss: Loss::MeanSquare, weight: 1.0 }).collect();
    let plan = Plan {
        model: &model,
        weights: &trained,
        goals: &goals,
        batch_statistics: false,
        sample: &lessons.inputs[0],
        samples: if is_open { option("--micro-batch", samples.len()) } else { 1 },
    };
    let joint = Joint::new(&plan)?;
    if arguments.iter().any(|argument| argument == "--profile") {
        let fit = Fit::new(joint, &plan, &lessons)?;
        fit.profile(&samples)?;
        print_profile(fit.profile(&samples)?);
        return Ok(());
    }
    let mut fit = Fit::new(joint, &plan, &lessons)?;
    let mut updates = Updates::new(Optimizer::Sgd { momentum: 0.0, nesterov: false }, 0.0, trained.len());
    let mut step = || Ok::<f64, Box<dyn Error>>(fit.step(&samples, &mut updates, 1e-3, None)?.0);
    let losses = (0..3).map(|_| step()).collect::<Result<Vec<f64>, _>>()?;
    println!("losses {losses:.6?}");
    if arguments.iter().any(|argument| argument == "--by-turns") {
        for _ in std::io::stdin().lines() {
            let (cpu, wall) = (cpu_seconds()?, Instant::now());
            step()?;
            println!("{:.3} {:.3}", 1e3 * (cpu_seconds()? - cpu), 1e3 * wall.elapsed().as_secs_f64());
        }
        println!("{:.0}", peak_memory()? / 1024.0);
        return Ok(());
    }
    let mut times = Vec::new();
    for _ in 0..steps {
        let (cpu, wall) = (cpu_seconds()?, Instant::now());
        step()?;
        times.push((cpu_seconds()? - cpu, wall.elapsed().as_secs_f64()));
    }
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut sorted: Vec<f64> = times.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        1e3 * sorted[sorted.len() / 2]
    };
    println!("cpu {:.1} ms, wall {:.1} ms a step", median(|time| time.0), median(|time| time.1));
    println!("peak memory {:.0} MiB", peak_memory()? / 1024.0);
    Ok(())
}

fn print_profile(mut nodes: Vec<NodeTime>) {
    nodes.sort_by_key(|node| std::cmp::Reverse(node.time));
    let mut by_operator: BTreeMap<&str, Duration> = BTreeMap::new();
    for node in &nodes {
        *by_operator.entry(&node.op).or_default() += node.time;
    }
    let mut by_operator: Vec<_> = by_operator.into_iter().collect();
    by_operator.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    let milliseconds = |time: Duration| 1e3 * time.as_secs_f64();
    for (operator, time) in by_operator {
        println!("{:9.3} ms  {operator}", milliseconds(time));
    }
    println!();
    for node in nodes.iter().take(40) {
        println!("{:9.3} ms  {} {}", milliseconds(node.time), node.op, node.name);
    }
}

/// CPU time of the process: the kernel counts it in nanoseconds for each thread.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().ok_or("no time")?.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

/// KiB.
fn peak_memory() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
