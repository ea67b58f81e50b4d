//! Which class a request is of: the more important, the earlier it gets a slot and the later it is shed.
//!
//! A header says it. A route that sets the header makes it a class by route, and a client's own word void.

use http::header::{HeaderMap, HeaderName};
use isobar_mesh_api::resource::traffic_policy::Priority;

use crate::gate::RANKS;

/// A service's classes.
#[derive(Debug, Clone)]
pub struct Classes {
    header: HeaderName,
    /// The header's values, the most important first.
    names: Vec<String>,
    default: u8,
}

impl Classes {
    /// As a checked policy says; `None` for a header that no request can have.
    pub fn new(policy: &Priority) -> Option<Classes> {
        let place = |name: &String| policy.classes.iter().position(|own| own == name);
        let last = policy.classes.len().clamp(1, RANKS) - 1;
        let default = policy.default.as_ref().and_then(place).unwrap_or(last);
        Some(Classes {
            header: HeaderName::from_bytes(policy.header.as_bytes()).ok()?,
            names: policy.classes.iter().take(RANKS).cloned().collect(),
            default: default as u8,
        })
    }

    /// A request's class, from 0.
    pub fn rank(&self, headers: &HeaderMap) -> u8 {
        let said = headers.get(&self.header);
        let is = |name: &String| said.is_some_and(|said| said.as_bytes() == name.as_bytes());
        let place = self.names.iter().position(is);
        place.map_or(self.default, |place| place as u8)
    }

    /// Their names, the most important first.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_says() {
        let classes = |default: Option<&str>| {
            Classes::new(&Priority {
                header: "X-Class".to_owned(),
                classes: ["gold", "silver", "lead"].map(str::to_owned).to_vec(),
                default: default.map(str::to_owned),
            })
            .unwrap()
        };
        let rank = |classes: &Classes, said: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(said) = said {
                headers.insert("x-class", said.parse().unwrap());
            }
            classes.rank(&headers)
        };
        let cases = [
            (Some("gold"), 0),
            (Some("lead"), 2),
            (Some("tin"), 2),
            (None, 2),
        ];
        for (said, expected) in cases {
            assert_eq!(rank(&classes(None), said), expected, "{said:?}");
        }
        assert_eq!(rank(&classes(Some("silver")), None), 1);
        assert_eq!(rank(&classes(Some("silver")), Some("Gold")), 1);
    }
}
