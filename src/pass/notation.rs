//! The one notation of pipelines, on the command line, in recipes and in the metadata of written models:
//! `fold-constants,prune(channels=0.3,criterion=taylor),quantize(mode=static,keep=["/a,b","*/head*"])`.
//!
//! A value is a number, `true`, `false`, `null`, a word, a string in double quotes (with JSON's escapes), a list in
//! brackets or a map in braces. `repeat(a,b)` runs passes again and again until none of them changes anything.

use std::fmt;

use serde_json::{Map, Value as Json};
use winnow::ascii::multispace0;
use winnow::combinator::{alt, cut_err, delimited, eof, opt, preceded, separated, separated_pair, terminated};
use winnow::error::{ContextError, StrContext, StrContextValue};
use winnow::prelude::*;
use winnow::token::{none_of, take_while};

/// A pipeline as it is written, before its names are looked up.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written {
    Pass { name: String, options: Map<String, Json> },
    Repeat(Vec<Written>),
}

/// What is wrong with the text of a pipeline.
#[derive(Debug, thiserror::Error)]
pub enum NotationError {
    #[error(
        "`{text}` is not a pipeline: {what} at `{rest}`; write it like `eliminate-identity,quantize(mode=weights)`"
    )]
    Syntax { text: String, rest: String, what: String },
    #[error("there is no pass called `{name}`{}", hint(suggestion, "the passes are", known))]
    UnknownPass { name: String, suggestion: Option<String>, known: Vec<String> },
    #[error("the pass `{pass}` has no option `{option}`{}", hint(suggestion, "its options are", known))]
    UnknownOption { pass: String, option: String, suggestion: Option<String>, known: Vec<String> },
    #[error("the options of the pass `{pass}` are unusable: {what}; `onnxshrink passes {pass}` explains them")]
    BadOption { pass: String, what: String },
}

fn hint(suggestion: &Option<String>, title: &str, known: &[String]) -> String {
    let mut text = suggestion.as_ref().map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    if known.is_empty() {
        return text + "; it has none";
    }
    text += if suggestion.is_some() { " " } else { "; " };
    text + title + " " + &known.join(", ")
}

/// Lists and maps may be nested this deep.
const DEPTH: usize = 32;

pub(super) fn parse(text: &str) -> Result<Vec<Written>, NotationError> {
    if let Some(at) = too_deep(text) {
        return Err(NotationError::Syntax { text: text.into(), rest: rest(text, at), what: "too deep nesting".into() });
    }
    let mut whole = terminated(delimited(multispace0, passes, multispace0), eof);
    whole.parse(text).map_err(|error| NotationError::Syntax {
        text: text.into(),
        rest: rest(text, error.offset()),
        what: match error.inner().context().filter_map(expected).last() {
            Some(wanted) => format!("{wanted} is expected"),
            None => "something unexpected stands".into(),
        },
    })
}

fn expected(context: &StrContext) -> Option<String> {
    match context {
        StrContext::Expected(StrContextValue::Description(text)) => Some(text.to_string()),
        _ => None,
    }
}

fn rest(text: &str, at: usize) -> String {
    match text.get(at..).unwrap_or_default() {
        "" => "its end".into(),
        rest => rest.chars().take(20).collect(),
    }
}

fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        (depth > DEPTH).then_some(at)
    })
}

fn passes(input: &mut &str) -> ModalResult<Vec<Written>> {
    separated(0.., pass, comma).parse_next(input)
}

fn pass(input: &mut &str) -> ModalResult<Written> {
    let name = word.parse_next(input)?;
    if name == "repeat" {
        return delimited('(', list_of(passes), closing(')')).map(Written::Repeat).parse_next(input);
    }
    let options = opt(delimited('(', list_of(entries), closing(')'))).parse_next(input)?;
    Ok(Written::Pass { name: name.into(), options: options.unwrap_or_default() })
}

