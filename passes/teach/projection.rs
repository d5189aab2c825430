//! From the student's width to the teacher's: an affine map along the channels, which is learned with a hint.
//!
//! It starts as the one that fits best to what the student gives already. From a random one, a student that was cut out of its
//! teacher would first be pulled away from what it knows.

use ndarray::{Array2, ArrayViewD, Axis};

use super::failed;
use super::lessons::ASKED_TOGETHER;
use crate::ir::op::{Add, Conv, MatMul};
use crate::ir::{Model, Tensor, ValueId};
use crate::pass::PassError;
use crate::passes::least_squares::{Evidence, fit};
use crate::runtime::samples_of_an_answer;
use crate::train::Weight;
use crate::train::lessons::{Answer, ask};

/// Samples that projections are fitted to at most.
const SAMPLES: usize = 64;

pub(super) struct Projection {
    /// What is projected, and its axis of channels: 1 of images, the last of others.
    x: ValueId,
    axis: usize,
    /// `[to, from, 1, 1]` for images, `[from, to]` for others.
    weight: ValueId,
    bias: ValueId,
    /// The place of its hint among all.
    hint: usize,
}

impl Projection {
    /// Of zeros, until it is fitted. Returns what it gives, too.
    pub fn append(
        model: &mut Model,
        x: ValueId,
        axis: usize,
        [from, to]: [usize; 2],
        is_image: bool,
        hint: usize,
    ) -> (Projection, ValueId) {
        let main = model.main;
        let shape = if is_image { vec![to, from, 1, 1] } else { vec![from, to] };
        let weight = model.add_constant(main, "hint.projection", Tensor::from_vec(shape, vec![0f32; from * to]));
        let bias = model.add_constant(main, "hint.bias", Tensor::from_vec(vec![to], vec![0f32; to]));
        let value = if is_image {
            let conv = Conv {
                x,
                w: weight,
                b: Some(bias),
                auto_pad: "NOTSET".into(),
                dilations: vec![],
                group: 1,
                kernel_shape: vec![],
                pads: vec![],
                strides: vec![],
            };
            model.append(main, "hint.projected", conv)
        } else {
            let product = model.append(main, "hint.product", MatMul { a: x, b: weight });
            model.append(main, "hint.projected", Add { a: product, b: bias })
        };
        (Projection { x, axis, weight, bias, hint }, value)
    }

    pub fn weights(&self) -> [Weight; 2] {
        [Weight { value: self.weight, decays: true }, Weight { value: self.bias, decays: false }]
    }

    /// By least squares: what each gives on some of the samples `learned` of `inputs` comes near to what is `wanted` of its hint.
    pub fn fit(
        projections: &[Projection],
        model: &mut Model,
        inputs: &[Vec<Tensor>],
        learned: &[usize],
        wanted: &[Answer],
    ) -> Result<(), PassError> {
        let Some(&first) = learned.first().filter(|_| !projections.is_empty()) else { return Ok(()) };
        let samples: Vec<usize> = learned.iter().copied().step_by(learned.len().div_ceil(SAMPLES)).collect();
        let values: Vec<ValueId> = projections.iter().map(|projection| projection.x).collect();
        let together = samples_of_an_answer(model, &inputs[first]).min(ASKED_TOGETHER);
        let of = |index: usize| inputs[samples[index]].clone();
        let given = ask(model, &values, together, samples.len(), of).map_err(failed)?;
        for (projection, given) in projections.iter().zip(&given) {
            let wanted = &wanted[projection.hint];
            let evidence = samples.iter().enumerate().map(|(place, &sample)| Evidence {
                rows: rows(given, place, projection.axis).insert_axis(Axis(0)),
                errors: rows(wanted, sample, projection.axis),
            });
            let change = fit(&evidence.collect::<Vec<_>>());
            let shape = model.constant(projection.weight).expect("it was added").shape().to_vec();
            let weights = if shape.len() == 2 { change.weights.t() } else { change.weights.view() };
            let weights: Vec<f32> = weights.iter().copied().collect();
            model.set_constant(projection.weight, Tensor::from_vec(shape, weights));
            model.set_constant(projection.bias, Tensor::from_vec(vec![change.bias.len()], change.bias));
        }
        Ok(())
    }
}

