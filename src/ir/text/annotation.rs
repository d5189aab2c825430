//! Annotations: comment lines for what the syntax has no place for. Their list is in the module doc of [`text`](super).

use serde::de::DeserializeOwned;
use winnow::Parser;
use winnow::token::{one_of, take_till, take_while};

use super::token::{Failure, Input, Parsed, at, next, space};

/// The keys there are.
pub const KEYS: [&str; 12] = [
    "bits",
    "device-configuration",
    "doc",
    "domain",
    "metadata",
    "name",
    "op",
    "overload",
    "quantization",
    "sparse",
    "training-info",
    "type",
];

pub struct Annotation<'t> {
    pub at: usize,
    pub key: &'static str,
    pub json: &'t str,
}

/// The annotations that stand here.
pub fn annotations<'t>(input: &mut Input<'t>) -> Parsed<Annotations<'t>> {
    let mut found = Vec::new();
    while next(input) == Some('#') {
        (one_of('#'), take_while(0.., ' '), one_of('@')).void().parse_next(input)?;
        let at = at(input);
        let word = take_while(1.., |c: char| c.is_ascii_lowercase() || c == '-');
        let word: &str = word.context("the key of an annotation").parse_next(input)?;
        let Some(key) = KEYS.into_iter().find(|key| *key == word) else {
            return Err(Failure::new(at, format!("@{word} is no annotation; there are @{}", KEYS.join(", @"))));
        };
        let json: &str = take_till(0.., '\n').parse_next(input)?;
        found.push(Annotation { at, key, json: json.trim() });
        space(input)?;
    }
    Ok(Annotations(found))
}

/// The annotations of one thing.
#[derive(Default)]
pub struct Annotations<'t>(pub Vec<Annotation<'t>>);

impl Annotations<'_> {
    /// Takes out the annotation `key`, where there is one.
    pub fn take<T: DeserializeOwned>(&mut self, key: &str) -> Parsed<Option<T>> {
        let found = self.0.iter().position(|annotation| annotation.key == key);
        found.map(|index| self.0.remove(index).read()).transpose()
    }

    /// Takes out all annotations `key`, in order.
    pub fn take_all<T: DeserializeOwned>(&mut self, key: &str) -> Parsed<Vec<T>> {
        self.0.extract_if(.., |annotation| annotation.key == key).map(|annotation| annotation.read()).collect()
    }

    /// Refuses annotations that nobody took.
    pub fn finish(self) -> Parsed<()> {
        match self.0.first() {
            Some(Annotation { at, key, .. }) => {
                Err(Failure::new(*at, format!("@{key} says nothing about what follows")))
            }
            None => Ok(()),
        }
    }
}

impl Annotation<'_> {
    fn read<T: DeserializeOwned>(self) -> Parsed<T> {
        serde_json::from_str(self.json).map_err(|error| Failure::new(self.at, format!("@{}: {error}", self.key)))
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("strings take all");
        hex
    })
}

pub fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect::<Option<Vec<_>>>()?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
