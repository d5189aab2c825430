//! What options of the pass do to small networks.

use super::*;
use crate::analysis::FixedSizes;
use crate::data::synthesize;
use crate::pass::Pipeline;
use crate::passes;
use crate::runtime::Runner;

/// Channels 1 and 3 of five are small wherever they are looked at.
const NETWORK: &str = r#"
    <ir_version: 10, opset_import: ["": 21]>
    network (float[N,2,3,3] x) => (float[N,2] y)
    <
        float[5,2,1,1] a = {1, 2, 0.01, 0.02, -2, 1, 0.01, -0.01, 1.5, -1},
        float[5] scale = {1, 0.1, 1.5, 0.1, 2},
        float[5] bias = {0.1, 0.01, -0.1, 0.01, 0.2},
        float[5] mean = {0, 0, 0, 0, 0},
        float[5] var = {1, 1, 1, 1, 1},
        float[5,2] b = {1, -1, 0.01, 0.02, 2, 1, 0.01, 0.02, -1, 2}
    >
    {
        p = Conv (x, a)
        n = BatchNormalization (p, scale, bias, mean, var)
        r = Sigmoid (n)
        g = GlobalAveragePool (r)
        f = Flatten (g)
        y = MatMul (f, b)
    }"#;

fn pruned(text: &str, options: &str) -> (Model, Context) {
    let mut model = Model::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let data = synthesize(&model, &FixedSizes::default(), 5, 24, |_| Ok(())).expect("inputs can be made up");
    let mut cx = Context { data: Some(data), ..Context::default() };
    let pipeline = Pipeline::parse(&format!("prune({options})"), passes::ALL).unwrap_or_else(|error| panic!("{error}"));
    pipeline.run(&mut model, &mut cx).unwrap_or_else(|error| panic!("{error}"));
    model.verify().unwrap();
    (model, cx)
}

fn constant<'m>(model: &'m Model, name: &str) -> &'m Tensor {
    let (value, _) = model.all_values().find(|(_, value)| value.name == name).expect("there is such a value");
    model.constant(value).expect("it is a constant")
}

#[test]
fn criteria_find_channels_that_do_little() {
    for criterion in ["l1", "l2", "batchnorm", "activation", "taylor", "fisher", "obs", "variational"] {
        let (model, _) = pruned(NETWORK, &format!("channels=0.4,criterion={criterion}"));
        assert_eq!(*constant(&model, "scale").floats().unwrap(), [1.0, 1.5, 2.0], "{criterion}");
    }
}

#[test]
fn the_median_finds_channels_that_others_can_stand_for() {
    let text = NETWORK.replace("0.01, 0.02, -2, 1, 0.01, -0.01, 1.5, -1", "1, 2, -2, 1, 1, 1.9, 1.5, -1");
    let (model, _) = pruned(&text, "channels=0.2,criterion=median");
    assert_eq!(constant(&model, "scale").len(), 4);
    assert!(constant(&model, "scale").floats().unwrap().contains(&2.0));
}

#[test]
fn random_channels_depend_on_the_seed_alone() {
    let cut = |seed: u64| {
        let mut model = Model::parse(NETWORK).unwrap();
        let mut cx = Context { seed, ..Context::default() };
        let pipeline = Pipeline::parse("prune(channels=0.4,criterion=random)", passes::ALL).unwrap();
        pipeline.run(&mut model, &mut cx).unwrap();
        constant(&model, "scale").floats().unwrap().into_owned()
    };
    assert_eq!(cut(1), cut(1));
    assert!((2..9).any(|seed| cut(seed) != cut(1)));
}

#[test]
fn what_a_layer_lost_is_made_up_for_where_another_channel_says_the_same() {
    // Channel 3 is channel 0 again; rounding apart, nothing is lost with it.
    let text = NETWORK
        .replace("0.01, -0.01, 1.5, -1", "1, 2, 1.5, -1")
        .replace("{1, 0.1, 1.5, 0.1, 2}", "{1, 0.1, 1.5, 1, 2}")
        .replace("{0.1, 0.01, -0.1, 0.01, 0.2}", "{0.1, 0.01, -0.1, 0.1, 0.2}")
        .replace("0.01, 0.02, -1, 2}", "0.5, 0.5, -1, 2}");
    let plain = error(&text, "channels=0.4,criterion=batchnorm");
    let learned = error(&text, "channels=0.4,criterion=batchnorm,reconstruct=true");
    assert!(learned < 0.2 * plain, "{learned} for {plain}");
}

