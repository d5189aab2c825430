//! Which rows of a table are most like others: embeddings of words of like meaning have like directions.

use ndarray::{ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::ir::Tensor;

/// Rows that are compared with all others in one product.
const COMPARED: usize = 256;

/// For each of the rows `of` a table of floats, the places in `among` of so many others of greatest cosine with it, the greatest
/// first; of equals the first. A row is not among its own.
pub(super) fn nearest(table: &Tensor, of: &[usize], among: &[usize], count: usize) -> Vec<Vec<usize>> {
    let floats = table.floats().expect("it holds floats");
    let rows = table.shape()[0];
    let rows = ArrayView2::from_shape((rows, table.len() / rows), &floats).expect("rows were counted");
    let mut directions = rows.select(Axis(0), among);
    // The length of the row that is compared is the same in all its cosines.
    for mut row in directions.rows_mut() {
        let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.mapv_inplace(|x| (f64::from(x) / norm) as f32);
        }
    }
    let find = |of: &[usize]| -> Vec<Vec<usize>> {
        let products = rows.select(Axis(0), of).dot(&directions.t());
        let others = |row: usize| move |place: &usize| among[*place] != row;
        let first = |(products, &row): (ArrayView1<f32>, &usize)| {
            let mut places: Vec<usize> = (0..among.len()).filter(others(row)).collect();
            let order = |a: &usize, b: &usize| products[*b].total_cmp(&products[*a]).then(a.cmp(b));
            if count < places.len() {
                places.select_nth_unstable_by(count, order);
                places.truncate(count);
            }
            places.sort_by(order);
            places
        };
        products.rows().into_iter().zip(of).map(first).collect()
    };
    of.par_chunks(COMPARED).flat_map_iter(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Random;

    #[test]
    fn rows_of_like_directions_are_found_in_order() {
        let mut random = Random::new(7, 0);
        let table = Tensor::from_vec(vec![600, 5], (0..3000).map(|_| random.normal()).collect());
        let floats = table.floats().unwrap();
        let row = |row: usize| &floats[row * 5..][..5];
        let dot = |a: usize, b: usize| row(a).iter().zip(row(b)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let cosine = |a: usize, b: usize| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
        let among: Vec<usize> = (0..600).filter(|row| row % 3 > 0).collect();
        let of: Vec<usize> = (0..600).step_by(2).collect();
        for (&of, found) in of.iter().zip(nearest(&table, &of, &among, 4)) {
            let mut wanted: Vec<usize> = (0..among.len()).filter(|&place| among[place] != of).collect();
            wanted.sort_by(|&a, &b| cosine(of, among[b]).total_cmp(&cosine(of, among[a])));
            assert_eq!(found, wanted[..4], "row {of}");
        }
        assert_eq!(nearest(&table, &[1], &[1, 2], 4), [[1]]);
        assert_eq!(nearest(&table, &[1], &[1], 4), [vec![0; 0]]);
    }
}
