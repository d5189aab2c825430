//! Tokens that are like others: those whose rows in the model's table have like directions (as with the word vectors of Jiao and
//! others, TinyBERT, 2020).

use std::collections::{HashMap, HashSet};

use super::augment::looked_up_in;
use crate::data::required_inputs;
use crate::ir::{Model, Tensor, ValueId};
use crate::pass::PassError;
use crate::passes::nearest::nearest;
use crate::train::augment::Replacing;

/// How many others a token may become.
const LIKES: usize = 10;

/// Tokens of a greater share of samples stay, and others do not become them: they begin and end a sequence or fill it up, or say
/// next to nothing.
const EVERYWHERE: f64 = 0.5;

/// What the tokens of those of `samples` that are `learned` from may become.
pub(super) fn replacing(
    model: &Model,
    samples: &[Vec<Tensor>],
    learned: &[usize],
    share: f64,
) -> Result<Replacing, PassError> {
    let inputs = required_inputs(model).enumerate();
    let lookups: Vec<(usize, ValueId)> =
        inputs.filter_map(|(place, (input, _))| Some((place, looked_up_in(model, input)?))).collect();
    let rows = |table: ValueId| model.constant(table).map_or(0, |table| table.shape()[0]);
    // Words have the longest table; that of the kinds of tokens, say, is short.
    let Some(&(_, value)) = lookups.iter().max_by_key(|&&(_, table)| rows(table)) else {
        return Err(PassError(
            "`replace-tokens` replaces tokens, and no input chooses rows of a table of floats".into(),
        ));
    };
    let inputs: Vec<usize> = lookups.iter().filter(|&&(_, of)| of == value).map(|&(place, _)| place).collect();
    let table = model.constant(value).expect("tables are constants");
    let mut counts = vec![0usize; table.shape()[0]];
    for &sample in learned {
        let ids = inputs.iter().filter_map(|&input| samples[sample][input].ints()).flatten();
        // An id from the end, below 0, stays.
        let ids: HashSet<usize> = ids.filter_map(|id| usize::try_from(id).ok()).collect();
        for id in ids {
            if let Some(count) = counts.get_mut(id) {
                *count += 1;
            }
        }
    }
    let most = (EVERYWHERE * learned.len() as f64) as usize;
    let others: Vec<usize> = (0..counts.len()).filter(|&id| counts[id] <= most).collect();
    let occurring: Vec<usize> = others.iter().copied().filter(|&id| counts[id] > 0).collect();
    let found = nearest(table, &occurring, &others, LIKES);
    let likes = occurring.iter().zip(found).map(|(&id, places)| {
        let likes: Vec<i64> = places.into_iter().map(|place| others[place] as i64).collect();
        (id as i64, likes)
    });
    Ok(Replacing { inputs, share, likes: likes.collect::<HashMap<_, _>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens 0 and 1 are everywhere, 2 to 4 are like each other, and so are 5 to 7.
    fn network() -> Model {
        Model::parse(
            "<ir_version: 10, opset_import: [\"\": 21]>
            net (int64[N,S] kinds, int64[N,S] ids) => (float[N,S,2] y)
            <float[2,2] few = {0, 1, 1, 0}, float[8,2] table = {1, 0, 0, 1, 1, 0.1, 2, 0.1, 1, 0, 0.1, 1, 0, 2, -0.1, 1}>
            { x = Gather (table, ids) n = Cast <to = 6> (kinds) k = Gather (few, n) y = Add (x, k) }",
        )
        .unwrap_or_else(|error| panic!("{error}"))
    }

    fn sample(ids: [i64; 4]) -> Vec<Tensor> {
        vec![Tensor::from_vec(vec![1, 4], vec![1i64; 4]), Tensor::from_vec(vec![1, 4], ids.to_vec())]
    }

    #[test]
    fn tokens_become_those_of_like_direction_but_not_those_that_are_everywhere() {
        let samples = [sample([0, 2, 5, 1]), sample([0, 3, 3, 1]), sample([0, 7, 4, 1])];
        let replacing = replacing(&network(), &samples, &[0, 1], 0.5).unwrap();
        assert_eq!(replacing.inputs, [1]);
        let mut known: Vec<i64> = replacing.likes.keys().copied().collect();
        known.sort();
        assert_eq!(known, [2, 3, 5], "others do not occur in what is learned from, or everywhere");
        assert_eq!(replacing.likes[&2][..2], [3, 4]);
        assert_eq!(replacing.likes[&5][..2], [6, 7]);
        assert!(replacing.likes.values().flatten().all(|&id| id > 1));
    }

    #[test]
    fn models_without_tokens_are_refused() {
        let model = Model::parse(
            "<ir_version: 10, opset_import: [\"\": 21]>
            net (int64[N,S] kinds, int64[N,S] ids) => (int64[N,S] y) { y = Add (ids, kinds) }",
        )
        .unwrap();
        let refused = replacing(&model, &[sample([0, 1, 2, 3])], &[0], 0.5).unwrap_err();
        assert!(refused.0.ends_with("no input chooses rows of a table of floats"), "{refused}");
    }
}
