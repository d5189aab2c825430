//! The kernels in plain Rust: what every other kernel must equal, and what runs where there is no other.

use super::packing::PANEL;

/// Sums of products of `rows` (each `depth` bytes, an even number) and panels of words, given to `sink` as row, panel, sums.
pub(super) fn multiply(
    rows: &[u8],
    depth: usize,
    panels: &[i16],
    saturating: bool,
    mut sink: impl FnMut(usize, usize, &[i32; PANEL]),
) {
    if depth == 0 {
        return;
    }
    for (index, panel) in panels.chunks_exact(depth * PANEL).enumerate() {
        for (row, x) in rows.chunks_exact(depth).enumerate() {
            let sums = if saturating { dot::<true>(x, panel) } else { dot::<false>(x, panel) };
            sink(row, index, &sums);
        }
    }
}

fn dot<const SATURATING: bool>(x: &[u8], panel: &[i16]) -> [i32; PANEL] {
    let mut sums = [0i32; PANEL];
    for (x, weights) in x.chunks_exact(2).zip(panel.chunks_exact(2 * PANEL)) {
        let (first, second) = (i32::from(x[0]), i32::from(x[1]));
        for (sum, w) in sums.iter_mut().zip(weights.chunks_exact(2)) {
            let pair = first * i32::from(w[0]) + second * i32::from(w[1]);
            let pair = if SATURATING { pair.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) } else { pair };
            *sum = sum.wrapping_add(pair);
        }
    }
    sums
}

/// Adds products of one tap of a depthwise convolution: a channel each.
pub(super) fn accumulate(sums: &mut [i32], x: &[u8], weights: &[i16]) {
    for ((sum, &x), &w) in sums.iter_mut().zip(x).zip(weights) {
        *sum = sum.wrapping_add(i32::from(x) * i32::from(w));
    }
}
