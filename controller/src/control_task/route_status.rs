//! What became of a route, in the Gateway API's own words.

use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::route::{GATEWAY_GROUP, GATEWAY_NAME};
use isobar_mesh_api::route::Route;
use serde::Serialize;

/// Who says so, as the Gateway API names controllers.
pub const CONTROLLER_NAME: &str = "isobar.dev/controller";
/// Most missing services that a message names.
const NAMED_MAX: usize = 8;

/// The `status` of an `HTTPRoute` or `GRPCRoute`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    parents: [ParentStatus; 1],
}

/// For the one Gateway there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ParentStatus {
    parent_ref: ParentName,
    controller_name: &'static str,
    conditions: [Condition; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ParentName {
    group: &'static str,
    kind: &'static str,
    name: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl RouteStatus {
    /// Of a route that is in force.
    pub fn new(route: &Route, is_known: impl Fn(&ServiceName) -> bool) -> RouteStatus {
        let mut missing: Vec<ServiceName> = route.services().filter(|s| !is_known(s)).collect();
        missing.sort();
        missing.dedup();
        let resolved = match missing.as_slice() {
            [] => Condition {
                kind: "ResolvedRefs",
                status: "True",
                reason: "ResolvedRefs",
                message: "every service it names is there".to_owned(),
            },
            missing => {
                let names: Vec<&str> = missing
                    .iter()
                    .map(ServiceName::as_str)
                    .take(NAMED_MAX)
                    .collect();
                let more = match missing.len() > NAMED_MAX {
                    true => format!(" and {} more", missing.len() - NAMED_MAX),
                    false => String::new(),
                };
                Condition {
                    kind: "ResolvedRefs",
                    status: "False",
                    reason: "BackendNotFound",
                    message: format!(
                        "no such service: {}{more}; its share of requests is answered with 500",
                        names.join(", ")
                    ),
                }
            }
        };
        let accepted = Condition {
            kind: "Accepted",
            status: "True",
            reason: "Accepted",
            message: "sent to every proxy".to_owned(),
        };
        RouteStatus {
            parents: [ParentStatus {
                parent_ref: ParentName {
                    group: GATEWAY_GROUP,
                    kind: "Gateway",
                    name: GATEWAY_NAME,
                },
                controller_name: CONTROLLER_NAME,
                conditions: [accepted, resolved],
            }],
        }
    }
}
