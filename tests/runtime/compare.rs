//! When two tensors are the same result.

use onnxshrink::ir::Tensor;

/// Integers, strings and booleans must be equal; of floats, `close(difference, expected)` decides.
pub fn differ(found: &Tensor, expected: &Tensor, close: impl Fn(f64, f64) -> bool) -> Option<String> {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        return Some(format!("{found:?} instead of {expected:?}"));
    }
    let (Some(found_floats), Some(floats)) = (found.floats(), expected.floats()) else {
        return (!found.same_data(expected)).then(|| "other elements".into());
    };
    let same = |x: f64, y: f64| x == y || x.is_nan() && y.is_nan() || close((x - y).abs(), y.abs());
    let wrong = found_floats.iter().zip(floats.iter()).find(|&(&x, &y)| !same(x.into(), y.into()))?;
    Some(format!("{} instead of {}", wrong.0, wrong.1))
}
