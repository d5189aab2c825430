//! Weights in integers, as layers read them.

use crate::ir::{Model, NodeId};
use crate::runtime::dequantized;

/// `model` with the numbers that its nodes of DequantizeLinear make of constants in place of them. Values stay what they were,
/// so that the channels of `model` are those of the result.
pub fn in_floats(model: &Model) -> Model {
    let mut floats = model.clone();
    let nodes: Vec<NodeId> = model.nodes_of(model.main).collect();
    for node in nodes {
        if let (Some(tensor), [Some(result)]) = (dequantized(model, node), &model.node(node).outputs[..]) {
            floats.define_constant(*result, tensor);
        }
    }
    floats
}

#[cfg(test)]
mod tests {
    use crate::analysis::FixedSizes;
    use crate::data::synthesize;
    use crate::ir::{DType, Model, Tensor};
    use crate::pass::{Context, Pipeline};
    use crate::passes;
    use crate::runtime::Runner;

    /// Channels 1 and 3 of five are small wherever they are looked at.
    const NETWORK: &str = r#"
        <ir_version: 10, opset_import: ["": 21]>
        network (float[N,2,3,3] x) => (float[N,2] y)
        <
            float[5,2,1,1] a = {1, 2, 0.1, 0.2, -2, 1, 0.1, -0.1, 1.5, -1},
            float[5] bias = {0.1, -2, -0.1, -2, 0.2},
            float[5,2] b = {1, -1, 0.1, 0.2, 2, 1, 0.1, 0.2, -1, 2}
        >
        {
            p = Conv (x, a, bias)
            r = Relu (p)
            g = GlobalAveragePool (r)
            f = Flatten (g)
            y = MatMul (f, b)
        }"#;

    fn shrunk(passes: &str) -> (Model, Context) {
        let mut model = Model::parse(NETWORK).unwrap_or_else(|error| panic!("{error}"));
        let data = synthesize(&model, &FixedSizes::default(), 5, 24, |_| Ok(())).expect("inputs can be made up");
        let mut cx = Context { data: Some(data), ..Context::default() };
        let pipeline = Pipeline::parse(passes, passes::ALL).unwrap_or_else(|error| panic!("{error}"));
        pipeline.run(&mut model, &mut cx).unwrap_or_else(|error| panic!("{error}"));
        model.verify().unwrap();
        (model, cx)
    }

    /// Constants of int8 with more than one axis.
    fn weights(model: &Model) -> Vec<Tensor> {
        let constants = model.all_values().filter_map(|(value, _)| model.constant(value));
        constants.filter(|tensor| tensor.dtype() == DType::I8 && tensor.rank() > 1).cloned().collect()
    }

    #[test]
    fn criteria_see_the_numbers_that_integers_stand_for() {
        let quantize =
            "quantize(mode=static,arithmetic=int8,rounding=nearest,bias-correction=none,min-elements=4,target=generic)";
        let whole = weights(&shrunk(quantize).0);
        let [a, b] = &whole[..] else { panic!("{whole:?}") };
        for criterion in ["l1", "l2", "activation", "taylor", "fisher", "obs"] {
            let (small, cx) = shrunk(&format!("{quantize},prune(channels=0.4,criterion={criterion})"));
            let kept = |tensor: &Tensor| {
                let rows: Vec<u8> =
                    [0, 2, 4].iter().flat_map(|row| tensor.bytes().unwrap()[2 * row..][..2].to_vec()).collect();
                rows
            };
            let found: Vec<Vec<u8>> = weights(&small).iter().map(|tensor| tensor.bytes().unwrap().to_vec()).collect();
            assert_eq!(found, [kept(a), kept(b)], "{criterion}");
            let outputs = Runner::new(&small).unwrap().run(&cx.data.unwrap().sample(0)).unwrap();
            assert_eq!(outputs[0].shape(), [1, 2]);
        }
    }
}
