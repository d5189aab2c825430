//! The words of the syntax, read and written.
//!
//! The language is read from left to right without ever going back: every production begins at its first token and ends
//! behind the white space and comments that follow its last one. Annotations are no comments.

use std::borrow::Cow;

use winnow::Parser;
use winnow::ascii::multispace0;
use winnow::combinator::{alt, opt, peek};
use winnow::error::{AddContext, FromExternalError, ParserError};
use winnow::stream::{LocatingSlice, Location, Stateful, Stream};
use winnow::token::{any, one_of, take_till, take_while};

use super::syntax::Name;
use crate::ir::DType;

/// A text, and how deep inside graphs and types the parser stands.
pub type Input<'t> = Stateful<LocatingSlice<&'t str>, Depth>;

#[derive(Clone, Debug, Default)]
pub struct Depth(usize);

/// Deeper nesting than any tool reads is refused rather than tried.
const MAX_DEPTH: usize = 100;

pub type Parsed<T> = Result<T, Failure>;

/// What is wrong, and where, in bytes.
#[derive(Debug, Clone)]
pub struct Failure {
    pub at: usize,
    pub what: String,
}

impl Failure {
    pub fn new(at: usize, what: impl Into<String>) -> Failure {
        Failure { at, what: what.into() }
    }
}

impl<'t> ParserError<Input<'t>> for Failure {
    type Inner = Failure;
    fn from_input(input: &Input<'t>) -> Failure {
        Failure::new(input.current_token_start(), "")
    }
    fn into_inner(self) -> Result<Failure, Failure> {
        Ok(self)
    }
}

impl<'t> AddContext<Input<'t>, &'static str> for Failure {
    fn add_context(
        mut self,
        input: &Input<'t>,
        _: &<Input<'t> as Stream>::Checkpoint,
        expected: &'static str,
    ) -> Failure {
        if self.what.is_empty() {
            self.what = format!("expected {expected}, found {}", found(input));
        }
        self
    }
}

impl<'t, E: std::fmt::Display> FromExternalError<Input<'t>, E> for Failure {
    fn from_external_error(input: &Input<'t>, error: E) -> Failure {
        Failure::new(input.current_token_start(), error.to_string())
    }
}

/// The next word or sign, for messages.
pub fn found(input: &Input) -> String {
    let rest: &str = input.as_ref();
    let word = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
    match (word.is_empty(), rest.chars().next()) {
        (false, _) => format!("`{word}`"),
        (true, Some('\n')) => "the end of the line".into(),
        (true, Some(sign)) => format!("`{sign}`"),
        (true, None) => "the end of the text".into(),
    }
}

/// Runs one production over a whole text.
pub fn run<'t, T>(text: &'t str, production: impl Fn(&mut Input<'t>) -> Parsed<T>) -> Parsed<T> {
    let mut input = Stateful { input: LocatingSlice::new(text), state: Depth(0) };
    space(&mut input)?;
    let result = production(&mut input)?;
    match input.is_empty() {
        true => Ok(result),
        false => Err(expected(&input, "the end of the text")),
    }
}

pub fn at(input: &Input) -> usize {
    input.current_token_start()
}

pub fn next(input: &Input) -> Option<char> {
    let rest: &str = input.as_ref();
    rest.chars().next()
}

pub fn expected(input: &Input, what: &'static str) -> Failure {
    Failure::new(at(input), format!("expected {what}, found {}", found(input)))
}

/// White space, and comments that are no annotations.
pub fn space(input: &mut Input) -> Parsed<()> {
    loop {
        multispace0.void().parse_next(input)?;
        let rest: &str = input.as_ref();
        if !rest.starts_with('#') || is_annotation(rest) {
            return Ok(());
        }
        take_till(0.., '\n').void().parse_next(input)?;
    }
}

pub fn is_annotation(rest: &str) -> bool {
    rest.strip_prefix('#').is_some_and(|comment| comment.trim_start_matches(' ').starts_with('@'))
}

/// Whether the next token is `sign`, which is then passed.
pub fn passes(input: &mut Input, sign: char) -> Parsed<bool> {
    let passed = next(input) == Some(sign);
    if passed {
        any.void().parse_next(input)?;
        space(input)?;
    }
    Ok(passed)
}

pub fn sign(input: &mut Input, sign: char, expected: &'static str) -> Parsed<()> {
    one_of(sign).context(expected).void().parse_next(input)?;
    space(input)
}

pub fn comma(input: &mut Input) -> Parsed<bool> {
    passes(input, ',')
}

/// `item (',' item)* close`, or `close` alone.
pub fn list<'t, T>(
    input: &mut Input<'t>,
    close: char,
    or_close: &'static str,
    mut item: impl FnMut(&mut Input<'t>) -> Parsed<T>,
) -> Parsed<Vec<T>> {
    let mut items = Vec::new();
    if passes(input, close)? {
        return Ok(items);
    }
    loop {
        items.push(item(input)?);
        if passes(input, close)? {
            return Ok(items);
        }
        sign(input, ',', or_close)?;
    }
}

pub fn word<'t>(input: &mut Input<'t>) -> Parsed<&'t str> {
    (
        one_of(|c: char| c.is_ascii_alphabetic() || c == '_'),
        take_while(0.., |c: char| c.is_ascii_alphanumeric() || c == '_'),
    )
        .take()
        .parse_next(input)
}

