//! Which nodes a policy means: by name, region or label.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{NodeId, RegionName};

/// Most names, and most regions, of one selector.
pub const SELECTED_MAX: usize = 1_024;

/// Some nodes: those that it names, those of a region, and those that carry all its labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct NodeSelector {
    /// By name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
    /// By region.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionName>,
    /// By labels, all of them, as their `Node` resource has them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a policy may know of a node.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub node: &'a NodeId,
    /// Its region.
    pub region: Option<&'a RegionName>,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl NodeSelector {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.regions.is_empty() && self.labels.is_empty()
    }

    /// Whether it means this node. One that says nothing means none.
    pub fn selects(&self, candidate: Candidate<'_>) -> bool {
        let Candidate {
            node,
            region,
            labels,
        } = candidate;
        let carries = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.nodes.contains(node)
            || region.is_some_and(|region| self.regions.contains(region))
            || (!self.labels.is_empty() && self.labels.iter().all(carries))
    }

    /// Whether it means this node. One that says nothing means all.
    pub fn selects_or_all(&self, candidate: Candidate<'_>) -> bool {
        self.is_empty() || self.selects(candidate)
    }

    /// Whether it is short enough.
    pub(super) fn is_sound(&self) -> bool {
        let longest = self.nodes.len().max(self.regions.len());
        longest <= SELECTED_MAX && self.labels.len() <= crate::resource::LABELS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_meant_by_name_region_or_all_labels() {
        let (node, region) = (NodeId::new("a").unwrap(), RegionName::new("north").unwrap());
        let labels =
            BTreeMap::from([("disk", "ssd"), ("tier", "1")].map(|(k, v)| (k.into(), v.into())));
        let candidate = Candidate {
            node: &node,
            region: Some(&region),
            labels: &labels,
        };
        let cases = [
            ("{}", false),
            (r#"{"nodes": ["a"]}"#, true),
            (r#"{"nodes": ["b"]}"#, false),
            (r#"{"regions": ["south", "north"]}"#, true),
            (r#"{"labels": {"disk": "ssd", "tier": "1"}}"#, true),
            (r#"{"labels": {"disk": "ssd", "tier": "2"}}"#, false),
            (r#"{"nodes": ["b"], "labels": {"tier": "1"}}"#, true),
        ];
        for (text, selected) in cases {
            let selector: NodeSelector = serde_json::from_str(text).unwrap();
            assert_eq!(selector.selects(candidate), selected, "{text}");
            assert_eq!(selector.selects_or_all(candidate), selected || text == "{}");
        }
    }
}
