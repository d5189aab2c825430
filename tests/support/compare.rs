//! Whether two runs gave the same outputs.

use onnxshrink::ir::Tensor;

/// What floats may differ by, as a part of the range of the output.
const TOLERANCE: f64 = 1e-4;

/// What differs between an output of one model and that of another which should compute the same.
pub fn difference(before: &Tensor, after: &Tensor) -> Result<(), String> {
    difference_over(before, after, TOLERANCE)
}

/// [`difference`], where floats may differ by `tolerance` of the range of the output.
pub fn difference_over(before: &Tensor, after: &Tensor, tolerance: f64) -> Result<(), String> {
    if (before.dtype(), before.shape()) != (after.dtype(), after.shape()) {
        return Err(format!("{before:?} became {after:?}"));
    }
    let (Some(xs), Some(ys)) = (before.floats(), after.floats()) else {
        return match before.same_data(after) {
            true => Ok(()),
            false => Err("elements that are no floats changed".into()),
        };
    };
    let finite = || xs.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x));
    let (low, high) = finite().fold((0f64, 0f64), |(low, high), x| (low.min(x), high.max(x)));
    let allowed = tolerance * (high - low);
    for (index, (&x, &y)) in xs.iter().zip(ys.iter()).enumerate() {
        let same = x == y || x.is_nan() && y.is_nan() || (f64::from(x) - f64::from(y)).abs() <= allowed;
        if !same {
            return Err(format!("element {index} was {x} and is {y}, where {allowed:e} is allowed"));
        }
    }
    Ok(())
}
