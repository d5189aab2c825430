//! Layers by what int8 in each of them does to the outputs, and groups of channels by what a cut in each does.

use std::fmt::{Display, Formatter, Result};

use comfy_table::{Cell, CellAlignment, Table};

use super::figures::{new_table, shortened};
use crate::passes::{GroupSensitivity, Sensitivity};

/// Shows a ranking in at most 80 columns, without a newline at the end.
pub struct SensitivityTable<'a> {
    pub ranking: &'a [Sensitivity],
    /// How many samples it was measured on.
    pub samples: usize,
}

impl Display for SensitivityTable<'_> {
    fn fmt(&self, f: &mut Formatter) -> Result {
        if self.ranking.is_empty() {
            return write!(f, "no layer of the model would run in int8");
        }
        let mut table = new_table(["layer", "operator", "SQNR of the output", "changed decisions"]);
        table.column_mut(1).expect("it is there").set_cell_alignment(CellAlignment::Left);
        for Sensitivity { layer, operator, sqnr_db, changed } in self.ranking {
            let figures = [format!("{sqnr_db:.1} dB"), format!("{:.2} %", 100.0 * changed)];
            let names = [shortened(layer, 30), operator.clone()];
            table.add_row(names.into_iter().chain(figures).map(Cell::new));
        }
        let samples = counted(self.samples);
        write!(f, "{}\n\neach layer alone in int8, on {samples}; the most sensitive first", table.trim_fmt())
    }
}

/// Shows what cuts do in at most 80 columns, without a newline at the end.
pub struct ChannelTable<'a> {
    pub ranking: &'a [GroupSensitivity],
    /// How many samples it was measured on.
    pub samples: usize,
}

impl Display for ChannelTable<'_> {
    fn fmt(&self, f: &mut Formatter) -> Result {
        let Some(first) = self.ranking.first() else { return write!(f, "no channels of the model can be cut") };
        let shares = first.cuts.iter().map(|cut| format!("{:.0} %", 100.0 * cut.share));
        let mut table: Table = new_table(["channels of"]);
        let last = format!("changed at {}", shares.clone().next_back().unwrap_or_default());
        let header: Vec<String> =
            ["channels of", "number"].map(String::from).into_iter().chain(shares.take(SHARES)).chain([last]).collect();
        table.set_header(header);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for GroupSensitivity { layers, channels, cuts } in self.ranking {
            let more = match layers.len() {
                0..=1 => String::new(),
                n => format!(" +{}", n - 1),
            };
            let name = layers.first().map_or("-", String::as_str);
            let name = shortened(name, NAME - more.len()) + &more;
            let damages = cuts.iter().take(SHARES).map(|cut| format!("{:.1} dB", cut.sqnr_db));
            let changed = cuts.last().map_or(0.0, |cut| cut.changed);
            let cells = [name, channels.to_string()].into_iter().chain(damages);
            table.add_row(cells.chain([format!("{:.2} %", 100.0 * changed)]).map(Cell::new));
        }
        write!(
            f,
            "{}\n\nSQNR of the outputs where so much of one group alone is cut, and the share of\nchanged decisions, on {}; the \
             most sensitive first",
            table.trim_fmt(),
            counted(self.samples)
        )
    }
}

/// Shares that the table has columns for, and the width of a name.
const SHARES: usize = 4;
const NAME: usize = 20;

fn counted(samples: usize) -> String {
    if samples == 1 { "1 sample".into() } else { format!("{samples} samples") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::CutSensitivity;

    #[test]
    fn layers_are_listed_with_what_int8_does_in_them() {
        let row = |layer: &str, operator: &str, sqnr_db, changed| Sensitivity {
            layer: layer.into(),
            operator: operator.into(),
            sqnr_db,
            changed,
        };
        let ranking = [row("/head/MatMul", "MatMul", 21.34, 0.0625), row("stem", "Conv", 45.0, 0.0)];
        let text = SensitivityTable { ranking: &ranking, samples: 16 }.to_string();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
        assert_eq!(
            SensitivityTable { ranking: &[], samples: 1 }.to_string(),
            "no layer of the model would run in int8"
        );
    }

    #[test]
    fn groups_are_listed_with_what_each_cut_does() {
        let cut = |share: f64, sqnr_db: f64, changed: f64| CutSensitivity {
            share,
            removed: (16.0 * share) as usize,
            parameters: share / 10.0,
            macs: share / 8.0,
            sqnr_db,
            changed,
        };
        let group = |layers: &[&str], cuts: Vec<CutSensitivity>| GroupSensitivity {
            layers: layers.iter().map(|layer| layer.to_string()).collect(),
            channels: 16,
            cuts,
        };
        let ranking = [
            group(
                &["/encoder/layer.0/attention/self/query/MatMul", "k", "v"],
                vec![cut(0.1, 12.3, 0.0), cut(0.3, 3.2, 0.125), cut(0.5, -1.25, 0.5)],
            ),
            group(&["stem"], vec![cut(0.1, 40.0, 0.0), cut(0.3, 33.3, 0.0), cut(0.5, 20.0, 0.0625)]),
        ];
        let text = ChannelTable { ranking: &ranking, samples: 16 }.to_string();
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
        assert_eq!(ChannelTable { ranking: &[], samples: 1 }.to_string(), "no channels of the model can be cut");
    }
}
