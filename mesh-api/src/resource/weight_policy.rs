//! What may move: the spec of a `WeightPolicy`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{NodeId, ServiceName};

pub mod schedule;
pub mod selector;

pub use schedule::{Day, TimeOfDay, Timestamp, WINDOWS_MAX, Window};
pub use selector::{Candidate, NodeSelector, SELECTED_MAX};

/// Most entries of `costs`, and most homes of `pinned_weights` and `static_weights`.
pub const ENTRIES_MAX: usize = 1_024;

/// Priorities of services, from the least to the most important.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;

/// How a plan is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CapacitySource {
    /// Declared where it is, else reported by the endpoint, else learned.
    #[default]
    Auto,
    /// Declared where it is, else assumed: endpoints and learning are not heard.
    Declared,
    /// Reported by the endpoint, else learned; what is declared is not heard.
    Reported,
    /// Learned from what the endpoints do, even where it is declared; the declared figure is the start.
    Learned,
}

/// The spec of a `WeightPolicy`. Every field has a default that is safe to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct WeightPolicySpec {
    /// Services it is for, by name. One that names no service and no label is for all.
    pub services: Vec<ServiceName>,
    /// Services it is for, by labels, all of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Of several policies that select a service alike (by name, by label, for all), the highest decides.
    #[serde(skip_serializing_if = "is_default")]
    pub precedence: i32,
    /// Which of the services of one node its processors serve first when they are scarce, -100 to 100: what they cannot
    /// serve is taken from the lowest first; services of one priority shrink together.
    #[serde(skip_serializing_if = "is_default")]
    #[cfg_attr(feature = "schema", schemars(range(min = -100, max = 100)))]
    pub priority: i32,
    /// Whether it is there at all.
    #[serde(skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// Whether it computes and shows its plan and moves nothing.
    #[serde(skip_serializing_if = "is_default")]
    pub observe_only: bool,
    /// When it is in force; always when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Window>,
    /// Homes whose load may move; all when empty.
    #[serde(skip_serializing_if = "NodeSelector::is_empty")]
    pub homes: NodeSelector,
    /// Nodes that may take load of others; all when empty.
    #[serde(skip_serializing_if = "NodeSelector::is_empty")]
    pub targets: NodeSelector,
    /// Nodes that may not, whatever `targets` says.
    #[serde(skip_serializing_if = "NodeSelector::is_empty")]
    pub targets_forbidden: NodeSelector,
    /// Whether load stays in the region of its home; one without a region keeps its load.
    #[serde(skip_serializing_if = "is_default")]
    pub own_region_only: bool,
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
    /// Requests/s of a home's demand that stay there before anything moves.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_home_min_rps: f64,
    /// What some moves cost in addition; all that apply are added up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<MoveCost>,
    /// Parts of a home's demand that always go to a node, in parts per million: home → (node → weight). The rest is
    /// planned. A node that cannot serve gets none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pinned_weights: BTreeMap<NodeId, BTreeMap<NodeId, u32>>,
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

/// What a move costs beyond its round trip and the policy's `move_cost_us`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MoveCost {
    /// Homes that it comes from; all when empty.
    #[serde(default, skip_serializing_if = "NodeSelector::is_empty")]
    pub from: NodeSelector,
    /// Nodes that it goes to; all when empty.
    #[serde(default, skip_serializing_if = "NodeSelector::is_empty")]
    pub to: NodeSelector,
    /// Microseconds, at most a minute.
    pub cost_us: u64,
}

/// How a policy selects a service; the later the closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selection {
    /// It is for all.
    ForAll,
    /// By its labels.
    ByLabels,
    /// By its name.
    ByName,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_true(value: &bool) -> bool {
    *value
}

