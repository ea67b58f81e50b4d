//! Brings what endpoints are given at once to what [`crate::gradient`] learns, where a policy wants that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isobar_mesh_api::names::ServiceName;

use crate::gradient::{Gradient, Window};
use crate::live::Totals;
use crate::proxy::Proxy;
use crate::routes::ServiceRoute;

/// Length of a window.
const EVERY: Duration = Duration::from_millis(250);

/// One service that learns.
#[derive(Debug)]
struct Learning {
    gradient: Gradient,
    since_us: u64,
    totals: Totals,
}

/// Runs until it is dropped.
pub async fn run(proxy: Arc<Proxy>) {
    let mut learning: BTreeMap<ServiceName, Learning> = BTreeMap::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let now_us = proxy.clock.now_us();
        let routes = Arc::clone(&proxy.table.load());
        let mut before = std::mem::take(&mut learning);
        for route in &routes.services {
            let name = &route.live.service;
            let known = before.remove(name);
            if !route.traffic.spec.concurrency.adaptive {
                if known.is_some() {
                    route.limit_places(None);
                }
                continue;
            }
            let mut one = known.unwrap_or_else(|| Learning::new(route, now_us));
            one.learn(route, now_us);
            learning.insert(name.clone(), one);
        }
    }
}

impl Learning {
    fn new(route: &ServiceRoute, now_us: u64) -> Learning {
        Learning {
            gradient: Gradient::new(route.workers),
            since_us: now_us,
            totals: route.live.totals(now_us),
        }
    }

    fn learn(&mut self, route: &ServiceRoute, now_us: u64) {
        let (totals, was) = (route.live.totals(now_us), self.totals);
        let window_us = now_us.saturating_sub(self.since_us).max(1);
        // Workers are read one after another, so an idle window may come out below zero.
        let busy_us = (totals.busy_us.wrapping_sub(was.busy_us) as i64).max(0);
        let window = Window {
            completed: totals.completed - was.completed,
            latency_sum_us: totals.latency_sum_us - was.latency_sum_us,
            in_flight: busy_us as f64 / window_us as f64,
        };
        (self.since_us, self.totals) = (now_us, totals);
        let rules = &route.traffic.spec.concurrency;
        route.limit_places(Some(self.gradient.observe(window, rules)));
        // There may be more room than before.
        if route.live.gate.waiting() > 0 {
            route.live.gate.let_in();
        }
    }
}
