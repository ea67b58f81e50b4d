//! The authority looks after itself: due steps are taken, what ends soon is warned about.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::kept::{Kept, Signing, ends};
use super::rotation::{Situation, Stage, Step};
use super::{Authority, AuthorityError, Inner, seconds};
use crate::metrics::AuthorityGauges;

/// Time between two looks. Also the soonest that an added root signs, so that who connects meanwhile hears of it first.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two warnings of the same thing.
const WARN_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The authority, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct AuthorityStatus {
    /// Of all certificates.
    pub trust_domain: String,
    /// Which state of affairs proxies should go by.
    pub version: u64,
    /// The roots that are believed.
    pub roots: Vec<RootStatus>,
    /// Nodes with an open stream.
    pub nodes_connected: usize,
    /// Those of them that do not go by `version` yet.
    pub nodes_behind: usize,
    /// What the authority does next by itself, when it is due.
    pub next: &'static str,
    /// Revocations in force, by node.
    pub revoked: Vec<RevokedStatus>,
}

/// One root, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct RootStatus {
    /// The SHA-256 of its certificate.
    pub id: String,
    /// Where it stands.
    pub stage: Stage,
    /// Since when, seconds since 1970.
    pub since_s: u64,
    /// When it ends, seconds since 1970.
    pub ends_s: u64,
    /// When what signs leaves below it ends, seconds since 1970.
    pub issuer_ends_s: u64,
    /// Whether its key is here: without it nothing below it can be renewed.
    pub has_key: bool,
    /// Whether who knows only the root before it believes it.
    pub is_crossed: bool,
}

/// One revocation, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct RevokedStatus {
    /// Whose certificates.
    pub node: String,
    /// Since when, seconds since 1970.
    pub since_s: u64,
}

impl Authority {
    /// Takes steps when they are due, until the signal.
    pub async fn keep(&self, gauges: &AuthorityGauges, signal: &CancellationToken) {
        let mut warned: Option<tokio::time::Instant> = None;
        loop {
            let now = SystemTime::now();
            match self.situation() {
                Ok(situation) => {
                    self.gauge(gauges, &situation, now);
                    let rested = warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL);
                    if situation.warns(seconds(now)) && rested {
                        warned = Some(tokio::time::Instant::now());
                        tracing::warn!(
                            root_ends_s = situation.root_ends_s,
                            issuer_ends_s = situation.intermediate_ends_s,
                            "the authority ends soon and cannot renew itself: its root's key is not here; \
                             bring a new chain with: isobar ca import"
                        );
                    }
                    if let Some(step) = situation.due(seconds(now)) {
                        self.take(step, now).await;
                    }
                }
                Err(error) => report(&error),
            }
            tokio::select! {
                () = signal.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    async fn take(&self, step: Step, now: SystemTime) {
        match self.step(step, now).await {
            Ok(()) => tracing::info!(?step, "the authority has taken a step"),
            Err(error) => report(&error),
        }
    }

    /// What the authority is and does next.
    ///
    /// # Errors
    /// The store had something else.
    pub fn status(&self, now: SystemTime) -> Result<AuthorityStatus, AuthorityError> {
        let situation = self.situation()?;
        let (nodes_connected, nodes_behind) = self.nodes_behind();
        self.read(|inner| {
            let roots = inner.kept.roots.iter().map(|root| {
                let ends_at = |pem: &str| -> Result<u64, AuthorityError> {
                    let all = super::kept::certificates(pem)?;
                    let each: Result<Vec<u64>, _> = all.iter().map(ends).collect();
                    Ok(each?.into_iter().min().unwrap_or_default())
                };
                Ok(RootStatus {
                    id: root.id.clone(),
                    stage: root.stage,
                    since_s: root.since_s,
                    ends_s: ends_at(&root.certificate_pem)?,
                    issuer_ends_s: ends_at(&root.chain_pem)?,
                    has_key: root.key.is_some(),
                    is_crossed: root.crossed_pem.is_some(),
                })
            });
            let now_s = seconds(now);
            let in_force = inner.revoked.iter().filter(|(_, r)| r.is_in_force(now_s));
            Ok(AuthorityStatus {
                trust_domain: self.trust_domain().to_owned(),
                version: inner.kept.version,
                roots: roots.collect::<Result<_, AuthorityError>>()?,
                nodes_connected,
                nodes_behind,
                next: next(&situation),
                revoked: in_force
                    .map(|(node, revoked)| RevokedStatus {
                        node: node.to_string(),
                        since_s: revoked.since_s,
                    })
                    .collect(),
            })
        })
    }

    fn situation(&self) -> Result<Situation, AuthorityError> {
        let (_, nodes_behind) = self.nodes_behind();
        self.read(|inner| {
            let Inner { kept, signing, .. } = inner;
            situation(kept, signing, nodes_behind)
        })
    }

    fn gauge(&self, gauges: &AuthorityGauges, situation: &Situation, now: SystemTime) {
        let left = |ends_s: u64| ends_s as f64 - seconds(now) as f64;
        gauges.root_left.set(left(situation.root_ends_s));
        gauges.issuer_left.set(left(situation.intermediate_ends_s));
        gauges.nodes_behind.set(situation.nodes_behind as f64);
        let count = self.read(|inner| inner.kept.roots.len());
        gauges.roots.set(count as f64);
    }
}

fn situation(
    kept: &Kept,
    signing: &Signing,
    nodes_behind: usize,
) -> Result<Situation, AuthorityError> {
    let active = kept.active()?;
    let added = kept.at(Stage::Added);
    Ok(Situation {
        added_since_s: added.map(|root| root.since_s),
        is_crossed: added.is_none_or(|root| root.crossed_pem.is_some()),
        retiring_since_s: kept.at(Stage::Retiring).map(|root| root.since_s),
        root_ends_s: ends(&active.certificate()?)?,
        has_root_key: active.key.is_some(),
        intermediate_ends_s: signing.ends_s,
        nodes_behind,
    })
}

fn next(situation: &Situation) -> &'static str {
    match situation {
        Situation {
            retiring_since_s: Some(_),
            ..
        } => "retire the old root, 24 h after the switch, when all that it signed has ended",
        Situation {
            added_since_s: Some(_),
            nodes_behind: 1..,
            ..
        } => "switch to the added root, when all connected nodes have said that they believe it",
        Situation {
            added_since_s: Some(_),
            is_crossed: false,
            ..
        } => {
            "switch to the added root, 24 h after it was added, so that nodes that are away can hear of it"
        }
        Situation {
            added_since_s: Some(_),
            ..
        } => "switch to the added root, within half a minute",
        Situation {
            has_root_key: false,
            ..
        } => "nothing: the root's key is not here; bring a new chain before it ends",
        _ => "renew the intermediate when a third of its life is left, the root when a fifth is",
    }
}

fn report(error: &AuthorityError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the authority could not look after itself"
    );
}
