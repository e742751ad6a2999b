//! Reads values from layers. A wrong value is recorded as a fault, and reading continues.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;

use proto::units::micros_of;

use crate::plan::layers::{Fault, Layer, Node, Shape, Value};
use crate::plan::schema::{Choice, Count, Flag, Key, Number, Optional, SECONDS_MAX, Seconds, Text};

/// The value of a key and the layer that contains it.
pub(in crate::plan) struct Found<'a> {
    pub(in crate::plan) layer: &'a Layer,
    pub(in crate::plan) node: &'a Node,
    pub(in crate::plan) name: String,
}

impl Found<'_> {
    pub(in crate::plan) fn item<'b>(&'b self, n: usize, node: &'b Node) -> Found<'b> {
        Found { layer: self.layer, node, name: format!("{}[{n}]", self.name) }
    }
}

pub(in crate::plan) struct Reader<'a> {
    pub(in crate::plan) layers: &'a [Layer],
    pub(in crate::plan) faults: RefCell<Vec<Fault>>,
}

impl<'a> Reader<'a> {
    pub(in crate::plan) fn fault(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    pub(in crate::plan) fn wrong(&self, found: &Found<'_>, message: impl Into<String>) {
        self.fault(found.layer.fault(Some(found.node.span.clone()), &found.name, message));
    }

    /// Records a missing key.
    pub(in crate::plan) fn missing(&self, name: &str, message: &str) {
        let file = self.layers.iter().find(|layer| layer.shape == Shape::Plan && layer.is_file());
        self.fault(Fault::missing(file, name, message));
    }

    /// Finds a key in the last layer that contains it.
    pub(in crate::plan) fn find(&self, section: &str, key: &str) -> Option<Found<'a>> {
        self.layers.iter().rev().find_map(|layer| {
            layer.find(section, key).map(|node| Found { layer, node, name: format!("{section}.{key}") })
        })
    }

    pub(in crate::plan) fn text(&self, found: &Found<'_>) -> Option<String> {
        match &found.node.value {
            Value::Text(text) if text.chars().any(char::is_control) => {
                self.wrong(found, "contains a control character; give one line of plain text");
                None
            }
            Value::Text(text) => Some(text.clone()),
            other => {
                self.wrong(found, format!("a string is expected, this is {}", other.kind()));
                None
            }
        }
    }

    pub(in crate::plan) fn integer(&self, found: &Found<'_>, range: RangeInclusive<u64>, what: &str) -> Option<u64> {
        let bounds = format!("give {} to {}", range.start(), range.end());
        match &found.node.value {
            Value::Integer(Ok(number)) => match u64::try_from(*number) {
                Ok(number) if range.contains(&number) => Some(number),
                _ if *number == 0 => {
                    self.wrong(found, format!("0 {what}; give at least {}", range.start()));
                    None
                }
                _ => {
                    self.wrong(found, format!("{number} {what}; {bounds}"));
                    None
                }
            },
            Value::Integer(Err(text)) => {
                self.wrong(found, format!("{text} {what}; {bounds}"));
                None
            }
            other => {
                self.wrong(found, format!("an integer is expected, this is {}", other.kind()));
                None
            }
        }
    }

    pub(in crate::plan) fn number(&self, found: &Found<'_>, range: RangeInclusive<f64>, unit: &str) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "out of every range anyway")]
        let number = match &found.node.value {
            Value::Float(number) => *number,
            Value::Integer(Ok(number)) => *number as f64,
            Value::Integer(Err(_)) => f64::INFINITY,
            other => {
                self.wrong(found, format!("a number is expected, this is {}", other.kind()));
                return None;
            }
        };
        if range.contains(&number) {
            Some(number)
        } else {
            self.wrong(found, format!("{number} {unit}; give {} to {}", range.start(), range.end()));
            None
        }
    }

    pub(in crate::plan) fn seconds(&self, found: &Found<'_>, at_least: f64) -> Option<u64> {
        self.number(found, at_least..=SECONDS_MAX, "seconds").map(micros_of)
    }

