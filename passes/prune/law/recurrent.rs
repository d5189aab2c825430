//! The law where a state goes from step to step.

use super::{Subject, written};

#[test]
fn states_of_recurrent_layers_are_cut_with_their_gates() {
    let net = written(
        "float[T,B,5] x",
        "float[1,32,5] w = ?; float[1,32,8] r = ?; float[1,64] b = ?; float[1,24] peepholes = ?; int64[1] axis = {1};
         float[1,18,8] v = ?; float[1,18,6] q = ?; float[1,36] c = ?; float[1,7,6] u = ?; float[1,7,7] p = ?;
         float[7,2] e = ?; float[2] f = ?; int64[1] first = {0}; float[8,2] g = ?",
        "y1, h1, c1 = LSTM <hidden_size = 8> (x, w, r, b, , , , peepholes)
         s1 = Squeeze (y1, axis)
         y2 = GRU <hidden_size = 6, linear_before_reset = 1> (s1, v, q, c)
         s2 = Squeeze (y2, axis)
         _, h3 = RNN <hidden_size = 7> (s2, u, p)
         s3 = Squeeze (h3, first)
         y = Gemm (s3, e, f)
         t1 = Squeeze (c1, first)
         z = MatMul (t1, g)",
        "float[B,2] y, float[B,2] z",
    );
    net.hold_at_random(8 + 6 + 7);
}

#[test]
fn both_directions_lose_the_same_places() {
    let net = written(
        "float[T,B,5] x",
        "float[2,32,5] w = ?; float[2,32,8] r = ?; float[2,64] b = ?; int64[3] flat = {0,0,-1}; float[2,18,16] v = ?;
         float[2,18,6] q = ?; float[2,36] c = ?; float[12,2] e = ?; int64 backward = {1}; float[6,2] g = ?",
        "y1 = LSTM <hidden_size = 8, direction = \"bidirectional\"> (x, w, r, b)
         t1 = Transpose <perm = [0, 2, 1, 3]> (y1)
         s1 = Reshape (t1, flat)
         y2, h2 = GRU <hidden_size = 6, direction = \"bidirectional\"> (s1, v, q, c)
         t2 = Transpose <perm = [0, 2, 1, 3]> (y2)
         s2 = Reshape (t2, flat)
         y = MatMul (s2, e)
         l = Gather <axis = 0> (h2, backward)
         z = MatMul (l, g)",
        "float[T,B,2] y, float[B,2] z",
    );
    net.hold_at_random(8 + 6);
}

#[test]
fn states_that_are_given_are_cut_too() {
    let net = written(
        "float[B,T,5] x",
        "float[5,4] a = ?; float[1,24,4] w = ?; float[1,24,6] r = ?; float[1,1,6] from = ?; float[1,4,6] i = ?;
         int64 zero = {0}; int64[1] one = {1}; int64[1] six = {6}; int64[1] first = {0}; int64[1] axis = {2};
         float[1,18,6] v = ?; float[1,18,6] q = ?; float[6,2] e = ?",
        "p = MatMul (x, a)
         n = Sigmoid (p)
         shape = Shape (x)
         batch0 = Gather (shape, zero)
         batch = Unsqueeze (batch0, first)
         target = Concat <axis = 0> (batch, one, six)
         h0 = Expand (from, target)
         c0 = ConstantOfShape (target)
         y1 = LSTM <hidden_size = 6, layout = 1> (n, w, r, , , h0, c0)
         s1 = Squeeze (y1, axis)
         _, h2 = GRU <hidden_size = 6, layout = 1> (s1, v, q, , , h0)
         s2 = Squeeze (h2, one)
         y = MatMul (s2, e)",
        "float[B,2] y",
    );
    // What both start from is one vector.
    net.hold_at_random(4 + 6);
}

#[test]
fn zeros_that_several_layers_start_from_do_not_tie_them() {
    let net = written(
        "float[T,B,5] x",
        "float[2,24,5] w = ?; float[2,24,6] r = ?; float[2,24,12] v = ?; float[2,24,6] q = ?; int64 one = {1};
         int64[1] first = {0}; int64[1] second = {2}; int64[1] end = {4}; int64[1] four = {4}; int64[1] six = {6};
         int64[3] flat = {0,0,-1}; float[12,2] e = ?",
        "shape = Shape (x)
         batch0 = Gather (shape, one)
         batch = Unsqueeze (batch0, first)
         target = Concat <axis = 0> (four, batch, six)
         zeros = ConstantOfShape (target)
         h1 = Slice (zeros, first, second, first)
         h2 = Slice (zeros, second, end, first)
         y1, unread, cell = LSTM <hidden_size = 6, direction = \"bidirectional\"> (x, w, r, , , h1, h1)
         t1 = Transpose <perm = [0, 2, 1, 3]> (y1)
         s1 = Reshape (t1, flat)
         y2 = LSTM <hidden_size = 6, direction = \"bidirectional\"> (s1, v, q, , , h2, h2)
         t2 = Transpose <perm = [0, 2, 1, 3]> (y2)
         s2 = Reshape (t2, flat)
         y = MatMul (s2, e)",
        "float[T,B,2] y",
    );
    net.hold_at_random(6 + 6);
}

#[test]
fn a_state_that_is_given_out_stays() {
    let net = written(
        "float[T,B,5] x",
        "float[1,24,5] w = ?; float[1,24,6] r = ?",
        "y, h = LSTM <hidden_size = 6> (x, w, r)",
        "float[T,1,B,6] y, float[1,B,6] h",
    );
    let Subject { channels, .. } = &net;
    assert_eq!(channels.free().count(), 0);
}
