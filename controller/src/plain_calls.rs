//! Who calls services without showing who they are, as proxies report it: what `strict` would refuse.
//!
//! **Invariant**: at most [`ENTRIES_MAX`] pairs of service and caller; who was quiet for longest goes when there is one more. Nothing
//! of it outlives the controller: proxies go on reporting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use isobar_mesh_api::names::{NodeId, ServiceName};
use isobar_mesh_api::report::{
    REPORT_CALLER_LEN_MAX, REPORT_COUNT_MAX, REPORT_PLAIN_MAX, Report, ServiceReport,
};
use serde::Serialize;

/// Most pairs of service and caller.
pub const ENTRIES_MAX: usize = 4096;
/// Most nodes that are named for one of them.
pub const NODES_MAX: usize = 64;
/// How long somebody who does not call any more is still named, in seconds: a day.
pub const QUIET_S: u64 = 24 * 3600;

/// What one caller did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// How many, since the controller's start.
    pub calls: u64,
    /// Where they entered the mesh.
    pub nodes: BTreeSet<NodeId>,
    /// When the last one was reported, seconds since 1970.
    pub last_s: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct PlainCalls(Mutex<BTreeMap<(ServiceName, String), Calls>>);

impl PlainCalls {
    /// What a node reports.
    pub fn add(&self, node: &NodeId, report: &Report, now_s: u64) {
        if report
            .services
            .iter()
            .all(|service| service.plain.is_empty())
        {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ServiceReport { service, plain, .. } in &report.services {
            for one in plain.iter().take(REPORT_PLAIN_MAX) {
                if one.calls > REPORT_COUNT_MAX || one.caller.len() > REPORT_CALLER_LEN_MAX {
                    continue;
                }
                let key = (service.clone(), one.caller.clone());
                if all.len() >= ENTRIES_MAX && !all.contains_key(&key) {
                    forget_one(&mut all);
                }
                let calls = all.entry(key).or_default();
                calls.calls = calls.calls.saturating_add(one.calls);
                calls.last_s = now_s;
                if calls.nodes.len() < NODES_MAX {
                    calls.nodes.insert(node.clone());
                }
            }
        }
    }

    /// Who called within [`QUIET_S`], by service and caller.
    pub fn list(&self, now_s: u64) -> Vec<(ServiceName, String, Calls)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, calls| now_s < calls.last_s + QUIET_S);
        let each = all.iter();
        each.map(|((service, caller), calls)| (service.clone(), caller.clone(), calls.clone()))
            .collect()
    }
}

fn forget_one(all: &mut BTreeMap<(ServiceName, String), Calls>) {
    let quiet = all.iter().min_by_key(|(_, calls)| calls.last_s);
    if let Some(key) = quiet.map(|(key, _)| key.clone()) {
        all.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isobar_mesh_api::report::PlainCalls as Reported;

    fn report(callers: &[(&str, u64)]) -> Report {
        let service = ServiceName::new("shop/cart").unwrap();
        let plain = callers.iter().map(|(caller, calls)| Reported {
            caller: (*caller).to_owned(),
            calls: *calls,
        });
        Report {
            seq: 1,
            window_us: 1_000_000,
            clock_ms: 0,
            cpu_ratio: None,
            services: vec![ServiceReport {
                plain: plain.collect(),
                ..ServiceReport::idle(service)
            }],
            neighbours: Vec::new(),
        }
    }

    #[test]
    fn calls_add_up_over_nodes_and_who_is_quiet_for_a_day_is_gone() {
        let all = PlainCalls::default();
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        all.add(&a, &report(&[("10.0.0.1", 2), ("10.0.0.2", 1)]), 10);
        all.add(&b, &report(&[("10.0.0.1", 3)]), 20);
        let list = all.list(30);
        assert_eq!(
            (list[0].1.as_str(), list[0].2.calls, list[0].2.nodes.len()),
            ("10.0.0.1", 5, 2)
        );
        assert_eq!(all.list(10 + QUIET_S).len(), 1);
        for n in 0..ENTRIES_MAX + 5 {
            all.add(&a, &report(&[(&n.to_string(), 1)]), 40);
        }
        assert_eq!(all.list(50).len(), ENTRIES_MAX);
    }
}
