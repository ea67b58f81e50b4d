//! Where in a file something stands.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A place in a text, both counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its line.
    pub line: usize,
    /// Its column.
    pub column: usize,
}

impl Place {
    /// The place of a byte.
    pub fn of(text: &str, byte: usize) -> Place {
        let before = &text.as_bytes()[..byte.min(text.len())];
        let line_begin = before
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        Place {
            line: before.iter().filter(|&&b| b == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[line_begin..])
                .chars()
                .count()
                + 1,
        }
    }

    /// The place of a key such as `listeners[0].certificates[1].key_file`; of what it would stand in when it is not
    /// written. `None` for a text that is not TOML.
    pub fn of_key(text: &str, path: &str) -> Option<Place> {
        let root = DeTable::parse(text).ok()?;
        let mut found = root.span().start;
        let mut table = Some(root.get_ref());
        let mut value: Option<&Spanned<DeValue<'_>>> = None;
        for part in parts(path) {
            match part {
                Part::Key(name) => {
                    let Some((key, inner)) = table.and_then(|table| {
                        table.iter().find(|(key, _)| key.get_ref().as_ref() == name)
                    }) else {
                        break;
                    };
                    found = key.span().start;
                    value = Some(inner);
                }
                Part::Index(index) => {
                    let element = value.and_then(|value| value.get_ref().as_array()?.get(index));
                    let Some(element) = element else {
                        break;
                    };
                    found = element.span().start;
                    value = Some(element);
                }
            }
            table = value.and_then(|value| value.get_ref().as_table());
        }
        Some(Place::of(text, found))
    }
}

enum Part<'a> {
    Key(&'a str),
    Index(usize),
}

/// Keys with dots or brackets in them are written `table."such.a.key"`.
fn parts(path: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some((name, behind)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
            parts.push(Part::Key(name));
            rest = behind;
        } else if let Some((index, behind)) =
            rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        {
            parts.push(Part::Index(index.parse().unwrap_or(usize::MAX)));
            rest = behind;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (name, behind) = rest.split_at(end);
            parts.push(Part::Key(name));
            rest = behind;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "node = \"a\"\n\n[[listeners]]\nname = \"x\"\n[[listeners]]\n  service = \"b\"\n  \
        by_server_name = { \"a.b\" = \"é\", e = \"d\" }\n[limits]\ndrain_wait_ms_max = 0\n";

    #[test]
    fn keys_are_found() {
        let cases = [
            ("node", 1, 1),
            ("limits.drain_wait_ms_max", 9, 1),
            ("listeners[1].service", 6, 3),
            ("listeners[1].by_server_name.\"a.b\"", 7, 22),
            ("listeners[1].by_server_name.e", 7, 35),
            // Not written: the table that it would stand in.
            ("listeners[1].address", 5, 1),
            ("limits.connections_max", 8, 2),
            ("workers", 1, 1),
        ];
        for (path, line, column) in cases {
            assert_eq!(
                Place::of_key(TEXT, path),
                Some(Place { line, column }),
                "{path}"
            );
        }
        assert_eq!(Place::of_key("node = ", "node"), None);
    }
}