impl Default for WeightPolicySpec {
    fn default() -> WeightPolicySpec {
        WeightPolicySpec {
            services: Vec::new(),
            labels: BTreeMap::new(),
            precedence: 0,
            priority: 0,
            enabled: true,
            observe_only: false,
            schedule: Vec::new(),
            homes: NodeSelector::default(),
            targets: NodeSelector::default(),
            targets_forbidden: NodeSelector::default(),
            own_region_only: false,
            keep_home_min_rps: 0.0,
            costs: Vec::new(),
            pinned_weights: BTreeMap::new(),
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
    /// Whether, and how, the policy selects a service with this name and these labels.
    pub fn selects(
        &self,
        service: &ServiceName,
        labels: &BTreeMap<String, String>,
    ) -> Option<Selection> {
        if self.services.contains(service) {
            return Some(Selection::ByName);
        }
        let carries = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        match (self.services.is_empty(), self.labels.is_empty()) {
            (true, true) => Some(Selection::ForAll),
            (_, false) if self.labels.iter().all(carries) => Some(Selection::ByLabels),
            _ => None,
        }
    }

    /// Whether it is in force at that time, in seconds since 1970.
    pub fn is_in_force(&self, now_s: i64) -> bool {
        let on = self.schedule.is_empty() || self.schedule.iter().any(|w| w.is_on(now_s));
        self.enabled && on
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
        check_rows("static_weights", &self.static_weights)?;
        check_rows("pinned_weights", &self.pinned_weights)?;
        self.check_reach()
    }
}

impl WeightPolicySpec {
    /// Checks selectors, costs and the schedule.
    fn check_reach(&self) -> Result<(), PolicyError> {
        let wrong = |field, problem: String| Err(PolicyError { field, problem });
        if !(self.keep_home_min_rps >= 0.0 && self.keep_home_min_rps <= 1e9) {
            return wrong(
                "keep_home_min_rps",
                "must be from 0 to 1 000 000 000".to_owned(),
            );
        }
        if !PRIORITIES.contains(&self.priority) {
            return wrong("priority", "must be from -100 to 100".to_owned());
        }
        if self.services.len() > SELECTED_MAX || self.labels.len() > crate::resource::LABELS_MAX {
            return wrong("services", format!("at most {SELECTED_MAX}, and 64 labels"));
        }
        let selectors = [
            ("homes", &self.homes),
            ("targets", &self.targets),
            ("targets_forbidden", &self.targets_forbidden),
        ];
        if let Some((field, _)) = selectors.into_iter().find(|(_, s)| !s.is_sound()) {
            return wrong(field, format!("names more than {SELECTED_MAX}"));
        }
        let cost = |cost: &MoveCost| {
            cost.from.is_sound() && cost.to.is_sound() && cost.cost_us <= 60_000_000
        };
        if self.costs.len() > ENTRIES_MAX || !self.costs.iter().all(cost) {
            let most = format!("at most {ENTRIES_MAX}, each at most 60 000 000 (a minute)");
            return wrong("costs", most);
        }
        if self.schedule.len() > WINDOWS_MAX || !self.schedule.iter().all(Window::is_sound) {
            let sound = "each window must say something, from before to, an offset within a day";
            return wrong("schedule", format!("at most {WINDOWS_MAX}; {sound}"));
        }
        let fixed = matches!(self.algorithm, Algorithm::Static | Algorithm::Off);
        if fixed && !self.pinned_weights.is_empty() {
            let instead =
                "the algorithms static and off plan nothing around them; use static_weights";
            return wrong("pinned_weights", format!("cannot be used here: {instead}"));
        }
        Ok(())
    }
}

fn check_rows(
    field: &'static str,
    rows: &BTreeMap<NodeId, BTreeMap<NodeId, u32>>,
) -> Result<(), PolicyError> {
    let wrong = |problem: String| Err(PolicyError { field, problem });
    if rows.len() > ENTRIES_MAX {
        return wrong(format!("of more than {ENTRIES_MAX} homes"));
    }
    for (home, row) in rows {
        let sum: u64 = row.values().map(|&w| u64::from(w)).sum();
        if sum > u64::from(crate::weight::WHOLE_PPM) || row.contains_key(home) || row.len() > 64 {
            return wrong(format!(
                "of {home} must name at most 64 other nodes and sum to at most 1 000 000"
            ));
        }
    }
    Ok(())
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
            (r#"{"keep_home_min_rps": -1}"#, "keep_home_min_rps"),
            (
                r#"{"pinned_weights": {"a": {"b": 1000001}}}"#,
                "pinned_weights",
            ),
            (
                r#"{"algorithm": "off", "pinned_weights": {"a": {"b": 1}}}"#,
                "pinned_weights",
            ),
            (r#"{"costs": [{"cost_us": 60000001}]}"#, "costs"),
            (r#"{"schedule": [{}]}"#, "schedule"),
            (r#"{"schedule": [{"start": "25:00"}]}"#, "time of day"),
            (r#"{"homes": {"region": ["a"]}}"#, "region"),
            (r#"{"priority": 101}"#, "priority"),
            (r#"{"priority": -101}"#, "priority"),
            (r#"{"priority": 0.5}"#, "expected i32"),
            (r#"{"priority": "high"}"#, "expected i32"),
            (r#"{"priorities": 1}"#, "priorities"),
        ];
        for (text, field) in cases {
            let error = check(text).unwrap_err();
            assert!(error.contains(field), "{text}: {error}");
        }
    }
}
