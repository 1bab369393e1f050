//! Reading TOML with places: a [`Section`] hands out typed values and remembers what was asked for, so that the keys
//! a section knows are the keys that were read, and all others are unknown.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml_edit::{Item, TableLike, Value};

use super::hosts::read_ports;
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::{Problem, ValueOrigin};

/// What one reading of one file has found so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    file: &'a str,
    problems: RefCell<Vec<(usize, Problem)>>,
    known: RefCell<BTreeSet<String>>,
    origins: RefCell<BTreeMap<String, ValueOrigin>>,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// One table, or its absence: then every key has its default.
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    /// Dotted, as in `SHOW CONFIG`.
    path: String,
    /// As `path`, with NAME for what users choose: how the documentation lists the keys.
    pattern: String,
    table: Option<&'a dyn TableLike>,
    span: Range<usize>,
    asked: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str, file: &'a str) -> Self {
        Self { text, file, problems: RefCell::default(), known: RefCell::default(), origins: RefCell::default() }
    }

    /// The file's name, as problems show it.
    pub fn file(&self) -> &'a str {
        self.file
    }

    /// Remembers that a key was set elsewhere than in the file.
    pub fn set_by(&self, key: &str, origin: ValueOrigin) {
        self.origins.borrow_mut().insert(key.to_owned(), origin);
    }

    /// Records a problem at a byte of the file.
    pub fn problem(&self, span: &Range<usize>, message: impl Into<String>) {
        let problem = Problem { place: self.place(span.start), message: message.into() };
        self.problems.borrow_mut().push((span.start, problem));
    }

    /// Records a problem that stands elsewhere, as in a variable.
    pub fn problem_at(&self, place: &str, message: impl Into<String>) {
        self.problems.borrow_mut().push((usize::MAX, Problem { place: place.to_owned(), message: message.into() }));
    }

    /// The problems in the file's order, every key that was asked for, where each key that is set was set.
    pub fn finish(self) -> (Vec<Problem>, BTreeSet<String>, BTreeMap<String, ValueOrigin>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|(at, _)| *at);
        let problems = problems.into_iter().map(|(_, problem)| problem).collect();
        (problems, self.known.into_inner(), self.origins.into_inner())
    }

    /// `file:line:column`, both from 1, the column in characters.
    fn place(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.file)
    }
}

impl<'a> Section<'a> {
    /// The file's top.
    pub fn top(reader: &'a Reader<'a>, table: &'a dyn TableLike) -> Self {
        Self {
            reader,
            path: String::new(),
            pattern: String::new(),
            table: Some(table),
            span: 0..0,
            asked: BTreeSet::new(),
        }
    }

    /// Where the section stands.
    pub fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// Records a problem of this section.
    pub fn problem(&self, span: &Range<usize>, message: impl Into<String>) {
        self.reader.problem(span, message);
    }

