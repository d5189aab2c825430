//! What one model gives when it runs.

use std::fmt::{Display, Formatter, Result};

use comfy_table::{Cell, CellAlignment};

use super::figures::{new_table, shortened};
use crate::measure::{Evidence, NodeShare, OutputFigures, Profile, Run};

/// Shows a run in at most 80 columns, without a newline at the end.
pub struct RunTable<'a>(pub &'a Run);

/// Nodes with a smaller share of the time are counted together.
const SMALLEST_SHARE: f64 = 0.001;

impl Display for RunTable<'_> {
    fn fmt(&self, f: &mut Formatter) -> Result {
        let Run { inputs, outputs, accuracy, median_ms, threads, warnings, profile } = self.0;
        if let Some(profile) = profile {
            write!(f, "{}\n\n", ProfileTable { profile, shows: Shown::Int8 })?;
        }
        let mut table = new_table(["output", "type", "shape", "min", "max", "mean", "std"]);
        for column in [1, 2] {
            table.column_mut(column).expect("it is there").set_cell_alignment(CellAlignment::Left);
        }
        for output in outputs {
            table.add_row(output_row(output).map(Cell::new));
        }
        write!(f, "{}\n\n", table.trim_fmt())?;
        for OutputFigures { output, not_finite, .. } in outputs.iter().filter(|output| output.not_finite > 0) {
            writeln!(f, "warning: {not_finite} elements of `{}` are NaN or infinite", shortened(output, 30))?;
        }
        for score in accuracy {
            writeln!(f, "{}: {:.2} %", score.metric, 100.0 * score.share)?;
        }
        let at_a_time = if *threads == 1 { "one thread".into() } else { format!("{threads} samples at a time") };
        write!(f, "{}\nlatency: median {median_ms:.2} ms a sample, {at_a_time}", evidence(inputs))?;
        warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
    }
}

fn output_row(output: &OutputFigures) -> [String; 7] {
    let shape = output.shape.as_ref().map_or("varies".into(), |shape| {
        let lengths = shape.iter().map(|length| length.map_or("?".into(), |n| n.to_string()));
        format!("[{}]", lengths.collect::<Vec<_>>().join(","))
    });
    let figures = match output.elements {
        Some(x) => [x.min, x.max, x.mean, x.standard_deviation].map(figure),
        None => [(); 4].map(|()| "-".into()),
    };
    let [min, max, mean, deviation] = figures;
    [shortened(&output.output, 20), output.dtype.to_string(), shape, min, max, mean, deviation]
}

/// Four digits, as short as they can be.
fn figure(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        1e-3..1e6 => {
            let text = format!("{x:.*}", (3 - x.abs().log10().floor() as i32).max(0) as usize);
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').into(),
                false => text,
            }
        }
        _ => format!("{x:.2e}"),
    }
}

fn evidence(inputs: &Evidence) -> String {
    let count = |n: usize| if n == 1 { "1 sample".into() } else { format!("{n} samples") };
    match inputs {
        Evidence::Data { file, samples } => format!("ran on {} of {}", count(*samples), file.display()),
        Evidence::Random { seed, samples } => format!("ran on {} of random inputs (seed {seed})", count(*samples)),
    }
}

/// Where the time of a run or of a training step goes.
pub(super) struct ProfileTable<'a> {
    pub profile: &'a Profile,
    pub shows: Shown,
}

/// Which nodes are told from others.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shown {
    Int8,
    /// Those that ran in operators of ours.
    Ours,
}

