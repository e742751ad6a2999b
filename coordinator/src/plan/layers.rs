//! PURE: reads TOML text into layers of values with their positions, and collects the faults.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::CONNECTION_TARGET_KEYS;
use crate::text::printable;

/// A value and its position in the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub span: Range<usize>,
    pub value: Value,
}

/// A TOML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    /// `Err` holds the text of a number that exceeds 64 bits.
    Integer(Result<i64, String>),
    Float(f64),
    Bool(bool),
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// One key of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

impl Value {
    /// The name of the value's type, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a boolean",
            Self::Date => "a date",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
        }
    }

    /// The entries of a table; empty for any other value.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Table(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key in a table; `None` for any other value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }
}

fn table(table: DeTable<'_>) -> Value {
    let entry = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, Spanned<DeValue<'_>>)| Entry {
        key_span: key.span(),
        key: key.into_inner().into_owned(),
        node: node(value),
    };
    Value::Table(table.into_iter().map(entry).collect())
}

fn node(spanned: Spanned<DeValue<'_>>) -> Node {
    let span = spanned.span();
    let value = match spanned.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| number.to_string()))
        }
        // A number that overflows becomes infinite, which no range check accepts.
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Bool(flag),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::List(items.into_iter().map(node).collect()),
        DeValue::Table(inner) => table(inner),
    };
    Node { span, value }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The name of a file, as the user gave it.
    File(String),
    /// The text of a flag, as the user wrote it.
    Flag(String),
}

/// The layout of a layer's top level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A plan with `[section]` tables.
    Plan,
    /// A connection file: keys of the target and of `[server]`, without section tables.
    Connection,
}

/// The values of one source. A later layer overrides an earlier one.
#[derive(Debug)]
pub struct Layer {
    origin: Origin,
    pub(super) shape: Shape,
    text: String,
    root: Value,
}

/// One fault with its position. `Display` is one line: `plan.toml:14:17: grid.batch_sizes[3]: ...`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    origin: String,
    /// Counted from 1. `None` for a flag and for a missing key.
    line_column: Option<(usize, usize)>,
    key: String,
    message: String,
    kind: FaultKind,
}

/// The kind of a fault. Some kinds hide others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The text is not valid TOML.
    Syntax,
    /// A required key is missing.
    Missing,
    /// The connection file can't be read.
    Connection,
    /// A value or a key is wrong.
    Wrong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if let Some((line, column)) = self.line_column {
            write!(f, ":{line}:{column}")?;
        }
        let message = printable(&self.message);
        if self.key.is_empty() { write!(f, ": {message}") } else { write!(f, ": {}: {message}", printable(&self.key)) }
    }
}

impl Layer {
    /// Reads a file's text. Returns the readable part and any syntax errors.
    #[must_use]
    pub fn file(name: &str, text: &str, shape: Shape) -> (Self, Vec<Fault>) {
        Self::read(Origin::File(name.to_owned()), text, shape)
    }

