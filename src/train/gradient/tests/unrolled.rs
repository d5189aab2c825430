//! Recurrent layers, written out, against ONNX Runtime's results, as `testdata/gradients/recurrent.py` wrote them down.

use super::Loss;
use super::draw::Case;
use super::pytorch::Row;
use crate::runtime::Runner;

fn check(row: &Row) -> Result<(), String> {
    let Loss { model, results, inputs, .. } = Loss::of(&row.op, &Case { written_out: true, ..row.case() })?;
    let found = Runner::with_outputs(&model, &results).and_then(|runner| runner.run(&inputs));
    let found = found.map_err(|error| error.to_string())?;
    for (index, (found, expected)) in found.iter().zip(&row.results).enumerate() {
        let (floats, wanted) = (found.floats().ok_or("no floats")?, expected.floats.as_ref().ok_or("no floats")?);
        let near = floats.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()));
        if found.shape() != expected.shape || !near {
            return Err(format!("result {index}: {floats:?}, but ONNX Runtime has {wanted:?}"));
        }
    }
    Ok(())
}

#[test]
fn recurrent_layers_give_what_onnx_runtime_gives() {
    let rows: Vec<Row> = serde_json::from_str(include_str!("../../../../testdata/gradients/recurrent.json")).unwrap();
    let named = |(index, row): (usize, &Row)| Some(format!("{index} {}: {}", row.op, check(row).err()?));
    let wrong: Vec<String> = rows.iter().enumerate().filter_map(named).collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
