//! Weights of a network before it was trained, put back into the network after: what is pruned by the trained weights then
//! learns from the old start (Frankle and Carbin, 2019).

use std::collections::HashMap;
use std::path::Path;

use globset::GlobSet;

use crate::ir::{Model, Tensor, ValueDef, ValueId};
use crate::onnx;
use crate::pass::PassError;
use crate::train::weights::{separate, weights};

/// `model`, whose weights are all initializers, with the constants that the model in `file` has in their places: those of the same
/// name. Also returns how many there are.
///
/// # Errors
/// If a weight of `model` is not in the file, or has another type or shape there.
pub fn rewound(model: &Model, file: &Path) -> Result<(Model, usize), PassError> {
    let failed = |why: String| PassError(format!("`rewind`: {why}"));
    let mut start = onnx::read(file).map_err(|error| failed(error.to_string()))?.model;
    separate(&mut start);
    let mut known: HashMap<&str, &Tensor> = HashMap::new();
    for (_, value) in start.all_values() {
        if let ValueDef::Constant(tensor) = &value.def {
            known.entry(&value.name).or_insert(tensor);
        }
    }
    let same = |value: ValueId| {
        let tensor = model.constant(value)?;
        let same = |start: &&&Tensor| start.dtype() == tensor.dtype() && start.shape() == tensor.shape();
        known.get(model.value(value).name.as_str()).filter(same).map(|start| (*start).clone())
    };
    for weight in weights(model, &GlobSet::empty()) {
        if same(weight.value).is_none() {
            let (name, shape) = (&model.value(weight.value).name, model.constant(weight.value).map(Tensor::shape));
            return Err(failed(format!(
                "`{}` has no weight `{name}` of the shape {:?}; it is to be the same network before training, and `cleanup`, which \
                 merges weights, is to come after this pass",
                file.display(),
                shape.unwrap_or_default()
            )));
        }
    }
    let floats =
        model.all_values().filter(|(_, value)| matches!(&value.def, ValueDef::Constant(t) if t.dtype().is_float()));
    let found: Vec<(ValueId, Tensor)> = floats.filter_map(|(value, _)| Some((value, same(value)?))).collect();
    let (mut first, count) = (model.clone(), found.len());
    for (value, tensor) in found {
        first.set_constant(value, tensor);
    }
    Ok((first, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::{Context, Pipeline};
    use crate::passes;

    fn network(a: &str, b: &str) -> Model {
        let text = format!(
            r#"<ir_version: 10, opset_import: ["": 21]>
            net (float[N,2] x) => (float[N,2] y)
            <float[2,4] a = {{{a}}}, float[4,2] b = {{{b}}}>
            {{
                h = MatMul (x, a)
                r = Relu (h)
                y = MatMul (r, b)
            }}"#
        );
        Model::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The third neuron is small.
    fn trained() -> Model {
        network("1, 2, 0.1, -1, 1, -1, 0.1, 2", "1, 2, 3, -1, 0.1, -0.1, 2, 2")
    }

    fn ran(pipeline: &str) -> Result<Model, String> {
        let mut model = trained();
        let pipeline = Pipeline::parse(pipeline, passes::ALL).map_err(|error| error.to_string())?;
        pipeline.run(&mut model, &mut Context::default()).map_err(|error| error.to_string())?;
        Ok(model)
    }

    fn constants(model: &Model) -> Vec<Vec<f32>> {
        let constants = model.initializers_of(model.main).filter_map(|value| model.constant(value));
        constants.map(|tensor| tensor.floats().unwrap().into_owned()).collect()
    }

    #[test]
    fn what_is_left_starts_again_from_the_weights_before_training() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("init.onnx");
        onnx::write(&network("10, 20, 30, 40, 50, 60, 70, 80", "1, 2, 3, 4, 5, 6, 7, 8"), &file, &Default::default())
            .unwrap();
        let file = file.display();
        let cut = ran(&format!("prune(channels=0.25,criterion=l2,rewind=\"{file}\")")).unwrap();
        assert_eq!(constants(&cut), [vec![10.0, 20.0, 40.0, 50.0, 60.0, 80.0], vec![1.0, 2.0, 3.0, 4.0, 7.0, 8.0]]);
        let sparse = ran(&format!("sparsify(sparsity=0.25,rewind=\"{file}\")")).unwrap();
        let expected =
            [vec![10.0, 20.0, 0.0, 40.0, 50.0, 60.0, 0.0, 80.0], vec![1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 7.0, 8.0]];
        assert_eq!(constants(&sparse), expected);
    }

    #[test]
    fn another_network_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("init.onnx");
        let mut other = network("10, 20, 30, 40, 50, 60, 70, 80", "1, 2, 3, 4, 5, 6, 7, 8");
        let weight = other.initializers_of(other.main).nth(1).unwrap();
        other.rename(weight, "c");
        onnx::write(&other, &file, &Default::default()).unwrap();
        let refused = ran(&format!("sparsify(sparsity=0.25,rewind=\"{}\")", file.display())).unwrap_err();
        assert!(refused.contains("has no weight `b` of the shape [4, 2]"), "{refused}");
        let refused = ran("prune(channels=0.25,rewind=\"/nowhere.onnx\")").unwrap_err();
        assert!(refused.contains("`rewind`: ") && refused.contains("/nowhere.onnx"), "{refused}");
        let refused = ran("prune(channels=0.25,rewind=a,reconstruct=true)").unwrap_err();
        assert!(refused.contains("`criterion=obs` and `vocabulary` are for trained ones"), "{refused}");
    }
}
