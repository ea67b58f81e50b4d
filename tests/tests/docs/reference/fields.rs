//! Tables of fields, from JSON Schema.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::{cell, head, row};

/// Most words whose meaning stands beside them.
const WORDS_MAX: usize = 8;

/// One more column: its name, and what it has for a field's path.
pub type Column<'a> = (&'a str, &'a dyn Fn(&str) -> String);

/// Makes tables of the fields of one schema and of those that are inside.
pub struct Tables<'a> {
    /// Where what is referred to stands.
    pub document: &'a Value,
    /// A page of its own for a field, by its path, where there is one.
    pub elsewhere: &'a [(&'a str, &'a str)],
    /// What stands before a name in a heading: `#` for each level.
    pub level: &'a str,
    /// More columns.
    pub more: &'a [Column<'a>],
}

/// What a schema says once references and absence are taken off it.
pub fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(at) = schema["$ref"].as_str() {
        return resolve(
            document,
            document.pointer(at.trim_start_matches('#')).unwrap(),
        );
    }
    for wrap in ["anyOf", "oneOf", "allOf"] {
        let Some(choices) = schema[wrap].as_array() else {
            continue;
        };
        let mut some = choices.iter().filter(|one| one["type"] != "null");
        if let (Some(one), None) = (some.next(), some.next()) {
            return resolve(document, one);
        }
    }
    schema
}

/// The words that may stand here, with what they mean; empty when it is not a choice of words.
fn words(schema: &Value) -> Vec<(String, String)> {
    let listed = schema["enum"].as_array().into_iter().flatten();
    let mut found: Vec<(String, String)> = listed
        .filter_map(|word| word.as_str().map(|word| (word.to_owned(), String::new())))
        .collect();
    let choices = ["oneOf", "anyOf"]
        .iter()
        .find_map(|key| schema[key].as_array());
    for one in choices.into_iter().flatten() {
        match one["const"].as_str() {
            Some(word) => {
                let says = one["description"].as_str().unwrap_or_default();
                found.push((word.to_owned(), says.to_owned()));
            }
            None => found.extend(words(one)),
        }
    }
    found
}

/// The one type that is not null.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(types) => types
            .iter()
            .find_map(|t| t.as_str().filter(|t| *t != "null")),
        one => one.as_str(),
    }
    .unwrap_or("")
}

/// From where to where a number may be.
pub fn range(schema: &Value) -> String {
    let bound = |key: &str| schema[key].as_f64().map(|bound| bound.to_string());
    match (
        bound("minimum").filter(|least| least != "0" || kind(schema) == "number"),
        bound("maximum"),
    ) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    }
}

/// A value as TOML has it.
fn written(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(written).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

impl Tables<'_> {
    /// What a field is, in words.
    fn type_of(&self, schema: &Value) -> String {
        let schema = resolve(self.document, schema);
        let choice = words(schema);
        if !choice.is_empty() {
            let shown: Vec<String> = choice.iter().map(|(word, _)| format!("`{word}`")).collect();
            return shown.join(", ");
        }
        if let Some(word) = schema["const"].as_str() {
            return format!("`{word}`");
        }
        match kind(schema) {
            "integer" => format!("integer{}", range(schema)),
            "number" => format!("number{}", range(schema)),
            "boolean" => "yes or no".to_owned(),
            "string" => "text".to_owned(),
            "array" => format!("list of {}", self.type_of(&schema["items"])),
            "object" => match &schema["additionalProperties"] {
                inner @ Value::Object(_) => format!("{} by name", self.type_of(inner)),
                _ => "table".to_owned(),
            },
            _ if schema["anyOf"].is_array() || schema["oneOf"].is_array() => {
                "one of several".to_owned()
            }
            _ => "anything".to_owned(),
        }
    }

    fn default_of(&self, name: &str, object: &Value, schema: &Value) -> String {
        let required = object["required"].as_array().into_iter().flatten();
        let is_empty_text = schema["default"] == "";
        if required.into_iter().any(|one| one == name) || is_empty_text {
            return "needed".to_owned();
        }
        let is_flag = kind(resolve(self.document, schema)) == "boolean";
        match &schema["default"] {
            Value::Null if is_flag => "`false`".to_owned(),
            Value::Null => String::new(),
            Value::Array(none) if none.is_empty() => String::new(),
            Value::Object(_) => String::new(),
            value => format!("`{}`", written(value)),
        }
    }

    /// The table of an object's fields, then those of what is inside it.
    pub fn write(&self, out: &mut String, path: &str, object: &Value) {
        let mut inside = Vec::new();
        let mut names = vec!["key", "type", "default"];
        names.splice(1..1, self.more.iter().map(|(name, _)| *name));
        names.push("meaning");
        head(out, &names);
        let properties = object["properties"].as_object().into_iter().flatten();
        for (name, schema) in properties {
            let at = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let meant = resolve(self.document, schema);
            let mut says = schema["description"]
                .as_str()
                .or(meant["description"].as_str())
                .unwrap_or("")
                .to_owned();
            let of_items = words(resolve(self.document, &meant["items"]));
            let choice = words(meant).into_iter().chain(of_items);
            // A long list has a table of its own on a page that says more.
            let told: Vec<_> = choice.filter(|(_, meaning)| !meaning.is_empty()).collect();
            for (word, meaning) in told.iter().filter(|_| told.len() <= WORDS_MAX) {
                let meaning = meaning.trim_end_matches('.');
                let _ = write!(says, " `{word}`: {meaning}.");
            }
            let mut shown = self.type_of(schema);
            let page = self.elsewhere.iter().find(|(path, _)| *path == at);
            if let Some((_, link)) = page {
                shown = (*link).to_owned();
            } else if let Some((inner, inner_at)) = self.inner(meant, &at) {
                let anchor: String = inner_at
                    .to_lowercase()
                    .chars()
                    .filter(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                shown = format!("[{shown}](#{anchor})");
                inside.push((inner_at, inner));
            }
            let own = format!("`{name}`");
            let default = self.default_of(name, object, schema);
            let more: Vec<String> = self.more.iter().map(|(_, of)| of(&at)).collect();
            let mut cells = vec![own.as_str()];
            cells.extend(more.iter().map(String::as_str));
            let says = cell(&says);
            cells.extend([shown.as_str(), default.as_str(), says.as_str()]);
            row(out, &cells);
        }
        out.push('\n');
        let mut seen = BTreeSet::new();
        for (at, inner) in inside.into_iter().filter(|(at, _)| seen.insert(at.clone())) {
            let _ = writeln!(out, "{} {at}\n", self.level);
            if let Some(says) = inner["description"].as_str() {
                let _ = writeln!(out, "{}\n", cell(says));
            }
            self.write(out, &at, inner);
        }
    }

    /// The object that a field is, or is a list or a table of, and how its heading writes it.
    fn inner<'s>(&'s self, schema: &'s Value, at: &str) -> Option<(&'s Value, String)> {
        if schema["properties"].is_object() {
            return Some((schema, at.to_owned()));
        }
        let item = resolve(self.document, &schema["items"]);
        (item["properties"].is_object()).then(|| (item, format!("{at}[]")))
    }
}
