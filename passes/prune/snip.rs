//! How much connections matter before anything is learned: SNIP (Lee et al., 2019).
//!
//! A 0/1 mask c in front of each weight w has the derivative ∂L/∂c = w·∂L/∂w, where L is the loss by labels. A class has the sum
//! of |w·∂L/∂w| over the weights of layers that give or read it.

use super::criterion::{Subject, sums_along};
use super::gradients::{Sum, gradients};
use super::probe::Samples;
use super::weighed::Direction;
use crate::ir::{DType, Tensor, ValueId};
use crate::measure::Watch;
use crate::pass::PassError;

pub fn connections(subject: Subject, samples: &Samples) -> Result<Vec<f64>, PassError> {
    let Subject { model, channels, layers, seed, .. } = subject;
    let labels = samples.labels.as_ref().ok_or_else(|| PassError("its criterion needs labels (`y`)".into()))?;
    let mut values: Vec<ValueId> = layers.iter().map(|layer| layer.weight).collect();
    values.sort_unstable();
    values.dedup();
    values.retain(|&value| model.constant(value).is_some_and(|tensor| tensor.dtype() == DType::F32));
    let direction = Direction::Labels(labels);
    let means = gradients(model, &values, &samples.inputs, direction, seed, Sum::Signed, Watch::default())?;
    let mut scores = vec![0.0; channels.len()];
    for (value, mean) in values.into_iter().zip(means) {
        let tensor = model.constant(value).expect("weights are constants");
        let floats = tensor.floats().expect("they were looked at");
        let changes = floats.iter().zip(mean).map(|(w, g)| w * g).collect();
        let changes = Tensor::from_vec(tensor.shape().to_vec(), changes);
        for (axis, lane) in channels.axes(value).iter().enumerate() {
            let Some(lane) = *lane else { continue };
            for (class, sum) in channels.classes_of(lane).iter().zip(sums_along(&changes, axis, f64::abs)) {
                scores[class.index()] += sum;
            }
        }
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use crate::data::{Dataset, Random, write_npz};
    use crate::ir::{Model, Tensor};
    use crate::pass::{Context, Pipeline};
    use crate::passes;

    /// The second of four neurons is not read, and the loss does not depend on it.
    const NETWORK: &str = r#"
        <ir_version: 10, opset_import: ["": 21]>
        network (float[N,2] x) => (float[N,2] y)
        <
            float[2,4] a = {1, 3, -0.5, 0.25, 0.5, -2, 1, -0.75},
            float[4,2] b = {0.5, -1, 0, 0, 1, 0.25, -0.5, 1}
        >
        {
            h = MatMul (x, a)
            r = Tanh (h)
            z = MatMul (r, b)
            y = Softmax (z)
        }"#;

    fn pruned(labelled: bool) -> Result<Model, String> {
        let mut model = Model::parse(NETWORK).unwrap_or_else(|error| panic!("{error}"));
        let mut random = Random::new(1, 0);
        let x = Tensor::from_vec(vec![16, 2], (0..32).map(|_| random.normal()).collect());
        let y = Tensor::from_vec(vec![16], (0..16).map(|_| random.below(2) as i64).collect());
        let mut arrays = vec![("x".to_string(), x)];
        arrays.extend(labelled.then(|| ("y".to_string(), y)));
        let folder = tempfile::tempdir().unwrap();
        write_npz(&folder.path().join("x.npz"), &arrays).unwrap();
        let data = Dataset::open(&folder.path().join("x.npz"), &model).unwrap();
        let mut cx = Context { data: Some(data), ..Context::default() };
        let pipeline = Pipeline::parse("prune(channels=0.25,criterion=snip)", passes::ALL).unwrap();
        pipeline.run(&mut model, &mut cx).map_err(|error| error.to_string())?;
        Ok(model)
    }

    #[test]
    fn what_the_loss_does_not_depend_on_goes_first_however_large_its_weights_are() {
        let small = pruned(true).unwrap();
        let weights = small.initializers_of(small.main).filter_map(|value| small.constant(value));
        let weights: Vec<Vec<f32>> = weights.map(|tensor| tensor.floats().unwrap().into_owned()).collect();
        assert_eq!(weights, [vec![1.0, -0.5, 0.25, 0.5, 1.0, -0.75], vec![0.5, -1.0, 1.0, 0.25, -0.5, 1.0]]);
    }

    #[test]
    fn without_labels_there_is_no_loss() {
        let refused = pruned(false).unwrap_err();
        assert!(refused.contains("needs labels (`y`)"), "{refused}");
    }
}
