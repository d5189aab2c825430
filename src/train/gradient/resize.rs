//! Resize.
//!
//! Along each axis the result is a matrix times the input, whatever the mode: y = M·x. M is what the runtime makes of
//! the unit vectors, so that the gradient is that of what it computes.

use ndarray::{ArrayD, IxDyn};

use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::op::Resize;
use crate::ir::{DType, Model, Size, Tensor, Type};
use crate::runtime::Runner;

/// dx = Mᵀ·dy along each axis that is resized
pub(super) fn resize(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (mut dx, view): (_, Resize) = (site.dy()?, site.view(tape)?);
    let (input, output) = (tape.shape(view.x), tape.shape(dx));
    if view.keep_aspect_ratio_policy != "stretch" || view.coordinate_transformation_mode == "tf_crop_and_resize" {
        return Err(Refusal("it keeps its aspect ratio, or reads a region"));
    }
    let axes: Vec<usize> = match view.axes.is_empty() {
        true => (0..input.len()).collect(),
        false => view.axes.iter().map(|&axis| axis.rem_euclid(input.len() as i64) as usize).collect(),
    };
    let scales = match view.scales {
        None => None,
        Some(scales) => {
            let tensor = tape.model.constant(scales).ok_or(Refusal("its scales are not constant"))?;
            tensor.floats().map(|floats| floats.into_owned()).filter(|scales| !scales.is_empty())
        }
    };
    for (index, &axis) in axes.iter().enumerate() {
        let scale = scales.as_ref().and_then(|scales| scales.get(index)).copied();
        if input[axis] == output[axis] && scale.is_none_or(|scale| scale == 1.0) {
            continue;
        }
        let matrix = responses(&view, tape.model.opsets.onnx(), input[axis], output[axis], scale)?;
        let matrix = tape.constant(matrix);
        let letters: String = ('a'..).take(input.len()).collect();
        let along = &letters[axis..=axis];
        let back = letters.replace(along, "z");
        dx = tape.einsum(&format!("{letters},z{along}->{back}"), &[dx, matrix]);
    }
    Ok(vec![Some(dx)])
}

/// What becomes of each unit vector along one axis: [input, output].
fn responses(
    view: &Resize,
    opset: Option<i64>,
    input: usize,
    output: usize,
    scale: Option<f32>,
) -> Result<Tensor, Refusal> {
    let mut model = Model::new("resize");
    model.opsets.0.insert(String::new(), opset.ok_or(Refusal("its operator set is not known"))?);
    let main = model.main;
    let x = model.add_input(main, "x");
    let shape = [input, 1, 1, input];
    model.set_type(x, Some(Type::tensor(DType::F32, shape.iter().map(|&n| Size::Fixed(n as i64)))));
    let (scales, sizes) = match scale {
        Some(scale) => (Some(Tensor::from_vec(vec![4], vec![1.0, 1.0, 1.0, scale])), None),
        None => (None, Some(Tensor::from_ints(&[input as i64, 1, 1, output as i64]))),
    };
    let scales = scales.map(|scales| model.add_constant(main, "scales", scales));
    let sizes = sizes.map(|sizes| model.add_constant(main, "sizes", sizes));
    let y = model.append(main, "y", Resize { x, roi: None, scales, sizes, axes: vec![], ..view.clone() });
    model.add_output(main, y);
    let mut unit = ArrayD::<f32>::zeros(IxDyn(&shape));
    (0..input).for_each(|i| unit[[i, 0, 0, i]] = 1.0);
    let unit = Tensor::from_floats(unit, DType::F32).expect("f32 is a float type");
    let results = Runner::new(&model)
        .and_then(|runner| runner.run(&[unit]))
        .map_err(|_| Refusal("the runtime does not have its mode"))?;
    results[0].reshaped(vec![input, output]).ok_or(Refusal("its result has another shape"))
}