/// What is answered for one sample, with the channels of each place as a row.
fn rows(answer: &Answer, sample: usize, axis: usize) -> Array2<f32> {
    let size: usize = answer.shape.iter().product();
    let elements = &answer.elements[sample * size..][..size];
    let view = ArrayViewD::from_shape(answer.shape.clone(), elements).expect("a sample has so many elements");
    let mut axes: Vec<usize> = (0..answer.shape.len()).filter(|&other| other != axis).collect();
    axes.push(axis);
    let width = answer.shape[axis];
    let elements: Vec<f32> = view.permuted_axes(axes).iter().copied().collect();
    Array2::from_shape_vec((size / width.max(1), width), elements).expect("rows have so many channels")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Random;
    use crate::runtime::Runner;

    fn random(count: usize, random: &mut Random) -> Vec<f32> {
        (0..count).map(|_| random.normal()).collect()
    }

    /// Fits a projection of `x`, of this shape, to an affine map of it, and returns the most that it is off on all samples.
    fn worst(shape: &[usize], axis: usize, count: usize) -> f32 {
        let sizes = shape.iter().map(|size| size.to_string()).collect::<Vec<_>>().join(",");
        let text = format!(
            "<ir_version: 10, opset_import: [\"\": 21]> net (float[{sizes}] x) => (float[{sizes}] y) {{ y = Tanh (x) }}"
        );
        let mut model = Model::parse(&text).unwrap_or_else(|error| panic!("{error}"));
        let y = model.graph(model.main).outputs[0];
        let mut source = Random::new(3, 0);
        let to = 5;
        let map = Array2::from_shape_vec((to, shape[axis]), random(to * shape[axis], &mut source)).unwrap();
        let offset = random(to, &mut source);
        let inputs: Vec<Vec<Tensor>> = (0..count)
            .map(|_| vec![Tensor::from_vec(shape.to_vec(), random(shape.iter().product(), &mut source))])
            .collect();
        let given = ask(&model, &[y], 1, count, |index| inputs[index].clone()).unwrap().remove(0);

        let (is_image, widths) = (shape.len() == 4, [shape[axis], to]);
        let (projection, value) = Projection::append(&mut model, y, axis, widths, is_image, 0);
        let wanted = |sample: usize| rows(&given, sample, axis).dot(&map.t()) + ndarray::aview1(&offset);
        // Channels are written behind the places that they are of: those of images, which are few here, are turned.
        let mut target = shape.to_vec();
        target[axis] = to;
        let turned = |rows: Array2<f32>| -> Vec<f32> {
            if is_image { rows.t().iter().copied().collect() } else { rows.iter().copied().collect() }
        };
        let elements: Vec<f32> = (0..count).flat_map(|sample| turned(wanted(sample))).collect();
        let answer = Answer { shape: target, elements: elements.clone().into() };
        let learned: Vec<usize> = (0..count).collect();
        Projection::fit(&[projection], &mut model, &inputs, &learned, &[answer]).unwrap();

        let runner = Runner::with_outputs(&model, &[value]).unwrap();
        let run = |sample: &Vec<Tensor>| runner.run(sample).unwrap()[0].floats().unwrap().into_owned();
        let found: Vec<f32> = inputs.iter().flat_map(run).collect();
        assert_eq!(found.len(), elements.len());
        found.iter().zip(&elements).fold(0f32, |most, (a, b)| most.max((a - b).abs()))
    }

    #[test]
    fn what_is_wanted_is_met_where_it_is_an_affine_map_of_what_is_given() {
        for (shape, axis) in [(&[1, 12, 3][..], 2), (&[1, 3, 4, 4][..], 1), (&[1, 3][..], 1)] {
            let off = worst(shape, axis, 80);
            assert!(off < 0.02, "{shape:?}: {off}");
        }
    }

    #[test]
    fn one_sample_is_enough_to_begin_with() {
        assert!(worst(&[1, 12, 3], 2, 1).is_finite());
    }
}
