//! How one root takes over from another, without a moment in which somebody believes neither.
//!
//! ```text
//! begin ─▶ added: told to everybody, signs nothing ─▶ switch ─▶ active: signs ─▶ retiring: still believed ─▶ retire
//! ```
//!
//! Decides when each step is due; [`super::Authority`] takes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::certificates::{INTERMEDIATE_VALID, LEAF_VALID, ROOT_VALID};

/// Where a root stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Believed and not yet used.
    Added,
    /// Signs.
    Active,
    /// Believed until what it signed has ended.
    Retiring,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Add a root.
    Begin,
    /// Let the added root sign.
    Switch,
    /// Believe the old root no more.
    Retire,
    /// A new intermediate below the active root.
    Renew,
}

/// What a decision goes by. Times are seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// Since when a root is added, if one is.
    pub added_since_s: Option<u64>,
    /// Whether who knows the active root alone believes the added one.
    pub is_crossed: bool,
    /// Since when a root is retiring, if one is.
    pub retiring_since_s: Option<u64>,
    /// When the active root ends.
    pub root_ends_s: u64,
    /// Whether the authority has the active root's key.
    pub has_root_key: bool,
    /// When the active intermediate ends.
    pub intermediate_ends_s: u64,
    /// Connected nodes that have not said yet that they believe all roots.
    pub nodes_behind: usize,
}

/// The active root is replaced when this much of its life is left: a fifth.
const ROOT_LEFT: Duration = Duration::from_secs(ROOT_VALID.as_secs() / 5);
/// The intermediate is replaced when this much of its life is left: a third.
const INTERMEDIATE_LEFT: Duration = Duration::from_secs(INTERMEDIATE_VALID.as_secs() / 3);
/// Operators are warned of what ends in this time and cannot renew itself.
pub const WARN_LEFT: Duration = Duration::from_secs(90 * 24 * 3600);

impl Situation {
    /// The step that is due at `now_s`, if one is.
    pub fn due(&self, now_s: u64) -> Option<Step> {
        let ends_within = |ends_s: u64, left: Duration| ends_s < now_s + left.as_secs();
        if let Some(since_s) = self.retiring_since_s
            && now_s >= since_s + LEAF_VALID.as_secs()
        {
            return Some(Step::Retire);
        }
        if let Some(since_s) = self.added_since_s {
            // Nodes that are away would not believe it when they come back, unless the old root says so.
            let waited = self.is_crossed || now_s >= since_s + LEAF_VALID.as_secs();
            return (waited && self.nodes_behind == 0).then_some(Step::Switch);
        }
        if !self.has_root_key {
            return None;
        }
        if ends_within(self.root_ends_s, ROOT_LEFT) && self.retiring_since_s.is_none() {
            return Some(Step::Begin);
        }
        ends_within(self.intermediate_ends_s, INTERMEDIATE_LEFT).then_some(Step::Renew)
    }

    /// Whether something ends soon that does not renew itself.
    pub fn warns(&self, now_s: u64) -> bool {
        let first = self.root_ends_s.min(self.intermediate_ends_s);
        !self.has_root_key && first < now_s + WARN_LEFT.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const NOW: u64 = 1_000 * DAY;

    fn rest() -> Situation {
        Situation {
            added_since_s: None,
            is_crossed: true,
            retiring_since_s: None,
            root_ends_s: NOW + 3_000 * DAY,
            has_root_key: true,
            intermediate_ends_s: NOW + 60 * DAY,
            nodes_behind: 0,
        }
    }

    #[test]
    fn each_step_has_its_time() {
        let added = |since_s, is_crossed, nodes_behind| Situation {
            added_since_s: Some(since_s),
            is_crossed,
            nodes_behind,
            ..rest()
        };
        let retiring = |since_s| Situation {
            retiring_since_s: Some(since_s),
            ..rest()
        };
        let ends = |root_ends_s, intermediate_ends_s, has_root_key| Situation {
            root_ends_s,
            intermediate_ends_s,
            has_root_key,
            ..rest()
        };
        let (far, near) = (NOW + 3_000 * DAY, NOW + 29 * DAY);
        let cases = [
            (rest(), None),
            (added(NOW, true, 0), Some(Step::Switch)),
            (added(NOW, true, 1), None),
            (added(NOW - DAY + 1, false, 0), None),
            (added(NOW - DAY, false, 0), Some(Step::Switch)),
            (added(NOW - DAY, false, 1), None),
            (retiring(NOW - DAY + 1), None),
            (retiring(NOW - DAY), Some(Step::Retire)),
            (ends(NOW + 700 * DAY, far, true), Some(Step::Begin)),
            (ends(NOW + 700 * DAY, near, false), None),
            (ends(far, near, true), Some(Step::Renew)),
        ];
        for (situation, expected) in cases {
            assert_eq!(situation.due(NOW), expected, "{situation:?}");
        }
        assert!(ends(far, near, false).warns(NOW) && !ends(far, near, true).warns(NOW));
        assert!(!ends(far, NOW + 91 * DAY, false).warns(NOW));
    }
}
