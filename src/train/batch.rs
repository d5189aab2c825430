//! Lets a model whose batch was fixed when it was exported take any number of samples.
//!
//! Law: the result is used only where it gives for each sample what the model gave for it in its batch.

use crate::analysis::Shapes;
use crate::ir::op::Reshape;
use crate::ir::{Dim, Model, Size, Tensor, Type, TypeKind, ValueId};
use crate::runtime::Runner;
use crate::runtime::stack::{is_near, rows, stacked};

/// `model` for any number of samples; none if its inputs have different first axes, or none that is fixed, if sizes that
/// are written into it do not allow that, or if it mixes samples. Each of `samples` holds a tensor for each input.
pub fn open_batch(model: &Model, samples: &[Vec<Tensor>]) -> Option<Model> {
    let inputs = &model.graph(model.main).inputs;
    let rows = fixed_rows(model, *inputs.first()?)?;
    if inputs.iter().any(|&input| fixed_rows(model, input) != Some(rows)) {
        return None;
    }
    let shapes = Shapes::infer(model);
    let mut open = model.clone();
    for &input in inputs {
        set_rows(&mut open, input);
    }
    for &output in &model.graph(model.main).outputs {
        if fixed_rows(model, output) == Some(rows) {
            set_rows(&mut open, output);
        }
    }
    for node in model.nodes_of(model.main) {
        let Some(Reshape { x, shape, allowzero: 0 }) = model.view(node) else { continue };
        let Some(sizes) = model.constant(shape).and_then(Tensor::ints) else { continue };
        let before = shapes.fixed(x)?;
        let opened = open_sizes(&sizes, &before, rows)?;
        if opened != sizes {
            let name = format!("{}.open", model.value(shape).name);
            let opened = open.add_constant(open.main, &name, Tensor::from_ints(&opened));
            open.set_input(node, 1, Some(opened));
        }
    }
    gives_the_same(model, &open, samples)?.then_some(open)
}

/// The declared length of the first axis.
fn fixed_rows(model: &Model, value: ValueId) -> Option<usize> {
    match model.value(value).ty.as_ref()?.as_tensor()?.shape.as_ref()?.first()?.size {
        Size::Fixed(n) => usize::try_from(n).ok().filter(|&n| n > 0),
        _ => None,
    }
}

fn set_rows(model: &mut Model, value: ValueId) {
    let Some(Type { kind: TypeKind::Tensor(tensor), denotation }) = model.value(value).ty.clone() else { return };
    let mut tensor = tensor;
    if let Some(first) = tensor.shape.as_mut().and_then(|shape| shape.first_mut()) {
        *first = Dim { size: Size::Symbol("batch".into()), ..first.clone() };
    }
    model.set_type(value, Some(Type { kind: TypeKind::Tensor(tensor), denotation }));
}

/// The sizes of a Reshape of a tensor that begins with `rows`, or a multiple of it, for any other number in their place;
/// none if they cannot say it.
fn open_sizes(sizes: &[i64], before: &[usize], rows: usize) -> Option<Vec<i64>> {
    let (Some(&first), Some(&axis)) = (sizes.first(), before.first()) else { return Some(sizes.to_vec()) };
    let mut open = sizes.to_vec();
    let Some(first) = usize::try_from(first).ok().filter(|&first| first > 0) else { return Some(open) };
    if !axis.is_multiple_of(rows) || !first.is_multiple_of(rows) {
        return Some(open);
    }
    if first == axis {
        open[0] = 0;
        return Some(open);
    }
    match sizes.contains(&-1) {
        true => None,
        false => {
            open[0] = -1;
            Some(open)
        }
    }
}

/// Whether both give the same for the first row of all and the last one, which one run of `open` takes together.
fn gives_the_same(model: &Model, open: &Model, samples: &[Vec<Tensor>]) -> Option<bool> {
    let (whole, open) = (Runner::new(model).ok()?, Runner::new(open).ok()?);
    let (first, last) = (samples.first()?, samples.last()?);
    let both = std::iter::zip(first, last).map(|(first, last)| stacked(&[&row(first, 0)?, &last_row(last)?]).ok());
    let found = open.run(&both.collect::<Option<Vec<Tensor>>>()?).ok()?;
    let expected = [whole.run(first).ok()?, whole.run(last).ok()?];
    for (found, (first, last)) in found.iter().zip(std::iter::zip(&expected[0], &expected[1])) {
        if !is_near(&row(found, 0)?, &row(first, 0)?) || !is_near(&last_row(found)?, &last_row(last)?) {
            return Some(false);
        }
    }
    Some(true)
}

/// One index of the first axis, which stays.
fn row(tensor: &Tensor, index: usize) -> Option<Tensor> {
    rows(tensor, index..index + 1)
}

fn last_row(tensor: &Tensor) -> Option<Tensor> {
    row(tensor, tensor.shape().first()?.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(nodes: &str) -> Model {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\" : 18]>
            fixed (float[2,3,4] x) => (float[2,6] y)
            <int64[2] flat = {{2, 12}}, int64[2] rows = {{6, 4}}, int64[2] back = {{2, 6}}, int64[1] zero = {{0}},
             float[4,2] w = {{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}}>
            {{ {nodes} }}"
        );
        Model::parse(&text).unwrap()
    }

    fn samples() -> Vec<Vec<Tensor>> {
        let sample = |seed: usize| {
            let elements = (0..24).map(|i| ((i * 7 + seed * 5) % 11) as f32 / 8.0).collect::<Vec<f32>>();
            vec![Tensor::from_vec(vec![2, 3, 4], elements)]
        };
        vec![sample(0), sample(1)]
    }

    #[test]
    fn sizes_that_count_the_batch_are_opened() {
        let fixed = model("r = Reshape (x, rows) p = MatMul (r, w) y = Reshape (p, back)");
        let open = open_batch(&fixed, &samples()).unwrap();
        let x = Tensor::from_vec(vec![3, 3, 4], vec![0.5f32; 36]);
        assert_eq!(Runner::new(&open).unwrap().run(&[x]).unwrap()[0].shape(), [3, 6]);
    }

    #[test]
    fn a_model_that_mixes_samples_stays_as_it_is() {
        let mixing = model(
            "m = ReduceMean <keepdims = 1> (x, zero) d = Sub (x, m) r = Reshape (d, rows) p = MatMul (r, w)
             y = Reshape (p, back)",
        );
        assert!(open_batch(&mixing, &samples()).is_none());
    }
}
