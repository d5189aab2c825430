//! Rows and columns of a tensor.

use crate::ir::Tensor;

/// `tensor` with the given places of each axis alone, in their order; none stands for all.
///
/// # Panics
/// If elements are no whole bytes.
pub fn sliced(tensor: &Tensor, kept: &[Option<&[usize]>]) -> Tensor {
    let Some(last) = kept.iter().rposition(Option::is_some) else { return tensor.clone() };
    let bytes = tensor.bytes().expect("strings have no channels");
    let size = tensor.dtype().bits() / 8;
    assert!(size > 0, "elements of parts of a byte have no channels");
    let old = tensor.shape();
    let shape: Vec<usize> = old.iter().zip(kept).map(|(&n, kept)| kept.map_or(n, <[usize]>::len)).collect();
    // What lies behind the last axis that is cut stays together.
    let block = old[last + 1..].iter().product::<usize>() * size;
    let runs = runs(kept[last].expect("it is cut"));
    let rows: usize = shape[..last].iter().product();
    let mut out = Vec::with_capacity(shape.iter().product::<usize>() * size);
    for row in 0..rows {
        let (mut rest, mut from, mut stride) = (row, 0, old[last] * block);
        for axis in (0..last).rev() {
            let place = rest % shape[axis];
            from += kept[axis].map_or(place, |kept| kept[place]) * stride;
            rest /= shape[axis];
            stride *= old[axis];
        }
        for &(start, end) in &runs {
            out.extend_from_slice(&bytes[from + start * block..from + end * block]);
        }
    }
    Tensor::new(tensor.dtype(), shape, out.into()).expect("the shape holds the elements")
}

/// Places that follow each other, as start and end.
fn runs(kept: &[usize]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &place in kept {
        match runs.last_mut() {
            Some((_, end)) if *end == place => *end += 1,
            _ => runs.push((place, place + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_taken_together() {
        let tensor = Tensor::from_vec(vec![3, 2, 4], (0..24).map(|x| x as f32).collect());
        let cut = sliced(&tensor, &[Some(&[0, 2]), None, Some(&[1, 2])]);
        assert_eq!(cut.shape(), [2, 2, 2]);
        assert_eq!(*cut.floats().unwrap(), [1.0, 2.0, 5.0, 6.0, 17.0, 18.0, 21.0, 22.0]);
        let rows = sliced(&tensor, &[Some(&[1]), None, None]);
        assert_eq!(*rows.floats().unwrap(), [8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
        assert!(sliced(&tensor, &[None, None, None]).same_data(&tensor));
    }
}
