//! Names of nodes, services, sites and regions.
//!
//! A name is checked once, where it enters the program, and is a type from
//! then on. Cloning is a reference count: names sit in every route and report.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest name of one part, in bytes: a DNS label's 63 would refuse many
/// Kubernetes node names, which are DNS subdomains of up to 253.
pub const NAME_LEN_MAX: usize = 253;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a {what} must not be empty")]
    Empty {
        /// Which kind of name was being read.
        what: &'static str,
    },
    /// Longer than [`NAME_LEN_MAX`].
    #[error("a {what} has at most {NAME_LEN_MAX} bytes, this has {len}")]
    TooLong {
        /// Which kind of name was being read.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A character that DNS subdomains do not have.
    #[error(
        "{what} {name:?}: {found:?} at byte {at} is not allowed; use a-z, 0-9, '-', '.', and start and end with a letter or digit"
    )]
    Character {
        /// Which kind of name was being read.
        what: &'static str,
        /// The text, cut to 64 characters.
        name: String,
        /// The character.
        found: char,
        /// Where it stands.
        at: usize,
    },
    /// A service or account without exactly one slash.
    #[error("{what} {name:?} must be written namespace/name")]
    NotNamespaced {
        /// Which kind of name was being read.
        what: &'static str,
        /// The text, cut to 64 characters.
        name: String,
    },
}

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong {
            what,
            len: text.len(),
        });
    }
    let edge = |at: usize| at == 0 || at + 1 == text.len();
    let wrong = text.char_indices().find(|&(at, c)| match c {
        'a'..='z' | '0'..='9' => false,
        '-' | '.' => edge(at),
        _ => true,
    });
    match wrong {
        Some((at, found)) => Err(NameError::Character {
            what,
            name: shorten(text),
            found,
            at,
        }),
        None => Ok(()),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What every type of a checked text has.
macro_rules! text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks a text: 1 to [`NAME_LEN_MAX`] bytes of `a-z 0-9 - .`,
            /// beginning and ending with a letter or digit.
            ///
            /// # Errors
            /// Says which character is wrong, and where.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check($what, text)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        text!($type);
    };
}

name!(
    /// One edge server with one edge proxy.
    NodeId,
    "node name"
);
name!(
    /// A place; nodes of one site are at distance 0.
    SiteName,
    "site name"
);
name!(
    /// A group of sites, for residency rules.
    RegionName,
    "region name"
);

macro_rules! namespaced {
    ($(#[$doc:meta])* $type:ident, $what:literal, $part:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `namespace/name`; each part follows the rules of [`NodeId::new`].
            ///
            /// # Errors
            /// No or more than one slash, or a part that is not a name.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let parts = text.split_once('/').filter(|(_, name)| !name.contains('/'));
                let Some((namespace, name)) = parts else {
                    return Err(NameError::NotNamespaced {
                        what: $what,
                        name: shorten(text),
                    });
                };
                check("namespace", namespace)?;
                check($part, name)?;
                Ok(Self(text.into()))
            }

            /// The whole text, `namespace/name`.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The part before the slash.
            pub fn namespace(&self) -> &str {
                self.0
                    .split_once('/')
                    .map_or("", |(namespace, _)| namespace)
            }

            /// The part after the slash.
            pub fn name(&self) -> &str {
                self.0.split_once('/').map_or("", |(_, name)| name)
            }
        }

        text!($type);
    };
}

namespaced!(
    /// What clients ask for, written `namespace/name`.
    ServiceName,
    "service",
    "service name"
);
namespaced!(
    /// What an application runs as, written `namespace/account`: in Kubernetes the service account of its pod.
    AccountName,
    "account",
    "account name"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names() {
        let long = "a".repeat(NAME_LEN_MAX + 1);
        let cases = [
            ("edge-7.milan", true),
            ("a", true),
            ("7", true),
            ("", false),
            ("-a", false),
            ("a-", false),
            ("A", false),
            ("a b", false),
            ("ü", false),
            ("a/b", false),
            ("a\n", false),
            (long.as_str(), false),
        ];
        for (text, good) in cases {
            assert_eq!(NodeId::new(text).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn service_names_have_two_parts() {
        let name = ServiceName::new("shop/cart").unwrap();
        assert_eq!((name.namespace(), name.name()), ("shop", "cart"));
        for bad in ["cart", "a/b/c", "/cart", "shop/", "Shop/cart", ""] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn accounts_have_two_parts_too() {
        let account = AccountName::new("shop/front").unwrap();
        assert_eq!((account.namespace(), account.name()), ("shop", "front"));
        let odd = [
            "front",
            "shop/front/x",
            "shop/../x",
            "shop/f:g",
            "shop/f%2fg",
            "shop/\u{fc}",
        ];
        for bad in odd {
            let error = AccountName::new(bad).unwrap_err().to_string();
            assert!(
                error.contains("account") || error.contains("namespace"),
                "{error}"
            );
        }
    }

    #[test]
    fn bad_names_do_not_pass_serde() {
        let read = serde_json::from_str::<NodeId>("\"Not A Name\"");
        assert!(read.unwrap_err().to_string().contains("'N' at byte 0"));
    }
}
