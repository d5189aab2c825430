//! How long each node takes, in several models by turns.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ir::{Model, NodeId, Tensor};
use crate::runtime::{Execution, Runner, RuntimeError};

/// Runs of each model at the least, besides a first one that makes its plan.
const LEAST_RUNS: usize = 5;

/// For each model the time of each node of its main graph in a run on `inputs`, in one thread: the median over runs that take about
/// `budget` all together. What a runtime fuses counts where it says.
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
    let mut seen: Vec<HashMap<String, Vec<Duration>>> = vec![HashMap::new(); models.len()];
    let (start, mut runs) = (Instant::now(), 0);
    while runs < LEAST_RUNS || start.elapsed() < budget {
        for (runner, seen) in runners.iter().zip(&mut seen) {
            for node in runner.profile(inputs)?.1 {
                seen.entry(node.id).or_default().push(node.time);
            }
        }
        runs += 1;
    }
    let medians = models.iter().zip(seen).map(|(model, mut seen)| {
        let median = |node: NodeId| {
            let mut times = seen.remove(&format!("{node:?}"))?;
            times.sort_unstable();
            Some((node, times[times.len() / 2]))
        };
        model.nodes_of(model.main).filter_map(median).collect()
    });
    Ok(medians.collect())
}