impl Display for ProfileTable<'_> {
    fn fmt(&self, f: &mut Formatter) -> Result {
        let Profile { nodes, operators, total_ms } = self.profile;
        let ours = self.shows == Shown::Ours;
        let is_marked = |node: &NodeShare| if ours { node.ours } else { node.int8 };
        let ms = |ms: f64| format!("{ms:.3}");
        let share = |share: f64| format!("{:.1} %", 100.0 * share);
        let word = if ours { "ours" } else { "int8" };
        let mark = |node: &NodeShare| String::from(if is_marked(node) { word } else { "" });

        let mut table = new_table(["node", "operator", "", "ms", "share"]);
        for column in [1, 2] {
            table.column_mut(column).expect("it is there").set_cell_alignment(CellAlignment::Left);
        }
        let shown = nodes.iter().take_while(|node| node.share >= SMALLEST_SHARE);
        for node in shown.clone() {
            let names = [shortened(&node.node, 30), shortened(&node.operator, 22)];
            table.add_row(names.into_iter().chain([mark(node), ms(node.ms), share(node.share)]).map(Cell::new));
        }
        let rest = &nodes[shown.count()..];
        if !rest.is_empty() {
            let (time, of_all) = rest.iter().fold((0.0, 0.0), |(ms, share), node| (ms + node.ms, share + node.share));
            let nodes = if rest.len() == 1 { "node" } else { "nodes" };
            let below = format!("{} {nodes} below {} %", rest.len(), 100.0 * SMALLEST_SHARE);
            table.add_row([below, String::new(), String::new(), ms(time), share(of_all)].map(Cell::new));
        }
        table.add_row(["total".into(), String::new(), String::new(), ms(*total_ms), share(1.0)].map(Cell::new));
        write!(f, "{}\n\n", table.trim_fmt())?;

        let mut table = new_table(["operator", "nodes", if ours { "ours" } else { "in int8" }, "ms", "share"]);
        for operator in operators {
            let counts = [operator.nodes, if ours { operator.ours } else { operator.int8 }].map(|n| n.to_string());
            let name = shortened(&operator.operator, 40);
            let cells = [name].into_iter().chain(counts).chain([ms(operator.ms), share(operator.share)]);
            table.add_row(cells.map(Cell::new));
        }
        let marked = nodes.iter().filter(|node| is_marked(node)).map(|node| node.share).sum::<f64>() + 0.0;
        write!(f, "{}\n\n", table.trim_fmt())?;
        let what = if ours { "run in kernels of ours" } else { "compute with 8-bit integers" };
        write!(f, "{} of the time is spent in nodes that {what}", share(marked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;
    use crate::measure::{ElementFigures, Metric, OperatorShare, Score};

    #[test]
    fn everything_that_was_measured_is_shown() {
        let elements = Some(ElementFigures { min: -12.3456, max: 123456.0, mean: 0.00012, standard_deviation: 2.5 });
        let floats = OutputFigures {
            output: "a/rather/long/name/of_an_output".into(),
            dtype: DType::F32,
            shape: Some(vec![Some(1), None, Some(10)]),
            elements,
            not_finite: 3,
        };
        let strings =
            OutputFigures { output: "text".into(), dtype: DType::String, shape: None, elements: None, not_finite: 0 };
        let node = |node: &str, operator: &str, int8, ms: f64| NodeShare {
            node: node.into(),
            operator: operator.into(),
            int8,
            ours: int8,
            ms,
            share: ms / 4.0,
        };
        let profile = Profile {
            nodes: vec![
                node("/a/conv", "Conv", true, 3.0),
                node("/b", "Relu", false, 0.998),
                node("/c", "Add", false, 0.002),
            ],
            operators: vec![OperatorShare {
                operator: "Conv".into(),
                nodes: 1,
                int8: 1,
                ours: 1,
                ms: 3.0,
                share: 0.75,
            }],
            total_ms: 4.0,
        };
        let run = Run {
            inputs: Evidence::Data { file: "photos.npz".into(), samples: 149 },
            outputs: vec![floats, strings],
            accuracy: vec![Score { metric: Metric::Top1, share: 0.6913, samples: 149 }],
            median_ms: 31.4,
            threads: 2,
            warnings: vec!["array `x` holds 2 values that are NaN or infinite".into()],
            profile: Some(profile),
        };
        let text = RunTable(&run).to_string();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn figures_have_four_digits() {
        let figures = [0.0, 1.0, -0.01234567, 123.456, 98765.4, 0.00001, -1e30].map(figure);
        assert_eq!(figures, ["0", "1", "-0.01235", "123.5", "98765", "1.00e-5", "-1.00e30"]);
    }
}
