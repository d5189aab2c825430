//! The result in every arithmetic that a device may have, beside each other.

use serde::Serialize;

use crate::data::Dataset;
use crate::ir::Model;
use crate::kernels::Arithmetic;
use crate::measure::{self, Check, Closeness, CompareError, Inputs};
use crate::runtime::{Execution, in_integers};

/// So many samples tell whether arithmetics differ.
const SAMPLES: usize = 16;

/// In decibels: what less than this lies between is not worth a word.
const ALIKE: f64 = 0.5;

/// In decibels: so much worse in integers than in reals, something overflows.
const MUCH: f64 = 3.0;

/// How close the result is to the original in one arithmetic, over a few samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rendition {
    pub arithmetic: &'static str,
    /// Of the output that is farthest away.
    pub sqnr_db: f64,
    pub cosine: f64,
}

/// The result in integers, exactly and saturating, and in reals; nothing where it computes nothing in integers, or they
/// agree. Samples are the first of those that judge.
pub fn renditions(
    original: &Model,
    small: &Model,
    judge: &Dataset,
    execution: &Execution,
) -> Result<Vec<Rendition>, CompareError> {
    if in_integers(small, execution).is_none() {
        return Ok(Vec::new());
    }
    let integers = |arithmetic: Arithmetic| Execution { arithmetic, ..Execution::DEFAULT };
    let executions = [
        ("int8, exact", integers(Arithmetic::Exact)),
        ("int8, saturating", integers(Arithmetic::Saturating)),
        ("reals", Execution::float()),
    ];
    let data = judge.first(SAMPLES);
    let mut renditions = Vec::new();
    for (arithmetic, execution) in executions {
        let options = measure::Options { execution: &execution, ..measure::Options::default() };
        let Check::Done(agreement) = measure::check(original, small, Inputs::Data(&data), options)? else {
            return Ok(Vec::new());
        };
        let floats = agreement.outputs.iter().filter_map(|output| match output.closeness {
            Closeness::Floats { sqnr_db, cosine, .. } => Some((sqnr_db, cosine)),
            Closeness::Exactly { .. } => None,
        });
        let Some((sqnr_db, cosine)) = floats.min_by(|a, b| a.0.total_cmp(&b.0)) else { return Ok(Vec::new()) };
        renditions.push(Rendition { arithmetic, sqnr_db, cosine });
    }
    let apart = |a: &Rendition, b: &Rendition| (a.sqnr_db - b.sqnr_db).abs() > ALIKE;
    let differ = renditions.iter().any(|rendition| apart(rendition, &renditions[0]));
    Ok(if differ { renditions } else { Vec::new() })
}

/// A word of warning where integers give much less than their definition in reals.
pub fn warnings(renditions: &[Rendition]) -> Vec<String> {
    let Some(reals) = renditions.iter().find(|rendition| rendition.arithmetic == "reals") else { return Vec::new() };
    let worse = renditions.iter().filter(|rendition| rendition.sqnr_db < reals.sqnr_db - MUCH);
    let warning = |rendition: &Rendition| {
        format!(
            "in {} the result is {:.1} dB from the original, simulated in reals {:.1} dB: products overflow, or a runtime \
             rounds where the definition does not",
            rendition.arithmetic, rendition.sqnr_db, reals.sqnr_db
        )
    };
    worse.map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::FixedSizes;
    use crate::data::synthesize;

    /// A product whose levels are the given ones: two of 127 overflow 16 bits with inputs of 255.
    fn product(levels: &str) -> Model {
        let text = format!(
            r#"
            <ir_version: 8, opset_import: ["": 18]>
            network (float[1,4] x) => (float[1,2] y)
            <float s = {{0.01}}, uint8 z = {{0}}, int8[4,2] w = {levels}, float[2] t = {{0.01,0.01}}, int8[2] zeros = {{0,0}}, float[4] far = {{9,9,9,9}}>
            {{
                l = Add (x, far)
                q = QuantizeLinear (l, s, z)
                d = DequantizeLinear (q, s, z)
                v = DequantizeLinear <axis = 1> (w, t, zeros)
                y = MatMul (d, v)
            }}"#
        );
        Model::parse(&text).expect("the text is a model")
    }

    #[test]
    fn products_that_overflow_are_told() {
        let data = |model: &Model| synthesize(model, &FixedSizes::default(), 0, 4, |_| Ok(())).unwrap();
        let found = |levels: &str| {
            let model = product(levels);
            renditions(&model, &model, &data(&model), &Execution::DEFAULT).unwrap()
        };
        let overflowing = found("{127,-127,127,-127,127,-127,127,-127}");
        assert_eq!(overflowing.len(), 3);
        assert!(warnings(&overflowing).len() == 1 && warnings(&overflowing)[0].contains("saturating"));
        assert_eq!(found("{63,-63,63,-63,63,-63,63,-63}"), []);
    }
}
