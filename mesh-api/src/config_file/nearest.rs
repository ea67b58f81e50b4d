//! The known name that a misspelt one probably means.

use strsim::osa_distance;

/// Longest name that is compared, in bytes.
const NAME_LEN_MAX: usize = 64;

/// The parser's message as one line, with the nearest known name where it is about an unknown one.
pub fn with_nearest(message: &str) -> String {
    // Messages of the parser may have more lines.
    let line = message.trim_end().replace('\n', "; ");
    match meant(&line) {
        Some(name) => format!("{line}; did you mean `{name}`?"),
        None => line,
    }
}

/// Of serde's ``unknown field `a`, expected one of `b`, `c` ``: the name that is nearest to the unknown one, if any is near.
fn meant(line: &str) -> Option<&str> {
    let about = line
        .find("unknown field `")
        .or_else(|| line.find("unknown variant `"))?;
    // What stands between back quotes: the unknown name, then those that there are.
    let mut quoted = line[about..].split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    if unknown.len() > NAME_LEN_MAX {
        return None;
    }
    let distances = quoted.map(|name| (osa_distance(unknown, name), name));
    let (least, name) = distances.min()?;
    (least <= unknown.chars().count().max(3) / 3).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_it_means() {
        let cases = [
            (
                "unknown field `rest_lissen`, expected one of `data_dir`, `rest_listen`, `period_ms`",
                Some("rest_listen"),
            ),
            (
                "unknown field `perdio_ms`, expected `period_ms`",
                Some("period_ms"),
            ),
            (
                "unknown variant `htp`, expected one of `http`, `https`",
                Some("http"),
            ),
            (
                "unknown field `colour`, expected one of `data_dir`, `period_ms`",
                None,
            ),
            ("unknown field `x`, there are no fields", None),
            ("missing field `node`", None),
            ("unknown field `", None),
        ];
        for (line, wanted) in cases {
            assert_eq!(meant(line), wanted, "{line}");
        }
        let said = with_nearest("unknown field `nod`, expected `node`\n");
        assert_eq!(
            said,
            "unknown field `nod`, expected `node`; did you mean `node`?"
        );
    }
}
