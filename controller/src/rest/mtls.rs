//! Which services ask callers to have shown who they are, and who calls them without.

use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::access_policy::{MtlsMode, MtlsPort, mtls_mode};
use isobar_mesh_api::resource::{AccessPolicy, Resource};
use serde::Serialize;

use super::{PAGE_LEN_MAX, Rest, body};
use crate::authority::seconds;
use crate::plain_calls::Calls;
use crate::problem::Problem;
use crate::resource_text::Kind;

pub(super) fn routes() -> Router<Rest> {
    Router::new().route("/v1/mtls", get(mtls))
}

#[derive(Serialize)]
struct Said {
    services: Vec<Service>,
    callers: Vec<Caller>,
}

/// What holds for one service.
#[derive(Serialize)]
struct Service {
    service: ServiceName,
    mode: MtlsMode,
    /// Which policy says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    /// Ports at which something else holds.
    ports: Vec<MtlsPort>,
}

/// Somebody who calls without having shown who they are.
#[derive(Serialize)]
struct Caller {
    service: ServiceName,
    caller: String,
    #[serde(flatten)]
    calls: Calls,
}

async fn mtls(State(rest): State<Rest>) -> Result<Response, Problem> {
    let policies = policies(&rest).await?;
    let view = rest.control.view().await?;
    let services = view
        .services
        .iter()
        .map(|seen| of(&policies, &seen.service));
    let now_s = seconds(SystemTime::now());
    let callers = rest.plain.list(now_s).into_iter();
    let callers = callers.map(|(service, caller, calls)| Caller {
        service,
        caller,
        calls,
    });
    let said = Said {
        services: services.collect(),
        callers: callers.collect(),
    };
    Ok(body::json(StatusCode::OK, &said))
}

/// Those that refuse, not those that only watch.
async fn policies(rest: &Rest) -> Result<Vec<AccessPolicy>, Problem> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = rest
            .control
            .list(Kind::AccessPolicy, after, PAGE_LEN_MAX)
            .await?;
        for shown in page.items {
            if let Resource::AccessPolicy { metadata, spec, .. } = &*shown.resource
                && spec.mtls.is_some()
                && !spec.audit
            {
                all.push(AccessPolicy {
                    name: metadata.name.clone(),
                    spec: (**spec).clone(),
                });
            }
        }
        after = page.last;
        if after.is_none() {
            return Ok(all);
        }
    }
}

fn of(policies: &[AccessPolicy], service: &ServiceName) -> Service {
    let at = |port| mtls_mode(policies.iter(), service, port);
    let general = at(None);
    let mode = general.map_or(MtlsMode::Off, |(mode, _)| mode);
    let selecting = policies
        .iter()
        .filter(|policy| policy.spec.selects(service).is_some());
    let named = selecting.flat_map(|policy| policy.spec.mtls.iter().flat_map(|rule| &rule.ports));
    let mut ports: Vec<u16> = named.map(|own| own.port).collect();
    ports.sort_unstable();
    ports.dedup();
    let ports = ports.into_iter().filter_map(|port| {
        let (own, _) = at(Some(port))?;
        (own != mode).then_some(MtlsPort { port, mode: own })
    });
    Service {
        service: service.clone(),
        mode,
        policy: general.map(|(_, name)| name.to_owned()),
        ports: ports.collect(),
    }
}