    /// Reads the `KEY=VALUE` of a `--set`. A value that is not valid TOML becomes a string.
    ///
    /// # Errors
    /// Returns a fault that shows the expected form.
    pub fn set(assignment: &str) -> Result<Self, Fault> {
        let origin = Origin::Flag(format!("--set {assignment}"));
        let refuse = |message: &str| Fault {
            origin: format!("--set {assignment}"),
            line_column: None,
            key: String::new(),
            message: message.to_owned(),
            kind: FaultKind::Wrong,
        };
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(refuse("give SECTION.KEY=VALUE, for example grid.batch_sizes=[32,128]"));
        };
        let bare =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if key.trim().split('.').count() < 2 || !key.trim().split('.').all(bare) {
            return Err(refuse("the key has the form SECTION.KEY, for example session.steps"));
        }
        let as_toml = Self::read(origin.clone(), &format!("{key} = {value}"), Shape::Plan);
        if as_toml.1.is_empty() {
            return Ok(as_toml.0);
        }
        let quoted = format!("{key} = {}", toml::Value::String(value.trim().to_owned()));
        match Self::read(origin, &quoted, Shape::Plan) {
            (layer, faults) if faults.is_empty() => Ok(layer),
            _ => Err(refuse("this value can't be read")),
        }
    }

    /// Makes a layer of one value that a flag such as `--target` sets.
    #[must_use]
    pub fn flag(flag: &str, key: &str, value: &toml::Value) -> Self {
        Self::read(Origin::Flag(flag.to_owned()), &format!("{key} = {value}"), Shape::Plan).0
    }

    fn read(origin: Origin, text: &str, shape: Shape) -> (Self, Vec<Fault>) {
        let (parsed, errors) = DeTable::parse_recoverable(text);
        let layer = Self { origin, shape, text: text.to_owned(), root: table(parsed.into_inner()) };
        let faults = errors
            .into_iter()
            .map(|error| Fault {
                kind: FaultKind::Syntax,
                ..layer.fault(error.span(), "", error.message().trim().replace('\n', ", "))
            })
            .collect();
        (layer, faults)
    }

    /// Makes a fault in this layer. `span` is a byte range in the text.
    pub(super) fn fault(&self, span: Option<Range<usize>>, key: &str, message: impl Into<String>) -> Fault {
        let (origin, line_column) = match &self.origin {
            Origin::File(name) => (name.clone(), span.map(|span| line_column(&self.text, span.start))),
            Origin::Flag(flag) => (flag.clone(), None),
        };
        Fault { origin, line_column, key: key.to_owned(), message: message.into(), kind: FaultKind::Wrong }
    }

    pub(super) fn is_file(&self) -> bool {
        matches!(self.origin, Origin::File(_))
    }

    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// Looks a key up according to the layer's shape.
    pub(super) fn find(&self, section: &str, key: &str) -> Option<&Node> {
        match self.shape {
            Shape::Plan => self.root.get(section)?.value.get(key),
            Shape::Connection
                if section == "server" || (section == "target" && CONNECTION_TARGET_KEYS.contains(&key)) =>
            {
                self.root.get(key)
            }
            Shape::Connection => None,
        }
    }

    /// The text value of a key that is needed before the plan is checked.
    #[must_use]
    pub fn text_of(&self, section: &str, key: &str) -> Option<&str> {
        match &self.find(section, key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl Layer {
    /// Whether this layer names the target.
    #[must_use]
    pub fn find_urls(&self) -> bool {
        self.find("target", "urls").is_some()
    }
}

impl Fault {
    #[must_use]
    pub fn is(&self, kind: FaultKind) -> bool {
        self.kind == kind
    }

    /// Whether the fault is that no layer gives any URLs.
    #[must_use]
    pub fn is_missing_urls(&self) -> bool {
        self.is(FaultKind::Missing) && self.key == "target.urls"
    }

    /// Makes a fault for a missing key. It names the plan's file if there is one.
    #[must_use]
    pub fn missing(file: Option<&Layer>, key: &str, message: &str) -> Self {
        let fault = match file {
            Some(layer) => layer.fault(None, key, message),
            None => Self::general("the command line", key, message),
        };
        Self { kind: FaultKind::Missing, ..fault }
    }

    /// Makes a fault for an unreadable connection file.
    #[must_use]
    pub fn connection(file: &str, message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Connection, ..Self::general(file, "server.connection", message) }
    }

    /// Makes a fault without a position in a layer.
    fn general(origin: &str, key: &str, message: impl Into<String>) -> Self {
        Self {
            origin: origin.to_owned(),
            line_column: None,
            key: key.to_owned(),
            message: message.into(),
            kind: FaultKind::Wrong,
        }
    }
}

/// Line and column, counted from 1. Columns count characters.
fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn syntax_errors_are_all_found_with_their_places() {
        let text = "[grid]\nbatch_sizes = [1, 2\nrepetitions = = 3\n[grid]\nx = 1\nx = 2\n";
        let (_, faults) = Layer::file("plan.toml", text, Shape::Plan);
        assert!(faults.len() >= 2, "{faults:?}");
        assert!(faults.iter().all(|fault| fault.to_string().starts_with("plan.toml:")), "{faults:?}");
    }

    #[test]
    fn doubled_keys_are_named() {
        let (_, faults) = Layer::file("p", "[session]\nsteps = 1\nsteps = 2\n", Shape::Plan);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().starts_with("p:3:1: duplicate key"), "{}", faults[0]);
    }

    #[test]
    fn set_takes_toml_and_bare_words() {
        let layer = Layer::set("grid.batch_sizes=[32, 128]").expect("list");
        assert!(
            matches!(&layer.find("grid", "batch_sizes").expect("key").value, Value::List(items) if items.len() == 2)
        );
        let layer = Layer::set("experiment.variant=cpu-upgrade").expect("word");
        assert_eq!(layer.text_of("experiment", "variant"), Some("cpu-upgrade"));
        let layer = Layer::set("session.launch.kind=ramp").expect("deep");
        assert!(layer.find("session", "launch").is_some());
        for bad in ["steps", "=1", "steps=1", "a b.c=1", "a..b=1"] {
            assert!(Layer::set(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(line_column("ä\nöü = 1", "ä\nöü".len()), (2, 3));
    }

    proptest! {
        #[test]
        fn any_text_is_a_layer_or_a_fault(text in "\\PC{0,80}|[\\[\\]=\"a-z0-9.\\n ]{0,80}") {
            let (_, faults) = Layer::file("p", &text, Shape::Plan);
            for fault in faults {
                prop_assert!(!fault.to_string().contains('\n'));
            }
            let _ = Layer::set(&text);
        }
    }
}
