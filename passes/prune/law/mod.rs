//! The law of pruning: a model behind a cut gives what the model gave with the cut channels at 0 behind each operator.

mod quantized;
mod recurrent;
mod zoo;

use super::Reach;
use super::cut::Cut;
use super::layer::{Layer, layers};
use super::mask::masked;
use super::own::untie;
use super::quantized::in_floats;
use super::select::{Amount, Groups, Rules};
use crate::analysis::channels::{Channels, Class};
use crate::analysis::{FixedSizes, Shapes};
use crate::data::{Random, synthesize};
use crate::ir::{Model, Tensor};
use crate::pass::{Context, Pipeline};
use crate::passes;
use crate::runtime::{Execution, Runner};

/// What outputs may differ by, as a part of their range.
const TOLERANCE: f64 = 1e-4;

/// A model that is as a pass sees it.
struct Subject {
    model: Model,
    shapes: Shapes,
    channels: Channels,
}

impl Subject {
    fn new(mut model: Model) -> Subject {
        let upgrade = Pipeline::parse("upgrade-opset", passes::ALL).expect("there is such a pass");
        upgrade.run(&mut model, &mut Context::default()).expect("it is raised");
        untie(&mut model);
        let shapes = Shapes::infer(&model);
        let channels = Channels::of(&model, &shapes);
        Subject { model, shapes, channels }
    }

    fn parse(text: &str) -> Subject {
        Subject::new(Model::parse(text).unwrap_or_else(|error| panic!("{error}")))
    }

    fn layers(&self) -> Vec<Layer> {
        layers(&in_floats(&self.model), &self.channels)
    }

    fn groups(&self) -> Groups {
        Groups::new(&self.model, &self.channels, &self.layers(), |_| true)
    }

    /// Some classes, at random.
    fn some(&self, seed: u64, share: f64) -> Vec<bool> {
        let mut order: Vec<Class> = self.groups().members.concat();
        let places = Random::new(seed, 0).permutation(order.len());
        order = places.into_iter().map(|place| order[place]).collect();
        let rules = Rules { minimum: 1, multiple: 1 };
        self.groups().select(&self.model, &self.channels, &self.shapes, &order, Amount::Channels(share), rules)
    }

    /// The model behind a cut, and the one that it must be like.
    fn both(&self, removed: &[bool]) -> (Model, Model) {
        let cut = Cut::new(&self.channels, &self.shapes, removed);
        let mut small = self.model.clone();
        cut.apply(&mut small);
        small.verify().unwrap_or_else(|error| panic!("{error}"));
        let masked = masked(&self.model, &cut);
        masked.verify().unwrap_or_else(|error| panic!("{error}"));
        (small, masked)
    }

    fn hold(&self, removed: &[bool], inputs: &[Vec<Tensor>]) {
        let (small, masked) = self.both(removed);
        let error = distance(&masked, &small, inputs);
        assert!(error <= TOLERANCE, "off by {error:e} of the range");
    }

    fn inputs(&self, sizes: &FixedSizes) -> Vec<Vec<Tensor>> {
        let data = synthesize(&self.model, sizes, 7, 1, |_| Ok(())).unwrap_or_else(|error| panic!("{error}"));
        (0..data.len()).map(|index| data.sample(index)).collect()
    }

    /// Many random cuts of a small model.
    fn hold_at_random(&self, free: usize) {
        let found = self.channels.free().count();
        assert_eq!(found, free, "classes that can be cut");
        let inputs = self.inputs(&FixedSizes::default());
        let mut cuts = 0;
        for seed in 0..20 {
            let share = [0.2, 0.5, 0.8][seed as usize % 3];
            let removed = self.some(seed, share);
            if removed.iter().any(|&removed| removed) {
                cuts += 1;
                self.hold(&removed, &inputs);
            }
        }
        assert!(cuts >= 10, "{cuts} of 20 cuts take something");
    }
}

