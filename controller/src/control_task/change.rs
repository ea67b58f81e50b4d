//! What an operator asks to be changed, under which condition, and what came of it.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use isobar_mesh_api::names::{NodeId, ServiceName};
use serde::{Deserialize, Serialize};

use super::leases::Registered;
use crate::resource_text::{Declared, Key};
use crate::store::Answer;

/// Most changes in one request: an import of everything that the controller keeps.
pub const CHANGES_MAX: usize = 131_072;

/// One change.
#[derive(Debug, Clone)]
pub enum Change {
    /// Creates or replaces a resource.
    Put(Declared),
    /// Removes one.
    Delete(Key),
    /// Registers an endpoint, or begins its lease anew.
    Register(Registered),
    /// Removes a registered endpoint.
    Deregister(Place),
}

/// Which registered endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Of which service.
    pub service: ServiceName,
    /// On which node.
    pub node: NodeId,
    /// `host:port`.
    pub address: String,
}

/// What a change is about, in words: for the audit, events and errors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The kind.
    pub kind: &'static str,
    /// The name.
    pub name: String,
}

/// A registered endpoint's kind, in words.
const ENDPOINT: &str = "Endpoint";

impl Change {
    /// What it is about.
    pub fn target(&self) -> Target {
        match self {
            Change::Put(Declared { key, .. }) | Change::Delete(key) => Target {
                kind: key.kind.as_str(),
                name: key.name.clone(),
            },
            Change::Register(registered) => Target {
                kind: ENDPOINT,
                name: registered.name(),
            },
            Change::Deregister(place) => Target {
                kind: ENDPOINT,
                name: place.to_string(),
            },
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// `namespace/name/node/address`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.service, self.node, self.address)
    }
}

/// What a resource says, as a number: two that say the same have the same tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Etag(u64);

impl Etag {
    /// The tag of a resource, without its status, or of a registered endpoint.
    pub fn of<T: Serialize>(said: &T) -> Etag {
        // What was checked has a JSON form: it came as one.
        let text = serde_json::to_vec(said).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Etag(hasher.finish())
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Etag> {
        let hex = text.strip_prefix('"')?.strip_suffix('"')?;
        let is_hex = hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(hex, 16).ok().map(Etag))?
    }
}

/// As it stands in an `ETag` header: sixteen hexadecimal digits in quotes.
impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:016x}\"", self.0)
    }
}

impl From<Etag> for String {
    fn from(etag: Etag) -> String {
        etag.to_string().trim_matches('"').to_owned()
    }
}

impl TryFrom<String> for Etag {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Etag, Self::Error> {
        Etag::parse(&format!("\"{text}\"")).ok_or("a tag has 16 hexadecimal digits")
    }
}

/// What must hold for every resource of a request before anything is changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    #[default]
    Anything,
    /// It is not there.
    Absent,
    /// It is there, whatever it says.
    Present,
    /// It is there and says one of these.
    OneOf(Vec<Etag>),
}

impl Expect {
    /// Whether a resource that has this tag, or is not there, is as expected.
    pub fn holds(&self, found: Option<Etag>) -> bool {
        match self {
            Expect::Anything => true,
            Expect::Absent => found.is_none(),
            Expect::Present => found.is_some(),
            Expect::OneOf(tags) => found.is_some_and(|found| tags.contains(&found)),
        }
    }
}

/// A request for changes: all are made, or none.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// What to change, in order; at most [`CHANGES_MAX`].
    pub changes: Vec<Change>,
    /// What must hold before.
    pub expect: Expect,
    /// Whether everything that `changes` do not name is removed.
    pub prune: bool,
    /// Who asks.
    pub who: String,
}

/// What came of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There was none; now there is.
    Created,
    /// There was one; it is another now, or says the same again.
    Replaced,
    /// There was one; it is gone.
    Deleted,
    /// There was none to delete.
    Missing,
    /// The same endpoint says the same again: its lease begins anew.
    Renewed,
    /// Nothing is changed: something was asked of a running program.
    Asked,
}

/// Changes that are in force and on their way to the disk.
#[derive(Debug)]
pub struct Durable {
    /// What came of each change, in order.
    pub outcomes: Vec<Outcome>,
    /// Resolves when they will survive a crash.
    pub on_disk: Answer<()>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_they_are_written() {
        let tag = Etag(0xab);
        assert_eq!(tag.to_string(), "\"00000000000000ab\"");
        assert_eq!(Etag::parse(&tag.to_string()), Some(tag));
        let json = serde_json::to_string(&tag).unwrap();
        assert_eq!(serde_json::from_str::<Etag>(&json).unwrap(), tag);
        for wrong in ["", "\"\"", "ab", "\"00ab\"", "\"+0000000000000ab\""] {
            assert_eq!(Etag::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn expectations_hold_or_not() {
        let (is, other) = (Etag(1), Etag(2));
        let cases = [
            (Expect::Anything, None, true),
            (Expect::Absent, None, true),
            (Expect::Absent, Some(is), false),
            (Expect::Present, None, false),
            (Expect::Present, Some(is), true),
            (Expect::OneOf(vec![other, is]), Some(is), true),
            (Expect::OneOf(vec![other]), Some(is), false),
            (Expect::OneOf(vec![]), None, false),
        ];
        for (expect, found, holds) in cases {
            assert_eq!(expect.holds(found), holds, "{expect:?} {found:?}");
        }
    }
}