fn entries(input: &mut &str) -> ModalResult<Map<String, Json>> {
    let entries: Vec<(String, Json)> = separated(0.., entry, comma).parse_next(input)?;
    let mut map = Map::new();
    for (key, value) in entries {
        if map.insert(key, value).is_some() {
            return cut_err(winnow::combinator::fail)
                .context(described("an option that was not given before"))
                .parse_next(input);
        }
    }
    Ok(map)
}

fn entry(input: &mut &str) -> ModalResult<(String, Json)> {
    let key = alt((quoted, word.map(String::from)));
    let equals = delimited(multispace0, '=', multispace0).context(described("`=`"));
    separated_pair(key, cut_err(equals), cut_err(value.context(described("a value")))).parse_next(input)
}

fn value(input: &mut &str) -> ModalResult<Json> {
    alt((
        quoted.map(Json::String),
        delimited('[', list_of(values), closing(']')).map(Json::Array),
        delimited('{', list_of(entries), closing('}')).map(Json::Object),
        word.map(scalar),
    ))
    .parse_next(input)
}

fn values(input: &mut &str) -> ModalResult<Vec<Json>> {
    separated(0.., value, comma).parse_next(input)
}

fn list_of<'i, O>(
    items: impl Parser<&'i str, O, winnow::error::ErrMode<ContextError>>,
) -> impl Parser<&'i str, O, winnow::error::ErrMode<ContextError>> {
    delimited(multispace0, items, multispace0)
}

fn closing<'i>(bracket: char) -> impl Parser<&'i str, char, winnow::error::ErrMode<ContextError>> {
    let wanted = match bracket {
        ')' => "`,` or `)`",
        ']' => "`,` or `]`",
        _ => "`,` or `}`",
    };
    cut_err(bracket.context(described(wanted)))
}

fn described(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

fn comma(input: &mut &str) -> ModalResult<()> {
    delimited(multispace0, ',', multispace0).void().parse_next(input)
}

fn word<'i>(input: &mut &'i str) -> ModalResult<&'i str> {
    take_while(1.., is_word_char).context(described("a name")).parse_next(input)
}

fn is_word_char(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !"()[]{},=\"".contains(c)
}

/// A string in double quotes, read as JSON reads it.
fn quoted(input: &mut &str) -> ModalResult<String> {
    let unit = alt((preceded('\\', winnow::token::any).void(), none_of(['"', '\\']).void()));
    let inside = winnow::combinator::repeat::<_, _, (), _, _>(0.., unit);
    ('"', inside, '"').take().verify_map(|text| serde_json::from_str(text).ok()).parse_next(input)
}

/// A bare word: what JSON reads as a number or constant is one, anything else is a string.
fn scalar(word: &str) -> Json {
    match serde_json::from_str(word) {
        // The standard library reads every float back as it was printed.
        Ok(Json::Number(number)) if number.is_f64() => word.parse::<f64>().map_or(Json::Number(number), Json::from),
        Ok(value @ (Json::Null | Json::Bool(_) | Json::Number(_))) => value,
        _ => Json::String(word.into()),
    }
}

/// Writes a pass with its options.
pub(super) fn write_pass(f: &mut fmt::Formatter, name: &str, options: &Map<String, Json>) -> fmt::Result {
    f.write_str(name)?;
    match options.is_empty() {
        true => Ok(()),
        false => write!(f, "({})", Entries(options)),
    }
}

struct Entries<'a>(&'a Map<String, Json>);

impl fmt::Display for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}={}", Text(key), Value(value))?;
        }
        Ok(())
    }
}

/// A value in the notation.
pub(super) struct Value<'a>(pub &'a Json);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Json::String(text) => Text(text).fmt(f),
            Json::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if index > 0 { "," } else { "" }, Value(item))?;
                }
                f.write_str("]")
            }
            Json::Object(entries) => write!(f, "{{{}}}", Entries(entries)),
            plain => write!(f, "{plain}"),
        }
    }
}

struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let bare = !self.0.is_empty() && self.0.chars().all(is_word_char) && scalar(self.0).is_string();
        match bare {
            true => f.write_str(self.0),
            false => write!(f, "{}", Json::from(self.0)),
        }
    }
}
