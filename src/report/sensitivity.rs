//! Layers by what int8 in each of them does to the outputs.

use std::fmt::{Display, Formatter, Result};

use comfy_table::{Cell, CellAlignment};

use super::figures::{new_table, shortened};
use crate::passes::Sensitivity;

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
        let samples = if self.samples == 1 { "1 sample".into() } else { format!("{} samples", self.samples) };
        write!(f, "{}\n\neach layer alone in int8, on {samples}; the most sensitive first", table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
