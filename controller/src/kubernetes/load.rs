//! Load as autoscalers read it: `external.metrics.k8s.io/v1beta1`, and plain JSON for KEDA's `metrics-api`.
//!
//! A service's figure is one item, so that the sum an autoscaler makes of the items is the figure; a selector that names `node` asks
//! for that node's. Utilisation is demand as it *enters* by capacity: it rises before load moves, which is when to scale.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::control_loop::{MeshView, SeatView, ServiceView};
use crate::metrics::external;

/// The group that is served.
pub const GROUP: &str = "external.metrics.k8s.io";
/// Its version.
pub const VERSION: &str = "v1beta1";
/// Longest label selector, in bytes.
const SELECTOR_LEN_MAX: usize = 4096;
/// Most items of an answer; more are refused, since a part of a sum is a wrong figure.
pub const ITEMS_MAX: usize = 1024;

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Requests/s of first attempts that enter.
    Demand,
    /// Requests/s that endpoints serve within their latency target.
    Capacity,
    /// Demand by capacity.
    Utilisation,
    /// Requests/s that enter at a node and are served by another.
    MovedOut,
    /// Requests/s that are refused.
    Shed,
    /// Proxies whose stream is open; of the mesh, whatever the namespace.
    NodesConnected,
}

impl Metric {
    /// All.
    pub const ALL: [Metric; 6] = [
        Metric::Demand,
        Metric::Capacity,
        Metric::Utilisation,
        Metric::MovedOut,
        Metric::Shed,
        Metric::NodesConnected,
    ];

    /// As in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Metric::Demand => external::DEMAND,
            Metric::Capacity => external::CAPACITY,
            Metric::Utilisation => external::UTILISATION,
            Metric::MovedOut => external::MOVED_OUT,
            Metric::Shed => external::SHED,
            Metric::NodesConnected => external::NODES_CONNECTED,
        }
    }

    fn of(self, load: &Load) -> f64 {
        match self {
            Metric::Demand => load.demand_rps,
            Metric::Capacity => load.capacity_rps,
            Metric::Utilisation => load.utilisation_ratio,
            Metric::MovedOut => load.moved_out_rps,
            Metric::Shed => load.shed_rps,
            Metric::NodesConnected => 0.0,
        }
    }
}

/// Why there is no figure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// No such metric.
    #[error("there is no metric {0:?}; there are {1}")]
    Metric(String, String),
    /// No such service, or node of it.
    #[error("no service of namespace {0:?} fits the selector")]
    Nothing(String),
    /// A selector that is not understood.
    #[error(
        "the label selector {0:?} is not understood: write service=NAME and perhaps node=NAME, or \"service in (A,B)\""
    )]
    Selector(String),
    /// More than [`ITEMS_MAX`].
    #[error("more than {ITEMS_MAX} services or nodes fit; name the service")]
    TooMany,
}

/// Figures of a service, or of one node of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Load {
    /// Requests/s of first attempts that enter.
    pub demand_rps: f64,
    /// Requests/s that its endpoints serve within their latency target.
    pub capacity_rps: f64,
    /// `demand_rps / capacity_rps`; 0 without demand, and the demand itself where there is no capacity.
    pub utilisation_ratio: f64,
    /// Requests/s that enter and are served elsewhere.
    pub moved_out_rps: f64,
    /// Requests/s that are refused.
    pub shed_rps: f64,
}

impl Load {
    fn of<'a>(seats: impl IntoIterator<Item = &'a SeatView>) -> Load {
        let mut load = Load::default();
        for seat in seats {
            load.demand_rps += seat.demand_rps;
            load.capacity_rps += seat.capacity_rps;
            load.moved_out_rps += seat.moved_out_plan_rps + seat.moved_out_spill_rps;
            load.shed_rps += seat.shed_rps;
        }
        // Nothing that serves, and somebody who asks: an autoscaler at zero has to see that.
        load.utilisation_ratio = match load.capacity_rps > 0.0 {
            true => load.demand_rps / load.capacity_rps,
            false => load.demand_rps,
        };
        load
    }
}

/// The group, as discovery has it.
pub fn group() -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version})
}

/// All groups, of which there is one.
pub fn groups() -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})
}

/// The group's resources, as discovery has them.
pub fn resources() -> Value {
    let one = |metric: &Metric| json!({"name": metric.as_str(), "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"]});
    let resources: Vec<Value> = Metric::ALL.iter().map(one).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"), "resources": resources})
}