    /// Whether the key is there, well or not.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        let Some(table) = self.table else { return };
        for (key, item) in table.iter().filter(|(key, _)| !self.asked.contains(*key)) {
            let span = self.key_span(key).or_else(|| item.span()).unwrap_or_else(|| self.span.clone());
            let place = if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) };
            let near = nearest(key, self.asked.iter().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", self.asked.iter().cloned().collect::<Vec<_>>().join(", ")),
            };
            self.reader.problem(&span, format!("unknown key `{key}`{place}; {help}"));
        }
    }

    /// A text, read by `read`.
    pub fn parsed<T>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<Placed<T>> {
        let text = self.text(key)?;
        match read(&text.value) {
            Ok(value) => Some(Placed { value, span: text.span }),
            Err(message) => {
                self.reader.problem(&text.span, message);
                None
            }
        }
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Option<Placed<String>> {
        let (item, span) = self.item(key)?;
        match item.as_str() {
            Some(text) => Some(Placed { value: text.to_owned(), span }),
            None => self.wrong_type(key, "a text in quotes", item, &span),
        }
    }

    /// A text, or a list of texts.
    pub fn texts(&mut self, key: &str) -> Vec<Placed<String>> {
        let Some((item, span)) = self.item(key) else { return Vec::new() };
        if let Some(text) = item.as_str() {
            return vec![Placed { value: text.to_owned(), span }];
        }
        let Some(list) = item.as_array() else {
            self.wrong_type::<()>(key, "a text or a list of texts", item, &span);
            return Vec::new();
        };
        if list.is_empty() {
            self.reader.problem(&span, format!("`{key}` is an empty list; leave it out"));
        }
        let mut texts = Vec::new();
        for value in list.iter() {
            let span = value.span().unwrap_or_else(|| span.clone());
            match value.as_str() {
                Some(text) => texts.push(Placed { value: text.to_owned(), span }),
                None => self.reader.problem(&span, format!("`{key}` is a list of texts in quotes")),
            }
        }
        texts
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, key: &str, default: T, words: &[(&str, T)]) -> T {
        self.parsed(key, |text| pick(key, text, words)).map_or(default, |placed| placed.value)
    }

    /// A whole number.
    pub fn number<T: Into<u64> + TryFrom<u64>>(&mut self, key: &str, default: T, range: RangeInclusive<u64>) -> T {
        let Some((item, span)) = self.item(key) else { return default };
        let Some(number) = item.as_integer() else {
            self.wrong_type::<()>(key, "a whole number", item, &span);
            return default;
        };
        let number = u64::try_from(number).ok().filter(|number| range.contains(number));
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) => number,
            None => self.out_of_range(key, &span, range.start(), range.end(), default),
        }
    }

    /// As [`Self::number`], for counts and bytes held in memory.
    pub fn count(&mut self, key: &str, default: usize, range: RangeInclusive<u64>) -> usize {
        let value = self.number(key, u64::try_from(default).unwrap_or(u64::MAX), range);
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    /// A port, or a text with one or more of them.
    pub fn ports(&mut self, key: &str) -> Option<Placed<Vec<u16>>> {
        let (item, span) = self.item(key)?;
        if item.as_str().is_some() {
            return self.parsed(key, read_ports);
        }
        let port = u16::try_from(self.number(key, 0_u64, 1..=u64::from(u16::MAX))).ok().filter(|port| *port > 0)?;
        Some(Placed { value: vec![port], span })
    }

    /// true or false.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        let Some((item, span)) = self.item(key) else { return default };
        item.as_bool().or_else(|| self.wrong_type(key, "true or false", item, &span)).unwrap_or(default)
    }

    /// A duration as "5s".
    pub fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let Some(found) = self.parsed(key, parse_duration) else { return default };
        if range.contains(&found.value) {
            return found.value;
        }
        self.out_of_range(key, &found.span, show_duration(*range.start()), show_duration(*range.end()), default)
    }

    /// A size as "16MiB", or bytes.
    pub fn size(&mut self, key: &str, default: usize, range: RangeInclusive<u64>) -> usize {
        let Some((item, span)) = self.item(key) else { return default };
        let bytes = match (item.as_str(), item.as_integer()) {
            (Some(text), _) => match parse_size(text) {
                Ok(bytes) => Some(bytes),
                Err(message) => {
                    self.reader.problem(&span, message);
                    return default;
                }
            },
            (None, Some(bytes)) => u64::try_from(bytes).ok(),
            (None, None) => {
                self.wrong_type::<()>(key, "a size such as \"16MiB\", or a whole number of bytes", item, &span);
                return default;
            }
        };
        match bytes.filter(|bytes| range.contains(bytes)).and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) => bytes,
            None => self.out_of_range(key, &span, show_size(*range.start()), show_size(*range.end()), default),
        }
    }

    /// An address and port.
    pub fn address(&mut self, key: &str) -> Option<Placed<SocketAddr>> {
        self.parsed(key, parse_address)
    }

    /// An address and port, or "off".
    pub fn address_or_off(&mut self, key: &str) -> Option<Placed<Option<SocketAddr>>> {
        self.parsed(key, parse_address_or_off)
    }

    /// A sub-table; an absent one has only defaults.
    pub fn section(&mut self, key: &str) -> Section<'a> {
        let table = self.item_of(key, false).and_then(|(item, span)| match item.as_table_like() {
            Some(table) => Some((table, span)),
            None => self.wrong_type(key, "a table", item, &span),
        });
        self.child(key, key, table)
    }

    /// A list of tables, `[[key]]` or `[{…}, {…}]`.
    pub fn sections(&mut self, key: &str) -> Vec<Section<'a>> {
        let Some((item, span)) = self.item_of(key, false) else { return Vec::new() };
        let mut found = Vec::new();
        match item {
            Item::ArrayOfTables(tables) => {
                for table in tables.iter() {
                    let span = table.span().unwrap_or_else(|| span.clone());
                    found.push(self.child(key, key, Some((table as &dyn TableLike, span))));
                }
            }
            Item::Value(Value::Array(list)) => {
                for value in list.iter() {
                    let span = value.span().unwrap_or_else(|| span.clone());
                    match value.as_inline_table() {
                        Some(table) => found.push(self.child(key, key, Some((table as &dyn TableLike, span)))),
                        None => self.reader.problem(&span, format!("`{key}` is a list of tables")),
                    }
                }
            }
            Item::None | Item::Value(_) | Item::Table(_) => {
                self.wrong_type::<()>(key, "a list of tables", item, &span);
            }
        }
        found
    }

    /// Every sub-table that nobody asked for yet, under the name that the user chose.
    pub fn named_sections(&mut self) -> Vec<(String, Section<'a>)> {
        let Some(table) = self.table else { return Vec::new() };
        let names: Vec<String> = table
            .iter()
            .filter(|(key, item)| item.is_table_like() && !self.asked.contains(*key))
            .map(|(key, _)| key.to_owned())
            .collect();
        let mut found = Vec::new();
        for name in names {
            let Some(item) = table.get(&name) else { continue };
            let Some(sub) = item.as_table_like() else { continue };
            let span = self.key_span(&name).or_else(|| item.span()).unwrap_or_else(|| self.span.clone());
            self.asked.insert(name.clone());
            found.push((name.clone(), self.child(&name, "NAME", Some((sub, span)))));
        }
        found
    }

    fn child(&self, key: &str, pattern: &str, table: Option<(&'a dyn TableLike, Range<usize>)>) -> Section<'a> {
        let (table, span) = table.map_or((None, self.span.clone()), |(table, span)| (Some(table), span));
        let join = |path: &str, key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        Section {
            reader: self.reader,
            path: join(&self.path, key),
            pattern: join(&self.pattern, pattern),
            table,
            span,
            asked: BTreeSet::new(),
        }
    }

    fn item(&mut self, key: &str) -> Option<(&'a Item, Range<usize>)> {
        self.item_of(key, true)
    }

    /// The one way to an item: whoever comes here makes the key a known one.
    fn item_of(&mut self, key: &str, value: bool) -> Option<(&'a Item, Range<usize>)> {
        self.asked.insert(key.to_owned());
        if value {
            self.reader.known.borrow_mut().insert(format!("{}.{key}", self.pattern));
        }
        let item = self.table?.get(key).filter(|item| !item.is_none())?;
        let span = item.span().or_else(|| self.key_span(key)).unwrap_or_else(|| self.span.clone());
        if value {
            self.reader.set_by(&format!("{}.{key}", self.path), ValueOrigin::File);
        }
        Some((item, span))
    }

    fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.table?.get_key_value(key)?.0.span()
    }

    fn wrong_type<T>(&self, key: &str, wanted: &str, found: &Item, span: &Range<usize>) -> Option<T> {
        self.reader.problem(span, format!("`{key}` has to be {wanted}, not {}", kind(found)));
        None
    }

    fn out_of_range<T>(&self, key: &str, span: &Range<usize>, low: impl Display, high: impl Display, default: T) -> T {
        self.reader.problem(span, format!("`{key}` has to be from {low} to {high}"));
        default
    }
}