/// The most that outputs of `small` are off from those of `masked`, as a part of their range.
fn distance(masked: &Model, small: &Model, inputs: &[Vec<Tensor>]) -> f64 {
    let runner = |model: &Model| {
        Runner::with(model, &model.graph(model.main).outputs, &Execution::float())
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let (small, masked) = (runner(small), runner(masked));
    let mut most = 0f64;
    for input in inputs {
        let wanted = masked.run(input).unwrap_or_else(|error| panic!("masked: {error}"));
        let found = small.run(input).unwrap_or_else(|error| panic!("cut: {error}"));
        for (wanted, found) in wanted.iter().zip(&found) {
            assert_eq!(wanted.shape(), found.shape());
            let (Some(wanted), Some(found)) = (wanted.floats(), found.floats()) else {
                assert!(wanted.same_data(found));
                continue;
            };
            let [low, high] = wanted.iter().fold([0f32; 2], |[low, high], &x| [low.min(x), high.max(x)]);
            let range = f64::from(high - low).max(f64::MIN_POSITIVE);
            let errors = wanted.iter().zip(found.iter()).map(|(&a, &b)| f64::from((a - b).abs()));
            // A number that is none is off without bound.
            most = errors.fold(most, |most, error| if error / range <= most { most } else { error / range });
            assert!(!most.is_nan(), "an output is no number");
        }
    }
    most
}

/// A model of opset 21 with these inputs and what stands in `body`; a weight `= ?` gets random numbers.
fn written(input: &str, weights: &str, body: &str, output: &str) -> Subject {
    written_in(21, input, weights, body, output)
}

fn written_in(opset: usize, input: &str, weights: &str, body: &str, output: &str) -> Subject {
    let mut random = Random::new(3, 0);
    let mut filled = String::new();
    for weight in weights.split(';').map(str::trim).filter(|weight| !weight.is_empty()) {
        let separator = if filled.is_empty() { "" } else { ", " };
        let Some(declared) = weight.strip_suffix("= ?") else {
            filled += &format!("{separator}{weight}");
            continue;
        };
        let dims = declared.split(['[', ']']).nth(1).expect("a weight has a shape");
        let count: usize = dims.split(',').map(|n| n.trim().parse::<usize>().expect("a length")).product();
        let mut number = || match declared.starts_with("int8[") || declared.starts_with("int32[") {
            true => format!("{}", random.below(201) as i64 - 100),
            false => format!("{:.4}", 0.6 * random.normal() + 0.05),
        };
        let numbers: Vec<String> = (0..count).map(|_| number()).collect();
        filled += &format!("{separator}{declared} = {{{}}}", numbers.join(","));
    }
    let text = format!(
        "<ir_version: 10, opset_import: [\"\": {opset}]>\nnet ({input}) => ({output})\n<{filled}>\n{{\n{body}\n}}"
    );
    Subject::parse(&text)
}

#[test]
fn activations_that_are_not_zero_at_zero_are_cut_with_their_channel() {
    let net = written(
        "float[N,3,6,6] x",
        "float[8,3,3,3] a = ?; float[8] b = ?; float[5,8,1,1] c = ?; float[5] d = ?; float[2,5,1,1] e = ?",
        "p = Conv (x, a, b)
         q = Sigmoid (p)
         r = Conv (q, c, d)
         s = Exp (r)
         y = Conv (s, e)",
        "float[N,2,4,4] y",
    );
    net.hold_at_random(13);
}

#[test]
fn residual_streams_and_branches_that_are_joined_keep_the_law() {
    let net = written(
        "float[N,3,6,6] x",
        "float[8,3,3,3] a = ?; float[8,8,1,1] b = ?; float[8] g = ?; float[8] h = ?; float[8] m = ?;
         float[8] v = {1,2,1,0.5,1,1,2,1}; float[4,8,1,1] c = ?; float[2,12,1,1] e = ?; float[2] f = ?",
        "p = Conv (x, a)
         q = Relu (p)
         r = Conv (q, b)
         n = BatchNormalization (r, g, h, m, v)
         s = Add (n, q)
         t = Conv (s, c)
         u = Concat <axis = 1> (t, s)
         y = Conv (u, e, f)",
        "float[N,2,4,4] y",
    );
    net.hold_at_random(12);
}

#[test]
fn groups_lose_channels_alike_or_go_whole() {
    let net = written(
        "float[N,3,6,6] x",
        "float[8,3,1,1] a = ?; float[8,1,3,3] depthwise = ?; float[16,1,3,3] twice = ?; float[12,4,1,1] grouped = ?;
         float[12] b = ?; float[2,12,1,1] e = ?",
        "p = Conv (x, a)
         q = Conv <group = 8> (p, depthwise)
         r = Conv <group = 8> (q, twice)
         s = Conv <group = 4> (r, grouped, b)
         t = Tanh (s)
         y = Conv (t, e)",
        "float[N,2,2,2] y",
    );
    // Four inputs and three outputs of a group; pairs of channels of `twice` belong to one of `p`.
    net.hold_at_random(5);
}

#[test]
fn transposed_convolutions_keep_the_law() {
    let net = written(
        "float[N,3,5] x",
        "float[3,8,2] a = ?; float[8] b = ?; float[8,1,2] depthwise = ?; float[8,3,1] grouped = ?; float[6,2,2] e = ?",
        "p = ConvTranspose (x, a, b)
         q = ConvTranspose <group = 8> (p, depthwise)
         r = ConvTranspose <group = 2> (q, grouped)
         s = Sigmoid (r)
         y = ConvTranspose <strides = [2]> (s, e)",
        "float[N,2,16] y",
    );
    net.hold_at_random(7);
}

#[test]
fn shuffled_channels_keep_the_law() {
    let net = written(
        "float[N,3,4,4] x",
        "float[12,3,1,1] a = ?; float[12,6,1,1] grouped = ?; int64[5] split = {0,2,6,4,4}; int64[4] whole = {-1,12,4,4};
         float[12,6,1,1] second = ?; float[2,12,1,1] e = ?",
        "p = Conv (x, a)
         q = Conv <group = 2> (p, grouped)
         r = Reshape (q, split)
         s = Transpose <perm = [0, 2, 1, 3, 4]> (r)
         t = Reshape (s, whole)
         u = Sigmoid (t)
         v = Conv <group = 2> (u, second)
         y = Conv (v, e)",
        "float[N,2,4,4] y",
    );
    let free = net.channels.free().count();
    assert!(free >= 9, "{free}");
    net.hold_at_random(free);
}

#[test]
fn squeeze_and_excite_keeps_the_law() {
    let net = written(
        "float[N,3,H,W] x",
        "float[8,3,1,1] a = ?; float[4,8,1,1] down = ?; float[4] b = ?; float[8,4,1,1] up = ?; float[8] c = ?;
         int64[2] axes = {2,3}; float[2,8,1,1] e = ?; float[8,2] f = ?",
        "p = Conv (x, a)
         q = ReduceMean <keepdims = 1> (p, axes)
         r = Conv (q, down, b)
         s = Relu (r)
         t = Conv (s, up, c)
         u = HardSigmoid (t)
         v = Mul (p, u)
         y = Conv (v, e)
         g = GlobalAveragePool (v)
         k = Flatten (g)
         z = MatMul (k, f)",
        "float[N,2,H,W] y, float[N,2] z",
    );
    net.hold_at_random(12);
}

#[test]
fn attention_loses_heads_and_sizes_follow() {
    let net = written(
        "float[B,S,5] x",
        "float[5,12] in = ?; float[12] b = ?; float[12,36] qkv = ?; float[36] c = ?; int64[1] four = {4}; int64[1] three = {3};
         int64[1] minus = {-1}; int64 zero = {0}; int64 one = {1}; int64 two = {2}; int64[1] first = {0}; int64[1] last = {12};
         float[12,12] o = ?; float[12] g = ?; float[12] h = ?; float[12,20] up = ?; float[20,12] down = ?; float[12,2] e = ?",
        "p = MatMul (x, in)
         r = Add (p, b)
         m = MatMul (r, qkv)
         n = Add (m, c)
         shape = Shape (n)
         b0 = Gather (shape, zero)
         s0 = Gather (shape, one)
         batch = Unsqueeze (b0, first)
         steps = Unsqueeze (s0, first)
         target = Concat <axis = 0> (batch, steps, three, three, four)
         t = Reshape (n, target)
         u = Transpose <perm = [2, 0, 3, 1, 4]> (t)
         q = Gather (u, zero)
         k = Gather (u, one)
         v = Gather (u, two)
         kt = Transpose <perm = [0, 1, 3, 2]> (k)
         scores = MatMul (q, kt)
         width = Shape <start = -1> (q)
         f = Cast <to = 1> (width)
         root = Sqrt (f)
         scaled = Div (scores, root)
         a = Softmax (scaled)
         w = MatMul (a, v)
         wt = Transpose <perm = [0, 2, 1, 3]> (w)
         back = Concat <axis = 0> (batch, steps, last)
         merged = Reshape (wt, back)
         out = MatMul (merged, o)
         res = Add (out, r)
         norm = LayerNormalization (res, g, h)
         ff = MatMul (norm, up)
         act = Gelu (ff)
         dn = MatMul (act, down)
         end = Add (dn, norm)
         y = MatMul (end, e)",
        "float[B,S,2] y",
    );
    // The width, three heads, and the neurons between `up` and `down`.
    net.hold_at_random(12 + 3 + 20);
}

#[test]
fn normalizations_that_are_written_out_take_statistics_over_what_is_kept() {
    let net = written(
        "float[B,S,5] x",
        "float[5,12] in = ?; int64[1] axes = {-1}; float two = {2}; float epsilon = {0.01}; float[12] g = ?; float[12] h = ?;
         float[12] k = ?; float[12,2] e = ?",
        "p = MatMul (x, in)
         m = ReduceMean (p, axes)
         d = Sub (p, m)
         q = Pow (d, two)
         v = ReduceMean (q, axes)
         a = Add (v, epsilon)
         s = Sqrt (a)
         n = Div (d, s)
         w = Mul (n, g)
         t = Add (w, h)
         sq = Mul (t, t)
         ms = ReduceMean (sq, axes)
         me = Add (ms, epsilon)
         rs = Sqrt (me)
         rn = Div (t, rs)
         rw = Mul (rn, k)
         y = MatMul (rw, e)",
        "float[B,S,2] y",
    );
    net.hold_at_random(12);
}

#[test]
fn means_and_sums_over_channels_count_those_that_are_cut_as_zeros() {
    let net = written(
        "float[N,3,4,4] x",
        "float[8,3,1,1] a = ?; float[8] b = ?; int64[1] axes = {1}; float[2,3,1,1] e = ?",
        "p = Conv (x, a, b)
         s = Sigmoid (p)
         m = ReduceMean (s, axes)
         t = ReduceSum (s, axes)
         l = ReduceL2 (s, axes)
         u = Concat <axis = 1> (m, t, l)
         y = Conv (u, e)",
        "float[N,2,4,4] y",
    );
    net.hold_at_random(8);
}

#[test]
fn groups_of_a_normalization_lose_channels_alike() {
    let net = written(
        "float[N,3,4,4] x",
        "float[8,3,1,1] a = ?; float[8] g = ?; float[8] h = ?; float[8] k = ?; float[8] l = ?; float[2,8,1,1] e = ?",
        "p = Conv (x, a)
         n = InstanceNormalization (p, g, h)
         s = Sigmoid (n)
         y = Conv (s, e)",
        "float[N,2,4,4] y",
    );
    net.hold_at_random(8);
}

#[test]
fn groups_with_scales_of_their_own_lose_channels_alike() {
    let net = written(
        "float[N,3,4,4] x",
        "float[8,3,1,1] a = ?; float[8] g = ?; float[8] h = ?; float[2,8,1,1] e = ?",
        "p = Conv (x, a)
         n = GroupNormalization <num_groups = 2> (p, g, h)
         s = Sigmoid (n)
         y = Conv (s, e)",
        "float[N,2,4,4] y",
    );
    net.hold_at_random(4);
}

#[test]
fn root_mean_squares_are_taken_over_what_is_kept() {
    let net = written_in(
        23,
        "float[B,S,5] x",
        "float[5,12] in = ?; float[12] g = ?; float[12,2] e = ?",
        "p = MatMul (x, in)
         n = RMSNormalization (p, g)
         y = MatMul (n, e)",
        "float[B,S,2] y",
    );
    net.hold_at_random(12);
}

#[test]
fn the_operator_of_attention_loses_heads() {
    let net = written_in(
        23,
        "float[2,7,5] x",
        "float[5,12] wq = ?; float[5,12] wk = ?; float[5,12] wv = ?; float[12] b = ?; float[12,2] e = ?",
        "q = MatMul (x, wq)
         k = MatMul (x, wk)
         v0 = MatMul (x, wv)
         v = Add (v0, b)
         a = Attention <q_num_heads = 3, kv_num_heads = 3> (q, k, v)
         y = MatMul (a, e)",
        "float[2,7,2] y",
    );
    net.hold_at_random(3);
}

#[test]
fn what_is_split_sliced_padded_and_gathered_keeps_the_law() {
    let net = written(
        "float[N,3,4,4] x",
        "float[10,3,1,1] a = ?; int64[2] parts = {4,6}; int64[1] start = {1}; int64[1] end = {-1}; int64[1] axis = {1};
         int64[4] chosen = {3,0,-2,1}; int64[8] pads = {0,1,0,0,0,2,0,0}; float fill = {0.5}; float[2,4,1,1] e = ?;
         float[2,4,1,1] f = ?; float[2,7,1,1] g = ?",
        "p = Conv (x, a)
         q, r = Split <axis = 1> (p, parts)
         s = Slice (r, start, end, axis)
         t = Gather <axis = 1> (r, chosen)
         u = Pad (q, pads, fill)
         w = Sigmoid (u)
         y1 = Conv (s, e)
         y2 = Conv (t, f)
         y3 = Conv (w, g)
         z = Sum (y1, y2, y3)
         y = Sigmoid (z)",
        "float[N,2,4,4] y",
    );
    // Those that pad are channels as well.
    net.hold_at_random(13);
}

#[test]
fn what_is_moved_repeated_and_resized_keeps_the_law() {
    let net = written(
        "float[1,3,4,4] x",
        "float[12,3,1,1] a = ?; int64[4] sizes = {1,3,16,16}; int64[4] repeats = {1,2,1,1}; float[6,1,1] slope = ?;
         float[2,6,1,1] e = ?",
        "p = Conv (x, a)
         q = DepthToSpace <blocksize = 2, mode = \"CRD\"> (p)
         r = Resize <mode = \"nearest\"> (q, , , sizes)
         s = Tile (r, repeats)
         t = PRelu (s, slope)
         y = Conv (t, e)",
        "float[1,2,16,16] y",
    );
    net.hold_at_random(3);
}

#[test]
fn products_with_transposed_operands_and_constants_on_the_left_keep_the_law() {
    let net = written(
        "float[4,3] x",
        "float[3,8] a = ?; float[8] b = ?; float[6,8] c = ?; float[5,4] left = ?; float[6,2] e = ?",
        "p = Gemm (x, a, b)
         q = Tanh (p)
         r = Gemm <transB = 1, alpha = 0.5> (q, c)
         s = Sigmoid (r)
         t = MatMul (left, s)
         y = MatMul (t, e)",
        "float[5,2] y",
    );
    net.hold_at_random(14);
}

#[test]
fn products_of_einstein_sums_keep_the_law() {
    let net = written(
        "float[B,S,5] x",
        "float[5,6] in = ?; float[3,4,6] wq = ?; float[6,3,4] wk = ?; float[6,12] wv = ?; int64[4] split = {0,0,3,4};
         float[3,4,6] o = ?; float[6,7] up = ?; float[2,7] e = ?",
        "p = Einsum <equation = \"bsi,ie->bse\"> (x, in)
         q = Einsum <equation = \"hde, bse -> bshd\"> (wq, p)
         k = Einsum <equation = \"bse,ehd->bshd\"> (p, wk)
         v0 = MatMul (p, wv)
         v = Reshape (v0, split)
         scores = Einsum <equation = \"bihd,bjhd->bhij\"> (q, k)
         a = Softmax (scores)
         w = Einsum <equation = \"bhij,bjhd->bihd\"> (a, v)
         r = Einsum <equation = \"bihd,hde->bie\"> (w, o)
         s = Add (r, p)
         u = MatMul (s, up)
         g = Sigmoid (u)
         y = Einsum <equation = \"bsn,on->bso\"> (g, e)",
        "float[B,S,2] y",
    );
    // The width, heads, what queries and keys have in a head, and neurons. Layers give each head twice, as q, k and o count.
    let reach = Reach::of(&net.channels, &net.layers());
    assert_eq!((reach.free, reach.outer), (reach.channels - 2, 2));
    net.hold_at_random(6 + 3 + 4 + 7);
}

#[test]
fn tables_lose_columns() {
    let net = written(
        "int64[B,S] ids",
        "float[9,8] table = ?; float[7,8] places = ?; int64 zero = {0}; int64 one = {1}; float[8,2] e = ?",
        "p = Gather (table, ids)
         n = Shape (ids)
         l = Gather (n, one)
         r = Range (zero, l, one)
         q = Gather (places, r)
         s = Add (p, q)
         y = MatMul (s, e)",
        "float[B,S,2] y",
    );
    assert_eq!(net.channels.free().count(), 8);
}

#[test]
fn channels_that_an_operator_needs_all_are_pinned() {
    let net = written(
        "float[N,3] x",
        "float[3,8] a = ?; float[8,6] b = ?; float[6,2] e = ?; int64 axis = {1}",
        "p = MatMul (x, a)
         q = Softmax (p)
         r = MatMul (q, b)
         t = CumSum (r, axis)
         y = MatMul (t, e)",
        "float[N,2] y",
    );
    assert_eq!(net.channels.free().count(), 0);
    let reach = Reach::of(&net.channels, &net.layers());
    assert_eq!((reach.channels, reach.free, reach.outer), (16, 0, 2));
}
