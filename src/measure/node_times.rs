//! How long each node takes, in several models by turns.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ir::{Model, NodeId, Tensor};
use crate::runtime::{Execution, Runner, RuntimeError};

/// Runs of each model at the least, besides a first one that makes its plan.
const LEAST_RUNS: usize = 10;

/// For each model the time of each node of its main graph in a run on `inputs`, in one thread: the least over runs that take about
/// `budget` all together, since what else a machine does only ever adds to it. What a runtime fuses counts where it says.
///
/// # Errors
/// If a model cannot be run.
pub fn node_times(
    models: &[Model],
    inputs: &[Tensor],
    budget: Duration,
) -> Result<Vec<HashMap<NodeId, Duration>>, RuntimeError> {
    let runner = |model: &Model| Runner::with(model, &model.graph(model.main).outputs, &Execution::float());
    let runners: Vec<Runner> = models.iter().map(runner).collect::<Result<_, _>>()?;
    for runner in &runners {
        runner.run(inputs)?;
    }
    let mut least: Vec<HashMap<String, Duration>> = vec![HashMap::new(); models.len()];
    let (start, mut runs) = (Instant::now(), 0);
    while runs < LEAST_RUNS || start.elapsed() < budget {
        for (runner, least) in runners.iter().zip(&mut least) {
            for node in runner.profile(inputs)?.1 {
                let time = least.entry(node.id).or_insert(node.time);
                *time = node.time.min(*time);
            }
        }
        runs += 1;
    }
    let times = models.iter().zip(least).map(|(model, least)| {
        let time = |node: NodeId| Some((node, *least.get(&format!("{node:?}"))?));
        model.nodes_of(model.main).filter_map(time).collect()
    });
    Ok(times.collect())
}
