//! What may move: the spec of a `WeightPolicy`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{NodeId, ServiceName};

/// How a plan is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Exact minimum of round trips plus queueing, with displacement.
    #[default]
    Convex,
    /// Overflow goes to the nearest neighbour with room, then the next.
    Waterfall,
    /// Demand above the limit is split over neighbours by their spare
    /// (a reconstruction of Furusawa et al. 2022).
    Threshold,
    /// Fixed weights from the policy.
    Static,
    /// Nothing moves by plan.
    Off,
}

/// Where a node's capacity comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapacitySource {
    /// Declared where it is, else reported by the endpoint, else learned.
    #[default]
    Auto,
    /// Learned from what the endpoints do, even where it is declared; the declared figure is the start.
    Learned,
}

/// The spec of a `WeightPolicy`. Every field has a default that is safe to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WeightPolicySpec {
    /// Services it is for; empty for all.
    pub services: Vec<ServiceName>,
    /// How the plan is computed.
    pub algorithm: Algorithm,
    /// Utilisation up to which nothing moves and above which moving pays, 0.05 to 1.
    pub target_utilisation: f64,
    /// Utilisation that no node is planned above, `target_utilisation` to 1.
    pub ceiling_utilisation: f64,
    /// Neighbours a home may use, 0 to 64.
    pub neighbours: u32,
    /// Farthest neighbour, in metres; absent for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_max_m: Option<f64>,
    /// Longest round trip to a neighbour, in microseconds; absent for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_max_us: Option<u64>,
    /// The part of a home's demand that may leave it, 0 to 1.
    pub move_max: f64,
    /// What a move costs beyond its round trip, in microseconds: prices needless moves.
    pub move_cost_us: u64,
    /// Whether proxies may move single requests at once when home is full.
    pub spill: bool,
    /// Whether a full node may move its own demand on to make room for others'; only `convex` does.
    pub displacement: bool,
    /// Where capacities come from.
    pub capacity: CapacitySource,
    /// Upstream of last resort, `host:port`; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_address: Option<String>,
    /// Round trip to it, in microseconds.
    pub cloud_rtt_us: u64,
    /// Weights for the `static` algorithm: home → (node → weight in parts per million); what is
    /// missing to a million stays home.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub static_weights: BTreeMap<NodeId, BTreeMap<NodeId, u32>>,
}

impl Default for WeightPolicySpec {
    fn default() -> WeightPolicySpec {
        WeightPolicySpec {
            services: Vec::new(),
            algorithm: Algorithm::Convex,
            target_utilisation: 0.75,
            ceiling_utilisation: 0.95,
            neighbours: 8,
            distance_max_m: None,
            rtt_max_us: None,
            move_max: 1.0,
            move_cost_us: 1_000,
            spill: true,
            displacement: true,
            capacity: CapacitySource::Auto,
            cloud_address: None,
            cloud_rtt_us: 50_000,
            static_weights: BTreeMap::new(),
        }
    }
}

/// A field of a policy that is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct PolicyError {
    /// The field's name, as written.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl WeightPolicySpec {
    /// Whether the policy is for this service.
    pub fn selects(&self, service: &ServiceName) -> bool {
        self.services.is_empty() || self.services.contains(service)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first field out of its range.
    pub fn check(&self) -> Result<(), PolicyError> {
        let wrong = |field, problem: &str| {
            Err(PolicyError {
                field,
                problem: problem.to_owned(),
            })
        };
        if !(0.05..=1.0).contains(&self.target_utilisation) {
            return wrong("target_utilisation", "must be from 0.05 to 1");
        }
        if !(self.target_utilisation..=1.0).contains(&self.ceiling_utilisation) {
            return wrong(
                "ceiling_utilisation",
                "must be from target_utilisation to 1",
            );
        }
        if self.neighbours > 64 {
            return wrong("neighbours", "must be at most 64");
        }
        if self
            .distance_max_m
            .is_some_and(|d| !(d.is_finite() && d >= 0.0))
        {
            return wrong(
                "distance_max_m",
                "must be a finite number of metres, 0 or more",
            );
        }
        if !(0.0..=1.0).contains(&self.move_max) {
            return wrong("move_max", "must be from 0 to 1");
        }
        if self.move_cost_us > 60_000_000 || self.cloud_rtt_us > 60_000_000 {
            return wrong(
                "move_cost_us",
                "and cloud_rtt_us must be at most 60 000 000 (a minute)",
            );
        }
        for (home, row) in &self.static_weights {
            let sum: u64 = row.values().map(|&w| u64::from(w)).sum();
            if sum > u64::from(crate::weight::WHOLE_PPM) || row.contains_key(home) {
                return Err(PolicyError {
                    field: "static_weights",
                    problem: format!(
                        "of {home} must name other nodes and sum to at most 1 000 000"
                    ),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_and_unknown_fields_refused() {
        assert_eq!(WeightPolicySpec::default().check(), Ok(()));
        let check = |text: &str| {
            serde_json::from_str::<WeightPolicySpec>(text)
                .map_err(|e| e.to_string())
                .and_then(|spec| spec.check().map_err(|e| e.to_string()))
        };
        let cases = [
            (r#"{"target_utilisation": 1.2}"#, "target_utilisation"),
            (
                r#"{"target_utilisation": 0.9, "ceiling_utilisation": 0.8}"#,
                "ceiling_utilisation",
            ),
            (r#"{"neighbours": 65}"#, "neighbours"),
            (r#"{"move_max": -0.1}"#, "move_max"),
            (r#"{"distance_max_m": -5}"#, "distance_max_m"),
            (r#"{"static_weights": {"a": {"a": 5}}}"#, "static_weights"),
            (r#"{"neighbors": 8}"#, "neighbors"),
        ];
        for (text, field) in cases {
            let error = check(text).unwrap_err();
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
