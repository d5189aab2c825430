//! Products of matrices and their generalization.

use std::collections::HashSet;

use super::operators::Einsum;
use super::tape::Tape;
use super::{Gradients, Refusal, Site};
use crate::ir::ValueId;
use crate::ir::op::{Gemm, MatMul};

/// dA = dY·Bᵀ, dB = Aᵀ·dY
pub(super) fn matmul(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, MatMul { a, b }) = (site.dy()?, site.view(tape)?);
    let (shape_a, shape_b, mut shape_y) = (tape.shape(a), tape.shape(b), tape.shape(dy));
    // A vector on the left is a row, on the right a column.
    let matrix_a = if shape_a.len() == 1 { vec![1, shape_a[0]] } else { shape_a.clone() };
    let matrix_b = if shape_b.len() == 1 { vec![shape_b[0], 1] } else { shape_b.clone() };
    if shape_a.len() == 1 {
        shape_y.insert(shape_y.len() - usize::from(shape_b.len() > 1), 1);
    }
    if shape_b.len() == 1 {
        shape_y.push(1);
    }
    let (a, b, dy) = (tape.reshape(a, &matrix_a), tape.reshape(b, &matrix_b), tape.reshape(dy, &shape_y));
    let batch_a = &matrix_a[..matrix_a.len() - 2];
    let batch_b = &matrix_b[..matrix_b.len() - 2];
    let ([m, k], n) = ([matrix_a[matrix_a.len() - 2], matrix_a[matrix_a.len() - 1]], matrix_b[matrix_b.len() - 1]);
    let (da, db) = if batch_b.is_empty() {
        // One product over all rows of all batches.
        let rows = batch_a.iter().product::<usize>() * m;
        let dy = tape.reshape(dy, &[rows, n]);
        let da = site.wants(0).then(|| tape.einsum("mn,kn->mk", &[dy, b]));
        let db = site.wants(1).then(|| {
            let a = tape.reshape(a, &[rows, k]);
            tape.einsum("mk,mn->kn", &[a, dy])
        });
        (da, db)
    } else if batch_a == batch_b {
        let batch: String = ('a'..).take(batch_a.len()).map(|c| c.to_ascii_uppercase()).collect();
        let da = site.wants(0).then(|| tape.einsum(&format!("{batch}mn,{batch}kn->{batch}mk"), &[dy, b]));
        let db = site.wants(1).then(|| tape.einsum(&format!("{batch}mk,{batch}mn->{batch}kn"), &[a, dy]));
        (da, db)
    } else {
        let da = site.wants(0).then(|| {
            let transposed = tape.swap_last(b);
            tape.matmul(dy, transposed)
        });
        let db = site.wants(1).then(|| {
            let transposed = tape.swap_last(a);
            tape.matmul(transposed, dy)
        });
        (da, db)
    };
    let mut back = |gradient: Option<ValueId>, matrix: &[usize], shape: &[usize]| {
        gradient.map(|gradient| {
            let count = |shape: &[usize]| shape.iter().product::<usize>();
            let exact = match count(&tape.shape(gradient)) == count(matrix) {
                true => gradient,
                false => tape.reduce_to(gradient, matrix),
            };
            tape.reshape(exact, shape)
        })
    };
    Ok(vec![back(da, &matrix_a, &shape_a), back(db, &matrix_b, &shape_b)])
}

/// dA' = α·dY·B'ᵀ, dB' = α·A'ᵀ·dY, dC = β·dY, where ' transposes if asked for
#[allow(non_snake_case, reason = "attributes keep their ONNX names")]
pub(super) fn gemm(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Gemm { a, b, alpha, beta, transA, transB, .. }) = (site.dy()?, site.view(tape)?);
    let scaled = tape.scale(dy, f64::from(alpha));
    let letters_a = if transA { "km" } else { "mk" };
    let letters_b = if transB { "nk" } else { "kn" };
    let da = site.wants(0).then(|| tape.einsum(&format!("mn,{letters_b}->{letters_a}"), &[scaled, b]));
    // As many operands in the order that puts the result's rows first.
    let db = site.wants(1).then(|| match transB {
        true => tape.einsum(&format!("mn,{letters_a}->{letters_b}"), &[scaled, a]),
        false => tape.einsum(&format!("{letters_a},mn->{letters_b}"), &[a, scaled]),
    });
    let dc = site.wants(2).then(|| tape.scale(dy, f64::from(beta)));
    Ok(vec![da, db, dc])
}

