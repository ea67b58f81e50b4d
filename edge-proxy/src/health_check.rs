//! Asks endpoints how they are, where a traffic policy says so.
//!
//! One task looks which endpoints are due and asks them, each question in a
//! task of its own with its own connection, at most [`ASKED_MAX`] at once.
//! What the answers come to is [`crate::health`]'s to say; a verdict goes to
//! the endpoint's circuit. An endpoint is asked as soon as it is known, then
//! after the policy's interval, up to a tenth shorter or longer by chance, so
//! that questions of many proxies do not come together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use isobar_mesh_api::names::ServiceName;
use isobar_mesh_api::resource::traffic_policy::HealthCheck;
use tokio::task::JoinSet;

use crate::endpoint::EndpointLive;
use crate::health::{Health, Thresholds};
use crate::proxy::Proxy;

mod ask;

/// Questions under way at once; further endpoints are asked when one is answered.
pub const ASKED_MAX: usize = 64;
/// Longest time until an endpoint or a policy that is new is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Whom it is about.
type Key = (ServiceName, String);

/// What is known of one endpoint.
#[derive(Debug)]
struct Asked {
    endpoint: Arc<EndpointLive>,
    check: HealthCheck,
    health: Health,
    /// When it is asked next, in microseconds; `None` while it is being asked.
    due_us: Option<u64>,
}

/// Asks until it is dropped.
pub async fn run(proxy: Arc<Proxy>) {
    let mut asked: BTreeMap<Key, Asked> = BTreeMap::new();
    let mut questions: JoinSet<(Key, bool)> = JoinSet::new();
    loop {
        look(&proxy, &mut asked);
        let now_us = proxy.clock.now_us();
        let mut next_us = now_us + LOOK_EVERY.as_micros() as u64;
        for (key, one) in &mut asked {
            match one.due_us {
                Some(due_us) if due_us > now_us => next_us = next_us.min(due_us),
                Some(_) if questions.len() < ASKED_MAX => {
                    one.due_us = None;
                    questions.spawn(ask(key.clone(), one.check.clone()));
                }
                _ => {}
            }
        }
        let pause = Duration::from_micros(next_us - now_us);
        tokio::select! {
            Some(answered) = questions.join_next(), if !questions.is_empty() => {
                if let Ok((key, good)) = answered
                    && let Some(one) = asked.get_mut(&key)
                {
                    one.answered(&key, good, proxy.clock.now_us());
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn ask(key: Key, check: HealthCheck) -> (Key, bool) {
    let wait_max = Duration::from_micros(check.timeout.as_micros());
    let answer = tokio::time::timeout(wait_max, ask::ask(&key.1, &check)).await;
    let good = match answer {
        Ok(Ok(good)) => good,
        Ok(Err(error)) => {
            tracing::debug!(endpoint = key.1, error = %crate::chain(&error), "a health check failed");
            false
        }
        Err(_) => false,
    };
    (key, good)
}

/// Brings the list up to date with the snapshot in force.
fn look(proxy: &Proxy, asked: &mut BTreeMap<Key, Asked>) {
    let now_us = proxy.clock.now_us();
    let routes = Arc::clone(&proxy.table.load());
    let mut before = std::mem::take(asked);
    for route in &routes.services {
        let Some(check) = &route.traffic.spec.health_check else {
            continue;
        };
        for endpoint in route.endpoints.iter() {
            let key = (route.live.service.clone(), endpoint.address().to_owned());
            let same = before
                .remove(&key)
                .filter(|one| Arc::ptr_eq(&one.endpoint, endpoint));
            let one = match same {
                Some(one) if one.check == *check => one,
                // Asked in another way from now on; what is thought of it stays until the answers differ.
                Some(one) => Asked {
                    check: check.clone(),
                    ..one
                },
                None => Asked {
                    endpoint: Arc::clone(endpoint),
                    check: check.clone(),
                    health: Health::default(),
                    due_us: Some(now_us),
                },
            };
            asked.insert(key, one);
        }
    }
    // Nobody asks them any more.
    for one in before.into_values() {
        one.endpoint.circuit.set_healthy(true, now_us);
    }
}

impl Asked {
    fn answered(&mut self, key: &Key, good: bool, now_us: u64) {
        let checks = &self.endpoint.checks;
        let count = if good { &checks.good } else { &checks.bad };
        count.fetch_add(1, Relaxed);
        let thresholds = Thresholds {
            unhealthy_after: self.check.unhealthy_after,
            healthy_after: self.check.healthy_after,
        };
        if let Some(healthy) = self.health.answered(good, thresholds) {
            let (service, endpoint) = key;
            tracing::info!(%service, endpoint, healthy, "what its health check says of an endpoint");
            self.endpoint.circuit.set_healthy(healthy, now_us);
        }
        let interval_us = self.check.interval.as_micros();
        let by_chance_us = fastrand::u64(0..=interval_us / 5);
        self.due_us = Some(now_us + interval_us - interval_us / 10 + by_chance_us);
    }
}
