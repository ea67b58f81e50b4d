//! What operators do to a node: cordon it, drain it, put it elsewhere.
//!
//! Each is a change of the node's resource, so it is kept, audited and shown like any other. A node that nobody
//! declared is declared by it, with what the action says and nothing else: the rest stays its own word.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use isobar_mesh_api::message::Location;
use isobar_mesh_api::names::{RegionName, SiteName};
use isobar_mesh_api::resource::{Metadata, NodeSpec, Resource};
use serde::Deserialize;

use super::call::Call;
use super::resources::{DRY_RUN, not_found, write};
use super::{Rest, body};
use crate::control_task::{Asked, Change, Expect};
use crate::problem::Problem;
use crate::resource_text::{Key, Kind, declare, typed};

/// How often an action is tried again when somebody else wrote the node at the same time.
const TRIES_MAX: usize = 4;

/// Where a node is from now on. What is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(PartialEq))]
pub struct Relocation {
    /// Where it is.
    pub location: Option<Location>,
    /// Its site.
    pub site: Option<SiteName>,
    /// Its region.
    pub region: Option<RegionName>,
}

pub(super) fn routes() -> Router<Rest> {
    let action = |act: fn(&mut NodeSpec)| {
        post(
            async move |State(rest): State<Rest>, Path(name): Path<String>, call: Call| {
                change(&rest, name, &call, act).await
            },
        )
    };
    let cordon = action(|spec| spec.cordoned = true);
    let drain = action(|spec| spec.drained = true);
    let uncordon = action(|spec| (spec.cordoned, spec.drained) = (false, false));
    Router::new()
        .route("/v1/nodes/{name}/cordon", cordon)
        .route("/v1/nodes/{name}/uncordon", uncordon)
        .route("/v1/nodes/{name}/drain", drain)
        .route("/v1/nodes/{name}/relocate", post(relocate))
}

async fn relocate(
    State(rest): State<Rest>,
    Path(name): Path<String>,
    call: Call,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let said: Relocation = typed(body::read(&call.headers, bytes)?)?;
    change(&rest, name, &call, move |spec| {
        let said = said.clone();
        spec.location = said.location.or(spec.location);
        spec.site = said.site.or(spec.site.take());
        spec.region = said.region.or(spec.region.take());
    })
    .await
}

/// Changes a node's spec as it is now, and again if it was changed meanwhile; `If-Match` forbids the second try.
async fn change(
    rest: &Rest,
    name: String,
    call: &Call,
    act: impl Fn(&mut NodeSpec),
) -> Result<Response, Problem> {
    let dry_run = call.parameters(&[DRY_RUN])?.flag(DRY_RUN)?;
    let asked = call.expect()?;
    let kind = Kind::Node;
    let key = Key { kind, name };
    let mut tries = 0;
    loop {
        let Some(found) = rest.control.get(key.clone()).await? else {
            return Err(not_found(&key));
        };
        let (metadata, mut spec) = match &*found.resource {
            Resource::Node { metadata, spec } if found.is_declared() => {
                (metadata.clone(), spec.clone())
            }
            resource => {
                let name = resource.metadata().name.clone();
                let metadata = Metadata {
                    name,
                    ..Metadata::default()
                };
                (metadata, NodeSpec::default())
            }
        };
        act(&mut spec);
        let expect = match &asked {
            Expect::Anything => Expect::OneOf(vec![found.etag()]),
            asked => asked.clone(),
        };
        let asked_for = Asked {
            changes: vec![Change::Put(declare(Resource::Node { metadata, spec })?)],
            expect,
            who: call.who.clone(),
            ..Asked::default()
        };
        tries += 1;
        match write(rest, key.clone(), asked_for, dry_run).await {
            Err(problem)
                if problem.status == StatusCode::PRECONDITION_FAILED
                    && asked == Expect::Anything
                    && tries < TRIES_MAX => {}
            answer => return answer,
        }
    }
}