/// By one operand: the same sum with the gradient in its place. Letters that only that operand has are repeated.
pub(super) fn einsum(tape: &mut Tape, site: &Site) -> Result<Gradients, Refusal> {
    let (dy, Einsum { xs, equation }) = (site.dy()?, site.view(tape)?);
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_string(), right.to_string()),
        None => (equation.clone(), implicit_result(&equation)),
    };
    let terms: Vec<&str> = left.split(',').collect();
    let repeats = |term: &str| term.chars().collect::<HashSet<_>>().len() != term.len();
    if equation.contains('.') || terms.iter().any(|term| repeats(term)) || terms.len() != xs.len() {
        return Err(Refusal("its equation has an ellipsis or a diagonal"));
    }
    let mut gradients = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        if !site.wants(index) {
            gradients.push(None);
            continue;
        }
        let others = || (0..terms.len()).filter(|&other| other != index);
        let known = |c: char| right.contains(c) || others().any(|other| terms[other].contains(c));
        let found: String = term.chars().filter(|&c| known(c)).collect();
        let left: Vec<&str> = std::iter::once(right.as_str()).chain(others().map(|other| terms[other])).collect();
        let operands: Vec<ValueId> = std::iter::once(dy).chain(others().map(|other| xs[other])).collect();
        let sum = tape.einsum(&format!("{}->{found}", left.join(",")), &operands);
        let shape = tape.shape(xs[index]);
        let kept: Vec<usize> = term.chars().zip(&shape).map(|(c, &n)| if known(c) { n } else { 1 }).collect();
        let sum = tape.reshape(sum, &kept);
        gradients.push(Some(tape.expand(sum, &shape)));
    }
    Ok(gradients)
}

/// Σ Aᵢᵀ·Bᵢ is one product over the rows of all: gradients by a weight that several nodes read, each with other rows, as the
/// steps of a recurrent layer do. Where that moves fewer elements than adding up what comes of each.
pub(super) fn joined(tape: &mut Tape, parts: Vec<ValueId>) -> Vec<ValueId> {
    let over_rows = |tape: &Tape, part: ValueId| -> Option<Einsum> {
        let einsum: Einsum = tape.model.view(tape.model.producer(part)?)?;
        let (terms, result) = einsum.equation.split_once("->")?;
        let (a, b) = terms.split_once(',')?;
        let rows = a.chars().next()?;
        let is_first = b.starts_with(rows) && !result.contains(rows) && a.matches(rows).count() == 1;
        (is_first && tape.model.value(part).uses.is_empty()).then_some(einsum)
    };
    let Some(Einsum { equation, xs: first }) = parts.first().and_then(|&part| over_rows(tape, part)) else {
        return parts;
    };
    let like_first = |tape: &Tape, part: ValueId| {
        let same = |(&x, &first): (&ValueId, &ValueId)| tape.shape(x)[1..] == tape.shape(first)[1..];
        over_rows(tape, part).filter(|of| of.equation == equation && of.xs.iter().zip(&first).all(same))
    };
    let alike: Vec<(ValueId, Einsum)> =
        parts.iter().filter_map(|&part| Some((part, like_first(tape, part)?))).collect();
    let count = |x: &ValueId| tape.shape(*x).iter().product::<usize>();
    let read: usize = alike.iter().flat_map(|(_, of)| &of.xs).map(count).sum();
    if read >= (alike.len() - 1) * count(&parts[0]) {
        return parts;
    }
    let operand = |place: usize| alike.iter().map(|(_, of)| of.xs[place]).collect::<Vec<_>>();
    let (a, b) = (tape.concat(operand(0), 0), tape.concat(operand(1), 0));
    let sum = tape.einsum(&equation, &[a, b]);
    for (part, _) in &alike {
        tape.model.sweep(tape.model.producer(*part).expect("it is a product"));
    }
    let others = parts.iter().filter(|part| alike.iter().all(|(alike, _)| alike != *part));
    std::iter::once(sum).chain(others.copied()).collect()
}

/// Without an arrow, the result has the letters that appear once, in alphabetic order.
fn implicit_result(equation: &str) -> String {
    let once = |c: &char| c.is_alphabetic() && equation.matches(*c).count() == 1;
    let mut letters: Vec<char> = equation.chars().filter(once).collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}