/// The answer to an autoscaler. `now` is RFC 3339.
///
/// # Errors
/// See [`LoadError`].
pub fn list(
    view: &MeshView,
    namespace: &str,
    metric: &str,
    selector: &str,
    now: &str,
) -> Result<Value, LoadError> {
    let found = Metric::ALL.into_iter().find(|one| one.as_str() == metric);
    let Some(metric) = found else {
        let all = Metric::ALL.map(Metric::as_str).join(", ");
        return Err(LoadError::Metric(metric.chars().take(64).collect(), all));
    };
    let item = |labels: Value, value: f64| json!({"metricName": metric.as_str(), "metricLabels": labels, "timestamp": now, "value": quantity(value)});
    let items = match metric {
        Metric::NodesConnected => {
            let connected = view.nodes.iter().filter(|node| node.connected).count();
            vec![item(json!({}), connected as f64)]
        }
        metric => {
            let figures = figures(view, namespace, &Selector::read(selector)?)?;
            let figures = figures.into_iter();
            figures
                .map(|(labels, load)| item(labels, metric.of(&load)))
                .collect()
        }
    };
    Ok(
        json!({"kind": "ExternalMetricValueList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items}),
    )
}

/// A service's load and its nodes', as plain JSON; `node` narrows it to one.
pub fn plain(view: &MeshView, namespace: &str, name: &str, node: Option<&str>) -> Option<Value> {
    let is = |service: &&ServiceView| {
        service.service.namespace() == namespace && service.service.name() == name
    };
    let service = view.services.iter().find(is)?;
    let seats = || {
        let all = service.nodes.iter();
        all.filter(|seat| node.is_none_or(|node| seat.node.as_str() == node))
    };
    node.is_none_or(|_| seats().next().is_some())
        .then_some(())?;
    // A struct of numbers always has a JSON form.
    let as_value = |load: Load| serde_json::to_value(load).unwrap_or_default();
    let mut out = as_value(Load::of(seats()));
    out["service"] = json!(service.service);
    let nodes = seats().take(ITEMS_MAX).map(|seat| {
        let mut of_node = as_value(Load::of([seat]));
        of_node["node"] = json!(seat.node);
        of_node
    });
    out["nodes"] = nodes.collect();
    Some(out)
}

/// As Kubernetes writes numbers, in thousandths.
fn quantity(value: f64) -> String {
    // A cast saturates; no load comes near.
    format!("{}m", (value * 1e3).round() as i64)
}

fn figures(
    view: &MeshView,
    namespace: &str,
    selector: &Selector,
) -> Result<Vec<(Value, Load)>, LoadError> {
    let mut all = Vec::new();
    for service in &view.services {
        let name = service.service.name();
        if service.service.namespace() != namespace || !selector.takes("service", name) {
            continue;
        }
        if !selector.0.contains_key("node") {
            all.push((json!({"service": name}), Load::of(&service.nodes)));
            continue;
        }
        let seats = service.nodes.iter();
        for seat in seats.filter(|seat| selector.takes("node", seat.node.as_str())) {
            all.push((
                json!({"service": name, "node": seat.node}),
                Load::of([seat]),
            ));
        }
    }
    match all.len() {
        0 => Err(LoadError::Nothing(namespace.chars().take(64).collect())),
        len if len > ITEMS_MAX => Err(LoadError::TooMany),
        _ => Ok(all),
    }
}

/// What values `service` and `node` may have.
#[derive(Debug, PartialEq, Eq)]
struct Selector(BTreeMap<&'static str, Vec<String>>);

impl Selector {
    fn read(text: &str) -> Result<Selector, LoadError> {
        let wrong = || LoadError::Selector(text.chars().take(128).collect());
        let mut wanted: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        if text.len() > SELECTOR_LEN_MAX {
            return Err(wrong());
        }
        let mut rest = text.trim();
        while !rest.is_empty() {
            let end = rest.find(['=', ' ', '!']).ok_or_else(wrong)?;
            let (label, behind) = rest.split_at(end);
            let label = ["service", "node"].into_iter().find(|one| *one == label);
            let label = label.ok_or_else(wrong)?;
            let behind = behind.trim_start();
            let (values, after) = match behind.strip_prefix("in ").map(str::trim_start) {
                Some(list) => {
                    let list = list.strip_prefix('(').ok_or_else(wrong)?;
                    list.split_once(')').ok_or_else(wrong)?
                }
                None => {
                    let value = behind
                        .strip_prefix("==")
                        .or_else(|| behind.strip_prefix('='));
                    let value = value.ok_or_else(wrong)?;
                    value.split_at(value.find(',').unwrap_or(value.len()))
                }
            };
            let values: Vec<String> = values.split(',').map(|v| v.trim().to_owned()).collect();
            if values
                .iter()
                .any(|v| v.is_empty() || v.contains([' ', '=', '(']))
            {
                return Err(wrong());
            }
            if wanted.insert(label, values).is_some() {
                return Err(wrong());
            }
            rest = match after.trim_start() {
                "" => "",
                more => more.strip_prefix(',').ok_or_else(wrong)?.trim_start(),
            };
        }
        Ok(Selector(wanted))
    }

    fn takes(&self, label: &str, value: &str) -> bool {
        self.0
            .get(label)
            .is_none_or(|wanted| wanted.iter().any(|one| one == value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_autoscalers_write_them() {
        let read = |text: &str| Selector::read(text).map(|selector| format!("{:?}", selector.0));
        let cases = [
            ("", Ok("{}")),
            ("service=cart", Ok(r#"{"service": ["cart"]}"#)),
            (
                "service==cart,node=n1",
                Ok(r#"{"node": ["n1"], "service": ["cart"]}"#),
            ),
            (
                "service in (cart,pay),node=n1",
                Ok(r#"{"node": ["n1"], "service": ["cart", "pay"]}"#),
            ),
            ("service", Err(())),
            ("service!=cart", Err(())),
            ("service=", Err(())),
            ("service in cart", Err(())),
            ("service in (cart", Err(())),
            ("colour=red", Err(())),
            ("service=a,service=b", Err(())),
            ("service=a node=b", Err(())),
        ];
        for (text, wanted) in cases {
            match (read(text), wanted) {
                (Ok(is), Ok(wanted)) => assert_eq!(is, wanted, "{text}"),
                (Err(LoadError::Selector(_)), Err(())) => {}
                (is, wanted) => panic!("{text}: {is:?}, not {wanted:?}"),
            }
        }
    }

    #[test]
    fn numbers_are_thousandths() {
        assert_eq!(quantity(12.5), "12500m");
        assert_eq!(quantity(0.0), "0m");
        assert_eq!(quantity(f64::INFINITY), "9223372036854775807m");
    }
}
