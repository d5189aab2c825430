//! The law between QuantizeLinear and DequantizeLinear. Scales are powers of two, so that no sum is rounded.

use super::{Reach, written};

#[test]
fn weights_in_integers_are_cut_with_their_scales_and_biases() {
    let net = written(
        "float[N,3,6,6] x",
        "float s = {0.03125}; uint8 z = {128}; uint8 low = {0}; int8[8,3,3,3] a = ?;
         float[8] a_scale = {0.0625,0.125,0.0625,0.03125,0.0625,0.125,0.125,0.03125}; int8[8] a_zero = {0,0,0,0,0,0,0,0};
         int32[8] b = ?; float[8] b_scale = {0.0078125,0.015625,0.03125,0.0078125,0.03125,0.0078125,0.015625,0.015625};
         int8[8,1,3,3] c = ?; float c_scale = {0.0625}; int8[6,8,1,1] d = ?; float d_scale = {0.015625}; int8 zero = {3};
         int8[6,5] e = ?; float[5] e_scale = {0.125,0.25,0.125,0.0625,0.125}; int8[2,5] f = ?",
        "xq = QuantizeLinear (x, s, z)
         xd = DequantizeLinear (xq, s, z)
         ad = DequantizeLinear <axis = 0> (a, a_scale, a_zero)
         bd = DequantizeLinear <axis = 0> (b, b_scale)
         p = Conv (xd, ad, bd)
         pr = Relu (p)
         pq = QuantizeLinear (pr, s, low)
         pd = DequantizeLinear (pq, s, low)
         cd = DequantizeLinear (c, c_scale, zero)
         q = Conv <group = 8> (pd, cd)
         qs = HardSigmoid (q)
         qq = QuantizeLinear (qs, s, z)
         qd = DequantizeLinear (qq, s, z)
         dd = DequantizeLinear (d, d_scale)
         r = Conv (qd, dd)
         rq = QuantizeLinear (r, s, z)
         rd = DequantizeLinear (rq, s, z)
         g = GlobalMaxPool (rd)
         h = Flatten (g)
         ed = DequantizeLinear <axis = 1> (e, e_scale)
         m = MatMul (h, ed)
         mq = QuantizeLinear (m, s, z)
         md = DequantizeLinear (mq, s, z)
         fd = DequantizeLinear (f, d_scale)
         y = Gemm <transB = 1> (md, fd)",
        "float[N,2] y",
    );
    let reach = Reach::of(&net.channels, &net.layers());
    assert_eq!((reach.channels, reach.free, reach.outer), (8 + 6 + 5 + 2, 8 + 6 + 5, 2));
    net.hold_at_random(8 + 6 + 5);
}