    pub(in crate::plan) fn flag(&self, found: &Found<'_>) -> Option<bool> {
        match &found.node.value {
            Value::Bool(flag) => Some(*flag),
            other => {
                self.wrong(found, format!("true or false is expected, this is {}", other.kind()));
                None
            }
        }
    }

    pub(in crate::plan) fn choice<T: Copy>(&self, found: &Found<'_>, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(found)?;
        let choice = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if choice.is_none() {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            let hint = nearest(&text, choices.iter().map(|(name, _)| *name));
            self.wrong(found, format!("{text:?} is not known{hint}; give {}", names.join(" or ")));
        }
        choice
    }

    /// Reads a list. A single value counts as a list of one.
    pub(in crate::plan) fn list<T>(&self, found: &Found<'_>, read: impl Fn(&Found<'_>) -> Option<T>) -> Option<Vec<T>> {
        match &found.node.value {
            Value::List(items) => {
                let values: Vec<Option<T>> =
                    items.iter().enumerate().map(|(n, node)| read(&found.item(n, node))).collect();
                values.into_iter().collect()
            }
            _ => read(found).map(|value| vec![value]),
        }
    }

    pub(in crate::plan) fn no_doubles<T: PartialEq + Display>(&self, found: &Found<'_>, values: &[T]) {
        let Value::List(items) = &found.node.value else { return };
        for (n, value) in values.iter().enumerate() {
            if let Some(first) = values[..n].iter().position(|other| other == value) {
                let item = found.item(n, &items[n]);
                self.wrong(&item, format!("the same as {}[{first}]; give each value once", found.name));
            }
        }
    }

    // The `_of` methods return the default of a key that no layer contains.

    pub(in crate::plan) fn key<K>(&self, key: &Key<K>) -> Option<Found<'a>> {
        self.find(key.section, key.name)
    }

    pub(in crate::plan) fn text_of(&self, key: &Key<Text>) -> String {
        self.key(key).and_then(|found| self.text(&found)).unwrap_or_else(|| key.kind.0.to_owned())
    }

    pub(in crate::plan) fn optional_text_of(&self, key: &Key<Optional>) -> Option<String> {
        self.key(key).and_then(|found| self.text(&found))
    }

    pub(in crate::plan) fn count_of(&self, key: &Key<Count>) -> Option<u64> {
        self.given_count_of(key).or(key.kind.2)
    }

    /// Ignores the default: `None` if the key is not given.
    pub(in crate::plan) fn given_count_of(&self, key: &Key<Count>) -> Option<u64> {
        let Count(range, what, _) = &key.kind;
        self.key(key).and_then(|found| self.integer(&found, range.clone(), what))
    }

    /// Reads a count whose range fits into 32 bits.
    pub(in crate::plan) fn small_of(&self, key: &Key<Count>) -> u32 {
        self.count_of(key).and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
    }

    pub(in crate::plan) fn seconds_of(&self, key: &Key<Seconds>) -> Option<u64> {
        let Seconds(at_least, default) = key.kind;
        self.key(key).and_then(|found| self.seconds(&found, at_least)).or_else(|| default.map(micros_of))
    }

    pub(in crate::plan) fn number_of(&self, key: &Key<Number>) -> f64 {
        let Number(range, unit, default) = &key.kind;
        self.key(key).and_then(|found| self.number(&found, range.clone(), unit)).unwrap_or(*default)
    }

    pub(in crate::plan) fn flag_of(&self, key: &Key<Flag>) -> bool {
        self.key(key).and_then(|found| self.flag(&found)).unwrap_or(key.kind.0)
    }

    pub(in crate::plan) fn choice_of<T: Copy>(&self, key: &Key<Choice<T>>) -> T {
        let choices = key.kind.0;
        self.key(key).and_then(|found| self.choice(&found, choices)).unwrap_or(choices[0].1)
    }
}

/// Returns `; did you mean X?` for the most similar name, or an empty string.
pub(in crate::plan) fn nearest<'n>(text: &str, names: impl Iterator<Item = &'n str>) -> String {
    names
        .map(|name| (strsim::damerau_levenshtein(text, name), name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .map_or_else(String::new, |(_, name)| format!("; did you mean {name}?"))
}