/// The value of a word; the error lists the allowed ones.
pub(super) fn pick<T: Copy>(key: &str, text: &str, words: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let near = nearest(text, words.iter().map(|(word, _)| *word));
    let near = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
    Err(format!("`{key}` cannot be \"{text}\"; it is one of {}{near}", all.join(", ")))
}

/// An address and port.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("\"{text}\" is no address with a port, such as \"127.0.0.1:6432\" or \"[::1]:6432\""))
}

/// An address and port, or "off".
pub(super) fn parse_address_or_off(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    parse_address(text).map(Some).map_err(|message| format!("{message}, nor \"off\""))
}

/// The known name most like this one, if one is like it at all.
pub(super) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

fn kind(item: &Item) -> &'static str {
    match item {
        Item::None => "nothing",
        Item::Table(_) | Item::Value(Value::InlineTable(_)) => "a table",
        Item::ArrayOfTables(_) => "a list of tables",
        Item::Value(Value::String(_)) => "a text",
        Item::Value(Value::Integer(_)) => "a number",
        Item::Value(Value::Float(_)) => "a number with a point",
        Item::Value(Value::Boolean(_)) => "true or false",
        Item::Value(Value::Datetime(_)) => "a date or time",
        Item::Value(Value::Array(_)) => "a list",
    }
}
