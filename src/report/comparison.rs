//! The table that sets the small model beside the original, and the sentences around it.

use std::fmt::{Display, Formatter, Result};

use comfy_table::{Cell, Table};

use super::figures::{new_table, shortened, thousands};
use crate::measure::{
    Accuracy, Agreement, Check, Closeness, Comparison, Evidence, Latency, ModelSize, OutputAgreement,
};

/// Shows a comparison in at most 80 columns, without colour and without a newline at the end.
pub struct ComparisonTable<'a>(pub &'a Comparison);

impl Display for ComparisonTable<'_> {
    fn fmt(&self, f: &mut Formatter) -> Result {
        let Comparison { original, small, check } = self.0;
        let mut table = new_table(["", "original", "small", "change"]);
        size_rows(&mut table, original, small);
        if let Check::Done(agreement) = check {
            agreement.accuracy.iter().for_each(|accuracy| accuracy_row(&mut table, accuracy));
            agreement.latency.iter().for_each(|latency| latency_row(&mut table, latency));
        }
        write!(f, "{}", table.trim_fmt())?;
        match check {
            Check::Done(agreement) => agreement_text(f, agreement),
            Check::NotChecked { reason } => write!(f, "\n\nnot checked: {reason}"),
            Check::Broken { reason } => write!(f, "\n\ncheck failed: the small model does not run: {reason}"),
        }
    }
}

fn add(table: &mut Table, cells: [String; 4]) {
    table.add_row(cells.map(Cell::new));
}

fn size_rows(table: &mut Table, a: &ModelSize, b: &ModelSize) {
    let [unit, from, to] = bytes(a.bytes, b.bytes);
    add(table, [format!("file size, {unit}"), from, to, factor(a.bytes, b.bytes)]);
    let counts = [("parameters", a.parameters, b.parameters), ("nodes", a.nodes as u64, b.nodes as u64)];
    for (what, a, b) in counts {
        add(table, [what.into(), thousands(a), thousands(b), percent(a, b)]);
    }
}

fn accuracy_row(table: &mut Table, accuracy: &Accuracy) {
    let share = |x: f64| format!("{:.2} %", 100.0 * x);
    let change = format!("{:+.2} points", -100.0 * accuracy.drop + 0.0);
    add(table, [accuracy.metric.to_string(), share(accuracy.original), share(accuracy.small), change]);
}

fn latency_row(table: &mut Table, Latency { original_ms, small_ms, ratio: [_, ratio, _], .. }: &Latency) {
    let ms = |x: &f64| format!("{x:.2}");
    add(table, ["latency, ms".into(), ms(original_ms), ms(small_ms), format!("{ratio:.2}x")]);
}

fn agreement_text(f: &mut Formatter, agreement: &Agreement) -> Result {
    let mut table = new_table(["output", "cosine", "lowest", "SQNR", "max error", "agreement"]);
    for output in agreement.outputs.iter().take(SHOWN) {
        table.add_row(output_row(output).map(Cell::new));
    }
    write!(f, "\n\n{}", table.trim_fmt())?;
    if let Some(more) = agreement.outputs.len().checked_sub(SHOWN).filter(|&n| n > 0) {
        write!(f, "\n {more} more outputs are in the JSON report")?;
    }
    write!(f, "\n\n{}", evidence(&agreement.inputs))?;
    for accuracy in &agreement.accuracy {
        if let Some(interval) = accuracy.interval {
            let [low, high] = [interval.low, interval.high].map(|x| -100.0 * x + 0.0);
            write!(
                f,
                "\n{}: change between {high:+.2} and {low:+.2} points (95 %, {})",
                accuracy.metric, interval.method
            )?;
        }
    }
    if let Some(Latency { ratio: [low, _, high], runs, .. }) = agreement.latency {
        write!(f, "\nlatency: one thread, median of {runs} runs by turns, ratio {low:.2}x to {high:.2}x (95 %)")?;
    }
    agreement.warnings.iter().try_for_each(|warning| write!(f, "\nwarning: {warning}"))
}

/// Outputs that the table has rows for.
const SHOWN: usize = 12;

fn output_row(OutputAgreement { output, closeness }: &OutputAgreement) -> [String; 6] {
    let name = shortened(output, 22);
    let none = || String::from("-");
    match *closeness {
        Closeness::Floats { cosine, cosine_min, sqnr_db, max_error, agreement, identical } => [
            name,
            format!("{cosine:.5}"),
            format!("{cosine_min:.5}"),
            if identical { "identical".into() } else { format!("{sqnr_db:.1} dB") },
            share_of_range(max_error),
            agreement.map_or_else(none, |share| format!("{:.2} %", 100.0 * share)),
        ],
        Closeness::Exactly { identical: true, .. } => [name, none(), none(), "identical".into(), none(), none()],
        Closeness::Exactly { equal, differing, .. } => {
            [name, none(), none(), format!("{differing} differ"), none(), format!("{:.2} %", 100.0 * equal)]
        }
    }
}

