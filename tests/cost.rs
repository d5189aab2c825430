//! What the zoo costs, as an independent count has it: each model run in ONNX Runtime with all values as outputs, and
//! multiply-accumulates counted over their shapes.

#[path = "onnx/corpus.rs"]
#[allow(dead_code, reason = "other tests use the other corpora")]
mod corpus;

use onnxshrink::analysis::{Cost, FixedSizes, Shapes};
use onnxshrink::onnx;

#[test]
fn the_zoo_costs_what_an_independent_count_says() {
    let counted: [(&str, &[&str], u64, u64); 6] = [
        ("efficientnet_lite0", &["batch=1"], 385_187_552, 4_631_290),
        ("mnist_resdw", &["batch=1"], 10_973_504, 103_196),
        ("ppocr_cls", &["x=1,3,48,192"], 16_315_376, 133_777),
        ("ppocr_rec", &["x=1,3,48,320"], 702_469_440, 2_690_407),
        ("minilm_spam", &["batch=1", "seq=128"], 1_434_452_736, 22_567_341),
        ("spam_tf", &["batch=1"], 17_694_912, 552_438),
    ];
    for path in corpus::zoo() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let Some((_, sizes, macs, parameters)) = counted.iter().find(|(model, ..)| *model == name) else { continue };
        let model = onnx::read(&path).expect("the zoo is read").model;
        let sizes = FixedSizes::parse(&model, sizes).expect("these inputs exist");
        let cost = Cost::of(&model, &Shapes::infer_with(&model, &sizes));
        assert_eq!((cost.macs, cost.parameters), (*macs, *parameters), "{name}");
        assert!(cost.taken_as_one.is_empty() && cost.layers.iter().all(|layer| layer.macs.is_some()), "{name}");
    }
}
