//! Environment variables in a configuration: `node = "${NODE}"`, so that one file does for all nodes of a fleet.
//!
//! A value stands inside a TOML string; one that could end it, or go on in another line, is refused. What does not look like a variable's
//! name in `${…}` is left as it is.

/// Puts values in for `${NAME}`. `variable` says what a name stands for.
///
/// # Errors
/// A variable that is not set, or a value that no TOML string can hold as it is.
pub fn put_in(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, behind) = rest.split_at(at);
        out.push_str(before);
        let name = behind[2..].split('}').next().unwrap_or_default();
        let is_name = name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if name.is_empty() || !is_name || !behind[2 + name.len()..].starts_with('}') {
            out.push_str("${");
            rest = &behind[2..];
            continue;
        }
        let value =
            variable(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
        let ends_string = |c: char| c.is_control() || matches!(c, '"' | '\'' | '\\');
        if value.contains(ends_string) {
            return Err(format!(
                "the environment variable {name} has a quote, a backslash or a control character"
            ));
        }
        out.push_str(&value);
        rest = &behind[2 + name.len() + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::put_in;

    #[test]
    fn names_stand_for_values_and_nothing_else_does() {
        let variable = |name: &str| match name {
            "NODE" => Some("edge-1".to_owned()),
            "BAD" => Some("a\"\nb".to_owned()),
            _ => None,
        };
        let cases = [
            ("node = \"${NODE}\"", Ok("node = \"edge-1\"")),
            ("a${NODE}b${NODE}", Ok("aedge-1bedge-1")),
            (
                "${node} ${} ${NODE $NODE ${",
                Ok("${node} ${} ${NODE $NODE ${"),
            ),
            ("${ABSENT}", Err("ABSENT is not set")),
            ("${BAD}", Err("BAD has a quote")),
        ];
        for (text, wanted) in cases {
            match (put_in(text, variable), wanted) {
                (Ok(is), Ok(wanted)) => assert_eq!(is, wanted),
                (Err(is), Err(part)) => assert!(is.contains(part), "{is}"),
                (is, _) => panic!("{text}: {is:?}"),
            }
        }
    }
}