/// `what` it names is for the message if there is none.
pub fn identifier<'t>(input: &mut Input<'t>, what: &'static str) -> Parsed<&'t str> {
    let word = word.context(what).parse_next(input)?;
    space(input)?;
    Ok(word)
}

/// The identifier that follows, if one does.
pub fn peek_word<'t>(input: &mut Input<'t>) -> Option<&'t str> {
    match next(input) {
        Some(c) if c.is_ascii_alphabetic() || c == '_' => peek(word).parse_next(input).ok(),
        _ => None,
    }
}

pub fn quoted<'t>(input: &mut Input<'t>) -> Parsed<Cow<'t, str>> {
    let start = at(input);
    one_of('"').context("a quoted string").void().parse_next(input)?;
    let mut text = Cow::Borrowed("");
    loop {
        let piece: &str = take_till(0.., ['"', '\\']).parse_next(input)?;
        match text.is_empty() {
            true => text = Cow::Borrowed(piece),
            false => text.to_mut().push_str(piece),
        }
        match opt(any).parse_next(input)? {
            Some('"') => break,
            Some(_) => match opt(any).parse_next(input)? {
                Some(escaped) => text.to_mut().push(escaped),
                None => return Err(Failure::new(start, "this string does not end")),
            },
            None => return Err(Failure::new(start, "this string does not end")),
        }
    }
    space(input)?;
    Ok(text)
}

/// An identifier or a quoted string; `what` it names is for the message if it is neither.
pub fn quotable<'t>(input: &mut Input<'t>, what: &'static str) -> Parsed<Cow<'t, str>> {
    match next(input) {
        Some('"') => quoted(input),
        Some(c) if c.is_ascii_alphabetic() || c == '_' => identifier(input, what).map(Cow::Borrowed),
        _ => Err(expected(input, what)),
    }
}

pub fn name<'t>(input: &mut Input<'t>, what: &'static str) -> Parsed<Name<'t>> {
    Ok(Name { at: at(input), text: quotable(input, what)? })
}

/// Names with commas between them, of which any may be left out.
pub fn names<'t>(input: &mut Input<'t>) -> Parsed<Vec<Name<'t>>> {
    let mut names = Vec::new();
    loop {
        match next(input) {
            Some(',') => names.push(Name { at: at(input), text: "".into() }),
            Some(c) if c.is_ascii_alphabetic() || c == '_' || c == '"' => {
                names.push(name(input, "the name of a value")?)
            }
            _ => return Ok(names),
        }
        if !comma(input)? {
            return Ok(names);
        }
    }
}

pub fn dotted(input: &mut Input) -> Parsed<String> {
    if next(input) == Some('"') {
        return Ok(quoted(input)?.into_owned());
    }
    let mut name = identifier(input, "an identifier")?.to_string();
    while passes(input, '.')? {
        name.push('.');
        name.push_str(identifier(input, "an identifier")?);
    }
    Ok(name)
}

/// An integer or float literal, and whether it is a float.
pub fn number<'t>(input: &mut Input<'t>) -> Parsed<(&'t str, bool)> {
    let digits = || take_while(0.., |c: char| c.is_ascii_digit());
    let decimal = (
        take_while(1.., |c: char| c.is_ascii_digit()),
        opt(('.', digits())),
        opt((one_of(['e', 'E']), opt(one_of(['+', '-'])), digits())),
    );
    let special = word.verify(|word: &str| is_special_float(word));
    let literal = (opt('-'), alt((decimal.void(), special.void()))).take().context("a number").parse_next(input)?;
    space(input)?;
    Ok((literal, literal.contains(|c: char| !c.is_ascii_digit() && c != '-')))
}

pub fn integer(input: &mut Input) -> Parsed<i64> {
    let start = at(input);
    let (literal, _) = number(input)?;
    literal.parse().map_err(|_| Failure::new(start, format!("expected an integer of 64 bits, found `{literal}`")))
}

/// Counts one level more inside `production`.
pub fn deeper<'t, T>(input: &mut Input<'t>, production: impl FnOnce(&mut Input<'t>) -> Parsed<T>) -> Parsed<T> {
    if input.state.0 == MAX_DEPTH {
        return Err(Failure::new(at(input), format!("nested more than {MAX_DEPTH} times")));
    }
    input.state.0 += 1;
    let result = production(input);
    input.state.0 -= 1;
    result
}

/// Words that begin a type, beside the names of element types.
pub const TYPE_WORDS: [&str; 5] = ["map", "opaque", "optional", "seq", "sparse_tensor"];

pub fn is_identifier(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

pub fn begins_type(word: &str) -> bool {
    TYPE_WORDS.contains(&word) || DType::from_name(word).is_some()
}

/// Whether the word is a float that begins with a letter.
pub fn is_special_float(word: &str) -> bool {
    ["inf", "infinity", "nan"].iter().any(|special| word.eq_ignore_ascii_case(special))
}

/// Whether `name` can stand unquoted where a graph or tensor in an attribute is named.
pub fn is_plain(name: &str) -> bool {
    is_identifier(name) && !begins_type(name) && !is_special_float(name)
}

pub fn write_name(out: &mut String, name: &str) {
    match is_plain(name) {
        true => out.push_str(name),
        false => write_quoted(out, name),
    }
}

pub fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Writes the items with commas between them.
pub fn write_list<T>(out: &mut String, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write(out, item);
    }
}