fn share_of_range(error: f64) -> String {
    match error {
        0.0 => "0".into(),
        x if x < 1e-4 => format!("{:.0e} %", 100.0 * x),
        x => format!("{:.2} %", 100.0 * x),
    }
}

fn evidence(inputs: &Evidence) -> String {
    let count = |n: usize| if n == 1 { "1 sample".into() } else { format!("{n} samples") };
    match inputs {
        Evidence::Data { file, samples } => format!("checked on {} of {}", count(*samples), file.display()),
        Evidence::Random { seed, samples } => format!(
            "checked on {} of random inputs (seed {seed}): weak evidence,\ngive real ones with --data",
            count(*samples)
        ),
    }
}

/// Both sizes in the unit that suits the larger.
fn bytes(a: u64, b: u64) -> [String; 3] {
    let (unit, size) = match a.max(b) {
        0..10_000 => ("B", 1.0),
        10_000..1_000_000 => ("kB", 1e3),
        1_000_000..1_000_000_000 => ("MB", 1e6),
        _ => ("GB", 1e9),
    };
    let show = |n: u64| if size == 1.0 { n.to_string() } else { format!("{:.2}", n as f64 / size) };
    [unit.into(), show(a), show(b)]
}

fn factor(a: u64, b: u64) -> String {
    let (a, b) = (a.max(1) as f64, b.max(1) as f64);
    match b / a {
        x if x > 1.0 => format!("{x:.2}x larger"),
        1.0 => "same".into(),
        x => format!("{:.2}x smaller", 1.0 / x),
    }
}

fn percent(a: u64, b: u64) -> String {
    match (a, b) {
        _ if a == b => "same".into(),
        (0, _) => "-".into(),
        _ => format!("{:+.1} %", 100.0 * (b as f64 / a as f64 - 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Interval, Metric};

    fn size(bytes: u64, parameters: u64, nodes: usize) -> ModelSize {
        ModelSize { bytes, parameters, nodes }
    }

    fn floats(output: &str, identical: bool) -> OutputAgreement {
        let closeness = match identical {
            true => Closeness::Floats {
                cosine: 1.0,
                cosine_min: 1.0,
                sqnr_db: 300.0,
                max_error: 0.0,
                agreement: None,
                identical,
            },
            false => Closeness::Floats {
                cosine: 0.998123,
                cosine_min: 0.98,
                sqnr_db: 23.44,
                max_error: 0.0123,
                agreement: Some(0.9664),
                identical,
            },
        };
        OutputAgreement { output: output.into(), closeness }
    }

    fn agreement(inputs: Evidence) -> Agreement {
        Agreement { inputs, outputs: vec![floats("logits", false)], accuracy: vec![], latency: None, warnings: vec![] }
    }

    fn shown(check: Check) -> String {
        let (original, small) = (size(18_614_607, 4_652_008, 141), size(4_735_201, 4_652_008, 93));
        let text = ComparisonTable(&Comparison { original, small, check }).to_string();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        text
    }

    #[test]
    fn everything_that_was_measured_is_shown() {
        let accuracy = Accuracy {
            metric: Metric::Top1,
            original: 0.6913,
            small: 0.6846,
            drop: 0.0067,
            interval: Some(Interval { low: -0.02, high: 0.0334, method: "Bonett-Price" }),
            samples: 149,
        };
        let mut agreement = agreement(Evidence::Data { file: "photos.npz".into(), samples: 149 });
        agreement.accuracy.push(accuracy);
        agreement.latency = Some(Latency { original_ms: 31.4, small_ms: 30.9, ratio: [0.93, 0.98, 1.07], runs: 16 });
        agreement.outputs.push(floats("a/rather/long/name/of_an_output", true));
        let closeness = Closeness::Exactly { equal: 0.99, differing: 3, identical: false };
        agreement.outputs.push(OutputAgreement { output: "label".into(), closeness });
        agreement.warnings.push("array `x` holds 2 values that are NaN or infinite".into());
        insta::assert_snapshot!(shown(Check::Done(Box::new(agreement))));
    }

    #[test]
    fn random_inputs_are_called_weak_evidence() {
        insta::assert_snapshot!(shown(Check::Done(Box::new(agreement(Evidence::Random { seed: 0, samples: 16 })))));
    }

    #[test]
    fn a_model_that_cannot_be_run_is_called_not_checked() {
        insta::assert_snapshot!(shown(Check::NotChecked { reason: "Loop `decoder` cannot be run".into() }));
    }

    #[test]
    fn the_report_is_json_with_every_number() {
        let mut agreement = agreement(Evidence::Data { file: "photos.npz".into(), samples: 149 });
        agreement.outputs.push(floats("same", true));
        let (original, small) = (size(20, 4, 2), size(10, 4, 1));
        let comparison = Comparison { original, small, check: Check::Done(Box::new(agreement)) };
        insta::assert_snapshot!(serde_json::to_string_pretty(&comparison).unwrap());
    }
}
