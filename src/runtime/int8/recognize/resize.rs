//! Resizing of dequantized images.

use super::conv::computing;
use super::scale::{Target, dequantized, integers, unsigned};
use crate::ir::op::{DequantizeLinear, QuantizeLinear, Resize};
use crate::ir::{DType, ValueId};
use crate::require;
use crate::rewrite::{Match, Miss, Rewrite, Site};
use crate::runtime::int8::operators as int8;

const COORDINATES: &[&str] = &["align_corners", "asymmetric", "half_pixel", "pytorch_half_pixel"];

/// Resize(DQ(x)) = DQ(Resize(x)), where elements are copied.
pub(super) fn nearest_of_integers(at: &Site, resize: Resize) -> Match<Rewrite> {
    require!(resize.mode == "nearest", "elements are blended");
    let dequantize: DequantizeLinear = at.producer(resize.x)?;
    let (value, scale) = dequantized(at, resize.x)?;
    let mut new = at.rewrite();
    let x = unsigned(&mut new, value, &scale);
    let resized = new.add(in_space(at, &resize, x)?);
    let x = match scale.is_signed {
        true => new.add(int8::Flip { x: resized, to: DType::I8.code().into() }),
        false => resized,
    };
    new.replace_root(DequantizeLinear { x, ..dequantize })
}

/// Q(limits(Resize(DQ(x)))) in integers.
pub(super) fn quantized_linear(at: &Site, root: QuantizeLinear) -> Match<Rewrite> {
    let target = Target::of(at, &root)?;
    let resize: Resize = at.feeder(target.value)?;
    require!(resize.mode == "linear", "not linear");
    let mut new = at.rewrite();
    let x = integers(at, &mut new, resize.x)?;
    let operation = int8::Resize {
        x_scale: x.scale,
        x_zero_point: x.zero_point,
        y_scale: target.to.scale,
        y_zero_point: target.to.zero_point,
        low: target.low,
        high: target.high,
        ..in_space(at, &resize, x.value)?
    };
    target.end(new, operation, &computing(at, target.value)?.name)
}

/// A Resize that leaves batch and channels as they are, and whose factors are constant.
fn in_space(at: &Site, resize: &Resize, x: ValueId) -> Match<int8::Resize> {
    let coordinates = resize.coordinate_transformation_mode.clone();
    require!(COORDINATES.contains(&coordinates.as_str()), "coordinates of a region, or symmetric ones");
    require!(resize.antialias == 0 && resize.exclude_outside == 0, "weights that depend on the scale");
    require!(resize.axes.is_empty() && resize.keep_aspect_ratio_policy == "stretch", "some axes only");
    let rank = at.rank(resize.x)?;
    require!(matches!(rank, 3 | 4), "space of more than two axes");
    let given = |operand: Option<ValueId>| operand.filter(|&operand| at.tensor(operand).is_ok_and(|t| !t.is_empty()));
    let (mut scales, mut sizes) = (vec![], vec![]);
    if let Some(operand) = given(resize.scales) {
        scales = at.floats(operand)?.to_vec();
        require!(scales.len() == rank && scales[..2] == [1.0, 1.0], "batch or channels are resized");
        scales.drain(..2);
    } else {
        sizes = at.ints(given(resize.sizes).ok_or(Miss("sizes that are computed"))?)?;
        let own = at.fixed_shape(resize.x)?;
        let kept = |axis: usize| sizes[axis] == own[axis] as i64;
        require!(sizes.len() == rank && kept(0) && kept(1), "batch or channels are resized");
        sizes.drain(..2);
    }
    Ok(int8::Resize {
        x,
        x_scale: 1.0,
        x_zero_point: 0,
        y_scale: 1.0,
        y_zero_point: 0,
        low: 0,
        high: 255,
        scales,
        sizes,
        mode: resize.mode.clone(),
        coordinates,
        nearest_mode: resize.nearest_mode.clone(),
        channels_last: false,
    })
}
