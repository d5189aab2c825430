//! Inferred types and shapes against those that the official operator tests declare for their results.

#[path = "onnx/corpus.rs"]
#[allow(dead_code, reason = "other tests use the other corpora")]
mod corpus;

use onnxshrink::analysis::Shapes;
use onnxshrink::ir::{Model, Size, Type, Value, ValueDef, ValueId};
use onnxshrink::onnx;

/// The model without what it declares of its results, and those declarations.
fn forget_results(model: &mut Model) -> Vec<(ValueId, Option<Type>)> {
    let computed = |(id, value): (_, &Value)| match value.def {
        ValueDef::Node(_) => Some((id, value.ty.clone())),
        _ => None,
    };
    let declared: Vec<_> = model.all_values().filter_map(computed).collect();
    declared.iter().for_each(|&(id, _)| model.set_type(id, None));
    declared
}

#[test]
fn inferred_types_and_shapes_agree_with_the_declared_ones() {
    let (mut results, mut typed, mut shaped, mut wrong) = (0, 0, 0, Vec::new());
    for path in [corpus::node_tests(), corpus::other_official_tests(), corpus::light_models()].concat() {
        let Ok(loaded) = onnx::read(&path) else { continue };
        let mut model = loaded.model;
        let declared = forget_results(&mut model);
        let shapes = Shapes::infer(&model);
        for (id, ty) in declared {
            let Some(tensor) = ty.as_ref().and_then(Type::as_tensor) else { continue };
            results += 1;
            let dims = tensor.shape.as_ref().and_then(|dims| {
                dims.iter()
                    .map(|dim| match dim.size {
                        Size::Fixed(n) => usize::try_from(n).ok(),
                        _ => None,
                    })
                    .collect::<Option<Vec<_>>>()
            });
            let dtype = shapes.dtype(id);
            typed += usize::from(dtype.is_some());
            let fixed = shapes.fixed(id);
            shaped += usize::from(fixed.is_some());
            let other_type = dtype.is_some() && dtype != tensor.dtype;
            if other_type || (dims.is_some() && fixed.is_some() && fixed != dims) {
                wrong.push(format!("{}: {dtype:?}{fixed:?}, declared {tensor:?}", path.display()));
            }
        }
    }
    println!("{results} results: {typed} types and {shaped} fixed shapes inferred");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn operators_in_an_old_form_and_expansions_to_fewer_axes_are_left_open() {
    let text = r#"
        <ir_version: 4, opset_import: ["": 11]>
        old (float[1,2,1] x, int64[1] to) => (y, z) {
            y = Squeeze <axes = [0]> (x)
            z = Expand (x, to)
        }"#;
    let model = Model::parse(text).expect("the text is a model");
    let shapes = Shapes::infer(&model);
    for &output in &model.graph(model.main).outputs {
        assert_eq!(shapes.fixed(output), None, "{}", model.value(output).name);
    }
}
