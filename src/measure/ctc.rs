//! Text out of the scores of a recognizer, after connectionist temporal classification (Graves et al., 2006).

use super::agreement::argmax;
use crate::ir::Model;

/// The characters that a recognizer knows by class. Class 0 is the blank.
pub struct Charset(Vec<String>);

impl Charset {
    /// The charset that a model carries in its metadata, one character a line; a space follows the last.
    pub fn of(model: &Model) -> Option<Charset> {
        let metadata = &model.header.notes.metadata;
        let (_, lines) = metadata.iter().find(|(key, _)| key == "character" || key == "dictionary")?;
        let characters = lines.lines().map(String::from);
        Some(Charset(std::iter::once(String::new()).chain(characters).chain([" ".into()]).collect()))
    }

    /// Reads the best path through `scores`, a row of classes for each step: repeated classes are one, blanks none.
    pub fn decode(&self, scores: &[f32], classes: usize) -> String {
        let (mut text, mut last) = (String::new(), 0);
        for step in scores.chunks(classes.max(1)) {
            let class = argmax(step);
            if class != 0 && class != last {
                text.push_str(self.0.get(class).map_or("\u{fffd}", String::as_str));
            }
            last = class;
        }
        text.trim().into()
    }
}

/// The fewest insertions, deletions and replacements of characters that turn `a` into `b` (Levenshtein).
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