/// How far the outputs of a pruned network are from those of the original: the sum of squares over all samples.
fn error(text: &str, options: &str) -> f64 {
    let original = Model::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let data = synthesize(&original, &FixedSizes::default(), 9, 24, |_| Ok(())).unwrap();
    let (small, _) = pruned(text, options);
    let [exact, small] = [&original, &small].map(|model| Runner::new(model).unwrap());
    let error = |index: usize| {
        let sample = data.sample(index);
        let [a, b] = [&exact, &small].map(|runner| runner.run(&sample).unwrap().remove(0));
        let pairs = a.floats().unwrap().into_owned().into_iter().zip(b.floats().unwrap().into_owned());
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    (0..data.len()).map(error).sum()
}

#[test]
fn a_depthwise_layer_makes_up_for_what_is_lost_before_it() {
    // Nothing else learns here: the transposed convolution that reads the cut channel stays as it is.
    let text = r#"
        <ir_version: 10, opset_import: ["": 21]>
        network (float[N,2,3,3] x) => (float[N,3,2,2] y)
        <
            float[4,2,1,1] a = {1, 2, 1, 1.8, -2, 1, 1.5, -1},
            float[4,3,1,1] b = {1, -1, 0.5, 0.5, 0.4, 0.3, 2, 1, -1, 1, 2, -1},
            float[3,1,2,2] depthwise = {1, 0.5, -0.5, 1, 1, 1, 0.5, 1, -1, 1, 1, 0.5}
        >
        {
            [first] p = Conv (x, a)
            s = Sigmoid (p)
            t = ConvTranspose (s, b)
            y = Conv <group = 3> (t, depthwise)
        }"#;
    let options = "channels=0.2,criterion=activation";
    let (plain, learned) = (error(text, options), error(text, &format!("{options},reconstruct=true")));
    assert!(learned < 0.5 * plain, "{learned} for {plain}");
    let (_, cx) = pruned(text, &format!("{options},reconstruct=true"));
    assert!(cx.reports[0].applied.contains_key("layer reconstructed"));
}

#[test]
fn a_block_makes_up_for_what_its_residual_stream_has_lost() {
    // Two layers share `b`, so that neither learns: what `h` lost is missing in `u`.
    let text = r#"
        <ir_version: 10, opset_import: ["": 21]>
        network (float[N,3] x) => (float[N,2] y, float[N,2] z)
        <
            float[3,4] a = {1, -1, 0.4, 0.3, 0.5, 2, 0.3, 0.4, -1, 1, 0.4, 0.2},
            float[4,2] b = {1, 0.5, -1, 1, 0.7, -0.6, 0.5, 0.9},
            float[2,2] c = {1, -0.5, 0.5, 1},
            float[2] bias = {0.1, 0.2}
        >
        {
            p = MatMul (x, a)
            h = Tanh (p)
            u = MatMul (h, b)
            square = Mul (h, h)
            z = MatMul (square, b)
            w = MatMul (u, c)
            v = Add (w, bias)
            y = Add (u, v)
        }"#;
    let options = "channels=0.25";
    let (plain, learned) = (error(text, options), error(text, &format!("{options},reconstruct=true")));
    assert!(learned < 0.85 * plain, "{learned} for {plain}");
}

#[test]
fn what_a_channel_saves_counts() {
    // All weights are alike: a neuron of the last pair saves 9 parameters, one of the first 4.
    let text = r#"
        <ir_version: 10, opset_import: ["": 21]>
        network (float[N,2] x) => (float[N,8] y)
        <float[2,6] a = ?1, float[6,2] b = ?2, float[2,6] c = ?3, float[6,8] d = ?4>
        { p = MatMul (x, a) q = Relu (p) r = MatMul (q, b) s = Softmax (r) t = MatMul (s, c) u = Relu (t) y = MatMul (u, d) }"#;
    let ones = |count: usize| format!("{{{}}}", vec!["1"; count].join(","));
    let text = [("?1", 12), ("?2", 12), ("?3", 12), ("?4", 48)]
        .into_iter()
        .fold(text.to_string(), |text, (mark, count)| text.replace(mark, &ones(count)));
    let (model, _) = pruned(&text, "parameters=0.2");
    assert_eq!((constant(&model, "a").len(), constant(&model, "c").len()), (12, 8));
    // But the less a layer has left, the more it loses.
    let (model, _) = pruned(&text, "parameters=0.55");
    assert!(constant(&model, "a").len() < 12 && constant(&model, "c").len() > 2);
}

#[test]
fn weights_are_seen_as_large_as_their_normalization_makes_them() {
    // The channel of the smallest weights is scaled up most.
    let text = NETWORK
        .replace("0.01, 0.02, -2, 1, 0.01, -0.01, 1.5, -1", "0.1, 0.2, -2, 1, 1, 1, 1.5, -1")
        .replace("{1, 0.1, 1.5, 0.1, 2}", "{1, 20, 1.5, 0.01, 2}")
        .replace("0.01, 0.02, 2, 1, 0.01, 0.02, -1, 2}", "1, 1, 2, 1, 1, 1, -1, 2}");
    let (model, _) = pruned(&text, "channels=0.2");
    assert_eq!(*constant(&model, "scale").floats().unwrap(), [1.0, 20.0, 1.5, 2.0]);
}

#[test]
fn amounts_are_shares_and_one_is_given() {
    let refused =
        |options: &str| Pipeline::parse(&format!("prune({options})"), passes::ALL).err().map(|e| e.to_string());
    for options in
        ["", "channels=0.3,macs=0.5", "channels=0", "macs=1", "channels=0.3,minimum=0", "channels=0.3,round-to=0"]
    {
        assert!(refused(options).is_some(), "{options}");
    }
    assert_eq!(refused("bytes=0.5,criterion=fisher,samples=8"), None);
}

#[test]
fn as_much_is_cut_as_is_asked_for() {
    let before = Cost::of(&Model::parse(NETWORK).unwrap(), &Shapes::infer(&Model::parse(NETWORK).unwrap()));
    let after = |options: &str| {
        let (model, _) = pruned(NETWORK, options);
        Cost::of(&model, &Shapes::infer(&model))
    };
    assert!(after("macs=0.5").macs * 2 <= before.macs);
    assert!(after("parameters=0.3").parameters as f64 <= 0.7 * before.parameters as f64);
    assert!(after("bytes=0.3").weight_bytes as f64 <= 0.7 * before.weight_bytes as f64);
    let rounded = after("channels=0.5,round-to=2");
    assert_eq!(rounded.parameters, 2 * 2 + 4 * 2 + 2 * 2);
}
