//! Which weights go: those of least importance, as many as are asked for.

use ndarray::{Array2, ArrayView1};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Scope;

/// How many weights go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// Of all that are compared.
    Share(f64),
    Pattern(Pattern),
}

impl Amount {
    /// Which weights of a matrix go; `columns` are those of the groups of a pattern.
    pub fn removed(self, scores: &Array2<f32>, columns: &[usize]) -> Array2<bool> {
        match self {
            Amount::Share(share) => {
                let removed = least(&[scores.as_slice().expect("it is in order")], share).remove(0);
                Array2::from_shape_vec(scores.dim(), removed).expect("it has as many elements")
            }
            Amount::Pattern(pattern) => pattern.removed(scores, columns),
        }
    }
}

/// Of so many inputs side by side so many keep their weights, `2:4`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Pattern {
    pub stay: usize,
    pub of: usize,
}

/// The widest pattern: which weights of a group stay is a set of bits.
const WIDEST: usize = 64;

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Pattern, String> {
        let numbers = text.split_once(':').and_then(|(stay, of)| Some((stay.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((stay, of)) if (1..of).contains(&stay) && of <= WIDEST => Ok(Pattern { stay, of }),
            _ => Err(format!(
                "`{text}` is no pattern: `2:4` keeps two weights of four, and the second number goes up to {WIDEST}"
            )),
        }
    }
}

impl From<Pattern> for String {
    fn from(Pattern { stay, of }: Pattern) -> String {
        format!("{stay}:{of}")
    }
}

impl Pattern {
    /// The columns of a group: `of` inputs at one place under the window. Groups come one after the other; none where the
    /// inputs are no multiple.
    pub fn columns(self, inputs: usize, taps: usize) -> Option<Vec<usize>> {
        let groups = inputs.is_multiple_of(self.of).then_some(inputs / self.of)?;
        let places = (0..groups).flat_map(|group| (0..taps).map(move |tap| (group, tap)));
        Some(places.flat_map(|(group, tap)| (0..self.of).map(move |i| (group * self.of + i) * taps + tap)).collect())
    }

    /// Of the weights of a group, those that stay, by their importance; of equal ones the first.
    pub fn staying(self, scores: &[f32]) -> u64 {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        order[..self.stay.min(order.len())].iter().fold(0, |bits, &place| bits | 1 << place)
    }

    /// Which weights go, where `columns` are those of the groups.
    pub fn removed(self, scores: &Array2<f32>, columns: &[usize]) -> Array2<bool> {
        let mut removed = Array2::from_elem(scores.dim(), false);
        for (row, mut removed) in scores.rows().into_iter().zip(removed.rows_mut()) {
            for group in columns.chunks(self.of) {
                let scores: Vec<f32> = group.iter().map(|&column| row[column]).collect();
                let staying = self.staying(&scores);
                for (place, &column) in group.iter().enumerate() {
                    removed[column] = staying & 1 << place == 0;
                }
            }
        }
        removed
    }
}

/// For each matrix, row by row, which weights go; `columns` are those of the groups of a pattern.
pub fn removed(scope: Scope, amount: Amount, scores: &[Array2<f32>], columns: &[Vec<usize>]) -> Vec<Vec<bool>> {
    match (amount, scope) {
        (Amount::Share(share), Scope::Global) => {
            let all: Vec<&[f32]> = scores.iter().filter_map(|scores| scores.as_slice()).collect();
            least(&all, share)
        }
        (Amount::Share(share), Scope::Output) => {
            let of_row = |row: ArrayView1<f32>| least(&[&row.to_vec()], share).remove(0);
            scores.par_iter().map(|scores| scores.rows().into_iter().flat_map(of_row).collect()).collect()
        }
        (Amount::Share(_), Scope::Local) | (Amount::Pattern(_), _) => {
            let removed =
                |(scores, columns): (&Array2<f32>, &Vec<usize>)| amount.removed(scores, columns).into_iter().collect();
            scores.par_iter().zip(columns).map(removed).collect()
        }
    }
}

/// Of `share` of all weights the least important ones, for each matrix which go; of equal ones the first.
pub fn least(scores: &[&[f32]], share: f64) -> Vec<Vec<bool>> {
    let all: usize = scores.iter().map(|scores| scores.len()).sum();
    let count = ((share * all as f64).round() as usize).min(all);
    if count == 0 {
        return scores.iter().map(|scores| vec![false; scores.len()]).collect();
    }
    let mut sorted = scores.concat();
    let (below, &mut last, _) = sorted.select_nth_unstable_by(count - 1, f32::total_cmp);
    let mut ties = 1 + below.iter().filter(|score| score.total_cmp(&last).is_eq()).count();
    let mut goes = |score: &f32| match score.total_cmp(&last) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
        std::cmp::Ordering::Equal => {
            let goes = ties > 0;
            ties -= usize::from(goes);
            goes
        }
    };
    scores.iter().map(|scores| scores.iter().map(&mut goes).collect()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_are_two_numbers() {
        let read = |text: &str| Pattern::try_from(text.to_string());
        assert_eq!(read("2:4").map(String::from).as_deref(), Ok("2:4"));
        for text in ["", "2", "4:2", "4:4", "0:4", "2:4:8", "a:b", "1:65", "-1:4"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_is_of_inputs_at_one_place() {
        let pattern = Pattern { stay: 1, of: 2 };
        assert_eq!(pattern.columns(4, 3).unwrap(), [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(pattern.columns(3, 1), None);
    }

    proptest! {
        #[test]
        fn as_many_go_as_were_asked_for_and_none_is_more_important_than_one_that_stays(
            scores in prop::collection::vec(prop::collection::vec(0u8..9, 0..30), 0..4), share in 0f64..1.0,
        ) {
            let scores: Vec<Vec<f32>> =
                scores.into_iter().map(|scores| scores.into_iter().map(f32::from).collect()).collect();
            let views: Vec<&[f32]> = scores.iter().map(Vec::as_slice).collect();
            let removed = least(&views, share).concat();
            let all = scores.concat();
            let count = removed.iter().filter(|&&removed| removed).count();
            prop_assert_eq!(count, (share * all.len() as f64).round() as usize);
            let those = |goes: bool| all.iter().zip(&removed).filter(move |(_, removed)| **removed == goes).map(|(x, _)| *x);
            prop_assert!(those(true).fold(0.0, f32::max) <= those(false).fold(f32::INFINITY, f32::min));
        }

        #[test]
        fn every_group_keeps_its_most_important_weights(
            scores in prop::collection::vec(-4i8..5, 24), stay in 1usize..4, taps in prop::sample::select(vec![1usize, 3]),
        ) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let pattern = Pattern { stay, of: 4 };
            let columns = pattern.columns(12 / taps, taps).unwrap();
            let scores = Array2::from_shape_vec((2, 12), scores).unwrap();
            let removed = pattern.removed(&scores, &columns);
            for row in 0..2 {
                for group in columns.chunks(4) {
                    let of = |k: &usize| (scores[[row, *k]], removed[[row, *k]]);
                    let (gone, left): (Vec<_>, Vec<_>) = group.iter().map(of).partition(|(_, removed)| *removed);
                    prop_assert_eq!(left.len(), stay);
                    prop_assert!(gone.iter().all(|(gone, _)| left.iter().all(|(left, _)| gone <= left)));
                }
            }
        }
    }
}
