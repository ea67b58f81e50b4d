//! Paths made plain, so that what a rule compares is what an endpoint will understand.
//!
//! | in the path | what becomes of it |
//! |---|---|
//! | `%7E`, `%61`: escaped letters, digits, `-`, `.`, `_`, `~` | decoded (RFC 3986, section 6.2.2.2) |
//! | other escapes | kept, in upper case (section 6.2.2.1) |
//! | `/./`, `/a/../` | taken out (section 5.2.4), after decoding; never above the root |
//! | `%2F`, `%5C`: escaped slashes | kept: they are letters of their element, never separators |
//! | `..%2F`, `%5C.`: a dot segment beside one | ambiguous |
//! | `%zz`, `%00`, `\` | ambiguous |
//! | `//` | kept: an empty element is an element |
//!
//! An ambiguous path is refused (400), because an endpoint that decodes more than this proxy could be led past a rule.

use std::borrow::Cow;

/// A path that two programs may read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// A path made plain. Borrowed, and nothing allocated, when it already is.
///
/// # Errors
/// It is ambiguous.
pub fn plain(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    match is_plain(path.as_bytes()) {
        true => Ok(Cow::Borrowed(path)),
        false => without_dots(&decoded(path)?).map(Cow::Owned),
    }
}

/// Whether there is nothing to do: no escape, no backslash, no element that begins with a dot.
fn is_plain(path: &[u8]) -> bool {
    let mut before = b'/';
    for &byte in path {
        if byte == b'%' || byte == b'\\' || (byte == b'.' && before == b'/') {
            return false;
        }
        before = byte;
    }
    true
}

/// The same path with as few escapes as it can have.
pub(super) fn decoded(path: &str) -> Result<String, Ambiguous> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path.chars();
    while let Some(char) = rest.next() {
        match char {
            '\\' => return Err(Ambiguous),
            '%' => {
                let mut digit = || rest.next().and_then(|c| c.to_digit(16)).ok_or(Ambiguous);
                let byte = u8::try_from(digit()? * 16 + digit()?).map_err(|_| Ambiguous)?;
                match byte {
                    0 => return Err(Ambiguous),
                    b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
                    _ if byte.is_ascii_alphanumeric() => out.push(byte.into()),
                    _ => {
                        const HEX: &[u8; 16] = b"0123456789ABCDEF";
                        out.push('%');
                        out.push(HEX[usize::from(byte >> 4)].into());
                        out.push(HEX[usize::from(byte & 15)].into());
                    }
                }
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

fn without_dots(path: &str) -> Result<String, Ambiguous> {
    let Some(elements) = path.strip_prefix('/') else {
        // `*` (RFC 9112, section 3.2.4).
        return Ok(path.to_owned());
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut elements = elements.split('/').peekable();
    while let Some(element) = elements.next() {
        if has_hidden_dots(element) {
            return Err(Ambiguous);
        }
        let is_last = elements.peek().is_none();
        match element {
            "." | ".." => {
                if element == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(element),
        }
    }
    let mut out = String::with_capacity(path.len());
    for element in kept {
        out.push('/');
        out.push_str(element);
    }
    if out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

/// Whether a dot segment would appear if escaped slashes were decoded.
fn has_hidden_dots(element: &str) -> bool {
    let Some(_) = element.find("%2F").or_else(|| element.find("%5C")) else {
        return false;
    };
    let pieces = element.split("%2F").flat_map(|piece| piece.split("%5C"));
    pieces
        .into_iter()
        .any(|piece| piece == "." || piece == "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_become_plain() {
        let cases = [
            ("/", Some("/")),
            ("/a/b.c/", Some("/a/b.c/")),
            ("/%61/%7euser/%2d", Some("/a/~user/-")),
            ("/a%20b/%c3%bc", Some("/a%20b/%C3%BC")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/%2e%2E/b", Some("/b")),
            ("/../../b", Some("/b")),
            ("/a/..", Some("/")),
            ("/a/b/..", Some("/a/")),
            ("/a/.", Some("/a/")),
            ("/..", Some("/")),
            ("/...", Some("/...")),
            ("/.well-known/x", Some("/.well-known/x")),
            ("/a/.b/..c", Some("/a/.b/..c")),
            ("//a//b", Some("//a//b")),
            ("/a//../b", Some("/a/b")),
            ("/a%2fb", Some("/a%2Fb")),
            ("/a%5cb", Some("/a%5Cb")),
            ("/a%252e%252e/b", Some("/a%252e%252e/b")),
            ("*", Some("*")),
            ("/a/..%2fb", None),
            ("/a/%2e%2e%2fb", None),
            ("/x%2F../y", None),
            ("/x%5c.%5cy", None),
            ("/a\\b", None),
            ("/%00", None),
            ("/%", None),
            ("/%a", None),
            ("/%zz", None),
        ];
        for (path, expected) in cases {
            let plain = plain(path).ok();
            assert_eq!(plain.as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn an_escaped_percent_stays_one() {
        assert_eq!(plain("/%25%32%65").as_deref(), Ok("/%252e"));
    }

    proptest! {
        #[test]
        fn what_is_plain_stays_and_has_no_dots(path in "/[a%2eEfF5cC./\\\\]{0,24}") {
            if let Ok(once) = plain(&path) {
                prop_assert_eq!(plain(&once), Ok(Cow::Borrowed(&*once)), "{}", path);
                prop_assert!(once.starts_with('/'));
                prop_assert!(!once.split('/').any(|e| e == "." || e == ".."), "{}", once);
            }
        }
    }
}
